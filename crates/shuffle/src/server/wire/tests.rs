//! Peers that are slow, over real sockets. The kernel would hide it behind megabytes of buffers, were they not made small.

use std::io::Write as _;

use bellows_transport::auth::{
    AuthPolicy, ClientAuth, ClientStep, EngineVersion, Method, SecretStore, ServerAuth, Step, StreamCipher,
};
use bellows_transport::message::Message;
use bytes::Bytes;
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::blocks::{Look, dir_on_disk, evict};

async fn connected(segment_bytes: u32) -> (TcpStream, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let reader = TcpSocket::new_v4().expect("socket");
    SockRef::from(&reader).set_tcp_mss(segment_bytes).expect("socket");
    reader.set_recv_buffer_size(16 << 10).expect("socket");
    let reader = reader.connect(listener.local_addr().expect("bound")).await.expect("connects");
    let (socket, _) = listener.accept().await.expect("accepts");
    SockRef::from(&socket).set_send_buffer_size(16 << 10).expect("socket");
    (reader, Socket::Plain(socket))
}

fn wire(socket: Socket, room: usize, stalled_after: Duration) -> Wire {
    let disks = Arc::new(Disks::new(Vec::new(), Duration::MAX));
    Wire::new(socket, disks, Arc::new(Semaphore::new(room)), stalled_after)
}

fn source(file: &tempfile::NamedTempFile) -> Arc<Source> {
    Arc::new(Source::open(file.path().canonicalize().expect("exists"), None, Look::Disk).expect("opens"))
}

/// A client's and a server's, after the exchange and a first message.
fn ciphers(cipher: StreamCipher) -> (SessionCipher, SessionCipher) {
    let secrets = Arc::new(SecretStore::one_for_all("s3cret".to_owned()));
    let mut server = ServerAuth::new(secrets, AuthPolicy::default());
    let method = Method::Engine(EngineVersion::V2, cipher);
    let (mut client, call) = ClientAuth::new("app", "s3cret".to_owned(), method);
    let Ok(Step::Established { reply, cipher: Some(mut theirs), .. }) = server.receive(call) else {
        panic!("not let in")
    };
    let Ok(ClientStep::Established(Some(mut ours))) = client.receive(reply) else { panic!("not genuine") };
    let (mut call, mut sealed, mut plain) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    Message::RpcRequest { request: 1, body: Bytes::from_static(b"call") }.encode(&mut call);
    ours.encryptor.seal(&call, &mut sealed);
    theirs.open(&mut sealed, &mut plain).expect("genuine");
    (*ours, *theirs)
}

#[tokio::test]
async fn a_reader_that_takes_too_little_for_too_long_is_given_up() {
    let file = tempfile::NamedTempFile::new().expect("file");
    file.as_file().set_len(16 << 20).expect("a hole");
    let segment = Segment { source: source(&file), offset: 0, bytes: 16 << 20 };
    let (reader, socket) = connected(536).await;
    let trickle = tokio::spawn(async move {
        let mut some = [0; 1 << 10];
        loop {
            reader.readable().await.expect("open");
            match reader.try_read(&mut some) {
                Ok(0) => return,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    let mut wire = wire(socket, 0, Duration::from_secs(1));
    wire.out.push(segment);
    let Err(Unsent::Socket(given_up)) = wire.flush().await else { panic!("not given up") };
    assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
    drop(wire);
    trickle.abort();
}

#[tokio::test]
async fn encrypted_blocks_come_whole_however_little_is_taken_at_a_time() {
    let bytes: Vec<u8> = (0..700_001u32).map(|at| (at ^ at >> 9) as u8).collect();
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(&bytes).expect("writes");
    let segment = Segment { source: source(&file), offset: 7, bytes: bytes.len() as u64 - 7 };
    for cipher in [StreamCipher::AesCtr, StreamCipher::AesGcm] {
        // With room for whole bursts, and without.
        for room in [BURST_BYTES as usize / 1024, 0] {
            let (mut reader, socket) = connected(16 << 10).await;
            let (mut client, server) = ciphers(cipher);
            let mut wire = wire(socket, room, Duration::from_secs(60));
            wire.encrypt(server).expect("nothing came yet");
            let send = async {
                for _ in 0..2 {
                    wire.out.bytes.extend_from_slice(b"head");
                    wire.out.push(segment.clone());
                }
                wire.flush().await.expect("taken");
                assert!(wire.out.is_empty() && wire.queue.available_permits() == room);
            };
            let receive = async {
                let (mut sealed, mut plain) = (BytesMut::new(), BytesMut::new());
                let block = [b"head", &bytes[7..]].concat();
                while plain.len() < 2 * block.len() {
                    assert!(reader.read_buf(&mut sealed).await.expect("open") > 0);
                    client.open(&mut sealed, &mut plain).expect("genuine");
                }
                assert!(plain == [&block[..], &block].concat());
            };
            tokio::join!(send, receive);
        }
    }
}

#[tokio::test]
async fn what_is_in_memory_leaves_before_a_disk_is_waited_for() {
    for first_is_copied in [false, true] {
        let sent = tokio::time::timeout(Duration::from_secs(60), sends_before_it_waits(first_is_copied));
        sent.await.expect("what is ready does not wait for ever");
    }
}

async fn sends_before_it_waits(first_is_copied: bool) {
    let dir = dir_on_disk();
    let segment = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name.repeat(40_000)).expect("written");
        let source = Source::open(path, None, Look::Disk).expect("opens");
        Segment::whole(source)
    };
    let (hot, cold) = (segment("hot"), segment("cold"));
    evict(cold.source.path());
    let (mut reader, socket) = connected(16 << 10).await;
    let (mut client, server) = ciphers(StreamCipher::AesGcm);
    let mut wire = wire(socket, BURST_BYTES as usize / 1024, Duration::from_secs(60));
    wire.encrypt(server).expect("nothing came yet");

    // Who waits for this disk waits until all others have been there.
    let (disks, queue) = (wire.disks.clone(), wire.queue.clone());
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let others: Vec<_> = (0..16)
        .map(|_| {
            let (disks, path, held) = (disks.clone(), dir.path().to_owned(), held.clone());
            tokio::spawn(async move { disks.wait(&path, move || held.lock().expect("sound").recv()).await })
        })
        .collect();
    while disks.waiting().values().sum::<u64>() < 16 {
        tokio::task::yield_now().await;
    }
    wire.out.bytes.extend_from_slice(b"copied");
    if first_is_copied {
        let mut copied = vec![0; hot.bytes as usize];
        hot.source.read_exact(&mut copied, 0).expect("reads");
        wire.out.bytes.extend_from_slice(&copied);
    } else {
        wire.out.push(hot);
    }
    wire.out.push(cold);
    let receive = async move {
        let (mut sealed, mut plain) = (BytesMut::new(), BytesMut::new());
        let mut until = async |bytes: usize| {
            while plain.len() < bytes {
                assert!(reader.read_buf(&mut sealed).await.expect("open") > 0);
                client.open(&mut sealed, &mut plain).expect("genuine");
            }
            plain.len()
        };
        assert_eq!(until(120_006).await, 120_006);
        assert_eq!(
            queue.available_permits() as u64,
            BURST_BYTES / 1024,
            "who waits for a disk holds no room"
        );
        drop(go_on);
        assert_eq!(until(280_006).await, 280_006);
        assert!(plain == ["copied", &"hot".repeat(40_000), &"cold".repeat(40_000)].concat());
    };
    let (sent, ()) = tokio::join!(wire.flush(), receive);
    sent.expect("taken");
    for other in others {
        drop(other.await);
    }
}
