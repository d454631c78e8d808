//! Unmodified Spark from PyPI, and one application run by its stock `spark-submit`.
use crate::{Cluster, binaries, eventually, repository};
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// For JVMs that end before what a better compiler makes would pay.
pub(crate) const SHORT_LIVED: &str = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC";

/// A Spark distribution.
pub struct Spark {
    home: PathBuf,
}

impl Spark {
    /// `SPARK_HOME`, else what `make spark` put under `.cache/`. Panics without: a test that needs Spark fails then.
    pub fn find() -> Self {
        let home = std::env::var_os("SPARK_HOME").map(PathBuf::from).or_else(|| cached("spark-3.5.9"));
        Self::at(home.unwrap_or_default())
    }

    /// Spark 4, which has no Mesos backend: `SPARK_4_HOME`, else what `make test` put under `.cache/`.
    pub fn find_4() -> Self {
        let home = std::env::var_os("SPARK_4_HOME").map(PathBuf::from).or_else(|| cached("spark-4.3.0"));
        Self::at(home.unwrap_or_default())
    }

    fn at(home: PathBuf) -> Self {
        let there = home.join("bin/spark-submit").exists();
        assert!(there, "no Spark: set SPARK_HOME and SPARK_4_HOME, or let `make test` fetch them");
        Self { home }
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn jars(&self) -> PathBuf {
        self.home.join("jars")
    }
}

/// In the virtual environment, below the version of its Python.
fn cached(name: &str) -> Option<PathBuf> {
    let pythons = fs::read_dir(repository().join(".cache").join(name).join("lib")).ok()?;
    pythons.flatten().map(|python| python.path().join("site-packages/pyspark")).find(|home| home.is_dir())
}

/// A driver under way. Killed with its process group when dropped.
pub struct Application {
    child: Child,
    control: tempfile::TempDir,
}

impl Application {
    /// Runs `app` (a .py or .jar) against `cluster` with the field note's elastic settings and `settings` on top.
    /// The application gets its control directory as its first argument, then `arguments`.
    pub fn submit(
        spark: &Spark,
        cluster: &Cluster,
        app: &[&str],
        settings: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let services = (cluster.master(), cluster.shuffle_port());
        Self::submit_to(spark, services, app, settings, environment)
    }

    /// The same to a master at `host:port` whose agents have a shuffle service on the given port.
    pub fn submit_to(
        spark: &Spark,
        (master, shuffle_port): (&str, u16),
        app: &[&str],
        settings: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let (master, port) = (format!("mesos://{master}"), shuffle_port.to_string());
        let elastic = [
            ("spark.master", master.as_str()),
            ("spark.scheduler.mode", "FAIR"),
            ("spark.cores.max", "6"),
            ("spark.executor.cores", "1"),
            ("spark.executor.memory", "512m"),
            ("spark.dynamicAllocation.enabled", "true"),
            ("spark.dynamicAllocation.initialExecutors", "6"),
            ("spark.dynamicAllocation.executorIdleTimeout", "4s"),
            ("spark.shuffle.service.enabled", "true"),
            // All agents are one host: see `bellows submit`, which sets it on one machine too.
            ("spark.locality.wait", "0s"),
            ("spark.ui.enabled", "false"),
            ("spark.shuffle.service.port", port.as_str()),
            ("spark.driver.extraJavaOptions", SHORT_LIVED),
            ("spark.executor.extraJavaOptions", SHORT_LIVED),
        ];
        let settings: Vec<_> = elastic.iter().chain(settings).copied().collect();
        let library = binaries().join("libmesos.so");
        let mut all = vec![
            ("MESOS_NATIVE_JAVA_LIBRARY", library.as_os_str()),
            ("SPARK_LAUNCHER_OPTS", OsStr::new(SHORT_LIVED)),
        ];
        all.extend(environment.iter().map(|&(name, value)| (name, OsStr::new(value))));
        Self::launch(&spark.home, &settings, app, &all)
    }

    /// Runs `app` with these settings and no others. They are on its command line: no place for a secret.
    pub(crate) fn launch(
        home: &Path,
        settings: &[(&str, &str)],
        app: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Self> {
        let control = tempfile::tempdir()?;
        let output = File::create(control.path().join("output"))?;
        let mut command = Command::new(home.join("bin/spark-submit"));
        for (key, value) in settings {
            command.arg("--conf").arg(format!("{key}={value}"));
        }
        command
            .args(app)
            .arg(control.path())
            .envs(environment.iter().copied())
            .env("SPARK_HOME", home)
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("spark-submit")?;
        Ok(Self { child, control })
    }

    /// What the application has said so far, in order.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.control.path().join("events")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until it has said `event`.
    pub async fn event(&mut self, event: &str, limit: Duration) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(found) = self.events().into_iter().find(|said| said["event"] == event) {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the application ended with {status} before '{event}':\n{}", self.output());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("waited {limit:?} for '{event}':\n{}", self.output());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets the application pass its next gate.
    pub fn go(&self) -> Result<()> {
        Ok(fs::write(self.control.path().join("go"), "")?)
    }

    pub async fn finish(&mut self, limit: Duration) -> Result<()> {
        let status = self.end(limit).await?;
        if !status.success() {
            bail!("the application ended with {status}:\n{}", self.output());
        }
        Ok(())
    }

    /// Waits until it ends by itself, and not well; gives what it printed.
    pub async fn fail(&mut self, limit: Duration) -> Result<String> {
        let status = self.end(limit).await?;
        if status.success() {
            bail!("the application ended well:\n{}", self.output());
        }
        Ok(self.output())
    }

    async fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        let mut poll = || child.try_wait();
        let ended = eventually("the application to end", limit, || {
            let polled = poll();
            async move { polled?.ok_or_else(|| anyhow!("still running")) }
        });
        let ended = ended.await;
        ended.with_context(|| self.output())
    }

    /// What driver and `spark-submit` printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.control.path().join("output")).unwrap_or_default()
    }

    /// Kills the driver as a crash would, with everything in its process group.
    pub fn kill_driver(&mut self) -> Result<()> {
        let group = Pid::from_raw(self.child.id() as i32).context("a child has a pid")?;
        rustix::process::kill_process_group(group, Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.kill_driver();
        }
    }
}

/// Kills one process as a crash would.
pub fn kill_nine(pid: i32) -> Result<()> {
    kill_process(Pid::from_raw(pid).context("not a pid")?, Signal::KILL)?;
    Ok(())
}
