//! The scheduler's client: one subscription that survives masters, and calls in the order they were given.
//!
//! It subscribes again by itself after every loss, with the framework id it was given. It retries no call: what
//! became of a call on a broken connection is for the framework to find out (reconciliation).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bellows_election::{Backoff, Leader};
use bellows_wire::v1::FrameworkInfo;
use bellows_wire::v1::scheduler::{Call, Event, OfferConstraints, call, event};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::Credential;
use crate::calls::{CallQueue, Session};
use crate::error::CallError;
use crate::stream::{EventStream, STREAM_ID, SubscribeError, call_headers, subscribe};

const PATH: &str = "/api/v1/scheduler";
/// Bounded: a framework that does not listen makes the master wait (TCP), not this process grow.
const EVENT_CAPACITY: usize = 1024;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(10);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);

/// What a framework subscribes with.
#[derive(Debug, Clone, Default)]
pub struct SchedulerOptions {
    /// With an `id` when the framework fails over from an earlier process.
    pub framework: FrameworkInfo,
    pub suppressed_roles: Vec<String>,
    pub offer_constraints: Option<OfferConstraints>,
    pub credential: Option<Credential>,
}

/// In order: `Connected (Received* Disconnected Connected)* … Fatal`.
#[derive(Debug)]
pub enum SchedulerEvent {
    /// Subscribed; SUBSCRIBED follows as the first `Received`.
    Connected(Leader),
    /// The subscription ended; another is tried until it succeeds.
    Disconnected { reason: String },
    /// An event of the stream, heartbeats excepted.
    Received(Box<Event>),
    /// The master refused the framework for good; the client has stopped.
    Fatal(String),
}

/// Cheap to clone; the subscription ends when every clone, or the event receiver, is dropped.
#[derive(Debug, Clone)]
pub struct SchedulerClient {
    calls: CallQueue,
    subscription: Arc<Mutex<SchedulerOptions>>,
}

impl SchedulerClient {
    /// Starts subscribing with whoever leads. Must be called within a Tokio runtime.
    pub fn start(
        leader: watch::Receiver<Option<Leader>>,
        options: SchedulerOptions,
    ) -> (Self, mpsc::Receiver<SchedulerEvent>) {
        let (events, event_receiver) = mpsc::channel(EVENT_CAPACITY);
        let subscription = Arc::new(Mutex::new(options));
        let (session, session_receiver) = watch::channel(None);
        let subscriber = Subscriber { leader, subscription: subscription.clone(), events, session };
        let calls = CallQueue::start(session_receiver, subscriber.run());
        (Self { calls, subscription }, event_receiver)
    }

    /// Sends a call after all earlier ones and waits for the master's answer. The framework id is filled in.
    pub async fn call(&self, call: Call) -> Result<(), CallError> {
        let (name, body) = self.encode(call);
        self.calls.call(name, body).await
    }

    /// As `call`, for threads outside of the runtime that do not wait for the answer: a refusal is logged.
    /// Waits while the queue is full.
    pub fn post(&self, call: Call) -> Result<(), CallError> {
        let (name, body) = self.encode(call);
        self.calls.post(name, body)
    }

    /// As `post`; the future gives the master's answer.
    pub fn submit(&self, call: Call) -> impl Future<Output = Result<(), CallError>> + Send + use<> {
        let (name, body) = self.encode(call);
        self.calls.submit(name, body)
    }

    /// Waits until every call given before was answered or has failed.
    pub async fn flush(&self) {
        self.calls.flush().await;
    }

