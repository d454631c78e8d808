//! What must hold for any input: decoding ends, takes no more memory than it was given bytes for, and reverses encoding.

use bellows_transport::frame::{Decoded, FrameDecoder, FrameError};
use bellows_transport::message::{ChunkId, Message};
use bellows_transport::rpc::{ExecutorInfo, FetchShuffleBlocks, Rpc};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

const LIMIT: usize = 4096;

fn body() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn chunk_id() -> impl Strategy<Value = ChunkId> {
    (any::<i64>(), any::<i32>()).prop_map(|(stream, chunk)| ChunkId { stream, chunk })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        chunk_id().prop_map(Message::ChunkFetchRequest),
        (chunk_id(), body()).prop_map(|(id, body)| Message::ChunkFetchSuccess { id, body }),
        (chunk_id(), ".{0,40}").prop_map(|(id, error)| Message::ChunkFetchFailure { id, error }),
        (any::<i64>(), body()).prop_map(|(request, body)| Message::RpcRequest { request, body }),
        (any::<i64>(), body()).prop_map(|(request, body)| Message::RpcResponse { request, body }),
        (any::<i64>(), ".{0,40}").prop_map(|(request, error)| Message::RpcFailure { request, error }),
        ".{0,40}".prop_map(|stream| Message::StreamRequest { stream }),
        body().prop_map(|body| Message::OneWay { body }),
    ]
}

fn fetch() -> impl Strategy<Value = Rpc> {
    (vec((any::<i64>(), vec(any::<i32>(), 0..5)), 0..20), any::<i32>()).prop_map(|(per_map, shuffle)| {
        let mut fetch = FetchShuffleBlocks {
            app: "a".into(),
            executor: "e".into(),
            shuffle,
            maps: Vec::new(),
            reduces: Vec::new(),
            reduce_ends: Vec::new(),
            batch: false,
        };
        for (map, mut reduces) in per_map {
            fetch.maps.push(map);
            fetch.reduces.append(&mut reduces);
            fetch.reduce_ends.push(fetch.reduces.len() as u32);
        }
        fetch.batch = !fetch.maps.is_empty() && fetch.reduces_per_map().all(|ids| ids.len() == 2);
        Rpc::FetchShuffleBlocks(fetch)
    })
}

fn rpc() -> impl Strategy<Value = Rpc> {
    let strings = || vec(".{0,20}", 0..6);
    prop_oneof![
        (".{0,20}", ".{0,20}", strings()).prop_map(|(app, executor, blocks)| Rpc::OpenBlocks {
            app,
            executor,
            blocks
        }),
        (".{0,20}", ".{0,20}", strings(), any::<i32>()).prop_map(|(app, executor, local_dirs, subs)| {
            let info =
                ExecutorInfo { local_dirs, sub_dirs_per_local_dir: subs, shuffle_manager: "sort".into() };
            Rpc::RegisterExecutor { app, executor, info }
        }),
        fetch(),
        (".{0,20}", any::<i64>())
            .prop_map(|(app, heartbeat_timeout_ms)| Rpc::RegisterDriver { app, heartbeat_timeout_ms }),
        vec((".{0,20}", strings()), 0..5).prop_map(|executors| Rpc::LocalDirs { executors }),
    ]
}

/// Feeds `input` in pieces of the given sizes and returns what came out.
fn decode_in_pieces(input: &[u8], pieces: &[usize]) -> Result<Vec<Message>, FrameError> {
    let mut decoder = FrameDecoder::new(LIMIT);
    let (mut buffer, mut out, mut at) = (BytesMut::new(), Vec::new(), 0);
    let mut sizes = pieces.iter().cycle();
    while at < input.len() {
        let end = (at + sizes.next().copied().unwrap_or(1).max(1)).min(input.len());
        buffer.extend_from_slice(&input[at..end]);
        at = end;
        while let Decoded::Message(message) = decoder.decode(&mut buffer)? {
            out.push(message);
        }
    }
    Ok(out)
}

