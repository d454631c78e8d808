//! Master and agent as processes of their own: flags to configuration, until a signal ends them.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bellows_agent::Rotation;
use bellows_election::detect;
use bellows_runtime::{LogFormat, Request, Signals, forget_startup, init_logging, shutdown_signal};

use crate::args::{AgentArgs, MasterArgs};
use crate::error::Error;
use crate::operator::parse_address;
use crate::value;

pub async fn master(args: MasterArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let mut config = bellows_master::Config::new(SocketAddr::new(args.ip, args.port));
    config.hostname = args.hostname.or_else(machine_name);
    let master = start_master(config).await?;
    until_told().await?;
    unless_hurried(master.stop()).await;
    Ok(())
}

/// At its end the tasks go on: the next agent with this work directory finds them. SIGUSR1 takes the agent out of
/// service, as it does with Mesos' agents: the master forgets it at once, and its tasks end.
pub async fn agent(args: AgentArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let master = detect(&parse_address(&args.address.master)?);
    let mut config = bellows_agent::Config::new(SocketAddr::new(args.ip, args.port), master, args.work_dir);
    config.hostname = args.hostname.or_else(machine_name);
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
    config.shuffle_dirs = args.shuffle_dirs;
    config.shuffle_socket = args.shuffle_socket;
    config.native_library = crate::spark::find_libmesos().ok();
    let mut agent = start_agent(config, "--port").await?;
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
                false => return Err(Error::failed(format!("the agent has ended: {error}"), "")),
            },
        }
    }
    unless_hurried(agent.stop()).await;
    Ok(())
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

/// Under which other machines know this one, if it is configured.
fn machine_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty() && name != "localhost" && name != "(none)").then_some(name)
}
