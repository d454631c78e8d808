//! `bellows shuffle`, as an operator starts it: a process of its own on a free port.
use crate::{binaries, eventually};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

pub struct ShuffleService {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl ShuffleService {
    /// Serves what lies below `disk`, with `flags` besides; listens on every address, as it does by default.
    pub async fn start(disk: &Path, flags: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        let mut child = Command::new(binaries().join("bellows"))
            .args(["shuffle", "--port", "0", "--work-dir"])
            .arg(dir.path().join("work"))
            .arg("--shuffle-dirs")
            .arg(disk)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("bellows shuffle")?;
        let port = eventually("the shuffle service's port in its log", Duration::from_secs(30), || {
            let ended = child.try_wait();
            let log = fs::read_to_string(&log).unwrap_or_default();
            async move {
                let address = log.split("local_addr=").nth(1).and_then(|rest| rest.split_whitespace().next());
                let port = address.and_then(|address| address.rsplit(':').next()?.parse().ok());
                port.with_context(|| format!("bellows shuffle ({ended:?}) says: {log}"))
            }
        });
        match port.await {
            Ok(port) => Ok(Self { child, dir, port }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
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

impl Drop for ShuffleService {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a child as a service manager does, and waits for it.
pub(crate) fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        let _ = kill_process(Pid::from_raw(child.id() as i32).expect("a child has a pid"), Signal::TERM);
        let _ = child.wait();
    }
}

/// Writes a file that only its owner may read, as one with secrets has to be.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
