//! The load: connections that fetch blocks one request after the other and compare every byte.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bellows_transport::auth::{ClientAuth, ClientStep, EngineVersion, Method, SessionCipher, StreamCipher};
use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::{CHUNK_HEADER_BYTES, ChunkId, Message, put_chunk_header};
use bellows_transport::rpc::{ExecutorInfo, Rpc};
use bytes::{Buf, BytesMut};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::data::{DataSet, SUB_DIRS};
use crate::peer::Peer;

const WARM_UP: Duration = Duration::from_millis(1500);
const READ_BYTES: usize = 256 << 10;

pub struct Load<'a> {
    pub peer: &'a Peer,
    pub data: &'a DataSet,
    pub connections: usize,
    pub per_fetch: usize,
    pub secret: Option<&'static str>,
}

pub struct Measured {
    pub blocks: u64,
    pub elapsed: Duration,
    /// Of the service.
    pub cpu: Duration,
    /// From a request for blocks to the last byte of the last of them.
    pub latency_us: Histogram<u64>,
}

impl Load<'_> {
    pub async fn run(&self, duration: Duration) -> Result<Measured> {
        let mut first = Client::connect(self.peer, &self.data.app, self.secret).await?;
        first.call(&self.data.register()).await?;
        let mut clients = vec![first];
        while clients.len() < self.connections {
            clients.push(Client::connect(self.peer, &self.data.app, self.secret).await?);
        }
        let clients = self.drive(clients, WARM_UP).await?.0;
        let (cpu, start) = (self.peer.cpu()?, Instant::now());
        let (_, latency_us, blocks) = self.drive(clients, duration).await?;
        Ok(Measured { blocks, elapsed: start.elapsed(), cpu: self.peer.cpu()? - cpu, latency_us })
    }

    async fn drive(
        &self,
        clients: Vec<Client>,
        duration: Duration,
    ) -> Result<(Vec<Client>, Histogram<u64>, u64)> {
        let mut latency_us = Histogram::new(3)?;
        let mut blocks = 0;
        let mut back = Vec::new();
        let data: Rc<DataSet> = Rc::new(self.data.clone());
        let until = Instant::now() + duration;
        let local = LocalSet::new();
        let tasks: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(at, client)| {
                local.spawn_local(client.fetch_until(until, data.clone(), at, self.per_fetch))
            })
            .collect();
        local
            .run_until(async {
                for task in tasks {
                    let (client, own, count) = task.await??;
                    latency_us.add(own)?;
                    blocks += count;
                    back.push(client);
                }
                Ok::<_, anyhow::Error>(())
            })
            .await?;
        Ok((back, latency_us, blocks))
    }
}

/// Opens connections and registers executors, and keeps the connections.
pub async fn occupy(
    peer: &Peer,
    local_dir: &Path,
    connections: usize,
    executors: usize,
) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(peer, "occupied", None).await?);
    }
    for at in 0..executors {
        let info = ExecutorInfo {
            local_dirs: vec![format!(
                "{}/{}-executor-{at}/blockmgr-8327deb8-82cf-{at}",
                local_dir.display(),
                peer.kind.name()
            )],
            sub_dirs_per_local_dir: SUB_DIRS,
            shuffle_manager: "org.apache.spark.shuffle.sort.SortShuffleManager".to_owned(),
        };
        let (app, executor) = (format!("app-20261122101432-{:04}", at / 50), at.to_string());
        let client = &mut clients[at % connections];
        client
            .send(&Message::RpcRequest {
                request: 1,
                body: Rpc::RegisterExecutor { app, executor, info }.encode(),
            })
            .await?;
    }
    for at in 0..executors {
        match clients[at % connections].receive().await? {
            Message::RpcResponse { .. } => {}
            other => bail!("registration answered with {other:?}"),
        }
    }
    Ok(clients)
}

pub struct Client {
    socket: TcpStream,
    cipher: Option<Box<SessionCipher>>,
    /// Read and not yet decrypted, where there is a cipher.
    sealed: BytesMut,
    input: BytesMut,
    decoder: FrameDecoder,
}

