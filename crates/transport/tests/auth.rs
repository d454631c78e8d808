//! Authentication between our own two sides, however the bytes arrive, and against bytes of every kind.

use std::sync::Arc;

use bellows_transport::auth::{
    AuthPolicy, ClientAuth, ClientStep, EngineVersion, Method, Refused, SecretStore, SecretsError,
    ServerAuth, SessionCipher, Step, StreamCipher,
};
use bellows_transport::message::Message;
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

const APP: &str = "app-1";
const SECRET: &str = "s3cret";

const METHODS: [Method; 6] = [
    Method::Engine(EngineVersion::V1, StreamCipher::AesCtr),
    Method::Engine(EngineVersion::V1, StreamCipher::AesGcm),
    Method::Engine(EngineVersion::V2, StreamCipher::AesCtr),
    Method::Engine(EngineVersion::V2, StreamCipher::AesGcm),
    Method::Sasl { encrypt: true },
    Method::Sasl { encrypt: false },
];

fn server(secrets: &[u8], policy: AuthPolicy) -> ServerAuth {
    ServerAuth::new(Arc::new(SecretStore::parse(secrets).expect("secrets")), policy)
}

fn lenient(secrets: &[u8]) -> ServerAuth {
    server(secrets, AuthPolicy::default())
}

type Ciphers = Option<(SessionCipher, SessionCipher)>;

/// The client's and the server's cipher.
fn shake_hands(mut server: ServerAuth, app: &str, secret: &str, method: Method) -> Result<Ciphers, Refused> {
    let (mut client, mut body) = ClientAuth::new(app, secret.to_owned(), method);
    loop {
        let (reply, done) = match server.receive(body)? {
            Step::Reply(reply) => (reply, None),
            Step::Established { reply, app: named, cipher } => {
                assert_eq!(named, app);
                (reply, Some(cipher))
            }
        };
        match (client.receive(reply).expect("the server knows the secret"), done) {
            (ClientStep::Send(next), None) => body = next,
            (ClientStep::Established(ours), Some(theirs)) => {
                return Ok(ours.zip(theirs).map(|(a, b)| (*a, *b)));
            }
            (step, _) => panic!("one side is ahead: {step:?}"),
        }
    }
}

/// As the handshake leaves them: the server has seen nothing yet of what the client speaks.
fn fresh(method: Method) -> (SessionCipher, SessionCipher) {
    shake_hands(lenient(SECRET.as_bytes()), APP, SECRET, method).expect("let in").expect("encrypts")
}

/// After the client's first call.
fn ciphers(method: Method) -> (SessionCipher, SessionCipher) {
    let (mut client, mut server) = fresh(method);
    let (mut call, mut sealed, mut plain) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    Message::RpcRequest { request: 1, body: Bytes::from_static(b"call") }.encode(&mut call);
    client.encryptor.seal(&call, &mut sealed);
    server.open(&mut sealed, &mut plain).expect("genuine");
    assert_eq!(plain, call);
    (client, server)
}

#[test]
fn who_knows_the_secret_is_let_in_and_nobody_else() {
    let file = b"# cluster\n\napp-1 s3cret\n app-2\tother\n";
    for method in METHODS {
        let enter = |app, secret| shake_hands(lenient(file), app, secret, method);
        let established = enter("app-1", "s3cret").expect("let in");
        assert_eq!(established.is_some(), method != Method::Sasl { encrypt: false });
        assert!(enter("app-2", "other").is_ok());
        for (app, secret) in [("app-1", "other"), ("app-2", "s3cret"), ("app-3", "s3cret"), ("app-3", "")] {
            let refused = enter(app, secret).expect_err("refused");
            assert_eq!(refused, Refused::Failed { app: app.to_owned() });
            assert!(!refused.to_string().contains(app), "the peer is not told who exists");
        }
    }
}

#[test]
fn the_secret_for_all_yields_to_an_own_one() {
    let file = b"everyone\napp-1 s3cret";
    let method = METHODS[0];
    let enter = |app, secret| shake_hands(lenient(file), app, secret, method);
    assert!(enter("app-1", "s3cret").is_ok());
    assert!(enter("app-1", "everyone").is_err());
    assert!(enter("app-9", "everyone").is_ok());
}

