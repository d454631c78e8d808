//! Master and agent as processes of their own: flags to configuration, until a signal ends them.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellows_agent::Rotation;
use bellows_election::detect;
use bellows_names::OwnName;
use bellows_runtime::{LogFormat, Request, Signals, forget_startup, init_logging, shutdown_signal};

use crate::args::{AgentArgs, MasterArgs};
use crate::error::Error;
use crate::operator::parse_address;
use crate::value;

/// Why the process ends though nobody asked for it; also in the log, where there is one.
pub fn fatal(what: impl Display, error: impl Display) -> Error {
    tracing::error!(%error, "{what} cannot go on");
    Error::failed(format!("{what} has ended: {error}"), "")
}

pub async fn master(args: MasterArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let mut config = bellows_master::Config::new(SocketAddr::new(args.ip, args.port));
    config.kernel.offer_timeout = args.offers.offer_timeout.0;
    let name = own_name(args.hostname, args.ip).await;
    config.advertise_port = args.advertise.advertise_port;
    config.advertise_ip = args.advertise.advertise_ip.or_else(|| {
        let addresses = name.as_ref().map(|name| name.addresses.as_slice()).unwrap_or_default();
        args.ip.is_unspecified().then(|| bellows_names::advertised_address(addresses))
    });
    config.hostname = name.map(|name| name.name);
    config.allow_hosts = args.hosts.allow_hosts;
    let master = start_master(config).await?;
    let outcome = tokio::select! {
        told = until_told() => told,
        ended = master.ended() => Err(fatal("the master", ended)),
    };
    unless_hurried(master.stop()).await;
    outcome
}

/// At its end the tasks go on: the next agent with this work directory finds them. SIGUSR1 takes the agent out of
/// service, as it does with Mesos' agents: the master forgets it at once, and its tasks end.
pub async fn agent(args: AgentArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let hostname = own_name(args.hostname.clone(), args.ip).await.map(|name| name.name);
    let mut agent = start_agent(agent_config(args, hostname)?, "--port").await?;
    forget_startup();
    let mut signals = listen_to_signals()?;
    let mut retiring = false;
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::End if !retiring => break,
                Request::Retire if !retiring => {
                    retiring = true;
                    tracing::info!("taken out of service: leaving the master and ending all tasks");
                    agent.retire().await;
                }
                // Whoever asks twice is in a hurry.
                Request::End | Request::Retire => agent.kill_tasks_now().await,
            },
            error = agent.ended() => match retiring {
                true => return Ok(()),
                false => return Err(fatal("the agent", error)),
            },
        }
    }
    unless_hurried(agent.stop()).await;
    Ok(())
}

/// What the flags ask for.
fn agent_config(args: AgentArgs, hostname: Option<String>) -> Result<bellows_agent::Config, Error> {
    let master = detect(&parse_address(&args.address.master)?);
    let shuffle_dirs = match args.shuffle_dirs.is_empty() {
        true => vec![default_shuffle_dir(&args.work_dir)?],
        false => args.shuffle_dirs,
    };
    let mut config = bellows_agent::Config::new(SocketAddr::new(args.ip, args.port), master, args.work_dir);
    config.hostname = hostname;
    config.advertise_ip = args.advertise.advertise_ip;
    config.advertise_port = args.advertise.advertise_port;
    config.allow_hosts = args.hosts.allow_hosts;
    config.resources = value::resolve("--resources", args.resources.unwrap_or_default())?;
    config.attributes = value::resolve("--attributes", args.attributes.unwrap_or_default())?;
    config.switch_user &= !args.no_switch_user;
    if let Some(json) = args.executor_environment {
        const FLAG: &str = "--executor-environment";
        config.executor_environment = Some(value::environment(FLAG, &value::resolve(FLAG, json)?)?);
    }
    let rotation = Rotation { max_bytes: args.max_output_size, old_files: args.max_output_files };
    config.rotation =
        config.rotation.map(|(_, interval)| (rotation, interval)).filter(|_| rotation.max_bytes > 0);
    config.gc_delay = args.collection.gc_delay.0.unwrap_or(Duration::MAX);
    config.gc_disk_headroom = args.collection.gc_disk_headroom;
    config.disk_watch_interval = args.collection.disk_watch_interval.0.unwrap_or(Duration::MAX);
    config.shuffle_dirs = shuffle_dirs;
    config.shuffle_socket = args.shuffle_socket;
    config.native_library = crate::spark::find_libmesos().ok();
    Ok(config)
}

