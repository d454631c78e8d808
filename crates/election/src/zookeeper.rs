//! What detecting and contending share of ZooKeeper: sessions, and the sequence nodes under the election's path.

use std::time::Duration;

use zookeeper_client as zk;

use crate::address::ZooKeeperAddress;

/// Names of announcements; the digits after it are ZooKeeper's sequence number.
pub(crate) const NODE_PREFIX: &str = "json.info_";
/// As Mesos' `--zk_session_timeout`.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(100);
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(5);

pub(crate) async fn connect(address: &ZooKeeperAddress) -> Result<zk::Client, zk::Error> {
    let mut connector = zk::Client::connector().with_session_timeout(SESSION_TIMEOUT);
    if let Some(credentials) = &address.credentials {
        connector = connector.with_auth("digest", credentials.as_bytes());
    }
    connector.connect(&address.hosts.join(",")).await
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
}
