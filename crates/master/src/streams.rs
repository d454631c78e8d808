//! Open streams of one kind, by the peers that have them: one address cannot take all places.
use bellows_runtime::{Disconnect, holder, outbox::Outbox};
use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::IpAddr,
};

/// As many streams there may be in any case: what two HTTP/2 connections carry.
const FEWEST: usize = 128;

/// One peer's stream: what waits for it, and how to get rid of it.
#[derive(Debug)]
pub(crate) struct Stream<T> {
    pub(crate) outbox: Outbox<T>,
    pub(crate) disconnect: Disconnect,
    peer: IpAddr,
    /// A message was dropped before, and the operator told.
    has_dropped: bool,
}

/// No place is left for a stream of this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoPlace;

/// All streams of one kind.
#[derive(Debug)]
pub(crate) struct Streams<K, T> {
    max: usize,
    next: u64,
    open: HashMap<K, (u64, Stream<T>)>,
    /// Each peer's, the newest last.
    peers: HashMap<IpAddr, BTreeMap<u64, K>>,
}

impl<T> Stream<T> {
    pub(crate) fn new(outbox: Outbox<T>, peer: IpAddr, disconnect: Disconnect) -> Self {
        Self { outbox, disconnect, peer: holder(peer), has_dropped: false }
    }

    /// Puts a message between a framework and an executor on the stream if it is not half full. Messages are
    /// unreliable, and whoever sends many must not have their reader cut off.
    pub(crate) fn push_message(&mut self, item: T, bytes: usize) {
        if self.outbox.push_unreliable(item, bytes).is_err() && !self.has_dropped {
            self.has_dropped = true;
            tracing::warn!(peer = %self.peer, "does not read its messages as they come: some are dropped");
        }
    }
}

impl<K: Clone + Eq + Hash, T> Streams<K, T> {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(FEWEST), next: 0, open: HashMap::new(), peers: HashMap::new() }
    }

    /// Opens a stream. When all places are taken, the peer that has most loses its newest, whose key is returned.
    pub(crate) fn open(&mut self, key: K, stream: Stream<T>) -> Result<Option<K>, NoPlace> {
        let own = self.peers.get(&stream.peer).map_or(0, BTreeMap::len);
        if own >= self.max / 2 {
            return Err(NoPlace);
        }
        let mut ended = None;
        if self.open.len() >= self.max {
            let greatest = self.peers.values().max_by_key(|of_peer| of_peer.len()).ok_or(NoPlace)?;
            let newest = greatest.last_key_value().filter(|_| greatest.len() > own + 1).ok_or(NoPlace)?;
            ended = Some(newest.1.clone());
        }
        if let Some(stream) = ended.as_ref().and_then(|key| self.remove(key)) {
            tracing::warn!(peer = %stream.peer, "has most streams; its newest makes room for another peer's");
            stream.disconnect.now();
        }
        self.next += 1;
        self.peers.entry(stream.peer).or_default().insert(self.next, key.clone());
        self.open.insert(key, (self.next, stream));
        Ok(ended)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut Stream<T>> {
        self.open.get_mut(key).map(|(_, stream)| stream)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<Stream<T>> {
        let (number, stream) = self.open.remove(key)?;
        if let Some(of_peer) = self.peers.get_mut(&stream.peer) {
            of_peer.remove(&number);
            if of_peer.is_empty() {
                self.peers.remove(&stream.peer);
            }
        }
        Some(stream)
    }

    /// Removes those that `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Stream<T>) -> bool) {
        let ended = self.open.iter().filter(|(_, (_, stream))| !keep(stream)).map(|(key, _)| key.clone());
        for key in ended.collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellows_model::StreamId;
    use bellows_runtime::outbox::outbox;

    #[test]
    fn one_peer_has_half_of_the_streams_and_gives_up_its_newest_for_others() {
        let mut streams = Streams::<StreamId, ()>::new(FEWEST);
        let mut disconnects = HashMap::new();
        let mut open = |streams: &mut Streams<_, _>, last: u8, number: usize| {
            let (key, disconnect) = (StreamId::from(format!("{last}-{number}")), Disconnect::default());
            disconnects.insert(key.clone(), disconnect.clone());
            let stream = Stream::new(outbox(1, None).0, [10, 0, 0, last].into(), disconnect);
            streams.open(key, stream).map(|ended| {
                ended.inspect(|key| assert!(disconnects[key].is_now())).map(|key| key.as_str().to_owned())
            })
        };
        let half = FEWEST / 2;
        for number in 0..half {
            assert_eq!(open(&mut streams, 1, number), Ok(None));
        }
        assert_eq!(open(&mut streams, 1, half), Err(NoPlace));
        for number in 0..half {
            assert_eq!(open(&mut streams, 2, number), Ok(None));
        }
        assert_eq!(open(&mut streams, 2, half), Err(NoPlace));
        let ended = open(&mut streams, 3, 0).expect("a place").expect("one made room");
        assert!(ended.ends_with(&format!("-{}", half - 1)), "{ended}");
        assert_eq!(streams.len(), FEWEST);
        streams.retain(|_| false);
        assert!(streams.peers.is_empty());
    }
}
