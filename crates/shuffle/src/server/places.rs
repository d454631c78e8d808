//! Who may be connected. When all places are taken, the connection that has been silent longest makes room for a new
//! one: a flood of connections that do nothing keeps nobody out. A driver's connection may be silent for as long as the
//! driver promised: it would not come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
    seats: HashMap<u64, Seat>,
    /// The seat that is kept for each application's driver. Half of all at most: the others stay for who comes.
    drivers: HashMap<String, u64>,
}

struct Seat {
    /// Milliseconds from the start, or one of the above.
    silent_since: Arc<AtomicU64>,
    /// For how long its silence means nothing.
    kept_ms: u64,
    /// What is to be ended when the seat is taken away.
    task: Option<AbortHandle>,
}

/// One connection's place, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    silent_since: Arc<AtomicU64>,
    /// While its application's driver is connected here, the application lives.
    driver: Option<DriverConnection>,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Places> {
        Arc::new(Places { max, start: Instant::now(), taken: Mutex::default() })
    }

    /// Nothing when all who are connected have something to do. The second is whether another lost its place.
    pub(super) fn take(self: &Arc<Places>) -> (Option<Place>, bool) {
        let mut taken = self.taken.lock();
        let full = taken.seats.len() >= self.max;
        if full && !taken.make_room(self.now()) {
            return (None, false);
        }
        let number = taken.next;
        taken.next += 1;
        let silent_since = Arc::new(AtomicU64::new(self.now()));
        taken.seats.insert(number, Seat { silent_since: silent_since.clone(), kept_ms: 0, task: None });
        (Some(Place { places: self.clone(), number, silent_since, driver: None }), full)
    }

    /// What is to be ended when the place is taken away.
    pub(super) fn seat(&self, number: u64, task: AbortHandle) {
        if let Some(seat) = self.taken.lock().seats.get_mut(&number) {
            seat.task = Some(task);
        } else {
            task.abort();
        }
    }

    fn now(&self) -> u64 {
        millis(self.start.elapsed()) + 1
    }
}

impl Taken {
    /// Ends the connection that has been silent longest.
    fn make_room(&mut self, now: u64) -> bool {
        // Another attempt where it began to do something meanwhile.
        for _ in 0..3 {
            let silent = self.seats.iter().filter_map(|(number, seat)| {
                let since = seat.silent_since.load(Relaxed);
                (since != BUSY && since + seat.kept_ms <= now).then_some((since, *number))
            });
            let Some((since, number)) = silent.min() else { return false };
            let silent_since = &self.seats[&number].silent_since;
            if silent_since.compare_exchange(since, OUT, Relaxed, Relaxed).is_ok() {
                if let Some(task) = self.leave(number).and_then(|seat| seat.task) {
                    task.abort();
                }
                return true;
            }
        }
        false
    }

    fn leave(&mut self, number: u64) -> Option<Seat> {
        let seat = self.seats.remove(&number)?;
        if seat.kept_ms > 0 {
            self.drivers.retain(|_, kept| *kept != number);
        }
        Some(seat)
    }

    /// One seat an application, and one application a seat: the newest.
    fn keep(&mut self, number: u64, app: &str, promised: Duration, max: usize) {
        self.drivers.retain(|_, kept| *kept != number);
        let before = self.drivers.remove(app);
        let kept_ms = if self.drivers.len() < max { millis(promised) } else { 0 };
        if kept_ms > 0 {
            self.drivers.insert(app.to_owned(), number);
        }
        for (number, kept_ms) in [(before, 0), (Some(number), kept_ms)] {
            if let Some(seat) = number.and_then(|number| self.seats.get_mut(&number)) {
                seat.kept_ms = kept_ms;
            }
        }
    }
}

impl Place {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for its peer from now on.
    pub(super) fn silent(&self) {
        self.silent_since.store(self.places.now(), Relaxed);
    }

    /// Has something to do; false when the place is lost.
    pub(super) fn busy(&self) -> bool {
        self.silent_since.swap(BUSY, Relaxed) != OUT
    }

    /// From here the application's driver sends its heartbeats, and no two of them are further apart than `promised`.
    pub(super) fn keep(&mut self, app: &str, promised: Duration, driver: Option<DriverConnection>) {
        self.driver = driver;
        self.places.taken.lock().keep(self.number, app, promised, self.places.max / 2);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().leave(self.number);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// `max` places, all taken; who has been silent for longer comes first.
    fn full(max: usize) -> (Arc<Places>, Vec<Place>) {
        let start = Instant::now().checked_sub(HOUR).expect("the machine runs for longer");
        let places = Arc::new(Places { max, start, taken: Mutex::default() });
        let taken: Vec<Place> = (0..max).map(|_| places.take().0.expect("a place")).collect();
        for (since, place) in taken.iter().enumerate() {
            place.silent_since.store(since as u64 + 1, Relaxed);
        }
        (places, taken)
    }

    #[tokio::test]
    async fn who_was_silent_longest_makes_room() {
        let (places, taken) = full(3);
        let [mut driver, old, young] = <[Place; 3]>::try_from(taken).ok().expect("three");
        driver.keep("app", 2 * HOUR, None);
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

    #[test]
    fn a_driver_keeps_one_place_for_as_long_as_it_promised() {
        let (places, mut taken) = full(6);
        taken[0].keep("late", HOUR / 2, None);
        taken[1].keep("twice", 2 * HOUR, None);
        taken[2].keep("twice", 2 * HOUR, None);
        taken[3].keep("before", 2 * HOUR, None);
        taken[3].keep("now", 2 * HOUR, None);
        let mut new = Vec::new();
        for lost in [0, 1, 4, 5] {
            new.push(places.take().0.expect("made room"));
            assert!(new.iter().all(Place::busy) && taken[lost].silent_since.load(Relaxed) == OUT, "{lost}");
        }
        assert!(places.take().0.is_none(), "all others are kept");
        drop(taken);
        assert!(places.taken.lock().drivers.is_empty());
    }

    #[test]
    fn half_of_the_places_at_most_are_kept() {
        let (places, mut taken) = full(4);
        for (at, place) in taken.iter_mut().enumerate() {
            place.keep(&format!("app-{at}"), 2 * HOUR, None);
        }
        let new = [places.take().0, places.take().0].map(|place| place.expect("made room"));
        assert!(new.iter().chain(&taken[..2]).all(Place::busy));
        assert!(!taken[2].busy() && !taken[3].busy());
    }
}
