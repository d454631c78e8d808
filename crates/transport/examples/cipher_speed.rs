//! How fast one core encrypts and decrypts a session, by cipher and by size of a message. In CPU time: others may
//! use the machine meanwhile.
//! `cargo run --release -p bellows-transport --example cipher_speed`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bellows_transport::auth::{
    AuthPolicy, ClientAuth, ClientStep, EngineVersion, Method, SecretStore, ServerAuth, SessionCipher, Step,
    StreamCipher,
};
use bellows_transport::message::Message;
use bytes::{BufMut, Bytes, BytesMut};
use rustix::time::{ClockId, clock_gettime};

const SIZES: [usize; 3] = [1 << 10, 64 << 10, 1 << 20];
const ROUND: Duration = Duration::from_millis(300);

#[allow(clippy::print_stdout)]
fn main() {
    println!(
        "{:<28} {:>8} {:>10} {:>10} {:>10}   GB per CPU second",
        "", "bytes", "seal", "seal_with", "open"
    );
    for (name, method) in [
        ("AES-CTR, version 1 (AES-256)", Method::Engine(EngineVersion::V1, StreamCipher::AesCtr)),
        ("AES-CTR, version 2 (AES-128)", Method::Engine(EngineVersion::V2, StreamCipher::AesCtr)),
        ("AES-GCM, version 1 (AES-256)", Method::Engine(EngineVersion::V1, StreamCipher::AesGcm)),
        ("AES-GCM, version 2 (AES-128)", Method::Engine(EngineVersion::V2, StreamCipher::AesGcm)),
        ("SASL (3DES)", Method::Sasl { encrypt: true }),
    ] {
        for size in SIZES {
            let (mut client, _) = ciphers(method);
            let (plain, mut out, mut opened) = (vec![7; size], BytesMut::new(), BytesMut::new());
            let seal = speed(size, || {
                out.clear();
                client.encryptor.seal(black_box(&plain), &mut out);
            });
            let mut sealed = vec![0; client.encryptor.sealed_bytes(size)];
            let seal_with = speed(size, || {
                // As if read from a file: one copy into place.
                let mut rest = &plain[..];
                let filled = client.encryptor.seal_with(size, &mut sealed, |part| {
                    let (now, later) = rest.split_at(part.len());
                    part.copy_from_slice(now);
                    rest = later;
                    Ok::<_, ()>(())
                });
                filled.expect("memory does not fail");
            });
            // Blocks of SASL are numbered: both sides start anew, and each is opened once.
            let (mut client, mut server) = ciphers(method);
            let (mut time, mut bytes) = (Duration::ZERO, 0);
            let mut input = BytesMut::new();
            while time < ROUND {
                out.clear();
                client.encryptor.seal(&plain, &mut out);
                input.clear();
                input.put_slice(&out);
                opened.clear();
                let start = cpu_time();
                server.open(&mut input, &mut opened).expect("genuine");
                time += cpu_time() - start;
                bytes += opened.len();
                assert_eq!(opened.len(), size);
            }
            let open = bytes as f64 / time.as_secs_f64() / 1e9;
            println!("{name:<28} {size:>8} {seal:>10.3} {seal_with:>10.3} {open:>10.3}");
        }
    }
}

fn speed(bytes: usize, mut work: impl FnMut()) -> f64 {
    work();
    let (start, mut rounds) = (cpu_time(), 0);
    while cpu_time() - start < ROUND {
        (0..4).for_each(|_| work());
        rounds += 4;
    }
    (rounds * bytes) as f64 / (cpu_time() - start).as_secs_f64() / 1e9
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a thread's time is positive")
}

fn ciphers(method: Method) -> (SessionCipher, SessionCipher) {
    let secrets = Arc::new(SecretStore::one_for_all("secret".to_owned()));
    let mut server = ServerAuth::new(secrets, AuthPolicy::default());
    let (mut client, mut body) = ClientAuth::new("app", "secret".to_owned(), method);
    loop {
        match server.receive(body).expect("let in") {
            Step::Reply(reply) => match client.receive(reply).expect("proven") {
                ClientStep::Send(next) => body = next,
                ClientStep::Established(_) => unreachable!("the server has not said so"),
            },
            Step::Established { reply, cipher, .. } => match client.receive(reply).expect("proven") {
                ClientStep::Established(ours) => {
                    return after_a_call(*ours.expect("encrypts"), *cipher.expect("encrypts"));
                }
                ClientStep::Send(_) => unreachable!("the server is done"),
            },
        }
    }
}

/// The server follows what the client's first call shows.
fn after_a_call(mut client: SessionCipher, mut server: SessionCipher) -> (SessionCipher, SessionCipher) {
    let (mut call, mut sealed) = (BytesMut::new(), BytesMut::new());
    Message::OneWay { body: Bytes::from_static(b"heartbeat") }.encode(&mut call);
    client.encryptor.seal(&call, &mut sealed);
    server.open(&mut sealed, &mut BytesMut::new()).expect("genuine");
    (client, server)
}
