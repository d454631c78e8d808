//! Spark's own `MesosClusterDispatcher`, which runs drivers as tasks, and what is submitted to it.
use crate::{Spark, binaries, daemon::Daemon, eventually, processes::free_ports, spark::SHORT_LIVED};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Spark 3.5.9's dispatcher passes `--driver-cores 1.0` on, which its `spark-submit` refuses.
const WRAPPER: &str = "#!/bin/sh
for argument; do
    shift
    [ \"$before\" != --driver-cores ] || argument=${argument%.0}
    set -- \"$@\" \"$argument\"
    before=$argument
done
exec \"$0.spark\" \"$@\"
";

pub struct Dispatcher {
    daemon: Daemon,
    dir: TempDir,
    ports: [u16; 2],
}

impl Dispatcher {
    /// Of the master at `host:port`; returns when it takes submissions. Drivers run from a home with the wrapper.
    pub async fn start(spark: &Spark, master: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let home = wrapped(spark.home(), &dir.path().join("home"))?;
        let ports = free_ports()?;
        let [port, page] = ports.map(|port: u16| port.to_string());
        let mut command = Command::new(home.join("bin/spark-class"));
        command.arg("org.apache.spark.deploy.mesos.MesosClusterDispatcher");
        command.args(["--host", "127.0.0.1", "--port", &port, "--webui-port", &page]);
        command.args(["--master", &format!("mesos://{master}")]);
        let home_setting = ("spark.mesos.executor.home", home.to_str().context("a plain path")?);
        for (key, value) in settings.iter().chain([&home_setting]) {
            command.arg("--conf").arg(format!("{key}={value}"));
        }
        command
            .env("SPARK_HOME", &home)
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .env("SPARK_DAEMON_MEMORY", "256m")
            .env("SPARK_DAEMON_JAVA_OPTS", SHORT_LIVED)
            .env("MESOS_NATIVE_JAVA_LIBRARY", binaries().join("libmesos.so"))
            .stdout(Stdio::null());
        let begun = Self { daemon: Daemon::spawn(&mut command, dir.path().join("log"))?, dir, ports };
        let starts = eventually("the dispatcher to take submissions", Duration::from_secs(60), || async {
            begun.page().await.map(drop)?;
            begun.state("nothing").await.map(drop)
        });
        starts.await.with_context(|| begun.log())?;
        Ok(begun)
    }

    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Submits as a user does: with `spark-submit --deploy-mode cluster`. Gives the submission's id.
    pub fn submit(&self, settings: &[(&str, &str)], app: &[&str]) -> Result<String> {
        let mut command = Command::new(self.dir.path().join("home/bin/spark-submit"));
        command.args([
            "--deploy-mode",
            "cluster",
            "--master",
            &format!("mesos://127.0.0.1:{}", self.ports[0]),
        ]);
        for (key, value) in settings.iter().chain(&[("spark.master.rest.enabled", "true")]) {
            command.arg("--conf").arg(format!("{key}={value}"));
        }
        command.args(app).env("SPARK_HOME", self.dir.path().join("home")).env("SPARK_LOCAL_IP", "127.0.0.1");
        let output = command.env("SPARK_LAUNCHER_OPTS", SHORT_LIVED).output()?;
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        let id = text.split("\"submissionId\" : \"").nth(1).and_then(|rest| rest.split('"').next());
        Ok(id.with_context(|| text.clone().into_owned())?.to_owned())
    }

    /// Submits as `spark-submit` does, without starting a JVM for it; gives the dispatcher's answer.
    pub async fn create(&self, settings: &[(&str, &str)], app: &str) -> Result<Value> {
        let properties: serde_json::Map<_, _> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let request = json!({
            "action": "CreateSubmissionRequest", "clientSparkVersion": "3.5.9", "appResource": app,
            "mainClass": "", "appArgs": [], "environmentVariables": {}, "sparkProperties": properties,
        });
        let url = format!("http://127.0.0.1:{}/v1/submissions/create", self.ports[0]);
        let response = reqwest::Client::new()
            .post(url)
            .header("Content-Type", "application/json")
            .body(request.to_string())
            .send()
            .await?;
        Ok(serde_json::from_str(&response.text().await?)?)
    }

    /// What it says of a submission.
    pub async fn state(&self, submission: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/v1/submissions/status/{submission}", self.ports[0]);
        Ok(serde_json::from_str(&reqwest::get(url).await?.text().await?)?)
    }

    /// Its page.
    pub async fn page(&self) -> Result<String> {
        let response = reqwest::get(format!("http://127.0.0.1:{}/", self.ports[1])).await?;
        ensure!(response.status().is_success(), "{}", response.status());
        Ok(response.text().await?)
    }

    /// With SIGKILL: it can do nothing more.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.end(Signal::KILL).map(drop)
    }
}

/// A home like `spark`'s, with the wrapper in the place of `bin/spark-submit`.
fn wrapped(spark: &Path, home: &Path) -> Result<PathBuf> {
    fs::create_dir_all(home.join("bin"))?;
    for (from, to) in [(spark.to_owned(), home.to_owned()), (spark.join("bin"), home.join("bin"))] {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Some("bin") => {}
                Some("spark-submit") => symlink(entry.path(), to.join("spark-submit.spark"))?,
                Some(name) => symlink(entry.path(), to.join(name))?,
                None => bail!("{:?} in Spark's home", entry.file_name()),
            }
        }
    }
    let wrapper = home.join("bin/spark-submit");
    fs::write(&wrapper, WRAPPER)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(home.to_owned())
}