proptest! {
    #[test]
    fn messages_survive_any_fragmentation(
        messages in vec(message(), 1..8),
        pieces in vec(1usize..64, 1..8),
    ) {
        let mut wire = BytesMut::new();
        messages.iter().for_each(|m| m.encode(&mut wire));
        prop_assert_eq!(decode_in_pieces(&wire, &pieces), Ok(messages));
    }

    #[test]
    fn calls_survive(call in rpc()) {
        prop_assert_eq!(Rpc::decode(call.encode()), Ok(call));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(input in vec(any::<u8>(), 0..300), pieces in vec(1usize..64, 1..4)) {
        let _ = decode_in_pieces(&input, &pieces);
        let _ = Message::decode(Bytes::from(input.clone()));
        let _ = Rpc::decode(Bytes::from(input));
    }

    /// Random bytes seldom get far; a damaged call does.
    #[test]
    fn damaged_calls_are_calls_or_errors(call in rpc(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = call.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Rpc::decode(Bytes::from(bytes.clone()));
        bytes.truncate(at);
        prop_assert!(Rpc::decode(Bytes::from(bytes)) != Ok(call));
    }

    #[test]
    fn what_is_passed_over_is_not_decoded(skipped in 0usize..500, pieces in vec(1usize..64, 1..4), next in message()) {
        let mut wire = BytesMut::zeroed(skipped);
        next.encode(&mut wire);
        let mut decoder = FrameDecoder::new(LIMIT);
        decoder.skip(skipped as u64);
        let (mut buffer, mut got, mut at) = (BytesMut::new(), None, 0);
        let mut sizes = pieces.iter().cycle();
        while got.is_none() {
            let end = (at + sizes.next().expect("cycles")).min(wire.len());
            buffer.extend_from_slice(&wire[at..end]);
            at = end;
            if let Ok(Decoded::Message(message)) = decoder.decode(&mut buffer) {
                got = Some(message);
            }
        }
        prop_assert_eq!(got, Some(next));
    }
}

#[test]
fn counts_larger_than_the_message_are_refused_before_anything_is_reserved() {
    // OpenBlocks of application "a", executor "b", with 2^31-1 block ids in no bytes at all.
    let mut bytes = vec![0, 0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'];
    bytes.extend_from_slice(&i32::MAX.to_be_bytes());
    assert!(Rpc::decode(Bytes::from(bytes.clone())).is_err());
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&(-1i32).to_be_bytes());
    assert!(Rpc::decode(Bytes::from(bytes)).is_err());
}

#[test]
fn directories_of_no_executor_are_refused() {
    let executors = vec![("7".to_owned(), vec!["/a".to_owned()]), ("8".to_owned(), vec!["/b".to_owned()])];
    let mut bytes = Rpc::LocalDirs { executors }.encode().to_vec();
    // The second count, behind the type, two ids, the number of counts and the first count.
    let at = 1 + 4 + 2 * (4 + 1) + 4 + 4;
    bytes[at..at + 4].copy_from_slice(&0i32.to_be_bytes());
    assert!(Rpc::decode(Bytes::from(bytes)).is_err());
}

#[test]
fn frames_over_the_limit_are_refused_at_their_length() {
    for length in [u64::MAX, i64::MAX as u64, 8 + LIMIT as u64 + 1] {
        let mut input = BytesMut::from(&length.to_be_bytes()[..]);
        let refused = FrameDecoder::new(LIMIT).decode(&mut input);
        assert_eq!(refused, Err(FrameError::TooLarge { bytes: length - 8, limit: LIMIT }));
    }
    for length in [0u64, 7, 8] {
        let mut input = BytesMut::from(&length.to_be_bytes()[..]);
        assert_eq!(FrameDecoder::new(LIMIT).decode(&mut input), Err(FrameError::Empty));
    }
}
