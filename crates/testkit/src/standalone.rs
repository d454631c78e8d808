//! Spark's own cluster manager: a master, and workers without the shuffle service that they could run, so that
//! `bellows shuffle` takes its place.
use crate::{Application, Spark, daemon::Daemon, eventually, get_json, spark::SHORT_LIVED, write_private};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// One daemon's JVM on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(150);

pub struct Standalone {
    /// They end before the master: what a worker says at its end has somebody to go to.
    workers: Vec<Daemon>,
    _master: Daemon,
    home: PathBuf,
    dir: TempDir,
    disk: PathBuf,
    address: String,
    page: String,
}

impl Standalone {
    /// A master and one worker of two cores, whose executors write below `disk`. `settings` go into the
    /// `spark-defaults.conf` of all, applications included: that is where a secret belongs.
    pub async fn start(spark: &Spark, disk: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("conf"))?;
        let lines = settings.iter().map(|(key, value)| format!("{key} {value}\n")).collect::<String>();
        write_private(&dir.path().join("conf/spark-defaults.conf"), &lines)?;
        let mut command = spark_class(spark.home(), &dir, disk);
        command
            .args(["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", "0"])
            .args(["--webui-port", "0"])
            .env("SPARK_MASTER_OPTS", "-Dspark.master.rest.enabled=false");
        let master = Daemon::spawn(&mut command, dir.path().join("master"))?;
        let (address, page) = eventually("Spark's master", START_LIMIT, || async {
            let log = master.log();
            let after = |key: &str| Some(log.split(key).nth(1)?.split_whitespace().next()?.to_owned());
            let address = after("Starting Spark master at ");
            let said = address.zip(after("MasterWebUI to 127.0.0.1, and started at "));
            said.filter(|_| log.contains("ALIVE")).with_context(|| log.clone())
        })
        .await?;
        let (home, disk) = (spark.home().to_owned(), disk.to_owned());
        let mut cluster = Self { home, dir, disk, workers: Vec::new(), _master: master, address, page };
        cluster.add_worker("127.0.0.1", 2).await?;
        Ok(cluster)
    }

    /// Another "machine" of this one: any address of the loopback is.
    pub async fn add_worker(&mut self, host: &str, cores: u32) -> Result<()> {
        let log = self.dir.path().join(format!("worker-{}", self.workers.len()));
        let mut command = spark_class(&self.home, &self.dir, &self.disk);
        command
            .args(["org.apache.spark.deploy.worker.Worker", "--host", host, "--webui-port", "0"])
            .args(["--cores", &cores.to_string(), "--memory", "2g", "--work-dir"])
            .arg(self.dir.path().join("work"))
            .arg(&self.address)
            .env("SPARK_LOCAL_IP", host);
        let worker = Daemon::spawn(&mut command, log)?;
        eventually("the worker to register", START_LIMIT, || async {
            let log = worker.log();
            ensure!(log.contains("Successfully registered with master"), "{log}");
            Ok(())
        })
        .await?;
        self.workers.push(worker);
        Ok(())
    }

    /// Runs a Python application whose executors come and go, one at a time, with a shuffle service on this port of
    /// their hosts. `settings` are no secret.
    pub fn submit(&self, app: &str, shuffle_port: u16, settings: &[(&str, &str)]) -> Result<Application> {
        let port = shuffle_port.to_string();
        let elastic = [
            ("spark.master", self.address.as_str()),
            ("spark.cores.max", "2"),
            ("spark.executor.cores", "2"),
            ("spark.executor.memory", "512m"),
            ("spark.dynamicAllocation.enabled", "true"),
            ("spark.dynamicAllocation.initialExecutors", "1"),
            ("spark.dynamicAllocation.executorIdleTimeout", "1s"),
            ("spark.shuffle.service.enabled", "true"),
            ("spark.shuffle.service.port", port.as_str()),
            ("spark.ui.enabled", "false"),
            ("spark.driver.extraJavaOptions", SHORT_LIVED),
            ("spark.executor.extraJavaOptions", SHORT_LIVED),
        ];
        let settings: Vec<_> = elastic.iter().chain(settings).copied().collect();
        let conf = self.dir.path().join("conf");
        let environment =
            [("SPARK_CONF_DIR", conf.as_os_str()), ("SPARK_LAUNCHER_OPTS", OsStr::new(SHORT_LIVED))];
        Application::launch(&self.home, &settings, &[app], &environment)
    }

    /// Cores that executors hold now, of all applications.
    pub async fn cores_used(&self) -> Result<u64> {
        let state = get_json(&format!("{}/json/", self.page)).await?;
        state["coresused"].as_u64().with_context(|| format!("no coresused in {state}"))
    }

    /// Waits until no executor is left: the worker has told the master of each one's end.
    pub async fn executors_gone(&self, limit: Duration) -> Result<()> {
        eventually("all executors to go", limit, || async {
            match self.cores_used().await? {
                0 => Ok(()),
                cores => bail!("{cores} cores are held"),
            }
        })
        .await
    }

    /// What the daemons said.
    pub fn log(&self) -> String {
        let logs = fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        logs.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
    }
}

fn spark_class(home: &Path, dir: &TempDir, disk: &Path) -> Command {
    let mut command = Command::new(home.join("bin/spark-class"));
    command
        .env("SPARK_HOME", home)
        .env("SPARK_CONF_DIR", dir.path().join("conf"))
        .env("SPARK_LOCAL_IP", "127.0.0.1")
        .env("SPARK_LOCAL_DIRS", disk)
        .env("SPARK_DAEMON_MEMORY", "256m")
        .env("SPARK_DAEMON_JAVA_OPTS", SHORT_LIVED)
        .env("SPARK_LAUNCHER_OPTS", SHORT_LIVED)
        .stdout(Stdio::null());
    command
}
