//! The bound: a server that does nothing for a block but write its header and call `sendfile` or, where connections are
//! encrypted, read, encrypt and send it; a blocking thread for each connection. It knows whatever the load generator
//! asks for, checks nothing, and serves nobody else.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use bellows_transport::auth::{AuthPolicy, SecretStore, ServerAuth, SessionCipher, Step};
use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::{Message, put_chunk_header};
use bellows_transport::rpc::{FetchShuffleBlocks, Rpc};
use bytes::{Bytes, BytesMut};
use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{data, peer};

/// What is encrypted at a time. More or less costs more.
const BURST_BYTES: u64 = 512 << 10;

/// Map outputs that are kept open by all connections together, and by each: then all are closed.
const MAX_OPEN: usize = 8000;
const MAX_OPEN_EACH: usize = 100;

/// What all connections share.
#[derive(Default)]
struct Files {
    /// Each application's directory.
    dirs: HashMap<String, PathBuf>,
    outputs: HashMap<(String, i64), Arc<Output>>,
}

/// `bare PORT [encrypted]`
pub fn serve(args: &[String]) -> Result<()> {
    let port: u16 = args.first().context("bare PORT")?.parse()?;
    let encrypted = args.len() > 1;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let files = Arc::<Mutex<Files>>::default();
    for socket in listener.incoming() {
        let (socket, files) = (socket?, files.clone());
        std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || Connection::new(socket, files).run(encrypted))?;
    }
    Ok(())
}

struct Connection {
    socket: TcpStream,
    cipher: Option<Box<SessionCipher>>,
    /// Where blocks are encrypted.
    burst: Vec<u8>,
    files: Arc<Mutex<Files>>,
    /// Of these, what this connection was asked for.
    outputs: HashMap<(String, i64), Arc<Output>>,
    /// By stream. Never closed: a connection lives for one measurement.
    fetches: HashMap<i64, FetchShuffleBlocks>,
}

struct Output {
    data: File,
    block_bytes: u64,
}

impl Connection {
    fn new(socket: TcpStream, files: Arc<Mutex<Files>>) -> Connection {
        let (outputs, fetches) = (HashMap::new(), HashMap::new());
        Connection { socket, cipher: None, burst: Vec::new(), files, outputs, fetches }
    }

    /// Ends when the peer closes.
    fn run(mut self, encrypted: bool) -> Result<()> {
        self.socket.set_nodelay(true)?;
        let secrets = Arc::new(SecretStore::one_for_all(peer::SECRET.to_owned()));
        let mut auth = encrypted.then(|| ServerAuth::new(secrets, AuthPolicy::default()));
        let (mut decoder, mut input) = (FrameDecoder::new(1 << 20), BytesMut::new());
        let (mut buffer, mut sealed) = ([0; 4096], BytesMut::new());
        loop {
            match (decoder.decode(&mut input)?, &mut auth) {
                (Decoded::Message(Message::RpcRequest { request, body }), Some(unproven)) => {
                    let Step::Established { reply, cipher, .. } = unproven.receive(body)? else {
                        bail!("not the engine")
                    };
                    self.send_message(&Message::RpcResponse { request, body: reply })?;
                    (self.cipher, auth) = (cipher, None);
                }
                (Decoded::Message(message), _) => self.answer(message)?,
                (Decoded::Incomplete(_), _) => match (self.socket.read(&mut buffer)?, &mut self.cipher) {
                    (0, _) => return Ok(()),
                    (got, None) => input.extend_from_slice(&buffer[..got]),
                    (got, Some(cipher)) => {
                        sealed.extend_from_slice(&buffer[..got]);
                        cipher.open(&mut sealed, &mut input)?;
                    }
                },
            }
        }
    }

