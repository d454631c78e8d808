//! Unmodified Spark on the embedded cluster, asserted from the outside: over HTTP, in /proc and on disk.
use anyhow::{Context, Result, ensure};
use bellows_testkit::{
    Application, Cluster, ClusterOptions, Spark, eventually, kill_nine, on_a_command_line, processes_of,
    repository, write_private,
};
use serde_json::Value;
use std::{fs, process::Command, time::Duration};

/// Long enough for six JVMs to start on two busy cores.
const LONG: Duration = Duration::from_secs(150);

/// For what needs no more than an executor on each agent: to start JVMs is what takes these tests their time.
const THREE_EXECUTORS: [(&str, &str); 2] =
    [("spark.cores.max", "3"), ("spark.dynamicAllocation.initialExecutors", "3")];

fn app(name: &str) -> String {
    repository().join("tests/apps").join(name).to_string_lossy().into_owned()
}

async fn executors(
    cluster: &Cluster,
    framework: &str,
    what: &str,
    wanted: impl Fn(usize) -> bool,
) -> Result<Vec<Value>> {
    eventually(what, LONG, || async {
        let running = cluster.running_tasks(framework).await?;
        ensure!(wanted(running.len()), "{} executors are running", running.len());
        Ok(running)
    })
    .await
}

async fn started(application: &mut Application) -> Result<String> {
    let event = application.event("started", LONG).await?;
    Ok(event["framework"].as_str().context("the application names its framework")?.to_owned())
}

async fn nothing_left(cluster: &Cluster, framework: &str, limit: Duration) -> Result<()> {
    eventually("no process and no shuffle file of the framework left", limit, || async {
        ensure!(processes_of(framework).is_empty(), "processes {:?} are left", processes_of(framework));
        ensure!(cluster.shuffle_files() == 0, "{} shuffle files are left", cluster.shuffle_files());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn executors_come_and_go_and_what_they_shuffled_stays() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions::default())?);
    let mut application = Application::submit(&spark, &cluster, &[&app("elastic.py")], &[], &[])?;
    let framework = started(&mut application).await?;
    executors(&cluster, &framework, "six executors", |count| count == 6).await?;
    let first = application.event("first", LONG).await?;
    ensure!(first["correct"] == true && first["mapped"] == 120_000, "{first}");

    executors(&cluster, &framework, "no executor after the idle timeout", |count| count == 0).await?;
    ensure!(cluster.shuffle_files() > 0, "the shuffle output went with the executors");
    ensure!(processes_of(&framework).is_empty(), "released executors left processes");

    application.go()?;
    executors(&cluster, &framework, "executors again", |count| count > 0).await?;
    let second = application.event("second", LONG).await?;
    ensure!(second["correct"] == true, "the second burst's result differs: {second}");
    ensure!(second["mapped"] == 120_000, "map tasks ran again: {second}");
    application.finish(LONG).await?;
    nothing_left(&cluster, &framework, Duration::from_secs(30)).await?;
    cluster.stop()
}

