//! The service's side: the admin socket, which may change things, and the metrics listener, which only tells.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Path as Segments, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use rustix::fs::Mode;
use tokio::net::UnixListener;

use crate::Error;
use crate::admin::prometheus;
use crate::service::{CallError, Service};

type Shared = State<Arc<Service>>;

/// All that an operator and the agent may ask.
pub(crate) fn admin_routes(service: Arc<Service>) -> Router {
    let routes = Router::new()
        .route("/v1/apps/{app}", delete(remove_app))
        .route("/v1/apps/{app}/executors/{executor}", delete(executor_departed));
    routes.with_state(service.clone()).merge(metrics_routes(service))
}

/// What may be read by anyone who can connect.
pub(crate) fn metrics_routes(service: Arc<Service>) -> Router {
    Router::new().route("/v1/status", get(status)).route("/metrics", get(metrics)).with_state(service)
}

async fn remove_app(State(service): Shared, Segments(app): Segments<String>) -> Response {
    answer(&service, service.remove_app(&app).await)
}

async fn executor_departed(
    State(service): Shared,
    Segments((app, executor)): Segments<(String, String)>,
) -> Response {
    answer(&service, service.executor_departed(&app, &executor).await)
}

async fn status(State(service): Shared) -> Response {
    Json(service.status()).into_response()
}

async fn metrics(State(service): Shared) -> Response {
    match prometheus::render(&service) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::PROMETHEUS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn answer<T: serde::Serialize>(service: &Service, result: Result<T, CallError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            service.note(&error);
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

/// Listens at `path` with mode 0600 from the first moment on: made under another name, then put in place.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source: io::Error| Error::Bind { address: path.display().to_string(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(failed(io::ErrorKind::AddrInUse.into()));
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    match std::fs::remove_file(fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(fresh).map_err(failed)?;
    rustix::fs::chmod(fresh, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
    std::fs::rename(fresh, path).map_err(failed)?;
    Ok(listener)
}
