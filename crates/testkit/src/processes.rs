//! A cluster as it is run on machines: `bellows master`, `bellows agent` and `bellows shuffle`, each a process of its
//! own, here all on one machine and on free ports.
use crate::{binaries, daemon::Daemon, eventually, files, get_json, release_binary};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};
use tempfile::TempDir;

pub struct Processes {
    /// In the order in which they end: what one says at its end has somebody to go to.
    agent: Daemon,
    master: Daemon,
    shuffle: Daemon,
    dir: TempDir,
    ports: Ports,
    binary: PathBuf,
}

struct Ports {
    master: u16,
    agent: u16,
    shuffle: u16,
    metrics: u16,
}

impl Processes {
    /// One agent that offers so many CPUs, with shuffle directories on two "disks"; returns when it has registered.
    pub async fn start(cpus: u32) -> Result<Self> {
        Self::start_binary(binaries().join("bellows"), cpus, &[]).await
    }

    /// The same with `flags` of `bellows agent` besides.
    pub async fn start_with(cpus: u32, flags: &[&str]) -> Result<Self> {
        Self::start_binary(binaries().join("bellows"), cpus, flags).await
    }

    /// The same of the release binary.
    pub async fn start_release(cpus: u32) -> Result<Self> {
        Self::start_binary(release_binary().to_owned(), cpus, &[]).await
    }

    async fn start_binary(binary: PathBuf, cpus: u32, flags: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        // Tasks of any user get to their sandboxes and shuffle directories.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let [master, agent, shuffle, metrics] = free_ports()?;
        let ports = Ports { master, agent, shuffle, metrics };
        let leader = format!("127.0.0.1:{master}");
        let socket = dir.path().join("shuffle/admin.sock");
        let resources = format!("cpus:{cpus};mem:8192");
        let disks = disks(dir.path())?;
        let mut arguments = vec![
            "--port".into(),
            agent.to_string(),
            "--master".into(),
            leader,
            "--hostname".into(),
            "127.0.0.1".into(),
            "--resources".into(),
            resources,
            "--work-dir".into(),
            dir.path().join("agent").display().to_string(),
            "--shuffle-dirs".into(),
            disks.clone(),
            "--shuffle-socket".into(),
            socket.display().to_string(),
        ];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let begun = Self {
            shuffle: spawn(&binary, dir.path(), "shuffle", &shuffle_arguments(dir.path(), &ports, &disks))?,
            master: spawn(&binary, dir.path(), "master", &["--port".into(), master.to_string()])?,
            agent: spawn(&binary, dir.path(), "agent", &arguments)?,
            dir,
            ports,
            binary,
        };
        eventually("the agent to register", Duration::from_secs(30), || async {
            let agents = get_json(&format!("http://{}/slaves", begun.master())).await?;
            ensure!(agents["slaves"].as_array().is_some_and(|agents| !agents.is_empty()), "{agents}");
            Ok(())
        })
        .await?;
        begun.shuffle_status().await?;
        Ok(begun)
    }

    /// `host:port`
    pub fn master(&self) -> String {
        format!("127.0.0.1:{}", self.ports.master)
    }

    /// `host:port`
    pub fn agent(&self) -> String {
        format!("127.0.0.1:{}", self.ports.agent)
    }

    /// `host:port` of the shuffle service's metrics.
    pub fn shuffle_metrics(&self) -> String {
        format!("127.0.0.1:{}", self.ports.metrics)
    }

    /// One of the shuffle directories of both the agent and the service.
    pub fn disk(&self) -> PathBuf {
        self.dir.path().join("disk1")
    }