#[test]
fn sasl_only_where_it_is_allowed_and_plain_only_where_it_is_allowed() {
    let enter = |policy, encrypt| {
        shake_hands(server(SECRET.as_bytes(), policy), APP, SECRET, Method::Sasl { encrypt })
    };
    let engine_only = AuthPolicy { sasl_fallback: false, ..AuthPolicy::default() };
    assert_eq!(enter(engine_only, true).expect_err("refused"), Refused::NotAuth);
    let encrypting = AuthPolicy { sasl_always_encrypt: true, ..AuthPolicy::default() };
    assert!(enter(encrypting, false).is_err());
    assert!(enter(encrypting, true).expect("let in").is_some());
}

#[test]
fn nothing_is_taken_after_the_end_nor_a_token_out_of_turn() {
    let mut over = server(SECRET.as_bytes(), AuthPolicy::default());
    let challenge = || ClientAuth::new(APP, SECRET.to_owned(), METHODS[0]).1;
    assert!(matches!(over.receive(challenge()), Ok(Step::Established { .. })));
    assert_eq!(over.receive(challenge()).expect_err("over"), Refused::NotAuth);

    let mut refused = server(SECRET.as_bytes(), AuthPolicy::default());
    assert_eq!(refused.receive(Bytes::from_static(b"\x02register")).expect_err("no"), Refused::NotAuth);
    assert_eq!(refused.receive(challenge()).expect_err("over"), Refused::NotAuth);

    let mut twice = server(SECRET.as_bytes(), AuthPolicy::default());
    let first = ClientAuth::new(APP, SECRET.to_owned(), Method::Sasl { encrypt: false }).1;
    assert!(matches!(twice.receive(first.clone()), Ok(Step::Reply(_))));
    assert!(twice.receive(first).is_err());
}

/// A challenge that was overheard lets nobody talk: its answer keys the session to what only its author knows.
#[test]
fn a_replayed_challenge_makes_other_keys() {
    let method = METHODS[3];
    let (mut client, challenge) = ClientAuth::new(APP, SECRET.to_owned(), method);
    let mut established = [0, 1].map(|_| {
        let mut server = lenient(SECRET.as_bytes());
        match server.receive(challenge.clone()).expect("genuine") {
            Step::Established { reply, cipher, .. } => (reply, cipher.expect("encrypts")),
            Step::Reply(_) => panic!("the engine takes one message"),
        }
    });
    let ClientStep::Established(Some(mut ours)) = client.receive(established[0].0.clone()).expect("proven")
    else {
        panic!("the engine takes one message")
    };
    let mut sealed = BytesMut::new();
    ours.encryptor.seal(b"hello", &mut sealed);
    assert!(established[1].1.open(&mut sealed, &mut BytesMut::new()).is_err());
}

#[test]
fn secrets_files_that_do_not_say_what_they_must() {
    let line = |line, what| SecretsError::Line { line, what };
    for (file, error) in [
        (&b""[..], SecretsError::Empty),
        (b"# nothing\n", SecretsError::Empty),
        (b"\xff", SecretsError::Utf8),
        (b"a b c", line(1, "expected SECRET or APPLICATION SECRET")),
        (b"x\ny", line(2, "a second secret for the same application")),
        (b"a x\n\na y", line(3, "a second secret for the same application")),
    ] {
        assert_eq!(SecretStore::parse(file).expect_err("refused"), error);
    }
}

#[test]
fn no_secret_is_ever_printed() {
    let store = SecretStore::parse(b"hush\napp-1 silence").expect("parses");
    let printed = format!("{store:?}");
    assert!(!printed.contains("hush") && !printed.contains("silence"), "{printed}");
    let printed = format!("{:?}", SecretStore::parse(b"hush\na silence\na silence"));
    assert!(!printed.contains("hush") && !printed.contains("silence"), "{printed}");
    for method in METHODS {
        let server = lenient(SECRET.as_bytes());
        let mut printed = format!("{server:?}");
        printed += &format!("{:?}", shake_hands(server, APP, SECRET, method));
        assert!(!printed.contains(SECRET), "{printed}");
    }
}

