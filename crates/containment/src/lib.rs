//! Everything that touches a task's processes and files: launch and kill through the shim, sandboxes, the fetcher.
//!
//! Knows nothing of Mesos' wire formats, of HTTP servers, or of why a task is started or killed.

mod access;
mod containerizer;
mod dirs;
mod fetcher;
mod files;
mod isolator;
mod owner;
mod process;
mod rotation;
mod sandbox;
pub mod shim;
mod strays;
mod tree;

pub use access::Blocked;
pub use containerizer::{
    Config, Containerizer, Exit, ExitEvent, ExitStatus, LaunchError, LaunchSpec, Launched, Recovered,
    RecoveredState,
};
pub use dirs::{OPEN_DIR, PASSAGE_DIR, PRIVATE_DIR, make_dirs, own_dir};
pub use fetcher::{FetchError, FetchFailure, Fetcher, FetcherConfig};
pub use files::{FileEntry, FileRoot, FilesError, READ_LIMIT_BYTES};
pub use isolator::{Isolator, Posix, Usage};
pub use owner::{Owner, OwnerError};
pub use rotation::Rotation;
pub use sandbox::{Run, SandboxError, Sandboxes};
pub use strays::Stray;
pub use tree::{remove_tree, remove_tree_at};
