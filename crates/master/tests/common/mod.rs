//! A framework, an agent and an operator made by hand over bare TCP, to see the very bytes that a master sends.
#![allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test binary uses its part.

pub mod agent;

use bellows_master::{Config, Running, start};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

pub fn config() -> Config {
    Config::new("127.0.0.1:0".parse().unwrap())
}

pub async fn master() -> Running {
    start(config()).await.unwrap()
}

/// An answer's head and, unless it is a stream, its body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn is(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.text()), (status, text));
    }
}

/// One connection.
pub struct Connection(pub BufStream<TcpStream>);

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self(BufStream::new(TcpStream::connect(address).await.unwrap()))
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !headers.iter().any(|(name, _)| *name == "Transfer-Encoding") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        self.write(&[head.as_bytes(), b"\r\n", body].concat()).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Answer {
        let status_line = self.line().await;
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").map(|length| length.parse().unwrap());
        if let Some(length) = length {
            answer.body = vec![0; length];
            patiently(self.0.read_exact(&mut answer.body)).await.unwrap();
        }
        answer
    }

    /// One HTTP chunk; `None` at the stream's end.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line().await, 16).unwrap();
        let mut chunk = vec![0; size + 2];
        patiently(self.0.read_exact(&mut chunk)).await.unwrap();
        assert_eq!(chunk.split_off(size), b"\r\n");
        (size > 0).then_some(chunk)
    }

    /// One chunk that must be one whole record.
    pub async fn record(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunk().await?;
        let newline = chunk.iter().position(|byte| *byte == b'\n').unwrap();
        let length: usize = std::str::from_utf8(&chunk[..newline]).unwrap().parse().unwrap();
        assert_eq!(chunk.len(), newline + 1 + length, "a chunk holds one record, and all of it");
        Some(chunk[newline + 1..].to_vec())
    }

    pub async fn event(&mut self) -> Option<Value> {
        Some(serde_json::from_slice(&self.record().await?).unwrap())
    }

    /// The next event of that type; others are passed over.
    pub async fn next(&mut self, kind: &str) -> Value {
        patiently(async {
            loop {
                let event = self.event().await.unwrap_or_else(|| panic!("no {kind} before the end"));
                if event["type"] == kind {
                    return event;
                }
            }
        })
        .await
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        patiently(self.0.read_line(&mut line)).await.unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }
}

/// What never comes fails a test instead of hanging it.
pub async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing more came")
}

pub const JSON: (&str, &str) = ("Content-Type", "application/json");

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    Connection::open(address).await.request("GET", path, &[], b"").await
}

pub async fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    Connection::open(address).await.request("POST", path, headers, body.as_ref()).await
}

pub async fn operator(address: SocketAddr, call: Value) -> Answer {
    post(address, "/api/v1", &[JSON], call.to_string()).await
}

/// A subscribed framework.
pub struct Framework {
    pub address: SocketAddr,
    pub stream: Connection,
    pub stream_id: String,
    pub id: String,
    pub subscribed: Value,
    offers: Vec<Value>,
}

pub fn framework_info() -> Value {
    json!({
        "user": "root", "name": "recorder", "roles": ["*"], "failover_timeout": 30, "checkpoint": true,
        "hostname": "127.0.0.1", "webui_url": "http://127.0.0.1:9", "id": null,
        "capabilities": [{"type": "MULTI_ROLE"}, {"type": "TASK_KILLING_STATE"}, {"type": "PARTITION_AWARE"}],
        "labels": {"labels": [{"key": "team", "value": "x"}]},
    })
}

impl Framework {
    pub async fn subscribe(address: SocketAddr) -> Self {
        Self::subscribe_as(address, framework_info()).await
    }

    pub async fn subscribe_as(address: SocketAddr, info: Value) -> Self {
        let mut stream = Connection::open(address).await;
        let call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}).to_string();
        let answer = stream.request("POST", "/api/v1/scheduler", &[JSON], call.as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let stream_id = answer.header("mesos-stream-id").unwrap().to_owned();
        let subscribed = stream.event().await.unwrap();
        assert_eq!(subscribed["type"], "SUBSCRIBED", "{subscribed}");
        let id = subscribed["subscribed"]["framework_id"]["value"].as_str().unwrap().to_owned();
        Self { address, stream, stream_id, id, subscribed, offers: Vec::new() }
    }

    pub async fn call(&self, mut call: Value) -> Answer {
        call["framework_id"] = json!({"value": self.id});
        let headers = [JSON, ("Mesos-Stream-Id", &self.stream_id)];
        post(self.address, "/api/v1/scheduler", &headers, call.to_string()).await
    }

    /// Any offer; of several that came together, one.
    pub async fn offer(&mut self) -> Value {
        self.offer_where(|_| true).await
    }

    /// The next offer of that agent. Those of others stay open.
    pub async fn offer_of(&mut self, agent: &str) -> Value {
        self.offer_where(|offer| offer["agent_id"]["value"] == agent).await
    }

    /// The next event of that type; offers that come before it, or are it, are kept.
    pub async fn next(&mut self, kind: &str) -> Value {
        patiently(async {
            loop {
                let event = self.stream.event().await.unwrap_or_else(|| panic!("no {kind} before the end"));
                if let Some(offers) = event["offers"]["offers"].as_array() {
                    self.offers.extend(offers.iter().cloned());
                }
                if event["type"] == kind {
                    return event;
                }
            }
        })
        .await
    }

    async fn offer_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(at) = self.offers.iter().position(&wanted) {
                return self.offers.remove(at);
            }
            self.next("OFFERS").await;
        }
    }

    pub async fn acknowledge(&self, update: &Value) -> Answer {
        let status = &update["update"]["status"];
        self.call(json!({"type": "ACKNOWLEDGE", "acknowledge": {
            "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"],
        }}))
        .await
    }

    pub async fn launch(&self, offer: &Value, task_id: &str) -> Answer {
        self.call(json!({"type": "ACCEPT", "accept": {
            "offer_ids": [offer["id"]],
            "operations": [{"type": "LAUNCH", "launch": {"task_infos": [{
                "name": task_id, "task_id": {"value": task_id}, "agent_id": offer["agent_id"],
                "resources": [
                    {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.5}},
                    {"name": "mem", "type": "SCALAR", "scalar": {"value": 64}},
                ],
                "command": {"value": "true"},
            }]}}],
            "filters": {"refuse_seconds": 0},
        }}))
        .await
    }
}
