//! The cluster's parts as processes of their own: flags to configuration, until SIGTERM or Ctrl-C.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bellows_election::detect;
use bellows_runtime::{LogFormat, init_logging, shutdown_signal};

use crate::args::{AgentArgs, MasterArgs, ShuffleServeArgs, ShuffleStatusArgs};
use crate::error::Error;
use crate::operator::parse_address;
use crate::output::{Table, bytes, out};

const SOCKET: &str = "admin.sock";

pub async fn master(args: MasterArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let mut config = bellows_master::Config::new(SocketAddr::new(args.ip, args.port));
    config.hostname = args.hostname.or_else(machine_name);
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

pub async fn shuffle(args: ShuffleServeArgs) -> Result<(), Error> {
    init_logging("info", LogFormat::Text);
    let socket = args.socket.unwrap_or_else(|| args.work_dir.join(SOCKET));
    let mut config = bellows_shuffle::Config::new(args.work_dir);
    config.listen = SocketAddr::new(args.ip, args.port);
    config.admin_socket = Some(socket);
    config.metrics_listen = args.metrics_port.map(|port| SocketAddr::new(args.ip, port));
    config.allowed_roots = args.shuffle_dirs;
    config.heartbeat_cleanup = args.heartbeat_cleanup;
    let shuffle = start_shuffle(config).await?;
    until_told().await?;
    shuffle.stop().await;
    Ok(())
}

pub async fn shuffle_status(args: ShuffleStatusArgs) -> Result<(), Error> {
    let client = bellows_shuffle::admin::Client::new(&args.socket);
    let status = client.status().await.map_err(|error| {
        Error::failed(
            format!("no shuffle service answers at {}: {error}", args.socket.display()),
            "name its admin socket with --socket; `bellows up` has it as shuffle.sock in its work directory",
        )
    })?;
    if args.json {
        out!("{}", serde_json::to_string_pretty(&status).expect("invariant: plain values are JSON"));
    } else {
        out!("{}", status_text(&status));
    }
    Ok(())
}

fn status_text(status: &bellows_shuffle::Status) -> String {
    let mut table =
        Table::new(&["APPLICATION", "EXECUTORS", "DEPARTED", "BLOCKS", "BYTES", "FOR DEPARTED", "ON DISK"]);
    for (id, app) in &status.applications {
        table.row([
            id.clone(),
            app.executors.to_string(),
            app.departed_executors.to_string(),
            app.blocks_served.to_string(),
            bytes(app.bytes_served),
            bytes(app.departed_bytes_served),
            app.disk_bytes.map_or_else(|| "-".to_owned(), bytes),
        ]);
    }
    let mut text = table.render("no applications");
    text += &format!(
        "\n\n{} executors registered; {} blocks, {} served over {} requests; p50 {} µs, p99 {} µs; \
         {} connections open, {} blocks being sent",
        status.registered_executors,
        status.blocks_served,
        bytes(status.bytes_served),
        status.latency.requests,
        status.latency.p50_us,
        status.latency.p99_us,
        status.open_connections,
        status.chunks_in_flight
    );
    for (kind, count) in &status.errors {
        text += &format!("\n{count} errors: {kind}");
    }
    for (disk, count) in &status.disk_errors {
        text += &format!("\n{count} errors of the disk at {disk}");
    }
    text
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

pub async fn start_shuffle(config: bellows_shuffle::Config) -> Result<bellows_shuffle::Running, Error> {
    let address = config.listen;
    bellows_shuffle::start(config).await.map_err(|error| match &error {
        bellows_shuffle::Error::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse => {
            Error::AddressInUse { what: "shuffle service", address, flag: "--shuffle-port or --port" }
        }
        _ => Error::failed(format!("the shuffle service does not start: {error}"), ""),
    })
}

/// An address that a client on this machine can connect to.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        false => address,
    }
}

/// SIGTERM, or Ctrl-C.
pub async fn until_told() -> Result<(), Error> {
    shutdown_signal().await.map_err(|source| Error::Io { what: "waiting for a signal".to_owned(), source })
}

/// Under which other machines know this one, if it is configured.
fn machine_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty() && name != "localhost" && name != "(none)").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_essentials_of_a_shuffle_service() {
        let mut status =
            bellows_shuffle::Status { blocks_served: 300, bytes_served: 20_000_000, ..Default::default() };
        status.applications.insert(
            "m-0001".to_owned(),
            bellows_shuffle::AppStatus {
                executors: 2,
                departed_executors: 6,
                blocks_served: 300,
                bytes_served: 20_000_000,
                departed_blocks_served: 288,
                departed_bytes_served: 14_400_000,
                disk_bytes: Some(15_000_000),
            },
        );
        status.registered_executors = 8;
        status.errors.insert("not_registered".to_owned(), 3);
        status.disk_errors.insert("/data/1".to_owned(), 2);
        insta::assert_snapshot!(status_text(&status));
        insta::assert_snapshot!("idle", status_text(&bellows_shuffle::Status::default()));
    }
}
