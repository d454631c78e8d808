//! The kernel's time: the wall clock as it was at the start, moved on by the monotonic clock.
use bellows_kernel::Time;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Never goes back, whatever is done to the machine's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    epoch: Time,
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { epoch: Time::default() + since_epoch, started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Time {
        self.epoch + self.started.elapsed()
    }

    /// When `time` comes; far enough away for "never" when there is nothing to wait for.
    pub(crate) fn instant(&self, time: Option<Time>) -> Instant {
        const FAR: Duration = Duration::from_secs(3600);
        self.started + time.map_or(self.started.elapsed() + FAR, |time| time.since(self.epoch))
    }
}
