//! A process that a test starts, and that ends with the test as a service manager would end it.
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A process that has not ended by then hangs.
const END_LIMIT: Duration = Duration::from_secs(120);

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

    /// Returns when it has ended; of one that had already, the signal is not sent. One that hangs is killed, and the error
    /// says where its threads were.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(signal)?;
        let begin = Instant::now();
        while begin.elapsed() < END_LIMIT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        let threads = threads(self.child.id());
        self.child.kill()?;
        self.child.wait()?;
        bail!("it has not ended {END_LIMIT:?} after {signal:?}\n{threads}\n{}", self.log())
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

/// A line for each thread: its name, its state and what it waits for in the kernel.
fn threads(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let line = |task: fs::DirEntry| {
        let [comm, stat, wchan] = ["comm", "stat", "wchan"]
            .map(|name| fs::read_to_string(task.path().join(name)).unwrap_or_default());
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
        format!("{} {state} {wchan}", comm.trim_end())
    };
    tasks.map(line).collect::<Vec<_>>().join("\n")
}
