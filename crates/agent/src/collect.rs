//! Deletes the sandboxes of tasks that ended long ago, earlier when the disk fills up (Mesos `slave/gc.cpp`).
//!
//! A sandbox is as old as its directory's last change, which the agent makes when the task ends: nothing to remember.
use crate::{Config, driver::Handle, machine};
use bellows_containment::{Run, Sandboxes};
use bellows_model::ContainerId;
use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// How long the sandbox of a task that failed is kept, if there is room.
const FAILED_KEPT: Duration = Duration::from_secs(3_600);

pub(crate) struct Collector {
    pub(crate) sandboxes: Sandboxes,
    pub(crate) work_dir: PathBuf,
    pub(crate) delay: Duration,
    pub(crate) headroom: f64,
    pub(crate) interval: Duration,
    pub(crate) driver: Handle,
    pub(crate) figures: Arc<Figures>,
}

/// What is said of it in the metrics.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) deleted: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Sandboxes of ended tasks that are still there.
    pub(crate) pending: AtomicU64,
    /// How old they may become as full as the disk is.
    pub(crate) max_age_secs: AtomicU64,
}

impl Collector {
    pub(crate) fn new(
        config: &Config,
        sandboxes: Sandboxes,
        work_dir: PathBuf,
        driver: Handle,
        figures: Arc<Figures>,
    ) -> Self {
        let usage = machine::disk_usage(&work_dir).unwrap_or(0.0);
        let max_age = max_age(config.gc_delay, config.gc_disk_headroom, usage);
        figures.max_age_secs.store(max_age.as_secs(), Relaxed);
        Self {
            figures,
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
            let Self { sandboxes, work_dir, delay, headroom, .. } = &self;
            let (sandboxes, work_dir, delay, headroom) =
                (sandboxes.clone(), work_dir.clone(), *delay, *headroom);
            let figures = Arc::clone(&self.figures);
            let outcome = tokio::task::spawn_blocking(move || {
                let usage = || machine::disk_usage(&work_dir).unwrap_or(0.0);
                let now = SystemTime::now();
                let ended = listed.into_iter().filter(|(run, _)| !living.contains(&run.container_id));
                let ended = ended.map(|(run, changed)| Ended {
                    age: now.duration_since(changed).unwrap_or_default(),
                    failed: sandboxes.has_failed(&run),
                    of: run,
                });
                let (ended, max_age) = (ended.collect::<Vec<_>>(), max_age(delay, headroom, usage()));
                figures.pending.store(ended.len() as u64, Relaxed);
                figures.max_age_secs.store(max_age.as_secs(), Relaxed);
                let (doomed, spared) = sorted(ended, delay, max_age);
                let collect = |run: &Run| match sandboxes.collect(run) {
                    Ok(()) => {
                        figures.deleted.fetch_add(1, Relaxed);
                        figures.pending.fetch_sub(1, Relaxed);
                    }
                    Err(error) => {
                        figures.failed.fetch_add(1, Relaxed);
                        tracing::warn!(container = %run.container_id, %error, "cannot delete an old sandbox");
                    }
                };
                doomed.iter().for_each(collect);
                // Nothing else is left that would make room.
                spared.iter().take_while(|_| usage() > 1.0 - headroom).for_each(collect);
            });
            if outcome.await.is_err() {
                tracing::error!("deleting old sandboxes panicked");
            }
        }
    }
}

/// `delay` on an empty disk, nothing on one that is full but for the headroom.
fn max_age(delay: Duration, headroom: f64, usage: f64) -> Duration {
    let part = (1.0 - headroom - usage).clamp(0.0, 1.0);
    Duration::try_from_secs_f64(delay.as_secs_f64() * part).unwrap_or(Duration::MAX)
}

/// A sandbox whose task has ended.
struct Ended<T> {
    of: T,
    age: Duration,
    failed: bool,
}

/// Which go, and which of those that are old enough to go for lack of space are spared as long as there is some: somebody
/// may be about to look at them. The oldest first.
fn sorted<T>(mut ended: Vec<Ended<T>>, delay: Duration, max_age: Duration) -> (Vec<T>, Vec<T>) {
    ended.retain(|sandbox| sandbox.age >= max_age);
    ended.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.age));
    let is_spared = |sandbox: &Ended<T>| sandbox.failed && sandbox.age < FAILED_KEPT.min(delay);
    let (spared, doomed): (Vec<_>, Vec<_>) = ended.into_iter().partition(is_spared);
    (
        doomed.into_iter().map(|sandbox| sandbox.of).collect(),
        spared.into_iter().map(|sandbox| sandbox.of).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_disk_the_younger_they_go() {
        let age = |usage| max_age(Duration::from_secs(1_000), 0.1, usage).as_secs();
        assert_eq!([age(0.0), age(0.5), age(0.9), age(1.0)], [900, 400, 0, 0]);
    }

    #[test]
    fn a_sandbox_that_is_kept_for_ever_has_no_age() {
        assert!(max_age(Duration::MAX, 0.0, 0.0) > Duration::from_secs(1 << 40));
        assert_eq!(max_age(Duration::MAX, 0.1, 0.95), Duration::ZERO);
    }

    #[test]
    fn those_that_failed_lately_go_last() {
        const MINUTE: Duration = Duration::from_secs(60);
        let ended = |of, minutes, failed| Ended { of, age: MINUTE * minutes, failed };
        let all = || {
            vec![
                ended("failed just now", 1, true),
                ended("fine", 2, false),
                ended("failed", 59, true),
                ended("failed long ago", 60, true),
                ended("old", 600, false),
            ]
        };
        let week = MINUTE * 60 * 24 * 7;
        let (doomed, spared) = sorted(all(), week, Duration::ZERO);
        assert_eq!(doomed, ["old", "failed long ago", "fine"]);
        assert_eq!(spared, ["failed", "failed just now"]);
        let (doomed, spared) = sorted(all(), week, MINUTE * 30);
        assert_eq!((doomed, spared), (vec!["old", "failed long ago"], vec!["failed"]));
        // Who wants them gone after ten minutes gets that.
        let (doomed, spared) = sorted(all(), MINUTE * 10, MINUTE * 10);
        assert_eq!((doomed.len(), spared.len()), (3, 0));
    }
}
