//! The external shuffle service: executors register the directories they write to, reducers fetch blocks from
//! them, also after the executor has gone. It speaks Spark's protocol and knows nothing of Mesos.

pub mod admin;
mod blocks;
mod checksum;
mod config;
mod disks;
mod error;
mod keeper;
mod metrics;
mod processes;
mod registry;
mod security;
mod server;
mod service;
mod status;
mod store;
mod tidy;
mod told;
mod upkeep;

pub use bellows_transport::auth::AuthPolicy;
pub use config::{Auth, Config, DEFAULT_PORT, KEEPER_DIR, LEDGER_DIR, LEDGER_ENTRY_LIMIT_BYTES, Limits, Tls};
pub use disks::mount_point;
pub use error::Error;
pub use status::{AppStatus, ExecutorRemoval, LatencyStatus, Removal, Status};

/// Parsers of what others write, for the fuzz targets only.
#[doc(hidden)]
pub mod fuzzing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bellows_runtime::{Ended, Hosts, Vital};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use registry::{Bounds, Registry};
use service::Service;
use store::Store;

/// How long answers under way may take once the service is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// An answer tells of all applications: who reads slowly must not make many of them.
const METRICS_LIMITS: bellows_runtime::Limits = bellows_runtime::Limits {
    max_connections: 64,
    header_timeout: Duration::from_secs(10),
    ping_timeout: Duration::from_secs(20),
    idle_timeout: Duration::from_secs(120),
    answer_timeout: Duration::from_secs(60),
};

/// A service that is running; dropping it does not stop it, [`Running::stop`] does.
pub struct Running {
    local_addr: SocketAddr,
    service: Arc<Service>,
    metrics: Option<bellows_runtime::Server>,
    vital: Vital,
    stop: CancellationToken,
    tasks: TaskTracker,
    store_thread: std::thread::JoinHandle<()>,
}

/// Binds, reads the stored registrations back and serves until [`Running::stop`].
pub async fn start(mut config: Config) -> Result<Running, Error> {
    raise_descriptor_limit();
    config.allowed_roots = disks::real_roots(config.allowed_roots).await;
    let security = security::Security::load(&config)?;
    if config.allowed_roots.is_empty() && !config.listen.ip().is_loopback() {
        return Err(Error::NoRoots { address: config.listen.to_string() });
    }
    let listener = bind(config.listen).await?;
    let local_addr =
        listener.local_addr().map_err(|source| Error::Io { what: "local address".into(), source })?;
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address).await.map_err(of_metrics)?),
        None => None,
    };
    let registry = Arc::new(Registry::with(Bounds {
        apps: config.limits.applications,
        executors: config.limits.executors,
        executors_of_app: config.limits.executors_per_application,
    }));
    let (store, recovered, store_thread) = open_store(&config, registry.clone()).await?;
    // After the store: its directory is there now, and another service that uses it was noticed.
    let admin = config.admin_socket.as_deref().map(admin::server::bind).transpose()?;
    tracing::info!(%local_addr, executors = registry.executor_count(), "shuffle service starts");
    disks::check_keepers(&config.allowed_roots).await;
    let service = Arc::new(Service::new(config, security, registry, (store, recovered)));

    let vital = Vital::new();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let accepting = server::run(listener, service.clone(), stop.clone(), tasks.clone());
    tasks.spawn(guarded(&vital, "accepting connections", accepting));
    tasks.spawn(guarded(&vital, "upkeep", upkeep::run(service.clone(), stop.clone())));
    tasks.spawn(guarded(&vital, "the store of registrations", store_ended(service.clone(), stop.clone())));
    if let Some(admin) = admin {
        let serving = admin::server::serve(admin, service.clone(), stop.clone());
        tasks.spawn(guarded(&vital, "the admin socket", serving));
    }
    let metrics = metrics_listener
        .map(|listener| {
            let allowed = service.config.allow_hosts.iter().map(String::as_str);
            let routes = Hosts::new([], allowed).guard(admin::server::metrics_routes(service.clone()));
            bellows_runtime::Server::start(listener, routes, METRICS_LIMITS)
        })
        .transpose()
        .map_err(|source| Error::Io { what: "metrics listener".into(), source })?;
    Ok(Running { local_addr, service, metrics, vital, stop, tasks, store_thread })
}

impl Running {
    /// Where executors and reducers connect; the real port when the configuration said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where metrics are served, when the configuration asked for it.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(bellows_runtime::Server::local_addr)
    }

    /// The same facts that `GET /v1/status` answers.
    pub fn status(&self) -> Status {
        self.service.status()
    }

    /// Waits until a part without which the service cannot go on has ended; returns which, and why.
    pub async fn ended(&self) -> Ended {
        match &self.metrics {
            Some(metrics) => tokio::select! {
                ended = self.vital.ended() => ended,
                ended = metrics.ended() => ended,
            },
            None => self.vital.ended().await,
        }
    }

    /// Stops accepting, lets answers under way finish for a moment, closes. When this returns, the registrations'
    /// file is closed too, unless a connection outlived the grace.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if let Some(metrics) = self.metrics {
            metrics.stop(STOP_GRACE).await;
        }
        let ended = tokio::time::timeout(STOP_GRACE, self.tasks.wait()).await.is_ok();
        drop(self.service);
        if ended {
            drop(tokio::task::spawn_blocking(|| self.store_thread.join()).await);
        } else {
            tracing::warn!("connections outlived the grace period");
        }
    }
}

/// Runs `part`; when it ends, the process is to end.
fn guarded(
    vital: &Vital,
    what: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let guard = vital.guard(what);
    async move {
        let _guard = guard;
        part.await;
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address: address.to_string(), source })
}

fn of_metrics(error: Error) -> Error {
    match error {
        Error::Bind { address, source } => Error::BindMetrics { address, source },
        other => other,
    }
}

async fn open_store(
    config: &Config,
    registry: Arc<Registry>,
) -> Result<(Store, store::Recovered, std::thread::JoinHandle<()>), Error> {
    let work_dir = config.work_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&work_dir, registry)).await;
    opened.map_err(|e| Error::Io { what: "opening the registrations".into(), source: e.into() })?
}

async fn store_ended(service: Arc<Service>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = service.store_ended() => {}
    }
}

/// Connections and open files are what this service is made of; the soft limit of 1024 is from another time.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "descriptor limit stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn running() -> (tempfile::TempDir, Running) {
        let dir = tempfile::tempdir().expect("directory");
        let mut config = Config::new(dir.path());
        config.listen = ([127, 0, 0, 1], 0).into();
        (dir, start(config).await.expect("starts"))
    }

    #[tokio::test]
    async fn a_service_whose_store_panics_has_ended() {
        let (_dir, running) = running().await;
        let removed = running.service.forget_app_if("app", |_| panic!("on purpose"));
        // Of an application that is not known nothing is asked.
        running.service.register_driver("app".into(), 1000).await.expect("registered");
        removed.await.expect_err("the store is gone");
        assert_eq!(running.ended().await.what, "the store of registrations");
    }
}
