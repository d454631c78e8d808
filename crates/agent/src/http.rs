//! What operators and pages read from an agent. Nothing here changes anything.
use crate::{Config, driver::Handle};
use axum::{Json, Router, routing::get};
use bellows_containment::Containerizer;
use serde_json::json;
use std::{net::SocketAddr, path::Path};

pub(crate) fn router(
    _config: &Config,
    _address: SocketAddr,
    _work_dir: &Path,
    _driver: Handle,
    _containerizer: Containerizer,
) -> Router {
    Router::new()
        .route("/health", get(|| async {}))
        .route("/version", get(|| async { Json(json!({"version": "1.12.0"})) }))
}
