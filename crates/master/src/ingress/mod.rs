//! HTTP requests in, events and reads out: decodes once, validates form, answers in Mesos' words.
//!
//! Decides nothing about the cluster: that is the kernel's, behind the driver.
mod call;
mod decode;
mod heartbeat;
mod legacy;
mod link;
mod operator;
mod page;
mod refused;
mod scheduler;
mod teardown;

use crate::{driver::Handle, identity::Identity, snapshot::Snapshot};
use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bellows_runtime::{BodyError, Disconnect, MemoryBudget, Queued, Share, Turns, read_body, shared_body};
use bytes::Bytes;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

pub(crate) use call::Known;
pub(crate) use decode::Decoders;
pub(crate) use legacy::Version;
pub(crate) use link::event as link_event;
pub(crate) use refused::Refused;
pub(crate) use teardown::named_framework;

/// Longer queries are no client's: a task's and a framework's id and a page of `/tasks` take a few hundred bytes.
const MAX_QUERY_BYTES: usize = 4_096;
/// Nobody waits longer for a copy of the state, or for a turn to make an answer of it.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What every request may need.
pub(crate) struct Shared {
    pub(crate) driver: Handle,
    pub(crate) identity: Arc<Identity>,
    pub(crate) leadership: Leadership,
    pub(crate) flags: Vec<(&'static str, String)>,
    pub(crate) heartbeat: Duration,
    pub(crate) registration_timeout: Duration,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_unread_bytes: u32,
    /// Memory for bodies, what they are decoded to, answers and events, of all peers.
    pub(crate) memory: MemoryBudget,
    /// Turns for making answers of a copy of the state.
    pub(crate) readers: Arc<Turns>,
    pub(crate) decoders: Decoders,
}

/// One request that is answered from a copy of the state.
struct Reader(Arc<Queued>);

impl Reader {
    /// Returns what `wanted` does, unless that takes too long.
    async fn in_time<T>(&self, wanted: impl Future<Output = T>) -> Result<T, Refused> {
        timeout(READ_TIMEOUT, wanted).await.map_err(|_| Refused::busy())
    }

    async fn copy(&self, shared: &Shared) -> Result<Arc<Snapshot>, Refused> {
        Ok(self.in_time(shared.driver.snapshot()).await??)
    }

    /// Does what takes its time and memory on another thread, for few at a time.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        // Both last until it is done, even if nobody waits for it any longer.
        let (turn, queued) = (self.in_time(self.0.turn()).await?, Arc::clone(&self.0));
        let written = tokio::task::spawn_blocking(move || {
            let _until_done = (turn, queued);
            write()
        });
        written.await.map_err(|error| {
            tracing::error!(%error, "cannot make an answer");
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Cannot write the answer")
        })
    }
}

impl Shared {
    /// Opens the peer's share of the memory.
    fn share(&self, request: &Request) -> Share {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let disconnect = request.extensions().get::<Disconnect>().cloned().unwrap_or_default();
        self.memory.share(peer, disconnect)
    }

    /// Admits one more read of a copy of the state.
    fn reader(&self, peer: IpAddr) -> Result<Reader, Refused> {
        self.readers.queue(peer).map(|queued| Reader(Arc::new(queued))).ok_or_else(Refused::busy)
    }
}

/// Makes an answer of that type, which takes its part of the memory until it has left.
fn answer(share: Share, content_type: &'static str, bytes: Bytes) -> Result<Response, Refused> {
    if !share.grow(bytes.len()) {
        return Err(Refused::no_room());
    }
    Ok(([("content-type", content_type)], shared_body(bytes, share)).into_response())
}

/// Knows who leads the cluster; everything that names or redirects to the leader asks here.
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
        if request.uri().query().is_some_and(|query| query.len() > MAX_QUERY_BYTES) {
            let text = format!("The query is longer than {MAX_QUERY_BYTES} bytes");
            return Err(Refused::new(StatusCode::URI_TOO_LONG, text));
        }
        let share = shared.share(&request);
        return legacy::get(shared, answer, &query(request.uri()), share).await;
    }
    if request.method() != Method::POST {
        return Err(Refused::method("POST", request.method()));
    }
    match path.as_str() {
        "/api/v1/scheduler" => scheduler::call(shared, request).await,
        "/api/v1/link" => link::link(shared, request).await,
        "/teardown" => teardown::form(shared, request).await,
        _ => operator::call(shared, request).await,
    }
}

/// Returns the path without what may be left out: `/master` before it, a slash after it.
fn plain_path(path: &str) -> &str {
    let path =
        path.strip_prefix("/master").filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
    path.trim_end_matches('/')
}

/// Decodes the query; a name that comes twice counts the last time.
fn query(uri: &Uri) -> std::collections::HashMap<String, String> {
    axum::extract::Query::try_from_uri(uri).map(|query| query.0).unwrap_or_default()
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().unwrap_or_default())
}

async fn body(request: Request, max_bytes: usize, share: &Share) -> Result<Bytes, Refused> {
    read_body(request.into_body(), max_bytes, share).await.map_err(|error| {
        let status = match error {
            BodyError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            BodyError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Refused::new(status, error.to_string())
    })
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
}
