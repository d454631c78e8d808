//! The sign of life on a stream of events.
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Beats once without waiting, then at every interval; late beats are not made up for.
#[derive(Debug)]
pub(super) struct Heartbeat {
    begun: bool,
    interval: Interval,
}

impl Heartbeat {
    pub(super) fn every(interval: Duration) -> Self {
        let mut interval = interval_at(Instant::now() + interval, interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { begun: false, interval }
    }

    /// Loses no beat when it is dropped before it is done.
    pub(super) async fn beat(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            self.interval.tick().await;
        }
    }
}
