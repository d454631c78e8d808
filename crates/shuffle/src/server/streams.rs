//! The streams that one connection has opened: which blocks it asked for, and how far it got. Kept flat; a block that
//! was asked for and not yet sent costs some 16 bytes.

use std::collections::HashMap;
use std::sync::Arc;

use bellows_transport::message::ChunkId;
use bellows_transport::rpc::FetchShuffleBlocks;

use super::places::{For, Place};
use crate::blocks::{BlockName, Moment};
use crate::registry::{App, Executor};
use crate::service::{CallError, parse_block};

/// One chunk's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Partitions `start..end` of a map output.
    Shuffle {
        shuffle: i32,
        map: i64,
        start: i32,
        end: i32,
    },
    Rdd {
        rdd: i32,
        split: i32,
    },
}

impl Chunk {
    /// Blocks as Spark counts them.
    pub(super) fn blocks(&self) -> u64 {
        match self {
            Chunk::Shuffle { start, end, .. } => {
                u64::try_from(i64::from(*end) - i64::from(*start)).unwrap_or(0)
            }
            Chunk::Rdd { .. } => 1,
        }
    }
}

/// The blocks of one stream, in order.
#[derive(Debug)]
pub(super) enum Wanted {
    Shuffle { shuffle: i32, maps: Vec<i64>, reduces: Vec<i32>, reduce_ends: Vec<u32>, batch: bool },
    Rdd(Vec<(i32, i32)>),
}

impl Wanted {
    pub(super) fn of_fetch(fetch: FetchShuffleBlocks) -> Wanted {
        let FetchShuffleBlocks { shuffle, maps, reduces, reduce_ends, batch, .. } = fetch;
        Wanted::Shuffle { shuffle, maps, reduces, reduce_ends, batch }
    }

    /// The old protocol names blocks one by one; all are of one shuffle, or all of RDDs.
    pub(super) fn of_names(names: &[String]) -> Result<Wanted, CallError> {
        let mixed = |name: &String| CallError::BadCall(format!("{name} is not like the blocks before it"));
        let Some(first) = names.first() else {
            return Err(CallError::BadCall("no blocks".to_owned()));
        };
        match parse_block(first)? {
            BlockName::Rdd { .. } => {
                let blocks = names.iter().map(|name| match parse_block(name)? {
                    BlockName::Rdd { rdd, split } => Ok((rdd, split)),
                    BlockName::Shuffle { .. } => Err(mixed(name)),
                });
                Ok(Wanted::Rdd(blocks.collect::<Result<_, _>>()?))
            }
            BlockName::Shuffle { shuffle, .. } => {
                let mut maps = Vec::with_capacity(names.len());
                let mut reduces = Vec::with_capacity(names.len());
                for name in names {
                    match parse_block(name)? {
                        BlockName::Shuffle { shuffle: same, map, reduce } if same == shuffle => {
                            maps.push(map);
                            reduces.push(reduce);
                        }
                        _ => return Err(mixed(name)),
                    }
                }
                let reduce_ends = (1..=u32::try_from(maps.len()).unwrap_or(u32::MAX)).collect();
                Ok(Wanted::Shuffle { shuffle, maps, reduces, reduce_ends, batch: false })
            }
        }
    }

    pub(super) fn chunks(&self) -> usize {
        match self {
            Wanted::Shuffle { maps, batch: true, .. } => maps.len(),
            Wanted::Shuffle { reduces, .. } => reduces.len(),
            Wanted::Rdd(blocks) => blocks.len(),
        }
    }

    /// On the heap.
    fn bytes(&self) -> usize {
        match self {
            Wanted::Shuffle { maps, reduces, reduce_ends, .. } => {
                maps.capacity() * 8 + (reduces.capacity() + reduce_ends.capacity()) * 4
            }
            Wanted::Rdd(blocks) => blocks.capacity() * 8,
        }
    }
}

/// A stream that is being read.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) app: Arc<App>,
    pub(super) executor: Arc<Executor>,
    asked: Moment,
    wanted: Wanted,
    next: usize,
    /// The map that the next chunk is of.
    map: usize,
}

impl Stream {
    pub(super) fn new(app: Arc<App>, executor: Arc<Executor>, asked: Moment, wanted: Wanted) -> Stream {
        Stream { app, executor, asked, wanted, next: 0, map: 0 }
    }

    /// Its memory.
    fn bytes(&self) -> usize {
        size_of::<(i64, Stream)>() + self.wanted.bytes()
    }

