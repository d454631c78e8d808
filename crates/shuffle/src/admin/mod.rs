//! HTTP over a unix socket: how the agent says that applications and executors ended, and an operator looks in.

mod client;
mod prometheus;
pub(crate) mod server;

pub use client::Client;
