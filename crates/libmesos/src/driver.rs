//! What both of Mesos' drivers do alike: connect once, run callbacks one after the other, let what was sent before
//! reach the other side, end. It knows neither the calls and events of either, nor Java.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bellows_wire::text::one_line;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::lifecycle::{Lifecycle, Status};
use crate::network::Network;

/// What an abort may take on the other side's account.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why no callback may follow; the driver must be aborted. `None`: there is nobody to hear of it.
#[derive(Debug)]
pub(crate) struct Over(pub(crate) Option<String>);

impl Over {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self(Some(reason.into()))
    }
}

/// What makes a driver a scheduler's or an executor's.
pub(crate) trait Role: Send + Sync + Sized + 'static {
    /// The name of the thread with the connections.
    const THREAD: &'static str;
    /// Connected for as long as it and the events live.
    type Client: Clone + Send + 'static;
    type Event;
    /// Where events come from, and what of them later ones depend on.
    type Events: Send + 'static;
    /// One method of the program's object, with its arguments.
    type Callback;

    /// Called once, within the runtime that the client shall live in. The error is for the `error` callback.
    fn connect(&self) -> Result<(Self::Client, Self::Events), String>;

    /// Waits until what was sent before is answered or has failed.
    fn flush(client: &Self::Client) -> impl Future<Output = ()> + Send;

    /// `None` when the client has stopped by itself.
    fn next(events: &mut Self::Events) -> impl Future<Output = Option<Self::Event>>;

    /// Makes the callbacks that an event asks for; an error ends them all.
    fn heard(
        driver: &Driver<Self>,
        events: &mut Self::Events,
        event: Self::Event,
        callback: &mut impl FnMut(Self::Callback) -> Result<(), Over>,
    ) -> Result<(), Over>;

    /// The callback that tells the program why its driver was aborted.
    fn error(reason: String) -> Self::Callback;
}

pub(crate) struct Driver<R: Role> {
    pub(crate) role: R,
    lifecycle: Lifecycle,
    connection: Mutex<Option<Connection<R>>>,
}

/// Exists from `start` to `stop`; without a client once aborted.
struct Connection<R: Role> {
    network: Network,
    client: Option<R::Client>,
    /// Dropped when nothing is left to be sent: until then the callbacks' thread keeps the subscription open.
    running: Option<watch::Sender<()>>,
}

/// What the thread for callbacks needs.
pub(crate) struct Work<R: Role> {
    driver: Arc<Driver<R>>,
    runtime: Handle,
    events: R::Events,
    running: watch::Receiver<()>,
}

impl<R: Role> Driver<R> {
    pub(crate) fn new(role: R) -> Self {
        Self { role, lifecycle: Lifecycle::new(), connection: Mutex::new(None) }
    }

    /// Connects, and hands what the callbacks' thread has to do to `spawn`. An error has aborted the driver; its
    /// text is for the `error` callback.
    pub(crate) fn start(
        self: &Arc<Self>,
        spawn: impl FnOnce(Work<R>) -> io::Result<()>,
    ) -> Result<Status, String> {
        self.lifecycle.start(|| {
            let failed = |error: io::Error| format!("cannot start a thread: {error}");
            let network = Network::start(R::THREAD).map_err(failed)?;
            let runtime = network.handle.clone();
            let (client, events) = {
                let _context = runtime.enter();
                self.role.connect()?
            };
            let (sender, running) = watch::channel(());
            *self.lock() = Some(Connection { network, client: Some(client), running: Some(sender) });
            spawn(Work { driver: Arc::clone(self), runtime, events, running }).map_err(failed)
        })
    }

