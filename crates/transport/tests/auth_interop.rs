//! Whole connections against Spark's own classes in a JVM: its client on our server, and our client on its server.
#![allow(clippy::disallowed_methods, reason = "tests connect to addresses, not to names")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use bellows_transport::auth::{
    AuthPolicy, ClientAuth, ClientStep, EngineVersion, Method, SecretStore, ServerAuth, SessionCipher, Step,
    StreamCipher,
};
use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::Message;
use bytes::{Bytes, BytesMut};

const SECRET: &str = "s\u{e9}cret of the test";
const APP: &str = "app-20261122";
/// One byte; around Spark's segment, with and without the frame's header; several blocks.
const SIZES: [usize; 7] = [1, 1000, 32_731, 32_752, 65_536, 100_000, 3_000_000];

/// Triple DES is slow, and slower without optimisation.
fn sizes(method: Method) -> &'static [usize] {
    if method == (Method::Sasl { encrypt: true }) { &SIZES[..6] } else { &SIZES }
}

const CTR: &str = "AES/CTR/NoPadding";
const GCM: &str = "AES/GCM/NoPadding";

fn engine_settings(version: u8, cipher: &str) -> String {
    format!(
        "spark.network.crypto.enabled=true;spark.network.crypto.authEngineVersion={version};\
         spark.network.crypto.cipher={cipher};spark.network.crypto.saslFallback=false"
    )
}

fn policies() -> [(String, AuthPolicy, Method); 6] {
    let engine = |version, cipher| {
        let policy = AuthPolicy { sasl_fallback: false, ..AuthPolicy::default() };
        let number = if version == EngineVersion::V1 { 1 } else { 2 };
        let name = if cipher == StreamCipher::AesCtr { CTR } else { GCM };
        (engine_settings(number, name), policy, Method::Engine(version, cipher))
    };
    let encrypting = AuthPolicy { sasl_always_encrypt: true, ..AuthPolicy::default() };
    [
        engine(EngineVersion::V1, StreamCipher::AesCtr),
        engine(EngineVersion::V1, StreamCipher::AesGcm),
        engine(EngineVersion::V2, StreamCipher::AesCtr),
        engine(EngineVersion::V2, StreamCipher::AesGcm),
        (String::new(), AuthPolicy::default(), Method::Sasl { encrypt: false }),
        (
            "spark.authenticate.enableSaslEncryption=true".to_owned(),
            encrypting,
            Method::Sasl { encrypt: true },
        ),
    ]
}