    fn take_next(&mut self) -> Option<Chunk> {
        let at = self.next;
        let chunk = match &self.wanted {
            Wanted::Rdd(blocks) => {
                let &(rdd, split) = blocks.get(at)?;
                Chunk::Rdd { rdd, split }
            }
            Wanted::Shuffle { shuffle, maps, reduces, batch: true, .. } => {
                let (&map, range) = (maps.get(at)?, reduces.get(2 * at..2 * at + 2)?);
                Chunk::Shuffle { shuffle: *shuffle, map, start: range[0], end: range[1] }
            }
            Wanted::Shuffle { shuffle, maps, reduces, reduce_ends, .. } => {
                let &reduce = reduces.get(at)?;
                while *reduce_ends.get(self.map)? as usize <= at {
                    self.map += 1;
                }
                let &map = maps.get(self.map)?;
                Chunk::Shuffle { shuffle: *shuffle, map, start: reduce, end: reduce.saturating_add(1) }
            }
        };
        self.next += 1;
        Some(chunk)
    }
}

/// What is to be sent next.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) app: Arc<App>,
    pub(super) executor: Arc<Executor>,
    /// When its stream was opened.
    pub(super) asked: Moment,
    pub(super) chunk: Chunk,
}

/// Why a chunk is not sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamError {
    /// Never opened here, or read to its end: the connection is to be closed, so that the client asks anew.
    Unknown,
    /// The text is for the client.
    OutOfOrder(String),
}

#[derive(Debug)]
pub(super) struct Streams {
    open: HashMap<i64, Stream>,
    next_id: i64,
    max: usize,
    bytes: usize,
}

/// Memory that one connection's streams may take.
const MAX_BYTES: usize = 32 << 20;

impl Streams {
    pub(super) fn new(max: usize) -> Streams {
        // Begins anywhere, so that an id of one connection means nothing on another.
        let next_id = i64::from(rand::random::<u32>() >> 1) * 1000;
        Streams { open: HashMap::new(), next_id, max, bytes: 0 }
    }

    /// Its id, and how many others lost their places for it. `place` has the room for all streams.
    pub(super) fn open(&mut self, stream: Stream, place: &mut Place) -> Result<(i64, usize), CallError> {
        let bytes = self.bytes + stream.bytes();
        if self.open.len() >= self.max || bytes > MAX_BYTES {
            return Err(CallError::RetryLater("too many streams are open on this connection".to_owned()));
        }
        let others_lost = place.grow_to(For::Streams, bytes)?;
        self.bytes = bytes;
        let id = self.next_id;
        self.next_id += 1;
        self.open.insert(id, stream);
        Ok((id, others_lost))
    }

    /// Chunks are taken in their order, each once.
    pub(super) fn take(&mut self, id: ChunkId, place: &mut Place) -> Result<Taken, StreamError> {
        let stream = self.open.get_mut(&id.stream).ok_or(StreamError::Unknown)?;
        if usize::try_from(id.chunk) != Ok(stream.next) {
            let expected = stream.next;
            return Err(StreamError::OutOfOrder(format!(
                "Received out-of-order chunk index {} (expected {expected})",
                id.chunk
            )));
        }
        let chunk = stream.take_next().ok_or(StreamError::Unknown)?;
        let (app, executor, asked) = (stream.app.clone(), stream.executor.clone(), stream.asked);
        if stream.next == stream.wanted.chunks() {
            self.bytes -= stream.bytes();
            place.shrink_to(For::Streams, self.bytes);
            self.open.remove(&id.stream);
        }
        Ok(Taken { app, executor, asked, chunk })
    }
}

