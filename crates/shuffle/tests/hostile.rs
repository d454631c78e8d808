//! Peers that send nonsense, too much, or nothing; none of them is felt by the others.

mod support;

use std::time::Duration;

use bellows_transport::message::{ChunkId, Message};
use bellows_transport::rpc::Rpc;
use bytes::Bytes;
use support::{Bench, Client, TestExecutor, eventually};
use tokio::io::AsyncWriteExt;

const LARGE: usize = 64 << 20;

async fn assert_serves(client: &mut Client, executor: &TestExecutor) {
    let expected = support::block_bytes(&executor.id, 0, 1, 0, 1000);
    let blocks = client.fetch(&executor.fetch(0, &[(1, &[0])], false)).await;
    assert!(blocks == Ok(vec![Bytes::from(expected)]));
}

async fn scene(bench: &Bench) -> (bellows_shuffle::Running, Client, TestExecutor) {
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    executor.map_output(0, 1, &[1000, LARGE]);
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    (service, client, executor)
}

fn errors(service: &bellows_shuffle::Running, kind: &str) -> u64 {
    service.status().errors.get(kind).copied().unwrap_or(0)
}

#[tokio::test]
async fn nonsense_closes_its_connection_only() {
    let bench = Bench::new();
    let (service, mut good, executor) = scene(&bench).await;
    let noise = support::block_bytes("noise", 1, 2, 3, 4096);
    let huge_frame = [&u64::MAX.to_be_bytes()[..], b"\x03"].concat();
    let an_answer = {
        let mut out = bytes::BytesMut::new();
        Message::RpcResponse { request: 1, body: Bytes::new() }.encode(&mut out);
        out.to_vec()
    };
    let unknown_type = [&9u64.to_be_bytes()[..], b"\x63"].concat();
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let sent = [noise, huge_frame, an_answer, unknown_type, http];
    for bytes in &sent {
        let mut bad = Client::connect(&service).await;
        // The service may close before all is written.
        let _ = bad.socket.write_all(bytes).await;
        assert_eq!(bad.receive().await, None);
        assert_serves(&mut good, &executor).await;
    }
    assert_eq!(errors(&service, "bad_message"), sent.len() as u64);
    service.stop().await;
}

