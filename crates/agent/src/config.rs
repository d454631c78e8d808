//! What an agent is told at its start. Resolved by the caller: no files are read here.
use bellows_containment::Rotation;
use bellows_election::Leader;
use bellows_model::EnvironmentVariable;
use bellows_runtime::Limits;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tokio::sync::watch;

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Who leads, as [`bellows_election::detect`] tells it.
    pub master: watch::Receiver<Option<Leader>>,
    /// Sandboxes and the checkpoint. Must be on a local file system; one agent each.
    pub work_dir: PathBuf,
    /// The name that masters, tasks and reducers reach this machine by; default: the advertised address.
    pub hostname: Option<String>,
    /// The address that masters and tasks are told; default: that of `listen`, or, when that is any, the one that
    /// reaches the master.
    pub advertise_ip: Option<IpAddr>,
    /// The port that goes with it; default: that of `listen`.
    pub advertise_port: Option<u16>,
    /// Names that this agent answers to beside its own: those of a proxy before it, aliases.
    pub allow_hosts: Vec<String>,
    /// Limits of the agent's HTTP port.
    pub limits: Limits,
    /// `cpus:4;mem:8192;…`: what is named here replaces what is detected, kind by kind.
    pub resources: String,
    /// `rack:r1;zone:a`.
    pub attributes: String,
    /// One directory on each disk that executors may shuffle through. Each is used by one agent alone.
    pub shuffle_dirs: Vec<PathBuf>,
    /// The admin socket of the shuffle service on this machine.
    pub shuffle_socket: Option<PathBuf>,
    /// The binary that answers `shim` as its first argument; default: this one.
    pub shim_exe: Option<PathBuf>,
    /// Whether tasks run as the user that they or their framework name. Only root can.
    pub switch_user: bool,
    /// What every task finds in its environment unless it says otherwise; `None`: `PATH`, `LANG`, `LC_ALL`, `TZ` and
    /// `JAVA_HOME` of this process, and its `HOME` for tasks that run as the same user.
    pub executor_environment: Option<Vec<EnvironmentVariable>>,
    /// `MESOS_NATIVE_JAVA_LIBRARY` of the tasks.
    pub native_library: Option<PathBuf>,
    /// Between TERM and KILL, for tasks that do not say.
    pub kill_grace: Duration,
    /// How long the sandbox of a task that has ended is kept on a disk with room.
    pub gc_delay: Duration,
    /// The part of the disk that is to stay free: the fuller it is, the earlier sandboxes go.
    pub gc_disk_headroom: f64,
    pub disk_watch_interval: Duration,
    /// How often it is looked at whether the disks are well.
    pub disk_check_interval: Duration,
    /// How much of `stdout` and `stderr` is kept, looked at so often; `None`: all.
    pub rotation: Option<(Rotation, Duration)>,
}

impl Config {
    /// Mesos' defaults.
    pub fn new(
        listen: SocketAddr,
        master: watch::Receiver<Option<Leader>>,
        work_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            listen,
            master,
            work_dir: work_dir.into(),
            hostname: None,
            advertise_ip: None,
            advertise_port: None,
            allow_hosts: Vec::new(),
            limits: Limits::default(),
            resources: String::new(),
            attributes: String::new(),
            shuffle_dirs: Vec::new(),
            shuffle_socket: None,
            shim_exe: None,
            switch_user: rustix::process::geteuid().is_root(),
            executor_environment: None,
            native_library: None,
            kill_grace: Duration::from_secs(5),
            gc_delay: Duration::from_secs(7 * 24 * 3600),
            gc_disk_headroom: 0.1,
            disk_watch_interval: Duration::from_secs(60),
            disk_check_interval: Duration::from_secs(5),
            // Those of Mesos' logrotate module.
            rotation: Some((Rotation { max_bytes: 10 << 20, old_files: 9 }, Duration::from_secs(5))),
        }
    }
}

/// The part of this process' environment that tasks need to find programs and Java; the rest is not theirs to see.
pub(crate) fn inherited_environment() -> Vec<EnvironmentVariable> {
    let variable =
        |name: &str| Some(EnvironmentVariable { name: name.to_owned(), value: std::env::var(name).ok()? });
    ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "JAVA_HOME"].into_iter().filter_map(variable).collect()
}
