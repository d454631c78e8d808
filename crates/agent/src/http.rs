//! What operators, pages and clients read from an agent, under the paths of Mesos. Nothing here changes anything.
mod files;
pub(crate) mod metrics;
mod operator;
mod views;

use crate::{
    Config,
    announced::Announced,
    driver::{Handle, Stopped},
};
use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::{IntoResponse, Response},
};
use bellows_containment::Containerizer;
use bellows_election::Leader;
use bellows_runtime::{Disconnect, MemoryBudget, Share, shared_body};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// The Mesos version whose API this is; clients choose what they may ask for by it.
const API_VERSION: &str = "1.12.0";

pub(crate) struct Shared {
    driver: Handle,
    containerizer: Containerizer,
    master: watch::Receiver<Option<Leader>>,
    files: files::Files,
    work_dir: PathBuf,
    announced: Arc<Announced>,
    flags: BTreeMap<&'static str, String>,
    /// Memory for calls and for answers that are not read yet.
    memory: MemoryBudget,
    sources: metrics::Sources,
}

/// See [`Shared::memory`].
const SHARED_MEMORY_BYTES: usize = 64 << 20;
/// Longer queries are no client's: a path takes 4,096 bytes, escaped three times as many.
const MAX_QUERY_BYTES: usize = 16 << 10;

pub(crate) fn router(
    config: &Config,
    announced: Arc<Announced>,
    work_dir: &Path,
    driver: Handle,
    containerizer: Containerizer,
    sources: metrics::Sources,
) -> Router {
    let shared = Shared {
        driver,
        containerizer,
        master: config.master.clone(),
        files: files::Files::new(work_dir),
        work_dir: work_dir.to_owned(),
        flags: flags(config, announced.address().port(), work_dir),
        announced,
        memory: MemoryBudget::new(SHARED_MEMORY_BYTES),
        sources,
    };
    Router::new().fallback(serve).with_state(Arc::new(shared))
}

impl Shared {
    /// Returns the peer's share of the memory.
    fn share(&self, request: &Request) -> Share {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let disconnect = request.extensions().get::<Disconnect>().cloned().unwrap_or_default();
        self.memory.share(peer, disconnect)
    }
}

/// An answer of that type, which takes its part of the memory until it has left.
fn held(share: Share, content_type: &'static str, bytes: Bytes) -> Result<Response, Refused> {
    if !share.grow(bytes.len()) {
        return Err(Refused::no_room());
    }
    Ok(([(header::CONTENT_TYPE, content_type)], shared_body(bytes, share)).into_response())
}

/// Does what takes its time on a thread of its own.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn written(share: Share, value: serde_json::Value) -> Result<Response, Refused> {
    let bytes = elsewhere(move || Bytes::from(value.to_string())).await?;
    held(share, "application/json", bytes)
}

/// A refusal: a status, and a text for people.
struct Refused(StatusCode, String);

impl Refused {
    fn bad_request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    fn no_room() -> Self {
        let text = "There is no memory left for this: try again";
        Self(StatusCode::SERVICE_UNAVAILABLE, text.into())
    }

    fn not_found() -> Self {
        Self(StatusCode::NOT_FOUND, String::new())
    }
}

impl From<Stopped> for Refused {
    fn from(_: Stopped) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "The agent is stopping".into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let origin = allowed_origin(&shared, request.headers());
    let mut response = dispatch(&shared, request).await.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    // What a task wrote is shown, never run.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

/// The leading master's page may show the sandboxes of its agents; no other site may read them.
fn allowed_origin(shared: &Shared, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let (_, host) = origin.to_str().ok()?.split_once("://")?;
    let leader = shared.master.borrow();
    let leader = leader.as_ref()?;
    let known = [leader.authority(), format!("{}:{}", leader.hostname, leader.port)];
    known.iter().any(|known| known == host).then(|| origin.clone())
}

async fn dispatch(shared: &Arc<Shared>, request: Request) -> Result<Response, Refused> {
    let path = plain_path(request.uri().path()).to_owned();
    if path == "/api/v1" {
        return match *request.method() {
            Method::POST => operator::call(shared, request).await,
            _ => Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "Expecting one of { 'POST' }".into())),
        };
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "Expecting one of { 'GET' }".into()));
    }
    if request.uri().query().is_some_and(|query| query.len() > MAX_QUERY_BYTES) {
        let text = format!("The query is longer than {MAX_QUERY_BYTES} bytes");
        return Err(Refused(StatusCode::URI_TOO_LONG, text));
    }
    let share = shared.share(&request);
    get(shared, &path, &query(request.uri()), share).await
}

