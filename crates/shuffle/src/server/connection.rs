//! One connection, from its first byte to its last: takes requests in turn, answers each. Small answers to requests
//! that arrived together leave together, and on an encrypted connection large ones too; but none waits for the disk of
//! another.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bellows_transport::auth::{ServerAuth, Step};
use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::{ChunkId, Message, put_chunk_header};
use bellows_transport::rpc::Rpc;
use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::calls;
use super::outgoing::Unread;
use super::places::{For, OWN_BYTES, Place};
use super::socket::Socket;
use super::streams::{Chunk, StreamError, Streams, Taken, parse_stream_name};
use super::wire::{MAX_COPIED_BYTES, Unsent, Wire};
use crate::blocks::{BlockError, Segment};
use crate::metrics::ErrorKind;
use crate::service::{CallError, Service};
use crate::told;

/// Why a connection ends. Its client then sees an I/O error, which it answers with a retry.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error("the peer closed")]
    ByPeer,
    #[error("the service stops")]
    Stopping,
    #[error("another needed the place")]
    MadeRoom,
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("{}: {}", .0.source.path().display(), .0.error)]
    Unread(Unread),
    #[error("{1}")]
    Refused(ErrorKind, String),
}

impl From<Unsent> for Closed {
    fn from(unsent: Unsent) -> Closed {
        match unsent {
            Unsent::Socket(error) => Closed::Failed(error),
            Unsent::File(Unread { error, .. }) if is_own_limit(&error) => {
                Closed::Refused(ErrorKind::Limit, error.to_string())
            }
            Unsent::File(unread) => Closed::Unread(unread),
        }
    }
}

pub(super) struct Connection {
    wire: Wire,
    decoder: FrameDecoder,
    pub(super) streams: Streams,
    pub(super) service: Arc<Service>,
    peer: Peer,
    pub(super) place: Place,
    batch: Option<Batch>,
}

/// The requests for chunks whose answers wait for a flush.
struct Batch {
    /// When the first was taken up.
    start: Instant,
    requests: u64,
}

/// Whom the connection speaks for.
enum Peer {
    /// Authentication is off.
    Anyone,
    Unproven(Box<ServerAuth>),
    App(String),
}

impl Connection {
    pub(super) fn new(socket: Socket, service: Arc<Service>, place: Place) -> Connection {
        let limits = &service.config.limits;
        Connection {
            wire: Wire::new(socket, service.disks.clone(), service.unsent.clone(), limits.stalled_after),
            decoder: FrameDecoder::new(limits.request_bytes),
            streams: Streams::new(limits.streams_per_connection),
            peer: match service.security.authenticator() {
                None => Peer::Anyone,
                Some(auth) => Peer::Unproven(Box::new(auth)),
            },
            service,
            place,
            batch: None,
        }
    }

    /// Whether this connection may ask for what the call names.
    pub(super) fn authorize(&self, call: &Rpc) -> Result<(), CallError> {
        match (&self.peer, call.app()) {
            (Peer::Anyone, _) | (_, None) => Ok(()),
            (Peer::App(own), Some(asked)) if own == asked => Ok(()),
            (Peer::App(own), Some(asked)) => {
                Err(CallError::Forbidden(format!("Client for {own} not authorized for application {asked}.")))
            }
            (Peer::Unproven(_), Some(_)) => Err(CallError::Forbidden("not authenticated".to_owned())),
        }
    }

    pub(super) async fn run(&mut self, stop: &CancellationToken) {
        let closed = loop {
            if let Err(closed) = self.turn(stop).await {
                break closed;
            }
        };
        match closed {
            Closed::ByPeer | Closed::Stopping | Closed::MadeRoom => {}
            Closed::Failed(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.service.metrics.error(ErrorKind::Stalled);
                tracing::info!("connection cut: the peer is too slow, or takes nothing");
            }
            Closed::Failed(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.service.metrics.error(ErrorKind::Forbidden);
                tracing::warn!(%error, "connection closed");
            }
            Closed::Failed(error) => tracing::debug!(%error, "connection lost"),
            Closed::Unread(Unread { source, error }) => self.service.disk_error(source.path(), &error),
            Closed::Refused(kind, reason) => {
                self.service.metrics.error(kind);
                tracing::warn!(reason = %told::to_log(reason), "connection closed");
            }
        }
    }

