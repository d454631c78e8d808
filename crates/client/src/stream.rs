//! A subscription: a SUBSCRIBE call answered by an endless RecordIO stream of events.

use std::marker::PhantomData;
use std::time::Duration;

use bellows_wire::media::Encoding;
use bellows_wire::recordio::{DEFAULT_MAX_RECORD_BYTES, Decoder};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::{Message, Name};

use crate::error::{CallError, Refusal};
use crate::http::{Connection, PROTOBUF, redirect_authority, refusal};

pub(crate) const STREAM_ID: &str = "mesos-stream-id";
const MAX_REDIRECTS: usize = 5;
/// Silence of this many heartbeat intervals means that the other side is lost, as in Mesos' own clients.
const MISSED_HEARTBEATS: u32 = 5;
/// Until the server has said how often it sends heartbeats.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a subscription did not come about.
pub(crate) enum SubscribeError {
    /// The subscriber must change something; trying again is of no use.
    Refused(Refusal),
    Unavailable(String),
}

pub(crate) struct EventStream<E> {
    /// Who answered, after redirects.
    pub(crate) authority: String,
    pub(crate) stream_id: Option<HeaderValue>,
    body: Incoming,
    decoder: Decoder,
    silence_limit: Duration,
    // The stream lives as long as the connection it came on.
    _connection: Connection,
    event: PhantomData<fn() -> E>,
}

/// Headers of every call: protobuf both ways, and the credential.
pub(crate) fn call_headers(authorization: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, PROTOBUF);
    headers.insert(header::ACCEPT, PROTOBUF);
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, authorization.clone());
    }
    headers
}

/// Subscribes at `authority`, or where it redirects to.
pub(crate) async fn subscribe<E: Message + Name + Default>(
    authority: String,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<EventStream<E>, SubscribeError> {
    let mut authority = authority;
    for _ in 0..=MAX_REDIRECTS {
        let mut connection = Connection::new(authority);
        let answer = connection.send(&Method::POST, path, headers, body.clone()).await;
        let response = answer.map_err(|error| SubscribeError::Unavailable(error.to_string()))?;
        if let Some(leader) = redirect_authority(&response) {
            authority = leader;
            continue;
        }
        if response.status() != http::StatusCode::OK {
            let refusal = refusal(response).await;
            return Err(if refusal.is_temporary() {
                SubscribeError::Unavailable(format!("{}: {refusal}", connection.authority()))
            } else {
                SubscribeError::Refused(refusal)
            });
        }
        return Ok(EventStream {
            authority: connection.authority().to_owned(),
            stream_id: response.headers().get(STREAM_ID).cloned(),
            body: response.into_body(),
            decoder: Decoder::new(DEFAULT_MAX_RECORD_BYTES),
            silence_limit: FIRST_EVENT_TIMEOUT,
            _connection: connection,
            event: PhantomData,
        });
    }
    Err(SubscribeError::Unavailable("the masters redirect to each other: none leads yet".to_owned()))
}

impl<E: Message + Name + Default> EventStream<E> {
    /// Sets how long the stream may be silent, from the server's heartbeat interval.
    pub(crate) fn expect_heartbeats(&mut self, interval: Duration) {
        self.silence_limit = interval.max(Duration::from_millis(1)) * MISSED_HEARTBEATS;
    }

    /// For servers that send no heartbeats: only the connection tells.
    pub(crate) fn expect_silence(&mut self) {
        self.silence_limit = Duration::from_secs(365 * 24 * 3600);
    }

    /// The next event; an error ends the stream.
    pub(crate) async fn next(&mut self) -> Result<E, CallError> {
        loop {
            let record = self.decoder.next_record().map_err(|error| self.protocol(error.to_string()))?;
            if let Some(record) = record {
                return Encoding::Protobuf.decode(record).map_err(|error| self.protocol(error.to_string()));
            }
            let frame = tokio::time::timeout(self.silence_limit, self.body.frame())
                .await
                .map_err(|_| self.lost(format!("nothing heard for {:?}", self.silence_limit)))?
                .ok_or_else(|| self.lost("the stream was closed".to_owned()))?
                .map_err(|error| self.lost(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                self.decoder.push(&data);
            }
        }
    }

    fn lost(&self, reason: String) -> CallError {
        CallError::Connection { authority: self.authority.clone(), reason }
    }

    fn protocol(&self, reason: String) -> CallError {
        CallError::Protocol { authority: self.authority.clone(), reason }
    }
}
