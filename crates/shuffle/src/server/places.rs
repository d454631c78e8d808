//! Who may be connected, and how much of the memory for open streams each has. When all places are taken, the
//! connection that has been silent longest makes room for a new one: a flood of connections that do nothing keeps
//! nobody out. A driver's connection may be silent for as long as the driver promised: it would not come back.
//!
//! Who opened streams, or is in the middle of a large request, and is silent makes room for the like of others, too:
//! Spark asks for all chunks of a stream as soon as it is open. No silence is too short for that, or whoever says
//! something now and then would hold all the memory for ever; a client that is about to ask has been silent the
//! shortest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::registry::DriverConnection;
use crate::service::CallError;

/// Memory that each connection has for itself: what most need costs no look at what is shared.
pub(super) const OWN_BYTES: usize = 64 << 10;

/// Computes the shared part of so many bytes: all of them, or nothing.
fn shared_kib(bytes: usize) -> usize {
    if bytes <= OWN_BYTES { 0 } else { bytes.div_ceil(1024) }
}

/// The uses of shared memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum For {
    /// Streams that are open.
    Streams = 0,
    /// The request that is arriving or is being answered, and its answer.
    Requests = 1,
}

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
    pools: [Pool; 2],
    /// The seat that is kept for each application's driver. Half of all at most: the others stay for who comes.
    drivers: HashMap<String, u64>,
}

/// A memory that all share.
#[derive(Default)]
struct Pool {
    /// Memory that is free.
    left_kib: usize,
    /// Memory by seat, of those that have some.
    by_seat: HashMap<u64, usize>,
}

impl Pool {
    /// Sets a seat's memory, of which so much must be left.
    fn set(&mut self, number: u64, kib: usize) {
        let before = self.by_seat.remove(&number).unwrap_or(0);
        self.left_kib = self.left_kib + before - kib;
        if kib > 0 {
            self.by_seat.insert(number, kib);
        }
    }
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
    /// The place's part of each shared memory.
    shared_kib: [usize; 2],
    /// While its application's driver is connected here, the application lives.
    driver: Option<DriverConnection>,
}

impl Places {
    /// `shared_bytes` are for the streams and the large requests of all, see [`For`].
    pub(super) fn new(max: usize, shared_bytes: [usize; 2]) -> Arc<Places> {
        Places::since(Instant::now(), max, shared_bytes)
    }

