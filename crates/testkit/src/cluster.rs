//! The embedded cluster, `bellows up`, as a user starts it: a process of its own on free ports.
use crate::{ANSWER_LIMIT, binaries, daemon::Daemon, files, get_json};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};
use tempfile::TempDir;

#[derive(Debug, Clone, Copy)]
pub struct ClusterOptions {
    pub agents: u32,
    /// CPUs that each agent offers.
    pub cpus: u32,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { agents: 3, cpus: 2 }
    }
}

pub struct Cluster {
    daemon: Daemon,
    work_dir: TempDir,
    master: String,
    shuffle_port: u16,
}

impl Cluster {
    /// Starts it and reads the addresses from what it prints, as a user would.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        Self::start_with(options, &[])
    }

    /// With `flags` of `bellows up` besides.
    pub fn start_with(options: ClusterOptions, flags: &[&str]) -> Result<Self> {
        Self::start_by(Command::new(binaries().join("bellows")), options, flags)
    }

    /// By a command that becomes `bellows` and hands its arguments on.
    pub fn start_by(mut command: Command, options: ClusterOptions, flags: &[&str]) -> Result<Self> {
        let work_dir = tempfile::tempdir()?;
        command
            .arg("up")
            .args([
                "--agents",
                &options.agents.to_string(),
                "--cpus",
                &options.cpus.to_string(),
                "--mem",
                "4096",
            ])
            .args(["--port", "0", "--agent-port", "0", "--shuffle-port", "0"])
            .arg("--work-dir")
            .arg(work_dir.path().join("state"))
            .args(flags)
            .stdout(Stdio::piped());
        let mut daemon = Daemon::spawn(&mut command, work_dir.path().join("log"))?;
        let stdout = daemon.child.stdout.take().context("stdout is piped")?;
        let (mut master, mut shuffle_port) = (None, None);
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            master = master.or_else(|| after(&line, "mesos://"));
            shuffle_port = shuffle_port.or_else(|| after(&line, "spark.shuffle.service.port=")?.parse().ok());
            if let (Some(master), Some(shuffle_port)) = (&master, shuffle_port) {
                return Ok(Self { daemon, work_dir, master: master.clone(), shuffle_port });
            }
        }
        bail!("bellows up printed no addresses: {}", daemon.log())
    }

    /// `host:port`
    pub fn master(&self) -> &str {
        &self.master
    }

    pub fn shuffle_port(&self) -> u16 {
        self.shuffle_port
    }

    /// Does not wait.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.signal(signal)
    }

    pub fn pid(&self) -> u32 {
        self.daemon.child.id()
    }

    /// Where the cluster keeps everything.
    pub fn state_dir(&self) -> std::path::PathBuf {
        self.work_dir.path().join("state")
    }

    pub fn log(&self) -> String {
        self.daemon.log()
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        get_json(&format!("http://{}{path}", self.master)).await
    }

    /// The tasks of `framework` that are TASK_RUNNING.
    pub async fn running_tasks(&self, framework: &str) -> Result<Vec<Value>> {
        let tasks = self.get("/tasks?limit=10000").await?;
        let tasks = tasks["tasks"].as_array().context("/tasks has a list")?;
        let running = |task: &&Value| task["framework_id"] == framework && task["state"] == "TASK_RUNNING";
        Ok(tasks.iter().filter(running).cloned().collect())
    }

    /// POSTs to `/master/teardown` what `curl -d frameworkId=…` does.
    pub async fn teardown(&self, framework: &str) -> Result<()> {
        let request = reqwest::Client::new()
            .post(format!("http://{}/master/teardown", self.master))
            .timeout(ANSWER_LIMIT)
            .body(format!("frameworkId={framework}"));
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// The shuffle and index files that lie anywhere in the cluster's directories.
    pub fn shuffle_files(&self) -> usize {
        files(&self.state_dir(), &|name| name.starts_with("shuffle_")).len()
    }

    /// Ends it as Ctrl-C does and waits for it.
    pub fn stop(mut self) -> Result<()> {
        self.end(Signal::INT)
    }

    /// Ends it with a signal and waits for it.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        let status = self.daemon.end(signal)?;
        if !status.success() {
            bail!("bellows up ended with {status}: {}", self.log());
        }
        Ok(())
    }
}

fn after(line: &str, key: &str) -> Option<String> {
    let rest = &line[line.find(key)? + key.len()..];
    Some(rest.split_whitespace().next()?.trim_end_matches(['\\', '"', '\'']).to_owned())
}