/// Executors get their secret from the environment that Spark's own scripts read, so it is on no command line and in no
/// message to the master.
#[tokio::test]
async fn authenticated_and_encrypted() -> Result<()> {
    const SECRET: &str = "S3cret-of-the-cluster-tests";
    let conf = tempfile::tempdir()?;
    let (path, secrets) = (conf.path().to_string_lossy(), conf.path().join("secrets"));
    let defaults = format!("spark.authenticate true\nspark.authenticate.secret {SECRET}\n");
    write_private(&conf.path().join("spark-defaults.conf"), &defaults)?;
    // Spark's Mesos backend tells its executors neither of the two.
    let executors_know = format!(
        "_SPARK_AUTH_SECRET={SECRET}\nSPARK_EXECUTOR_OPTS=\"$SPARK_EXECUTOR_OPTS -Dspark.authenticate=true\"\n"
    );
    write_private(&conf.path().join("spark-env.sh"), &executors_know)?;
    write_private(&secrets, SECRET)?;
    let secrets = secrets.to_string_lossy();
    let spark = Spark::find();
    let gcm = [
        ("spark.network.crypto.enabled", "true"),
        ("spark.network.crypto.authEngineVersion", "2"),
        ("spark.network.crypto.cipher", "AES/GCM/NoPadding"),
    ];
    for (settings, flags) in [(&[][..], &[][..]), (&gcm, &["--no-sasl-fallback"])] {
        let flags = [&["--secrets-file", &secrets], flags].concat();
        let cluster = Cluster::start_with(ClusterOptions { agents: 1, cpus: 2 }, &flags)?;
        let common = [
            ("spark.executorEnv.SPARK_CONF_DIR", path.as_ref()),
            ("spark.cores.max", "2"),
            ("spark.dynamicAllocation.initialExecutors", "2"),
            ("spark.dynamicAllocation.executorIdleTimeout", "2s"),
            ("spark.shuffle.readHostLocalDisk", "false"),
        ];
        let settings = [&common, settings].concat();
        let environment = [("SPARK_CONF_DIR", path.as_ref())];
        let mut application =
            Application::submit(&spark, &cluster, &[&app("elastic.py")], &settings, &environment)?;
        let framework = started(&mut application).await?;
        application.event("first", LONG).await?;
        ensure!(!on_a_command_line(SECRET), "the secret is in the process list");
        let state = cluster.get("/state").await?.to_string();
        ensure!(state.contains(&framework) && !state.contains(SECRET), "the secret is in /state");
        executors(&cluster, &framework, "no executor after the idle timeout", |count| count == 0).await?;
        application.go()?;
        let second = application.event("second", LONG).await?;
        ensure!(second["correct"] == true && second["mapped"] == 120_000, "{second}");
        application.finish(LONG).await?;
        nothing_left(&cluster, &framework, Duration::from_secs(30)).await?;
        cluster.stop()?;
    }
    Ok(())
}

#[tokio::test]
async fn cached_blocks_on_disk_outlive_their_executor() -> Result<()> {
    let options = ClusterOptions { agents: 1, cpus: 2 };
    let (spark, cluster) = (Spark::find(), Cluster::start_with(options, &["--keep-rdd-blocks"])?);
    let settings = [
        ("spark.shuffle.service.fetch.rdd.enabled", "true"),
        ("spark.cores.max", "1"),
        ("spark.dynamicAllocation.initialExecutors", "1"),
        ("spark.dynamicAllocation.executorIdleTimeout", "2s"),
    ];
    let mut application = Application::submit(&spark, &cluster, &[&app("persisted.py")], &settings, &[])?;
    let framework = started(&mut application).await?;
    application.event("first", LONG).await?;
    executors(&cluster, &framework, "no executor after the idle timeout", |count| count == 0).await?;
    application.go()?;
    let second = application.event("second", LONG).await?;
    ensure!(second["correct"] == true && second["computed"] == 20_000, "{second}");
    application.finish(LONG).await?;
    cluster.stop()
}

#[tokio::test]
async fn an_executor_killed_in_mid_job_costs_no_wrong_result() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions::default())?);
    let slow = [("TASK_SECONDS", "0.5")];
    let app = app("elastic.py");
    let mut application = Application::submit(&spark, &cluster, &[&app], &THREE_EXECUTORS, &slow)?;
    let framework = started(&mut application).await?;
    eventually("the first map output", LONG, || async {
        ensure!(cluster.shuffle_files() > 0, "none");
        Ok(())
    })
    .await?;
    let running = executors(&cluster, &framework, "an executor", |count| count > 0).await?;
    let victim = running[0]["id"].as_str().context("a task has an id")?.to_owned();
    let executor = eventually("the executor's JVM", LONG, || async {
        let java = |pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let of_task = format!("MESOS_EXECUTOR_ID={victim}");
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == of_task.as_bytes())
                && line.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"java"))
        };
        processes_of(&framework).into_iter().find(java).context("no JVM of the executor yet")
    })
    .await?;
    kill_nine(executor)?;
    eventually("TASK_FAILED of the killed executor", LONG, || async {
        let tasks = cluster.get("/tasks?limit=10000").await?;
        let task = tasks["tasks"].as_array().into_iter().flatten().find(|task| task["id"] == victim.as_str());
        let state = task.map(|task| task["state"].clone()).unwrap_or_default();
        ensure!(state == "TASK_FAILED", "its state is {state}");
        Ok(())
    })
    .await?;
    application.go()?;
    for burst in ["first", "second"] {
        let event = application.event(burst, LONG).await?;
        ensure!(event["correct"] == true, "{event}");
    }
    application.finish(LONG).await?;
    nothing_left(&cluster, &framework, Duration::from_secs(30)).await?;
    cluster.stop()
}

