//! A master, or an agent, that a test plays: it records every call and sends what the test says.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::convert::Infallible;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellows_wire::recordio;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// No test waits for longer; nothing is asserted about time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What the server says to the next SUBSCRIBE.
#[derive(Debug, Clone)]
pub enum Answer {
    Stream,
    Redirect(SocketAddr),
    Refuse(StatusCode, &'static str),
}

/// How a call type is told from a SUBSCRIBE.
pub trait Call: Message + Default + 'static {
    /// Calls name their subscription; an executor's do not.
    const HAS_STREAM_ID: bool;
    fn is_subscribe(&self) -> bool;
}

impl Call for bellows_wire::v1::scheduler::Call {
    const HAS_STREAM_ID: bool = true;
    fn is_subscribe(&self) -> bool {
        self.subscribe.is_some()
    }
}

impl Call for bellows_wire::v1::executor::Call {
    const HAS_STREAM_ID: bool = false;
    fn is_subscribe(&self) -> bool {
        self.subscribe.is_some()
    }
}

/// An operator's; the one subscription that an operator has is not played here.
impl Call for bellows_wire::v1::master::Call {
    const HAS_STREAM_ID: bool = false;
    fn is_subscribe(&self) -> bool {
        false
    }
}

pub struct Server<C> {
    pub address: SocketAddr,
    calls: mpsc::UnboundedReceiver<C>,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
    call: PhantomData<C>,
}

struct Shared {
    answer: Mutex<Answer>,
    /// The open subscription and its stream id.
    stream: Mutex<Option<(String, mpsc::UnboundedSender<Bytes>)>>,
    subscriptions: Mutex<u32>,
    /// What is answered to calls other than SUBSCRIBE; `None`: the connection is cut instead.
    call_answer: Mutex<Option<(StatusCode, &'static str)>>,
    /// How many subscriptions replaced one that was still open.
    replaced: Mutex<u32>,
}

impl<C: Call> Server<C> {
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// On a given port: a server that comes back.
    pub async fn start_at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(address).expect("a free port");
        let listener = socket.listen(64).expect("listening");
        let address = listener.local_addr().expect("bound");
        let (sender, calls) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            answer: Mutex::new(Answer::Stream),
            stream: Mutex::new(None),
            subscriptions: Mutex::new(0),
            call_answer: Mutex::new(Some((StatusCode::ACCEPTED, ""))),
            replaced: Mutex::new(0),
        });
        let accepting = tokio::spawn(accept::<C>(listener, Arc::clone(&shared), sender));
        Self { address, calls, shared, accepting, call: PhantomData }
    }

    pub fn answer_subscribe(&self, answer: Answer) {
        *self.shared.answer.lock().expect("not poisoned") = answer;
    }

    pub fn answer_calls(&self, status: StatusCode) {
        self.answer_calls_with(status, "");
    }

    pub fn answer_calls_with(&self, status: StatusCode, message: &'static str) {
        *self.shared.call_answer.lock().expect("not poisoned") = Some((status, message));
    }

    /// Calls arrive, and their connection is cut before they are answered.
    pub fn lose_answers(&self) {
        *self.shared.call_answer.lock().expect("not poisoned") = None;
    }

    pub fn replaced(&self) -> u32 {
        *self.shared.replaced.lock().expect("not poisoned")
    }

    /// The next call, in the order of arrival.
    pub async fn next_call(&mut self) -> C {
        let call = tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("a call in time");
        call.expect("the server runs")
    }

    pub fn no_call_waits(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    /// Sends an event on the open subscription.
    pub fn send(&self, event: &impl Message) {
        self.send_bytes(recordio::encode(&event.encode_to_vec()));
    }

    pub fn send_bytes(&self, bytes: impl Into<Bytes>) {
        let stream = self.shared.stream.lock().expect("not poisoned");
        stream.as_ref().expect("subscribed").1.send(bytes.into()).expect("the subscription is open");
    }

    /// Ends the open subscription; the server stays.
    pub fn close_stream(&self) {
        self.shared.stream.lock().expect("not poisoned").take().expect("subscribed");
    }

    pub fn subscriptions(&self) -> u32 {
        *self.shared.subscriptions.lock().expect("not poisoned")
    }

    /// Cuts every connection.
    pub async fn stop(self) -> SocketAddr {
        self.accepting.abort();
        let _ = self.accepting.await;
        self.address
    }
}

