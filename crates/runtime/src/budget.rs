//! Memory that all connections of a server share: requests that arrive, what they are decoded to, and answers and events
//! that are not read. Nobody waits for it: where it is used up, who has most of it is disconnected.

use crate::{Disconnect, peers::holder};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Age after which a share may be evicted for another of its address.
const STALE: Duration = Duration::from_secs(1);

/// A budget of bytes, and who holds them.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total_bytes: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    next: u64,
    peers: HashMap<IpAddr, usize>,
    /// Those that have something.
    shares: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    peer: IpAddr,
    bytes: usize,
    /// When some of it was last given back, or read.
    moved: Instant,
    disconnect: Disconnect,
}

/// One request's or stream's part, given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    budget: MemoryBudget,
    number: u64,
    peer: IpAddr,
    disconnect: Disconnect,
}

impl MemoryBudget {
    /// One peer address may have half of it.
    pub fn new(total_bytes: usize) -> Self {
        Self(Arc::new(Inner { total_bytes, taken: Mutex::default() }))
    }

    /// Opens a share of nothing. `disconnect` ends the peer's connection when others need the memory more.
    pub fn share(&self, peer: IpAddr, disconnect: Disconnect) -> Share {
        let mut taken = self.lock();
        taken.next += 1;
        Share { budget: self.clone(), number: taken.next, peer: holder(peer), disconnect }
    }

    /// Returns how much all have.
    pub fn taken_bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes so much more. `false`: there is not so much, or this peer has too much already.
    #[must_use]
    pub fn grow(&self, bytes: usize) -> bool {
        let total = self.budget.0.total_bytes;
        let mut taken = self.budget.lock();
        if bytes > total / 2 || !taken.make_room(total, bytes, self) {
            return false;
        }
        taken.bytes += bytes;
        *taken.peers.entry(self.peer).or_default() += bytes;
        let new =
            || Held { peer: self.peer, bytes: 0, moved: Instant::now(), disconnect: self.disconnect.clone() };
        taken.shares.entry(self.number).or_insert_with(new).bytes += bytes;
        true
    }

    /// The peer that it is charged to.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether it can grow so much without taking anything from others.
    pub fn has_room(&self, bytes: usize) -> bool {
        let total = self.budget.0.total_bytes;
        let taken = self.budget.lock();
        let own = taken.peers.get(&self.peer).copied().unwrap_or(0);
        own + bytes <= total / 2 && taken.bytes + bytes <= total
    }

    /// Makes it hold exactly `bytes`.
    #[must_use]
    pub fn resize(&self, bytes: usize) -> bool {
        let before = self.budget.lock().shares.get(&self.number).map_or(0, |held| held.bytes);
        if bytes > before {
            return self.grow(bytes - before);
        }
        self.shrink(before - bytes);
        true
    }

    /// Notes that its peer goes on reading.
    pub fn moves(&self) {
        if let Some(held) = self.budget.lock().shares.get_mut(&self.number) {
            held.moved = Instant::now();
        }
    }

    /// Gives so much back.
    pub fn shrink(&self, bytes: usize) {
        self.budget.lock().give_back(self.number, bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.lock().give_back(self.number, usize::MAX);
    }
}

impl Taken {
    /// Disconnects those that have not moved for longest until there is room: of the same peer where that would have
    /// more than half, else of the one that has most.
    fn make_room(&mut self, total: usize, bytes: usize, share: &Share) -> bool {
        loop {
            let own = self.peers.get(&share.peer).copied().unwrap_or(0);
            let greatest =
                self.peers.iter().max_by_key(|(_, bytes)| **bytes).map(|(peer, bytes)| (*peer, *bytes));
            let victim = if own + bytes > total / 2 {
                share.peer
            } else if self.bytes + bytes <= total {
                return true;
            } else {
                greatest.filter(|(_, its)| *its > own + bytes).map_or(share.peer, |(peer, _)| peer)
            };
            let shares = self.shares.iter().filter(|(number, held)| {
                held.peer == victim
                    && **number != share.number
                    && (victim != share.peer || held.moved.elapsed() > STALE)
            });
            let Some(number) = shares.min_by_key(|(_, held)| held.moved).map(|(number, _)| *number) else {
                return false;
            };
            let held = &self.shares[&number];
            tracing::warn!(peer = %victim, bytes = held.bytes, "holds memory that others need: disconnected");
            held.disconnect.now();
            self.give_back(number, usize::MAX);
        }
    }