    /// Keeps what a later SUBSCRIBE must repeat.
    fn encode(&self, mut call: Call) -> (&'static str, Bytes) {
        let mut subscription = self.subscription.lock().unwrap_or_else(PoisonError::into_inner);
        subscription.note(&call);
        if call.framework_id.is_none() {
            call.framework_id = subscription.framework.id.clone();
        }
        (call.r#type().as_str_name(), Bytes::from(call.encode_to_vec()))
    }
}

impl SchedulerOptions {
    fn note(&mut self, call: &Call) {
        match call.r#type() {
            call::Type::Suppress => {
                let roles = call.suppress.as_ref().map(|suppress| suppress.roles.clone()).unwrap_or_default();
                let roles = if roles.is_empty() { self.framework.roles.clone() } else { roles };
                self.suppressed_roles.extend(roles);
                self.suppressed_roles.sort_unstable();
                self.suppressed_roles.dedup();
            }
            call::Type::Revive => {
                match call.revive.as_ref().map(|revive| &revive.roles).filter(|r| !r.is_empty()) {
                    Some(roles) => self.suppressed_roles.retain(|role| !roles.contains(role)),
                    None => self.suppressed_roles.clear(),
                }
            }
            call::Type::UpdateFramework => {
                if let Some(update) = &call.update_framework {
                    self.framework = update.framework_info.clone();
                    self.suppressed_roles = update.suppressed_roles.clone();
                    self.offer_constraints = update.offer_constraints.clone();
                }
            }
            _ => {}
        }
    }

    fn subscribe_call(&self) -> Call {
        Call {
            framework_id: self.framework.id.clone(),
            r#type: Some(call::Type::Subscribe.into()),
            subscribe: Some(call::Subscribe {
                framework_info: self.framework.clone(),
                suppressed_roles: self.suppressed_roles.clone(),
                offer_constraints: self.offer_constraints.clone(),
            }),
            ..Call::default()
        }
    }

    /// As Mesos' driver: a short failover timeout leaves no time for long pauses.
    fn backoff(&self) -> Backoff {
        let failover = Duration::try_from_secs_f64(self.framework.failover_timeout()).unwrap_or_default();
        let max = if failover.is_zero() { MAX_DELAY } else { (failover / 10).min(MAX_DELAY) };
        Backoff::new(FIRST_DELAY.min(max), max)
    }
}

struct Subscriber {
    leader: watch::Receiver<Option<Leader>>,
    subscription: Arc<Mutex<SchedulerOptions>>,
    events: mpsc::Sender<SchedulerEvent>,
    session: watch::Sender<Option<Session>>,
}

/// The events of a subscription whose calls fail, unread, until the next subscription replaces it: a master that saw it
/// end would remove a framework without a failover timeout, which is Spark's default.
type Kept = Option<EventStream<Event>>;

/// How a session ended.
enum End {
    Lost(String),
    LeaderChanged,
    Fatal(String),
    /// Nobody listens any more.
    Unheard,
}

impl Subscriber {
    async fn run(self) {
        let mut backoff = self.options().backoff();
        let mut kept = None;
        loop {
            let end = tokio::select! {
                end = self.follow_leader(&mut backoff, &mut kept) => end,
                () = self.events.closed() => End::Unheard,
            };
            let was_connected = self.session.send_replace(None).is_some();
            let reason = match end {
                End::Unheard => return,
                End::Fatal(message) => {
                    warn!(%message, "the master refuses the framework");
                    // Nobody may listen any more; the client stops either way.
                    let _ = self.events.send(SchedulerEvent::Fatal(message)).await;
                    return;
                }
                End::LeaderChanged => None,
                End::Lost(reason) => Some(reason),
            };
            if was_connected {
                let reason = reason.clone().unwrap_or_else(|| "another master leads".to_owned());
                info!(%reason, "disconnected");
                if self.events.send(SchedulerEvent::Disconnected { reason }).await.is_err() {
                    return;
                }
            }
            if let Some(reason) = reason {
                let delay = backoff.next_delay();
                debug!(%reason, ?delay, "subscribing again");
                tokio::time::sleep(delay).await;
            }
        }
    }

