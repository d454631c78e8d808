//! The one task that owns the master's state: events in, one at a time; actions out, through `effects`.
//!
//! Decides nothing itself: what an event means is `bellows_kernel::master::step`'s to say.
use crate::{
    clock::Clock,
    effects::{Effects, Watcher},
    snapshot::{Figures, Snapshot, Snapshots},
    streams::NoPlace,
};
use bellows_kernel::master::{Action, CallError, Event, RequestId, Response, State, step};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Events that wait for the driver; who sends more waits, and with it the connection that brought them.
const QUEUE: usize = 1_024;

pub(crate) type Answer = Result<Response, CallError>;

/// Longest time until a driver that lives answers, which is a matter of milliseconds.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The master is stopping and answers no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

type Run = Box<dyn FnOnce(&State, &mut Effects) + Send>;

pub(crate) enum Message {
    Event(Event),
    /// An event that wants an answer.
    Request {
        request: RequestId,
        event: Event,
        answer: oneshot::Sender<Answer>,
    },
    /// Anything else that needs both the state and the connections and is done at once: new connections.
    Run(Run),
    /// A copy of the whole state; who watches is told all that happens after it.
    Snapshot {
        watcher: Option<Watcher>,
        answer: oneshot::Sender<Result<Arc<Snapshot>, NoPlace>>,
    },
}

/// A message, and when it was sent.
type Sent = (Instant, Message);

/// How everything else reaches the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    sender: mpsc::Sender<Sent>,
    next_number: Arc<AtomicU64>,
}

impl Handle {
    /// A number that no request and no connection of this master had before.
    pub(crate) fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.send(Message::Event(event)).await
    }

    /// Sends an event and waits for its answer, which comes when it has been decided upon, not when its effects have arrived anywhere.
    pub(crate) async fn ask(&self, event: impl FnOnce(RequestId) -> Event) -> Result<Answer, Stopped> {
        let (answer, answered) = oneshot::channel();
        let request = RequestId(self.number());
        let message = Message::Request { request, event: event(request), answer };
        self.send(message).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Returns the state as it is after this was asked for, or later; all who ask at about the same time share one.
    pub(crate) async fn snapshot(&self) -> Result<Arc<Snapshot>, Stopped> {
        self.snapshot_and_watch(None).await.and_then(|snapshot| snapshot.map_err(|_| Stopped))
    }

    /// Like [`Handle::snapshot`], and starts telling `watcher` all that happens after it, and nothing that is in it.
    pub(crate) async fn snapshot_and_watch(
        &self,
        watcher: Option<Watcher>,
    ) -> Result<Result<Arc<Snapshot>, NoPlace>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Snapshot { watcher, answer }).await?;
        answered.await.map_err(|_| Stopped)
    }

    async fn send(&self, message: Message) -> Result<(), Stopped> {
        self.sender.send((Instant::now(), message)).await.map_err(|_| Stopped)
    }

    /// Whether the driver still takes and answers messages.
    pub(crate) async fn is_alive(&self) -> bool {
        tokio::time::timeout(HEARTBEAT, self.read(|_, _| ())).await.is_ok_and(|read| read.is_ok())
    }

    /// Runs `read` between two events. What it does not hand out at once keeps everybody waiting.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State, &mut Effects) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        let run = move |state: &State, effects: &mut Effects| {
            // Who asked may have gone; then nobody needs the answer.
            let _ = answer.send(read(state, effects));
        };
        self.send(Message::Run(Box::new(run))).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Tells it from a destructor, which cannot wait.
    pub(crate) fn tell_later(&self, event: Event) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let handle = self.clone();
            runtime.spawn(async move { handle.tell(event).await });
        }
    }
}

pub(crate) struct Driver {
    clock: Clock,
    state: State,
    effects: Effects,
    messages: mpsc::Receiver<Sent>,
    snapshots: Snapshots,
    figures: Figures,
    stopping: CancellationToken,
}