/// Opens `sealed` in pieces of these sizes, again and again.
fn opened_in_pieces(cipher: &mut SessionCipher, sealed: &[u8], sizes: &[usize]) -> (BytesMut, bool) {
    let (mut input, mut plain) = (BytesMut::new(), BytesMut::new());
    let (mut rest, mut sizes) = (sealed, sizes.iter().cycle());
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(*sizes.next().expect("cycles")));
        rest = later;
        input.extend_from_slice(now);
        if cipher.open(&mut input, &mut plain).is_err() {
            return (plain, false);
        }
    }
    (plain, input.is_empty())
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..200),
        1 => (prop_oneof![Just(32_752), Just(65_504), Just(65_536), 0usize..100_000], any::<u8>())
            .prop_map(|(size, seed)| (0..size).map(|at| (at * 7 + at / 253) as u8 ^ seed).collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_messages_in_any_pieces_both_ways(
        method in 0..5usize,
        messages in vec((message(), any::<bool>()), 1..6),
        sizes in vec(1usize..40_000, 1..8),
    ) {
        let (mut client, mut server) = ciphers(METHODS[method]);
        for (from, to) in [(0, 1), (1, 0)] {
            let sides = [&mut client, &mut server];
            let (mut sealed, mut all) = (BytesMut::new(), Vec::new());
            for (message, at_once) in &messages {
                all.extend_from_slice(message);
                if *at_once {
                    sides[from].encryptor.seal(message, &mut sealed);
                } else {
                    let (mut rest, encryptor) = (&message[..], &mut sides[from].encryptor);
                    let start = sealed.len();
                    sealed.resize(start + encryptor.sealed_bytes(message.len()), 0);
                    let filled = encryptor.seal_with(message.len(), &mut sealed[start..], |part| {
                        assert!(part.len() <= 32 * 1024);
                        let (now, later) = rest.split_at(part.len());
                        part.copy_from_slice(now);
                        rest = later;
                        Ok::<_, ()>(())
                    });
                    filled.expect("memory does not fail");
                }
            }
            let (plain, whole) = opened_in_pieces(sides[to], &sealed, &sizes);
            prop_assert!(whole);
            prop_assert!(plain == all[..]);
        }
    }

    /// Whichever the client speaks, its first call shows it, in whatever pieces it and what follows arrive.
    #[test]
    fn a_server_follows_its_client(
        method in 0..5usize,
        one_way in any::<bool>(),
        body in vec(any::<u8>(), 8..300),
        then in message(),
        sizes in vec(1usize..40, 1..8),
    ) {
        let (mut client, mut server) = fresh(METHODS[method]);
        let (mut call, body) = (BytesMut::new(), Bytes::from(body));
        match one_way {
            true => Message::OneWay { body }.encode(&mut call),
            false => Message::RpcRequest { request: -1, body }.encode(&mut call),
        }
        let mut sealed = BytesMut::new();
        client.encryptor.seal(&call, &mut sealed);
        client.encryptor.seal(&then, &mut sealed);
        let (plain, whole) = opened_in_pieces(&mut server, &sealed, &sizes);
        prop_assert!(whole && plain == [&call[..], &then].concat()[..]);
        let (mut answer, mut back) = (BytesMut::new(), BytesMut::new());
        server.encryptor.seal(b"answer", &mut answer);
        client.open(&mut answer, &mut back).expect("genuine");
        prop_assert_eq!(&back[..], b"answer");
    }

    /// What comes out before the damage is genuine; the damage itself never comes out.
    #[test]
    fn altered_bytes_never_come_out(
        method in prop_oneof![Just(1usize), Just(3), Just(4)],
        messages in vec(vec(any::<u8>(), 1..300), 1..4),
        first in any::<bool>(),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
        sizes in vec(1usize..400, 1..4),
    ) {
        let (mut client, mut server) = if first { fresh(METHODS[method]) } else { ciphers(METHODS[method]) };
        let mut sealed = BytesMut::new();
        messages.iter().for_each(|message| client.encryptor.seal(message, &mut sealed));
        let at = at.index(sealed.len());
        sealed[at] ^= flip;
        let (plain, whole) = opened_in_pieces(&mut server, &sealed, &sizes);
        prop_assert!(!whole, "byte {} of {}", at, sealed.len());
        let all = messages.concat();
        prop_assert!(plain.len() < all.len() && plain == all[..plain.len()]);
    }

    #[test]
    fn a_part_left_out_is_noticed(
        method in prop_oneof![Just(1usize), Just(3)],
        size in 32_753usize..120_000,
        segment in 0usize..3,
    ) {
        let (mut client, mut server) = ciphers(METHODS[method]);
        let mut sealed = BytesMut::new();
        client.encryptor.seal(&vec![1; size], &mut sealed);
        // Whole segments: their tags are genuine, their places are not.
        let header = if method == 1 { 48 } else { 32 };
        let start = header + segment.min(size / 32_752 - 1) * 32_768;
        let mut short = sealed[..start].to_vec();
        short.extend_from_slice(&sealed[start + 32_768..]);
        let (plain, whole) = opened_in_pieces(&mut server, &short, &[5000]);
        prop_assert!(!whole && plain.len() < size);
    }

    #[test]
    fn no_bytes_harm_a_decryptor(
        method in 0..5usize,
        first in any::<bool>(),
        mut bytes in vec(any::<u8>(), 0..2000),
        zeros in 0..8usize,
        header in prop_oneof![Just(24u8), Just(40), any::<u8>()],
    ) {
        let (_, mut server) = if first { fresh(METHODS[method]) } else { ciphers(METHODS[method]) };
        // Lengths that are plausible get further in.
        let mut input = BytesMut::zeroed(zeros);
        if let Some(byte) = bytes.get_mut(8 - zeros) {
            *byte = header;
        }
        input.extend_from_slice(&bytes);
        let (arrived, mut plain) = (input.len(), BytesMut::new());
        let _ = server.open(&mut input, &mut plain);
        prop_assert!(plain.len() + input.len() <= arrived);
    }

    #[test]
    fn no_bytes_harm_a_server(
        tag in prop_oneof![Just(0xfbu8), Just(0xea), any::<u8>()],
        app in "[a-z]{0,5}",
        first in vec(any::<u8>(), 0..300),
        second in vec(any::<u8>(), 0..300),
        challenged in any::<bool>(),
    ) {
        let mut auth = server(b"app-1 s3cret", AuthPolicy::default());
        let message = |token: &[u8]| -> Bytes {
            let mut body = vec![tag];
            body.extend_from_slice(&(app.len() as u32).to_be_bytes());
            body.extend_from_slice(app.as_bytes());
            body.extend_from_slice(&(token.len() as u32).to_be_bytes());
            body.extend_from_slice(token);
            body.into()
        };
        let first = if challenged { message(b"") } else { first.into() };
        for body in [first, message(&second)] {
            let step = auth.receive(body);
            let established = matches!(step, Ok(Step::Established { .. }));
            prop_assert!(!established);
        }
    }

    #[test]
    fn no_directives_harm_a_server(
        text in r#"((realm|nonce|nc|cnonce|digest-uri|response|qop|cipher|username)=("?default"?|auth-conf|null/default|00000001|"[ -~]{0,9}"?),?){0,9}"#,
    ) {
        let mut auth = server(b"app-1 s3cret", AuthPolicy::default());
        let (_, first) = ClientAuth::new(APP, SECRET.to_owned(), Method::Sasl { encrypt: true });
        auth.receive(first.clone()).expect("challenged");
        let mut body = first[..first.len() - 4].to_vec();
        body.extend_from_slice(&(text.len() as u32).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
        prop_assert!(auth.receive(body.into()).is_err());
    }

    #[test]
    fn no_bytes_harm_a_client(method in 0..6usize, body in vec(any::<u8>(), 0..300)) {
        let (mut client, _) = ClientAuth::new(APP, SECRET.to_owned(), METHODS[method]);
        let step = client.receive(body.into());
        prop_assert!(!matches!(step, Ok(ClientStep::Established(_))));
    }

    #[test]
    fn no_file_harms_the_store(bytes in vec(any::<u8>(), 0..300)) {
        let _ = SecretStore::parse(&bytes);
    }
}

#[test]
fn messages_beyond_the_bound_are_not_looked_at() {
    for tag in [0xfb, 0xea] {
        let mut auth = server(SECRET.as_bytes(), AuthPolicy::default());
        let mut body = vec![0; 1 << 20];
        body[0] = tag;
        assert_eq!(auth.receive(body.into()).expect_err("refused"), Refused::NotAuth);
    }
}

#[test]
fn announced_lengths_that_cannot_be_are_refused_at_once() {
    for (method, lengths) in [
        (METHODS[3], &[0, 7, 31, 32 + 1, 32 + 16, u64::MAX][..]),
        (METHODS[4], &[0, 7, 8, 23, (4 << 20) + 1, u64::MAX]),
    ] {
        for length in lengths {
            let (_, mut server) = ciphers(method);
            let mut input = BytesMut::from(&length.to_be_bytes()[..]);
            assert!(server.open(&mut input, &mut BytesMut::new()).is_err(), "{method:?} {length}");
        }
    }
}