#[tokio::test]
async fn a_call_that_is_none_is_answered_with_a_failure() {
    let bench = Bench::new();
    let (service, mut client, executor) = scene(&bench).await;
    for body in [&b""[..], b"\xff", b"\x00\x00\x00\x00\x01", b"\x03\0\0\0\0\0\0\0\0\0\0\0\0", b"\x0c1234"] {
        client.send(&[Message::RpcRequest { request: 5, body: Bytes::copy_from_slice(body) }]).await;
        assert!(matches!(client.receive().await, Some(Message::RpcFailure { request: 5, .. })), "{body:?}");
        client.send(&[Message::OneWay { body: Bytes::copy_from_slice(body) }]).await;
    }
    assert_serves(&mut client, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn an_id_that_is_none_is_not_told_on() {
    let bench = Bench::new();
    let (service, mut client, executor) = scene(&bench).await;
    for id in ["x".repeat(100_000), "app\nforged".to_owned(), String::new()] {
        let named = |app: &str, executor: &str| TestExecutor {
            app: app.to_owned(),
            id: executor.to_owned(),
            dirs: vec![bench.disk().join("blockmgr-x")],
        };
        let (of_app, of_executor) = (named(&id, "1"), named("app", &id));
        for call in [
            of_app.register(),
            of_app.fetch(0, &[(1, &[0])], false),
            of_executor.register(),
            of_executor.open(&["shuffle_0_1_0"]),
            Rpc::Heartbeat { app: id.clone() },
            Rpc::GetLocalDirs { app: "app".into(), executors: vec!["1".into(), id.clone()] },
        ] {
            let refused = client.call(&call).await.expect_err("no id");
            assert!(refused.contains("application and executor ids have") && refused.len() < 200);
        }
    }
    // What else a peer may name comes back cut.
    let refused = client.call(&executor.open(&[&"x".repeat(1 << 20)])).await.expect_err("no block");
    assert!(refused.contains("Unexpected block id format: xxx") && refused.len() < 5000);
    assert_serves(&mut client, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn a_flood_of_connections_that_do_nothing_keeps_nobody_out() {
    let mut bench = Bench::new();
    bench.config.limits.connections = 4;
    let (service, good, executor) = scene(&bench).await;
    drop(good);
    let mut driver = Client::connect(&service).await;
    let promise = Rpc::RegisterDriver { app: "app".into(), heartbeat_timeout_ms: 600_000 };
    assert_eq!(driver.call(&promise).await, Ok(None));
    let mut reader = start_large(&service, &executor).await;

    let mut flood = Vec::new();
    for _ in 0..20 {
        flood.push(Client::connect(&service).await);
    }
    let newcomer = bench.executor("app", "2");
    Client::connect(&service).await.register(&newcomer).await;
    assert_serves(&mut Client::connect(&service).await, &executor).await;
    assert!(errors(&service, "limit") >= 18);
    assert!(service.status().open_connections <= 4);
    // Who has something to do was not cut, nor the one that would not come back.
    let Some(Message::ChunkFetchSuccess { body, .. }) = reader.receive().await else { panic!("was cut") };
    assert_eq!(body.len(), LARGE);
    assert_eq!(driver.call(&Rpc::Heartbeat { app: "app".into() }).await, Ok(None));
    service.stop().await;
}

#[tokio::test]
async fn drivers_that_register_keep_nobody_out() {
    for heartbeat_cleanup in [true, false] {
        let mut bench = Bench::new();
        bench.config.limits.connections = 10;
        bench.config.heartbeat_cleanup = heartbeat_cleanup;
        let service = bench.start().await;
        let mut drivers = Vec::new();
        for at in 0..10 {
            let mut driver = Client::connect(&service).await;
            let (app, heartbeat_timeout_ms) = (format!("app-{at}"), i64::MAX);
            assert_eq!(driver.call(&Rpc::RegisterDriver { app, heartbeat_timeout_ms }).await, Ok(None));
            drivers.push(driver);
        }
        let executor = bench.executor("app", "1");
        executor.map_output(0, 1, &[1000]);
        Client::connect(&service).await.register(&executor).await;
        for _ in 0..10 {
            assert_serves(&mut Client::connect(&service).await, &executor).await;
        }
        let heartbeat = Rpc::Heartbeat { app: "app-0".into() };
        let kept = if heartbeat_cleanup { Some(Ok(None)) } else { None };
        assert_eq!(drivers[0].try_call(&heartbeat).await, kept);
        service.stop().await;
    }
}

#[tokio::test]
async fn where_all_have_something_to_do_one_more_is_closed() {
    let mut bench = Bench::new();
    bench.config.limits.connections = 2;
    let (service, mut first, executor) = scene(&bench).await;
    let readers = [start_large(&service, &executor).await, {
        drop(first);
        eventually("its place is free", async || (service.status().open_connections == 1).then_some(()))
            .await;
        start_large(&service, &executor).await
    }];
    assert_eq!(Client::connect(&service).await.receive().await, None);
    drop(readers);
    eventually("there is room again", async || (service.status().open_connections == 0).then_some(())).await;
    first = Client::connect(&service).await;
    assert_serves(&mut first, &executor).await;
    service.stop().await;
}

/// Asks for the large block and reads nothing of it; returns when it is being sent.
async fn start_large(service: &bellows_shuffle::Running, executor: &TestExecutor) -> Client {
    let before = service.status().chunks_in_flight;
    let mut client = Client::connect(service).await;
    let (stream, _) = client.open(&executor.fetch(0, &[(1, &[1])], false)).await;
    client.send(&[Message::ChunkFetchRequest(ChunkId { stream, chunk: 0 })]).await;
    eventually("it is being sent", async || (service.status().chunks_in_flight > before).then_some(())).await;
    client
}

#[tokio::test]
async fn a_request_that_only_trickles_is_given_up() {
    let mut bench = Bench::new();
    // Longer than a busy machine keeps a peer waiting that does as it should.
    bench.config.limits.stalled_after = Duration::from_secs(2);
    let (service, mut good, executor) = scene(&bench).await;
    let mut slow = Client::connect(&service).await;
    let mut frame = bytes::BytesMut::new();
    Message::RpcRequest { request: 1, body: vec![0; 10_000].into() }.encode(&mut frame);
    let mut sent = 0;
    for byte in &frame {
        if slow.socket.write_all(std::slice::from_ref(byte)).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sent < frame.len(), "all was taken");
    assert_eq!(errors(&service, "stalled"), 1);
    // Many requests, each soon whole, may come without a pause between them.
    let fetch = executor.fetch(0, &[(1, &[0])], false);
    let mut pipelined = bytes::BytesMut::new();
    for request in 0..100 {
        Message::RpcRequest { request, body: fetch.encode() }.encode(&mut pipelined);
    }
    let part = pipelined.len() / 30 + 1;
    for piece in pipelined.chunks(part) {
        good.socket.write_all(piece).await.expect("taken");
        tokio::time::sleep(Duration::from_millis(90)).await;
    }
    for _ in 0..100 {
        assert!(matches!(good.receive().await, Some(Message::RpcResponse { .. })));
    }
    service.stop().await;
}

#[tokio::test]
async fn a_reader_that_stalls_is_cut_and_holds_nobody() {
    let mut bench = Bench::new();
    bench.config.limits.stalled_after = Duration::from_millis(300);
    let (service, mut good, executor) = scene(&bench).await;
    for as_stream in [false, true] {
        let before = errors(&service, "stalled");
        let mut slow = Client::connect(&service).await;
        let (stream, _) = slow.open(&executor.fetch(0, &[(1, &[1])], false)).await;
        let request = match as_stream {
            true => Message::StreamRequest { stream: format!("{stream}_0") },
            false => Message::ChunkFetchRequest(ChunkId { stream, chunk: 0 }),
        };
        slow.send(&[request]).await;
        assert_serves(&mut good, &executor).await;
        eventually("the slow reader is cut", async || (errors(&service, "stalled") > before).then_some(()))
            .await;
    }
    eventually("its connection is closed", async || (service.status().open_connections == 1).then_some(()))
        .await;
    assert_eq!(service.status().chunks_in_flight, 0);
    assert_serves(&mut good, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn a_message_that_is_never_finished_is_given_up() {
    let mut bench = Bench::new();
    bench.config.limits.stalled_after = Duration::from_millis(100);
    let (service, mut good, executor) = scene(&bench).await;
    let mut half = Client::connect(&service).await;
    half.socket.write_all(&[0, 0, 0, 0, 0, 0, 0, 21, 0, 1]).await.expect("writes");
    assert_eq!(half.receive().await, None);
    // Saying nothing between messages is allowed: `good` said nothing all the while.
    assert_serves(&mut good, &executor).await;
    service.stop().await;
}

/// The answers to a few KiB of calls would take tens of MiB.
#[tokio::test]
async fn answers_to_one_that_never_reads_do_not_pile_up() {
    let bench = Bench::new();
    let (service, mut good, executor) = scene(&bench).await;
    let many = bench.executor_with_long_dirs("app", "2", 64);
    good.register(&many).await;
    let ask = Rpc::GetLocalDirs { app: "app".into(), executors: vec!["2".into()] }.encode();
    let mut calls = bytes::BytesMut::new();
    let sent = 400;
    for request in 0..sent {
        Message::RpcRequest { request, body: ask.clone() }.encode(&mut calls);
    }
    assert!(calls.len() < 16 << 10, "arrive at once");
    let handled = service.status().latency.requests;
    let mut greedy = Client::connect(&service).await;
    greedy.socket.write_all(&calls).await.expect("taken");
    greedy.socket.readable().await.expect("an answer");
    // Now and for as long as nothing is read the sockets' buffers hold what was answered, and all else waits.
    let answered = service.status().latency.requests - handled;
    assert!(answered < sent as u64 / 2, "{answered} answers were made before one was sent");
    assert_serves(&mut good, &executor).await;
    for request in 0..sent {
        let answer = greedy.receive().await;
        assert!(matches!(answer, Some(Message::RpcResponse { request: to, .. }) if to == request));
    }
    service.stop().await;
}

#[tokio::test]
async fn an_answer_is_no_longer_for_an_id_that_is_named_often_and_has_a_bound() {
    let mut bench = Bench::new();
    bench.config.limits.request_bytes = 150 << 10;
    let (service, mut client, executor) = scene(&bench).await;
    let executors = ["2", "3", "4"].map(|id| bench.executor_with_long_dirs("app", id, 64));
    for executor in &executors {
        client.register(executor).await;
    }
    let ask = |executors: Vec<String>| Rpc::GetLocalDirs { app: "app".into(), executors };
    let Ok(Some(Rpc::LocalDirs { executors: told })) = client.call(&ask(vec!["2".into(); 12_000])).await
    else {
        panic!("not told");
    };
    assert!(told.len() == 1 && told[0].1.len() == 64);
    let ids = executors.iter().map(|executor| executor.id.clone()).collect();
    let refused = client.call(&ask(ids)).await.map(|_| ()).expect_err("too long");
    assert!(refused.contains("3 executors are too many at once"), "{refused}");
    assert_serves(&mut client, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn streams_that_are_opened_and_not_read_are_bounded() {
    let mut bench = Bench::new();
    bench.config.limits.streams_per_connection = 3;
    let (service, mut client, executor) = scene(&bench).await;
    let fetch = executor.fetch(0, &[(1, &[0])], false);
    for _ in 0..3 {
        client.open(&fetch).await;
    }
    // Closed, not answered: Spark tries again, and what it is told would be final.
    assert_eq!(client.try_call(&fetch).await, None);
    assert_eq!(errors(&service, "limit"), 1);
    assert_serves(&mut Client::connect(&service).await, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn open_streams_share_a_bounded_memory() {
    let mut bench = Bench::new();
    bench.config.limits.open_streams_bytes = 512 << 10;
    let (service, mut client, executor) = scene(&bench).await;
    // Its first block is so large that it is not taken at once; the whole takes 400 KiB.
    let mut blocks = [0; 100_000];
    blocks[0] = 1;
    let many = executor.fetch(0, &[(1, &blocks)], false);
    let (stream, _) = client.open(&many).await;
    client.send(&[Message::ChunkFetchRequest(ChunkId { stream, chunk: 0 })]).await;
    eventually("it is being sent", async || (service.status().chunks_in_flight == 1).then_some(())).await;
    assert_eq!(Client::connect(&service).await.try_call(&many).await, None);
    assert_eq!(errors(&service, "limit"), 1);
    assert_serves(&mut Client::connect(&service).await, &executor).await;
    let Some(Message::ChunkFetchSuccess { body, .. }) = client.receive().await else { panic!("was cut") };
    assert_eq!(body.len(), LARGE);
    drop(client);
    eventually("there is room again", async || {
        Client::connect(&service).await.try_call(&many).await.is_some().then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn streams_that_are_opened_and_left_keep_nobody_out() {
    let mut bench = Bench::new();
    bench.config.limits.open_streams_bytes = 320 << 10;
    let (service, mut idle, executor) = scene(&bench).await;
    let mut driver = Client::connect(&service).await;
    let promise = Rpc::RegisterDriver { app: "app".into(), heartbeat_timeout_ms: 600_000 };
    assert_eq!(driver.call(&promise).await, Ok(None));
    // 79 KiB: there is room for four.
    let many = executor.fetch(0, &[(1, &[0; 20_000])], false);
    let mut holders = Vec::new();
    for _ in 0..8 {
        let mut holder = Client::connect(&service).await;
        // That each is its application's driver, too, does not help it.
        let promise = Rpc::RegisterDriver { app: "other".into(), heartbeat_timeout_ms: 600_000 };
        assert_eq!(holder.call(&promise).await, Ok(None));
        holder.open(&many).await;
        holders.push(holder);
    }
    assert_eq!(errors(&service, "limit"), 4);
    let mut client = Client::connect(&service).await;
    let (stream, chunks) = client.open(&many).await;
    assert_eq!((chunks, errors(&service, "limit")), (20_000, 5));
    let expected = support::block_bytes(&executor.id, 0, 1, 0, 1000);
    for chunk in 0..chunks {
        let id = ChunkId { stream, chunk };
        client.send(&[Message::ChunkFetchRequest(id)]).await;
        let answer = client.receive().await;
        assert!(matches!(answer, Some(Message::ChunkFetchSuccess { body, .. }) if body == expected));
    }
    let heartbeat = Rpc::Heartbeat { app: "app".into() };
    for holder in &mut holders[..5] {
        assert_eq!(holder.try_call(&heartbeat).await, None);
    }
    // Who has opened nothing stays, however long it was silent, and so do the last.
    for good in holders[5..].iter_mut().chain([&mut idle, &mut driver]) {
        assert_eq!(good.call(&heartbeat).await, Ok(None));
    }
    assert_serves(&mut holders[7], &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn a_flood_of_registrations_ends_at_the_bound_and_others_are_served() {
    let mut bench = Bench::new();
    bench.config.limits.executors = 50;
    bench.config.limits.applications = 3;
    let (service, good, executor) = scene(&bench).await;
    drop(good);
    let mut flood = Client::connect(&service).await;
    let mut refused = 0;
    for i in 0..80 {
        let executor = bench.executor("flood", &i.to_string());
        refused += u32::from(flood.call(&executor.register()).await.is_err());
    }
    assert_eq!((refused, errors(&service, "limit")), (31, 31));
    assert_eq!(service.status().registered_executors, 50);
    // Drivers that come and go, however many, and whatever they promise.
    for app in 0..20 {
        let driver = Rpc::RegisterDriver { app: format!("driver-{app}"), heartbeat_timeout_ms: i64::MAX };
        let mut client = Client::connect(&service).await;
        eventually("there is room", async || client.call(&driver).await.is_ok().then_some(())).await;
    }
    assert_eq!(service.status().applications.len(), 3);
    bench.config.limits.executors_per_application = 2;
    bench.config.limits.executors = 100;
    service.stop().await;
    let service = bench.start().await;
    let mut flood = Client::connect(&service).await;
    let refused = flood.call(&bench.executor("flood", "new").register()).await.expect_err("has its share");
    assert!(refused.contains("executors of this application"), "{refused}");
    let mut good = Client::connect(&service).await;
    assert_serves(&mut good, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn large_requests_share_a_bounded_memory_and_who_sends_no_further_makes_room() {
    let mut bench = Bench::new();
    bench.config.limits.large_requests_bytes = 8 << 20;
    let (service, mut good, executor) = scene(&bench).await;
    let mut frame = bytes::BytesMut::new();
    Message::RpcRequest { request: 9, body: vec![0; 1 << 20].into() }.encode(&mut frame);
    // Each sends all but the end of its request. The first may have to make room for the last already.
    let mut silent = Vec::new();
    for _ in 0..9 {
        let mut client = Client::connect(&service).await;
        client.socket.write_all(&frame[..frame.len() - 10]).await.expect("writes");
        silent.push(client);
    }
    eventually("one made room", async || (errors(&service, "limit") >= 1).then_some(())).await;
    for _ in 0..9 {
        let mut other = Client::connect(&service).await;
        other.socket.write_all(&frame).await.expect("writes");
        assert!(matches!(other.receive().await, Some(Message::RpcFailure { request: 9, .. })));
    }
    assert_serves(&mut good, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn a_large_request_that_is_only_announced_keeps_nobody_out() {
    let mut bench = Bench::new();
    bench.config.limits.large_requests_bytes = 1 << 20;
    let (service, mut good, executor) = scene(&bench).await;
    let mut large = bytes::BytesMut::new();
    Message::RpcRequest { request: 9, body: vec![0; 800 << 10].into() }.encode(&mut large);
    let mut flood = Vec::new();
    for _ in 0..16 {
        let mut client = Client::connect(&service).await;
        let mut sent = bytes::BytesMut::new();
        let body = Rpc::Heartbeat { app: "app".into() }.encode();
        Message::RpcRequest { request: 1, body }.encode(&mut sent);
        sent.extend_from_slice(&large[..1000]);
        client.socket.write_all(&sent).await.expect("taken");
        // Once the first is answered the announcement of the second was read.
        assert!(matches!(client.receive().await, Some(Message::RpcResponse { request: 1, .. })));
        flood.push(client);
    }
    good.socket.write_all(&large).await.expect("taken");
    assert!(matches!(good.receive().await, Some(Message::RpcFailure { request: 9, .. })));
    assert_serves(&mut good, &executor).await;
    service.stop().await;
}

#[tokio::test]
async fn a_list_of_empty_names_counts_as_what_it_takes_in_memory() {
    let mut bench = Bench::new();
    bench.config.limits.large_requests_bytes = 1 << 20;
    let (service, mut client, executor) = scene(&bench).await;
    let remove = |count| Rpc::RemoveBlocks {
        app: "app".into(),
        executor: "1".into(),
        blocks: vec![String::new(); count],
    };
    assert_eq!(client.call(&remove(5_000)).await, Ok(Some(Rpc::BlocksRemoved { count: 0 })));
    // In the message these take 200 KB.
    assert_eq!(client.try_call(&remove(50_000)).await, None);
    assert_eq!(errors(&service, "limit"), 1);
    assert_serves(&mut Client::connect(&service).await, &executor).await;
    service.stop().await;
}
