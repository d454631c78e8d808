//! The one task that owns the master's state: events in, one at a time; actions out, through `effects`.
//!
//! Decides nothing itself: what an event means is `bellows_kernel::master::step`'s to say.
use crate::{clock::Clock, effects::Effects};
use bellows_kernel::master::{CallError, Event, RequestId, Response, State, step};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Events that wait for the driver; who sends more waits, and with it the connection that brought them.
const QUEUE: usize = 1_024;

pub(crate) type Answer = Result<Response, CallError>;

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
    /// Anything else that needs both the state and the connections: reads, new connections.
    Run(Run),
}

/// How everything else reaches the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    sender: mpsc::Sender<Message>,
    next_number: Arc<AtomicU64>,
}

impl Handle {
    /// A number that no request and no connection of this master had before.
    pub(crate) fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.sender.send(Message::Event(event)).await.map_err(|_| Stopped)
    }

    /// Answered when the event has been decided upon, not when its effects have arrived anywhere.
    pub(crate) async fn ask(&self, event: impl FnOnce(RequestId) -> Event) -> Result<Answer, Stopped> {
        let (answer, answered) = oneshot::channel();
        let request = RequestId(self.number());
        let message = Message::Request { request, event: event(request), answer };
        self.sender.send(message).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
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
        self.sender.send(Message::Run(Box::new(run))).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// For destructors, which cannot wait.
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
    messages: mpsc::Receiver<Message>,
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
        (Self { clock, state, effects, messages, stopping }, handle)
    }

    /// Ends when asked to; every stream and link ends with it.
    pub(crate) async fn run(mut self) {
        loop {
            let deadline = self.clock.instant(self.state.next_deadline());
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep_until(deadline) => self.handle(Event::Tick),
                message = self.messages.recv() => match message {
                    Some(message) => self.receive(message),
                    None => return,
                },
            }
            // What is left over of somebody's wish is due at once, but others have their turn in between.
            if self.state.has_work()
                && let Ok(message) = self.messages.try_recv()
            {
                self.receive(message);
            }
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Event(Event::StreamClosed { stream }) if !self.effects.forget_stream(&stream) => {}
            Message::Event(Event::LinkClosed { link }) if !self.effects.forget_link(link) => {}
            Message::Event(event) => self.handle(event),
            Message::Request { request, event, answer } => {
                self.effects.expect_answer(request, answer);
                self.handle(event);
            }
            Message::Run(run) => run(&self.state, &mut self.effects),
        }
    }

    fn handle(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            tracing::trace!(?event);
            let now = self.clock.now();
            let actions = step(&mut self.state, now, event);
            self.effects.perform(&self.state, actions);
            // Each lost connection is forgotten as it is told, so this ends.
            next = self.effects.take_loss();
        }
    }
}
