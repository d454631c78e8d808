//! Blocks come back as they were written, whichever way they are asked for, and errors say what Spark understands.

mod support;

use bellows_transport::message::{ChunkId, Message};
use bellows_transport::rpc::{CorruptionCause, Rpc};
use bytes::Bytes;
use support::{Bench, Client, exists};

/// Empty, copied, and sent from the page cache, below and above each threshold.
const LENGTHS: [usize; 8] = [0, 1, 1000, 32 << 10, (32 << 10) + 1, 200_000, 1 << 20, (3 << 20) + 17];

fn all_reduces() -> Vec<i32> {
    (0..LENGTHS.len() as i32).collect()
}

#[tokio::test]
async fn every_protocol_gives_the_same_bytes() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let first = executor.map_output(0, 11, &LENGTHS);
    let second = executor.map_output(0, 1 << 40, &LENGTHS);
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;

    let reduces = all_reduces();
    let blocks = [(11, &reduces[..]), (1 << 40, &reduces[..])];
    let single = client.fetch(&executor.fetch(0, &blocks, false)).await.expect("blocks");
    let expected: Vec<Bytes> = first.iter().chain(&second).cloned().map(Bytes::from).collect();
    assert!(single == expected);

    let ranges: [(i64, &[i32]); 3] = [(11, &[1, 4]), (11, &[0, 8]), (1 << 40, &[3, 3])];
    let batch = client.fetch(&executor.fetch(0, &ranges, true)).await.expect("blocks");
    assert!(batch == [Bytes::from(first[1..4].concat()), first.concat().into(), Bytes::new()]);

    let old =
        client.fetch(&executor.open(&["shuffle_0_11_2", "shuffle_0_1099511627776_6"])).await.expect("blocks");
    assert!(old == [Bytes::from(first[2].clone()), second[6].clone().into()]);

    // What one would fetch to disk: the same chunks, asked for as streams.
    let (stream, _) = client.open(&executor.fetch(0, &blocks[..1], false)).await;
    for (chunk, expected) in first.iter().enumerate() {
        let name = format!("{stream}_{chunk}");
        client.send(&[Message::StreamRequest { stream: name.clone() }]).await;
        let body_bytes = expected.len() as u64;
        assert_eq!(client.receive().await, Some(Message::StreamResponse { stream: name, body_bytes }));
        assert!(client.bytes(expected.len()).await == *expected);
    }

    let status = service.status();
    let app = &status.applications["app"];
    let bytes: usize = LENGTHS.iter().sum();
    let others = first[1..4].concat().len() + first[2].len() + second[6].len();
    assert_eq!(app.bytes_served, (bytes * 2 + bytes + bytes + others) as u64);
    assert_eq!((app.executors, app.departed_bytes_served, status.chunks_in_flight), (1, 0, 0));
    service.stop().await;
}

#[tokio::test]
async fn cached_rdd_blocks_are_served_and_removed() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    let path = executor.write("rdd_3_4", b"cached");
    let rdd = executor.open(&["rdd_3_4"]);
    assert_eq!(client.fetch(&rdd).await, Ok(vec![Bytes::from_static(b"cached")]));
    let blocks = ["rdd_3_4", "rdd_9_9", "../x", ""].map(str::to_owned).to_vec();
    let remove = Rpc::RemoveBlocks { app: "app".into(), executor: "1".into(), blocks };
    assert_eq!(client.call(&remove).await, Ok(Some(Rpc::BlocksRemoved { count: 1 })));
    assert!(!exists(&path));
    assert!(client.fetch(&rdd).await.is_err());
    service.stop().await;
}

#[tokio::test]
async fn a_removed_map_output_is_not_served_from_what_was_open() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    executor.map_output(0, 1, &[10]);
    let fetch = executor.fetch(0, &[(1, &[0])], false);
    assert!(client.fetch(&fetch).await.is_ok());
    let blocks = ["shuffle_0_1_0.data", "shuffle_0_1_0.index"].map(str::to_owned).to_vec();
    let remove = Rpc::RemoveBlocks { app: "app".into(), executor: "1".into(), blocks };
    assert_eq!(client.call(&remove).await, Ok(Some(Rpc::BlocksRemoved { count: 2 })));
    assert!(client.fetch(&fetch).await.is_err());
    // Written anew under the same names, as a second attempt would.
    let again = executor.map_output(0, 1, &[20]);
    assert!(client.fetch(&fetch).await == Ok(vec![again[0].clone().into()]));
    std::fs::remove_file(executor.path("shuffle_0_1_0.data")).expect("there");
    let third = executor.map_output(0, 1, &[30]);
    assert!(client.fetch(&fetch).await == Ok(vec![third[0].clone().into()]));
    service.stop().await;
}

