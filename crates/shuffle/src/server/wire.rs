//! The bytes of one connection: what was read and not yet understood, what is written and not yet taken. On a plain
//! connection file parts go from the page cache to the socket without passing through here.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use bellows_transport::auth::SessionCipher;
use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::blocks::{Segment, Source};
use crate::disks::Disks;
use crate::service::Service;

/// Up to here a block is copied behind its header, and several blocks leave in one write; beyond, `sendfile` is
/// cheaper.
const MAX_COPIED_BYTES: u64 = 32 << 10;
/// Copied answers are held back for each other up to this much.
const FLUSH_AT_BYTES: usize = 64 << 10;
/// File bytes that are made sure to be in memory before they are sent.
const WINDOW_BYTES: u64 = 1 << 20;
/// Linux' default for a disk (`read_ahead_kb`).
const READ_AHEAD_BYTES: u64 = 128 << 10;
/// What is copied at a time, and encrypted where it lies. A peer that keeps up is woken by every burst, which costs more
/// than the encryption of 64 KiB.
const BURST_BYTES: u64 = 512 << 10;
/// The same while too much waits to be taken by others.
const CROWDED_BURST_BYTES: u64 = 32 << 10;
const READ_BYTES: usize = 16 << 10;
/// An idle connection keeps no more than this.
const KEPT_BYTES: usize = 16 << 10;

pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Goes through the TLS handshake where the configuration asks for TLS.
    pub(super) async fn accept(socket: TcpStream, service: &Service) -> io::Result<Stream> {
        match service.security.tls() {
            None => Ok(Stream::Plain(socket)),
            Some(acceptor) => {
                let handshake = Box::pin(acceptor.accept(socket));
                Ok(Stream::Tls(Box::new(in_time(service.config.limits.stalled_after, handshake).await?)))
            }
        }
    }

    /// Waits for bytes and appends them; 0 at the end. While a plain connection waits it holds no empty buffer.
    async fn read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        let socket = match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => {
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
    fn try_write(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let Stream::Plain(socket) = self else { return Ok(0) };
        match socket.try_io(Interest::WRITABLE, || send(socket, bytes, more)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(0)
            }
            done => done,
        }
    }

    /// `more` says that further bytes follow at once. All has to be taken within the bound.
    async fn write_all(&mut self, bytes: &[u8], more: bool, stalled_after: Duration) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => {
                let mut sent = 0;
                let mut patience = Patience::new(stalled_after);
                while sent < bytes.len() {
                    let send = || send(socket, &bytes[sent..], more);
                    sent += when_writable(socket, &mut patience, send).await?;
                }
            }
            Stream::Tls(tls) => {
                let written = async {
                    tls.write_all(bytes).await?;
                    tls.flush().await
                };
                in_time(stalled_after, written).await?;
            }
        }
        Ok(())
    }
}

pub(super) struct Wire {
    stream: Stream,
    pub(super) input: BytesMut,
    pub(super) out: BytesMut,
    cipher: Option<Box<Encrypted>>,
    disks: Arc<Disks>,
    /// Room for what was copied and waits to be taken, in bytes, of all connections together.
    queue: Arc<Semaphore>,
    stalled_after: Duration,
    /// For the message that is arriving.
    patience: Patience,
}

/// What an encrypted connection needs besides.
struct Encrypted {
    cipher: SessionCipher,
    /// Read and not yet decrypted.
    input: BytesMut,
    /// Encrypted and not yet taken.
    out: BytesMut,
}

