//! A driver's own thread with a small Tokio runtime: connections live there, so that no callback, however slow,
//! holds up heartbeats and answers. It calls into no JVM.

use std::io;
use std::pin::Pin;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// What `close` may take on the other side's account before the connections are cut.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Ends its thread when dropped or closed.
pub(crate) struct Network {
    pub(crate) handle: Handle,
    close: oneshot::Sender<Closing>,
    thread: JoinHandle<()>,
}

type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Network {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (close, closing) = oneshot::channel::<Closing>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                // Dropped without a word: nothing is left to be said to the other side.
                if let Ok(last) = closing.await
                    && tokio::time::timeout(CLOSE_TIMEOUT, last).await.is_err()
                {
                    tracing::warn!("no answer at the end; closing the connections");
                }
            });
            // Not to wait for a name that is being resolved.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, close, thread })
    }

    /// Does `last`, then ends the thread; whoever wants to wait joins it. That takes a few seconds at most.
    pub(crate) fn close(self, last: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // An error means that the thread has ended already.
        let _ = self.close.send(Box::pin(last));
        self.thread
    }
}
