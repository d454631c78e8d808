//! The bytes of one connection: what was read and not yet understood, what is written and not yet taken. On a plain
//! connection file parts go from the page cache to the socket without passing through here.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bellows_transport::auth::SessionCipher;
use bytes::BytesMut;
use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::outgoing::{Ahead, Outgoing, Unread};
use super::socket::{Patience, Socket, send_file};
use crate::blocks::{Segment, Source};
use crate::disks::Disks;

/// Up to here a block is copied behind its header, and several blocks leave in one write; beyond, `sendfile` is
/// cheaper.
pub(super) const MAX_COPIED_BYTES: u64 = 32 << 10;
/// Copied answers are held back for each other up to this much.
const FLUSH_AT_BYTES: usize = 64 << 10;
/// File bytes that are made sure to be in memory before they are sent from there.
const WINDOW_BYTES: u64 = 1 << 20;
/// Linux' default for a disk (`read_ahead_kb`).
const READ_AHEAD_BYTES: u64 = 128 << 10;
/// What is copied at a time, and encrypted where it lies. A peer that keeps up is woken by every burst, which costs more
/// than the encryption of 64 KiB.
const BURST_BYTES: u64 = 512 << 10;
/// The same while too much waits to be taken by others.
const CROWDED_BURST_BYTES: u64 = 32 << 10;
/// Parts of files that wait for each other: each keeps one open.
const MAX_PARTS: usize = 8;

pub(super) struct Wire {
    socket: Socket,
    pub(super) input: BytesMut,
    pub(super) out: Outgoing,
    cipher: Option<Box<Encrypted>>,
    disks: Arc<Disks>,
    /// Room for what was copied and waits to be taken, in KiB, of all connections together.
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
}

/// Why not all was sent; the connection cannot be used further.
#[derive(Debug)]
pub(super) enum Unsent {
    Socket(io::Error),
    File(Unread),
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Unsent {
        Unsent::Socket(error)
    }
}

impl From<Unread> for Unsent {
    fn from(unread: Unread) -> Unsent {
        Unsent::File(unread)
    }
}

