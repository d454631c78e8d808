//! This machine's own name and address, as others know them.
use crate::hosts::canonical_name;
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// A start waits no longer for DNS.
const PATIENCE: Duration = Duration::from_secs(5);

/// This machine's name, as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnName {
    /// The full name where one is known, as Mesos announces it.
    pub name: String,
    /// Addresses of the name on this machine; empty when it cannot be looked up.
    pub addresses: Vec<IpAddr>,
}

impl OwnName {
    /// A name that the operator gave stays as it is.
    pub async fn given(name: String) -> Self {
        let addresses = match tokio::time::timeout(PATIENCE, canonical_name(&name)).await {
            Ok(Ok((_, addresses))) => addresses,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        Self { name, addresses }
    }

    /// Whether other machines that believe this one would look for it at themselves.
    pub fn is_loopback(&self) -> bool {
        !self.addresses.is_empty() && self.addresses.iter().all(IpAddr::is_loopback)
    }
}

/// The machine's name; `None` where none is set. Asks `/etc/hosts`, DNS and `getent`, for up to 5 s.
pub async fn host_name() -> Option<OwnName> {
    let short = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    if is_no_name(&short) {
        return None;
    }
    let answer = tokio::time::timeout(PATIENCE, canonical_name(&short)).await;
    match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        // `127.0.0.1 localhost NODE` makes the name an alias of no name.
        Ok((name, addresses)) if is_no_name(&name) => Some(OwnName { name: short, addresses }),
        Ok((name, addresses)) => Some(OwnName { name, addresses }),
        Err(error) => {
            tracing::warn!(name = short, %error, "this machine's own name cannot be looked up; it is announced as it is");
            Some(OwnName { name: short, addresses: Vec::new() })
        }
    }
}

fn is_no_name(name: &str) -> bool {
    name.is_empty() || name == "(none)" || name.split('.').next() == Some("localhost")
}

/// The address that others most likely reach this machine by: the one that its name stands for, else the one that it
/// uses for what is not near, else any; loopback where there is no other.
pub fn advertised_address(of_name: &[IpAddr]) -> IpAddr {
    let mut own: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local())
        .map(|interface| interface.ip())
        .collect();
    own.sort_by_key(IpAddr::is_ipv6);
    choose(of_name, default_route(), &own)
}

fn choose(of_name: &[IpAddr], default_route: Option<IpAddr>, own: &[IpAddr]) -> IpAddr {
    let named = of_name.iter().copied().find(|ip| own.contains(ip));
    let routed = default_route.filter(|ip| own.contains(ip));
    named.or(routed).or(own.first().copied()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Which address the kernel would send from. Nothing is sent: 192.0.2.0/24 is for documentation.
fn default_route() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_is_announced() {
        let [lan, other, gone, loopback] = ["10.0.0.5", "172.17.0.1", "10.9.9.9", "127.0.1.1"]
            .map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let own = [other, lan];
        assert_eq!(choose(&[loopback, lan], None, &own), lan, "the name's");
        assert_eq!(choose(&[loopback], Some(lan), &own), lan, "Debian's 127.0.1.1 tells nobody anything");
        assert_eq!(choose(&[gone], Some(lan), &own), lan, "a name that points elsewhere");
        assert_eq!(choose(&[], None, &own), other);
        assert_eq!(choose(&[loopback], None, &[]), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn no_names() {
        for name in ["", "(none)", "localhost", "localhost.localdomain"] {
            assert!(is_no_name(name), "{name}");
        }
        assert!(!is_no_name("localhosting"));
    }
}