/// The chunk that a stream request's name means: `STREAM_CHUNK`.
pub(super) fn parse_stream_name(name: &str) -> Option<ChunkId> {
    let (stream, chunk) = name.split_once('_')?;
    Some(ChunkId { stream: stream.parse().ok()?, chunk: chunk.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{BlockFiles, LocalDirs};
    use crate::registry::Registry;
    use crate::server::places::Places;

    fn stream(wanted: Wanted) -> Stream {
        let registry = Registry::new(1, 1);
        let dirs = LocalDirs::unseen(&["/nonexistent/blockmgr-1".to_owned()], 64);
        registry.insert("a", "1", dirs).expect("free");
        let app = registry.app("a").expect("known");
        let executor = app.executor("1").expect("known");
        Stream::new(app, executor, BlockFiles::new(0, 0).now(), wanted)
    }

    fn place(places: &Arc<Places>) -> Place {
        let place = places.take().0.expect("a place");
        assert!(place.busy());
        place
    }

    fn read_all(wanted: Wanted) -> Vec<Chunk> {
        let (mut streams, mut place) = (Streams::new(2), place(&Places::new(1, [0, 0])));
        let count = wanted.chunks();
        let (stream, _) = streams.open(stream(wanted), &mut place).expect("room");
        let chunks = (0..count).map(|chunk| {
            let id = ChunkId { stream, chunk: chunk as i32 };
            streams.take(id, &mut place).expect("in order").chunk
        });
        let chunks = chunks.collect();
        let after = streams.take(ChunkId { stream, chunk: count as i32 }, &mut place).map(|_| ());
        assert_eq!(after, Err(StreamError::Unknown), "closed with its last chunk");
        assert_eq!((streams.bytes, streams.open.len()), (0, 0));
        chunks
    }

    fn fetch(batch: bool, reduces: &[i32], reduce_ends: &[u32]) -> Wanted {
        let (maps, shuffle) = (vec![10, 20, 30], 5);
        Wanted::Shuffle { shuffle, maps, reduces: reduces.to_vec(), reduce_ends: reduce_ends.to_vec(), batch }
    }

    fn block(map: i64, start: i32, end: i32) -> Chunk {
        Chunk::Shuffle { shuffle: 5, map, start, end }
    }

    #[test]
    fn chunks_come_in_the_order_asked_for() {
        let single = read_all(fetch(false, &[1, 2, 7], &[2, 2, 3]));
        assert_eq!(single, [block(10, 1, 2), block(10, 2, 3), block(30, 7, 8)]);
        let batch = read_all(fetch(true, &[0, 4, 4, 9, 1, 2], &[2, 4, 6]));
        assert_eq!(batch, [block(10, 0, 4), block(20, 4, 9), block(30, 1, 2)]);
        let names = ["shuffle_5_10_1", "shuffle_5_30_2"].map(str::to_owned);
        assert_eq!(read_all(Wanted::of_names(&names).expect("sound")), [block(10, 1, 2), block(30, 2, 3)]);
        let names = ["rdd_1_2", "rdd_1_3"].map(str::to_owned);
        let rdds = [Chunk::Rdd { rdd: 1, split: 2 }, Chunk::Rdd { rdd: 1, split: 3 }];
        assert_eq!(read_all(Wanted::of_names(&names).expect("sound")), rdds);
    }

    #[test]
    fn names_that_do_not_go_together_are_refused() {
        for names in
            [&[][..], &["broadcast_1"], &["shuffle_1_1_1", "shuffle_2_1_1"], &["rdd_1_1", "shuffle_1_1_1"]]
        {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            assert!(Wanted::of_names(&names).is_err(), "{names:?}");
        }
    }

    #[test]
    fn out_of_order_and_too_many_are_refused() {
        let (mut streams, mut place) = (Streams::new(1), place(&Places::new(1, [0, 0])));
        let (id, _) = streams.open(stream(fetch(false, &[1, 2], &[1, 2, 2])), &mut place).expect("room");
        assert!(streams.open(stream(fetch(false, &[1], &[1, 1, 1])), &mut place).is_err());
        let mut take = |stream, chunk| {
            let taken = streams.take(ChunkId { stream, chunk }, &mut place);
            taken.map(|taken| taken.chunk)
        };
        for chunk in [1, -1] {
            let refused = take(id, chunk);
            assert!(matches!(refused, Err(StreamError::OutOfOrder(_))), "{refused:?}");
        }
        assert_eq!(take(id + 1, 0), Err(StreamError::Unknown));
        assert_eq!(take(id, 0), Ok(block(10, 1, 2)));
    }

    fn of_bytes(bytes: usize) -> Stream {
        stream(Wanted::Rdd(vec![(1, 2); bytes / 8]))
    }

    #[test]
    fn one_connection_opens_no_more_than_its_bound() {
        let places = Places::new(2, [2 * MAX_BYTES, 0]);
        let (mut streams, mut own, mut other) = (Streams::new(10), place(&places), place(&places));
        streams.open(of_bytes(MAX_BYTES / 2), &mut own).expect("room");
        let refused = streams.open(of_bytes(MAX_BYTES / 2), &mut own);
        let refused = refused.expect_err("its content is not all that a stream is");
        assert!(matches!(refused, CallError::RetryLater(_)));
        other.grow_to(For::Streams, MAX_BYTES).expect("what was refused takes nothing");
    }

    #[test]
    fn what_is_open_on_all_connections_together_is_bounded_and_is_free_when_it_was_read() {
        let places = Places::new(3, [1 << 20, 0]);
        let (mut one, mut its) = (Streams::new(1000), place(&places));
        let (mut other, mut others) = (Streams::new(1000), place(&places));
        let (large, lost) = one.open(of_bytes(900 << 10), &mut its).expect("room");
        assert_eq!(lost, 0);
        let refused = other.open(of_bytes(900 << 10), &mut others).expect_err("the other's");
        assert!(matches!(refused, CallError::RetryLater(_)));
        // What most ask for has room in any case, and many small ones together are a large one.
        let small = || stream(Wanted::Rdd(vec![(1, 2)]));
        let few = (0..).take_while(|_| other.open(small(), &mut others).is_ok()).count();
        assert!((300..1000).contains(&few), "{few}");
        for chunk in 0..(900 << 10) / 8 {
            one.take(ChunkId { stream: large, chunk }, &mut its).expect("in order");
        }
        other.open(of_bytes(900 << 10), &mut others).expect("room again");
        drop(others);
        its.grow_to(For::Streams, 1 << 20).expect("all of it");
        // Who opened and reads no further gives way.
        its.silent();
        let (mut third, mut place) = (Streams::new(1), place(&places));
        let (_, lost) = third.open(of_bytes(900 << 10), &mut place).expect("made room");
        assert!(lost == 1 && !its.busy());
    }
}