    /// Waits for a leader and stays subscribed with it until that fails or another leads.
    async fn follow_leader(&self, backoff: &mut Backoff, kept: &mut Kept) -> End {
        let mut changes = self.leader.clone();
        let Some(leader) = changes.wait_for(Option::is_some).await.ok().and_then(|leader| leader.clone())
        else {
            return End::Fatal("the master's address is no longer watched".to_owned());
        };
        let another_leads = async {
            // A leader that is gone without a successor stays: it may well go on.
            let other = |now: &Option<Leader>| now.as_ref().is_some_and(|now| *now != leader);
            if changes.wait_for(other).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            end = self.subscribe_and_listen(&leader, backoff, kept) => end,
            () = another_leads => End::LeaderChanged,
        }
    }

    async fn subscribe_and_listen(&self, leader: &Leader, backoff: &mut Backoff, kept: &mut Kept) -> End {
        let (call, authorization) = {
            let options = self.options();
            (options.subscribe_call(), options.credential.as_ref().map(Credential::to_header))
        };
        let mut headers = call_headers(authorization.as_ref());
        let body = Bytes::from(call.encode_to_vec());
        let mut stream = match subscribe(leader.authority(), PATH, &headers, body).await {
            Ok(stream) => stream,
            Err(SubscribeError::Refused(refusal)) => return End::Fatal(refusal.to_string()),
            Err(SubscribeError::Unavailable(reason)) => return End::Lost(reason),
        };
        let Some(stream_id) = stream.stream_id.clone() else {
            return End::Lost(format!("{} sent no Mesos-Stream-Id", stream.authority));
        };
        headers.insert(STREAM_ID, stream_id);
        let session = Session::new(stream.authority.clone(), PATH, headers);
        let broken = session.broken.clone();
        tokio::select! {
            end = self.listen(&mut stream, session, leader, backoff, kept) => return end,
            () = broken.notified() => {}
        }
        *kept = Some(stream);
        End::Lost("the connection for calls failed".to_owned())
    }

    async fn listen(
        &self,
        stream: &mut EventStream<Event>,
        session: Session,
        leader: &Leader,
        backoff: &mut Backoff,
        kept: &mut Kept,
    ) -> End {
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
                    let Some(subscribed) = &event.subscribed else { continue };
                    stream.expect_heartbeats(heartbeat_interval(subscribed));
                    self.options().framework.id = Some(subscribed.framework_id.clone());
                    backoff.reset();
                    *kept = None;
                    // Calls are possible from here on; a second SUBSCRIBED on one stream changes nothing.
                    if let Some(session) = session.take() {
                        info!(
                            master = session.authority,
                            framework = subscribed.framework_id.value,
                            "subscribed"
                        );
                        let connected =
                            SchedulerEvent::Connected(master_of(subscribed, leader, &session.authority));
                        self.session.send_replace(Some(session));
                        if self.events.send(connected).await.is_err() {
                            return End::Unheard;
                        }
                    }
                }
                _ => {}
            }
            if self.events.send(SchedulerEvent::Received(Box::new(event))).await.is_err() {
                return End::Unheard;
            }
        }
    }

    fn options(&self) -> std::sync::MutexGuard<'_, SchedulerOptions> {
        self.subscription.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn heartbeat_interval(subscribed: &event::Subscribed) -> Duration {
    let seconds = subscribed.heartbeat_interval_seconds.filter(|seconds| *seconds > 0.0);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(DEFAULT_HEARTBEAT)
}

/// Who answered: the announced leader, or, after a redirect, whom it named.
fn master_of(subscribed: &event::Subscribed, leader: &Leader, authority: &str) -> Leader {
    let mut master = match authority.rsplit_once(':') {
        Some((host, port)) if leader.authority() != authority => {
            Leader::at(host.trim_matches(['[', ']']), port.parse().unwrap_or(leader.port))
        }
        _ => leader.clone(),
    };
    if let Some(info) = &subscribed.master_info {
        master.id.clone_from(&info.id);
        master.version = info.version().to_owned();
        if info.hostname.is_some() {
            master.hostname = info.hostname().to_owned();
        }
    }
    master
}
