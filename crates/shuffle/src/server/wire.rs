//! The bytes of one connection: what was read and not yet understood, what is written and not yet taken. File parts
//! go from the page cache to the socket without passing through here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::Advice;
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::blocks::{Segment, Source};

/// Up to here a block is copied behind its header, and several blocks leave in one write; beyond, `sendfile` is
/// cheaper.
const MAX_COPIED_BYTES: u64 = 32 << 10;
/// Copied answers are held back for each other up to this much.
const FLUSH_AT_BYTES: usize = 64 << 10;
/// File bytes that are made sure to be in memory before they are sent.
const WINDOW_BYTES: u64 = 1 << 20;
const READ_BYTES: usize = 4 << 10;
/// An idle connection keeps no more than this.
const KEPT_BYTES: usize = 16 << 10;

pub(super) struct Wire {
    socket: TcpStream,
    pub(super) input: BytesMut,
    pub(super) out: BytesMut,
    stalled_after: Duration,
}

impl Wire {
    pub(super) fn new(socket: TcpStream, stalled_after: Duration) -> Wire {
        Wire { socket, input: BytesMut::new(), out: BytesMut::new(), stalled_after }
    }

    pub(super) fn wants_flush(&self) -> bool {
        self.out.len() >= FLUSH_AT_BYTES
    }

    /// Reads what is there; false at the end. In the middle of a message the peer has to go on within the bound.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        let within_message = !self.input.is_empty();
        loop {
            self.input.reserve(READ_BYTES);
            match self.socket.try_read_buf(&mut self.input) {
                Ok(read) => return Ok(read > 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if within_message {
                in_time(self.stalled_after, self.socket.readable()).await?;
            } else {
                self.input = BytesMut::new();
                self.socket.readable().await?;
            }
        }
    }

    /// Hands everything to the socket. `more` says that a file part follows at once.
    pub(super) async fn flush(&mut self, more: bool) -> io::Result<()> {
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let (socket, out) = (&self.socket, &self.out);
        let mut sent = 0;
        while sent < out.len() {
            let send = || Ok(rustix::net::send(socket, &out[sent..], flags)?);
            sent += when_writable(socket, self.stalled_after, send).await?;
        }
        self.out.clear();
        if self.out.capacity() > KEPT_BYTES {
            self.out = BytesMut::new();
        }
        Ok(())
    }

    /// Appends a small part of a file, or says that it is too large to be copied. On an error nothing was appended.
    pub(super) async fn copy_segment(&mut self, segment: &Segment) -> io::Result<()> {
        let start = self.out.len();
        let bytes = segment.bytes as usize;
        self.out.resize(start + bytes, 0);
        let resident = segment.source.read_resident(&mut self.out[start..], segment.offset);
        let read = match resident {
            Ok(got) if got == bytes => return Ok(()),
            Ok(got) => {
                let rest = read_cold(&segment.source, segment.offset + got as u64, bytes - got).await;
                rest.map(|rest| self.out[start + got..].copy_from_slice(&rest))
            }
            Err(error) => Err(error),
        };
        if read.is_err() {
            self.out.truncate(start);
        }
        read
    }

    pub(super) fn copies(&self, segment: &Segment) -> bool {
        segment.bytes <= MAX_COPIED_BYTES
    }

    /// Sends what waits, then the part of the file. After an error the connection cannot be used further.
    pub(super) async fn send_segment(&mut self, segment: &Segment) -> io::Result<()> {
        self.flush(true).await?;
        let (mut at, end) = (segment.offset, segment.offset + segment.bytes);
        while at < end {
            let window = WINDOW_BYTES.min(end - at);
            make_resident(&segment.source, at, window, end).await?;
            let window_end = at + window;
            while at < window_end {
                let count = (window_end - at) as usize;
                let (socket, source) = (&self.socket, &*segment.source);
                let mut offset = at;
                let send = || Ok(rustix::fs::sendfile(socket, source, Some(&mut offset), count)?);
                match when_writable(socket, self.stalled_after, send).await? {
                    0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
                    sent => at += sent as u64,
                }
            }
        }
        Ok(())
    }
}

/// Tries at once, then again whenever the socket takes more; a peer that takes nothing for too long is given up.
async fn when_writable(
    socket: &TcpStream,
    stalled_after: Duration,
    mut send: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match socket.try_io(Interest::WRITABLE, &mut send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                in_time(stalled_after, socket.writable()).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

async fn in_time<T>(bound: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(bound, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer stalled")),
    }
}

/// Waits, on another thread, until the window can be sent without waiting for a disk; asks for the next one early.
async fn make_resident(source: &Arc<Source>, at: u64, window: u64, end: u64) -> io::Result<()> {
    let mut byte = [0];
    // Read-ahead brings whole ranges: where both ends are there, so is the middle, nearly always.
    let ends_resident =
        source.read_resident(&mut byte, at + window - 1)? == 1 && source.read_resident(&mut byte, at)? == 1;
    if ends_resident {
        return Ok(());
    }
    let source = source.clone();
    let read = tokio::task::spawn_blocking(move || {
        let ahead = WINDOW_BYTES.min(end - (at + window));
        // Advice only: without it the disk is merely asked later.
        let _ = rustix::fs::fadvise(&source, at, std::num::NonZeroU64::new(window + ahead), Advice::WillNeed);
        let mut buffer = vec![0; 64 << 10];
        let (mut at, end) = (at, at + window);
        while at < end {
            let step = (buffer.len() as u64).min(end - at);
            source.read_exact(&mut buffer[..step as usize], at)?;
            at += step;
        }
        Ok(())
    });
    read.await.map_err(io::Error::other)?
}

async fn read_cold(source: &Arc<Source>, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let source = source.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; bytes];
        source.read_exact(&mut buffer, offset).map(|()| buffer)
    });
    read.await.map_err(io::Error::other)?
}
