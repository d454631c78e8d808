//! The operator's client: what runs where, ending a framework, and reading files on an agent.

use std::time::Duration;

use bellows_election::Leader;
use bellows_wire::v1::FrameworkId;
use bellows_wire::v1::master::{Call, Event, Response, call, event, response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use prost::Message as _;
use tokio::sync::{Mutex, watch};

use crate::Credential;
use crate::error::CallError;
use crate::http::{Connection, redirect_authority, success_body};
use crate::stream::{EventStream, SubscribeError, call_headers, subscribe};

const PATH: &str = "/api/v1";
const DETECTION_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 5;
/// The state of 10,000 agents with their tasks fits.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Calls the leading master on one connection, one call at a time.
pub struct OperatorClient {
    leader: watch::Receiver<Option<Leader>>,
    authorization: Option<HeaderValue>,
    connection: Mutex<Option<Connection>>,
}

impl OperatorClient {
    pub fn new(leader: watch::Receiver<Option<Leader>>, credential: Option<&Credential>) -> Self {
        Self { leader, authorization: credential.map(Credential::to_header), connection: Mutex::new(None) }
    }

    /// Frameworks, tasks, executors and agents in one consistent answer.
    pub async fn get_state(&self) -> Result<response::GetState, CallError> {
        self.read(call::Type::GetState, |response| response.get_state).await
    }

    pub async fn get_agents(&self) -> Result<response::GetAgents, CallError> {
        self.read(call::Type::GetAgents, |response| response.get_agents).await
    }

    pub async fn get_frameworks(&self) -> Result<response::GetFrameworks, CallError> {
        self.read(call::Type::GetFrameworks, |response| response.get_frameworks).await
    }

    pub async fn get_tasks(&self) -> Result<response::GetTasks, CallError> {
        self.read(call::Type::GetTasks, |response| response.get_tasks).await
    }

    /// Ends a framework: its tasks are killed, and it cannot subscribe again.
    pub async fn teardown(&self, framework_id: &FrameworkId) -> Result<(), CallError> {
        let teardown = call::Teardown { framework_id: framework_id.clone() };
        let call =
            Call { r#type: Some(call::Type::Teardown.into()), teardown: Some(teardown), ..Call::default() };
        self.call(&call).await.map(drop)
    }

    /// Any operator call; the body of its answer is empty where the protocol gives none.
    pub async fn call(&self, call: &Call) -> Result<Bytes, CallError> {
        let body = Bytes::from(call.encode_to_vec());
        let headers = call_headers(self.authorization.as_ref());
        self.send(&Method::POST, PATH, &headers, body).await
    }

    /// One of the master's JSON documents: `/state`, `/metrics/snapshot`, …
    pub async fn get_json(&self, path: &str) -> Result<serde_json::Value, CallError> {
        let body =
            self.send(&Method::GET, path, &json_headers(self.authorization.as_ref()), Bytes::new()).await?;
        parse_json(path, &body)
    }

    /// The state now, then every change. Ends with the first error; the caller subscribes again if it wants.
    pub async fn subscribe(&self) -> Result<OperatorEvents, CallError> {
        let call = Call { r#type: Some(call::Type::Subscribe.into()), ..Call::default() };
        let headers = call_headers(self.authorization.as_ref());
        let authority = self.leader().await?;
        match subscribe(authority.clone(), PATH, &headers, Bytes::from(call.encode_to_vec())).await {
            Ok(stream) => Ok(OperatorEvents { stream }),
            Err(SubscribeError::Refused(refusal)) => Err(refusal.into()),
            Err(SubscribeError::Unavailable(reason)) => Err(CallError::Connection { authority, reason }),
        }
    }

    async fn read<T>(&self, kind: call::Type, part: fn(Response) -> Option<T>) -> Result<T, CallError> {
        let body = self.call(&Call { r#type: Some(kind.into()), ..Call::default() }).await?;
        let protocol = |reason: String| CallError::Protocol { authority: "the master".to_owned(), reason };
        let response = Response::decode(body).map_err(|error| protocol(error.to_string()))?;
        part(response).ok_or_else(|| protocol(format!("no answer to {}", kind.as_str_name())))
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        let mut authority = self.leader().await?;
        let mut kept = self.connection.lock().await;
        for _ in 0..=MAX_REDIRECTS {
            let same = kept.take_if(|connection| connection.authority() == authority);
            let connection = kept.insert(same.unwrap_or_else(|| Connection::new(authority.clone())));
            let response = connection.send(method, path, headers, body.clone()).await?;
            match redirect_authority(&response) {
                Some(leader) => authority = leader,
                None => return success_body(&authority, response, MAX_ANSWER_BYTES).await,
            }
        }
        Err(CallError::NotConnected)
    }

    async fn leader(&self) -> Result<String, CallError> {
        let mut leader = self.leader.clone();
        match tokio::time::timeout(DETECTION_TIMEOUT, leader.wait_for(Option::is_some)).await {
            Ok(Ok(leader)) => leader.as_ref().map(Leader::authority).ok_or(CallError::NotConnected),
            _ => Err(CallError::NotConnected),
        }
    }
}

/// A subscription of the operator API.
pub struct OperatorEvents {
    stream: EventStream<Event>,
}

impl OperatorEvents {
    /// The next event, heartbeats excepted; an error ends the stream.
    pub async fn next(&mut self) -> Result<Event, CallError> {
        loop {
            let event = self.stream.next().await?;
            match event.r#type() {
                event::Type::Heartbeat => continue,
                event::Type::Subscribed => {
                    let seconds = event
                        .subscribed
                        .as_ref()
                        .and_then(|subscribed| subscribed.heartbeat_interval_seconds);
                    if let Some(interval) =
                        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                    {
                        self.stream.expect_heartbeats(interval);
                    }
                    return Ok(event);
                }
                _ => return Ok(event),
            }
        }
    }
}

/// Reads an agent's state and the files of its sandboxes.
pub struct AgentClient {
    connection: Mutex<Connection>,
    authorization: Option<HeaderValue>,
}

impl AgentClient {
    /// `authority` is the agent's `host:port`.
    pub fn new(authority: &str, credential: Option<&Credential>) -> Self {
        let connection = Mutex::new(Connection::new(authority.to_owned()));
        Self { connection, authorization: credential.map(Credential::to_header) }
    }

    /// The agent's `/state`: frameworks, executors with their `directory`, tasks.
    pub async fn get_state(&self) -> Result<serde_json::Value, CallError> {
        self.get_json("/state").await
    }

    /// The settings in force, as `/flags` shows them.
    pub async fn get_flags(&self) -> Result<serde_json::Value, CallError> {
        self.get_json("/flags").await
    }

    /// The files of a directory, as `/files/browse` lists them.
    pub async fn browse(&self, path: &str) -> Result<serde_json::Value, CallError> {
        self.get_json(&format!("/files/browse?path={}", percent_encode(path))).await
    }

    /// Bytes in the file now.
    pub async fn file_size(&self, path: &str) -> Result<u64, CallError> {
        let answer = self.get_json(&format!("/files/read?path={}&offset=-1", percent_encode(path))).await?;
        answer["offset"].as_u64().ok_or_else(|| protocol("/files/read", "no offset"))
    }

    /// At most `length` bytes from `offset`, as text; empty at the file's end.
    pub async fn read_file(&self, path: &str, offset: u64, length: u64) -> Result<String, CallError> {
        let query = format!("/files/read?path={}&offset={offset}&length={length}", percent_encode(path));
        match self.get_json(&query).await? {
            serde_json::Value::Object(mut answer) => match answer.remove("data") {
                Some(serde_json::Value::String(data)) => Ok(data),
                _ => Err(protocol("/files/read", "no data")),
            },
            _ => Err(protocol("/files/read", "no object")),
        }
    }

    async fn get_json(&self, path: &str) -> Result<serde_json::Value, CallError> {
        let mut connection = self.connection.lock().await;
        let headers = json_headers(self.authorization.as_ref());
        let response = connection.send(&Method::GET, path, &headers, Bytes::new()).await?;
        let body = success_body(connection.authority(), response, MAX_ANSWER_BYTES).await?;
        parse_json(path, &body)
    }
}

fn json_headers(authorization: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, authorization.clone());
    }
    headers
}

fn parse_json(path: &str, body: &[u8]) -> Result<serde_json::Value, CallError> {
    serde_json::from_slice(body).map_err(|error| protocol(path, &error.to_string()))
}

fn protocol(path: &str, reason: &str) -> CallError {
    CallError::Protocol { authority: path.to_owned(), reason: reason.to_owned() }
}

/// For a query's value: everything but unreserved characters and the slash.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(byte as char)
            }
            _ => write!(encoded, "%{byte:02X}").expect("writing to a string"),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(percent_encode("/a b/c&d=é%"), "/a%20b/c%26d%3D%C3%A9%25");
    }
}
