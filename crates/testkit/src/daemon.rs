//! A process that a test starts, and that ends with the test as a service manager would end it.
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

pub(crate) struct Daemon {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Daemon {
    /// What it says on stderr goes behind what is in the file `log` already. Its stdout is the caller's to set.
    pub(crate) fn spawn(command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command.stdin(Stdio::null()).stderr(file).spawn();
        Ok(Self { child: child.with_context(|| format!("{command:?}"))?, log })
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns when it has ended; of one that had already, the signal is not sent.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(signal)?;
        Ok(self.child.wait()?)
    }

    /// Of one that has not been waited for.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.end(Signal::TERM);
    }
}