    /// Handles the next message, or brings more bytes.
    async fn turn(&mut self, stop: &CancellationToken) -> Result<(), Closed> {
        let decoded = self.decoder.decode(&mut self.wire.input);
        if matches!((&decoded, &self.peer), (Ok(Decoded::Message(_)), Peer::Anyone | Peer::App(_))) {
            self.wire.message_arrived();
        }
        match decoded.map_err(|e| Closed::Refused(ErrorKind::BadMessage, e.to_string()))? {
            Decoded::Message(message) => {
                match message {
                    message if matches!(self.peer, Peer::Unproven(_)) => {
                        Box::pin(self.authenticate(message)).await?;
                    }
                    Message::ChunkFetchRequest(id) => self.send_chunk(id).await?,
                    // Boxed: what is rare must not make every connection's task larger.
                    message => Box::pin(self.handle(message)).await?,
                }
                if self.wire.wants_flush() {
                    self.flush().await?;
                }
                self.place.shrink_to(For::Requests, 0);
                Ok(())
            }
            Decoded::Incomplete(missing) => {
                self.admit(self.wire.input.len(), missing)?;
                self.flush().await?;
                let hurry = matches!(self.peer, Peer::Unproven(_));
                self.place.silent();
                let filled = tokio::select! {
                    biased;
                    filled = self.wire.fill(hurry) => filled?,
                    () = stop.cancelled() => return Err(Closed::Stopping),
                };
                if !self.place.busy() {
                    return Err(Closed::MadeRoom);
                }
                if filled { Ok(()) } else { Err(Closed::ByPeer) }
            }
        }
    }

    /// Many large requests at once must not take all memory. Room is for what has arrived: what is only announced keeps
    /// nobody out.
    fn admit(&mut self, arrived: usize, missing: usize) -> Result<(), Closed> {
        let bytes = arrived + missing;
        if bytes > OWN_BYTES && matches!(self.peer, Peer::Unproven(_)) {
            let reason = format!("a request of {bytes} bytes before authentication");
            return Err(Closed::Refused(ErrorKind::Forbidden, reason));
        }
        self.grow_to(For::Requests, arrived).map_err(|full| Closed::Refused(full.kind(), full.to_string()))
    }

    /// Makes what this connection has of a memory at least so large.
    pub(super) fn grow_to(&mut self, what_for: For, bytes: usize) -> Result<(), CallError> {
        let others_lost = self.place.grow_to(what_for, bytes)?;
        self.others_lost(others_lost);
        Ok(())
    }

    pub(super) fn others_lost(&self, others_lost: usize) {
        if others_lost > 0 {
            tracing::info!(others_lost, "silent connections made room for another's request or streams");
            (0..others_lost).for_each(|_| self.service.metrics.error(ErrorKind::Limit));
        }
    }

    /// Nothing but the exchange is answered until the peer has proven whom it speaks for.
    async fn authenticate(&mut self, message: Message) -> Result<(), Closed> {
        let forbidden = |reason: String| Closed::Refused(ErrorKind::Forbidden, reason);
        let (Message::RpcRequest { request, body }, Peer::Unproven(auth)) = (message, &mut self.peer) else {
            return Err(forbidden("a request before authentication".to_owned()));
        };
        match auth.receive(body) {
            Ok(Step::Reply(body)) => {
                Message::RpcResponse { request, body }.encode(&mut self.wire.out.bytes);
                Ok(())
            }
            Ok(Step::Established { reply, app, cipher }) => {
                Message::RpcResponse { request, body: reply }.encode(&mut self.wire.out.bytes);
                self.flush().await?;
                if let Some(cipher) = cipher {
                    self.wire.encrypt(*cipher)?;
                }
                self.peer = Peer::App(app);
                self.wire.message_arrived();
                Ok(())
            }
            Err(refused) => {
                Message::RpcFailure { request, error: refused.to_string() }.encode(&mut self.wire.out.bytes);
                self.flush().await?;
                Err(forbidden(format!("{refused:?}")))
            }
        }
    }

