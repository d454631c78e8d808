//! A connection's socket, plain or TLS: reads, writes and sends files, and gives up a peer that takes too long. What the
//! bytes mean is not known here.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::blocks::Source;
use crate::service::Service;

const READ_BYTES: usize = 16 << 10;

pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Goes through the TLS handshake where the configuration asks for TLS.
    pub(super) async fn accept(socket: TcpStream, service: &Service) -> io::Result<Socket> {
        match service.security.tls() {
            None => Ok(Socket::Plain(socket)),
            Some(acceptor) => {
                let mut patience = Patience::new(service.config.limits.stalled_after);
                Ok(Socket::Tls(Box::new(patience.bound(acceptor.accept(socket)).await?)))
            }
        }
    }

    /// Waits for bytes and appends them; 0 at the end. While a plain connection waits it holds no empty buffer.
    pub(super) async fn read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        let socket = match self {
            Socket::Plain(socket) => socket,
            Socket::Tls(tls) => {
                input.reserve(READ_BYTES);
                return tls.read_buf(input).await;
            }
        };
        loop {
            let receive = || {
                // On the stack: what is kept is as long as what came, however many connections there are.
                let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
                let ((bytes, _), _) = rustix::net::recv(&*socket, &mut buffer, RecvFlags::empty())?;
                input.extend_from_slice(bytes);
                Ok(bytes.len())
            };
            match socket.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => return done,
            }
            if input.is_empty() {
                *input = BytesMut::new();
            }
            socket.readable().await?;
        }
    }

    /// What is taken at once; of TLS, nothing.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Socket::Plain(socket) = self else { return Ok(0) };
        match socket.try_io(Interest::WRITABLE, || send(socket, bytes, false)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(0)
            }
            done => done,
        }
    }

    /// `more` says that further bytes follow at once. All has to be taken within the bound.
    pub(super) async fn write_all(
        &mut self,
        bytes: &[u8],
        more: bool,
        stalled_after: Duration,
    ) -> io::Result<()> {
        match self {
            Socket::Plain(socket) => {
                let mut sent = 0;
                let mut patience = Patience::new(stalled_after);
                while sent < bytes.len() {
                    let send = || send(socket, &bytes[sent..], more);
                    sent += when_writable(socket, &mut patience, send).await?;
                }
            }
            Socket::Tls(tls) => {
                let written = async {
                    tls.write_all(bytes).await?;
                    tls.flush().await
                };
                Patience::new(stalled_after).bound(written).await?;
            }
        }
        Ok(())
    }
}

/// A part of a file, from the page cache to the socket without a copy.
pub(super) async fn send_file(
    socket: &TcpStream,
    source: &Source,
    mut at: u64,
    bytes: u64,
    stalled_after: Duration,
) -> io::Result<()> {
    let end = at + bytes;
    let mut patience = Patience::new(stalled_after);
    while at < end {
        let send = || {
            let mut offset = at;
            Ok(rustix::fs::sendfile(socket, source, Some(&mut offset), (end - at) as usize)?)
        };
        match when_writable(socket, &mut patience, send).await? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
            sent => at += sent as u64,
        }
    }
    Ok(())
}

fn send(socket: &TcpStream, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// How long a peer may take for one thing. Counts from the first time that it has to be waited for, so that whoever
/// keeps up costs no look at a clock.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    bound: Duration,
    ends: Option<Instant>,
}

impl Patience {
    pub(super) fn new(bound: Duration) -> Patience {
        Patience { bound, ends: None }
    }

    /// Boxed: what is waited for only now and then must not make every connection larger.
    pub(super) fn bound<T, W: Future<Output = io::Result<T>>>(
        &mut self,
        work: W,
    ) -> Pin<Box<impl Future<Output = io::Result<T>> + use<T, W>>> {
        let ends = *self.ends.get_or_insert_with(|| Instant::now() + self.bound);
        let waited = tokio::time::timeout_at(ends, work);
        Box::pin(async move { waited.await.unwrap_or_else(|_| Err(stalled())) })
    }
}

/// Tries at once, then again whenever the socket takes more; a peer that takes too little for too long is given up.
async fn when_writable(
    socket: &TcpStream,
    patience: &mut Patience,
    mut send: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match socket.try_io(Interest::WRITABLE, &mut send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                patience.bound(socket.writable()).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer stalled")
}
