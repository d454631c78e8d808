//! Spark's own dispatcher: a supervised driver that is killed, a dispatcher that is killed, and what is set for either.
use anyhow::{Context, Result, ensure};
use bellows_testkit::{
    Dispatcher, Processes, Spark, eventually, get_json, kill_nine, processes_of, repository,
};
use serde_json::Value;
use std::{fs, path::Path, time::Duration};

/// Only a failure waits so long.
const LONG: Duration = Duration::from_secs(150);
/// Half of what a driver waited for while the dispatcher declined for its default.
const SECONDS: Duration = Duration::from_secs(60);

/// What the driver of the application `driver.py` has said, run after run.
fn found(control: &Path) -> Vec<Value> {
    let text = fs::read_to_string(control.join("events")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["event"] == "found").collect()
}

async fn run_of(control: &Path, number: usize, limit: Duration) -> Result<Value> {
    let run = eventually("a driver's run", limit, || async {
        found(control).into_iter().nth(number).with_context(|| format!("run {number} has not begun"))
    });
    run.await
}

fn kill_jvm_of(run: &Value) -> Result<()> {
    kill_nine(i32::try_from(run["jvm"].as_i64().context("it says its JVM")?)?)
}

/// Then its dispatcher is killed, too, and what it leaves is cleared away.
#[tokio::test]
async fn a_supervised_driver_comes_back_within_seconds() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Processes::start_with(4, &["--attributes", "rack:a1"]).await?);
    let of_dispatcher = [
        ("spark.mesos.rejectOfferDuration", "1s"),
        ("spark.mesos.cluster.retry.wait.max", "2"),
        ("spark.mesos.dispatcher.driverDefault.spark.test.default", "of the dispatcher"),
        ("spark.mesos.dispatcher.historyServer.url", "http://history.example"),
        ("spark.mesos.dispatcher.queue.urgent", "1.0"),
        ("spark.mesos.dispatcher.webui.url", "http://dispatcher.example"),
        ("spark.mesos.maxDrivers", "1"),
        ("spark.mesos.proxy.baseURL", "http://proxy.example"),
        ("spark.mesos.retainedDrivers", "4711"),
    ];
    let mut dispatcher = Dispatcher::start(&spark, &cluster.master(), &of_dispatcher).await?;
    let control = tempfile::tempdir()?;
    let app = format!("local://{}", repository().join("tests/apps/driver.py").display());
    let logging = repository().join("tests/apps/log4j2-backend.properties");
    let logging = format!("-XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile={}", logging.display());
    let of_driver = [
        ("spark.driver.memory", "512m"),
        ("spark.driver.extraJavaOptions", &logging),
        ("spark.ui.enabled", "false"),
        // It gets no executors.
        ("spark.cores.max", "1"),
        ("spark.mesos.constraints", "rack:elsewhere"),
        ("spark.mesos.rejectOfferDurationForUnmetConstraints", "2s"),
        ("spark.mesos.appJar.local.resolution.mode", "container"),
        ("spark.mesos.dispatcher.queue", "urgent"),
        ("spark.mesos.driver.constraints", "rack:a1"),
        ("spark.mesos.driver.labels", "team:analytics"),
        ("spark.mesos.driver.memoryOverhead", "77"),
        ("spark.mesos.driver.secret.envkeys", "THE_SECRET"),
        ("spark.mesos.driver.secret.values", "of-a-driver"),
        ("spark.mesos.driverEnv.FROM_SUBMISSION", "given"),
    ];
    let told = ["$FROM_SUBMISSION", "$THE_SECRET", "spark.test.default"];
    let directory = control.path().to_string_lossy();
    let arguments = [&["--supervise", &*app, &*directory], &told[..]].concat();
    let submission = dispatcher.submit(&of_driver, &arguments)?;
    let first = run_of(control.path(), 0, LONG)
        .await
        .with_context(|| dispatcher.log() + &cluster.stderr_of_tasks())?;
    for (name, value) in told.iter().zip(["given", "of-a-driver", "of the dispatcher"]) {
        ensure!(first[name] == value, "{name}: {first}");
    }

    let master = |path: &str| format!("http://{}{path}", cluster.master());
    let frameworks = get_json(&master("/frameworks")).await?;
    let mut frameworks = frameworks["frameworks"].as_array().into_iter().flatten();
    let framework = frameworks.find(|known| known["webui_url"] == "http://dispatcher.example");
    let framework = framework.context("the dispatcher is listed with its page")?;
    let id = framework["id"].as_str().context("it has an id")?.to_owned();
    ensure!(framework["failover_timeout"] == f64::from(i32::MAX), "Spark's: 68 years. {framework}");
    let task = &framework["tasks"][0];
    // Spark adds 384 of its own.
    ensure!(task["resources"]["mem"] == f64::from(512 + 384 + 77), "{task}");
    ensure!(task["labels"].to_string().contains("\"analytics\""), "{task}");
    let page = dispatcher.page().await?;
    for part in ["http://history.example/history/", "http://proxy.example/#/agents/", "urgent"] {
        ensure!(page.contains(part), "{part}: {page}");
    }

    let state = get_json(&master("/state")).await?.to_string();
    for own in ["history.example", "proxy.example", "of the dispatcher"] {
        ensure!(!state.contains(own), "{own} is Spark's own: {state}");
    }
    eventually("offers that the driver declines for as long as it was told", LONG, || async {
        let log = cluster.stderr_of_tasks();
        let declined = log.matches("for 2 seconds  (reason: unmet constraints)").count();
        ensure!(declined >= 2, "{declined}: {log}");
        Ok(())
    })
    .await?;
    let another = dispatcher.create(&[("spark.app.name", "another")], &app).await?;
    ensure!(another["message"] == "Already reached maximum submission size", "{another}");

    kill_jvm_of(&first)?;
    let second = run_of(control.path(), 1, SECONDS)
        .await
        .with_context(|| dispatcher.log() + &cluster.stderr_of_tasks())?;
    let state = dispatcher.state(&submission).await?;
    ensure!(state["driverState"] == "RUNNING", "{state}");

    // What it leaves waits for it until it is told that nobody comes back, also when an end is not acknowledged.
    dispatcher.kill()?;
    kill_jvm_of(&second)?;
    eventually("the driver's end to be unheard", LONG, || async {
        let frameworks = get_json(&master("/frameworks")).await?;
        let framework = &frameworks["frameworks"][0];
        ensure!(frameworks["frameworks"].as_array().is_some_and(|all| all.len() == 1), "{frameworks}");
        ensure!(framework["id"] == id.as_str() && framework["connected"] == false, "{framework}");
        ensure!(framework["used_resources"]["cpus"] == 0.0, "{framework}");
        ensure!(framework["tasks"].to_string().contains("TASK_FAILED"), "{framework}");
        Ok(())
    })
    .await?;
    cluster.kill_framework(&id)?;
    eventually("nothing of the dispatcher to be left", LONG, || async {
        let frameworks = get_json(&master("/frameworks")).await?;
        ensure!(frameworks["frameworks"].as_array().is_some_and(Vec::is_empty), "{frameworks}");
        let agent = get_json(&format!("http://{}/state", cluster.agent())).await?;
        ensure!(agent["frameworks"].as_array().is_some_and(Vec::is_empty), "{agent}");
        ensure!(processes_of(&id).is_empty(), "{:?}", processes_of(&id));
        Ok(())
    })
    .await
}