#[test]
fn clients_of_spark_on_our_server() {
    let jars = bellows_testkit::Spark::find().jars();
    let mut command = spark(&jars);
    command.arg("client");
    let mut servers = Vec::new();
    let mut expected = Vec::new();
    for (settings, policy, method) in policies() {
        let sizes: Vec<_> = sizes(method).iter().map(usize::to_string).collect();
        servers.push(listen(policy, &mut command, &settings, &sizes.join(",")));
        expected.push(format!("{settings}: echoed {}", sizes.join(" ")));
    }
    // One that would speak SASL in the clear, on a server that takes only what is encrypted.
    let strict = AuthPolicy { sasl_always_encrypt: true, ..AuthPolicy::default() };
    servers.push(listen(strict, &mut command, "refused=1", "10"));
    // One of the engine, on a server with another secret.
    let other = AuthPolicy { sasl_fallback: false, ..AuthPolicy::default() };
    servers.push(listen_with(
        "another",
        other,
        &mut command,
        "spark.network.crypto.enabled=true;spark.network.crypto.saslFallback=false",
        "10",
    ));
    let output = command.env("SECRET", SECRET).output().expect("java is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The rest is what Spark logs.
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    for server in servers {
        server.join().expect("no panic in the server").expect("no I/O error in the server");
    }
    assert_eq!(&lines[..expected.len()], &expected[..], "{errors}");
    assert!(lines[expected.len()].starts_with("refused=1: error"), "{lines:?}");
    assert!(lines[expected.len() + 1].contains("Authentication failed."), "{lines:?}");
}

#[test]
fn our_client_on_servers_of_spark() {
    let jars = bellows_testkit::Spark::find().jars();
    let mut command = spark(&jars);
    command.arg("server").env("SECRET", SECRET).stdin(Stdio::piped()).stdout(Stdio::piped());
    // Servers of the engine take SASL too unless told otherwise; ours are told.
    for (settings, ..) in policies() {
        command.arg(settings);
    }
    let mut child = command.spawn().expect("java is there");
    let mut ports = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .filter_map(|line| line.expect("text").strip_prefix("> port ")?.parse().ok());
    for (settings, _, method) in policies() {
        let port = ports.next().expect("a port for each");
        talk(port, method).unwrap_or_else(|error| panic!("{settings}: {error}"));
    }
    drop(child.stdin.take());
    child.wait().expect("ends");
}

fn spark(jars: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars.join("*"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java/SparkPeer.java"));
    command
}

type Served = thread::JoinHandle<io::Result<()>>;

fn listen(policy: AuthPolicy, command: &mut Command, settings: &str, sizes: &str) -> Served {
    listen_with(SECRET, policy, command, settings, sizes)
}

/// Serves one connection, to which the command's next client will be told to go.
fn listen_with(
    secret: &str,
    policy: AuthPolicy,
    command: &mut Command,
    settings: &str,
    sizes: &str,
) -> Served {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let port = listener.local_addr().expect("bound").port();
    command.args([&port.to_string(), APP, settings, sizes]);
    let auth = ServerAuth::new(Arc::new(SecretStore::one_for_all(secret.to_owned())), policy);
    thread::spawn(move || serve(listener.accept()?.0, auth))
}

/// Answers each RPC with its own bytes, once the client is let in.
fn serve(stream: TcpStream, mut auth: ServerAuth) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    let mut established = false;
    while let Some(message) = wire.receive()? {
        let Message::RpcRequest { request, body } = message else { panic!("{message:?}") };
        if established {
            wire.send(&Message::RpcResponse { request, body })?;
            continue;
        }
        match auth.receive(body) {
            Ok(Step::Reply(body)) => wire.send(&Message::RpcResponse { request, body })?,
            Ok(Step::Established { reply, app, cipher }) => {
                assert_eq!(app, APP);
                wire.send(&Message::RpcResponse { request, body: reply })?;
                wire.cipher = cipher;
                established = true;
            }
            Err(refused) => {
                return wire.send(&Message::RpcFailure { request, error: refused.to_string() });
            }
        }
    }
    Ok(())
}

/// Authenticates, then checks that every RPC comes back.
fn talk(port: u16, method: Method) -> io::Result<()> {
    let mut wire = Wire::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?);
    let (mut auth, mut body) = ClientAuth::new(APP, SECRET.to_owned(), method);
    loop {
        match auth.receive(wire.call(body)?).map_err(io::Error::other)? {
            ClientStep::Send(next) => body = next,
            ClientStep::Established(cipher) => {
                wire.cipher = cipher;
                break;
            }
        }
    }
    for &size in sizes(method) {
        let sent: Bytes = (0..size).map(|at| (at * 31 + at / 251) as u8).collect();
        assert!(wire.call(sent.clone())? == sent, "other bytes came back");
    }
    Ok(())
}

struct Wire {
    stream: TcpStream,
    decoder: FrameDecoder,
    cipher: Option<Box<SessionCipher>>,
    arrived: BytesMut,
    plain: BytesMut,
}

impl Wire {
    fn new(stream: TcpStream) -> Wire {
        Wire {
            stream,
            decoder: FrameDecoder::new(8 << 20),
            cipher: None,
            arrived: BytesMut::new(),
            plain: BytesMut::new(),
        }
    }

    fn call(&mut self, body: Bytes) -> io::Result<Bytes> {
        self.send(&Message::RpcRequest { request: 7, body })?;
        match self.receive()? {
            Some(Message::RpcResponse { request: 7, body }) => Ok(body),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    fn send(&mut self, message: &Message) -> io::Result<()> {
        let (mut frame, mut sealed) = (BytesMut::new(), BytesMut::new());
        message.encode(&mut frame);
        let Some(cipher) = &mut self.cipher else { return self.stream.write_all(&frame) };
        // The two ways of sealing, one after the other.
        let (head, mut body) = frame.split_at(frame.len().min(21));
        cipher.encryptor.seal(head, &mut sealed);
        let start = sealed.len();
        sealed.resize(start + cipher.encryptor.sealed_bytes(body.len()), 0);
        cipher.encryptor.seal_with(body.len(), &mut sealed[start..], |part| body.read_exact(part))?;
        self.stream.write_all(&sealed)
    }

    fn receive(&mut self) -> io::Result<Option<Message>> {
        let mut buffer = vec![0; 50_000];
        loop {
            match self.decoder.decode(&mut self.plain).map_err(io::Error::other)? {
                Decoded::Message(message) => return Ok(Some(message)),
                Decoded::Incomplete(_) => {}
            }
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(None);
            }
            self.arrived.extend_from_slice(&buffer[..read]);
            match &mut self.cipher {
                None => self.plain.unsplit(self.arrived.split()),
                Some(cipher) => {
                    let opened = cipher.open(&mut self.arrived, &mut self.plain);
                    opened.map_err(io::Error::other)?;
                }
            }
        }
    }
}
