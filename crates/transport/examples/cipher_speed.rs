//! How fast one core encrypts and decrypts a session, by cipher and by size of a message.
//! `cargo run --release -p bellows-transport --example cipher_speed`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellows_transport::auth::{
    AuthPolicy, ClientAuth, ClientStep, EngineVersion, Method, SecretStore, ServerAuth, SessionCipher, Step,
    StreamCipher,
};
use bytes::{BufMut, BytesMut};

const SIZES: [usize; 3] = [1 << 10, 64 << 10, 1 << 20];
const ROUND: Duration = Duration::from_millis(300);

#[allow(clippy::print_stdout)]
fn main() {
    println!("{:<28} {:>8} {:>10} {:>10} {:>10}   GB/s", "", "bytes", "seal", "seal_with", "open");
    for (name, method) in [
        ("AES-CTR, version 1 (AES-256)", Method::Engine(EngineVersion::V1, StreamCipher::AesCtr)),
        ("AES-CTR, version 2 (AES-128)", Method::Engine(EngineVersion::V2, StreamCipher::AesCtr)),
        ("AES-GCM, version 1 (AES-256)", Method::Engine(EngineVersion::V1, StreamCipher::AesGcm)),
        ("AES-GCM, version 2 (AES-128)", Method::Engine(EngineVersion::V2, StreamCipher::AesGcm)),
        ("SASL (3DES)", Method::Sasl { encrypt: true }),
    ] {
        for size in SIZES {
            let (mut client, mut server) = ciphers(method);
            let (plain, mut out, mut opened) = (vec![7; size], BytesMut::new(), BytesMut::new());
            let seal = speed(size, || {
                out.clear();
                client.encryptor.seal(black_box(&plain), &mut out);
            });
            let seal_with = speed(size, || {
                out.clear();
                // As if read from a file: one copy into place.
                let mut rest = &plain[..];
                let filled = client.encryptor.seal_with(size, &mut out, |part| {
                    let (now, later) = rest.split_at(part.len());
                    part.copy_from_slice(now);
                    rest = later;
                    Ok(())
                });
                filled.expect("memory does not fail");
            });
            // Blocks of SASL are numbered: both sides start anew, and each is opened once.
            (client, server) = ciphers(method);
            let mut time = Duration::ZERO;
            let mut bytes = 0;
            let mut input = BytesMut::new();
            while time < ROUND {
                out.clear();
                client.encryptor.seal(&plain, &mut out);
                input.clear();
                input.put_slice(&out);
                opened.clear();
                let start = Instant::now();
                server.decryptor.open(&mut input, &mut opened).expect("genuine");
                time += start.elapsed();
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
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        (0..4).for_each(|_| work());
        rounds += 4;
    }
    (rounds * bytes) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn ciphers(method: Method) -> (SessionCipher, SessionCipher) {
    let mut policy = AuthPolicy::default();
    if let Method::Engine(engine, cipher) = method {
        (policy.engine, policy.cipher) = (engine, cipher);
    }
    let secrets = Arc::new(SecretStore::one_for_all("secret".to_owned()));
    let mut server = ServerAuth::new(secrets, policy);
    let (mut client, mut body) = ClientAuth::new("app", "secret".to_owned(), method);
    loop {
        match server.receive(body).expect("let in") {
            Step::Reply(reply) => match client.receive(reply).expect("proven") {
                ClientStep::Send(next) => body = next,
                ClientStep::Established(_) => unreachable!("the server has not said so"),
            },
            Step::Established { reply, cipher, .. } => match client.receive(reply).expect("proven") {
                ClientStep::Established(ours) => {
                    return (*ours.expect("encrypts"), *cipher.expect("encrypts"));
                }
                ClientStep::Send(_) => unreachable!("the server is done"),
            },
        }
    }
}
