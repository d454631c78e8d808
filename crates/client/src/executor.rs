//! The executor's client: a subscription with the agent that survives the agent's restarts, for as long as the
//! recovery timeout allows. What the agent has not acknowledged is told again with each subscription.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bellows_election::Backoff;
use bellows_wire::v1::executor::{Call, Event, call, event};
use bellows_wire::v1::{ExecutorId, FrameworkId, TaskInfo};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::calls::{CallQueue, Session};
use crate::error::CallError;
use crate::stream::{EventStream, SubscribeError, call_headers, subscribe};

const PATH: &str = "/api/v1/executor";
const EVENT_CAPACITY: usize = 1024;
const FIRST_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// `host:port` of the agent.
    pub agent: String,
    pub framework_id: FrameworkId,
    pub executor_id: ExecutorId,
    /// How long to look for a lost agent; zero: a lost agent is the executor's end.
    pub recovery_timeout: Duration,
    pub max_backoff: Duration,
}

/// In order: `Connected (Received* Disconnected Connected)* … (Fatal | AgentLost)`.
#[derive(Debug)]
pub enum ExecutorEvent {
    /// Subscribed; SUBSCRIBED follows as the first `Received`.
    Connected,
    Disconnected {
        reason: String,
    },
    /// An event of the stream, heartbeats excepted.
    Received(Box<Event>),
    /// The agent refused the executor for good; the client has stopped.
    Fatal(String),
    /// The agent did not come back in time; the client has stopped.
    AgentLost(String),
}

/// Cheap to clone; the subscription ends when every clone, or the event receiver, is dropped.
#[derive(Debug, Clone)]
pub struct ExecutorClient {
    calls: CallQueue,
    unacknowledged: Arc<Mutex<Unacknowledged>>,
    options: Arc<ExecutorOptions>,
}

/// In the order in which they happened.
#[derive(Debug, Default)]
struct Unacknowledged {
    tasks: Vec<TaskInfo>,
    updates: Vec<call::Update>,
}

impl ExecutorClient {
    /// Starts subscribing. Must be called within a Tokio runtime.
    pub fn start(options: ExecutorOptions) -> (Self, mpsc::Receiver<ExecutorEvent>) {
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let (session, session_receiver) = watch::channel(None);
        let options = Arc::new(options);
        let unacknowledged = Arc::default();
        let subscriber = Subscriber {
            options: Arc::clone(&options),
            unacknowledged: Arc::clone(&unacknowledged),
            events,
            session,
        };
        let calls = CallQueue::start(session_receiver, subscriber.run());
        (Self { calls, unacknowledged, options }, receiver)
    }

    /// Sends a call after all earlier ones, from a thread outside of the runtime; a refusal is logged. The ids are
    /// filled in. An update that cannot be sent now is told with the next subscription.
    pub fn post(&self, call: Call) -> Result<(), CallError> {
        let (name, body) = self.encode(call);
        self.calls.post(name, body)
    }

    /// Waits until every call given before was answered or has failed.
    pub async fn flush(&self) {
        self.calls.flush().await;
    }

    fn encode(&self, mut call: Call) -> (&'static str, Bytes) {
        call.framework_id = self.options.framework_id.clone();
        call.executor_id = self.options.executor_id.clone();
        if let Some(update) = &call.update {
            self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner).updates.push(update.clone());
        }
        (call.r#type().as_str_name(), Bytes::from(call.encode_to_vec()))
    }
}

struct Subscriber {
    options: Arc<ExecutorOptions>,
    unacknowledged: Arc<Mutex<Unacknowledged>>,
    events: mpsc::Sender<ExecutorEvent>,
    session: watch::Sender<Option<Session>>,
}

enum End {
    Lost(String),
    Fatal(String),
    Unheard,
}