    /// Where all of them keep everything.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self, part: &str) -> u32 {
        match part {
            "master" => self.master.child.id(),
            "agent" => self.agent.child.id(),
            _ => self.shuffle.child.id(),
        }
    }

    /// The most memory that `part` (`master`, `agent` or `shuffle`) ever had, in MiB. One that has ended has none.
    pub fn peak_mib(&self, part: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(part)))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak.map(|kib| kib >> 10).with_context(|| format!("{part} has ended: {}", self.log(part)))
    }

    pub fn shuffle_port(&self) -> u16 {
        self.ports.shuffle
    }

    /// What the shuffle service tells over HTTP; waits for one that has just been started.
    pub async fn shuffle_status(&self) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/v1/status", self.ports.metrics);
        eventually("the shuffle service to answer", Duration::from_secs(30), || get_json(&url)).await
    }

    /// What `bellows kill` does.
    pub fn kill_framework(&self, framework: &str) -> Result<()> {
        let mut command = Command::new(&self.binary);
        let output = command.args(["kill", framework, "--master", &self.master()]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Does not wait.
    pub fn signal_agent(&self, signal: Signal) -> Result<()> {
        self.agent.signal(signal)
    }

    /// Sends the agent a signal and waits for its end.
    pub fn end_agent(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.agent.end(signal)
    }

    /// With SIGKILL: it can do nothing more.
    pub fn kill_shuffle(&mut self) -> Result<()> {
        self.shuffle.end(Signal::KILL).map(drop)
    }

    /// As an init system starts it again.
    pub fn restart_shuffle(&mut self) -> Result<()> {
        let disks = disks(self.dir.path())?;
        self.shuffle = spawn(
            &self.binary,
            self.dir.path(),
            "shuffle",
            &shuffle_arguments(self.dir.path(), &self.ports, &disks),
        )?;
        Ok(())
    }

    /// How often a text is in what the executors have logged.
    pub fn said_by_executors(&self, text: &str) -> usize {
        self.stderr_of_tasks().matches(text).count()
    }

    /// What all tasks have written there, one after the other.
    pub fn stderr_of_tasks(&self) -> String {
        let logs = files(&self.dir.path().join("agent"), &|name| name == "stderr");
        logs.iter().map(|log| fs::read_to_string(log).unwrap_or_default()).collect()
    }

    /// The shuffle files that lie on the disks.
    pub fn shuffle_files(&self) -> usize {
        ["disk1", "disk2"]
            .map(|disk| files(&self.dir.path().join(disk), &|name| name.starts_with("shuffle_")).len())
            .iter()
            .sum()
    }

    /// Of `master`, `agent` or `shuffle`.
    pub fn log(&self, part: &str) -> String {
        fs::read_to_string(self.dir.path().join(part).with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let _ = self.agent.end(Signal::TERM);
        // An agent leaves its tasks running. Normally there are none any more.
        let dir = self.dir.path().as_os_str().as_encoded_bytes();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours = environment.windows(dir.len()).any(|part| part == dir);
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|_| ours) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn shuffle_arguments(dir: &Path, ports: &Ports, disks: &str) -> [String; 8] {
    [
        "--port".into(),
        ports.shuffle.to_string(),
        "--metrics-port".into(),
        ports.metrics.to_string(),
        "--work-dir".into(),
        dir.join("shuffle").display().to_string(),
        "--shuffle-dirs".into(),
        disks.to_owned(),
    ]
}

fn disks(dir: &Path) -> Result<String> {
    let disks = ["disk1", "disk2"].map(|disk| dir.join(disk));
    disks.iter().try_for_each(fs::create_dir_all)?;
    Ok(disks.map(|disk| disk.display().to_string()).join(","))
}

/// `bellows PART --ip 127.0.0.1 ARGUMENTS`.
fn spawn(binary: &Path, dir: &Path, part: &str, arguments: &[String]) -> Result<Daemon> {
    let mut command = Command::new(binary);
    command.args([part, "--ip", "127.0.0.1"]).args(arguments).stdout(Stdio::null());
    Daemon::spawn(&mut command, dir.join(part).with_extension("log"))
}

/// All at once, so that they differ. A restarted service must find its port again, so it cannot have 0.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports: Vec<u16> =
        listeners.iter().map(|l| Ok(l.local_addr()?.port())).collect::<Result<_, std::io::Error>>()?;
    ports.try_into().or_else(|_| bail!("N ports for N listeners"))
}
