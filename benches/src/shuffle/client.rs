//! One connection of the lean load generator: fetches blocks one request after the other and compares every byte.
#![allow(clippy::disallowed_methods, reason = "a bench connects to addresses, not to names")]

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bellows_transport::auth::{ClientAuth, ClientStep, EngineVersion, Method, SessionCipher, StreamCipher};
use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::{CHUNK_HEADER_BYTES, ChunkId, Message, put_chunk_header};
use bellows_transport::rpc::Rpc;
use bytes::{Buf, BytesMut};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::data::{DataSet, PerFetch};
use crate::peer::Peer;

const READ_BYTES: usize = 256 << 10;

/// What one connection is to do.
#[derive(Clone, Copy)]
pub struct Order {
    /// The connection's number, and how many there are: each asks for other map outputs.
    pub number: usize,
    pub connections: usize,
    pub per_fetch: PerFetch,
    pub until: Instant,
    /// Every map output once, instead of until the time is up.
    pub one_pass: bool,
    /// When set, requests are due at these times and not as soon as the last one is answered.
    pub pace: Option<Pace>,
}

#[derive(Clone, Copy)]
pub struct Pace {
    pub first: Instant,
    pub interval: std::time::Duration,
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
    pub async fn connect(peer: &Peer, app: &str, secret: Option<&str>) -> Result<Client> {
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

    pub async fn send(&mut self, message: &Message) -> Result<()> {
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

    pub async fn receive(&mut self) -> Result<Message> {
        loop {
            match self.decoder.decode(&mut self.input)? {
                Decoded::Message(message) => return Ok(message),
                Decoded::Incomplete(_) => self.fill().await?,
            }
        }
    }

    pub async fn call(&mut self, call: &Rpc) -> Result<bytes::Bytes> {
        self.send(&Message::RpcRequest { request: 7, body: call.encode() }).await?;
        match self.receive().await? {
            Message::RpcResponse { request: 7, body } => Ok(body),
            other => bail!("{call:?} answered with {other:?}"),
        }
    }

    /// Latencies in microseconds, from when a request was due to the last byte of the last of its blocks, and the
    /// number of blocks.
    pub async fn fetch_until(
        mut self,
        data: Rc<DataSet>,
        order: Order,
    ) -> Result<(Client, Histogram<u64>, u64)> {
        let mut latency_us = Histogram::new(3)?;
        let mut blocks = 0;
        for round in 0u32.. {
            let map = order.number + round as usize * order.connections;
            if Instant::now() >= order.until || order.one_pass && map * order.per_fetch.maps >= data.maps {
                break;
            }
            let mut start = Instant::now();
            if let Some(pace) = order.pace {
                let due = pace.first + pace.interval * round;
                if due > start {
                    tokio::time::sleep_until(due.into()).await;
                    start = Instant::now();
                } else {
                    // The answer before came late: this request has waited since.
                    start = due;
                }
            }
            self.fetch(&data, map, order.per_fetch).await?;
            latency_us.record(start.elapsed().as_micros() as u64)?;
            blocks += order.per_fetch.total() as u64;
        }
        Ok((self, latency_us, blocks))
    }

    /// Opens a stream and asks for all its chunks at once, as Spark's client does.
    async fn fetch(&mut self, data: &DataSet, round: usize, per_fetch: PerFetch) -> Result<()> {
        let first = round * 7;
        let handle = self.call(&data.fetch(round, first, per_fetch)).await?;
        let Rpc::StreamHandle { stream, chunks } = Rpc::decode(handle)? else { bail!("not a stream") };
        ensure!(chunks as usize == per_fetch.total());
        let mut requests = BytesMut::new();
        for chunk in 0..chunks {
            Message::ChunkFetchRequest(ChunkId { stream, chunk }).encode(&mut requests);
        }
        self.write(&requests).await?;
        for chunk in 0..chunks {
            let block = data.block(data.reduce(first, chunk as usize, per_fetch));
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
