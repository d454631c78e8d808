//! Bytes written by the classes of Spark 3.5.9 (`data/spark-3.5.9.txt`) mean what they should, and we write the same.

use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::{ChunkId, Message, put_chunk_header};
use bellows_transport::rpc::{CorruptionCause, ExecutorInfo, FetchShuffleBlocks, Rpc};
use bytes::{Bytes, BytesMut};

fn spark(kind: &str, name: &str) -> Bytes {
    let line = include_str!("data/spark-3.5.9.txt")
        .lines()
        .find(|line| line.starts_with(&format!("{kind} {name} ")))
        .unwrap_or_else(|| panic!("no bytes for {kind} {name}"));
    let hex = line.rsplit(' ').next().expect("a line has three words");
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&t| text(t)).collect()
}

fn fetch(reduces: &[i32], ends: &[u32], batch: bool) -> Rpc {
    Rpc::FetchShuffleBlocks(FetchShuffleBlocks {
        app: text("app-1"),
        executor: text("7"),
        shuffle: 2,
        maps: vec![10, 20],
        reduces: reduces.to_vec(),
        reduce_ends: ends.to_vec(),
        batch,
    })
}

#[test]
fn calls() {
    let (app, executor) = (|| text("app-1"), || text("7"));
    let info = ExecutorInfo {
        local_dirs: texts(&["/a/blockmgr-1", "/b/blockmgr-2"]),
        sub_dirs_per_local_dir: 64,
        shuffle_manager: text("org.apache.spark.shuffle.sort.SortShuffleManager"),
    };
    let blocks = texts(&["shuffle_0_1_2", "shuffle_0_3_4"]);
    let calls = [
        ("OpenBlocks", Rpc::OpenBlocks { app: app(), executor: executor(), blocks }),
        ("RegisterExecutor", Rpc::RegisterExecutor { app: app(), executor: executor(), info }),
        ("StreamHandle", Rpc::StreamHandle { stream: 12345678901, chunks: 3 }),
        ("RegisterDriver", Rpc::RegisterDriver { app: app(), heartbeat_timeout_ms: 120_000 }),
        ("Heartbeat", Rpc::Heartbeat { app: app() }),
        ("RemoveBlocks", Rpc::RemoveBlocks { app: app(), executor: executor(), blocks: texts(&["rdd_1_2"]) }),
        ("BlocksRemoved", Rpc::BlocksRemoved { count: 5 }),
        ("FetchShuffleBlocks", fetch(&[0, 1, 2, 5], &[3, 4], false)),
        ("FetchShuffleBlocksBatch", fetch(&[0, 3, 5, 9], &[2, 4], true)),
        ("GetLocalDirs", Rpc::GetLocalDirs { app: app(), executors: texts(&["7", "8"]) }),
        (
            "LocalDirs",
            Rpc::LocalDirs {
                executors: vec![(text("7"), texts(&["/a", "/b"])), (text("8"), texts(&["/c"]))],
            },
        ),
        (
            "DiagnoseCorruption",
            Rpc::DiagnoseCorruption {
                app: app(),
                executor: executor(),
                shuffle: 1,
                map: 2,
                reduce: 3,
                checksum: 0xdead_beef,
                algorithm: text("ADLER32"),
            },
        ),
        ("CorruptionCause", Rpc::CorruptionCause(CorruptionCause::ChecksumVerifyPass)),
    ];
    for (name, call) in calls {
        assert_eq!(Rpc::decode(spark("rpc", name)).as_ref(), Ok(&call), "{name}");
        assert_eq!(call.encode(), spark("rpc", name), "{name}");
    }
}

#[test]
fn calls_that_are_refused_are_known_by_name() {
    for name in [
        "FetchShuffleBlockChunks",
        "PushBlockStream",
        "FinalizeShuffleMerge",
        "RemoveShuffleMerge",
        "UploadBlock",
    ] {
        assert_eq!(Rpc::decode(spark("rpc", name)), Ok(Rpc::Unsupported(name)));
    }
}

#[test]
fn messages() {
    let id = ChunkId { stream: 12345678901, chunk: 2 };
    let (request, stream, body_bytes) = (42, || text("12_0"), 5);
    let messages = [
        ("ChunkFetchRequest", Message::ChunkFetchRequest(id)),
        ("ChunkFetchSuccess", Message::ChunkFetchSuccess { id, body: Bytes::from_static(b"block") }),
        ("ChunkFetchFailure", Message::ChunkFetchFailure { id, error: text("gone") }),
        ("RpcRequest", Message::RpcRequest { request, body: Bytes::from_static(b"call") }),
        ("RpcResponse", Message::RpcResponse { request, body: Bytes::from_static(b"answer") }),
        ("RpcFailure", Message::RpcFailure { request, error: text("no") }),
        ("StreamRequest", Message::StreamRequest { stream: stream() }),
        ("StreamResponse", Message::StreamResponse { stream: stream(), body_bytes }),
        ("StreamFailure", Message::StreamFailure { stream: stream(), error: text("gone") }),
        ("OneWay", Message::OneWay { body: Bytes::from_static(b"call") }),
        ("UploadStream", Message::UploadStream { request, meta: Bytes::from_static(b"meta"), body_bytes }),
        (
            "MergedBlockMetaRequest",
            Message::MergedBlockMetaRequest { request, app: text("app-1"), shuffle: 1, merge: 2, reduce: 3 },
        ),
    ];
    for (name, message) in messages {
        let mut input = BytesMut::from(&spark("message", name)[..]);
        assert_eq!(
            FrameDecoder::new(1024).decode(&mut input),
            Ok(Decoded::Message(message.clone())),
            "{name}"
        );
        assert!(input.is_empty(), "{name}");
        let mut out = BytesMut::new();
        message.encode(&mut out);
        assert_eq!(out.freeze(), spark("message", name), "{name}");
    }
}

#[test]
fn a_chunk_header_is_the_front_of_a_chunk() {
    let mut out = BytesMut::new();
    put_chunk_header(&mut out, ChunkId { stream: 12345678901, chunk: 2 }, 5);
    out.extend_from_slice(b"block");
    assert_eq!(out.freeze(), spark("message", "ChunkFetchSuccess"));
}