impl Client {
    async fn connect(peer: &Peer, app: &str, secret: Option<&str>) -> Result<Client> {
        let socket = TcpStream::connect(peer.address).await?;
        socket.set_nodelay(true)?;
        let (sealed, input) = (BytesMut::new(), BytesMut::new());
        let mut client = Client { socket, cipher: None, sealed, input, decoder: FrameDecoder::new(64 << 20) };
        if let Some(secret) = secret {
            let method = Method::Engine(EngineVersion::V2, StreamCipher::AesGcm);
            let (mut auth, mut body) = ClientAuth::new(app, secret.to_owned(), method);
            loop {
                client.send(&Message::RpcRequest { request: 0, body }).await?;
                let Message::RpcResponse { body: answer, .. } = client.receive().await? else {
                    bail!("not let in")
                };
                match auth.receive(answer)? {
                    ClientStep::Send(next) => body = next,
                    ClientStep::Established(cipher) => {
                        client.cipher = cipher;
                        break;
                    }
                }
            }
        }
        Ok(client)
    }

    async fn send(&mut self, message: &Message) -> Result<()> {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.write(&out).await
    }

    async fn write(&mut self, plain: &[u8]) -> Result<()> {
        match &mut self.cipher {
            None => self.socket.write_all(plain).await?,
            Some(cipher) => {
                let mut sealed = BytesMut::new();
                cipher.encryptor.seal(plain, &mut sealed);
                self.socket.write_all(&sealed).await?;
            }
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<()> {
        let into = if self.cipher.is_some() { &mut self.sealed } else { &mut self.input };
        if into.capacity() - into.len() < READ_BYTES / 8 {
            into.reserve(READ_BYTES);
        }
        ensure!(self.socket.read_buf(into).await? > 0, "the service closed the connection");
        if let Some(cipher) = &mut self.cipher {
            cipher.decryptor.open(&mut self.sealed, &mut self.input)?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Message> {
        loop {
            match self.decoder.decode(&mut self.input)? {
                Decoded::Message(message) => return Ok(message),
                Decoded::Incomplete(_) => self.fill().await?,
            }
        }
    }

    async fn call(&mut self, call: &Rpc) -> Result<bytes::Bytes> {
        self.send(&Message::RpcRequest { request: 7, body: call.encode() }).await?;
        match self.receive().await? {
            Message::RpcResponse { request: 7, body } => Ok(body),
            other => bail!("{call:?} answered with {other:?}"),
        }
    }

    async fn fetch_until(
        mut self,
        until: Instant,
        data: Rc<DataSet>,
        seed: usize,
        per_fetch: usize,
    ) -> Result<(Client, Histogram<u64>, u64)> {
        let mut latency_us = Histogram::new(3)?;
        let (mut round, mut blocks) = (seed * 17, 0);
        while Instant::now() < until {
            let start = Instant::now();
            self.fetch(&data, round, per_fetch).await?;
            latency_us.record(start.elapsed().as_micros() as u64)?;
            blocks += per_fetch as u64;
            round += 1;
        }
        Ok((self, latency_us, blocks))
    }

    /// Opens a stream and asks for all its chunks at once, as Spark's client does.
    async fn fetch(&mut self, data: &DataSet, round: usize, count: usize) -> Result<()> {
        let first = round * 7;
        let handle = self.call(&data.fetch(round, first, count)).await?;
        let Rpc::StreamHandle { stream, chunks } = Rpc::decode(handle)? else { bail!("not a stream") };
        ensure!(chunks as usize == count);
        let mut requests = BytesMut::new();
        for chunk in 0..chunks {
            Message::ChunkFetchRequest(ChunkId { stream, chunk }).encode(&mut requests);
        }
        self.write(&requests).await?;
        for chunk in 0..chunks {
            let block = data.block((first + chunk as usize) % data.blocks());
            self.expect_chunk(ChunkId { stream, chunk }, block).await?;
        }
        Ok(())
    }

    /// Compares as the bytes arrive; no block is put together first.
    async fn expect_chunk(&mut self, id: ChunkId, block: &[u8]) -> Result<()> {
        let mut header = BytesMut::new();
        put_chunk_header(&mut header, id, block.len() as u64);
        while self.input.len() < CHUNK_HEADER_BYTES {
            self.fill().await?;
        }
        ensure!(self.input[..CHUNK_HEADER_BYTES] == header[..], "not the chunk that was asked for");
        self.input.advance(CHUNK_HEADER_BYTES);
        let mut left = block;
        while !left.is_empty() {
            let now = left.len().min(self.input.len());
            ensure!(self.input[..now] == left[..now], "a block came with other bytes than were written");
            self.input.advance(now);
            left = &left[now..];
            if !left.is_empty() {
                self.fill().await.context("in the middle of a block")?;
            }
        }
        Ok(())
    }
}