    async fn handle(&mut self, message: Message) -> Result<(), Closed> {
        match message {
            Message::RpcRequest { request, body } => {
                let start = Instant::now();
                let answer = match self.answer(body).await? {
                    Ok(body) => Message::RpcResponse { request, body },
                    Err(error) => Message::RpcFailure { request, error: self.for_client(error)? },
                };
                self.service.metrics.latency.record(start.elapsed(), 1);
                answer.encode(&mut self.wire.out.bytes);
            }
            Message::OneWay { body } => {
                if let Err(error) = self.answer(body).await? {
                    self.service.note(&error);
                }
            }
            Message::StreamRequest { stream } => self.send_stream(stream).await?,
            Message::UploadStream { request, body_bytes, .. } => {
                self.decoder.skip(body_bytes);
                self.refuse(request, "this service does not take pushed blocks");
            }
            Message::MergedBlockMetaRequest { request, .. } => {
                self.refuse(request, "this service does not merge shuffle blocks");
            }
            other => {
                let reason = told::to_log(format_args!("a client sends no such message: {other:?}"));
                return Err(Closed::Refused(ErrorKind::BadMessage, reason));
            }
        }
        Ok(())
    }

    /// The inner error is for the client.
    async fn answer(&mut self, body: Bytes) -> Result<Result<Bytes, CallError>, Closed> {
        let bytes = body.len();
        let call = match calls::admit(self, body) {
            Ok(call) => call,
            Err(error) => return Ok(Err(error)),
        };
        if calls::waits(&call) {
            self.flush().await?;
        }
        Ok(calls::answer(self, bytes, call).await)
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        self.wire.flush().await?;
        if let Some(batch) = self.batch.take() {
            self.answered(&batch);
        }
        Ok(())
    }

    /// What waits leaves before a disk is waited for; of the batch are then `own`, whose answers are yet to come.
    async fn flush_others(&mut self, own: u64) -> Result<(), Closed> {
        self.wire.flush().await?;
        if let Some(batch) = &mut self.batch {
            let others = Batch { start: batch.start, requests: batch.requests - own };
            *batch = Batch { start: Instant::now(), requests: own };
            self.answered(&others);
        }
        Ok(())
    }

    fn answered(&self, batch: &Batch) {
        if batch.requests == 0 {
            return; // How long nobody waited is no latency.
        }
        self.service.metrics.latency.record(batch.start.elapsed(), batch.requests);
        self.service.metrics.chunks_in_flight.subtract(batch.requests);
    }

    async fn send_chunk(&mut self, id: ChunkId) -> Result<(), Closed> {
        self.batch.get_or_insert_with(|| Batch { start: Instant::now(), requests: 0 }).requests += 1;
        self.service.metrics.chunks_in_flight.add(1);
        let header = |bytes, out: &mut BytesMut| put_chunk_header(out, id, bytes);
        if let Err(error) = self.put_chunk(id, 1, header).await? {
            Message::ChunkFetchFailure { id, error }.encode(&mut self.wire.out.bytes);
        }
        Ok(())
    }

    async fn send_stream(&mut self, stream: String) -> Result<(), Closed> {
        let service = self.service.clone();
        let _in_flight = service.metrics.chunks_in_flight.enter();
        let start = Instant::now();
        let Some(id) = parse_stream_name(&stream) else {
            let error = told::to_peer(format_args!("Stream '{stream}' was not found."));
            Message::StreamFailure { stream, error }.encode(&mut self.wire.out.bytes);
            return Ok(());
        };
        let header = |body_bytes, out: &mut BytesMut| {
            Message::StreamResponse { stream: stream.clone(), body_bytes }.encode(out);
        };
        if let Err(error) = self.put_chunk(id, 0, header).await? {
            Message::StreamFailure { stream, error }.encode(&mut self.wire.out.bytes);
        }
        self.flush().await?;
        service.metrics.latency.record(start.elapsed(), 1);
        Ok(())
    }

