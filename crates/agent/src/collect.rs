//! Deletes the sandboxes of tasks that ended long ago, earlier when the disk fills up (Mesos `slave/gc.cpp`).
//!
//! A sandbox is as old as its directory's last change, which the agent makes when the task ends: nothing to remember.
use crate::{Config, driver::Handle, machine};
use bellows_containment::Sandboxes;
use bellows_model::ContainerId;
use std::{
    collections::HashSet,
    path::PathBuf,
    time::{Duration, SystemTime},
};

pub(crate) struct Collector {
    pub(crate) sandboxes: Sandboxes,
    pub(crate) work_dir: PathBuf,
    pub(crate) delay: Duration,
    pub(crate) headroom: f64,
    pub(crate) interval: Duration,
    pub(crate) driver: Handle,
}

impl Collector {
    pub(crate) fn new(config: &Config, sandboxes: Sandboxes, work_dir: PathBuf, driver: Handle) -> Self {
        Self {
            sandboxes,
            work_dir,
            delay: config.gc_delay,
            headroom: config.gc_disk_headroom,
            interval: config.disk_watch_interval,
            driver,
        }
    }

    /// Until the agent stops.
    pub(crate) async fn run(self) {
        loop {
            tokio::time::sleep(self.interval).await;
            let sandboxes = self.sandboxes.clone();
            // Listed before the living are asked for: what is born in between is not on the list.
            let Ok(Ok(listed)) = tokio::task::spawn_blocking(move || sandboxes.list()).await else {
                continue;
            };
            let Ok(living) = self
                .driver
                .read(|state| {
                    state.tasks().map(|task| task.container_id.clone()).collect::<HashSet<ContainerId>>()
                })
                .await
            else {
                return;
            };
            let max_age =
                max_age(self.delay, self.headroom, machine::disk_usage(&self.work_dir).unwrap_or(0.0));
            let sandboxes = self.sandboxes.clone();
            let outcome = tokio::task::spawn_blocking(move || {
                let now = SystemTime::now();
                let old = |changed: &SystemTime| now.duration_since(*changed).is_ok_and(|age| age >= max_age);
                for (run, changed) in listed {
                    if old(&changed)
                        && !living.contains(&run.container_id)
                        && let Err(error) = sandboxes.collect(&run)
                    {
                        tracing::warn!(container = %run.container_id, %error, "cannot delete an old sandbox");
                    }
                }
            });
            if outcome.await.is_err() {
                tracing::error!("deleting old sandboxes panicked");
            }
        }
    }
}

/// `delay` on an empty disk, nothing on one that is full but for the headroom.
fn max_age(delay: Duration, headroom: f64, usage: f64) -> Duration {
    delay.mul_f64((1.0 - headroom - usage).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_disk_the_younger_they_go() {
        let age = |usage| max_age(Duration::from_secs(1_000), 0.1, usage).as_secs();
        assert_eq!([age(0.0), age(0.5), age(0.9), age(1.0)], [900, 400, 0, 0]);
    }
}
