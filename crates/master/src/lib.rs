//! A master: frameworks and agents connect to it over HTTP, the kernel decides, the decisions go out.
//!
//! Three parts: `ingress` turns requests into events and reads, `driver` owns the kernel's state and is the only one
//! that changes it, `effects` carries out what the kernel wants done. No decision about the cluster is taken here.
#![forbid(unsafe_code)]

mod clock;
mod driver;
mod effects;
/// Parsers of what others write, for the fuzz targets only.
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod index;
mod ingress;
mod names;
mod narrate;
mod operator;
mod snapshot;
mod speech;
mod streams;
mod views;
mod weight;

pub use bellows_kernel::master::Config as KernelConfig;
pub use bellows_runtime::{LOST_PEER_TIMEOUT, Limits};

use bellows_kernel::master::State;
use bellows_runtime::{Ended, Hosts, MemoryBudget, Turns, Vital};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// What an operator sets.
#[derive(Debug, Clone)]
pub struct Config {
    /// Nothing is authenticated: whoever reaches this address may use the cluster.
    pub listen: SocketAddr,
    /// The name that clients are told; the advertised address when `None`.
    pub hostname: Option<String>,
    /// The address that clients are told; the bound one when `None`, and loopback when that is every address.
    pub advertise_ip: Option<IpAddr>,
    /// The port that goes with it; the bound one when `None`.
    pub advertise_port: Option<u16>,
    /// Names that this master answers to beside its own: those of a proxy before it, aliases.
    pub allow_hosts: Vec<String>,
    pub kernel: KernelConfig,
    pub limits: Limits,
    /// How often a stream says that it lives.
    pub heartbeat: Duration,
    /// How long an agent that has connected may take to register.
    pub registration_timeout: Duration,
    /// A peer that vanished without a word is given up so long after it should have answered something.
    pub lost_peer_timeout: Duration,
    /// Longer calls are refused.
    pub max_body_bytes: usize,
    /// A peer that leaves more unread is disconnected.
    pub max_unread_bytes: u32,
    /// Memory for all peers' calls as they arrive and as they are decoded, and for answers and events that are not read.
    /// Where it is used up, who moves least of what it has is disconnected.
    pub shared_memory_bytes: usize,
}

impl Config {
    /// Mesos' defaults, under a new master id.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            hostname: None,
            advertise_ip: None,
            advertise_port: None,
            allow_hosts: Vec::new(),
            kernel: KernelConfig::new(uuid::Uuid::new_v4().to_string()),
            limits: Limits::default(),
            heartbeat: Duration::from_secs(15),
            registration_timeout: Duration::from_secs(10),
            lost_peer_timeout: LOST_PEER_TIMEOUT,
            max_body_bytes: 16 << 20,
            max_unread_bytes: 64 << 20,
            shared_memory_bytes: 512 << 20,
        }
    }
}

/// Why a master cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot listen on {address}: {source}; is another master running there? choose another port, or 0 for any"
    )]
    Listen { address: SocketAddr, source: io::Error },
}

/// A master that serves. It goes on when this is dropped: see [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    server: bellows_runtime::Server,
    driver: JoinHandle<()>,
    vital: Vital,
    stopping: CancellationToken,
}

/// Answers that are made of copies of the state at the same time: each takes a few times the answer's size.
const WRITERS: usize = 2;
/// Such answers that one peer address may wait for.
const READS_OF_ONE_PEER: usize = 32;

/// How long requests may take to end when the master stops.
const GRACE: Duration = Duration::from_secs(5);

