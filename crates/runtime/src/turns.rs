//! Turns for work that takes long: few at once, and all peers have theirs in rotation, however much one of them asks for.

use crate::peers::holder;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hands out turns.
#[derive(Debug)]
pub struct Turns {
    all: Arc<Semaphore>,
    /// How many turns one peer has at the same time.
    of_one: usize,
    /// How many of one peer may wait or work.
    max_of_one: usize,
    peers: Mutex<HashMap<IpAddr, OfPeer>>,
}

#[derive(Debug)]
struct OfPeer {
    /// Those that wait or work.
    under_way: usize,
    turns: Arc<Semaphore>,
}

/// A piece of work that is under way, until it is dropped.
#[derive(Debug)]
pub struct Queued {
    turns: Arc<Turns>,
    peer: IpAddr,
    of_peer: Arc<Semaphore>,
}

/// The right to work, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// Lets `at_once` work at the same time, and `max_of_one` of one peer address wait or work.
    pub fn new(at_once: usize, max_of_one: usize) -> Arc<Self> {
        // One is left for others. Whoever waits for that one stands in one queue with one of each other peer.
        let of_one = at_once.saturating_sub(1).max(1);
        let all = Arc::new(Semaphore::new(at_once));
        Arc::new(Self { all, of_one, max_of_one, peers: Mutex::default() })
    }

    /// Counts one more piece of work of `peer`; `None` when too many of it are under way.
    pub fn queue(self: &Arc<Self>, peer: IpAddr) -> Option<Queued> {
        let peer = holder(peer);
        let mut peers = self.lock();
        let new = || OfPeer { under_way: 0, turns: Arc::new(Semaphore::new(self.of_one)) };
        let of_peer = peers.entry(peer).or_insert_with(new);
        if of_peer.under_way >= self.max_of_one {
            return None;
        }
        of_peer.under_way += 1;
        Some(Queued { turns: Arc::clone(self), peer, of_peer: Arc::clone(&of_peer.turns) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, OfPeer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queued {
    /// Waits for a turn.
    pub async fn turn(&self) -> Turn {
        let of_peer = Arc::clone(&self.of_peer).acquire_owned().await;
        let of_all = Arc::clone(&self.turns.all).acquire_owned().await;
        let never_closed = "invariant: these semaphores are never closed";
        Turn { _of_peer: of_peer.expect(never_closed), _of_all: of_all.expect(never_closed) }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut peers = self.turns.lock();
        if let Some(of_peer) = peers.get_mut(&self.peer) {
            of_peer.under_way -= 1;
            if of_peer.under_way == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    #[tokio::test]
    async fn one_peer_that_asks_for_much_delays_nobody_else() {
        let peer = |last| IpAddr::from([10, 0, 0, last]);
        let turns = Turns::new(2, 3);
        let greedy: Vec<_> = (0..3).map(|_| turns.queue(peer(1)).expect("a place")).collect();
        assert!(turns.queue(peer(1)).is_none(), "too many are under way");
        let _works = greedy[0].turn().await;
        let is_ready =
            |queued: &Queued| pin!(queued.turn()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!is_ready(&greedy[1]));
        let modest = turns.queue(peer(2)).expect("a place");
        assert!(is_ready(&modest), "one is left for it");
        drop((greedy, modest));
        assert!(turns.lock().is_empty());
    }
}
