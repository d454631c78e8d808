//! Hosts: literal addresses, `/etc/hosts`, `localhost`, DNS, and last `getent`.
use crate::Sources;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::net::TcpStream;

/// For DNS: as long as two servers may take that do not answer.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);
/// More are not tried.
const MAX_ADDRESSES: usize = 64;
/// As DNS has it.
const MAX_NAME_BYTES: usize = 253;

/// What a name stands for; at least one address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    addresses: Vec<IpAddr>,
    /// The name that the machine or DNS has for the host.
    canonical: String,
}

/// Looks up the addresses of `host`, a name or a literal address with or without brackets. Takes up to 15 s.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = find(Sources::of_this_machine(), host).await?;
    Ok(found.addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Connects to `HOST:PORT`: to the first of its addresses that takes the connection.
pub async fn connect(authority: &str) -> io::Result<TcpStream> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("'{authority}' is no host:port"));
    let (host, port) = authority.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let mut last = invalid();
    for address in lookup(host, port).await? {
        #[expect(clippy::disallowed_methods, reason = "an address has been looked up already")]
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// Looks up the full name of `host`, as `getaddrinfo` does with `AI_CANONNAME`: the first name of its line in
/// `/etc/hosts`, or the name under which DNS has its address. With its addresses.
pub async fn canonical_name(host: &str) -> io::Result<(String, Vec<IpAddr>)> {
    find(Sources::of_this_machine(), host).await.map(|found| (found.canonical, found.addresses))
}

async fn find(sources: Sources, host: &str) -> io::Result<Found> {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = literal.parse::<IpAddr>() {
        return Ok(Found { addresses: vec![ip], canonical: ip.to_string() });
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_owned();
    if !is_host_name(&name) {
        let text = format!("'{}' is no host name", host.escape_debug());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let (here, machine) = (name.clone(), sources.clone());
    if let Some(found) =
        blocking(move || Ok(machine.in_hosts_file(&here).or_else(|| localhost(&here)))).await?
    {
        return Ok(found);
    }
    // With its last dot a name is complete.
    let failure = match dns(host).await {
        Ok(found) => return Ok(found),
        Err(why) => why,
    };
    let asked = name.clone();
    let answer = blocking(move || sources.getent("ahosts", &[&asked])).await;
    match answer.map(|answer| parse_ahosts(&answer, &name)) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("cannot resolve '{name}': {failure}")))
        }
        Err(why) => Err(io::Error::new(why.kind(), format!("cannot resolve '{name}': {failure}; {why}"))),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn is_host_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.starts_with('-') && name.chars().all(allowed)
}

/// RFC 6761: `localhost`, and all below it, is this machine and never a question to DNS.
fn localhost(name: &str) -> Option<Found> {
    let last = name.rsplit('.').next()?;
    last.eq_ignore_ascii_case("localhost").then(|| Found {
        addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        canonical: name.to_owned(),
    })
}

impl Sources {
    /// All addresses of the lines that have the name; the first line's first name is the canonical one.
    fn in_hosts_file(&self, name: &str) -> Option<Found> {
        let text = self.text("hosts");
        let lines = text.lines().filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let ip = words.next()?.parse::<IpAddr>().ok()?;
            let mut names = words.clone();
            names.any(|other| other.trim_end_matches('.').eq_ignore_ascii_case(name)).then_some(())?;
            Some((ip, words.next()?))
        });
        collect(lines)
    }
}

/// `ADDRESS TYPE [CANONICAL NAME]`, a line for each type of socket.
fn parse_ahosts(answer: &str, name: &str) -> Option<Found> {
    let lines = answer.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let ip = words.next()?.parse::<IpAddr>().ok()?;
        Some((ip, words.nth(1).unwrap_or(name)))
    });
    collect(lines)
}

