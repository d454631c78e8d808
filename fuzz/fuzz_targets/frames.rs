//! A connection's bytes, in pieces: decoding ends, what was decoded encodes to what was read, memory stays bounded.
#![no_main]

use bellows_transport::frame::{Decoded, FrameDecoder};
use bellows_transport::message::Message;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

const MAX_FRAME_BYTES: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES);
    let mut input = BytesMut::new();
    for piece in stream.chunks(usize::from(piece).max(1)) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Decoded::Message(message)) => check(&message),
                Ok(Decoded::Incomplete(missing)) => {
                    assert!(missing > 0);
                    break;
                }
                Err(_) => return,
            }
        }
    }
});

fn check(message: &Message) {
    let mut encoded = BytesMut::new();
    message.encode(&mut encoded);
    let again = FrameDecoder::new(MAX_FRAME_BYTES + 16).decode(&mut encoded);
    assert_eq!(again, Ok(Decoded::Message(message.clone())));
    if let Message::UploadStream { body_bytes, .. } = message {
        FrameDecoder::new(MAX_FRAME_BYTES).skip(*body_bytes);
    }
}
