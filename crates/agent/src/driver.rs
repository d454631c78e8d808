//! The one task that owns the agent's state: events in, one at a time; actions out, through `effects`.
//!
//! Decides nothing itself, and waits for nothing but the next event.
use crate::{
    Error,
    announced::Announced,
    clock::Clock,
    effects::Effects,
    link::Outgoing,
    narrate::{Standing, narrate, narrate_standing},
    store::Outcome,
};
use bellows_containment::{ExitEvent, ExitStatus};
use bellows_kernel::agent::{Event, Exit, LinkId, State, step};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Events that wait for the driver; who sends more waits, and with it the connection that brought them.
const QUEUE: usize = 1_024;

/// How long a driver may take until it answers, which is a matter of milliseconds: longer, and it is not alive.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The agent is stopping and answers no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

pub(crate) enum Message {
    Event(Event),
    /// A connection to the master, and where to put what it is to be told.
    LinkOpened(LinkId, Outgoing),
    /// Reads of the state.
    Read(Box<dyn FnOnce(&State) + Send>),
}

/// How everything else reaches the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    sender: mpsc::Sender<Message>,
    next_link: Arc<AtomicU64>,
}

impl Handle {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Message>) {
        let (sender, messages) = mpsc::channel(QUEUE);
        (Self { sender, next_link: Arc::new(AtomicU64::new(1)) }, messages)
    }

    /// A name that no connection of this agent had before.
    pub(crate) fn new_link(&self) -> LinkId {
        LinkId(self.next_link.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) async fn tell(&self, event: Event) -> Result<(), Stopped> {
        self.send(Message::Event(event)).await
    }

    pub(crate) async fn link_opened(&self, link: LinkId, outgoing: Outgoing) -> Result<(), Stopped> {
        self.send(Message::LinkOpened(link, outgoing)).await
    }

    /// Runs `read` between two events. What it does not hand out at once keeps everybody waiting.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (answer, answered) = oneshot::channel();
        // Who asked may have gone; then nobody needs the answer.
        let run = move |state: &State| drop(answer.send(read(state)));
        self.send(Message::Read(Box::new(run))).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Whether the driver still takes and answers messages.
    pub(crate) async fn is_alive(&self) -> bool {
        tokio::time::timeout(HEARTBEAT, self.read(|_| ())).await.is_ok_and(|read| read.is_ok())
    }

    async fn send(&self, message: Message) -> Result<(), Stopped> {
        self.sender.send(message).await.map_err(|_| Stopped)
    }
}

pub(crate) struct Driver {
    pub(crate) clock: Clock,
    pub(crate) announced: Arc<Announced>,
    pub(crate) state: State,
    pub(crate) effects: Effects,
    pub(crate) messages: mpsc::Receiver<Message>,
    pub(crate) exits: mpsc::Receiver<ExitEvent>,
    pub(crate) stopping: CancellationToken,
}

impl Driver {
    /// Ends when asked to, or with the reason why it cannot go on. Tasks go on in either case.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let outcome = self.serve().await;
        // Waits for the disk: what was decided must not be forgotten.
        if tokio::task::spawn_blocking(move || self.effects.close()).await.is_err() {
            tracing::error!("closing the checkpoint panicked");
        }
        outcome
    }

    async fn serve(&mut self) -> Result<(), Error> {
        loop {
            let deadline = self.clock.instant(self.state.next_deadline());
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Ok(()),
                () = self.effects.store.settled() => {
                    for Outcome { upto, failure } in self.effects.store.take_outcomes() {
                        self.handle(match failure {
                            None => Event::Stored { upto },
                            Some(message) => Event::StoreFailed { upto, message },
                        })?;
                    }
                }
                () = tokio::time::sleep_until(deadline) => self.handle(Event::Tick)?,
                exited = self.exits.recv() => {
                    // Without them no task would ever end.
                    let Some(ExitEvent { container_id, exit }) = exited else {
                        return Err(Error::Ended("nobody watches containers any longer".into()));
                    };
                    if let Some(reason) = &exit.reason {
                        tracing::info!(container = %container_id, reason, "a container ended");
                    }
                    let exit = exit_of(exit.status);
                    match self.state.unkilled_job(&container_id).filter(|_| exit != Exit::Exited(0)) {
                        // It comes back as an event with what the task said last.
                        Some(job) => self.effects.read_stderr(job, exit),
                        None => self.handle(Event::Exited { container_id, exit, stderr: String::new() })?,
                    }
                }
                message = self.messages.recv() => match message {
                    Some(Message::Event(event)) => self.handle(event)?,
                    Some(Message::LinkOpened(link, outgoing)) => {
                        if self.announced.connected_from(outgoing.local_ip()) {
                            let (ip, hostname) = (self.announced.address().ip(), self.announced.hostname());
                            tracing::info!(%ip, "the address that is announced");
                            self.handle(Event::AddressChanged { ip: ip.to_string(), hostname })?;
                        }
                        self.effects.open_link(link, outgoing);
                        self.handle(Event::LinkOpened { link })?;
                    }
                    Some(Message::Read(read)) => read(&self.state),
                    None => return Ok(()),
                },
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        tracing::trace!(?event);
        let before = Standing::of(&self.state);
        let actions = step(&mut self.state, self.clock.now(), event);
        narrate_standing(before, &self.state);
        narrate(&self.state, &actions);
        self.effects.perform(&self.state, actions)
    }
}

pub(crate) fn exit_of(status: ExitStatus) -> Exit {
    match status {
        ExitStatus::Exited(code) => Exit::Exited(code),
        ExitStatus::Signaled(signal) => Exit::Signaled(signal),
        ExitStatus::Lost | ExitStatus::NotStarted => Exit::Lost,
    }
}
