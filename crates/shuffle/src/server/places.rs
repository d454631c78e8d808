//! Who may be connected. When all places are taken, the connection that has been silent longest makes room for a new
//! one: a flood of connections that do nothing keeps nobody out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::registry::DriverConnection;

/// Has something to do.
const BUSY: u64 = 0;
/// Has lost its place.
const OUT: u64 = u64::MAX;

pub(super) struct Places {
    max: usize,
    start: Instant,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    places: HashMap<u64, (Arc<AtomicU64>, Option<AbortHandle>)>,
}

/// One connection's place, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// Milliseconds from the start, or one of the above.
    silent_since: Arc<AtomicU64>,
    /// Of a driver, which would not come back.
    kept: Option<DriverConnection>,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Places> {
        Arc::new(Places { max, start: Instant::now(), taken: Mutex::default() })
    }

    /// Nothing when all who are connected have something to do. The second is whether another lost its place.
    pub(super) fn take(self: &Arc<Places>) -> (Option<Place>, bool) {
        let mut taken = self.taken.lock();
        let full = taken.places.len() >= self.max;
        if full && !taken.make_room() {
            return (None, false);
        }
        let number = taken.next;
        taken.next += 1;
        let silent_since = Arc::new(AtomicU64::new(self.now()));
        taken.places.insert(number, (silent_since.clone(), None));
        (Some(Place { places: self.clone(), number, silent_since, kept: None }), full)
    }

    /// What is to be ended when the place is taken away.
    pub(super) fn seat(&self, number: u64, task: AbortHandle) {
        if let Some((_, seated)) = self.taken.lock().places.get_mut(&number) {
            *seated = Some(task);
        } else {
            task.abort();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(OUT) + 1
    }
}

impl Taken {
    /// Ends the connection that has been silent longest.
    fn make_room(&mut self) -> bool {
        // Another attempt where it began to do something meanwhile.
        for _ in 0..3 {
            let silent = self.places.iter().map(|(number, (since, _))| (since.load(Relaxed), *number));
            let Some((since, number)) = silent.filter(|(since, _)| *since != BUSY).min() else {
                return false;
            };
            let (silent_since, _) = &self.places[&number];
            if silent_since.compare_exchange(since, OUT, Relaxed, Relaxed).is_ok() {
                if let Some((_, Some(task))) = self.places.remove(&number) {
                    task.abort();
                }
                return true;
            }
        }
        false
    }
}

impl Place {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for its peer from now on.
    pub(super) fn silent(&self) {
        if self.kept.is_none() {
            self.silent_since.store(self.places.now(), Relaxed);
        }
    }

    /// Has something to do; false when the place is lost.
    pub(super) fn busy(&self) -> bool {
        self.kept.is_some() || self.silent_since.swap(BUSY, Relaxed) != OUT
    }

    /// The place is not taken away any more.
    pub(super) fn keep(&mut self, driver: DriverConnection) {
        self.kept = Some(driver);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    #[tokio::test]
    async fn who_was_silent_longest_makes_room() {
        let places = Places::new(3);
        let take = || places.take().0.expect("a place");
        let since = |place: &Place, at| place.silent_since.store(at, Relaxed);
        let (mut driver, old, young) = (take(), take(), take());
        for (place, at) in [(&driver, 1), (&old, 2), (&young, 3)] {
            since(place, at);
        }
        assert!(driver.busy());
        let registry = Registry::new(1, 1);
        registry.set_driver("app", std::time::Duration::ZERO, Instant::now());
        driver.keep(DriverConnection::of(registry.app("app").expect("known")));
        driver.silent();
        let task = tokio::spawn(std::future::pending::<()>());
        places.seat(old.number(), task.abort_handle());

        let (place, other_lost) = places.take();
        let new = place.expect("made room");
        assert!(other_lost && task.await.expect_err("ended").is_cancelled());
        assert!(!old.busy(), "it noticed");
        assert!(driver.busy() && young.busy() && new.busy());
        assert!(places.take().0.is_none(), "all have something to do");
        drop(old);
        assert!(places.take().0.is_none(), "its place was another's already");
        drop(young);
        let (place, other_lost) = places.take();
        assert!(place.is_some() && !other_lost);
    }
}
