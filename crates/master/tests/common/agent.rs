//! An agent that runs nothing and says what the test wants.
#![allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]
use bellows_wire::{
    link::{
        AgentMessage, MasterMessage, Register, StatusUpdate, agent_message,
        master_message::{self, Message},
    },
    recordio, v1,
};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use std::{convert::Infallible, net::SocketAddr};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

pub struct Agent {
    out: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    body: Incoming,
    records: recordio::Decoder,
    pub id: String,
}

pub fn info(port: i32) -> v1::AgentInfo {
    let scalar = |name: &str, value| v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar.into(),
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    };
    let ports = v1::Resource {
        name: "ports".to_owned(),
        r#type: v1::value::Type::Ranges.into(),
        ranges: Some(v1::value::Ranges { range: vec![v1::value::Range { begin: 31_000, end: 32_000 }] }),
        ..Default::default()
    };
    v1::AgentInfo {
        hostname: "127.0.0.1".to_owned(),
        port: Some(port),
        resources: vec![scalar("cpus", 4.0), scalar("mem", 6_144.0), scalar("disk", 20_000.0), ports],
        attributes: vec![v1::Attribute {
            name: "rack".to_owned(),
            r#type: v1::value::Type::Text.into(),
            text: Some(v1::value::Text { value: "r1".to_owned() }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

impl Agent {
    /// Registered, with an id.
    pub async fn register(address: SocketAddr) -> Self {
        Self::register_as(address, info(5051)).await
    }

    pub async fn register_as(address: SocketAddr, info: v1::AgentInfo) -> Self {
        let mut agent = Self::connect(address).await;
        let register = Register { agent_info: info, version: "0.1.0".to_owned(), ..Default::default() };
        agent.say(agent_message::Message::Register(register)).await;
        match agent.hear().await {
            Some(Message::Registered(registered)) => agent.id = registered.agent_id.value,
            other => panic!("{other:?}"),
        }
        agent
    }

    /// A link on which nothing has been said.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (out, frames) = mpsc::channel(16);
        let request = hyper::Request::post(format!("http://{address}/api/v1/link"))
            .header("content-type", "application/recordio")
            .body(StreamBody::new(ReceiverStream::new(frames)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let records = recordio::Decoder::new(recordio::DEFAULT_MAX_RECORD_BYTES);
        Self { out, body: response.into_body(), records, id: String::new() }
    }

    pub async fn say(&self, message: agent_message::Message) {
        let record = recordio::encode_message(&AgentMessage { message: Some(message) });
        self.say_bytes(record).await;
    }

    pub async fn say_bytes(&self, bytes: Bytes) {
        self.out.send(Ok(Frame::data(bytes))).await.unwrap();
    }

    /// The next message; `None` when the master has closed the link.
    pub async fn hear(&mut self) -> Option<master_message::Message> {
        loop {
            if let Some(record) = self.records.next_record().unwrap() {
                return MasterMessage::decode(record).unwrap().message;
            }
            let frame = super::patiently(self.body.frame()).await?.ok()?;
            self.records.push(&frame.into_data().unwrap());
        }
    }

    /// The next launch.
    pub async fn launched(&mut self) -> v1::TaskInfo {
        loop {
            match self.hear().await.expect("a launch") {
                Message::LaunchTask(launch) => return launch.task_info,
                Message::Ping(_) | Message::AcknowledgeStatus(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn update(&self, framework_id: &str, task_id: &str, state: v1::TaskState) {
        self.update_with(framework_id, task_id, state, |_| {}).await;
    }

    pub async fn update_with(
        &self,
        framework_id: &str,
        task_id: &str,
        state: v1::TaskState,
        change: impl FnOnce(&mut v1::TaskStatus),
    ) {
        let mut status = v1::TaskStatus {
            task_id: v1::TaskId { value: task_id.to_owned() },
            state: state.into(),
            source: Some(v1::task_status::Source::Executor.into()),
            agent_id: Some(v1::AgentId { value: self.id.clone() }),
            executor_id: Some(v1::ExecutorId { value: task_id.to_owned() }),
            timestamp: Some(1_795_337_242.5),
            uuid: Some(uuid::Uuid::new_v4().as_bytes().to_vec().into()),
            container_status: Some(v1::ContainerStatus {
                container_id: Some(v1::ContainerId {
                    value: uuid::Uuid::new_v4().to_string(),
                    ..Default::default()
                }),
                network_infos: vec![v1::NetworkInfo {
                    ip_addresses: vec![v1::network_info::IpAddress {
                        ip_address: Some("127.0.0.1".to_owned()),
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                executor_pid: Some(4_242),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut status);
        let framework_id = v1::FrameworkId { value: framework_id.to_owned() };
        self.say(agent_message::Message::StatusUpdate(StatusUpdate {
            framework_id,
            status,
            latest_state: None,
        }))
        .await;
    }
}