    fn since(start: Instant, max: usize, shared_bytes: [usize; 2]) -> Arc<Places> {
        let pools = shared_bytes.map(|bytes| Pool { left_kib: bytes / 1024, ..Pool::default() });
        let taken = Taken { pools, ..Taken::default() };
        Arc::new(Places { max, start, taken: Mutex::new(taken) })
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
        let place = Place { places: self.clone(), number, silent_since, shared_kib: [0; 2], driver: None };
        (Some(place), full)
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
            if self.end(number, since) {
                return true;
            }
        }
        false
    }

    /// Where too little is left of a memory, ends connections that have some and are silent, whatever was promised, the
    /// one silent longest first; none where all of them have too little. Returns how many. What they had counts as left
    /// at once, though it is free only when their tasks are dropped, which waits for nothing.
    fn make_room_for(&mut self, what_for: For, kib: usize) -> usize {
        let pool = &self.pools[what_for as usize];
        if pool.left_kib >= kib {
            return 0;
        }
        let silent = pool.by_seat.iter().filter_map(|(number, kib)| {
            let since = self.seats.get(number)?.silent_since.load(Relaxed);
            (since != BUSY).then_some((since, *number, *kib))
        });
        let mut silent: Vec<_> = silent.collect();
        if pool.left_kib + silent.iter().map(|(_, _, kib)| kib).sum::<usize>() < kib {
            return 0;
        }
        silent.sort_unstable();
        let mut ended = 0;
        for (since, number, _) in silent {
            if self.pools[what_for as usize].left_kib >= kib {
                break;
            }
            ended += usize::from(self.end(number, since));
        }
        ended
    }

    /// Ends a connection; false where it is no longer silent.
    fn end(&mut self, number: u64, since: u64) -> bool {
        let silent_since = &self.seats[&number].silent_since;
        let is_silent = silent_since.compare_exchange(since, OUT, Relaxed, Relaxed).is_ok();
        if is_silent && let Some(task) = self.leave(number).and_then(|seat| seat.task) {
            task.abort();
        }
        is_silent
    }

    fn leave(&mut self, number: u64) -> Option<Seat> {
        self.pools.iter_mut().for_each(|pool| pool.set(number, 0));
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

    /// Makes what it has of a memory at least so large; others may have to end for it, which are counted.
    pub(super) fn grow_to(&mut self, what_for: For, bytes: usize) -> Result<usize, CallError> {
        let own = &mut self.shared_kib[what_for as usize];
        let kib = shared_kib(bytes);
        let more = kib.saturating_sub(*own);
        if more == 0 {
            return Ok(0);
        }
        let mut taken = self.places.taken.lock();
        let ended = taken.make_room_for(what_for, more);
        let pool = &mut taken.pools[what_for as usize];
        if pool.left_kib < more {
            return Err(CallError::RetryLater(
                format!("no room for {what_for:?} of {bytes} bytes").to_lowercase(),
            ));
        }
        pool.set(self.number, kib);
        *own = kib;
        Ok(ended)
    }

    /// Gives back what is beyond.
    pub(super) fn shrink_to(&mut self, what_for: For, bytes: usize) {
        let own = &mut self.shared_kib[what_for as usize];
        let kib = shared_kib(bytes);
        if kib < *own {
            self.places.taken.lock().pools[what_for as usize].set(self.number, kib);
            *own = kib;
        }
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

    /// `max` places, all taken; who has been silent for longer comes first. There is a MiB for streams.
    fn full(max: usize) -> (Arc<Places>, Vec<Place>) {
        let start = Instant::now().checked_sub(HOUR).expect("the machine runs for longer");
        let places = Places::since(start, max, [1 << 20; 2]);
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

    /// All but the first, which asks, have `kib` for their streams.
    fn with_streams(kib: &[usize]) -> (Arc<Places>, Vec<Place>) {
        let (places, mut taken) = full(kib.len() + 1);
        assert!(taken[0].busy());
        for (place, kib) in taken[1..].iter_mut().zip(kib) {
            assert_eq!(place.grow_to(For::Streams, kib << 10).expect("room"), 0);
        }
        (places, taken)
    }

    fn lost(taken: &[Place]) -> Vec<usize> {
        (0..taken.len()).filter(|&at| taken[at].silent_since.load(Relaxed) == OUT).collect()
    }

    #[tokio::test]
    async fn who_opened_streams_and_was_silent_longest_makes_room_for_others() {
        let (places, mut taken) = with_streams(&[64, 300, 100, 300, 200]);
        let task = tokio::spawn(std::future::pending::<()>());
        places.seat(taken[2].number(), task.abort_handle());
        taken[2].keep("app", 2 * HOUR, None);
        // The second was heard last.
        taken[2].silent_since.store(9, Relaxed);
        let taken_kib = |places: &Places| 1024 - places.taken.lock().pools[0].left_kib;

        assert_eq!(taken[0].grow_to(For::Streams, 124 << 10).expect("left"), 0);
        assert_eq!(taken[0].grow_to(For::Streams, 125 << 10).expect("made"), 1, "its own counts");
        assert_eq!((lost(&taken), taken_kib(&places)), (vec![3], 125 + 800));
        assert_eq!(taken[0].grow_to(For::Streams, 800 << 10).expect("made"), 3);
        assert_eq!((lost(&taken), taken_kib(&places)), (vec![2, 3, 4, 5], 800), "who has none stays");
        assert!(task.await.expect_err("ended").is_cancelled());
        drop(taken);
        assert_eq!(taken_kib(&places), 0);
        assert!(places.taken.lock().pools[0].by_seat.is_empty());
    }

    #[test]
    fn nobody_ends_for_streams_in_vain_or_at_work() {
        let (places, mut taken) = with_streams(&[300, 300, 300]);
        assert!(taken[1].busy());
        for _ in 0..2 {
            let refused = taken[0].grow_to(For::Streams, 725 << 10).expect_err("one is at work");
            assert!(matches!(refused, CallError::RetryLater(_)) && lost(&taken).is_empty());
        }
        assert_eq!(taken[0].grow_to(For::Streams, 724 << 10).expect("made"), 2);
        assert_eq!(lost(&taken), [2, 3]);
        // What the lost give back is not theirs any more.
        taken[2].shrink_to(For::Streams, 0);
        taken.truncate(2);
        assert_eq!(places.taken.lock().pools[0].left_kib, 0);
        taken[0].shrink_to(For::Streams, 100 << 10);
        assert_eq!(taken[1].grow_to(For::Streams, 924 << 10).expect("given back"), 0);
        // At rest, it makes room for the other.
        taken[0].silent();
        assert_eq!(taken[1].grow_to(For::Streams, 1 << 20).expect("made"), 1);
    }

    #[test]
    fn streams_that_are_small_take_nothing_of_what_is_shared() {
        let places = Places::new(1, [100 << 10, 0]);
        let mut place = places.take().0.expect("a place");
        for (bytes, left_kib) in [(64 << 10, 100), ((64 << 10) + 1, 35), (100 << 10, 0), (70 << 10, 0)] {
            assert_eq!(place.grow_to(For::Streams, bytes).expect("room"), 0);
            assert_eq!(places.taken.lock().pools[0].left_kib, left_kib, "{bytes}");
        }
        assert!(place.grow_to(For::Streams, usize::MAX).is_err());
        for (bytes, left_kib) in [(200 << 10, 0), (70 << 10, 30), (64 << 10, 100), (0, 100)] {
            place.shrink_to(For::Streams, bytes);
            assert_eq!(places.taken.lock().pools[0].left_kib, left_kib, "{bytes}");
        }
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
