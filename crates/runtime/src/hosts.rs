//! Which names a server answers to. A web page can make its own name resolve to this machine ("DNS rebinding"), and the
//! browser then takes this server for a part of that page's site; only the `Host` that it sends gives the page away.

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// The names of this server. Every IP address is one: no page can be loaded from the name of a site by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    own: BTreeSet<String>,
    /// Names that an operator added. Sites of these names may also write.
    allowed: BTreeSet<String>,
}

impl Hosts {
    /// `localhost`, this machine's name, `own`, and what an operator `allowed`.
    pub fn new<'a>(
        own: impl IntoIterator<Item = &'a str>,
        allowed: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        fn plain(name: &str) -> Option<String> {
            Authority::of(name).map(|authority| authority.host)
        }
        let mut own: BTreeSet<String> = own.into_iter().chain(["localhost"]).filter_map(plain).collect();
        own.extend(rustix::system::uname().nodename().to_str().ok().and_then(plain));
        Self { own, allowed: allowed.into_iter().filter_map(plain).collect() }
    }

    /// Whether this server is meant by `host`, the value of a `Host` header.
    pub fn knows(&self, host: &str) -> bool {
        Authority::of(host).is_some_and(|authority| {
            authority.is_address
                || self.own.contains(&authority.host)
                || self.allowed.contains(&authority.host)
        })
    }

    /// Refuses requests that are meant for others, or that a page of another site makes.
    pub fn guard(self, router: Router) -> Router {
        let hosts = Arc::new(self);
        router.layer(from_fn(move |request: Request, next: Next| {
            let hosts = Arc::clone(&hosts);
            async move {
                match hosts.check(&request) {
                    Ok(()) => next.run(request).await,
                    Err(refusal) => refusal.into_response(),
                }
            }
        }))
    }

    fn check<B>(&self, request: &axum::http::Request<B>) -> Result<(), Refusal> {
        let headers = request.headers();
        // HTTP/2 and absolute targets have it in the target. HTTP/1.0 needs none, and no browser leaves it out.
        let target = request.uri().authority().map(|authority| authority.as_str());
        let named = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("\u{fffd}"));
        let all: Vec<&str> = target.into_iter().chain(named).collect();
        for &host in &all {
            if !self.knows(host) {
                return Err(Refusal::Host(host.to_owned()));
            }
        }
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        self.check_origin(headers, all.first().copied())
    }

    /// Browsers say where a request comes from that may change something; one that another site caused is not its
    /// user's will. Programs say nothing.
    fn check_origin(&self, headers: &HeaderMap, host: Option<&str>) -> Result<(), Refusal> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let Some(origin) = text("origin") else {
            return match text("sec-fetch-site") {
                None | Some("same-origin" | "none") => Ok(()),
                Some(_) => Err(Refusal::Origin),
            };
        };
        let origin = origin.split_once("://").and_then(|(_, host)| Authority::of(host));
        let origin = origin.ok_or(Refusal::Origin)?;
        let is_own = host.and_then(Authority::of).is_some_and(|host| host == origin);
        if self.allowed.contains(&origin.host) {
            return Ok(());
        }
        match text("sec-fetch-site") {
            None | Some("same-origin" | "none") if is_own => Ok(()),
            _ => Err(Refusal::Origin),
        }
    }
}

enum Refusal {
    Host(String),
    Origin,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        const SHOWN: usize = 255;
        let text = match self {
            Self::Host(host) => {
                let host: String = host.escape_debug().take(SHOWN).collect();
                tracing::debug!(host, "refused a request that names another host");
                format!(
                    "This server is not known as '{host}': use its hostname or IP address, or start it with --allow-host and that name"
                )
            }
            Self::Origin => {
                "Requests that another site makes are refused; --allow-host names sites that may".to_owned()
            }
        };
        (StatusCode::FORBIDDEN, text).into_response()
    }
}

/// A host and its port, in one form: lower case, no last dot.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    is_address: bool,
    port: Option<u16>,
}

impl Authority {
    fn of(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = address.split('%').next()?.parse().ok()?;
            let port = match rest.is_empty() {
                true => None,
                false => Some(port(rest.strip_prefix(':')?)?),
            };
            return Some(Self { host: address.to_string(), is_address: true, port: port.flatten() });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, number)) => (host, port(number)?),
            None => (text, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_address = host.parse::<Ipv4Addr>().is_ok();
        let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        (is_name && !host.is_empty()).then_some(Self { host, is_address, port })
    }
}

/// A colon without a port is none.
fn port(text: &str) -> Option<Option<u16>> {
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok().map(Some)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        Hosts::new(["Node7.Cluster.example"], ["proxy.example", "other.example:8080"])
    }

    #[test]
    fn own_names_and_addresses_are_known_and_nothing_else() {
        let machine = rustix::system::uname().nodename().to_str().expect("a name").to_owned();
        for own in [
            "localhost",
            "LOCALHOST:5050",
            "localhost.",
            "127.0.0.1",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:5050",
            "[fe80::1%eth0]:1",
            "node7.cluster.example",
            "NODE7.cluster.EXAMPLE.:5050",
            "proxy.example:443",
            "other.example",
            "localhost:",
            &machine,
        ] {
            assert!(hosts().knows(own), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "node7",
            "proxy.example.evil",
            "::1",
            "[::1",
            "[::1]x",
            "[evil]",
            "127.0.0.1.evil.example",
            "localhost:x",
            "localhost:5050:1",
            "a@localhost",
            "localhost:80@evil.example",
            "2130706433",
            "0x7f.1",
            "localhost..",
            "localhost/",
            "\u{fffd}",
            "localhost:99999",
        ] {
            assert!(!hosts().knows(other), "{other}");
        }
    }

    fn check(method: &str, uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = axum::http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        hosts().check(&request.body(()).expect("valid")).is_ok()
    }

    #[test]
    fn every_host_of_a_request_counts() {
        assert!(check("GET", "/", &[]), "HTTP/1.0");
        assert!(check("GET", "/", &[("host", "localhost:5050")]));
        assert!(!check("GET", "/", &[("host", "evil.example:5050")]));
        assert!(!check("GET", "/", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(
            !check("GET", "http://evil.example/", &[("host", "localhost")]),
            "an absolute target, or HTTP/2"
        );
        assert!(!check("GET", "http://localhost/", &[("host", "evil.example")]));
        assert!(check("GET", "http://localhost/", &[]));
        assert!(!check("GET", "/", &[("host", "")]));
    }

    #[test]
    fn writes_of_other_sites_are_refused() {
        let post = |headers: &[(&str, &str)]| check("POST", "/teardown", headers);
        assert!(post(&[("host", "10.0.0.1:5050")]), "curl");
        let own = [("host", "localhost:5050"), ("origin", "http://localhost:5050")];
        assert!(post(&own));
        assert!(post(&[own[0], own[1], ("sec-fetch-site", "same-origin")]));
        assert!(!post(&[own[0], ("origin", "http://10.0.0.1:5050")]));
        assert!(!post(&[own[0], ("origin", "http://localhost:8080")]), "another port is another site");
        assert!(!post(&[own[0], ("origin", "null")]));
        assert!(!post(&[own[0], ("sec-fetch-site", "cross-site")]));
        assert!(!post(&[own[0], ("sec-fetch-site", "same-site")]));
        assert!(!post(&[("host", "evil.example"), ("origin", "http://evil.example")]));
        assert!(post(&[own[0], ("origin", "https://proxy.example"), ("sec-fetch-site", "cross-site")]));
        assert!(check("GET", "/", &[own[0], ("origin", "http://evil.example")]), "it cannot read the answer");
    }
}
