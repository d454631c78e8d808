//! Vital tasks: those that a process cannot do without. When one such task or thread ends, by itself or by a panic, the process is to end.
//!
//! Each takes a [`Guard`] along; `main` waits for [`Vital::ended`] beside the signal that tells it to stop.

use std::{
    cell::RefCell,
    panic,
    sync::{Arc, Once},
    thread,
};
use tokio::sync::watch;

/// The first of a process' vital tasks that ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} has ended: {reason}")]
pub struct Ended {
    pub what: &'static str,
    /// A panic's message and place, or that it returned.
    pub reason: String,
}

/// The vital tasks and threads of one part of a process.
#[derive(Debug, Clone)]
pub struct Vital(Arc<watch::Sender<Option<Ended>>>);

/// Tells when it is dropped that its task has ended.
#[derive(Debug)]
pub struct Guard {
    what: &'static str,
    vital: Vital,
}

impl Vital {
    #[expect(clippy::new_without_default, reason = "it changes what the process does with panics")]
    pub fn new() -> Self {
        log_panics();
        Self(Arc::new(watch::channel(None).0))
    }

    /// Makes a guard to move into the task or thread that is called `what` in the log.
    pub fn guard(&self, what: &'static str) -> Guard {
        Guard { what, vital: self.clone() }
    }

    /// Starts `task`, which should go on until its `JoinHandle` or this runtime is dropped.
    pub fn spawn<T: Send + 'static>(
        &self,
        what: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let guard = self.guard(what);
        tokio::spawn(async move {
            let _guard = guard;
            task.await
        })
    }

    /// Returns when one of them has ended. After the process was told to stop, that means nothing.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.0.subscribe();
        let first = ended.wait_for(Option::is_some).await;
        first.ok().and_then(|first| first.clone()).expect("invariant: the sender is this one's")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let reason = match thread::panicking() {
            true => LAST_PANIC.take().unwrap_or_else(|| "it panicked".to_owned()),
            false => "it returned".to_owned(),
        };
        self.vital.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(Ended { what: self.what, reason });
            is_first
        });
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Sends the message and place of each panic to the log.
pub(crate) fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("a value that is no text");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            LAST_PANIC.set(Some(format!("it panicked: {text} ({place})")));
            if tracing::dispatcher::has_been_set() {
                let thread = thread::current();
                let backtrace = std::backtrace::Backtrace::capture();
                tracing::error!(thread = thread.name(), place, %backtrace, "panic: {text}");
            } else {
                before(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_with_its_message_and_place() {
        let vital = Vital::new();
        let task = vital.spawn("the heart", async {
            tokio::task::yield_now().await;
            panic!("too much");
        });
        let ended = vital.ended().await;
        assert_eq!(ended.what, "the heart");
        assert!(ended.reason.starts_with("it panicked: too much (crates/runtime/src/vital.rs:"), "{ended}");
        assert!(task.await.expect_err("told on").is_panic());
    }

    #[tokio::test]
    async fn a_thread_that_panics_and_a_task_that_returns_or_is_aborted_are_told_too() {
        let vital = Vital::new();
        let guard = vital.guard("the disk's thread");
        let thread = thread::spawn(move || {
            let _guard = guard;
            panic!("no disk");
        });
        assert!(vital.ended().await.reason.contains("no disk"));
        assert!(thread.join().is_err());

        let vital = Vital::new();
        vital.spawn("one", async {});
        assert_eq!(vital.ended().await, Ended { what: "one", reason: "it returned".into() });

        let vital = Vital::new();
        vital.spawn("two", std::future::pending::<()>()).abort();
        vital.spawn("three", async {});
        assert!(["two", "three"].contains(&vital.ended().await.what), "the first");
    }

    #[tokio::test]
    async fn a_panic_of_another_task_is_not_told() {
        let vital = Vital::new();
        vital.spawn("the heart", std::future::pending::<()>());
        assert!(tokio::spawn(async { panic!("one connection") }).await.is_err());
        tokio::select! {
            biased;
            ended = vital.ended() => panic!("{ended}"),
            () = tokio::task::yield_now() => {}
        }
    }
}
