//! Where a container's resources are measured, and its processes found when no shim is left to do it.
//!
//! The seam for cgroups: today there is only [`Posix`], which enforces nothing.
use bellows_model::ContainerId;

/// What the processes of one container use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    pub processes: u32,
    /// Of live processes and of those that they have waited for.
    pub cpu_user_seconds: f64,
    pub cpu_system_seconds: f64,
    pub rss_bytes: u64,
}

/// All calls may block.
pub trait Isolator: Send + Sync {
    /// `root`: the container's shim.
    fn usage(&self, container_id: &ContainerId, root: u32) -> Usage;
}

/// Processes and their ancestry as `/proc` shows them.
pub struct Posix;

impl Isolator for Posix {
    fn usage(&self, _container_id: &ContainerId, _root: u32) -> Usage {
        todo!()
    }
}
