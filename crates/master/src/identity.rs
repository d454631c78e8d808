//! Who this master is, as it tells frameworks, agents and operators.
use bellows_kernel::{Time, master::Config as KernelConfig};
use bellows_wire::v1;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The Mesos version whose API this is; clients choose what they may ask for by it.
pub(crate) const API_VERSION: &str = "1.12.0";

/// What a master can do, in Mesos' names.
pub(crate) const CAPABILITIES: [&str; 1] = ["AGENT_UPDATE"];

#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) id: String,
    pub(crate) hostname: String,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) started: Time,
    pub(crate) ping_interval: Duration,
    pub(crate) max_missed_pings: u32,
    /// When the running program was built.
    pub(crate) built: Option<Duration>,
}

impl Identity {
    pub(crate) fn new(
        kernel: &KernelConfig,
        announced: SocketAddr,
        hostname: Option<String>,
        started: Time,
    ) -> Self {
        let ip = announced.ip();
        Self {
            id: kernel.master_id.clone(),
            hostname: hostname.unwrap_or_else(|| ip.to_string()),
            ip,
            port: announced.port(),
            started,
            ping_interval: kernel.agent_ping_interval,
            max_missed_pings: kernel.max_agent_ping_timeouts,
            built: built(),
        }
    }

    pub(crate) fn as_leader(&self) -> bellows_election::Leader {
        bellows_election::Leader {
            id: self.id.clone(),
            hostname: self.hostname.clone(),
            ip: Some(self.ip),
            port: self.port,
            version: API_VERSION.to_owned(),
        }
    }

    /// Mesos' name of the process: `master@ip:port`.
    pub(crate) fn pid(&self) -> String {
        format!("master@{}", SocketAddr::new(self.ip, self.port))
    }

    pub(crate) fn master_info(&self) -> v1::MasterInfo {
        let capability = v1::master_info::capability::Type::AgentUpdate;
        v1::MasterInfo {
            id: self.id.clone(),
            // The address' bytes in network order, read as a little-endian number, as Mesos writes it on x86.
            ip: match self.ip {
                IpAddr::V4(ip) => u32::from_le_bytes(ip.octets()),
                IpAddr::V6(_) => 0,
            },
            port: u32::from(self.port),
            pid: Some(self.pid()),
            hostname: Some(self.hostname.clone()),
            version: Some(API_VERSION.to_owned()),
            address: Some(v1::Address {
                hostname: Some(self.hostname.clone()),
                ip: Some(self.ip.to_string()),
                port: i32::from(self.port),
            }),
            domain: None,
            capabilities: vec![v1::master_info::Capability { r#type: Some(capability.into()) }],
        }
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn built() -> Option<Duration> {
    let modified: SystemTime = std::env::current_exe().ok()?.metadata().ok()?.modified().ok()?;
    modified.duration_since(UNIX_EPOCH).ok()
}