impl Driver {
    pub(crate) fn new(
        clock: Clock,
        state: State,
        effects: Effects,
        stopping: CancellationToken,
    ) -> (Self, Handle) {
        let (sender, messages) = mpsc::channel(QUEUE);
        let handle = Handle { sender, next_number: Arc::new(AtomicU64::new(1)) };
        let (snapshots, figures) = (Snapshots::default(), Figures::default());
        (Self { clock, state, effects, messages, snapshots, figures, stopping }, handle)
    }

    /// Runs until asked to stop; every stream and link ends with it.
    pub(crate) async fn run(mut self) {
        loop {
            // One slice between two events, whatever waits.
            self.figures.queued = self.messages.len();
            let copying = self.snapshots.go_on(&self.state, &mut self.effects, &self.figures);
            let deadline = self.clock.instant(self.state.next_deadline());
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep_until(deadline) => self.handle(Event::Tick, Instant::now()),
                message = self.messages.recv() => match message {
                    Some(message) => self.receive(message),
                    None => return,
                },
                () = self.snapshots.room() => {}
                () = tokio::task::yield_now(), if copying => {}
            }
            // What is left over of somebody's wish is due at once, but others have their turn in between.
            if self.state.has_work()
                && let Ok(message) = self.messages.try_recv()
            {
                self.receive(message);
            }
        }
    }

    fn receive(&mut self, (sent, message): Sent) {
        match message {
            Message::Event(Event::StreamClosed { stream }) if !self.effects.forget_stream(&stream) => {}
            Message::Event(Event::LinkClosed { link }) if !self.effects.forget_link(link) => {}
            Message::Event(event) => self.handle(event, sent),
            Message::Request { request, event, answer } => {
                self.effects.expect_answer(request, answer);
                self.handle(event, sent);
            }
            Message::Run(run) => {
                run(&self.state, &mut self.effects);
                if let Some(lost) = self.effects.take_loss() {
                    self.handle(lost, sent);
                }
            }
            Message::Snapshot { watcher, answer } => self.snapshots.ask(watcher, answer),
        }
    }

    fn handle(&mut self, event: Event, sent: Instant) {
        let mut next = Some(event);
        while let Some(event) = next {
            tracing::trace!(?event);
            let now = self.clock.now();
            let (begun, runs) = (Instant::now(), self.state.counters.allocation_runs);
            let actions = step(&mut self.state, now, event);
            if self.state.counters.allocation_runs != runs {
                self.figures.allocation.push(begun.elapsed());
                self.figures.allocation_wait.push(begun.saturating_duration_since(sent));
            }
            for action in &actions {
                if let Action::Observe(observation) = action {
                    self.snapshots.observe(&self.state, observation);
                }
            }
            self.effects.perform(&self.state, actions);
            // Each lost connection is forgotten as it is told, so this ends.
            next = self.effects.take_loss();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use bellows_kernel::master::Config;
    use bellows_runtime::Vital;

    #[tokio::test]
    async fn a_driver_that_panics_is_told_and_no_longer_alive() {
        let clock = Clock::start();
        let config = Config::new("m");
        let bound = ([127, 0, 0, 1], 5050).into();
        let identity = Arc::new(Identity::new(&config, bound, None, clock.now()));
        let effects = Effects::new(identity, &config);
        let state = State::new(config, clock.now());
        let (driver, handle) = Driver::new(clock, state, effects, CancellationToken::new());
        let vital = Vital::new();
        vital.spawn("the master's driver", driver.run());
        assert!(handle.is_alive().await);
        assert_eq!(handle.read(|_, _| panic!("injected")).await, Err::<(), _>(Stopped));
        let ended = vital.ended().await;
        assert_eq!(ended.what, "the master's driver");
        assert!(ended.reason.contains("injected") && ended.reason.contains("driver.rs:"), "{ended}");
        assert!(!handle.is_alive().await);
    }
}
