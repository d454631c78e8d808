//! Who is let in, and what of it can be seen on the wire. That Spark's clients pass is `spark_client.rs`'s matter.
#![allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bellows_shuffle::{Error, Tls};
use bellows_transport::auth::{ClientAuth, ClientStep, EngineVersion, Method, StreamCipher};
use bellows_transport::message::Message;
use support::{Bench, Client};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// SASL without encryption, so that the same client can go on in plain.
async fn log_in(client: &mut Client, app: &str, secret: &str) -> Result<(), String> {
    let (mut auth, mut body) = ClientAuth::new(app, secret.to_owned(), Method::Sasl { encrypt: false });
    loop {
        client.send(&[Message::RpcRequest { request: 1, body }]).await;
        let answer = match client.receive().await {
            Some(Message::RpcResponse { body, .. }) => body,
            Some(Message::RpcFailure { error, .. }) => return Err(error),
            other => panic!("{other:?}"),
        };
        match auth.receive(answer).expect("the service knows the secret") {
            ClientStep::Send(next) => body = next,
            ClientStep::Established(_) => return Ok(()),
        }
    }
}

#[tokio::test]
async fn an_application_sees_its_own_only_and_new_secrets_are_taken_up() {
    let mut bench = Bench::new();
    let secrets = bench.authenticate("app s3cret\n");
    let service = bench.start().await;
    let (mine, other) = (bench.executor("app", "1"), bench.executor("other", "1"));
    mine.map_output(0, 1, &[10]);
    other.map_output(0, 1, &[10]);

    let mut client = Client::connect(&service).await;
    log_in(&mut client, "app", "s3cret").await.expect("let in");
    client.register(&mine).await;
    assert!(client.fetch(&mine.fetch(0, &[(1, &[0])], false)).await.is_ok());
    for call in [other.register(), other.fetch(0, &[(1, &[0])], false), other.open(&["shuffle_0_1_0"])] {
        let refused = client.call(&call).await.expect_err("not its own");
        assert!(refused.contains("Client for app not authorized for application other"), "{refused}");
    }

    for (app, secret) in [("app", "wrong"), ("other", "s3cret"), ("other", "0ther")] {
        assert!(log_in(&mut Client::connect(&service).await, app, secret).await.is_err(), "{app}");
    }
    std::fs::write(&secrets, "app s3cret\nother 0ther\n").expect("file");
    let mut client = Client::connect(&service).await;
    log_in(&mut client, "other", "0ther").await.expect("its secret was added");
    client.register(&other).await;
    // A file that went bad leaves what was good.
    std::fs::write(&secrets, "one two three\n").expect("file");
    log_in(&mut Client::connect(&service).await, "app", "s3cret").await.expect("let in");
    service.stop().await;
}

#[tokio::test]
async fn who_does_not_finish_what_it_began_is_cut() {
    let mut bench = Bench::new();
    bench.authenticate("app s3cret\n");
    // Longer than a busy machine takes for an exchange that is gone through.
    bench.config.limits.stalled_after = std::time::Duration::from_secs(2);
    let service = bench.start().await;
    let mut quiet = Client::connect(&service).await;
    log_in(&mut quiet, "app", "s3cret").await.expect("let in");

    let (_, body) = ClientAuth::new("app", "s3cret".to_owned(), Method::Sasl { encrypt: false });
    let mut half_known = Client::connect(&service).await;
    half_known.send(&[Message::RpcRequest { request: 1, body }]).await;
    assert!(matches!(half_known.receive().await, Some(Message::RpcResponse { .. })));

    // Half a message, of which the cipher has nothing left to open.
    let method = Method::Engine(EngineVersion::V1, StreamCipher::AesCtr);
    let (mut auth, body) = ClientAuth::new("app", "s3cret".to_owned(), method);
    let mut encrypted = Client::connect(&service).await;
    encrypted.send(&[Message::RpcRequest { request: 1, body }]).await;
    let Some(Message::RpcResponse { body, .. }) = encrypted.receive().await else { panic!("refused") };
    let Ok(ClientStep::Established(Some(mut cipher))) = auth.receive(body) else { panic!("not established") };
    let mut sealed = bytes::BytesMut::new();
    cipher.encryptor.seal(&[0, 0, 0, 0, 0, 0, 0, 40, 3], &mut sealed);
    encrypted.socket.write_all(&sealed).await.expect("taken");

    assert_eq!(half_known.receive().await, None);
    assert_eq!(encrypted.receive().await, None);
    assert_eq!(service.status().errors["stalled"], 2);
    // Saying nothing between messages is allowed.
    let mut call = bytes::BytesMut::new();
    let body = bench.executor("app", "1").register().encode();
    Message::RpcRequest { request: 9, body }.encode(&mut call);
    quiet.socket.write_all(&call[..5]).await.expect("taken");
    // The time that a message may take has begun, and not with the connection.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    quiet.socket.write_all(&call[5..]).await.expect("taken");
    assert!(matches!(quiet.receive().await, Some(Message::RpcResponse { request: 9, .. })));
    service.stop().await;
}