impl Encrypted {
    fn open(&mut self, plain: &mut BytesMut) -> io::Result<()> {
        let opened = self.cipher.open(&mut self.input, plain);
        opened.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

impl Wire {
    pub(super) fn new(
        socket: Socket,
        disks: Arc<Disks>,
        queue: Arc<Semaphore>,
        stalled_after: Duration,
    ) -> Wire {
        let (input, out, patience) = (BytesMut::new(), Outgoing::default(), Patience::new(stalled_after));
        Wire { socket, input, out, cipher: None, disks, queue, stalled_after, patience }
    }

    /// From here on, both ways; what waits for a flush must have left.
    pub(super) fn encrypt(&mut self, cipher: SessionCipher) -> io::Result<()> {
        // What the peer sent behind its last plain message is encrypted already.
        let mut encrypted = Encrypted { cipher, input: self.input.split() };
        let opened = encrypted.open(&mut self.input);
        self.cipher = Some(Box::new(encrypted));
        opened
    }

    /// Whether what waits has nothing to gain from waiting for more.
    pub(super) fn wants_flush(&self) -> bool {
        let parts = if self.is_plain() { 1 } else { MAX_PARTS };
        self.out.parts() >= parts || self.out.bytes.len() >= FLUSH_AT_BYTES || self.out.len() >= BURST_BYTES
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
            self.patience.bound(self.socket.read(raw)).await?
        } else {
            self.socket.read(raw).await?
        };
        if let Some(encrypted) = &mut self.cipher {
            encrypted.open(&mut self.input)?;
        }
        Ok(read > 0)
    }

    /// Hands everything to the socket.
    pub(super) async fn flush(&mut self) -> Result<(), Unsent> {
        if self.out.is_empty() {
            return Ok(());
        }
        // Boxed: most of a connection's life is not spent here.
        if self.cipher.is_none() && self.out.parts() == 0 {
            self.socket.write_all(&self.out.bytes, false, self.stalled_after).await?;
            self.out.bytes.clear();
        } else if self.is_plain() {
            Box::pin(self.send_files()).await?;
        } else {
            Box::pin(self.send_copied()).await?;
        }
        self.out.shrink();
        Ok(())
    }

    /// Whether files go to the socket without being copied.
    fn is_plain(&self) -> bool {
        matches!((&self.socket, &self.cipher), (Socket::Plain(_), None))
    }

    /// Appends a small part of a file if it is in memory, or nothing.
    pub(super) fn copy_resident(&mut self, segment: &Segment) -> io::Result<bool> {
        let out = &mut self.out.bytes;
        let start = out.len();
        out.resize(start + segment.bytes as usize, 0);
        let copied = segment.source.read_resident(&mut out[start..], segment.offset);
        let whole = copied.map(|bytes| bytes as u64 == segment.bytes);
        if !matches!(whole, Ok(true)) {
            out.truncate(start);
        }
        whole
    }

    /// The same where the disk has to be waited for. On an error nothing was appended.
    pub(super) async fn copy_cold(&mut self, segment: &Segment) -> io::Result<()> {
        let Segment { source, offset, bytes } = segment.clone();
        let read = self.disks.wait(segment.source.path(), move || {
            let mut buffer = vec![0; bytes as usize];
            source.read_exact(&mut buffer, offset).map(|()| buffer)
        });
        self.out.bytes.extend_from_slice(&read.await.map_err(io::Error::other)??);
        Ok(())
    }

    /// From the page cache to the socket.
    async fn send_files(&mut self) -> Result<(), Unsent> {
        loop {
            let next = self.out.next_part();
            let window = |segment: &Segment| WINDOW_BYTES.min(segment.bytes);
            // What leaves is not held back for a part that a disk is waited for.
            let mut ready =
                next.map_or(Ok(false), |part| is_resident(&part.source, part.offset, window(part)))?;
            self.socket.write_all(self.out.head(), ready, self.stalled_after).await?;
            let Some(mut part) = self.out.take_part() else { return Ok(()) };
            let Socket::Plain(tcp) = &self.socket else { unreachable!("invariant: the socket is plain") };
            loop {
                let (source, at, bytes) = (&part.source, part.offset, window(&part));
                if !ready {
                    read_in(&self.disks, source, at, bytes).await?;
                }
                let sent = send_file(tcp, source, at, bytes, self.stalled_after).await;
                sent.map_err(|error| {
                    if is_of_a_disk(&error) {
                        Unsent::File(Unread { source: source.clone(), error })
                    } else {
                        Unsent::Socket(error)
                    }
                })?;
                part.offset += bytes;
                part.bytes -= bytes;
                if part.bytes == 0 {
                    break;
                }
                ready = is_resident(&part.source, part.offset, window(&part))?;
            }
        }
    }

    /// By way of memory: encrypted here, by TLS, or both. All connections of a thread share the place where that is
    /// done; what the socket does not take at once is all that a connection has of its own.
    async fn send_copied(&mut self) -> Result<(), Unsent> {
        while !self.out.is_empty() {
            let ready = self.ready().await?;
            let room = self.queue.try_acquire_many(ready.div_ceil(1024) as u32);
            let burst = if room.is_ok() { ready } else { CROWDED_BURST_BYTES.min(ready) };
            let mut untaken = BytesMut::new();
            BURST.with_borrow_mut(|place| {
                let sealed = seal(self.cipher.as_deref_mut(), place, &mut self.out, burst as usize)?;
                let sent = self.socket.try_write(sealed)?;
                untaken.extend_from_slice(&sealed[sent..]);
                Ok::<_, Unsent>(())
            })?;
            self.socket.write_all(&untaken, false, self.stalled_after).await?;
        }
        Ok(())
    }

    /// How much of a burst is in memory: all that comes before a part that is not, or that part, as soon as it is.
    async fn ready(&self) -> Result<u64, Unread> {
        let burst = BURST_BYTES.min(self.out.len());
        for Ahead { source, at, bytes, end } in self.out.files_within(burst) {
            if !is_resident(source, at, bytes)? {
                if end > bytes {
                    return Ok(end - bytes);
                }
                read_in(&self.disks, source, at, bytes).await?;
            }
        }
        Ok(burst)
    }
}

thread_local! {
    static BURST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The next `bytes` as they are to be sent, taken off `out`.
fn seal<'a>(
    cipher: Option<&mut Encrypted>,
    place: &'a mut Vec<u8>,
    out: &mut Outgoing,
    bytes: usize,
) -> Result<&'a [u8], Unread> {
    let sealed_bytes = match &cipher {
        Some(encrypted) => encrypted.cipher.encryptor.sealed_bytes(bytes),
        None => bytes,
    };
    if place.len() < sealed_bytes {
        place.resize(sealed_bytes, 0);
    }
    let sealed = &mut place[..sealed_bytes];
    match cipher {
        Some(encrypted) => encrypted.cipher.encryptor.seal_with(bytes, sealed, |part| out.read(part))?,
        None => out.read(sealed)?,
    }
    Ok(sealed)
}

/// Whether the window can be sent without waiting for a disk.
fn is_resident(source: &Arc<Source>, at: u64, window: u64) -> Result<bool, Unread> {
    let unread = |error| Unread { source: source.clone(), error };
    let mut byte = [0];
    // The kernel reads ahead, never back: where a window's end is there, so is what lies before it, nearly always;
    // in a window longer than what is read ahead at a time only if its start is there too.
    Ok(source.read_resident(&mut byte, at + window - 1).map_err(unread)? == 1
        && (window <= READ_AHEAD_BYTES || source.read_resident(&mut byte, at).map_err(unread)? == 1))
}

/// Waits, on another thread, until it can.
async fn read_in(disks: &Disks, source: &Arc<Source>, at: u64, window: u64) -> Result<(), Unread> {
    let reads = source.clone();
    let read = Box::pin(disks.wait(source.path(), move || reads.read_in(at, window))).await;
    let read = read.map_err(io::Error::other).and_then(|read| read);
    read.map_err(|error| Unread { source: source.clone(), error })
}

/// While a file goes to a socket, what fails may be either of them.
fn is_of_a_disk(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::IO | Errno::UCLEAN | Errno::STALE | Errno::NODEV)
        )
}

#[cfg(test)]
mod tests;