/// Executors are told its whole path.
fn default_shuffle_dir(work_dir: &Path) -> Result<PathBuf, Error> {
    let work_dir = std::path::absolute(work_dir).map_err(|source| Error::io("finding", work_dir, source))?;
    Ok(work_dir.join("shuffle"))
}

pub async fn start_master(config: bellows_master::Config) -> Result<bellows_master::Running, Error> {
    let address = config.listen;
    bellows_master::start(config).await.map_err(|error| match &error {
        bellows_master::Error::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse => {
            Error::AddressInUse { what: "master", address, flag: "--port" }
        }
        _ => Error::failed(format!("the master does not start: {error}"), ""),
    })
}

pub async fn start_agent(
    config: bellows_agent::Config,
    flag: &'static str,
) -> Result<bellows_agent::Running, Error> {
    let address = config.listen;
    bellows_agent::start(config).await.map_err(|error| match &error {
        bellows_agent::Error::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse => {
            Error::AddressInUse { what: "agent", address, flag }
        }
        _ => Error::failed(format!("the agent does not start: {error}"), ""),
    })
}

/// An address that a client on this machine can connect to.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        false => address,
    }
}

/// SIGTERM, Ctrl-C, or the end of the terminal; the start is over.
pub async fn until_told() -> Result<(), Error> {
    forget_startup();
    listen_to_signals()?.next().await;
    Ok(())
}

/// Waits for `stop`, but after a second signal no longer.
pub async fn unless_hurried(stop: impl Future<Output = ()>) {
    tokio::select! {
        () = stop => {}
        Ok(()) = shutdown_signal() => {}
    }
}

fn listen_to_signals() -> Result<Signals, Error> {
    Signals::listen().map_err(|source| Error::Io { what: "waiting for a signal".to_owned(), source })
}

/// The name that others are told: the operator's, else the machine's full one. Warns where it leads them to themselves.
async fn own_name(given: Option<String>, listens_on: IpAddr) -> Option<OwnName> {
    let name = match given {
        Some(name) => OwnName::given(name).await,
        None => bellows_names::host_name().await?,
    };
    if name.is_loopback() && !listens_on.is_loopback() {
        tracing::warn!(
            name = name.name,
            "this machine's name stands for a loopback address, as Debian's 127.0.1.1 in /etc/hosts: executors on it \
             cannot be reached from other machines. Put the machine's own address before its name in /etc/hosts, or \
             start with --hostname and a name or an address that all machines reach it by"
        );
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operator_decides_which_user_tasks_run_as_and_what_they_find() {
        use clap::Parser as _;
        let config = |flags: &[&str]| {
            let line = ["bellows", "agent", "--work-dir", "/srv/agent"].iter().chain(flags);
            let Ok(crate::args::Cli { command: crate::args::Command::Agent(args) }) =
                crate::args::Cli::try_parse_from(line)
            else {
                panic!("{flags:?}")
            };
            agent_config(args, None)
        };
        let plain = config(&[]).expect("meant");
        assert_eq!(plain.switch_user, rustix::process::geteuid().is_root());
        assert!(plain.executor_environment.is_none());
        let set = config(&["--no-switch-user", "--executor-environment", r#"{"HOME": "/srv/spark"}"#]);
        let set = set.expect("meant");
        assert!(!set.switch_user);
        let environment = set.executor_environment.expect("set");
        let [home] = &environment[..] else { panic!("{environment:?}") };
        assert_eq!((home.name.as_str(), home.value.as_str()), ("HOME", "/srv/spark"));
        let error = config(&["--executor-environment", "HOME=/srv/spark"]).expect_err("no JSON");
        assert!(error.to_string().contains("--executor-environment"), "{error}");
    }

    #[test]
    fn shuffle_files_lie_below_the_work_directory_where_nothing_else_is_said() {
        let of = |work_dir: &str| default_shuffle_dir(Path::new(work_dir)).expect("there is a directory");
        assert_eq!(of("/var/lib/bellows/agent"), Path::new("/var/lib/bellows/agent/shuffle"));
        assert!(of("state").is_absolute() && of("state").ends_with("state/shuffle"));
    }
}
