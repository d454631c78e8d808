//! What a peer may send before and after it has proven itself. Before: nobody gets in who does not know the secret.
//! After: sealed bytes that were tampered with never come out as something else where the cipher authenticates, and
//! whatever comes out goes the way of a connection's bytes, in memory that follows what arrived.
#![no_main]

use std::sync::Arc;

use bellows_fuzz::{Session, within};
use bellows_transport::auth::{
    AuthPolicy, ClientAuth, ClientStep, EngineVersion, Method, SecretStore, ServerAuth, SessionCipher, Step,
    StreamCipher,
};
use bellows_transport::message::Message;
use bellows_transport::rpc::Rpc;
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "not to be guessed: 7d5f0c";

fuzz_target!(|data: &[u8]| {
    let Some((&mode, rest)) = data.split_first() else { return };
    match mode % 8 {
        0 => strangers(rest),
        1 => drop(SecretStore::parse(rest)),
        2 => strangers_answer(rest),
        3 => sealed(rest, Method::Engine(EngineVersion::V1, StreamCipher::AesCtr)),
        4 => sealed(rest, Method::Engine(EngineVersion::V2, StreamCipher::AesGcm)),
        5 => sealed(rest, Method::Engine(EngineVersion::V1, StreamCipher::AesGcm)),
        6 => sealed(rest, Method::Sasl { encrypt: true }),
        _ => sealed(rest, Method::Sasl { encrypt: false }),
    }
});

fn server() -> ServerAuth {
    ServerAuth::new(Arc::new(SecretStore::one_for_all(SECRET.to_owned())), AuthPolicy::default())
}

/// Two messages, the first byte says where the first ends.
fn strangers(data: &[u8]) {
    let Some((&first, messages)) = data.split_first() else { return };
    let (one, two) = messages.split_at(usize::from(first).min(messages.len()));
    let mut auth = server();
    for body in [one, two] {
        let step = within(64 << 10, || auth.receive(Bytes::copy_from_slice(body)));
        assert!(!matches!(step, Ok(Step::Established { .. })), "let in without the secret");
    }
}

/// Begins as a client that knows the secret, and answers the challenge with something else. Not all of the answer is
/// proof (RFC 2831); the first byte says whether the proof is changed or anything.
fn strangers_answer(data: &[u8]) {
    let Some((&what, changes)) = data.split_first() else { return };
    let mut auth = server();
    let (mut client, first) = ClientAuth::new("app", SECRET.to_owned(), Method::Sasl { encrypt: false });
    let Ok(Step::Reply(challenge)) = auth.receive(first) else { panic!("SASL has two messages") };
    let Ok(ClientStep::Send(genuine)) = client.receive(challenge) else { panic!("which the client answers") };
    let key = b"response=";
    let proof = genuine.windows(key.len()).position(|at| at == key).expect("DIGEST-MD5") + key.len();
    let mut answer = genuine.to_vec();
    let rest = if what % 2 == 0 { answer.split_off(proof + 32) } else { Vec::new() };
    let mut changed = if what % 2 == 0 { answer.split_off(proof) } else { std::mem::take(&mut answer) };
    let before = changed.clone();
    tamper(&mut changed, changes);
    let (same, similar) = (changed == before, changed.eq_ignore_ascii_case(&before));
    let answer = [answer, changed, rest].concat();
    match within(64 << 10, || auth.receive(answer.into())) {
        Ok(Step::Established { app, .. }) => assert!(app == "app" && (similar || what % 2 == 1), "let in"),
        Ok(Step::Reply(_)) | Err(_) => assert!(!same, "kept out"),
    }
}

/// Both sides of an established session.
fn established(method: Method) -> [Option<Box<SessionCipher>>; 2] {
    let mut auth = server();
    let (mut client, mut body) = ClientAuth::new("app", SECRET.to_owned(), method);
    loop {
        let (reply, servers) = match auth.receive(body).expect("it knows the secret") {
            Step::Reply(reply) => (reply, None),
            Step::Established { reply, cipher, .. } => (reply, Some(cipher)),
        };
        match client.receive(reply).expect("so does the server") {
            ClientStep::Send(next) => body = next,
            ClientStep::Established(clients) => return [servers.expect("both are done"), clients],
        }
    }
}

/// Seals a call and `data`'s second part (a server knows a client's cipher by its first call), tampers with it as the first says, and opens it in pieces.
fn sealed(data: &[u8], method: Method) {
    let Some((&changes, rest)) = data.split_first() else { return };
    let (changes, rest) = rest.split_at(usize::from(changes % 16).min(rest.len()));
    let mut plain = BytesMut::new();
    let body = Rpc::Heartbeat { app: "app".to_owned() }.encode();
    Message::RpcRequest { request: 1, body }.encode(&mut plain);
    plain.extend_from_slice(rest);
    let [servers, clients] = established(method);
    let (Some(mut servers), Some(mut clients)) = (servers, clients) else {
        Session::default().take(&plain);
        return;
    };
    let mut wire = BytesMut::new();
    plain.chunks(100).for_each(|part| clients.encryptor.seal(part, &mut wire));
    let mut wire = wire.to_vec();
    tamper(&mut wire, changes);
    let authentic = !matches!(method, Method::Engine(_, StreamCipher::AesCtr));
    let piece = 1 + plain.len() % 97;
    let (mut waiting, mut opened, mut session) = (BytesMut::new(), BytesMut::new(), Session::default());
    let mut at = 0;
    for piece in wire.chunks(piece) {
        waiting.extend_from_slice(piece);
        let done = within(8192 + 8 * wire.len(), || servers.open(&mut waiting, &mut opened));
        assert!(!authentic || plain[at..].starts_with(&opened), "opened to something else");
        at += opened.len();
        if session.take(&opened).is_none() || done.is_err() {
            return;
        }
        opened.clear();
    }
    assert!(!changes.is_empty() || at == plain.len(), "not all was opened");
}

/// Three bytes a change: where, and what is put there, or that it ends there.
fn tamper(bytes: &mut Vec<u8>, changes: &[u8]) {
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        match bytes.len() {
            0 => {}
            length if change[2] == 0 => bytes.truncate(at % length),
            length => bytes[at % length] ^= change[2],
        }
    }
}