impl Encrypted {
    fn open(&mut self, plain: &mut BytesMut) -> io::Result<()> {
        let opened = self.cipher.open(&mut self.input, plain);
        opened.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

impl Wire {
    pub(super) fn new(
        stream: Stream,
        disks: Arc<Disks>,
        queue: Arc<Semaphore>,
        stalled_after: Duration,
    ) -> Wire {
        let (input, out, patience) = (BytesMut::new(), BytesMut::new(), Patience::new(stalled_after));
        Wire { stream, input, out, cipher: None, disks, queue, stalled_after, patience }
    }

    /// From here on, both ways; what waits for a flush must have left.
    pub(super) fn encrypt(&mut self, cipher: SessionCipher) -> io::Result<()> {
        // What the peer sent behind its last plain message is encrypted already.
        let mut encrypted = Encrypted { cipher, input: self.input.split(), out: BytesMut::new() };
        let opened = encrypted.open(&mut self.input);
        self.cipher = Some(Box::new(encrypted));
        opened
    }

    pub(super) fn wants_flush(&self) -> bool {
        self.out.len() >= FLUSH_AT_BYTES
    }

    /// The next message has all the time again.
    pub(super) fn message_arrived(&mut self) {
        self.patience = Patience::new(self.stalled_after);
    }

    /// Reads what is there; false at the end. A message that began, and in a `hurry` whatever is waited for, has to be
    /// there whole within the bound.
    pub(super) async fn fill(&mut self, hurry: bool) -> io::Result<bool> {
        let begun = !self.input.is_empty();
        if !begun {
            // However long the last request was.
            self.input = BytesMut::new();
        }
        let raw = match &mut self.cipher {
            Some(encrypted) => &mut encrypted.input,
            None => &mut self.input,
        };
        let read = if hurry || begun || !raw.is_empty() {
            self.patience.bound(self.stream.read(raw)).await?
        } else {
            self.stream.read(raw).await?
        };
        if let Some(encrypted) = &mut self.cipher {
            encrypted.open(&mut self.input)?;
        }
        Ok(read > 0)
    }

    /// Hands everything to the socket. `more` says that a file part follows at once.
    pub(super) async fn flush(&mut self, more: bool) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        match &mut self.cipher {
            None => self.stream.write_all(&self.out, more, self.stalled_after).await?,
            Some(encrypted) => {
                encrypted.cipher.encryptor.seal(&self.out, &mut encrypted.out);
                self.stream.write_all(&encrypted.out, more, self.stalled_after).await?;
                empty(&mut encrypted.out);
            }
        }
        empty(&mut self.out);
        Ok(())
    }

    /// Appends a small part of a file. On an error nothing was appended.
    pub(super) async fn copy_segment(&mut self, segment: &Segment) -> io::Result<()> {
        let start = self.out.len();
        let bytes = segment.bytes as usize;
        self.out.resize(start + bytes, 0);
        let resident = segment.source.read_resident(&mut self.out[start..], segment.offset);
        let read = match resident {
            Ok(got) if got == bytes => return Ok(()),
            Ok(got) => {
                let rest =
                    read_cold(&self.disks, &segment.source, segment.offset + got as u64, bytes - got).await;
                rest.map(|rest| self.out[start + got..].copy_from_slice(&rest))
            }
            Err(error) => Err(error),
        };
        if read.is_err() {
            self.out.truncate(start);
        }
        read
    }

    /// Whether the part is to be copied rather than sent.
    pub(super) fn copies(&self, segment: &Segment) -> bool {
        segment.bytes <= MAX_COPIED_BYTES
    }

    /// Sends what waits, then the part of the file. After an error the connection cannot be used further.
    pub(super) async fn send_segment(&mut self, segment: &Segment) -> io::Result<()> {
        let plain = matches!((&self.stream, &self.cipher), (Stream::Plain(_), None));
        if plain {
            self.flush(true).await?;
        }
        let (mut at, end) = (segment.offset, segment.offset + segment.bytes);
        while at < end {
            let window = WINDOW_BYTES.min(end - at);
            make_resident(&self.disks, &segment.source, at, window).await?;
            match &mut self.stream {
                Stream::Plain(socket) if plain => {
                    send_file(socket, &segment.source, at, window, self.stalled_after).await?;
                }
                stream => {
                    let target = (stream, self.cipher.as_deref_mut(), &mut self.out);
                    let bounds = (&*self.queue, self.stalled_after);
                    send_copied(target, &segment.source, at, window, bounds).await?;
                }
            }
            at += window;
        }
        empty(&mut self.out);
        Ok(())
    }
}

async fn send_file(
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

/// What waits in `out` and a part of a file behind it, by way of memory: encrypted here, by TLS, or both. All
/// connections of a thread share the place where that is done; in `out` stays only what the socket does not take at
/// once.
async fn send_copied(
    (stream, mut cipher, out): (&mut Stream, Option<&mut Encrypted>, &mut BytesMut),
    source: &Source,
    mut at: u64,
    bytes: u64,
    (queue, stalled_after): (&Semaphore, Duration),
) -> io::Result<()> {
    let end = at + bytes;
    while at < end {
        let room = queue.try_acquire_many(BURST_BYTES as u32);
        let burst = if room.is_ok() { BURST_BYTES } else { CROWDED_BURST_BYTES }.min(end - at);
        BURST.with_borrow_mut(|place| {
            let ready = gather(cipher.as_deref_mut(), place, out, source, (at, burst as usize))?;
            let sent = stream.try_write(ready, at + burst < end)?;
            out.clear();
            out.extend_from_slice(&ready[sent..]);
            io::Result::Ok(())
        })?;
        at += burst;
        stream.write_all(out, at < end, stalled_after).await?;
        out.clear();
    }
    Ok(())
}

thread_local! {
    static BURST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// `head` and the part of the file, as they are to be sent.
fn gather<'a>(
    cipher: Option<&mut Encrypted>,
    place: &'a mut Vec<u8>,
    mut head: &[u8],
    source: &Source,
    (mut at, bytes): (u64, usize),
) -> io::Result<&'a [u8]> {
    let plain_bytes = head.len() + bytes;
    let ready_bytes = match &cipher {
        Some(encrypted) => encrypted.cipher.encryptor.sealed_bytes(plain_bytes),
        None => plain_bytes,
    };
    if place.len() < ready_bytes {
        place.resize(ready_bytes, 0);
    }
    let ready = &mut place[..ready_bytes];
    let mut fill = |part: &mut [u8]| {
        let (of_head, of_file) = part.split_at_mut(head.len().min(part.len()));
        of_head.copy_from_slice(&head[..of_head.len()]);
        head = &head[of_head.len()..];
        source.read_exact(of_file, at)?;
        at += of_file.len() as u64;
        Ok(())
    };
    match cipher {
        Some(encrypted) => encrypted.cipher.encryptor.seal_with(plain_bytes, ready, fill)?,
        None => fill(ready)?,
    }
    Ok(ready)
}

fn send(socket: &TcpStream, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Empties a buffer, and gives back what an idle connection should not keep.
fn empty(buffer: &mut BytesMut) {
    buffer.clear();
    if buffer.capacity() > KEPT_BYTES {
        *buffer = BytesMut::new();
    }
}

/// How long a peer may take for one thing. Counts from the first time that it has to be waited for, so that whoever
/// keeps up costs no look at a clock.
#[derive(Clone, Copy)]
struct Patience {
    bound: Duration,
    ends: Option<Instant>,
}

impl Patience {
    fn new(bound: Duration) -> Patience {
        Patience { bound, ends: None }
    }

    async fn bound<T>(&mut self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let ends = *self.ends.get_or_insert_with(|| Instant::now() + self.bound);
        tokio::time::timeout_at(ends, work).await.unwrap_or_else(|_| Err(stalled()))
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

async fn in_time<T>(bound: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    Patience::new(bound).bound(work).await
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer stalled")
}

/// Waits, on another thread, until the window can be sent without waiting for a disk.
async fn make_resident(disks: &Disks, source: &Arc<Source>, at: u64, window: u64) -> io::Result<()> {
    let mut byte = [0];
    // The kernel reads ahead, never back: where a window's end is there, so is what lies before it, nearly always;
    // in a window longer than what is read ahead at a time only if its start is there too.
    if source.read_resident(&mut byte, at + window - 1)? == 1
        && (window <= READ_AHEAD_BYTES || source.read_resident(&mut byte, at)? == 1)
    {
        return Ok(());
    }
    let reads = source.clone();
    let read = disks.wait(source.path(), move || reads.read_in(at, window));
    Box::pin(read).await.map_err(io::Error::other)?
}

async fn read_cold(disks: &Disks, source: &Arc<Source>, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let reads = source.clone();
    let read = disks.wait(source.path(), move || {
        let mut buffer = vec![0; bytes];
        reads.read_exact(&mut buffer, offset).map(|()| buffer)
    });
    read.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;

    /// The kernel would hide it behind megabytes of buffers, were they not made small here.
    #[tokio::test]
    async fn a_reader_that_takes_too_little_for_too_long_is_given_up() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(16 << 20).expect("a hole");
        let path = file.path().canonicalize().expect("exists");
        let segment =
            Segment { source: Arc::new(Source::open(path).expect("opens")), offset: 0, bytes: 16 << 20 };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let reader = tokio::net::TcpSocket::new_v4().expect("socket");
        SockRef::from(&reader).set_tcp_mss(536).expect("socket");
        reader.set_recv_buffer_size(16 << 10).expect("socket");
        let reader = reader.connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (socket, _) = listener.accept().await.expect("accepts");
        SockRef::from(&socket).set_send_buffer_size(16 << 10).expect("socket");
        let trickle = tokio::spawn(async move {
            let mut some = [0; 1 << 10];
            loop {
                reader.readable().await.expect("open");
                match reader.try_read(&mut some) {
                    Ok(0) => return,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let disks = Arc::new(Disks::new(Vec::new()));
        let queue = Arc::new(Semaphore::new(0));
        let mut wire = Wire::new(Stream::Plain(socket), disks, queue, Duration::from_secs(1));
        let sent = wire.send_segment(&segment).await;
        assert_eq!(sent.expect_err("given up").kind(), io::ErrorKind::TimedOut);
        drop(wire);
        trickle.abort();
    }
}