    /// Gives bytes back; does nothing for a share that was evicted, which has given all back already.
    fn give_back(&mut self, number: u64, bytes: usize) {
        let Some(held) = self.shares.get_mut(&number) else { return };
        let (peer, bytes) = (held.peer, bytes.min(held.bytes));
        held.bytes -= bytes;
        held.moved = Instant::now();
        if held.bytes == 0 {
            self.shares.remove(&number);
        }
        self.bytes -= bytes;
        if let Some(of_peer) = self.peers.get_mut(&peer) {
            *of_peer -= bytes;
            if *of_peer == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_peer_has_half_at_most_and_all_get_back_what_is_given_up() {
        let budget = MemoryBudget::new(100);
        let [a, b] = [1, 1].map(|last| budget.share(peer(last), Disconnect::default()));
        assert!(a.grow(30) && b.grow(20) && !b.grow(1));
        a.shrink(10);
        assert!(b.grow(10) && !b.grow(1));
        drop(b);
        assert_eq!(budget.taken_bytes(), 20);
        drop(a);
        assert_eq!(budget.taken_bytes(), 0);
        assert!(budget.lock().peers.is_empty() && budget.lock().shares.is_empty());
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_has_half_at_most() {
        let budget = MemoryBudget::new(100);
        let [one, other] = ["2001:db8::1", "2001:db8::2"]
            .map(|address| budget.share(address.parse().expect("an address"), Disconnect::default()));
        assert!(one.grow(40) && !other.grow(40) && other.grow(10));
    }

    /// A share of so many bytes that has not moved for so many seconds.
    fn held(budget: &MemoryBudget, last: u8, bytes: usize, since_s: u64) -> (Share, Disconnect) {
        let disconnect = Disconnect::default();
        let share = budget.share(peer(last), disconnect.clone());
        assert!(share.grow(bytes));
        let then =
            Instant::now().checked_sub(Duration::from_secs(since_s)).expect("the machine runs for longer");
        budget.lock().shares.get_mut(&share.number).expect("held").moved = then;
        (share, disconnect)
    }

    #[test]
    fn who_does_not_move_is_disconnected_for_others() {
        let budget = MemoryBudget::new(100);
        let shares = [held(&budget, 1, 10, 20), held(&budget, 1, 39, 30), held(&budget, 2, 48, 40)];
        let modest = budget.share(peer(3), Disconnect::default());
        assert!(modest.grow(10));
        let gone =
            |shares: &[(Share, Disconnect)]| shares.iter().map(|(_, gone)| gone.is_now()).collect::<Vec<_>>();
        assert_eq!(gone(&shares), [false, true, false], "of the one that has most");
        assert_eq!(budget.taken_bytes(), 10 + 48 + 10);
        assert!(!modest.grow(41), "more than half");
        assert!(modest.grow(33));
        assert_eq!(gone(&shares), [false, true, true]);
        drop(shares);
        assert_eq!(budget.taken_bytes(), 43);
    }

    #[test]
    fn a_peer_that_has_its_half_loses_what_does_not_move() {
        let budget = MemoryBudget::new(100);
        let shares = [held(&budget, 1, 20, 30), held(&budget, 1, 30, 0)];
        let new = budget.share(peer(1), Disconnect::default());
        assert!(new.grow(20) && shares[0].1.is_now() && !shares[1].1.is_now());
        assert!(!new.grow(20), "the other one moves");
        assert!(new.resize(5) && new.resize(20) && !new.resize(21));
    }
}
