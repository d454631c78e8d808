//! Places for connections. When all are taken, a connection that waits for its peer makes room for a new one: a flood of
//! connections that do nothing keeps nobody out. One peer address may have half of the places; an IPv6 network counts as
//! one address.

use crate::{Disconnect, peers::holder};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Has a request under way.
const BUSY: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    start: Instant,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, Seat>,
    peers: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Seat {
    peer: IpAddr,
    state: Arc<State>,
    disconnect: Disconnect,
}

#[derive(Debug)]
struct State {
    start: Instant,
    requests: Mutex<u32>,
    /// In milliseconds from the start, or [`BUSY`].
    silent_since: AtomicU64,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    state: Arc<State>,
}

/// A request under way, until it is answered or dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<State>);

impl Places {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, start: Instant::now(), taken: Mutex::default() })
    }

    /// Takes a place for a connection from `peer`. `None` when all that could make room have requests under way.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr, disconnect: Disconnect) -> Option<Place> {
        let peer = holder(peer);
        let mut taken = self.lock();
        let of_peer = taken.peers.get(&peer).copied().unwrap_or(0);
        if of_peer >= self.max.div_ceil(2) {
            taken.make_room(|seat| seat.peer == peer)?;
        } else if taken.seats.len() >= self.max {
            // The peer that has most, unless the new one would have as many.
            let most = taken.peers.iter().max_by_key(|(_, count)| **count);
            let most = most.filter(|(_, count)| **count > of_peer + 1).map(|(peer, _)| *peer);
            let room = taken.make_room(|seat| Some(seat.peer) == most).or_else(|| taken.make_room(|_| true));
            if room.is_none() {
                taken.take_from(most?)?;
            }
        }
        let state = Arc::new(State {
            start: self.start,
            requests: Mutex::new(0),
            silent_since: AtomicU64::new(millis(self.start.elapsed())),
        });
        taken.next += 1;
        let number = taken.next;
        *taken.peers.entry(peer).or_default() += 1;
        taken.seats.insert(number, Seat { peer, state: Arc::clone(&state), disconnect });
        Some(Place { places: Arc::clone(self), number, state })
    }

    /// Ends the connection that has been silent longest, if there is one.
    pub(crate) fn make_room(&self) -> bool {
        self.lock().make_room(|_| true).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Ends the one of these connections that has been silent longest.
    fn make_room(&mut self, of: impl Fn(&Seat) -> bool) -> Option<()> {
        let silent = self.seats.iter().filter(|(_, seat)| of(seat)).filter_map(|(number, seat)| {
            let since = seat.state.silent_since.load(Relaxed);
            (since != BUSY).then_some((since, *number))
        });
        let (_, number) = silent.min()?;
        self.end(number);
        Some(())
    }

    /// Ends the newest of a peer's connections, whatever it does: the older ones were there first.
    fn take_from(&mut self, peer: IpAddr) -> Option<()> {
        let newest =
            self.seats.iter().filter(|(_, seat)| seat.peer == peer).map(|(number, _)| *number).max()?;
        self.end(newest);
        Some(())
    }

    fn end(&mut self, number: u64) {
        if let Some(seat) = self.leave(number) {
            tracing::debug!(peer = %seat.peer, "its connection makes room for another");
            seat.disconnect.now();
        }
    }

    fn leave(&mut self, number: u64) -> Option<Seat> {
        let seat = self.seats.remove(&number)?;
        if let Some(count) = self.peers.get_mut(&seat.peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&seat.peer);
            }
        }
        Some(seat)
    }
}

impl Place {
    pub(crate) fn request(&self) -> UnderWay {
        let mut requests = self.state.lock();
        *requests += 1;
        self.state.silent_since.store(BUSY, Relaxed);
        UnderWay(Arc::clone(&self.state))
    }

    /// Returns for how long nothing has been under way.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        let since = self.state.silent_since.load(Relaxed);
        (since != BUSY).then(|| self.state.start.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().leave(self.number);
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, u32> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut requests = self.0.lock();
        *requests -= 1;
        if *requests == 0 {
            self.0.silent_since.store(millis(self.0.start.elapsed()), Relaxed);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(BUSY - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn take(places: &Arc<Places>, last: u8) -> (Option<Place>, Disconnect) {
        let disconnect = Disconnect::default();
        (places.take(peer(last), disconnect.clone()), disconnect)
    }

    #[test]
    fn who_was_silent_longest_of_those_with_most_makes_room() {
        let places = Places::new(4);
        let taken: Vec<_> = [1, 1, 2, 3].into_iter().map(|last| take(&places, last)).collect();
        for (since, (place, _)) in taken.iter().enumerate() {
            let place = place.as_ref().expect("a place");
            place.state.silent_since.store(if since == 2 { 0 } else { since as u64 + 1 }, Relaxed);
        }
        assert!(take(&places, 4).0.is_some());
        let ended = || taken.iter().map(|(_, disconnect)| disconnect.is_now()).collect::<Vec<_>>();
        assert_eq!(ended(), [true, false, false, false]);
        // It has left, so that there is room when it is dropped; its place is another's already.
        assert_eq!(places.lock().seats.len(), 3, "the new one was dropped");
        let _new = [take(&places, 4).0.expect("free"), take(&places, 5).0.expect("made room")];
        assert_eq!(ended(), [true, false, true, false]);
    }

    #[test]
    fn one_peer_has_half_of_the_places_at_most() {
        let places = Places::new(4);
        let own: Vec<_> = (0..2).map(|_| take(&places, 1)).collect();
        let under_way = own[0].0.as_ref().expect("a place").request();
        let third = take(&places, 1);
        assert!(third.0.is_some() && own[1].1.is_now() && !own[0].1.is_now());
        let _busy = third.0.as_ref().expect("a place").request();
        assert!(take(&places, 1).0.is_none(), "both are at work");
        assert!(take(&places, 2).0.is_some());
        drop(under_way);
        assert!(own[0].0.as_ref().expect("a place").silent_for().is_some());
        assert!(take(&places, 1).0.is_some());
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_has_half_of_the_places_at_most() {
        let places = Places::new(4);
        let addresses =
            ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|text| text.parse().expect("valid"));
        let own = addresses.map(|address| {
            let place = places.take(address, Disconnect::default());
            place.map(|place| (place.request(), place))
        });
        assert_eq!(own.each_ref().map(Option::is_some), [true, true, false]);
    }

    #[test]
    fn who_has_most_gives_up_one_at_work_for_who_has_none() {
        let places = Places::new(4);
        let taken: Vec<_> = [1, 1, 2, 2].into_iter().map(|last| take(&places, last)).collect();
        let _busy: Vec<_> =
            taken.iter().map(|(place, _)| place.as_ref().expect("a place").request()).collect();
        let new = take(&places, 3);
        let _new = new.0.as_ref().expect("made room").request();
        assert_eq!(taken.iter().filter(|(_, disconnect)| disconnect.is_now()).count(), 1);
        assert!(take(&places, 3).0.is_none(), "it would have as many as others");
        drop(taken);
        assert_eq!(places.lock().peers.len(), 1);
    }
}
