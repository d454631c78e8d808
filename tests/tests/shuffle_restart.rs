//! The shuffle service is not there when unmodified Spark starts, and is killed with -9 under its running job: the first
//! waits, the other notices nothing but retries.
use anyhow::{Context, Result, ensure};
use bellows_testkit::{Application, Processes, Spark, eventually, get_json, repository};
use std::time::Duration;

/// Long enough for JVMs to start on two busy cores.
const LONG: Duration = Duration::from_secs(150);
/// What Spark's client logs when a fetch is cut short and it will ask again.
const RETRY: &str = "Retrying fetch";

#[tokio::test]
async fn a_job_waits_for_the_service_and_notices_nothing_but_retries_when_it_is_killed() -> Result<()> {
    let (spark, mut cluster) = (Spark::find(), Processes::start(2).await?);
    let app = repository().join("tests/apps/restart.py").to_string_lossy().into_owned();
    let settings = [
        ("spark.cores.max", "2"),
        ("spark.dynamicAllocation.initialExecutors", "2"),
        ("spark.dynamicAllocation.executorIdleTimeout", "2s"),
        // All executors are on one host; otherwise they would read each other's files without the service.
        ("spark.shuffle.readHostLocalDisk", "false"),
    ];
    cluster.kill_shuffle()?;
    service_is_down(&cluster, true).await?;
    let said = "the shuffle service does not answer: no executors of applications that use it until it does";
    ensure!(cluster.log("agent").contains(said), "{}", cluster.log("agent"));

    let (master, port) = (cluster.master(), cluster.shuffle_port());
    let mut application = Application::submit_to(&spark, (&master, port), &[&app], &settings, &[])?;
    let framework = application.event("started", LONG).await?["framework"].as_str().unwrap_or("").to_owned();
    let frameworks = get_json(&format!("http://{master}/frameworks")).await?;
    let waiting = &frameworks["frameworks"][0];
    ensure!(waiting["labels"].to_string().contains("bellows.shuffle_service"), "{waiting}");
    ensure!(waiting["tasks"].as_array().is_some_and(Vec::is_empty), "{waiting}");
    cluster.restart_shuffle()?;
    service_is_down(&cluster, false).await?;
    let first = application.event("first", LONG).await?;
    ensure!(first["correct"] == true, "{first}");

    // Nobody but the service has the blocks any more.
    eventually("the executors to be released", LONG, || async {
        let status = cluster.shuffle_status().await?;
        let of_app = &status["applications"][&framework];
        ensure!(of_app["executors"] == 0 && of_app["departed_executors"].as_u64() > Some(0), "{of_app}");
        Ok(())
    })
    .await?;
    let executors = cluster.shuffle_status().await?["registered_executors"].as_u64().context("a count")?;
    // Once while nobody asks anything of it.
    cluster.kill_shuffle()?;
    cluster.restart_shuffle()?;
    ensure!(cluster.shuffle_status().await?["registered_executors"] == executors, "some were forgotten");

    application.go()?;
    for round in 1..=2 {
        let served = async || cluster.shuffle_status().await?["blocks_served"].as_u64().context("a count");
        let enough = served().await? + 100;
        eventually("reducers to fetch", LONG, || async {
            let served = served().await?;
            ensure!(served >= enough, "{served} of {enough} blocks");
            Ok(())
        })
        .await?;
        let before = cluster.said_by_executors(RETRY);
        cluster.kill_shuffle()?;
        // So that the kill has hit something.
        eventually("a reducer to notice", LONG, || async {
            ensure!(cluster.said_by_executors(RETRY) > before, "none does in round {round}");
            Ok(())
        })
        .await?;
        cluster.restart_shuffle()?;
    }

    let second = application.event("second", LONG).await?;
    ensure!(second["correct"] == true, "the result is wrong: {second}");
    ensure!(second["mapped"] == 24_000, "map tasks ran again: {second}");
    application.finish(LONG).await?;
    let output = application.output();
    ensure!(!output.contains("FetchFailed") && !output.contains("Lost task"), "a task failed:\n{output}");
    eventually("the shuffle files to go", Duration::from_secs(30), || async {
        ensure!(cluster.shuffle_files() == 0, "{} are left", cluster.shuffle_files());
        Ok(())
    })
    .await?;
    let status = cluster.shuffle_status().await?;
    ensure!(status["registered_executors"] == 0, "{status}");
    Ok(())
}

/// Waits until the agent is listed so.
async fn service_is_down(cluster: &Processes, down: bool) -> Result<()> {
    eventually("the master to know whether the service is there", LONG, || async {
        let slaves = get_json(&format!("http://{}/slaves", cluster.master())).await?;
        let said = slaves["slaves"][0]["shuffle_service_down"].as_bool();
        ensure!(said.unwrap_or(false) == down, "{slaves}");
        Ok(())
    })
    .await
}
