//! The address that others are told: given by the operator, or the one that reaches the master.
use crate::Config;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Announced {
    address: watch::Sender<SocketAddr>,
    hostname: Option<String>,
    /// Nobody has said which: the agent listens on all addresses.
    follows_link: bool,
    /// Not on IPv6's.
    only_ipv4: bool,
}

impl Announced {
    pub(crate) fn new(config: &Config, bound: SocketAddr) -> Self {
        let given = config.advertise_ip.or(Some(bound.ip()).filter(|ip| !ip.is_unspecified()));
        // Until there is a connection; on one machine this one always works.
        let ip = given.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let address = SocketAddr::new(ip, config.advertise_port.unwrap_or(bound.port()));
        Self {
            address: watch::Sender::new(address),
            hostname: config.hostname.clone(),
            follows_link: given.is_none(),
            only_ipv4: bound.is_ipv4(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *self.address.borrow()
    }

    /// The given name, else the address.
    pub(crate) fn hostname(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.address().ip().to_string())
    }

    /// Takes note of the agent's end of a connection to the master; `true`: another address is announced from now on.
    /// One that others cannot reach this agent by is not.
    pub(crate) fn connected_from(&self, local: IpAddr) -> bool {
        if !self.follows_link {
            return false;
        }
        let unusable = match local.to_canonical() {
            IpAddr::V6(_) if self.only_ipv4 => Some("the agent listens on IPv4 addresses only"),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("it means nothing to other machines"),
            _ => None,
        };
        if let Some(why) = unusable {
            tracing::warn!(
                %local, announced = %self.address(), why,
                "the address that reaches the master is not announced: give --advertise-ip, or listen with --ip"
            );
            return false;
        }
        self.address.send_if_modified(|address| {
            let changed = address.ip() != local;
            address.set_ip(local);
            changed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(listen: &str, change: impl FnOnce(&mut Config)) -> Announced {
        let listen: SocketAddr = listen.parse().expect("an address");
        let mut config = Config::new(listen, watch::channel(None).1, "/nowhere");
        change(&mut config);
        Announced::new(&config, listen)
    }

    #[test]
    fn the_address_follows_the_connection_unless_it_is_given() {
        let lan: IpAddr = "10.0.0.5".parse().expect("an address");
        let free = announced("0.0.0.0:5051", |_| {});
        assert_eq!(
            (free.address().to_string(), free.hostname()),
            ("127.0.0.1:5051".into(), "127.0.0.1".into())
        );
        assert!(free.connected_from(lan) && !free.connected_from(lan));
        assert_eq!(
            (free.address().to_string(), free.hostname()),
            ("10.0.0.5:5051".into(), "10.0.0.5".into())
        );

        let bound = announced("127.0.0.2:5051", |_| {});
        assert!(!bound.connected_from(lan));
        assert_eq!(bound.address().to_string(), "127.0.0.2:5051");

        let given = announced("0.0.0.0:5051", |config| {
            config.advertise_ip = Some([203, 0, 113, 9].into());
            config.advertise_port = Some(15051);
            config.hostname = Some("node5.example.org".into());
        });
        assert!(!given.connected_from(lan));
        assert_eq!(given.address().to_string(), "203.0.113.9:15051");
        assert_eq!(given.hostname(), "node5.example.org");
    }

    #[test]
    fn an_address_that_reaches_nothing_here_is_not_announced() {
        let [lan, link_local] = ["fd00::5", "fe80::5"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let ipv4 = announced("0.0.0.0:5051", |_| {});
        assert!(!ipv4.connected_from(lan) && !ipv4.connected_from(link_local));
        assert_eq!(ipv4.address().to_string(), "127.0.0.1:5051");

        let both = announced("[::]:5051", |_| {});
        assert!(both.connected_from(lan) && !both.connected_from(link_local));
        assert_eq!(both.address().to_string(), "[fd00::5]:5051");
        assert!(both.connected_from([10, 0, 0, 5].into()));
    }
}