async fn get(
    shared: &Arc<Shared>,
    path: &str,
    query: &HashMap<String, String>,
    share: Share,
) -> Result<Response, Refused> {
    Ok(match path {
        "/health" if shared.driver.is_alive().await => StatusCode::OK.into_response(),
        "/health" => {
            let text = "The agent's driver does not answer";
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, text.into()));
        }
        "/version" => Json(views::version()).into_response(),
        "/flags" => Json(serde_json::json!({ "flags": shared.flags })).into_response(),
        "/state" => written(share, views::state(shared).await?).await?,
        "/containers" => written(share, views::containers(shared, true).await?.into()).await?,
        "/monitor/statistics" => written(share, views::containers(shared, false).await?.into()).await?,
        "/system/stats" => Json(bellows_runtime::metrics::system_stats()).into_response(),
        "/metrics/snapshot" => {
            let patience = query.get("timeout").map(String::as_str);
            let patience = bellows_runtime::metrics::patience(patience).map_err(Refused::bad_request)?;
            Json(metrics::in_time(shared, patience).await?.json()).into_response()
        }
        "/metrics" => {
            let text = metrics::snapshot(shared).await?.prometheus();
            let text = text.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
            ([(header::CONTENT_TYPE, bellows_runtime::metrics::PROMETHEUS_TYPE)], text).into_response()
        }
        "/files/browse" => shared.files.browse(query).await?,
        "/files/read" => shared.files.read(query).await?,
        "/files/download" => shared.files.download(query).await?,
        _ => return Err(Refused::not_found()),
    })
}

/// The path without what may be left out: `/slave(1)` before it, `.json` or a slash after it.
fn plain_path(path: &str) -> &str {
    let path = path.strip_prefix("/slave(1)").unwrap_or(path).trim_end_matches('/');
    path.strip_suffix(".json").unwrap_or(path)
}

fn query(uri: &Uri) -> HashMap<String, String> {
    axum::extract::Query::try_from_uri(uri).map(|query| query.0).unwrap_or_default()
}

fn flags(config: &Config, port: u16, work_dir: &Path) -> BTreeMap<&'static str, String> {
    let paths =
        |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",");
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let flags = [
        ("attributes", Some(config.attributes.clone())),
        ("executor_shutdown_grace_period", Some(format!("{}secs", config.kill_grace.as_secs_f64()))),
        ("gc_delay", Some(format!("{}secs", config.gc_delay.as_secs_f64()))),
        ("gc_disk_headroom", Some(config.gc_disk_headroom.to_string())),
        ("disk_watch_interval", Some(format!("{}secs", config.disk_watch_interval.as_secs_f64()))),
        ("hostname", config.hostname.clone()),
        ("ip", Some(config.listen.ip().to_string())),
        ("port", Some(port.to_string())),
        ("advertise_ip", config.advertise_ip.map(|ip| ip.to_string())),
        ("advertise_port", config.advertise_port.map(|port| port.to_string())),
        ("native_library", path(&config.native_library)),
        ("resources", Some(config.resources.clone())),
        ("shuffle_dirs", Some(paths(&config.shuffle_dirs))),
        ("shuffle_socket", path(&config.shuffle_socket)),
        ("switch_user", Some(config.switch_user.to_string())),
        ("work_dir", Some(work_dir.display().to_string())),
    ];
    flags.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A body that is sent as it is read; of a file that grows meanwhile, so much as there was.
fn streamed(file: std::fs::File, size: u64) -> Body {
    let file = tokio::io::AsyncReadExt::take(tokio::fs::File::from_std(file), size);
    Body::from_stream(tokio_util::io::ReaderStream::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out_of_a_path() {
        for path in ["/state", "/state.json", "/slave(1)/state", "/slave(1)/state.json", "/state/"] {
            assert_eq!(plain_path(path), "/state", "{path}");
        }
        assert_eq!(plain_path("/slave(1)/api/v1"), "/api/v1");
    }
}
