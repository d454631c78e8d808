//! Plumbing that every Bellows process shares: log output, signals, an HTTP listener with bounds, metrics.
//!
//! Knows nothing of Mesos, Spark or this cluster's state; what only one process needs stays there.

mod body;
mod budget;
mod descriptors;
mod hosts;
mod locks;
mod logging;
mod memory;
pub mod metrics;
pub mod outbox;
mod peers;
mod places;
mod server;
mod signal;
mod turns;
mod vital;

pub use body::{BodyError, read_body, shared_body};
pub use budget::{MemoryBudget, Share};
pub use descriptors::raise_descriptor_limit;
pub use hosts::Hosts;
pub use locks::lock_holder;
pub use logging::{LogFormat, init_logging, init_logging_to_file};
pub use memory::{few_arenas, forget_startup};
pub use peers::{LOST_PEER_TIMEOUT, holder, notice_lost_peers};
pub use server::{Disconnect, Limits, Server};
pub use signal::{Request, Signals, shutdown_signal};
pub use turns::{Queued, Turn, Turns};
pub use vital::{Ended, Guard, Vital};
