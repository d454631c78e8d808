//! Brings a command's files into its sandbox before it starts.
//!
//! Runs in the agent; what blocks runs on threads of its own, as the task's user where there is one.
use crate::Owner;
use bellows_model::Uri;
use std::{path::Path, path::PathBuf, time::Duration};

#[derive(Debug, Clone)]
pub struct FetcherConfig {
    /// Emptied at start; holds files of URIs that ask for `cache`.
    pub cache_dir: PathBuf,
    pub cache_limit_bytes: u64,
    pub connect_timeout: Duration,
    /// The longest silence of a server in mid-transfer.
    pub read_timeout: Duration,
    /// The most that one URI may bring, unpacked.
    pub limit_bytes: u64,
    /// The most files that one archive may bring.
    pub limit_files: u64,
}

impl FetcherConfig {
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            cache_limit_bytes: 2 << 30,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            limit_bytes: 64 << 30,
            limit_files: 1_000_000,
        }
    }
}

/// Which URI could not be fetched, and why; fit for a TASK_FAILED message.
#[derive(Debug, thiserror::Error)]
#[error("Failed to fetch '{uri}': {failure}")]
pub struct FetchError {
    pub uri: String,
    pub failure: FetchFailure,
}

#[derive(Debug, thiserror::Error)]
pub enum FetchFailure {
    #[error("the server answered {0}")]
    Status(u16),
}

/// Cheap to clone; all clones share one cache.
#[derive(Debug, Clone)]
pub struct Fetcher {
    _config: FetcherConfig,
}

impl Fetcher {
    pub fn new(config: FetcherConfig) -> std::io::Result<Self> {
        Ok(Self { _config: config })
    }

    /// All of `uris`, in order, into `sandbox`; ends at the first failure. Files belong to `owner`.
    pub async fn fetch(
        &self,
        _sandbox: &Path,
        _uris: &[Uri],
        _owner: Option<&Owner>,
    ) -> Result<(), FetchError> {
        todo!()
    }
}
