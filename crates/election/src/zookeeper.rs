//! What detecting and contending share of ZooKeeper: sessions, and the sequence nodes under the election's path.

use std::{io, time::Duration};

use tracing::warn;
use zookeeper_client as zk;

use crate::address::ZooKeeperAddress;

/// Names of announcements; the digits after it are ZooKeeper's sequence number.
pub(crate) const NODE_PREFIX: &str = "json.info_";
/// As Mesos' `--zk_session_timeout`.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(100);
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(5);

/// Opens a session. The servers' names are looked up anew each time: the client itself is given addresses only.
pub(crate) async fn connect(address: &ZooKeeperAddress) -> Result<zk::Client, zk::Error> {
    let mut connector = zk::Client::connector().with_session_timeout(SESSION_TIMEOUT);
    if let Some(credentials) = &address.credentials {
        connector = connector.with_auth("digest", credentials.as_bytes());
    }
    connector.connect(&addresses(&address.hosts).await?).await
}

/// Looks up `host:port`s side by side: `address:port,…`. A name that cannot be looked up is left out as long as there
/// is another.
async fn addresses(hosts: &[String]) -> Result<String, zk::Error> {
    let lookups: Vec<_> = hosts
        .iter()
        .map(|server| {
            let server = server.clone();
            tokio::spawn(async move {
                let (host, port) = server.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
                bellows_names::lookup(host, port.parse().map_err(io::Error::other)?).await
            })
        })
        .collect();
    let mut found = Vec::new();
    for lookup in lookups {
        match lookup.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(addresses) => found.extend(addresses.iter().map(ToString::to_string)),
            Err(error) => warn!(%error, "a ZooKeeper server is left out"),
        }
    }
    if found.is_empty() { Err(zk::Error::NoHosts) } else { Ok(found.join(",")) }
}

/// The announcement that leads: the one with the lowest sequence number.
pub(crate) fn leading_node(children: &[String]) -> Option<&str> {
    children.iter().filter_map(|name| Some((sequence(name)?, name.as_str()))).min().map(|(_, name)| name)
}

/// ZooKeeper writes the number with ten digits, and counts on into the negative after 2^31.
pub(crate) fn sequence(name: &str) -> Option<i64> {
    name.strip_prefix(NODE_PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_announcement_leads() {
        let children: Vec<String> = [
            "json.info_0000000010",
            "log_replicas",
            "json.info_0000000009",
            "info_0000000001",
            "json.info_x",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(leading_node(&children), Some("json.info_0000000009"));
        assert_eq!(leading_node(&children[1..2]), None);
    }

    #[tokio::test]
    async fn servers_are_looked_up() {
        let hosts = ["127.0.0.1:2181", "[::1]:2182", "zk.localhost:2183", "-no-name:2184"].map(str::to_owned);
        let found = addresses(&hosts).await.expect("three of four");
        assert_eq!(found, "127.0.0.1:2181,[::1]:2182,127.0.0.1:2183,[::1]:2183");
        assert_eq!(addresses(&hosts[3..]).await, Err(zk::Error::NoHosts));
    }
}
