//! HTTP requests in, events and reads out: decodes once, validates form, answers in Mesos' words.
//!
//! Decides nothing about the cluster: that is the kernel's, behind the driver.
mod call;
mod heartbeat;
mod legacy;
mod link;
mod operator;
mod page;
mod refused;
mod scheduler;
mod teardown;

use crate::{driver::Handle, identity::Identity};
use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

pub(crate) use legacy::Version;
pub(crate) use refused::Refused;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What every request may need.
pub(crate) struct Shared {
    pub(crate) driver: Handle,
    pub(crate) identity: Arc<Identity>,
    pub(crate) leadership: Leadership,
    pub(crate) flags: Vec<(&'static str, String)>,
    pub(crate) heartbeat: Duration,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_unread_bytes: u32,
}

/// Who leads the cluster; everything that names or redirects to the leader asks here.
#[derive(Debug, Clone)]
pub(crate) struct Leadership {
    leader: bellows_election::Leader,
}

impl Leadership {
    pub(crate) fn of(leader: bellows_election::Leader) -> Self {
        Self { leader }
    }

    pub(crate) fn leader(&self) -> &bellows_election::Leader {
        &self.leader
    }
}

pub(crate) fn router(shared: Shared) -> Router {
    Router::new().fallback(serve).with_state(Arc::new(shared))
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = dispatch(&shared, request).await.unwrap_or_else(|refused| {
        tracing::debug!(%method, path, status = refused.status.as_u16(), text = refused.text, "refused");
        refused.into_response()
    });
    tracing::trace!(%method, path, status = response.status().as_u16());
    response
}

async fn dispatch(shared: &Arc<Shared>, request: Request) -> Result<Response, Refused> {
    let path = plain_path(request.uri().path()).to_owned();
    let posts = matches!(path.as_str(), "/api/v1/scheduler" | "/api/v1" | "/api/v1/link" | "/teardown");
    if !posts {
        let answer = legacy::Path::of(&path).ok_or_else(Refused::not_found)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refused::method("GET", request.method()));
        }
        return legacy::get(shared, answer, &query(request.uri())).await;
    }
    if request.method() != Method::POST {
        return Err(Refused::method("POST", request.method()));
    }
    same_site(request.headers(), request.uri())?;
    match path.as_str() {
        "/api/v1/scheduler" => scheduler::call(shared, request).await,
        "/api/v1/link" => link::link(shared, request).await,
        "/teardown" => teardown::form(shared, request).await,
        _ => operator::call(shared, request).await,
    }
}

/// The path without what may be left out: `/master` before it, a slash after it.
fn plain_path(path: &str) -> &str {
    let path =
        path.strip_prefix("/master").filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
    path.trim_end_matches('/')
}

/// The query, decoded; a name that comes twice counts the last time.
fn query(uri: &Uri) -> std::collections::HashMap<String, String> {
    axum::extract::Query::try_from_uri(uri).map(|query| query.0).unwrap_or_default()
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().unwrap_or_default())
}

async fn body(request: Request, max_bytes: usize) -> Result<Bytes, Refused> {
    let too_long =
        || Refused::new(StatusCode::PAYLOAD_TOO_LARGE, format!("The body is longer than {max_bytes} bytes"));
    let announced = header(&request, "content-length").and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max_bytes as u64) {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), max_bytes)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_long(&error) => Err(too_long()),
        Ok(Err(error)) => Err(Refused::bad_request(format!("Failed to read the body: {error}"))),
        Err(_) => Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time")),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Browsers say where a POST comes from; one that another site caused is not its user's will. Programs say nothing.
fn same_site(headers: &HeaderMap, uri: &Uri) -> Result<(), Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let foreign = || Refused::new(StatusCode::FORBIDDEN, "Requests that another site makes are refused");
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(foreign());
    }
    let host = text("host").or_else(|| uri.authority().map(|authority| authority.as_str()));
    match headers.get("origin").map(|origin| origin.to_str().unwrap_or_default()) {
        Some(origin) if origin.split_once("://").map(|(_, host)| host) != host => Err(foreign()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_and_the_last_slash_may_be_left_out() {
        for (given, plain) in [
            ("/", ""),
            ("/master", ""),
            ("/master/", ""),
            ("/master/state", "/state"),
            ("/slaves/", "/slaves"),
            ("/masters", "/masters"),
            ("/master/api/v1", "/api/v1"),
        ] {
            assert_eq!(plain_path(given), plain);
        }
    }

    #[test]
    fn posts_of_other_sites_are_refused() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|&(name, value)| {
                (name.parse().expect("a name"), axum::http::HeaderValue::from_static(value))
            });
            same_site(&headers.collect(), &Uri::from_static("/teardown")).is_ok()
        };
        assert!(check(&[("host", "a:5050")]), "curl");
        assert!(check(&[("host", "a:5050"), ("origin", "http://a:5050"), ("sec-fetch-site", "same-origin")]));
        assert!(!check(&[("host", "a:5050"), ("origin", "http://b:5050")]));
        assert!(!check(&[("host", "a:5050"), ("origin", "http://a:8080")]), "another port is another origin");
        assert!(!check(&[("host", "a:5050"), ("origin", "null")]));
        assert!(!check(&[("host", "a:5050"), ("sec-fetch-site", "cross-site")]));
        assert!(!check(&[("host", "a:5050"), ("sec-fetch-site", "same-site")]));
    }
}
