//! The bound: a server that does nothing for a block but write its header and call `sendfile`, a blocking thread for
//! each connection. It knows whatever the load generator asks for, checks nothing, and serves nobody else.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::{Message, put_chunk_header};
use bellows_transport::rpc::{FetchShuffleBlocks, Rpc};
use bytes::{Bytes, BytesMut};
use rustix::net::SendFlags;

use crate::data;

/// Each application's directory.
type Dirs = Arc<Mutex<HashMap<String, PathBuf>>>;

/// `bare PORT`
pub fn serve(args: &[String]) -> Result<()> {
    let port: u16 = args.first().context("bare PORT")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let dirs = Dirs::default();
    for socket in listener.incoming() {
        let (socket, dirs) = (socket?, dirs.clone());
        std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || Connection::new(socket, dirs).run())?;
    }
    Ok(())
}

struct Connection {
    socket: TcpStream,
    dirs: Dirs,
    outputs: HashMap<(String, i64), Output>,
    /// By stream. Never closed: a connection lives for one measurement.
    fetches: HashMap<i64, FetchShuffleBlocks>,
}

struct Output {
    data: File,
    block_bytes: u64,
}

impl Connection {
    fn new(socket: TcpStream, dirs: Dirs) -> Connection {
        Connection { socket, dirs, outputs: HashMap::new(), fetches: HashMap::new() }
    }

    /// Ends when the peer closes.
    fn run(mut self) -> Result<()> {
        self.socket.set_nodelay(true)?;
        let (mut decoder, mut input) = (FrameDecoder::new(1 << 20), BytesMut::new());
        let mut buffer = [0; 4096];
        loop {
            match decoder.decode(&mut input)? {
                Decoded::Message(message) => self.answer(message)?,
                Decoded::Incomplete(_) => match self.socket.read(&mut buffer)? {
                    0 => return Ok(()),
                    got => input.extend_from_slice(&buffer[..got]),
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
                        self.dirs.lock().expect("nobody panics").insert(app, dir);
                        Bytes::new()
                    }
                    Rpc::FetchShuffleBlocks(fetch) => {
                        let (stream, chunks) = (self.fetches.len() as i64, fetch.reduces.len() as i32);
                        self.fetches.insert(stream, fetch);
                        Rpc::StreamHandle { stream, chunks }.encode()
                    }
                    other => bail!("{other:?}"),
                };
                let mut out = BytesMut::new();
                Message::RpcResponse { request, body }.encode(&mut out);
                self.send(&out, SendFlags::empty())
            }
            Message::ChunkFetchRequest(id) => {
                let fetch = self.fetches.get(&id.stream).context("chunk of no stream")?;
                let key = (fetch.app.clone(), fetch.maps[0]);
                let reduce = fetch.reduces[id.chunk as usize] as u64;
                if !self.outputs.contains_key(&key) {
                    let dir = self.dirs.lock().expect("nobody panics").get(&key.0).cloned();
                    let output = Output::open(&dir.context("not registered")?, key.1)?;
                    self.outputs.insert(key.clone(), output);
                }
                let output = &self.outputs[&key];
                let mut header = BytesMut::new();
                put_chunk_header(&mut header, id, output.block_bytes);
                self.send(&header, SendFlags::MORE)?;
                let (mut at, end) = (reduce * output.block_bytes, (reduce + 1) * output.block_bytes);
                while at < end {
                    let left = (end - at) as usize;
                    rustix::fs::sendfile(&self.socket, &output.data, Some(&mut at), left)?;
                }
                Ok(())
            }
            other => bail!("{other:?}"),
        }
    }

    fn send(&self, mut bytes: &[u8], flags: SendFlags) -> Result<()> {
        while !bytes.is_empty() {
            let sent = rustix::net::send(&self.socket, bytes, flags)?;
            bytes = &bytes[sent..];
        }
        Ok(())
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
