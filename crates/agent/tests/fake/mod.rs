//! A master of which a test plays every word, and agents to play against.
#![allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]
#![allow(dead_code, reason = "each test file uses its part")]
use axum::{Router, body::Body, extract::State, response::Response, routing::post};
use bellows_agent::{Config, Running};
use bellows_election::{Leader, MasterAddress, detect};
use bellows_runtime::{Limits, Server};
use bellows_wire::{
    link::{self, AgentMessage, MasterMessage, agent_message, master_message::Message},
    recordio, v1,
};
use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use std::{convert::Infallible, net::SocketAddr, path::Path, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_agent-test");
pub(crate) const AGENT_ID: &str = "M-S0";
/// For what must come; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Master {
    pub(crate) addr: SocketAddr,
    links: mpsc::Receiver<Link>,
    _server: Server,
}

/// One agent's connection. Dropping it closes it.
pub(crate) struct Link {
    incoming: mpsc::Receiver<agent_message::Message>,
    outgoing: mpsc::Sender<Bytes>,
}

impl Master {
    pub(crate) async fn start() -> Self {
        let (sender, links) = mpsc::channel(16);
        let router = Router::new().route("/api/v1/link", post(accept)).with_state(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Server::start(listener, router, Limits::default()).expect("bound");
        Self { addr: server.local_addr(), links, _server: server }
    }

    pub(crate) fn leader(&self) -> watch::Receiver<Option<Leader>> {
        detect(&MasterAddress::parse(&self.addr.to_string()).expect("host:port"))
    }

    /// The next connection, and what the agent said first.
    pub(crate) async fn accept(&mut self) -> (Link, link::Register) {
        let mut link = in_time(self.links.recv()).await.expect("a connection");
        match link.next().await {
            agent_message::Message::Register(register) => (link, register),
            other => panic!("{other:?}"),
        }
    }

    /// Accepts and registers.
    pub(crate) async fn register(&mut self) -> (Link, link::Register) {
        let (link, register) = self.accept().await;
        link.say(Message::Registered(link::Registered {
            agent_id: v1::AgentId { value: AGENT_ID.into() },
            master_info: v1::MasterInfo { id: "M".into(), port: 5050, ..Default::default() },
            ping_interval_seconds: 15.0,
            max_missed_pings: 5,
        }))
        .await;
        (link, register)
    }
}

impl Link {
    pub(crate) async fn say(&self, message: Message) {
        let message = MasterMessage { message: Some(message) };
        self.outgoing.send(recordio::encode_message(&message)).await.expect("connected");
    }

    pub(crate) async fn next(&mut self) -> agent_message::Message {
        in_time(self.incoming.recv()).await.expect("still connected")
    }

    pub(crate) async fn closed(&mut self) {
        while in_time(self.incoming.recv()).await.is_some() {}
    }

    pub(crate) async fn launch(&self, framework: &str, task: v1::TaskInfo) {
        self.launch_with(framework, Vec::new(), task).await;
    }

    /// The same for an application that uses the shuffle service of its machine.
    pub(crate) async fn launch_with_service(&self, framework: &str, task: v1::TaskInfo) {
        let label = v1::Label { key: "bellows.shuffle_service".into(), value: Some("true".into()) };
        self.launch_with(framework, vec![label], task).await;
    }

    async fn launch_with(&self, framework: &str, labels: Vec<v1::Label>, task: v1::TaskInfo) {
        let framework_info = v1::FrameworkInfo {
            labels: Some(v1::Labels { labels }),
            id: Some(v1::FrameworkId { value: framework.into() }),
            name: framework.into(),
            roles: vec!["*".into()],
            capabilities: vec![
                capability(v1::framework_info::capability::Type::MultiRole),
                capability(v1::framework_info::capability::Type::TaskKillingState),
            ],
            ..Default::default()
        };
        self.say(Message::LaunchTask(link::LaunchTask { framework_info, task_info: task })).await;
    }

    pub(crate) async fn kill(&self, framework: &str, task: &str) {
        self.say(Message::KillTask(link::KillTask {
            framework_id: v1::FrameworkId { value: framework.into() },
            task_id: v1::TaskId { value: task.into() },
            kill_policy: None,
        }))
        .await;
    }

    pub(crate) async fn shut_down(&self, framework: &str) {
        let framework_id = v1::FrameworkId { value: framework.into() };
        self.say(Message::ShutdownFramework(link::ShutdownFramework { framework_id })).await;
    }

    pub(crate) async fn acknowledge(&self, framework: &str, status: &v1::TaskStatus) {
        self.say(Message::AcknowledgeStatus(link::AcknowledgeStatus {
            framework_id: v1::FrameworkId { value: framework.into() },
            task_id: status.task_id.clone(),
            uuid: status.uuid.clone().expect("to be acknowledged"),
        }))
        .await;
    }

