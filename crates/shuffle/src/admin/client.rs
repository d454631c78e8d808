//! The caller's side of the admin socket. One short connection per call; every call may be repeated.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{Error, ExecutorRemoval, Removal, Status};

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: impl AsRef<Path>) -> Client {
        Client { socket: socket.as_ref().to_owned() }
    }

    /// The application ended: its registrations and its directories go. Removing what is not there is no error.
    pub async fn remove_app(&self, app: &str) -> Result<Removal, Error> {
        self.call(Method::DELETE, &format!("/v1/apps/{}", percent_encode(app))).await
    }

    /// The executor ended: its temporary files and non-shuffle blocks go, its shuffle files stay.
    pub async fn executor_departed(&self, app: &str, executor: &str) -> Result<ExecutorRemoval, Error> {
        let path = format!("/v1/apps/{}/executors/{}", percent_encode(app), percent_encode(executor));
        self.call(Method::DELETE, &path).await
    }

    pub async fn status(&self) -> Result<Status, Error> {
        self.call(Method::GET, "/v1/status").await
    }

    /// Whether there is a service that answers at all.
    pub async fn answers(&self) -> bool {
        let answer = self.call::<serde::de::IgnoredAny>(Method::GET, "/v1/alive").await;
        // Of an older service any answer will do.
        matches!(answer, Ok(_) | Err(Error::Refused { .. }))
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Error> {
        let what = || format!("{method} {path} on {}", self.socket.display());
        let failed = |source| Error::Io { what: what(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(failed)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(io::Error::other(e)))?;
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(http::header::HOST, "shuffle")
            .body(Empty::<Bytes>::new())
            .map_err(|e| failed(io::Error::other(e)))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok::<_, io::Error>((status, body.map_err(io::Error::other)?.to_bytes()))
        };
        // The connection is driven here, so nothing outlives the call; the answer may come as it closes.
        let (status, body) = tokio::select! {
            biased;
            answer = exchange => answer.map_err(failed)?,
            () = drive(connection) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
        };
        if status != StatusCode::OK {
            let message = String::from_utf8_lossy(&body).into_owned();
            return Err(Error::Refused { status: status.as_u16(), message });
        }
        serde_json::from_slice(&body).map_err(|e| failed(io::Error::other(e)))
    }
}

async fn drive(connection: impl Future<Output = hyper::Result<()>>) {
    if connection.await.is_ok() {
        // Closed in order: the answer is in the exchange's hands.
        std::future::pending::<()>().await;
    }
}

/// Percent-encodes everything but unreserved characters, so that any id is one path segment.
fn percent_encode(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
