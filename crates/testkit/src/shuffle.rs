//! `bellows shuffle`, as an operator starts it: a process of its own on a free port.
use crate::{binaries, daemon::Daemon, eventually};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

pub struct ShuffleService {
    daemon: Daemon,
    dir: TempDir,
    port: u16,
}

impl ShuffleService {
    /// Serves what lies below `disk`, with `flags` besides; listens on every address, as it does by default.
    pub async fn start(disk: &Path, flags: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(binaries().join("bellows"));
        command
            .args(["shuffle", "--port", "0", "--work-dir"])
            .arg(dir.path().join("work"))
            .arg("--shuffle-dirs")
            .arg(disk)
            .args(flags)
            .stdout(Stdio::null());
        let daemon = Daemon::spawn(&mut command, dir.path().join("log"))?;
        let port = eventually("the shuffle service's port in its log", Duration::from_secs(30), || async {
            let log = daemon.log();
            let address = log.split("local_addr=").nth(1).and_then(|rest| rest.split_whitespace().next());
            let port = address.and_then(|address| address.rsplit(':').next()?.parse().ok());
            port.with_context(|| format!("bellows shuffle says: {log}"))
        })
        .await?;
        Ok(Self { daemon, dir, port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// What `bellows shuffle status` says of the application.
    pub fn application(&self, id: &str) -> Result<Value> {
        let status: Value = serde_json::from_slice(&self.ask("status", &["--json"])?)?;
        ensure!(status["applications"][id].is_object(), "{id} is not registered: {status}");
        Ok(status["applications"][id].clone())
    }

    /// What `bellows shuffle remove` does.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.ask("remove", &[id]).map(drop)
    }

    fn ask(&self, what: &str, arguments: &[&str]) -> Result<Vec<u8>> {
        let socket = self.dir.path().join("work/admin.sock");
        let mut command = Command::new(binaries().join("bellows"));
        let output = command.args(["shuffle", what, "--socket"]).arg(socket).args(arguments).output()?;
        if !output.status.success() {
            bail!("bellows shuffle {what}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    }
}