impl Subscriber {
    async fn run(self) {
        let mut backoff = Backoff::new(FIRST_DELAY, self.options.max_backoff.max(FIRST_DELAY));
        let mut lost_at = Instant::now();
        loop {
            let end = tokio::select! {
                end = self.subscribe_and_listen(&mut backoff) => end,
                () = self.events.closed() => End::Unheard,
            };
            let was_connected = self.session.send_replace(None).is_some();
            let last = match end {
                End::Unheard => return,
                End::Fatal(message) => ExecutorEvent::Fatal(message),
                End::Lost(reason) => {
                    if was_connected {
                        lost_at = Instant::now();
                        info!(%reason, "disconnected from the agent");
                        let disconnected = ExecutorEvent::Disconnected { reason: reason.clone() };
                        if self.events.send(disconnected).await.is_err() {
                            return;
                        }
                    }
                    if lost_at.elapsed() < self.options.recovery_timeout {
                        let delay = backoff.next_delay();
                        debug!(%reason, ?delay, "subscribing again");
                        tokio::time::sleep(delay).await;
                        continue;
                    }
                    ExecutorEvent::AgentLost(reason)
                }
            };
            // Nobody may listen any more; the client stops either way.
            let _ = self.events.send(last).await;
            return;
        }
    }

    async fn subscribe_and_listen(&self, backoff: &mut Backoff) -> End {
        let body = Bytes::from(self.subscribe_call().encode_to_vec());
        let headers = call_headers(None);
        let stream = match subscribe(self.options.agent.clone(), PATH, &headers, body).await {
            Ok(stream) => stream,
            Err(SubscribeError::Refused(refusal)) => return End::Fatal(refusal.to_string()),
            Err(SubscribeError::Unavailable(reason)) => return End::Lost(reason),
        };
        let session = Session::new(stream.authority.clone(), PATH, headers);
        let broken = session.broken.clone();
        tokio::select! {
            end = self.listen(stream, session, backoff) => end,
            () = broken.notified() => End::Lost("the connection for calls failed".to_owned()),
        }
    }

    async fn listen(&self, mut stream: EventStream<Event>, session: Session, backoff: &mut Backoff) -> End {
        // An agent's heartbeats are half an hour apart: the connection alone tells.
        stream.expect_silence();
        let mut session = Some(session);
        loop {
            let event = match stream.next().await {
                Ok(event) => event,
                Err(error) => return End::Lost(error.to_string()),
            };
            match event.r#type() {
                event::Type::Heartbeat => continue,
                event::Type::Error => {
                    return End::Fatal(
                        event.error.map_or_else(|| "no reason given".to_owned(), |error| error.message),
                    );
                }
                event::Type::Subscribed => {
                    backoff.reset();
                    if let Some(session) = session.take() {
                        self.session.send_replace(Some(session));
                        if self.events.send(ExecutorEvent::Connected).await.is_err() {
                            return End::Unheard;
                        }
                    }
                }
                _ => self.note(&event),
            }
            if self.events.send(ExecutorEvent::Received(Box::new(event))).await.is_err() {
                return End::Unheard;
            }
        }
    }

    /// A task is unacknowledged until the first update about it is acknowledged.
    fn note(&self, event: &Event) {
        let mut unacknowledged = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(launch) = &event.launch {
            unacknowledged.tasks.push(launch.task.clone());
        }
        if let Some(launch) = &event.launch_group {
            unacknowledged.tasks.extend(launch.task_group.tasks.iter().cloned());
        }
        if let Some(acknowledged) = &event.acknowledged {
            unacknowledged.tasks.retain(|task| task.task_id != acknowledged.task_id);
            unacknowledged.updates.retain(|update| update.status.uuid.as_ref() != Some(&acknowledged.uuid));
        }
    }

    fn subscribe_call(&self) -> Call {
        let unacknowledged = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        Call {
            framework_id: self.options.framework_id.clone(),
            executor_id: self.options.executor_id.clone(),
            r#type: Some(call::Type::Subscribe.into()),
            subscribe: Some(call::Subscribe {
                unacknowledged_tasks: unacknowledged.tasks.clone(),
                unacknowledged_updates: unacknowledged.updates.clone(),
            }),
            ..Call::default()
        }
    }
}
