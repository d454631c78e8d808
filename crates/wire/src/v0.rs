//! The older Mesos messages (`org.apache.mesos.Protos`, what JVM libraries speak) and how masters announce themselves.
//!
//! v0 and v1 share every field number, type and label of the messages here, so the bytes of one *are* the bytes of
//! the other: decode v0's `SlaveInfo` as [`v1::AgentInfo`], `SlaveID` as [`v1::AgentId`], and hand v1's bytes to
//! v0's parser. In JSON the names differ (`slave_id`, `REASON_SLAVE_RESTARTED`); [`json::decode`] reads both.

use crate::{
    json::{self, JsonError},
    v1,
};
use std::net::Ipv4Addr;

/// A master as it introduces itself to agents, frameworks and ZooKeeper, all forms of its address filled in.
pub fn master_info(id: &str, hostname: &str, ip: Ipv4Addr, port: u16, version: &str) -> v1::MasterInfo {
    v1::MasterInfo {
        id: id.to_owned(),
        ip: ip_to_wire(ip),
        port: port.into(),
        pid: Some(format!("master@{ip}:{port}")),
        hostname: Some(hostname.to_owned()),
        version: Some(version.to_owned()),
        address: Some(v1::Address {
            hostname: Some(hostname.to_owned()),
            ip: Some(ip.to_string()),
            port: port.into(),
        }),
        ..Default::default()
    }
}

/// The content of a `json.info_…` node, which every Mesos client reads to find the leader.
pub fn master_info_to_json(info: &v1::MasterInfo) -> String {
    // Through a `Value`, as Mesos sorts the names here.
    let value: serde_json::Value =
        serde_json::from_slice(&json::encode(info)).expect("invariant: own text is valid");
    value.to_string()
}

/// Reads a `json.info_…` node.
pub fn master_info_from_json(text: &[u8]) -> Result<v1::MasterInfo, JsonError> {
    json::decode(text)
}

/// Where a master listens: its IP address, else its name, and its port. The newer form wins; `None` when there is
/// none that could be connected to.
pub fn master_address(info: &v1::MasterInfo) -> Option<(String, u16)> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let newer = info.address.as_ref().and_then(|address| {
        let host = given(&address.ip).or_else(|| given(&address.hostname))?;
        Some((host, u16::try_from(address.port).ok()?))
    });
    newer
        .or_else(|| Some((ip_from_wire(info.ip).to_string(), u16::try_from(info.port).ok()?)))
        .filter(|(host, port)| *port != 0 && host != "0.0.0.0")
}

/// An address in network byte order, read as a native integer.
pub fn ip_to_wire(ip: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(ip.octets())
}

/// The reverse of [`ip_to_wire`].
pub fn ip_from_wire(ip: u32) -> Ipv4Addr {
    ip.to_ne_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a real Mesos wrote into ZooKeeper.
    const RECORDED: &str = r#"{"address":{"hostname":"127.0.0.1","ip":"127.0.0.1","port":5060},"capabilities":[{"type":"AGENT_UPDATE"},{"type":"AGENT_DRAINING"},{"type":"QUOTA_V2"}],"hostname":"127.0.0.1","id":"fc91355a-d23a-4088-9427-4581487e6726","ip":16777343,"pid":"master@127.0.0.1:5060","port":5060,"version":"1.12.0"}"#;

    #[test]
    fn a_recorded_announcement_reads_and_writes_the_same() {
        let info = master_info_from_json(RECORDED.as_bytes()).expect("reads");
        assert_eq!(master_info_to_json(&info), RECORDED);
        let ours = master_info(&info.id, "127.0.0.1", Ipv4Addr::LOCALHOST, 5060, "1.12.0");
        assert_eq!(v1::MasterInfo { capabilities: Vec::new(), ..info }, ours);
        assert_eq!(master_address(&ours), Some(("127.0.0.1".into(), 5060)));
    }

    #[test]
    fn an_old_announcement_has_only_an_integer() {
        let info = master_info_from_json(br#"{"id":"x","ip":16777343,"port":5050}"#).expect("reads");
        assert_eq!(master_address(&info), Some(("127.0.0.1".into(), 5050)));
        assert!(master_info_from_json(br#"{"id":"x","port":5050}"#).is_err());
        for port in [0, 65_536] {
            assert_eq!(master_address(&v1::MasterInfo { port, ..info.clone() }), None);
        }
    }
}
