//! What the targets share: memory that is counted, so that a target can say how much an input may cost, and a
//! connection's bytes taken as the service takes them.

pub mod agent;
pub mod decoding;
pub mod master;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::Message;
use bellows_transport::rpc::Rpc;
use bytes::{Bytes, BytesMut};

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        unsafe { System.realloc(at, layout, size) }
    }
}

fn count(bytes: isize) {
    // A thread that ends has nothing more to say.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

/// Runs `work`; it may never hold more than `bytes` beyond what was held before.
pub fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    let done = work();
    let held = PEAK.get() - before;
    assert!(held <= bytes as isize, "{held} bytes were held, {bytes} are allowed");
    done
}

/// The calls of one input.
pub fn calls(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BETWEEN: &[u8] = b"\n--\n";
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let here = rest?;
        let end = here.windows(BETWEEN.len()).position(|part| part == BETWEEN);
        rest = end.map(|end| &here[end + BETWEEN.len()..]);
        Some(&here[..end.unwrap_or(here.len())])
    })
}

/// What a call may cost: a list of empty strings takes 4 bytes each on the wire and 24 in memory, a list that grows
/// has up to twice its size, and thrice while it moves.
pub fn call_allowance(body: usize) -> usize {
    4096 + 48 * body
}

/// One connection's plain bytes, as they arrive: each message is checked, each call decoded, and memory follows what
/// arrived. Returns how many messages there were; nothing when the connection has to be closed.
pub struct Session {
    decoder: FrameDecoder,
    input: BytesMut,
    arrived: usize,
}

/// As small as tests of the bound need it.
pub const MAX_FRAME_BYTES: usize = 1 << 16;

impl Default for Session {
    fn default() -> Session {
        Session { decoder: FrameDecoder::new(MAX_FRAME_BYTES), input: BytesMut::new(), arrived: 0 }
    }
}

impl Session {
    pub fn take(&mut self, piece: &[u8]) -> Option<usize> {
        self.arrived += piece.len();
        let mut messages = 0;
        // Three copies: one that grows, the one it grows into, and what was cut off it.
        let allowed = 4096 + 4 * self.arrived;
        within(allowed, || self.input.extend_from_slice(piece));
        loop {
            match within(allowed, || self.decoder.decode(&mut self.input)) {
                Ok(Decoded::Message(message)) => {
                    check_message(&message);
                    messages += 1;
                    match message {
                        Message::RpcRequest { body, .. } | Message::OneWay { body } => check_call(&body),
                        // As the service refuses it: the body is passed over, however long it says it is.
                        Message::UploadStream { body_bytes, .. } => self.decoder.skip(body_bytes),
                        _ => {}
                    }
                }
                Ok(Decoded::Incomplete(missing)) => {
                    assert!((1..=MAX_FRAME_BYTES + 8).contains(&missing));
                    assert!(self.input.len() < MAX_FRAME_BYTES + 8, "a whole frame waits");
                    return Some(messages);
                }
                Err(_) => return None,
            }
        }
    }
}

/// A message encodes to one frame that decodes to it.
fn check_message(message: &Message) {
    let mut encoded = BytesMut::new();
    message.encode(&mut encoded);
    let again = FrameDecoder::new(MAX_FRAME_BYTES + 16).decode(&mut encoded);
    assert_eq!(again, Ok(Decoded::Message(message.clone())));
    assert!(encoded.is_empty());
}

/// A call or an error; a call encodes to one that is equal, and to no more bytes than it came in.
pub fn check_call(body: &Bytes) {
    let Ok(call) = within(call_allowance(body.len()), || Rpc::decode(body.clone())) else { return };
    if let Rpc::FetchShuffleBlocks(fetch) = &call {
        assert!(fetch.chunks() * 4 <= body.len());
        assert_eq!(fetch.reduces_per_map().count(), fetch.maps.len());
        assert_eq!(fetch.reduces_per_map().map(<[i32]>::len).sum::<usize>(), fetch.reduces.len());
        assert!(!fetch.batch || fetch.reduces.len() == 2 * fetch.maps.len());
    }
    if !matches!(call, Rpc::Unsupported(_)) {
        let encoded = call.encode();
        assert_eq!(encoded.len(), body.len());
        assert_eq!(Rpc::decode(encoded), Ok(call));
    }
}