    /// Ends the connection after what `last` does with the client, which is gone after an abort. That takes a few
    /// seconds at most.
    pub(crate) fn stop_after<F>(&self, last: impl FnOnce(Option<R::Client>) -> F) -> Status
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let answer = self.lifecycle.stop();
        let connection = if answer == Status::NotStarted { None } else { self.lock().take() };
        if let Some(Connection { network, client, running }) = connection {
            let last = last(client);
            let closed = network.close(async move {
                last.await;
                drop(running);
            });
            if closed.join().is_err() {
                warn!("the network thread panicked");
            }
        }
        answer
    }

    /// Ends the callbacks and the subscription: the other side sees a broken connection.
    pub(crate) fn abort(&self) -> Status {
        if self.lifecycle.abort()
            && let Some(connection) = self.lock().as_mut()
        {
            info!("aborting");
            let (client, running) = (connection.client.take(), connection.running.take());
            // What was asked before the abort is still sent.
            connection.network.handle.spawn(async move {
                if let Some(client) = client
                    && timeout(FLUSH_TIMEOUT, R::flush(&client)).await.is_err()
                {
                    warn!("what was asked before the abort is not heard");
                }
                drop(running);
            });
        }
        self.status()
    }

    /// As if the process had ended: the connection is cut, the other side is told nothing.
    pub(crate) fn discard(&self) {
        self.lifecycle.stop();
        self.lock().take();
    }

    pub(crate) fn status(&self) -> Status {
        self.lifecycle.status()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.lifecycle.is_running()
    }

    /// Blocks until the driver is stopped or aborted and no callback runs any more.
    pub(crate) fn join(&self) -> Status {
        self.lifecycle.join()
    }

    /// The client of a running driver, and the runtime it lives in. Not under the lock while sending, which may wait.
    pub(crate) fn reach(&self) -> Option<(R::Client, Handle)> {
        if !self.is_running() {
            return None;
        }
        let connection = self.lock();
        let connection = connection.as_ref()?;
        Some((connection.client.clone()?, connection.network.handle.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection<R>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Role> Work<R> {
    /// Runs callbacks one after the other until the driver is stopped or aborted. Says whether it was aborted without
    /// the program's asking for it, of which `error` was the last callback.
    pub(crate) fn run(mut self, mut callback: impl FnMut(R::Callback) -> Result<(), Over>) -> bool {
        let end = CallbacksEnd(&mut self);
        let over = match catch_unwind(AssertUnwindSafe(|| end.0.run_callbacks(&mut callback))) {
            Ok(Ok(())) => return false,
            Ok(Err(over)) => over,
            Err(panic) => Over::because(format!("a bug in libmesos: {}", panic_message(&*panic))),
        };
        let was_running = end.0.driver.is_running();
        // Before the callback, as with Mesos.
        end.0.driver.abort();
        // A callback that has stopped its driver before it failed has nothing to wait for.
        let Over(Some(reason)) = over else { return false };
        if was_running {
            error!("the driver is aborted: {}", one_line(&reason));
            if callback(R::error(reason)).is_err() {
                warn!("the error callback has failed, too");
            }
        }
        was_running
    }

    fn run_callbacks(
        &mut self,
        callback: &mut impl FnMut(R::Callback) -> Result<(), Over>,
    ) -> Result<(), Over> {
        while let Some(event) = self.next() {
            R::heard(&self.driver, &mut self.events, event, callback)?;
        }
        if self.driver.is_running() {
            return Err(Over::because("the connection has ended by itself: a bug in libmesos"));
        }
        Ok(())
    }

    fn next(&mut self) -> Option<R::Event> {
        // Not started yet: `start` still holds its lock, and `is_running` waits for it.
        if !self.driver.is_running() {
            return None;
        }
        let next = self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = self.running.changed() => None,
                event = R::next(&mut self.events) => event,
            }
        });
        next.filter(|_| self.driver.is_running())
    }
}

/// The end of the callbacks, also by a panic.
struct CallbacksEnd<'a, R: Role>(&'a mut Work<R>);

impl<R: Role> Drop for CallbacksEnd<'_, R> {
    fn drop(&mut self) {
        let Work { driver, runtime, running, .. } = self.0;
        // Does nothing unless callbacks end by themselves.
        driver.abort();
        runtime.block_on(async { while running.changed().await.is_ok() {} });
        driver.lifecycle.callbacks_have_ended();
    }
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
