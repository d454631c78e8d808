//! The service's side: the admin socket, which may change things, and the metrics listener, which only tells.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path as Segments, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use rustix::fs::Mode;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::admin::prometheus;
use crate::service::{CallError, Service};

type Shared = State<Arc<Service>>;

/// All that an operator and the agent may ask.
pub(crate) fn admin_routes(service: Arc<Service>) -> Router {
    let routes = Router::new()
        .route("/v1/alive", get(async || "true"))
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

/// Serves until the service is told to stop. A socket that somebody has deleted is made again: without it the agent takes
/// the service for dead.
pub(crate) async fn serve(
    (mut listener, mut file): (UnixListener, SocketFile),
    service: Arc<Service>,
    stop: CancellationToken,
) {
    loop {
        let routes = admin_routes(service.clone());
        let served = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::select! {
            served = served => {
                if let Err(error) = served {
                    tracing::error!(%error, "admin socket failed");
                }
                return file.remove();
            }
            anew = file.made_again(service.config.disk_check_interval) => (listener, file) = anew,
        }
    }
}

/// A listening socket's place in the file system.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: which of the files that come to lie there is this one.
    identity: (u64, u64),
}

impl SocketFile {
    /// Returns when there was nothing at the path any more, and there is a new socket.
    async fn made_again(&self, interval: Duration) -> (UnixListener, SocketFile) {
        let mut complained = false;
        loop {
            tokio::time::sleep(interval).await;
            match identity(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Another service's, or a disk that fails.
                _ => continue,
            }
            match self.path.parent().map_or(Ok(()), std::fs::create_dir_all).map(|()| bind(&self.path)) {
                Ok(Ok(anew)) => {
                    tracing::warn!(path = %self.path.display(), "the admin socket was deleted: it is made again");
                    return anew;
                }
                Ok(Err(error)) if !std::mem::replace(&mut complained, true) => {
                    tracing::error!(%error, "the admin socket was deleted, and cannot be made again yet");
                }
                _ => {}
            }
        }
    }

    /// Unless another service has taken the place meanwhile.
    pub(crate) fn remove(self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            // Nothing is lost if it stays: the next start makes it anew.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Listens at `path` with mode 0600 from the first moment that anyone else can reach it: made in a directory of its
/// own, then put in place.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    let failed = |source: io::Error| Error::Bind { address: path.display().to_string(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(failed(io::ErrorKind::AddrInUse.into()));
    }
    let mut nursery = path.as_os_str().to_owned();
    nursery.push(".new");
    let nursery = Path::new(&nursery);
    bind_in(nursery, path).inspect_err(|_| clear(nursery)).map_err(failed)
}

fn bind_in(nursery: &Path, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    clear(nursery);
    std::fs::DirBuilder::new().mode(0o700).create(nursery)?;
    let fresh = nursery.join("s");
    let listener = UnixListener::bind(&fresh)?;
    rustix::fs::chmod(&fresh, Mode::RUSR | Mode::WUSR)?;
    std::fs::rename(&fresh, path)?;
    std::fs::remove_dir(nursery)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: identity(path)? }))
}

/// What a kill left there. What cannot be removed is in the way, and said so, when the directory is made.
fn clear(nursery: &Path) {
    drop(std::fs::remove_file(nursery));
    drop(std::fs::remove_file(nursery.join("s")));
    drop(std::fs::remove_dir(nursery));
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
    use std::mem::MaybeUninit;
    use std::os::unix::fs::PermissionsExt;

    /// What happens in a directory, as the kernel tells it: nothing is missed, however short it was.
    #[tokio::test]
    async fn the_socket_is_never_there_with_more_rights_than_it_has_at_last() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("admin.sock");
        let nursery = dir.path().join("admin.sock.new");
        // As a kill, and an older version, left it.
        std::fs::create_dir(&nursery).expect("directory");
        drop(std::os::unix::net::UnixListener::bind(nursery.join("s")).expect("binds"));
        let events = inotify::init(CreateFlags::NONBLOCK).expect("inotify");
        let watched = WatchFlags::CREATE | WatchFlags::ATTRIB | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, dir.path(), watched).expect("watches");
        let (_listener, _file) = bind(&path).expect("binds");

        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&events, &mut buffer);
        let mut seen = Vec::new();
        while let Ok(event) = reader.next() {
            let name = event.file_name().expect("of an entry").to_str().expect("UTF-8").to_owned();
            seen.push((name, event.events()));
        }
        let expected = [
            ("admin.sock.new".to_owned(), ReadFlags::CREATE | ReadFlags::ISDIR),
            ("admin.sock".to_owned(), ReadFlags::MOVED_TO),
        ];
        assert_eq!(seen, expected);
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!nursery.exists());
    }

    #[tokio::test]
    async fn only_its_own_socket_is_removed() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("admin.sock");
        let (_listener, first) = bind(&path).expect("binds");
        std::fs::remove_file(&path).expect("there");
        let (_listener, second) = bind(&path).expect("binds");
        first.remove();
        assert!(path.exists());
        second.remove();
        assert!(!path.exists());
    }
}
