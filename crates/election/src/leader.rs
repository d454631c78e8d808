//! Who a master is, as it is announced in ZooKeeper: the JSON of Mesos' `MasterInfo`.
//! Only what clients need is kept; unknown fields are ignored.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;
use serde_json::json;

use crate::address::join_host_port;

/// A master, as far as its address and announcement tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The master's id; empty when the operator named the master and nothing announced it.
    pub id: String,
    /// Name or address for people, and for TLS.
    pub hostname: String,
    /// Where to connect, when known; else `hostname` is resolved.
    pub ip: Option<IpAddr>,
    pub port: u16,
    /// Dotted integers; empty when unknown.
    pub version: String,
}

impl Leader {
    /// A master of which only the address is known.
    pub fn at(host: &str, port: u16) -> Self {
        Self {
            id: String::new(),
            hostname: host.to_owned(),
            ip: host.parse().ok(),
            port,
            version: String::new(),
        }
    }

    /// `host:port` to connect to: the announced IP address, else the hostname.
    pub fn authority(&self) -> String {
        match self.ip {
            Some(ip) => join_host_port(&ip.to_string(), self.port),
            None => join_host_port(&self.hostname, self.port),
        }
    }

    /// The `MasterInfo` JSON of a `json.info_` node, with the fields in which Mesos' own clients look.
    pub fn to_json(&self) -> Vec<u8> {
        let ip = self.ip.map_or_else(|| self.hostname.clone(), |ip| ip.to_string());
        // `ip` is the address' four bytes as they lie in memory on x86: an old field, still required.
        let ip_number = match self.ip {
            Some(IpAddr::V4(v4)) => u32::from_le_bytes(v4.octets()),
            _ => 0,
        };
        let info = json!({
            "address": {"hostname": self.hostname, "ip": ip, "port": self.port},
            "capabilities": [{"type": "AGENT_UPDATE"}, {"type": "AGENT_DRAINING"}, {"type": "QUOTA_V2"}],
            "hostname": self.hostname,
            "id": self.id,
            "ip": ip_number,
            "pid": format!("master@{}", join_host_port(&ip, self.port)),
            "port": self.port,
            "version": self.version,
        });
        info.to_string().into_bytes()
    }

    /// Reads `MasterInfo` JSON; `address` wins over the old `ip` and `port`.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let info: MasterInfo = serde_json::from_slice(json)?;
        let address = info.address.unwrap_or_default();
        let ip = address.ip.as_deref().and_then(|ip| ip.parse().ok());
        let ip = ip
            .or_else(|| info.ip.filter(|ip| *ip != 0).map(|ip| IpAddr::V4(Ipv4Addr::from(ip.to_le_bytes()))));
        let hostname = address.hostname.or(info.hostname).filter(|name| !name.is_empty());
        let port = address.port.or(info.port).filter(|port| *port != 0);
        let (Some(port), Some(hostname)) = (port, hostname.or_else(|| ip.map(|ip| ip.to_string()))) else {
            return Err(serde::de::Error::custom("neither address nor ip and port"));
        };
        Ok(Self {
            id: info.id.unwrap_or_default(),
            hostname,
            ip,
            port,
            version: info.version.unwrap_or_default(),
        })
    }
}

#[derive(Deserialize)]
struct MasterInfo {
    id: Option<String>,
    ip: Option<u32>,
    port: Option<u16>,
    hostname: Option<String>,
    version: Option<String>,
    address: Option<Address>,
}

#[derive(Deserialize, Default)]
struct Address {
    hostname: Option<String>,
    ip: Option<String>,
    port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a real Mesos 1.12 wrote it.
    const RECORDED: &str = r#"{"address":{"hostname":"127.0.0.1","ip":"127.0.0.1","port":5060},"capabilities":[{"type":"AGENT_UPDATE"},{"type":"AGENT_DRAINING"},{"type":"QUOTA_V2"}],"hostname":"127.0.0.1","id":"fc91355a-d23a-4088-9427-4581487e6726","ip":16777343,"pid":"master@127.0.0.1:5060","port":5060,"version":"1.12.0"}"#;

    #[test]
    fn reads_and_writes_as_mesos_does() {
        let leader = Leader::from_json(RECORDED.as_bytes()).expect("valid");
        assert_eq!(leader.authority(), "127.0.0.1:5060");
        assert_eq!(leader.id, "fc91355a-d23a-4088-9427-4581487e6726");
        let ours: serde_json::Value = serde_json::from_slice(&leader.to_json()).expect("JSON");
        let theirs: serde_json::Value = serde_json::from_str(RECORDED).expect("JSON");
        assert_eq!(ours, theirs);
    }

    #[test]
    fn old_and_unknown_fields() {
        let leader =
            Leader::from_json(br#"{"id":"m","ip":16777343,"port":5050,"domain":{"x":1},"address":null}"#);
        assert_eq!(leader.expect("valid").authority(), "127.0.0.1:5050");
        let leader = Leader::from_json(br#"{"hostname":"m1.example.org","port":5050}"#).expect("valid");
        assert_eq!(leader.authority(), "m1.example.org:5050");
        assert!(Leader::from_json(b"{}").is_err());
        assert!(Leader::from_json(br#"{"hostname":"m"}"#).is_err());
        assert!(Leader::from_json(b"\x00\x01").is_err());
    }
}
