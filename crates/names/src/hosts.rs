//! Hosts: literal addresses, `/etc/hosts`, `localhost`, DNS, and last `getent`.
use crate::{Sources, getent::Asker};
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinSet};

/// Time that DNS may take: as long as two servers that do not answer.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);
/// When DNS has not answered for so long, `getent` is asked beside it.
const DNS_HEAD_START: Duration = Duration::from_secs(2);
/// When an address has not taken a connection for so long, the next one is tried beside it.
const ADDRESS_HEAD_START: Duration = Duration::from_secs(1);
/// Addresses that are tried at most.
const MAX_ADDRESSES: usize = 64;
/// Longest name that DNS allows.
const MAX_NAME_BYTES: usize = 253;

/// The result of a lookup: at least one address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    addresses: Vec<IpAddr>,
    /// The name that the machine or DNS has for the host.
    canonical: String,
}

/// Looks up the addresses of `host`, a name or a literal address with or without brackets. Takes up to 12 s.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = find(Sources::of_this_machine(), host).await?;
    Ok(found.addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Connects to `HOST:PORT`: to the first of its addresses that takes the connection. It has `patience` for that, after
/// the time that the lookup takes.
pub async fn connect(authority: &str, patience: Duration) -> io::Result<TcpStream> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("'{authority}' is no host:port"));
    let (host, port) = authority.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let addresses = lookup(host, port).await?;
    #[expect(clippy::disallowed_methods, reason = "an address has been looked up already")]
    let connected =
        tokio::time::timeout(patience, first_of(addresses, TcpStream::connect, ADDRESS_HEAD_START));
    let late = |_| {
        let text = format!("{authority} has not taken the connection within {} s", patience.as_secs_f64());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    connected.await.map_err(late)?
}

/// Tries one address after the other, side by side where one is slow: one that does not answer hides no other.
async fn first_of<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
    head_start: Duration,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut left = addresses.into_iter();
    // Dropped, they end.
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        if let Some(address) = left.next() {
            attempts.spawn(connect(address));
        }
        let more = left.len() > 0;
        tokio::select! {
            ended = attempts.join_next() => match ended {
                None => return Err(last),
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(why))) => last = why,
                Some(Err(why)) => last = io::Error::other(why),
            },
            () = tokio::time::sleep(head_start), if more => {}
        }
    }
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
    let dns = dns(host.to_owned());
    let getent = |name: String| blocking(move || sources.getent("ahosts", &[&name], Asker::Host));
    beyond_files(&name, dns, getent, DNS_HEAD_START).await
}

/// Asks DNS, and `getent` when DNS has failed or is slow: the machine may know the name by other means.
async fn beyond_files<G: Future<Output = io::Result<String>>>(
    name: &str,
    dns: impl Future<Output = io::Result<Found>>,
    getent: impl FnOnce(String) -> G,
    head_start: Duration,
) -> io::Result<Found> {
    tokio::pin!(dns);
    let mut failure = match tokio::time::timeout(head_start, &mut dns).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(why)) => Some(why),
        Err(_) => None,
    };
    let getent = getent(name.to_owned());
    tokio::pin!(getent);
    let answer = loop {
        tokio::select! {
            found = &mut dns, if failure.is_none() => match found {
                Ok(found) => return Ok(found),
                Err(why) => failure = Some(why),
            },
            answer = &mut getent => break answer,
        }
    };
    let why = match answer.map(|answer| parse_ahosts(&answer, name)) {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => None,
        Err(why) => Some(why),
    };
    let failure = match failure {
        Some(failure) => failure,
        None => match dns.await {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        },
    };
    let (kind, beside) = match why {
        Some(why) => (why.kind(), format!("; {why}")),
        None => (io::ErrorKind::NotFound, String::new()),
    };
    Err(io::Error::new(kind, format!("cannot resolve '{name}': {failure}{beside}")))
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
async fn dns(name: String) -> io::Result<Found> {
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
            let stream = connect(&format!("{host}:{port}"), DNS_TIMEOUT).await.expect(host);
            assert_eq!(stream.peer_addr().expect("connected").port(), port);
        }
        for authority in ["127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "", ":", ":1", "-x:1"] {
            let error = connect(authority, DNS_TIMEOUT).await.expect_err(authority);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{authority}");
        }
    }

    #[tokio::test]
    async fn a_name_that_getent_knows_is_found_while_dns_is_silent() {
        let getent = |_| async { Ok("10.0.0.9 STREAM nine.local\n".to_owned()) };
        let found = beyond_files("nine", std::future::pending(), getent, Duration::ZERO).await;
        assert_eq!(found.expect("found").addresses, ips(&["10.0.0.9"]));
    }

    #[tokio::test]
    async fn dns_that_is_slow_is_heard_beside_getent() {
        let (asked, was_asked) = tokio::sync::oneshot::channel();
        let dns = async {
            was_asked.await.expect("getent was asked");
            Ok(Found { addresses: ips(&["10.0.0.8"]), canonical: "eight".into() })
        };
        let getent = |_| async {
            asked.send(()).expect("DNS is still asked");
            std::future::pending().await
        };
        let found = beyond_files("eight", dns, getent, Duration::ZERO).await;
        assert_eq!(found.expect("found").canonical, "eight");
        let (answered, was_answered) = tokio::sync::oneshot::channel();
        let dns = async {
            was_answered.await.expect("getent has answered");
            Err(io::Error::other("refused"))
        };
        let getent = |_| async {
            answered.send(()).expect("DNS is still asked");
            Ok(String::new())
        };
        let error = beyond_files("x", dns, getent, Duration::ZERO).await.expect_err("nobody knows it");
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_hides_no_other() {
        let [silent, refuses, takes] =
            [1, 2, 3].map(|last| SocketAddr::new(Ipv4Addr::new(10, 0, 0, last).into(), 1));
        let connect = move |address| async move {
            match address {
                address if address == silent => std::future::pending().await,
                address if address == refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                address => Ok(address),
            }
        };
        let first = first_of(vec![silent, refuses, takes], connect, Duration::ZERO).await;
        assert_eq!(first.expect("connected"), takes);
        let error = first_of(vec![refuses], connect, Duration::ZERO).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
