//! Carries out what the kernel decided: answers requests, writes to frameworks, agents and watching operators.
//!
//! Nothing here waits. A peer that leaves too much unread is cut off, and the kernel is told.
use crate::{
    driver::Answer,
    identity::Identity,
    narrate::narrate,
    operator::observed,
    snapshot::MAX_WATCHERS,
    streams::{NoPlace, Stream, Streams},
    weight,
};
use bellows_kernel::master::{Action, AgentCommand, Config, Event, LinkId, RequestId, SchedulerEvent, State};
use bellows_model::StreamId;
use bellows_wire::{recordio, v1};
use bytes::Bytes;
use prost::Message as _;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::oneshot;

/// An operator that is told what happens.
pub(crate) type Watcher = Stream<Arc<v1::master::Event>>;

/// The connections of one master, by the names that the kernel knows them by.
#[derive(Debug)]
pub(crate) struct Effects {
    identity: Arc<Identity>,
    requests: HashMap<RequestId, oneshot::Sender<Answer>>,
    streams: Streams<StreamId, SchedulerEvent>,
    links: Streams<LinkId, Bytes>,
    watchers: Streams<u64, Arc<v1::master::Event>>,
    next_watcher: u64,
    lost: VecDeque<Event>,
}

impl Effects {
    pub(crate) fn new(identity: Arc<Identity>, config: &Config) -> Self {
        Self {
            identity,
            requests: HashMap::new(),
            streams: Streams::new(config.max_frameworks),
            links: Streams::new(config.max_agents),
            watchers: Streams::new(MAX_WATCHERS),
            next_watcher: 0,
            lost: VecDeque::new(),
        }
    }

    pub(crate) fn open_stream(
        &mut self,
        id: StreamId,
        stream: Stream<SchedulerEvent>,
    ) -> Result<(), NoPlace> {
        let ended = self.streams.open(id, stream)?;
        self.lost.extend(ended.map(|stream| Event::StreamClosed { stream }));
        Ok(())
    }

    pub(crate) fn open_link(&mut self, id: LinkId, link: Stream<Bytes>) -> Result<(), NoPlace> {
        let ended = self.links.open(id, link)?;
        self.lost.extend(ended.map(|link| Event::LinkClosed { link }));
        Ok(())
    }

    pub(crate) fn watch(&mut self, watcher: Watcher) -> Result<(), NoPlace> {
        // Those that left make room first.
        self.watching();
        self.next_watcher += 1;
        self.watchers.open(self.next_watcher, watcher).map(drop)
    }

    /// Counts the operators who watch, without those that left.
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

    /// Takes the next of the connections that were cut off.
    pub(crate) fn take_loss(&mut self) -> Option<Event> {
        self.lost.pop_front()
    }

    pub(crate) fn perform(&mut self, state: &State, actions: Vec<Action>) {
        narrate(&actions);
        for action in actions {
            match action {
                Action::Respond { request, response } => self.respond(request, response),
                Action::Send { stream, event } => self.send(stream, event),
                Action::CloseStream { stream } => drop(self.streams.remove(&stream)),
                Action::Tell { link, command } => self.tell_agent(link, command),
                Action::CloseLink { link } => drop(self.links.remove(&link)),
                // The log has it.
                Action::Warn(_) | Action::Note(_) => {}
                Action::Observe(observation) => self.show(|| observed(state, observation)),
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
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let bytes = weight::of_event(&event);
        if matches!(event, SchedulerEvent::Message { .. }) {
            stream.push_message(event, bytes);
        } else if stream.outbox.push(event, bytes).is_err() {
            tracing::warn!(stream = %id, "a framework does not read its events: disconnected");
            stream.disconnect.now();
            self.streams.remove(&id);
            self.lost.push_back(Event::StreamClosed { stream: id });
        }
    }

    pub(crate) fn tell_agent(&mut self, id: LinkId, command: AgentCommand) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let is_message = matches!(command, AgentCommand::Message { .. });
        let record = recordio::encode_message(&self.identity.to_agent(command));
        let bytes = record.len();
        if is_message {
            link.push_message(record, bytes);
        } else if link.outbox.push(record, bytes).is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use bellows_runtime::{
        Disconnect,
        outbox::{Inbox, outbox},
    };

    const ROOM: u32 = 64 << 10;

    fn effects() -> Effects {
        let (config, address) = (Config::new("m"), ([127, 0, 0, 1], 5050).into());
        let identity = Identity::new(&config, address, None, Clock::start().now());
        Effects::new(Arc::new(identity), &config)
    }

    fn stream<T>() -> (Stream<T>, Inbox<T>, Disconnect) {
        let ((outbox, inbox), disconnect) = (outbox(ROOM, None), Disconnect::default());
        (Stream::new(outbox, [127, 0, 0, 1].into(), disconnect.clone()), inbox, disconnect)
    }

    #[test]
    fn messages_are_dropped_before_their_reader_is_cut_off() {
        let mut effects = effects();
        let (link, _unread, agent_cut) = stream();
        assert_eq!(effects.open_link(LinkId(1), link), Ok(()));
        let (events, _unread, framework_cut) = stream();
        assert_eq!(effects.open_stream("s".into(), events), Ok(()));
        for _ in 0..1_000 {
            let data = vec![0; 1_000];
            effects.tell_agent(
                LinkId(1),
                AgentCommand::Message {
                    framework_id: "f".into(),
                    executor_id: "e".into(),
                    data: data.clone(),
                },
            );
            let event = SchedulerEvent::Message { agent_id: "a".into(), executor_id: "e".into(), data };
            effects.send("s".into(), event);
        }
        // Half of the room is left for what must arrive.
        for seq in 0..100 {
            effects.tell_agent(LinkId(1), AgentCommand::Ping { seq });
        }
        effects.send("s".into(), SchedulerEvent::Error("the end".to_owned()));
        assert!(effects.take_loss().is_none() && !agent_cut.is_now() && !framework_cut.is_now());
        for seq in 0..u64::from(ROOM) {
            effects.tell_agent(LinkId(1), AgentCommand::Ping { seq });
        }
        assert_eq!(effects.take_loss(), Some(Event::LinkClosed { link: LinkId(1) }));
        assert!(agent_cut.is_now());
    }
}
