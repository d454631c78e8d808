//! Carries out what the kernel decided: answers requests, writes to frameworks, agents and watching operators.
//!
//! Nothing here waits. A peer that leaves too much unread is cut off, and the kernel is told.
use crate::{driver::Answer, identity::Identity, operator::observed};
use bellows_kernel::master::{
    Action, AgentCommand, Event, LinkId, Observation, RequestId, SchedulerEvent, State,
};
use bellows_model::StreamId;
use bellows_runtime::{Disconnect, outbox::Outbox};
use bellows_wire::{
    recordio,
    text::{clipped, one_line},
    v1,
};
use bytes::Bytes;
use prost::Message as _;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::oneshot;

/// The longest id that a line of the log repeats.
const MAX_LOGGED_BYTES: usize = 256;

/// One peer's stream: what waits for it, and how to get rid of it.
#[derive(Debug)]
pub(crate) struct Stream<T> {
    pub(crate) outbox: Outbox<T>,
    pub(crate) disconnect: Disconnect,
}

/// An operator that is told what happens.
pub(crate) type Watcher = Stream<Arc<v1::master::Event>>;

/// The connections of one master, by the names that the kernel knows them by.
#[derive(Debug)]
pub(crate) struct Effects {
    identity: Arc<Identity>,
    requests: HashMap<RequestId, oneshot::Sender<Answer>>,
    streams: HashMap<StreamId, Stream<SchedulerEvent>>,
    links: HashMap<LinkId, Stream<Bytes>>,
    watchers: Vec<Watcher>,
    lost: VecDeque<Event>,
}

impl Effects {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            requests: HashMap::new(),
            streams: HashMap::new(),
            links: HashMap::new(),
            watchers: Vec::new(),
            lost: VecDeque::new(),
        }
    }

    pub(crate) fn open_stream(&mut self, id: StreamId, stream: Stream<SchedulerEvent>) {
        self.streams.insert(id, stream);
    }

    pub(crate) fn open_link(&mut self, id: LinkId, link: Stream<Bytes>) {
        self.links.insert(id, link);
    }

    pub(crate) fn watch(&mut self, watcher: Watcher) {
        self.watchers.push(watcher);
    }

    /// How many operators watch; those that left are not counted.
    pub(crate) fn watching(&mut self) -> usize {
        self.watchers.retain(|watcher| watcher.outbox.is_read());
        self.watchers.len()
    }

    /// Says whether the stream was open.
    pub(crate) fn forget_stream(&mut self, id: &StreamId) -> bool {
        self.streams.remove(id).is_some()
    }

    /// Says whether the link was open.
    pub(crate) fn forget_link(&mut self, id: LinkId) -> bool {
        self.links.remove(&id).is_some()
    }

    pub(crate) fn expect_answer(&mut self, request: RequestId, answer: oneshot::Sender<Answer>) {
        self.requests.insert(request, answer);
    }

    /// A connection that was cut off since the last call.
    pub(crate) fn take_loss(&mut self) -> Option<Event> {
        self.lost.pop_front()
    }

    pub(crate) fn perform(&mut self, state: &State, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Respond { request, response } => self.respond(request, response),
                Action::Send { stream, event } => self.send(stream, event),
                Action::CloseStream { stream } => drop(self.streams.remove(&stream)),
                Action::Tell { link, command } => self.tell_agent(link, command),
                Action::CloseLink { link } => drop(self.links.remove(&link)),
                Action::Warn(text) => tracing::warn!("{}", one_line(&text)),
                Action::Observe(observation) => {
                    log(&observation);
                    self.show(|| observed(state, observation));
                }
            }
        }
    }

    fn respond(&mut self, request: RequestId, response: Answer) {
        match self.requests.remove(&request) {
            // Who asked may be gone.
            Some(answer) => drop(answer.send(response)),
            None => tracing::error!(?request, "answered twice"),
        }
    }

    fn send(&mut self, id: StreamId, event: SchedulerEvent) {
        let Some(stream) = self.streams.get(&id) else { return };
        let bytes = weight(&event);
        if stream.outbox.push(event, bytes).is_err() {
            tracing::warn!(stream = %id, "a framework does not read its events: disconnected");
            stream.disconnect.now();
            self.streams.remove(&id);
            self.lost.push_back(Event::StreamClosed { stream: id });
        }
    }

    pub(crate) fn tell_agent(&mut self, id: LinkId, command: AgentCommand) {
        let Some(link) = self.links.get(&id) else { return };
        let record = recordio::encode_message(&self.identity.to_agent(command));
        let bytes = record.len();
        if link.outbox.push(record, bytes).is_err() {
            tracing::warn!(link = id.0, "an agent does not read what it is told: disconnected");
            link.disconnect.now();
            self.links.remove(&id);
            self.lost.push_back(Event::LinkClosed { link: id });
        }
    }

    fn show(&mut self, event: impl FnOnce() -> Option<v1::master::Event>) {
        if self.watching() == 0 {
            return;
        }
        let Some(event) = event().map(Arc::new) else { return };
        let bytes = event.encoded_len();
        self.watchers.retain(|watcher| {
            let kept = watcher.outbox.push(Arc::clone(&event), bytes).is_ok();
            if !kept {
                tracing::warn!("an operator does not read its events: disconnected");
                watcher.disconnect.now();
            }
            kept
        });
    }
}

/// Of the rest every part tells by itself.
fn log(observation: &Observation) {
    if let Observation::TaskRefused { framework_id, status } = observation {
        tracing::warn!(
            framework = %framework_id,
            task = one_line(clipped(status.task_id.as_str(), MAX_LOGGED_BYTES)),
            agent = status.agent_id.as_ref().map(|id| one_line(clipped(id.as_str(), MAX_LOGGED_BYTES))),
            state = status.state.name(),
            message = one_line(status.message.as_deref().unwrap_or_default()),
            "a task was refused"
        );
    }
}

/// About what an event takes in memory and on the wire.
fn weight(event: &SchedulerEvent) -> usize {
    const SMALL: usize = 512;
    const OFFER: usize = 2_048;
    match event {
        SchedulerEvent::Offers(offers) => offers.len() * OFFER,
        SchedulerEvent::Message { data, .. } => SMALL + data.len(),
        SchedulerEvent::Update(status) => {
            SMALL + status.data.as_ref().map_or(0, Vec::len) + status.message.as_ref().map_or(0, String::len)
        }
        _ => SMALL,
    }
}