    /// Has the next chunk of a stream wait for a flush, behind its header. The batch counts it `own` times. The inner
    /// error is for the client, and nothing waits then; the outer ends the connection.
    async fn put_chunk(
        &mut self,
        id: ChunkId,
        own: u64,
        header: impl Fn(u64, &mut BytesMut),
    ) -> Result<Result<(), String>, Closed> {
        let taken = match self.streams.take(id, &mut self.place) {
            Ok(taken) => taken,
            // Spark's service answers "Requested chunk not available since streamId ... is closed", which is final
            // for its client. On purpose not so here: on a new connection the client opens the stream anew.
            Err(StreamError::Unknown) => {
                let reason = format!("stream {} is not open", id.stream);
                return Err(Closed::Refused(ErrorKind::BadMessage, reason));
            }
            Err(StreamError::OutOfOrder(reason)) => {
                self.service.metrics.error(ErrorKind::BadMessage);
                return Ok(Err(format!("java.lang.IllegalStateException: {reason}")));
            }
        };
        let found = match self.find(&taken) {
            Some(found) => found,
            None => {
                // Boxed: what is rare must not make every connection's task larger.
                Box::pin(self.flush_others(own)).await?;
                Box::pin(self.load(&taken)).await
            }
        };
        let segment = match found {
            Ok(segment) => segment,
            Err(error) => return self.for_client(error).map(Err),
        };
        let bytes = segment.as_ref().map_or(0, |segment| segment.bytes);
        let begin = |wire: &mut Wire| {
            let before = wire.out.bytes.len();
            header(bytes, &mut wire.out.bytes);
            before
        };
        let mut before = begin(&mut self.wire);
        match segment {
            None => {}
            Some(segment) if segment.bytes > MAX_COPIED_BYTES => self.wire.out.push(segment),
            Some(segment) => {
                let mut copied = self.wire.copy_resident(&segment);
                if let Ok(false) = copied {
                    self.wire.out.bytes.truncate(before);
                    Box::pin(self.flush_others(own)).await?;
                    before = begin(&mut self.wire);
                    copied = Box::pin(self.wire.copy_cold(&segment)).await.map(|()| true);
                }
                if let Err(source) = copied {
                    self.wire.out.bytes.truncate(before);
                    let path = segment.source.path().to_owned();
                    return self.for_client(BlockError::Disk { path, source }.into()).map(Err);
                }
            }
        }
        self.service.served(&taken.app, &taken.executor, taken.chunk.blocks(), bytes);
        Ok(Ok(()))
    }

    /// Where the chunk lies, if that waits for nothing; nothing in it for an empty block of an output without data.
    fn find(&self, taken: &Taken) -> Option<Result<Option<Segment>, CallError>> {
        let (service, executor) = (&self.service, &taken.executor);
        match taken.chunk {
            Chunk::Shuffle { shuffle, map, start, end } => {
                let output = service.output_at_hand(executor, (shuffle, map), taken.asked)?;
                Some(output.partitions(start, end).map_err(CallError::from))
            }
            Chunk::Rdd { rdd, split } => service.rdd_block_at_hand(executor, rdd, split).map(|s| Ok(Some(s))),
        }
    }

    /// The same from disk.
    async fn load(&self, taken: &Taken) -> Result<Option<Segment>, CallError> {
        let (service, executor) = (&self.service, &taken.executor);
        match taken.chunk {
            Chunk::Shuffle { shuffle, map, start, end } => {
                service.load_partitions(executor, (shuffle, map), (start, end), taken.asked).await
            }
            Chunk::Rdd { rdd, split } => service.load_rdd_block(executor, rdd, split).await.map(Some),
        }
    }

    /// What the client is told.
    fn for_client(&self, error: CallError) -> Result<String, Closed> {
        let error = may_pass(error)?;
        self.service.note(&error);
        Ok(told::to_peer(error))
    }

    fn refuse(&mut self, request: i64, reason: &str) {
        let error = CallError::Unsupported(reason.to_owned());
        self.service.note(&error);
        Message::RpcFailure { request, error: error.to_string() }.encode(&mut self.wire.out.bytes);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let requests = self.batch.as_ref().map_or(0, |batch| batch.requests);
        self.service.metrics.chunks_in_flight.subtract(requests);
    }
}

/// Errors that may pass close the connection: Spark retries those, and takes any it is told for final.
fn may_pass(error: CallError) -> Result<CallError, Closed> {
    match error {
        CallError::RetryLater(reason) => Err(Closed::Refused(ErrorKind::Limit, reason)),
        // After a restart it is let in again.
        CallError::Stopping => Err(Closed::Stopping),
        CallError::Block(BlockError::Disk { ref source, .. }) if is_own_limit(source) => {
            Err(Closed::Refused(ErrorKind::Limit, error.to_string()))
        }
        error => Ok(error),
    }
}

/// Not a failure of the disk that was to be read.
fn is_own_limit(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// An answer that says only that it worked.
pub(super) fn done() -> Bytes {
    Bytes::new()
}