#[tokio::test]
async fn teardown_ends_the_tasks_and_deletes_the_shuffle_files() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions::default())?);
    let app = app("elastic.py");
    let secret = [
        ("spark.mesos.executor.secret.values", "S3cret-of-an-executor"),
        ("spark.mesos.executor.secret.envkeys", "THE_SECRET"),
    ];
    let settings = [&secret[..], &THREE_EXECUTORS].concat();
    let mut application = Application::submit(&spark, &cluster, &[&app], &settings, &[])?;
    let framework = started(&mut application).await?;
    let running = executors(&cluster, &framework, "three executors", |count| count == 3).await?;
    eventually("the executors' variable", LONG, || async {
        let environment = |pid: i32| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let variable = b"THE_SECRET=S3cret-of-an-executor";
        let has = |pid: &i32| environment(*pid).split(|byte| *byte == 0).any(|given| given == variable);
        let given = processes_of(&framework).into_iter().filter(has).count();
        ensure!(given >= 3, "{given} processes have it, of {running:?}");
        Ok(())
    })
    .await?;
    let state = cluster.get("/state").await?.to_string();
    ensure!(state.contains(&framework) && !state.contains("S3cret-of"), "the secret is in /state");
    application.event("first", LONG).await?;
    ensure!(cluster.shuffle_files() > 0, "the first burst shuffled nothing");
    cluster.teardown(&framework).await?;
    nothing_left(&cluster, &framework, Duration::from_secs(15)).await?;
    let frameworks = cluster.get("/master/frameworks").await?;
    ensure!(frameworks["frameworks"].as_array().is_some_and(Vec::is_empty), "{frameworks}");
    ensure!(frameworks["completed_frameworks"][0]["id"] == framework.as_str(), "{frameworks}");
    // It was idle: its context is stopped, so that its next job fails and does not wait for executors that cannot come.
    eventually("the end of the idle application's context", LONG, || async {
        let output = application.output();
        ensure!(output.contains("Successfully stopped SparkContext"), "{output}");
        Ok(())
    })
    .await?;
    application.go()?;
    let output = application.fail(LONG).await?;
    ensure!(output.contains("the driver is aborted: Framework has been removed"), "{output}");
    ensure!(output.contains("Traceback"), "its next action did not fail: {output}");
    cluster.stop()
}

#[tokio::test]
async fn the_console_says_why_no_executor_comes() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions { agents: 1, cpus: 2 })?);
    let wrong = [("spark.mesos.executor.home", "/no/such/spark"), ("spark.cores.max", "2")];
    let mut application = Application::submit(&spark, &cluster, &[&app("elastic.py")], &wrong, &[])?;
    let framework = started(&mut application).await?;
    eventually("the reason on the console", LONG, || async {
        let output = application.output();
        let failed = |line: &&str| {
            line.contains("a task has failed: Command exited with status 127. Its stderr ends with: ")
                && line.contains("/no/such/spark/./bin/spark-class")
                && line.contains("state=\"TASK_FAILED\"")
        };
        ensure!(output.lines().filter(failed).count() >= 2, "{output}");
        ensure!(output.contains("Spark will launch nothing there any more"), "{output}");
        ensure!(output.contains("no agent is left that Spark would use"), "{output}");
        Ok(())
    })
    .await?;
    // Its job waits: it fails as soon as it is clear that nothing comes.
    cluster.teardown(&framework).await?;
    let output = application.fail(LONG).await?;
    ensure!(output.contains("the driver is aborted: Framework has been removed"), "{output}");
    cluster.stop()
}