    /// The next status, not acknowledged.
    pub(crate) async fn status(&mut self) -> v1::TaskStatus {
        loop {
            match self.next().await {
                agent_message::Message::StatusUpdate(update) => return update.status,
                // It is what the test does to the agent, and no status.
                agent_message::Message::Condition(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next that the agent says of its condition, whatever else it says.
    pub(crate) async fn condition(&mut self) -> link::Condition {
        loop {
            if let agent_message::Message::Condition(condition) = self.next().await {
                return condition;
            }
        }
    }

    /// Waits until the agent says that it is so.
    pub(crate) async fn until_condition(
        &mut self,
        holds: impl Fn(&link::Condition) -> bool,
    ) -> link::Condition {
        loop {
            let condition = self.condition().await;
            if holds(&condition) {
                return condition;
            }
        }
    }

    /// Acknowledges everything of a framework until a task's end.
    pub(crate) async fn until_end(&mut self, framework: &str) -> Vec<v1::TaskStatus> {
        let mut all = Vec::new();
        loop {
            let status = self.status().await;
            self.acknowledge(framework, &status).await;
            let over = bellows_model::TaskState::from(status.state()).is_terminal();
            all.push(status);
            if over {
                return all;
            }
        }
    }

    /// Acknowledges everything until a task says it runs.
    pub(crate) async fn until_running(&mut self, framework: &str) -> v1::TaskStatus {
        loop {
            let status = self.status().await;
            self.acknowledge(framework, &status).await;
            if status.state() == v1::TaskState::TaskRunning {
                return status;
            }
        }
    }
}

fn capability(of: v1::framework_info::capability::Type) -> v1::framework_info::Capability {
    v1::framework_info::Capability { r#type: Some(of.into()) }
}

async fn accept(State(links): State<mpsc::Sender<Link>>, body: Body) -> Response {
    let (sender, incoming) = mpsc::channel(4096);
    let (outgoing, records) = mpsc::channel(4096);
    tokio::spawn(async move {
        let mut chunks = body.into_data_stream();
        let mut decoder = recordio::Decoder::new(recordio::DEFAULT_MAX_RECORD_BYTES);
        while let Some(Ok(chunk)) = chunks.next().await {
            decoder.push(&chunk);
            while let Some(record) = decoder.next_record().expect("records") {
                let message = AgentMessage::decode(record).expect("a message").message.expect("known");
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        }
    });
    links.send(Link { incoming, outgoing }).await.expect("the test is there");
    let records = futures::stream::unfold(records, |mut records| async move {
        records.recv().await.map(|record: Bytes| (Ok::<_, Infallible>(record), records))
    });
    Response::new(Body::from_stream(records))
}

pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

pub(crate) fn config(master: &Master, work_dir: &Path) -> Config {
    let mut config = Config::new(([127, 0, 0, 1], 0).into(), master.leader(), work_dir);
    config.shim_exe = Some(SHIM.into());
    config.resources = "cpus:100;mem:100000;disk:1000".into();
    config.disk_check_interval = Duration::from_millis(20);
    config
}

pub(crate) async fn start(master: &Master, work_dir: &Path) -> Running {
    bellows_agent::start(config(master, work_dir)).await.expect("started")
}

pub(crate) fn shell(id: &str, command: &str) -> v1::TaskInfo {
    v1::TaskInfo {
        name: id.into(),
        task_id: v1::TaskId { value: id.into() },
        agent_id: v1::AgentId { value: AGENT_ID.into() },
        command: Some(v1::CommandInfo { value: Some(command.into()), ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn states(statuses: &[v1::TaskStatus]) -> Vec<v1::TaskState> {
    statuses.iter().map(|status| status.state()).collect()
}

/// The sandbox of a status' task.
pub(crate) fn sandbox(work_dir: &Path, framework: &str, status: &v1::TaskStatus) -> std::path::PathBuf {
    let container = status.container_status.as_ref().and_then(|status| status.container_id.as_ref());
    work_dir
        .join(format!("slaves/{AGENT_ID}/frameworks/{framework}/executors"))
        .join(format!("{}/runs", status.task_id.value))
        .join(&container.expect("it ran").value)
}

/// `GET`: status, headers, body.
pub(crate) async fn get(
    addr: SocketAddr,
    path: &str,
    origin: Option<&str>,
) -> (u16, http::HeaderMap, String) {
    let mut request = http::Request::get(path).header("host", addr.to_string());
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    send(addr, request.body(Body::empty()).expect("valid")).await
}

/// As a page of another site would ask, whose name resolves to `addr`.
pub(crate) async fn get_as(addr: SocketAddr, host: &str, path: &str) -> (u16, http::HeaderMap, String) {
    let request = http::Request::get(path).header("host", host);
    send(addr, request.body(Body::empty()).expect("valid")).await
}

pub(crate) async fn call(addr: SocketAddr, json: &str) -> (u16, String) {
    let request = http::Request::post("/api/v1")
        .header("host", addr.to_string())
        .header("content-type", "application/json");
    let (status, _, body) = send(addr, request.body(Body::from(json.to_owned())).expect("valid")).await;
    (status, body)
}

async fn send(addr: SocketAddr, request: http::Request<Body>) -> (u16, http::HeaderMap, String) {
    let stream = tokio::net::TcpStream::connect(addr).await.expect("listening");
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("http");
    let connection = tokio::spawn(connection);
    let response = in_time(sender.send_request(request)).await.expect("an answer");
    let (head, body) = response.into_parts();
    let body = http_body_util::BodyExt::collect(body).await.expect("whole").to_bytes();
    connection.abort();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
}

/// Until `holds`, for what nothing tells of.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    in_time(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
