//! The addresses an operator may give for a master. Parsing only: nothing is resolved or connected here.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Port of a master when the address names none.
pub const DEFAULT_MASTER_PORT: u16 = 5050;
const DEFAULT_ZOOKEEPER_PORT: u16 = 2181;

/// Where to learn who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterAddress {
    /// One master, named by the operator; `host` is a name or an IP address without brackets.
    Fixed {
        host: String,
        port: u16,
    },
    ZooKeeper(ZooKeeperAddress),
}

/// `zk://[user:password@]host[:port],…/path`. Its `Debug` and `Display` hide the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ZooKeeperAddress {
    /// `host:port`, at least one.
    pub hosts: Vec<String>,
    /// Absolute, without a slash at its end.
    pub path: String,
    /// `user:password` for ZooKeeper's digest scheme.
    pub credentials: Option<String>,
}

/// The operator must correct the address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("the master address is empty: give host:port or zk://host:port,…/path")]
    Empty,
    #[error("unknown scheme in the master address '{0}': give host:port or zk://host:port,…/path")]
    Scheme(String),
    #[error("'{0}' is no host:port")]
    Host(String),
    #[error("'{0}' is no port (1 to 65535)")]
    Port(String),
    #[error("the ZooKeeper address has no path: write zk://host:port,…/path, for example zk://{0}/mesos")]
    NoPath(String),
    #[error("the ZooKeeper path '{0}' has an empty or relative part")]
    Path(String),
    #[error("the ZooKeeper credentials before '@' must read user:password")]
    Credentials,
}

impl MasterAddress {
    /// Accepts `host:port`, a bare `host` (port 5050), `[ipv6]:port` and `zk://…`, each with or without the
    /// `mesos://` that Spark puts before it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let text = text.strip_prefix("mesos://").unwrap_or(text);
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if let Some(rest) = text.strip_prefix("zk://") {
            return parse_zookeeper(rest).map(MasterAddress::ZooKeeper);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(AddressError::Scheme(scheme.to_owned()));
        }
        let (host, port) = parse_host(text, DEFAULT_MASTER_PORT)?;
        Ok(MasterAddress::Fixed { host, port })
    }
}

impl FromStr for MasterAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl fmt::Display for MasterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterAddress::Fixed { host, port } => f.write_str(&join_host_port(host, *port)),
            MasterAddress::ZooKeeper(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for ZooKeeperAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zk://")?;
        if self.credentials.is_some() {
            f.write_str("<credentials>@")?;
        }
        write!(f, "{}{}", self.hosts.join(","), self.path)
    }
}

impl fmt::Debug for ZooKeeperAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `host:port`, an IPv6 address in brackets.
pub(crate) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn parse_zookeeper(rest: &str) -> Result<ZooKeeperAddress, AddressError> {
    let (authority, path) =
        rest.split_once('/').ok_or_else(|| AddressError::NoPath(without_credentials(rest)))?;
    // A password may contain '@'; a host cannot.
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, authority),
    };
    if credentials.is_some_and(|c| c.split_once(':').is_none_or(|(user, _)| user.is_empty())) {
        return Err(AddressError::Credentials);
    }
    let hosts = hosts
        .split(',')
        .map(|host| parse_host(host, DEFAULT_ZOOKEEPER_PORT).map(|(host, port)| join_host_port(&host, port)))
        .collect::<Result<Vec<_>, _>>()?;
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Err(AddressError::NoPath(hosts.join(",")));
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(AddressError::Path(format!("/{path}")));
    }
    Ok(ZooKeeperAddress { hosts, path: format!("/{path}"), credentials: credentials.map(str::to_owned) })
}

fn without_credentials(authority: &str) -> String {
    authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts).to_owned()
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), AddressError> {
    let bad = || AddressError::Host(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(bad()),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let bracketed = text.starts_with('[');
    let well_formed =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') || (bracketed && c == ':');
    if host.is_empty() || !host.chars().all(well_formed) {
        return Err(bad());
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(number) if number > 0 => number,
            _ => return Err(AddressError::Port(port.to_owned())),
        },
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zk(text: &str) -> ZooKeeperAddress {
        match MasterAddress::parse(text) {
            Ok(MasterAddress::ZooKeeper(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn fixed_addresses() {
        for (text, host, port) in [
            ("10.0.0.1:5051", "10.0.0.1", 5051),
            ("master.example.org", "master.example.org", 5050),
            ("mesos://node_1:80", "node_1", 80),
            (" [::1]:5050 ", "::1", 5050),
            ("[fe80::1]", "fe80::1", 5050),
        ] {
            let expected = MasterAddress::Fixed { host: host.to_owned(), port };
            assert_eq!(MasterAddress::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn zookeeper_addresses() {
        let address = zk("mesos://zk://ann:s3:cr@t@h1:2182,h2,[::1]:99/clusters/mesos/");
        assert_eq!(address.hosts, ["h1:2182", "h2:2181", "[::1]:99"]);
        assert_eq!(address.path, "/clusters/mesos");
        assert_eq!(address.credentials.as_deref(), Some("ann:s3:cr@t"));
        assert_eq!(format!("{address} {address:?}").matches("cr@t").count(), 0);
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        use AddressError::*;
        for (text, error) in [
            ("", Empty),
            ("mesos://", Empty),
            ("http://h:1", Scheme("http".to_owned())),
            ("h:", Port(String::new())),
            ("h:0", Port("0".to_owned())),
            ("h:65536", Port("65536".to_owned())),
            ("h:1:2", Port("1:2".to_owned())),
            (":5050", Host(":5050".to_owned())),
            ("a b:1", Host("a b:1".to_owned())),
            ("[::1", Host("[::1".to_owned())),
            ("zk://h:2181", NoPath("h:2181".to_owned())),
            ("zk://u:p@h:2181", NoPath("h:2181".to_owned())),
            ("zk://h:2181/", NoPath("h:2181".to_owned())),
            ("zk://h//x", Path("//x".to_owned())),
            ("zk://h/a/../b", Path("/a/../b".to_owned())),
            ("zk://h,/mesos", Host(String::new())),
            ("zk://user@h/mesos", Credentials),
            ("zk://:pw@h/mesos", Credentials),
        ] {
            assert_eq!(MasterAddress::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(zk://)?[a-z0-9:@,/\\[\\].% -]{0,40}") {
            let _ = MasterAddress::parse(&text);
        }

        #[test]
        fn what_is_displayed_parses_to_the_same(host in "[a-z][a-z0-9.-]{0,20}", port in 1u16.., path in "(/[a-z]{1,5}){1,3}") {
            let fixed = MasterAddress::parse(&format!("{host}:{port}")).expect("valid");
            prop_assert_eq!(MasterAddress::parse(&fixed.to_string()), Ok(fixed));
            let zk = MasterAddress::parse(&format!("zk://{host}:{port}{path}")).expect("valid");
            prop_assert_eq!(MasterAddress::parse(&zk.to_string()), Ok(zk));
        }
    }
}
