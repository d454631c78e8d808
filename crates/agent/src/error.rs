//! Why an agent cannot start, or cannot go on. All of it is for the operator to mend.
use crate::attributes::AttributeError;
use crate::resources::ResourcesError;
use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no directory to shuffle through is left: {0}")]
    NoDisk(String),
    #[error("cannot listen on {address}: {source}")]
    Bind { address: String, source: io::Error },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is in use by another agent{}: end that one, or give this one a directory of its own with --work-dir",
        path.display(),
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked { path: PathBuf, holder: Option<u32> },
    #[error("the resources: {0}")]
    Resources(#[from] ResourcesError),
    #[error("the attributes: {0}")]
    Attributes(#[from] AttributeError),
    #[error("the checkpoint {}: {source}", path.display())]
    Checkpoint { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// The agent ended by itself.
    #[error("{0}")]
    Ended(String),
    #[error("the master refused this agent: {0}")]
    Refused(String),
    #[error(
        "the checkpoint {} cannot be written: {reason}. Running tasks go on; make room and start the agent again",
        path.display()
    )]
    CheckpointLost { path: PathBuf, reason: String },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }
}