/// Listens and serves from the moment it returns.
pub async fn start(config: Config) -> Result<Running, Error> {
    let listen = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    bellows_runtime::notice_lost_peers(&listener, config.lost_peer_timeout).map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;

    let clock = clock::Clock::start();
    let identity = Arc::new(identity::Identity::new(
        &config.kernel,
        announced(bound, config.advertise_ip, config.advertise_port),
        config.hostname,
        clock.now(),
    ));
    let allowed = config.allow_hosts.iter().map(String::as_str);
    let hosts = Hosts::new([identity.hostname.as_str()], allowed);
    let flags = flags(&config.kernel, &identity);
    let effects = effects::Effects::new(Arc::clone(&identity), &config.kernel);
    let state = State::new(config.kernel, clock.now());
    let stopping = CancellationToken::new();
    let (driver, handle) = driver::Driver::new(clock, state, effects, stopping.clone());
    let shared = ingress::Shared {
        driver: handle,
        leadership: ingress::Leadership::of(identity.as_leader()),
        identity,
        flags,
        heartbeat: config.heartbeat,
        registration_timeout: config.registration_timeout,
        max_body_bytes: config.max_body_bytes,
        max_unread_bytes: config.max_unread_bytes,
        memory: MemoryBudget::new(config.shared_memory_bytes),
        readers: Turns::new(WRITERS, READS_OF_ONE_PEER),
        decoders: ingress::Decoders::default(),
    };
    let router = hosts.guard(ingress::router(shared));
    let server = bellows_runtime::Server::start(listener, router, config.limits)
        .map_err(|source| Error::Listen { address: bound, source })?;
    tracing::info!(address = %bound, "the master listens");
    let vital = Vital::new();
    let driver = vital.spawn("the master's driver", driver.run());
    Ok(Running { server, driver, vital, stopping })
}

impl Running {
    /// Where it listens; the port is the real one.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Returns when the master can no longer do its work: it is to be stopped.
    pub async fn ended(&self) -> Ended {
        tokio::select! {
            ended = self.vital.ended() => ended,
            ended = self.server.ended() => ended,
        }
    }

    /// Ends all streams, lets running requests end, and is done.
    pub async fn stop(self) {
        self.stopping.cancel();
        if let Err(error) = self.driver.await {
            tracing::error!(%error, "the driver has failed");
        }
        self.server.stop(GRACE).await;
    }
}

/// Returns the address that clients are told: what is given, else what is bound.
fn announced(bound: SocketAddr, ip: Option<IpAddr>, port: Option<u16>) -> SocketAddr {
    let ip = ip.unwrap_or(match bound.ip() {
        // Every address is none that can be told; on one machine this one always works.
        ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    });
    SocketAddr::new(ip, port.unwrap_or(bound.port()))
}

/// Returns what `/flags` shows: the settings that are in force, under Mesos' names.
fn flags(kernel: &KernelConfig, identity: &identity::Identity) -> Vec<(&'static str, String)> {
    let secs = |duration: Duration| format!("{}secs", duration.as_secs_f64());
    let milli = |value: i64| value as f64 / 1_000.0;
    let mut flags = vec![
        ("agent_ping_timeout", secs(kernel.agent_ping_interval)),
        ("agent_reregister_timeout", secs(kernel.agent_reregister_timeout)),
        ("allocator", "hierarchical".to_owned()),
        ("authenticate_agents", "false".to_owned()),
        ("authenticate_frameworks", "false".to_owned()),
        ("authenticate_http_frameworks", "false".to_owned()),
        ("authenticate_http_readonly", "false".to_owned()),
        ("authenticate_http_readwrite", "false".to_owned()),
        ("framework_sorter", "drf".to_owned()),
        ("hostname", identity.hostname.clone()),
        ("ip", identity.ip.to_string()),
        ("max_agent_ping_timeouts", kernel.max_agent_ping_timeouts.to_string()),
        ("max_completed_frameworks", kernel.max_completed_frameworks.to_string()),
        ("max_completed_tasks_per_framework", kernel.max_completed_tasks_per_framework.to_string()),
        (
            "min_allocatable_resources",
            format!("cpus:{}|mem:{}", milli(kernel.min_cpus), milli(kernel.min_mem)),
        ),
    ];
    if let Some(timeout) = kernel.offer_timeout {
        flags.push(("offer_timeout", secs(timeout)));
    }
    flags.push(("port", identity.port.to_string()));
    flags.push(("registry", "in_memory".to_owned()));
    flags.push(("role_sorter", "drf".to_owned()));
    flags
}
