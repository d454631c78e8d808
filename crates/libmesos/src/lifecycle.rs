//! The states of a driver and who waits for them, as Mesos' drivers have them. It runs nothing itself.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// `mesos.Status`; the numbers are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    NotStarted = 1,
    Running = 2,
    Aborted = 3,
    Stopped = 4,
}

#[derive(Debug)]
pub(crate) struct Lifecycle {
    state: Mutex<State>,
    callbacks_ended: Condvar,
}

#[derive(Debug)]
struct State {
    status: Status,
    /// A thread that runs callbacks has started and not ended yet.
    callbacks: bool,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        let state = State { status: Status::NotStarted, callbacks: false };
        Self { state: Mutex::new(state), callbacks_ended: Condvar::new() }
    }

    pub(crate) fn status(&self) -> Status {
        self.lock().status
    }

    pub(crate) fn is_running(&self) -> bool {
        self.status() == Status::Running
    }

    /// Runs `start` once in a driver's life; afterwards the driver runs, or is aborted when `start` failed.
    pub(crate) fn start<E>(&self, start: impl FnOnce() -> Result<(), E>) -> Result<Status, E> {
        let mut state = self.lock();
        if state.status != Status::NotStarted {
            return Ok(state.status);
        }
        // Callbacks may begin before `start` returns; what they ask of the driver waits for this lock.
        match start() {
            Ok(()) => {
                state.status = Status::Running;
                state.callbacks = true;
                Ok(Status::Running)
            }
            Err(error) => {
                state.status = Status::Aborted;
                Err(error)
            }
        }
    }

    /// Stops a running or aborted driver. Gives what `stop` answers.
    pub(crate) fn stop(&self) -> Status {
        let mut state = self.lock();
        match std::mem::replace(&mut state.status, Status::Stopped) {
            Status::Running | Status::Stopped => Status::Stopped,
            // Mesos answers what went wrong before.
            Status::Aborted => Status::Aborted,
            Status::NotStarted => {
                state.status = Status::NotStarted;
                Status::NotStarted
            }
        }
    }

    /// Aborts a running driver; true when it was running.
    pub(crate) fn abort(&self) -> bool {
        let mut state = self.lock();
        let was_running = state.status == Status::Running;
        if was_running {
            state.status = Status::Aborted;
        }
        was_running
    }

    /// To be told when the thread that runs callbacks has run its last.
    pub(crate) fn callbacks_have_ended(&self) {
        self.lock().callbacks = false;
        self.callbacks_ended.notify_all();
    }

    /// Blocks until the driver is stopped or aborted and no callback runs any more. Never blocks a driver that
    /// was not started.
    pub(crate) fn join(&self) -> Status {
        let state = self.callbacks_ended.wait_while(self.lock(), |state| state.callbacks);
        state.unwrap_or_else(PoisonError::into_inner).status
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_once_and_stops_once() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.stop(), Status::NotStarted);
        assert_eq!(lifecycle.join(), Status::NotStarted);
        assert_eq!(lifecycle.start(|| Ok::<_, ()>(())), Ok(Status::Running));
        assert_eq!(lifecycle.start(|| Err("not called again")), Ok(Status::Running));
        assert_eq!(lifecycle.stop(), Status::Stopped);
        assert_eq!(lifecycle.stop(), Status::Stopped);
        assert!(!lifecycle.abort());
        lifecycle.callbacks_have_ended();
        assert_eq!(lifecycle.join(), Status::Stopped);
    }

    #[test]
    fn an_aborted_driver_says_so_when_it_is_stopped() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.start(|| Err("bad address")), Err("bad address"));
        assert_eq!(lifecycle.join(), Status::Aborted);
        assert_eq!(lifecycle.stop(), Status::Aborted);
        assert_eq!(lifecycle.status(), Status::Stopped);
    }

    #[test]
    fn join_waits_for_the_last_callback() {
        let lifecycle = std::sync::Arc::new(Lifecycle::new());
        assert_eq!(lifecycle.start(|| Ok::<_, ()>(())), Ok(Status::Running));
        let joined = std::thread::spawn({
            let lifecycle = lifecycle.clone();
            move || lifecycle.join()
        });
        assert!(lifecycle.abort());
        assert!(!joined.is_finished());
        lifecycle.callbacks_have_ended();
        assert_eq!(joined.join().expect("no panic"), Status::Aborted);
    }
}
