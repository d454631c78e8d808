//! The agent of one machine: registers with the leading master, runs its tasks in sandboxes, reports how they fare,
//! and owns the directories that executors shuffle through.
//!
//! What to do is decided in `bellows_kernel::agent`; this carries it out. Processes are `bellows_containment`'s.
#![forbid(unsafe_code)]

mod announced;
mod attributes;
mod cgroup;
mod clock;
mod collect;
mod config;
mod disks;
mod driver;
mod effects;
mod environment;
mod error;
/// Parsers of what others write, for the fuzz targets only.
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod link;
mod machine;
mod narrate;
mod resources;
mod rotate;
mod running;
mod shuffle;
mod store;
mod work_dir;

pub use attributes::{AttributeError, parse_attributes};
pub use bellows_containment::Rotation;
pub use bellows_model::EnvironmentVariable;
pub use config::Config;
pub use error::Error;
pub use resources::ResourcesError;
pub use running::{Running, start};