#[tokio::test]
async fn a_stranger_gets_no_room_for_a_large_request() {
    let mut bench = Bench::new();
    bench.authenticate("app s3cret\n");
    let service = bench.start().await;
    let mut stranger = Client::connect(&service).await;
    stranger.socket.write_all(&(1u64 << 20).to_be_bytes()).await.expect("taken");
    assert_eq!(stranger.receive().await, None);
    assert_eq!(service.status().errors["forbidden"], 1);
    service.stop().await;
}

#[tokio::test]
async fn a_secrets_file_that_others_may_read_is_refused() {
    let mut bench = Bench::new();
    let secrets = bench.authenticate("s3cret\n");
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o640)).expect("its own");
    let refused = bellows_shuffle::start(bench.config.clone()).await.map(|_| ()).expect_err("refused");
    assert!(matches!(refused, Error::Secrets { .. }), "{refused}");
    assert!(
        refused.to_string().contains("chmod 600") && !refused.to_string().contains("s3cret"),
        "{refused}"
    );
}

/// Takes plain connections and passes them on through TLS.
async fn tls_client(service: SocketAddr, certificate: CertificateDer<'static>) -> SocketAddr {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("sound");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let outer = tokio::net::TcpStream::connect(service).await.expect("connects");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut tls = connector.connect(name, outer).await.expect("TLS");
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut plain, &mut tls).await) });
        }
    });
    address
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("file");
}

#[tokio::test]
async fn with_tls_every_block_comes_whole_and_nothing_plain_is_taken() {
    let mut bench = Bench::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let tls = Tls {
        certificate_chain: bench.dir.path().join("chain.pem"),
        private_key: bench.dir.path().join("key.pem"),
    };
    write(&tls.certificate_chain, &made.cert.pem());
    write(&tls.private_key, &made.signing_key.serialize_pem());
    bench.config.tls = Some(tls.clone());
    bench.config.limits.stalled_after = std::time::Duration::from_secs(20);
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let blocks = executor.map_output(0, 1, &[10, 40_000, 3 << 20, 0]);

    let through = tls_client(service.local_addr(), made.cert.der().clone()).await;
    let mut client = Client::connect_to(through).await;
    client.register(&executor).await;
    let fetched = client.fetch(&executor.fetch(0, &[(1, &[0, 1, 2, 3])], false)).await.expect("blocks");
    assert!(fetched == blocks);

    let mut plain = Client::connect(&service).await;
    plain.send(&[Message::RpcRequest { request: 1, body: executor.register().encode() }]).await;
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain.socket, &mut answer).await;
    assert!(answer.len() < 100, "an alert at most");
    service.stop().await;

    write(&tls.private_key, "no key");
    let refused = bellows_shuffle::start(bench.config.clone()).await.map(|_| ()).expect_err("refused");
    assert!(refused.to_string().contains("key.pem"), "{refused}");
}
