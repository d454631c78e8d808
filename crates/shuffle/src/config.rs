//! What the service is told at its start. Resolved by the caller: no files or environment are read here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bellows_transport::auth::AuthPolicy;

/// Who makes and deletes the directories of applications below a root leaves a directory of this name in it: what is
/// left over there is for them to find, who know which applications live.
pub const KEEPER_DIR: &str = ".bellows";
/// In [`KEEPER_DIR`]: a file for each directory that the agent made beside it, under the directory's name.
pub const LEDGER_DIR: &str = "frameworks";
/// No entry of the ledger is longer.
pub const LEDGER_ENTRY_LIMIT_BYTES: u64 = 4096;

/// Spark's default for `spark.shuffle.service.port`.
pub const DEFAULT_PORT: u16 = 7337;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where executors and reducers connect.
    pub listen: SocketAddr,
    /// Holds the registrations (`registrations.redb`).
    pub work_dir: PathBuf,
    /// Unix socket (mode 0600) for the agent and the operator.
    pub admin_socket: Option<PathBuf>,
    /// Read-only HTTP: `/metrics` and `/v1/status`.
    pub metrics_listen: Option<SocketAddr>,
    /// Names that the metrics' port answers to, beside IP addresses, `localhost` and the machine's own name.
    pub allow_hosts: Vec<String>,
    /// Executors may register only directories below one of these. May be empty only where `listen` is a loopback address.
    pub allowed_roots: Vec<PathBuf>,
    /// Whether an application whose driver registered, is no longer connected and fell silent is removed. Switch it
    /// off where something that knows better (the agent) says when applications end.
    pub heartbeat_cleanup: bool,
    /// Whether blocks of cached RDDs outlive their executor, for applications that set
    /// `spark.shuffle.service.fetch.rdd.enabled`. They are served in any case, as long as they are there.
    pub keep_rdd_blocks: bool,
    /// Directories below a root that belong to no registered application are deleted when nothing was written in
    /// them for so long, unless the root has a keeper ([`KEEPER_DIR`]); with `heartbeat_cleanup` also an application
    /// whose driver promised heartbeats before this service was restarted, when nothing was heard of it either. Nothing
    /// means never.
    pub orphan_age: Option<Duration>,
    /// When set, every connection has to prove that it knows its application's secret.
    pub auth: Option<Auth>,
    /// When set, every connection is TLS (`spark.ssl.rpc.enabled`, Spark 4).
    pub tls: Option<Tls>,
    /// How often it is looked at whether the disks are well.
    pub disk_check_interval: Duration,
    pub limits: Limits,
}

/// `spark.authenticate`, as this service is told.
#[derive(Debug, Clone)]
pub struct Auth {
    /// A secret a line: `SECRET` for all, or `APPLICATION SECRET`. Only its owner may have access to it.
    pub secrets_file: PathBuf,
    pub policy: AuthPolicy,
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificate_chain: PathBuf,
    pub private_key: PathBuf,
}

impl Config {
    /// Spark's port on all addresses, everything else off or at its default.
    pub fn new(work_dir: impl Into<PathBuf>) -> Config {
        Config {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)),
            work_dir: work_dir.into(),
            admin_socket: None,
            metrics_listen: None,
            allow_hosts: Vec::new(),
            allowed_roots: Vec::new(),
            heartbeat_cleanup: true,
            keep_rdd_blocks: false,
            orphan_age: None,
            auth: None,
            tls: None,
            disk_check_interval: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

/// Bounds on what clients can make the service hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at once. For one more, that which has been silent longest is closed; where none is silent,
    /// the new one.
    pub connections: usize,
    /// The largest request frame in bytes.
    pub request_bytes: usize,
    /// Memory for requests that are larger than most (64 KiB), of all connections together, with what they make: an
    /// answer that is as large, and a list of many short names, which takes more than its message. For one more,
    /// connections in the middle of one that wait for their peer are closed, the one silent longest first.
    pub large_requests_bytes: usize,
    /// Memory for streams that are opened and not read to the end, of all connections together. What one connection
    /// has opened counts from 64 KiB on. For one more, connections that have some of it and wait for their peer are
    /// closed, the one silent longest first; where those have too little, only the one that asks.
    pub open_streams_bytes: usize,
    /// Streams that one connection may have opened and not read to the end.
    pub streams_per_connection: usize,
    /// Bytes of shuffle index kept in memory.
    pub index_cache_bytes: u64,
    /// Files of map outputs kept open; no more than half of what the process may open.
    pub open_files: usize,
    /// Memory for copied parts of blocks (encrypted, or for TLS) that wait for slow peers, of all connections together.
    /// Without room, a connection copies 32 KiB at a time instead of 512.
    pub unsent_bytes: usize,
    /// A connection that does not, within this time, take what is being sent (of a large block up to 1 MiB at a time),
    /// bring to an end a message that it began, or authenticate, is cut.
    pub stalled_after: Duration,
    /// Who waits for a disk for longer is told that it does not answer.
    pub disk_answers_within: Duration,
    /// Applications and executors that may be registered at once.
    pub applications: usize,
    pub executors: usize,
    /// Executors of one application at most.
    pub executors_per_application: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16 * 1024,
            request_bytes: 16 << 20,
            large_requests_bytes: 256 << 20,
            open_streams_bytes: 256 << 20,
            streams_per_connection: 4096,
            index_cache_bytes: 64 << 20,
            open_files: 16 * 1024,
            unsent_bytes: 128 << 20,
            stalled_after: Duration::from_secs(60),
            // Spark's clients give up after 120 s (`spark.network.timeout`) and would learn nothing.
            disk_answers_within: Duration::from_secs(100),
            applications: 16 * 1024,
            executors: 1 << 20,
            executors_per_application: 1 << 16,
        }
    }
}