    fn answer(&mut self, message: Message) -> Result<()> {
        match message {
            Message::RpcRequest { request, body } => {
                let body = match Rpc::decode(body)? {
                    Rpc::RegisterExecutor { app, info, .. } => {
                        let dir = info.local_dirs.first().context("a directory")?.into();
                        self.files.lock().expect("nobody panics").dirs.insert(app, dir);
                        Bytes::new()
                    }
                    Rpc::FetchShuffleBlocks(fetch) => {
                        let (stream, chunks) = (self.fetches.len() as i64, fetch.reduces.len() as i32);
                        self.fetches.insert(stream, fetch);
                        Rpc::StreamHandle { stream, chunks }.encode()
                    }
                    other => bail!("{other:?}"),
                };
                self.send_message(&Message::RpcResponse { request, body })
            }
            Message::ChunkFetchRequest(id) => {
                let fetch = self.fetches.get(&id.stream).context("chunk of no stream")?;
                let map = fetch.reduce_ends.partition_point(|&end| end <= id.chunk as u32);
                let key = (fetch.app.clone(), fetch.maps[map]);
                let reduce = fetch.reduces[id.chunk as usize] as u64;
                if !self.outputs.contains_key(&key) {
                    if self.outputs.len() >= MAX_OPEN_EACH {
                        self.outputs.clear();
                    }
                    let output = self.files.lock().expect("nobody panics").output(&key)?;
                    self.outputs.insert(key.clone(), output);
                }
                let output = &self.outputs[&key];
                let mut header = BytesMut::new();
                put_chunk_header(&mut header, id, output.block_bytes);
                let (at, end) = (reduce * output.block_bytes, (reduce + 1) * output.block_bytes);
                match &mut self.cipher {
                    None => send_block(&self.socket, &header, &output.data, at, end),
                    Some(cipher) => {
                        let target = (&self.socket, &mut **cipher, &mut self.burst);
                        send_encrypted(target, &header, &output.data, at, end)
                    }
                }
            }
            other => bail!("{other:?}"),
        }
    }

    fn send_message(&mut self, message: &Message) -> Result<()> {
        let (mut out, mut sealed) = (BytesMut::new(), BytesMut::new());
        message.encode(&mut out);
        if let Some(cipher) = &mut self.cipher {
            cipher.encryptor.seal(&out, &mut sealed);
            out = sealed;
        }
        send(&self.socket, &out, SendFlags::empty())
    }
}

fn send(socket: &TcpStream, mut bytes: &[u8], flags: SendFlags) -> Result<()> {
    while !bytes.is_empty() {
        let sent = rustix::net::send(socket, bytes, flags)?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

fn send_block(socket: &TcpStream, header: &[u8], data: &File, mut at: u64, end: u64) -> Result<()> {
    send(socket, header, SendFlags::MORE)?;
    while at < end {
        let left = (end - at) as usize;
        rustix::fs::sendfile(socket, data, Some(&mut at), left)?;
    }
    Ok(())
}

/// One message for a burst; the header is in the first.
fn send_encrypted(
    (socket, cipher, place): (&TcpStream, &mut SessionCipher, &mut Vec<u8>),
    mut header: &[u8],
    data: &File,
    mut at: u64,
    end: u64,
) -> Result<()> {
    while at < end {
        let plain_bytes = header.len() + BURST_BYTES.min(end - at) as usize;
        let sealed_bytes = cipher.encryptor.sealed_bytes(plain_bytes);
        if place.len() < sealed_bytes {
            place.resize(sealed_bytes, 0);
        }
        cipher.encryptor.seal_with(plain_bytes, &mut place[..sealed_bytes], |part| {
            let (head, body) = part.split_at_mut(header.len());
            head.copy_from_slice(header);
            header = &[];
            data.read_exact_at(body, at)?;
            at += body.len() as u64;
            std::io::Result::Ok(())
        })?;
        send(socket, &place[..sealed_bytes], SendFlags::empty())?;
    }
    Ok(())
}

impl Files {
    fn output(&mut self, key: &(String, i64)) -> Result<Arc<Output>> {
        if let Some(output) = self.outputs.get(key) {
            return Ok(output.clone());
        }
        if self.outputs.len() >= MAX_OPEN {
            self.outputs.clear();
        }
        let output = Arc::new(Output::open(self.dirs.get(&key.0).context("not registered")?, key.1)?);
        self.outputs.insert(key.clone(), output.clone());
        Ok(output)
    }
}

impl Output {
    fn open(dir: &std::path::Path, map: i64) -> Result<Output> {
        let data = File::open(data::path(dir, &format!("shuffle_0_{map}_0.data")))?;
        let index = std::fs::metadata(data::path(dir, &format!("shuffle_0_{map}_0.index")))?;
        let block_bytes = data.metadata()?.len() / (index.len() / 8 - 1);
        Ok(Output { data, block_bytes })
    }
}
