//! Master and agent as processes of their own: flags to configuration, until SIGTERM or Ctrl-C.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bellows_election::detect;
use bellows_runtime::{LogFormat, forget_startup, init_logging, shutdown_signal};

use crate::args::{AgentArgs, MasterArgs};
use crate::error::Error;
use crate::operator::parse_address;

pub async fn master(args: MasterArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let mut config = bellows_master::Config::new(SocketAddr::new(args.ip, args.port));
    config.hostname = args.hostname.or_else(machine_name);
    config.kernel.offer_timeout = args.offers.offer_timeout.0;
    let master = start_master(config).await?;
    until_told().await?;
    master.stop().await;
    Ok(())
}

/// At its end the tasks go on: the next agent with this work directory finds them.
pub async fn agent(args: AgentArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let master = detect(&parse_address(&args.address.master)?);
    let mut config = bellows_agent::Config::new(SocketAddr::new(args.ip, args.port), master, args.work_dir);
    config.hostname = args.hostname.or_else(machine_name);
    config.resources = args.resources.unwrap_or_default();
    config.attributes = args.attributes.unwrap_or_default();
    config.shuffle_dirs = args.shuffle_dirs;
    config.shuffle_socket = args.shuffle_socket;
    config.native_library = crate::spark::find_libmesos().ok();
    let mut agent = start_agent(config, "--port").await?;
    tokio::select! {
        told = until_told() => told?,
        error = agent.ended() => return Err(Error::failed(format!("the agent has ended: {error}"), "")),
    }
    agent.stop().await;
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

/// SIGTERM, or Ctrl-C; the start is over.
pub async fn until_told() -> Result<(), Error> {
    forget_startup();
    shutdown_signal().await.map_err(|source| Error::Io { what: "waiting for a signal".to_owned(), source })
}

/// Under which other machines know this one, if it is configured.
fn machine_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty() && name != "localhost" && name != "(none)").then_some(name)
}
