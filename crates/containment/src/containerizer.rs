//! The agent's side of a task's processes: starts shims, watches them, finds them again after a restart.
//!
//! It decides nothing: when to launch, kill or forget is the caller's affair.
use crate::{Isolator, Owner, Usage};
use bellows_model::{ContainerId, EnvironmentVariable};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// What a [`Containerizer`] needs to know.
pub struct Config {
    /// One directory per container that was launched and not yet forgotten. Must be absolute and on a local file system.
    pub meta_root: PathBuf,
    /// The binary that answers `shim` as its first argument.
    pub shim_exe: PathBuf,
    pub isolator: Arc<dyn Isolator>,
}

impl Config {
    /// Shims are this very binary, resources are not enforced.
    pub fn new(meta_root: impl Into<PathBuf>) -> Self {
        Self {
            meta_root: meta_root.into(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            isolator: Arc::new(crate::Posix),
        }
    }
}

/// One process to start, in a sandbox that exists already.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    pub container_id: ContainerId,
    /// Absolute. The working directory; `stdout` and `stderr` are appended to in it.
    pub sandbox: PathBuf,
    /// `true`: `/bin/sh -c value`. `false`: the program `value` (looked up in the environment's `PATH`) with
    /// `arguments` as its argv, argv[0] first; none given: argv is `[value]`.
    pub shell: bool,
    pub value: String,
    pub arguments: Vec<String>,
    /// All that the process sees, and `BELLOWS_CONTAINER_ID`. A later variable of the same name wins.
    pub environment: Vec<EnvironmentVariable>,
    /// Whom to become; `None`: stay who the agent is.
    pub user: Option<Owner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// The task's main process, leader of its own session.
    pub pid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Exited(i32),
    Signaled(i32),
    /// Nobody saw how it ended: its shim was killed, or the machine went down.
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub status: ExitStatus,
    /// For people: why it is [`ExitStatus::Lost`].
    pub reason: Option<String>,
}

/// Sent once for each container that [`Containerizer::launch`] started or [`Containerizer::recover`] found running,
/// when the last of its processes is gone. It may arrive before the caller has seen `Launched`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitEvent {
    pub container_id: ContainerId,
    pub exit: Exit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub container_id: ContainerId,
    pub state: RecoveredState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveredState {
    /// Its exit will come as an [`ExitEvent`].
    Running { pid: u32 },
    /// It ended meanwhile, or never started; no event follows.
    Ended(Exit),
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("container {0} exists already")]
    Exists(ContainerId),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The shim could not start the command; its words.
    #[error("{0}")]
    Command(String),
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Containerizer {
    config: Arc<Config>,
}

impl Containerizer {
    /// Creates the meta directory. Must be called within a Tokio runtime. Exits arrive on the receiver, which is
    /// bounded: containers wait with their news until the caller reads.
    pub fn new(config: Config) -> io::Result<(Self, mpsc::Receiver<ExitEvent>)> {
        let (_exits, receiver) = mpsc::channel(1024);
        Ok((Self { config: Arc::new(config) }, receiver))
    }

    /// Returns once the command has been executed (`execve` succeeded) or could not be. Goes on when dropped.
    pub async fn launch(&self, _spec: LaunchSpec) -> Result<Launched, LaunchError> {
        todo!()
    }

    /// TERM to every process of the container; KILL to those left after `grace`. Returns at once; the end comes as an
    /// [`ExitEvent`]. A further call can shorten the grace, not extend it. `false`: no such container runs.
    pub fn kill(&self, _container_id: &ContainerId, _grace: Duration) -> bool {
        todo!()
    }

    /// Finds what earlier agent processes launched and nobody forgot. Call once, before the first launch.
    pub async fn recover(&self) -> io::Result<Vec<Recovered>> {
        todo!()
    }

    /// Drops what is stored of an ended container, once the caller has made its exit durable elsewhere.
    pub async fn forget(&self, _container_id: &ContainerId) -> io::Result<()> {
        todo!()
    }

    /// What a running container's processes use now; `None` when it does not run.
    pub async fn usage(&self, _container_id: &ContainerId) -> Option<Usage> {
        todo!()
    }
}
