//! Where sandboxes lie, as Mesos lays them out, and how they come and go.
//!
//! `<work_dir>/slaves/<agent>/frameworks/<framework>/executors/<executor>/runs/<container>`, and `latest` beside it.
use crate::Owner;
use bellows_model::{AgentId, ContainerId, ExecutorId, FrameworkId, IdError};
use std::{io, path::PathBuf, time::SystemTime};

/// Names one run of one executor; its four ids name the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    pub agent_id: AgentId,
    pub framework_id: FrameworkId,
    pub executor_id: ExecutorId,
    pub container_id: ContainerId,
}

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The sandboxes below one work directory. Every call may block for as long as a disk takes.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    work_dir: PathBuf,
}

impl Sandboxes {
    pub fn new(work_dir: impl Into<PathBuf>) -> Self {
        Self { work_dir: work_dir.into() }
    }

    pub fn path(&self, _run: &Run) -> Result<PathBuf, SandboxError> {
        Ok(self.work_dir.clone())
    }

    /// The sandbox is given to `owner`; `latest` beside it points to it.
    pub fn create(&self, _run: &Run, _owner: Option<&Owner>) -> Result<PathBuf, SandboxError> {
        todo!()
    }

    /// Deletes a sandbox, and the directories above it that are empty then. A missing one is no error.
    pub fn collect(&self, _run: &Run) -> Result<(), SandboxError> {
        todo!()
    }

    /// What lies on the disk, with the time of the last change in each sandbox's directory.
    pub fn list(&self) -> Result<Vec<(Run, SystemTime)>, SandboxError> {
        todo!()
    }
}
