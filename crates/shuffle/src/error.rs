//! What can keep the service from starting, or an admin call from being answered.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// For the operator: another process holds the port, or the address is not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Bind { address: String, source: io::Error },
    /// For the operator, as [`Error::Bind`].
    #[error("cannot serve metrics on {address}: {source}")]
    BindMetrics { address: String, source: io::Error },
    /// For the operator: two services cannot keep their registrations in one place.
    #[error(
        "{work_dir} is in use by another shuffle service{}",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse { work_dir: String, holder: Option<u32> },
    /// For the operator: the disk or its permissions.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// For the operator: the registrations cannot be read or written.
    #[error("registrations in {path}: {reason}")]
    Store { path: String, reason: String },
    /// For the operator.
    #[error("secrets in {path}: {reason}")]
    Secrets { path: String, reason: String },
    #[error("TLS from {path}: {reason}")]
    Tls { path: String, reason: String },
    /// For the operator: no roots are named though others can connect, who could name any directory of this machine.
    #[error("others can connect to {address}, and no directories are named that executors may use")]
    NoRoots { address: String },
    /// The admin socket answered with an error.
    #[error("the shuffle service answered {status}: {message}")]
    Refused { status: u16, message: String },
}