async fn accept<C: Call>(listener: TcpListener, shared: Arc<Shared>, calls: mpsc::UnboundedSender<C>) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.expect("accepting");
        connection.set_nodelay(true).expect("an option");
        let (shared, calls) = (Arc::clone(&shared), calls.clone());
        connections.spawn(async move {
            let service = service_fn(|request| serve(request, Arc::clone(&shared), calls.clone()));
            // Clients cut connections when they like.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn serve<C: Call>(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    calls: mpsc::UnboundedSender<C>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let stream_id = request.headers().get("mesos-stream-id").map(|id| id.to_str().expect("text").to_owned());
    let body = request.into_body().collect().await?.to_bytes();
    let call = C::decode(body).expect("a call");
    if !call.is_subscribe() {
        let answer = *shared.call_answer.lock().expect("not poisoned");
        let current = shared.stream.lock().expect("not poisoned").as_ref().map(|(id, _)| id.clone());
        if C::HAS_STREAM_ID && stream_id != current {
            return Ok(text(StatusCode::BAD_REQUEST, "the stream ID didn't match"));
        }
        calls.send(call).expect("the test listens");
        let (status, message) = answer.ok_or("the test cuts the connection")?;
        return Ok(text(status, message));
    }
    assert_eq!(stream_id, None, "a SUBSCRIBE has no stream id");
    let answer = shared.answer.lock().expect("not poisoned").clone();
    match answer {
        Answer::Redirect(leader) => {
            let response = Response::builder().status(307);
            let response = response.header("Location", format!("//{leader}/master/api/v1/scheduler"));
            return Ok(response.body(Full::default().boxed()).expect("valid"));
        }
        Answer::Refuse(status, message) => {
            calls.send(call).expect("the test listens");
            return Ok(text(status, message));
        }
        Answer::Stream => {}
    }
    let number = {
        let mut subscriptions = shared.subscriptions.lock().expect("not poisoned");
        *subscriptions += 1;
        *subscriptions
    };
    let id = format!("stream-{number}");
    let (sender, mut receiver) = mpsc::unbounded_channel::<Bytes>();
    let before = shared.stream.lock().expect("not poisoned").replace((id.clone(), sender));
    if before.is_some_and(|(_, sender)| !sender.is_closed()) {
        *shared.replaced.lock().expect("not poisoned") += 1;
    }
    calls.send(call).expect("the test listens");
    let stream = futures::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))))
    });
    let mut response = Response::builder().header("Content-Type", "application/x-protobuf");
    if C::HAS_STREAM_ID {
        response = response.header("Mesos-Stream-Id", id);
    }
    Ok(response.body(StreamBody::new(stream).boxed()).expect("valid"))
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    Response::builder().status(status).body(Full::new(Bytes::from(text)).boxed()).expect("valid")
}

/// Events as a master sends them.
pub mod events {
    use bellows_wire::v1::scheduler::{Event, event};
    use bellows_wire::v1::{
        AgentId, ExecutorId, FrameworkId, MasterInfo, Offer, OfferId, TaskId, TaskState, TaskStatus,
    };
    use bytes::Bytes;

    pub fn subscribed(framework: &str, heartbeat_seconds: f64) -> Event {
        Event {
            r#type: Some(event::Type::Subscribed.into()),
            subscribed: Some(event::Subscribed {
                framework_id: FrameworkId { value: framework.to_owned() },
                heartbeat_interval_seconds: Some(heartbeat_seconds),
                master_info: Some(MasterInfo {
                    id: "m-1".to_owned(),
                    ip: 16_777_343,
                    port: 5050,
                    hostname: Some("localhost".to_owned()),
                    ..MasterInfo::default()
                }),
            }),
            ..Event::default()
        }
    }

    pub fn heartbeat() -> Event {
        Event { r#type: Some(event::Type::Heartbeat.into()), ..Event::default() }
    }

    pub fn error(message: &str) -> Event {
        Event {
            r#type: Some(event::Type::Error.into()),
            error: Some(event::Error { message: message.to_owned() }),
            ..Event::default()
        }
    }

    pub fn offers(ids: impl IntoIterator<Item = String>) -> Event {
        let offers = ids
            .into_iter()
            .map(|id| Offer {
                id: OfferId { value: id },
                framework_id: FrameworkId { value: "F-1".to_owned() },
                agent_id: AgentId { value: "S-1".to_owned() },
                hostname: "localhost".to_owned(),
                ..Offer::default()
            })
            .collect();
        Event {
            r#type: Some(event::Type::Offers.into()),
            offers: Some(event::Offers { offers }),
            ..Event::default()
        }
    }

    pub fn rescind(id: &str) -> Event {
        Event {
            r#type: Some(event::Type::Rescind.into()),
            rescind: Some(event::Rescind { offer_id: OfferId { value: id.to_owned() } }),
            ..Event::default()
        }
    }

    pub fn update(task: &str, state: TaskState, uuid: Option<&'static [u8]>) -> Event {
        let status = TaskStatus {
            task_id: TaskId { value: task.to_owned() },
            state: state.into(),
            agent_id: Some(AgentId { value: "S-1".to_owned() }),
            uuid: uuid.map(Bytes::from_static),
            ..TaskStatus::default()
        };
        Event {
            r#type: Some(event::Type::Update.into()),
            update: Some(event::Update { status }),
            ..Event::default()
        }
    }

    pub fn message(data: &'static [u8]) -> Event {
        Event {
            r#type: Some(event::Type::Message.into()),
            message: Some(event::Message {
                agent_id: AgentId { value: "S-1".to_owned() },
                executor_id: ExecutorId { value: "E-1".to_owned() },
                data: Bytes::from_static(data),
            }),
            ..Event::default()
        }
    }

    pub fn failure(executor: Option<&str>, status: Option<i32>) -> Event {
        Event {
            r#type: Some(event::Type::Failure.into()),
            failure: Some(event::Failure {
                agent_id: Some(AgentId { value: "S-1".to_owned() }),
                executor_id: executor.map(|id| ExecutorId { value: id.to_owned() }),
                status,
            }),
            ..Event::default()
        }
    }
}
