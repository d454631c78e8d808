//! One HTTP/1.1 connection that is kept, and the answers' common handling. It knows nothing of masters or calls.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::error::{CallError, Refusal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer's headers; a server that takes longer is taken for lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A master that answers nothing for so long, not even that it got what was sent, is taken for lost.
const LOST_PEER_TIMEOUT: Duration = Duration::from_secs(40);
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

pub(crate) const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Reconnects when the server has closed an idle connection.
pub(crate) struct Connection {
    authority: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(crate) fn new(authority: String) -> Self {
        Self { authority, sender: None }
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        method: &Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, CallError> {
        let failed = |reason: String, authority: &str| CallError::Connection {
            authority: authority.to_owned(),
            reason,
        };
        // A request that a closing connection never took may be sent again; any other may not.
        for attempt in 0..2 {
            let sender = match self.sender.as_mut().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender,
                None => self
                    .sender
                    .insert(connect(&self.authority).await.map_err(|e| failed(e, &self.authority))?),
            };
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = path_and_query
                .parse()
                .map_err(|_| failed(format!("bad path {path_and_query}"), &self.authority))?;
            *request.headers_mut() = headers.clone();
            let host = HeaderValue::from_str(&self.authority)
                .map_err(|_| failed("bad host".to_owned(), &self.authority))?;
            request.headers_mut().insert(header::HOST, host);
            let answer = async {
                sender.ready().await?;
                sender.send_request(request).await
            };
            match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) if attempt == 0 && (error.is_canceled() || error.is_closed()) => {
                    self.sender = None
                }
                Ok(Err(error)) => {
                    self.sender = None;
                    return Err(failed(error.to_string(), &self.authority));
                }
                Err(_) => {
                    self.sender = None;
                    return Err(failed(
                        format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
                        &self.authority,
                    ));
                }
            }
        }
        Err(failed("closed by the other side".to_owned(), &self.authority))
    }
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream =
        bellows_names::connect(authority, CONNECT_TIMEOUT).await.map_err(|error| error.to_string())?;
    // Calls are small and wait for their answers: never hold one back for more.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    notice_lost_peer(&stream).map_err(|error| error.to_string())?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with the connection: when the sender is dropped and the last answer read.
    tokio::spawn(connection);
    Ok(sender)
}

/// Has the system break the connection when the machine at its other end is gone without a word.
fn notice_lost_peer(stream: &TcpStream) -> std::io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(LOST_PEER_TIMEOUT / 4)
        .with_interval(LOST_PEER_TIMEOUT / 8)
        .with_retries(6);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(LOST_PEER_TIMEOUT))
}

/// The text of an answer that is no success.
pub(crate) async fn refusal(response: Response<Incoming>) -> Refusal {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect();
    let message = match tokio::time::timeout(ANSWER_TIMEOUT, body).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        _ => String::new(),
    };
    let message = if message.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").to_owned()
    } else {
        message
    };
    Refusal { status, message }
}

/// The body of a success, at most `limit` bytes; anything else is a refusal.
pub(crate) async fn success_body(
    authority: &str,
    response: Response<Incoming>,
    limit: usize,
) -> Result<Bytes, CallError> {
    if !response.status().is_success() {
        return Err(refusal(response).await.into());
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(response.into_body(), limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => {
            Err(CallError::Connection { authority: authority.to_owned(), reason: error.to_string() })
        }
        Err(_) => Err(CallError::Connection {
            authority: authority.to_owned(),
            reason: "the answer stalled".to_owned(),
        }),
    }
}

/// Where a 307 points, as `host:port`. Mesos writes `//host:port/path`; the path stays the caller's own.
pub(crate) fn redirect_authority<B>(response: &Response<B>) -> Option<String> {
    if !matches!(
        response.status(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT | StatusCode::FOUND
    ) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let rest = location.strip_prefix("http:").unwrap_or(location).strip_prefix("//")?;
    let authority = rest.split('/').next().filter(|authority| !authority.is_empty())?;
    // Without a port it is the master's own, not HTTP's.
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    Some(if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:{}", bellows_election::DEFAULT_MASTER_PORT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let to = |status: u16, location: &str| {
            redirect_authority(
                &Response::builder().status(status).header("Location", location).body(()).expect("valid"),
            )
        };
        assert_eq!(to(307, "//127.0.0.1:5060/master/api/v1/scheduler").as_deref(), Some("127.0.0.1:5060"));
        assert_eq!(to(307, "//127.0.0.1:5060").as_deref(), Some("127.0.0.1:5060"));
        assert_eq!(to(302, "http://m1/x").as_deref(), Some("m1:5050"));
        assert_eq!(to(307, "/elsewhere"), None);
        assert_eq!(to(307, "https://m1:5050/"), None);
        assert_eq!(to(200, "//m1:5050"), None);
    }
}
