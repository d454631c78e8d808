//! The bytes of one connection: what was read and not yet understood, what is written and not yet taken. On a plain
//! connection file parts go from the page cache to the socket without passing through here.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bellows_transport::auth::SessionCipher;
use bytes::BytesMut;
use tokio::sync::Semaphore;

use super::socket::{Patience, Socket, send_file};
use crate::blocks::{Segment, Source};
use crate::disks::Disks;

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
/// An idle connection keeps no more than this.
const KEPT_BYTES: usize = 16 << 10;

pub(super) struct Wire {
    socket: Socket,
    pub(super) input: BytesMut,
    pub(super) out: BytesMut,
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
        socket: Socket,
        disks: Arc<Disks>,
        queue: Arc<Semaphore>,
        stalled_after: Duration,
    ) -> Wire {
        let (input, out, patience) = (BytesMut::new(), BytesMut::new(), Patience::new(stalled_after));
        Wire { socket, input, out, cipher: None, disks, queue, stalled_after, patience }
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
            self.patience.bound(self.socket.read(raw)).await?
        } else {
            self.socket.read(raw).await?
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
            None => self.socket.write_all(&self.out, more, self.stalled_after).await?,
            Some(encrypted) => {
                encrypted.cipher.encryptor.seal(&self.out, &mut encrypted.out);
                self.socket.write_all(&encrypted.out, more, self.stalled_after).await?;
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
        let plain = matches!((&self.socket, &self.cipher), (Socket::Plain(_), None));
        if plain {
            self.flush(true).await?;
        }
        let (mut at, end) = (segment.offset, segment.offset + segment.bytes);
        while at < end {
            let window = WINDOW_BYTES.min(end - at);
            make_resident(&self.disks, &segment.source, at, window).await?;
            match &mut self.socket {
                Socket::Plain(tcp) if plain => {
                    send_file(tcp, &segment.source, at, window, self.stalled_after).await?;
                }
                socket => {
                    let target = (socket, self.cipher.as_deref_mut(), &mut self.out);
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

/// What waits in `out` and a part of a file behind it, by way of memory: encrypted here, by TLS, or both. All
/// connections of a thread share the place where that is done; in `out` stays only what the socket does not take at
/// once.
async fn send_copied(
    (socket, mut cipher, out): (&mut Socket, Option<&mut Encrypted>, &mut BytesMut),
    source: &Source,
    mut at: u64,
    bytes: u64,
    (queue, stalled_after): (&Semaphore, Duration),
) -> io::Result<()> {
    let end = at + bytes;
    while at < end {
        let room = queue.try_acquire_many((BURST_BYTES / 1024) as u32);
        let burst = if room.is_ok() { BURST_BYTES } else { CROWDED_BURST_BYTES }.min(end - at);
        BURST.with_borrow_mut(|place| {
            let ready = gather(cipher.as_deref_mut(), place, out, source, (at, burst as usize))?;
            let sent = socket.try_write(ready, at + burst < end)?;
            out.clear();
            out.extend_from_slice(&ready[sent..]);
            io::Result::Ok(())
        })?;
        at += burst;
        socket.write_all(out, at < end, stalled_after).await?;
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

/// Empties a buffer, and gives back what an idle connection should not keep.
fn empty(buffer: &mut BytesMut) {
    buffer.clear();
    if buffer.capacity() > KEPT_BYTES {
        *buffer = BytesMut::new();
    }
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
    Box::pin(read).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