/// No agent runs a framework's own executors; Spark would try again on each offer.
#[tokio::test]
async fn fine_grained_mode_ends_with_the_reason() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions { agents: 1, cpus: 2 })?);
    let files = tempfile::tempdir()?;
    let [principal, secret] = ["principal", "secret"].map(|name| files.path().join(name));
    fs::write(&principal, "ann")?;
    fs::write(&secret, "nobody-asks-for-it")?;
    let settings = [
        ("spark.mesos.coarse", "false"),
        ("spark.mesos.mesosExecutor.cores", "0.5"),
        ("spark.mesos.principal.file", &*principal.to_string_lossy()),
        ("spark.mesos.secret.file", &*secret.to_string_lossy()),
        ("spark.dynamicAllocation.enabled", "false"),
        ("spark.shuffle.service.enabled", "false"),
    ];
    let mut application = Application::submit(&spark, &cluster, &[&app("elastic.py")], &settings, &[])?;
    let framework = started(&mut application).await?;
    let output = application.fail(LONG).await?;
    let reason = "Spark's fine-grained mode (spark.mesos.coarse=false) does not work on this cluster";
    ensure!(output.contains(&format!("the driver is aborted: {reason}")), "{output}");
    ensure!(output.contains("Job aborted") || output.contains("cancelled"), "{output}");
    let frameworks = cluster.get("/frameworks").await?;
    let mut completed = frameworks["completed_frameworks"].as_array().into_iter().flatten();
    let known = completed.find(|known| known["id"] == framework.as_str()).context("it has ended")?;
    ensure!(known["principal"] == "ann", "{known}");
    let tasks = known["completed_tasks"].as_array().context("a list")?;
    ensure!((1..20).contains(&tasks.len()), "{} launches", tasks.len());
    cluster.stop()
}

#[tokio::test]
async fn a_jvm_application_runs() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions::default())?);
    let built = tempfile::tempdir()?;
    let jar = built.path().join("java-pi.jar");
    let classes = built.path().join("classes");
    let compiled = Command::new("javac")
        .args(["-cp", &format!("{}/jars/*", spark.home().display()), "-d"])
        .arg(&classes)
        .arg(app("JavaPi.java"))
        .status()?;
    ensure!(compiled.success(), "javac");
    let packed = Command::new("jar").arg("cf").arg(&jar).arg("-C").arg(&classes).arg(".").status()?;
    ensure!(packed.success(), "jar");
    let jar = jar.to_string_lossy().into_owned();
    let app = ["--class", "JavaPi", &jar];
    let mut application = Application::submit(&spark, &cluster, &app, &THREE_EXECUTORS, &[])?;
    let result = application.event("result", LONG).await?;
    // Gauss' circle problem: lattice points within radius 1000 (OEIS A000328).
    ensure!(result["inside"] == 3_141_549, "{result}");
    application.finish(LONG).await?;
    cluster.stop()
}

#[tokio::test]
async fn two_applications_at_once_both_make_progress() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions { agents: 2, cpus: 2 })?);
    // Each alone would take all four cores.
    let greedy = [("spark.cores.max", "4"), ("spark.dynamicAllocation.initialExecutors", "4")];
    let slow = [("TASK_SECONDS", "0.5")];
    let mut one = Application::submit(&spark, &cluster, &[&app("elastic.py")], &greedy, &slow)?;
    let mut other = Application::submit(&spark, &cluster, &[&app("elastic.py")], &greedy, &slow)?;
    for application in [&mut one, &mut other] {
        let first = application.event("first", LONG).await?;
        ensure!(first["correct"] == true, "{first}");
        application.go()?;
    }
    for application in [&mut one, &mut other] {
        application.event("second", LONG).await?;
        application.finish(LONG).await?;
    }
    cluster.stop()
}

#[tokio::test]
async fn a_dead_driver_is_waited_for_and_then_cleared_away() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions::default())?);
    let patience = [
        ("spark.mesos.driver.failoverTimeout", "8"),
        ("spark.dynamicAllocation.executorIdleTimeout", "600s"),
    ];
    let settings = [&patience[..], &THREE_EXECUTORS].concat();
    let mut application = Application::submit(&spark, &cluster, &[&app("elastic.py")], &settings, &[])?;
    let framework = started(&mut application).await?;
    application.event("first", LONG).await?;
    let before = std::time::Instant::now();
    application.kill_driver()?;
    eventually("the master to see the driver gone", LONG, || async {
        let state = cluster.get("/frameworks").await?;
        let known = &state["frameworks"][0];
        ensure!(known["id"] == framework.as_str() && known["connected"] == false, "{known}");
        Ok(())
    })
    .await?;
    ensure!(cluster.shuffle_files() > 0, "shuffle files went before the failover timeout");
    eventually("the framework to be removed", LONG, || async {
        let state = cluster.get("/frameworks").await?;
        ensure!(state["frameworks"].as_array().is_some_and(Vec::is_empty), "{}", state["frameworks"]);
        Ok(())
    })
    .await?;
    ensure!(before.elapsed() >= Duration::from_secs(8), "removed after {:?}: too early", before.elapsed());
    nothing_left(&cluster, &framework, Duration::from_secs(15)).await?;
    cluster.stop()
}
