//! Plumbing that every Bellows process shares: log output, signals, an HTTP listener with bounds, metrics.
//!
//! Knows nothing of Mesos, Spark or this cluster's state; what only one process needs stays there.

mod logging;
mod memory;
pub mod metrics;
mod server;
mod signal;

pub use logging::{LogFormat, init_logging, init_logging_to_file};
pub use memory::{few_arenas, forget_startup};
pub use server::{Disconnect, Limits, Server};
pub use signal::{Request, Signals, shutdown_signal};