/// IPv4 first: a cluster's machines are reached by it.
fn collect<'a>(found: impl Iterator<Item = (IpAddr, &'a str)>) -> Option<Found> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut canonical = None;
    for (ip, name) in found {
        canonical.get_or_insert(name);
        if !addresses.contains(&ip) && addresses.len() < MAX_ADDRESSES {
            addresses.push(ip);
        }
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    Some(Found { addresses, canonical: canonical?.trim_end_matches('.').to_owned() })
}

/// Asks the servers of `/etc/resolv.conf`, which is read each time: a machine may move to another network.
async fn dns(name: &str) -> io::Result<Found> {
    let mut builder = blocking(|| TokioResolver::builder_tokio().map_err(io::Error::other)).await?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    let resolver = builder.build().map_err(io::Error::other)?;
    let late =
        |_| io::Error::new(io::ErrorKind::TimedOut, format!("DNS has not answered within {DNS_TIMEOUT:?}"));
    let answer = tokio::time::timeout(DNS_TIMEOUT, resolver.lookup_ip(name)).await.map_err(late)?;
    let answer = answer.map_err(io::Error::other)?;
    let records = answer.as_lookup().answers();
    let names: Vec<(IpAddr, String)> =
        records.iter().filter_map(|record| Some((record.data.ip_addr()?, record.name.to_utf8()))).collect();
    let found = collect(names.iter().map(|(ip, name)| (*ip, name.as_str())));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "DNS has no address for it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::getent::tests::machine;

    const HOSTS: &str = "127.0.0.1 localhost\n127.0.1.1 node.example.org node # Debian's\n\
        ::1 localhost ip6-localhost\nfd00::7 seven\n10.0.0.7 Seven.example.org. seven\nnonsense\n10.0.0.8\n";

    async fn found(host: &str) -> io::Result<Found> {
        let (_dir, sources) = machine(&[("hosts", HOSTS)], None);
        find(sources, host).await
    }

    fn ips(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().expect("an address")).collect()
    }

    #[tokio::test]
    async fn without_a_question_to_anybody() {
        for (host, addresses, canonical) in [
            ("10.1.2.3", vec!["10.1.2.3"], "10.1.2.3"),
            ("[fd00::1]", vec!["fd00::1"], "fd00::1"),
            ("node", vec!["127.0.1.1"], "node.example.org"),
            ("NODE.example.org.", vec!["127.0.1.1"], "node.example.org"),
            ("seven", vec!["10.0.0.7", "fd00::7"], "seven"),
            ("seven.example.org", vec!["10.0.0.7"], "Seven.example.org"),
            ("localhost", vec!["127.0.0.1", "::1"], "localhost"),
            ("a.b.LocalHost", vec!["127.0.0.1", "::1"], "a.b.LocalHost"),
            ("localhost.", vec!["127.0.0.1", "::1"], "localhost"),
        ] {
            let expected = Found { addresses: ips(&addresses), canonical: canonical.to_owned() };
            assert_eq!(found(host).await.expect(host), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn what_is_no_name_is_not_looked_up() {
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for host in ["", ".", "-s", "a b", "a\nb", "ü.example.org", "a/b", "fe80::1%eth0", &long] {
            let error = found(host).await.expect_err(host);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{host}: {error}");
        }
    }

    #[test]
    fn what_getent_says() {
        let answer = "fe80::9 STREAM nine.local\nfe80::9 DGRAM\n10.0.0.9       STREAM\n10.0.0.9       RAW\n";
        let expected = Found { addresses: ips(&["10.0.0.9", "fe80::9"]), canonical: "nine.local".to_owned() };
        assert_eq!(parse_ahosts(answer, "nine"), Some(expected));
        assert_eq!(parse_ahosts("", "nine"), None);
    }

    #[tokio::test]
    async fn connections_by_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        for host in ["127.0.0.1", "a.localhost"] {
            let stream = connect(&format!("{host}:{port}")).await.expect(host);
            assert_eq!(stream.peer_addr().expect("connected").port(), port);
        }
        for authority in ["127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "", ":", ":1", "-x:1"] {
            let error = connect(authority).await.expect_err(authority);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{authority}");
        }
    }
}