#[tokio::test]
async fn directories_are_told_as_they_were_registered() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    let ask = |ids: &[&str]| {
        let executors = ids.iter().map(|&id| id.to_owned()).collect();
        Rpc::GetLocalDirs { app: "app".into(), executors }
    };
    let told = executor.dirs.iter().map(|d| d.to_str().expect("UTF-8").to_owned()).collect();
    let expected = Rpc::LocalDirs { executors: vec![("1".to_owned(), told)] };
    assert_eq!(client.call(&ask(&["1"])).await, Ok(Some(expected)));
    let error = client.call(&ask(&["1", "2"])).await.expect_err("unknown");
    assert!(error.contains("Executor is not registered (appId=app, execId=2)"), "{error}");
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_there_fails_the_chunk_and_only_that() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let blocks = executor.map_output(0, 1, &[5, 5]);
    executor.map_output(0, 2, &[5]);
    executor.write("shuffle_0_2_0.index", b"no index");
    executor.map_output(0, 3, &[5]);
    executor.write("shuffle_0_3_0.data", b"abc");
    let mut client = Client::connect(&service).await;
    let not_registered = client.call(&executor.fetch(0, &[(1, &[0])], false)).await.expect_err("unknown");
    assert!(not_registered.contains("Executor is not registered (appId=app, execId=1)"), "{not_registered}");
    client.register(&executor).await;
    for (map, reduce, reason) in [
        (9, 0, "does not exist"),
        (2, 0, "not a sound index"),
        (3, 0, "not a sound index"),
        (1, 2, "partitions"),
    ] {
        let error = client.fetch(&executor.fetch(0, &[(map, &[reduce])], false)).await.expect_err(reason);
        assert!(error.contains(reason), "{error}");
    }
    for call in [executor.open(&["broadcast_1"]), executor.open(&[]), executor.fetch(0, &[], false)] {
        assert!(client.call(&call).await.is_err(), "{call:?}");
    }
    assert!(
        client.fetch(&executor.fetch(0, &[(1, &[1])], false)).await == Ok(vec![blocks[1].clone().into()])
    );
    let errors = service.status().errors;
    assert_eq!((errors["block_missing"], errors["bad_index"], errors["not_registered"]), (2, 2, 1));
    service.stop().await;
}

#[tokio::test]
async fn chunks_are_read_in_order_and_an_unknown_stream_closes_the_connection() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    executor.map_output(0, 1, &[5, 5]);
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    let (stream, _) = client.open(&executor.fetch(0, &[(1, &[0, 1])], false)).await;
    let id = ChunkId { stream, chunk: 1 };
    client.send(&[Message::ChunkFetchRequest(id)]).await;
    assert!(matches!(client.receive().await, Some(Message::ChunkFetchFailure { .. })));
    // A stream belongs to the connection that opened it.
    let mut other = Client::connect(&service).await;
    other.send(&[Message::ChunkFetchRequest(ChunkId { stream, chunk: 0 })]).await;
    assert_eq!(other.receive().await, None);
    service.stop().await;
}

#[tokio::test]
async fn what_push_based_shuffle_asks_is_refused_and_the_connection_goes_on() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let mut client = Client::connect(&service).await;
    client
        .send(&[
            Message::MergedBlockMetaRequest {
                request: 77,
                app: "app".into(),
                shuffle: 0,
                merge: 0,
                reduce: 0,
            },
            Message::UploadStream { request: 78, meta: Bytes::from_static(&[12]), body_bytes: 100_000 },
        ])
        .await;
    for expected in [77, 78] {
        match client.receive().await {
            Some(Message::RpcFailure { request, error }) => {
                assert_eq!(request, expected);
                assert!(error.starts_with("java.lang.UnsupportedOperationException"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    use tokio::io::AsyncWriteExt;
    client.socket.write_all(&vec![0xff; 100_000]).await.expect("takes the upload's body");
    client.register(&executor).await;
    service.stop().await;
}

#[tokio::test]
async fn corruption_is_traced_to_its_place() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    executor.map_output(0, 1, &[0, 9]);
    // Adler-32, CRC-32 and CRC-32C of "123456789", the usual check values.
    let (adler, crc, crc32c) = (0x091e_01de_i64, 0xcbf4_3926_i64, 0xe306_9283_i64);
    executor.write("shuffle_0_1_0.data", b"123456789");
    let sums = |second: i64| [1i64.to_be_bytes(), second.to_be_bytes()].concat();
    executor.write("shuffle_0_1_0.checksum.ADLER32", &sums(adler));
    executor.write("shuffle_0_1_0.checksum.CRC32", &sums(crc));
    executor.write("shuffle_0_1_0.checksum.CRC32C", &sums(crc32c));
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    let ask = |reduce, checksum, algorithm: &str| Rpc::DiagnoseCorruption {
        app: "app".into(),
        executor: "1".into(),
        shuffle: 0,
        map: 1,
        reduce,
        checksum,
        algorithm: algorithm.into(),
    };
    for (call, cause) in [
        (ask(1, adler, "ADLER32"), CorruptionCause::ChecksumVerifyPass),
        (ask(1, crc, "CRC32"), CorruptionCause::ChecksumVerifyPass),
        (ask(1, crc32c, "CRC32C"), CorruptionCause::ChecksumVerifyPass),
        (ask(0, 1, "ADLER32"), CorruptionCause::ChecksumVerifyPass),
        (ask(1, 5, "ADLER32"), CorruptionCause::NetworkIssue),
        (ask(0, 5, "CRC32"), CorruptionCause::DiskIssue),
        (ask(1, crc, "MD5"), CorruptionCause::UnsupportedChecksumAlgorithm),
        (ask(7, crc, "CRC32"), CorruptionCause::UnknownIssue),
    ] {
        assert_eq!(client.call(&call).await, Ok(Some(Rpc::CorruptionCause(cause))), "{call:?}");
    }
    service.stop().await;
}

#[test]
fn blocks_are_served_where_newer_system_calls_are_refused() {
    bellows_testkit::on_older_machines(|| {
        every_protocol_gives_the_same_bytes();
        cached_rdd_blocks_are_served_and_removed();
        a_removed_map_output_is_not_served_from_what_was_open();
        what_is_not_there_fails_the_chunk_and_only_that();
    });
}
