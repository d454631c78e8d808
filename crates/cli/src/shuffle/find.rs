//! Where this machine's shuffle service listens for its operator, when that one does not say.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellows_client::AgentClient;
use bellows_shuffle::admin::Client;
use bellows_shuffle::{Error as ServiceError, Status};
use tokio::time::timeout;

use crate::args::ShuffleSocketArg;
use crate::embedded;
use crate::error::Error;
use crate::operator::Master;
use crate::{rows, spark};

/// The socket of `bellows shuffle` in its work directory.
pub const SOCKET: &str = "admin.sock";
/// Where `bellows shuffle` has it unless it is told otherwise.
const USUAL: &str = "/var/lib/bellows/shuffle/admin.sock";
/// The master and its agents have so long to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many agents of this machine are asked.
const MAX_AGENTS: usize = 16;

/// The service, and what it says of itself.
pub async fn find(argument: &ShuffleSocketArg) -> Result<(Client, Status), Error> {
    if let Some(socket) = &argument.socket {
        return ask(socket).await.map_err(|error| no_answer(&error_at(socket, &error)));
    }
    let mut tried = Vec::new();
    for socket in usual_places() {
        match ask(&socket).await {
            Ok(found) => return Ok(found),
            Err(error) => tried.push(error_at(&socket, &error)),
        }
    }
    match timeout(PATIENCE, told_by_agents(argument)).await {
        Err(_) => tried.push(format!("the master at {} does not answer", argument.address.master)),
        Ok(Err(error)) => tried.push(error.to_string()),
        Ok(Ok(sockets)) => {
            if sockets.is_empty() {
                let master = &argument.address.master;
                tried.push(format!("no agent of the master at {master} uses one on this machine"));
            }
            for socket in sockets {
                match ask(&socket).await {
                    Ok(found) => return Ok(found),
                    Err(error) => tried.push(error_at(&socket, &error)),
                }
            }
        }
    }
    Err(no_answer(&tried.join("; ")))
}

async fn ask(socket: &Path) -> Result<(Client, Status), ServiceError> {
    let client = Client::new(socket);
    let status = client.status().await?;
    Ok((client, status))
}

fn usual_places() -> Vec<PathBuf> {
    let set = std::env::var_os("BELLOWS_WORK_DIR").map(PathBuf::from);
    let of_up = set.clone().or_else(|| spark::user_directory("XDG_STATE_HOME", ".local/state").ok());
    let of_shuffle = set.map(|work_dir| work_dir.join(SOCKET));
    let of_up = of_up.map(|work_dir| work_dir.join(embedded::SHUFFLE_SOCKET));
    of_shuffle.into_iter().chain([USUAL.into()]).chain(of_up).collect()
}

/// The sockets that this machine's agents were started with, as their `/flags` show them.
async fn told_by_agents(argument: &ShuffleSocketArg) -> Result<Vec<PathBuf>, Error> {
    let master = Master::new(&argument.address)?;
    let agents = master.client.get_agents().await.map_err(|error| Error::call(&master.address, error))?;
    let addresses =
        agents.agents.iter().map(rows::agent_address).filter(|address| is_of_this_machine(address));
    let mut sockets = Vec::new();
    for address in addresses.take(MAX_AGENTS) {
        let Ok(flags) = AgentClient::new(&address, None).get_flags().await else { continue };
        let socket = flags["flags"]["shuffle_socket"].as_str().map(PathBuf::from);
        if let Some(socket) = socket.filter(|socket| !sockets.contains(socket)) {
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

/// Only an address of this machine can be bound to.
fn is_of_this_machine(address: &str) -> bool {
    let ip = address.parse::<SocketAddr>().map(|address| address.ip());
    ip.is_ok_and(|ip: IpAddr| UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok())
}

fn error_at(socket: &Path, error: &ServiceError) -> String {
    match error {
        ServiceError::Io { source, .. } => format!("{}: {source}", socket.display()),
        other => format!("{}: {other}", socket.display()),
    }
}

fn no_answer(tried: &str) -> Error {
    Error::failed(
        format!("no shuffle service answers on this machine: {tried}"),
        "start `bellows shuffle` or `bellows up`; or name the service's admin socket with --socket, or with --master a \
         master whose agents know it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine() {
        assert!(is_of_this_machine("127.0.0.1:5051"));
        // Kept for documents (RFC 5737): nobody has it.
        assert!(!is_of_this_machine("192.0.2.7:5051"));
        assert!(!is_of_this_machine("node7:5051"));
    }
}
