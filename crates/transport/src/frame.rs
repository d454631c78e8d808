//! Cuts a byte stream into messages (`TransportFrameDecoder.java`): 8 bytes of length, which count themselves, then
//! the type byte and the message. Memory follows the bytes that arrived, never the length that was announced.

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::DecodeError;
use crate::message::Message;

/// Bytes of a frame's length field.
pub const LENGTH_BYTES: usize = 8;

/// No decoder takes a larger frame, so that whatever is answered with parts of it can be counted in 31 bits.
pub const MAX_FRAME_BYTES: usize = 1 << 30;

/// After any of these the stream cannot be followed further: the connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {bytes} bytes; at most {limit} are taken")]
    TooLarge { bytes: u64, limit: usize },
    #[error("frame without content")]
    Empty,
    #[error(transparent)]
    Message(#[from] DecodeError),
}

/// What the front of the input held.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    Message(Message),
    /// Nothing whole yet; at least this many further bytes are needed.
    Incomplete(usize),
}

/// Holds what must be remembered between frames: how much of a refused upload is still to be passed over.
#[derive(Debug)]
pub struct FrameDecoder {
    max_frame_bytes: usize,
    skip: u64,
}

impl FrameDecoder {
    /// `max_frame_bytes` bounds a frame's content: type byte, fields and body. [`MAX_FRAME_BYTES`] is the most.
    pub fn new(max_frame_bytes: usize) -> FrameDecoder {
        FrameDecoder { max_frame_bytes: max_frame_bytes.min(MAX_FRAME_BYTES), skip: 0 }
    }

    /// Takes the next message off `input`.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, FrameError> {
        self.pass_over(input);
        if self.skip > 0 {
            return Ok(Decoded::Incomplete(1));
        }
        let Some(content_bytes) = self.content_bytes(input)? else {
            return Ok(Decoded::Incomplete(LENGTH_BYTES - input.len()));
        };
        let frame_bytes = LENGTH_BYTES + content_bytes;
        if input.len() < frame_bytes {
            return Ok(Decoded::Incomplete(frame_bytes - input.len()));
        }
        if let Some(message) = Message::decode_chunk_fetch(&input[LENGTH_BYTES..frame_bytes]) {
            input.advance(frame_bytes);
            return Ok(Decoded::Message(message));
        }
        input.advance(LENGTH_BYTES);
        let content: Bytes = input.split_to(content_bytes).freeze();
        Ok(Decoded::Message(Message::decode(content)?))
    }

    /// The next `bytes` of the stream lie outside of any frame and are of no interest (a refused upload's body).
    pub fn skip(&mut self, bytes: u64) {
        self.skip = self.skip.saturating_add(bytes);
    }

    fn pass_over(&mut self, input: &mut BytesMut) {
        let now = usize::try_from(self.skip).unwrap_or(usize::MAX).min(input.len());
        input.advance(now);
        self.skip -= now as u64;
    }

    fn content_bytes(&self, input: &BytesMut) -> Result<Option<usize>, FrameError> {
        let Some(length) = input.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u64::from_be_bytes(*length);
        let content = length.saturating_sub(LENGTH_BYTES as u64);
        if content == 0 {
            return Err(FrameError::Empty);
        }
        match usize::try_from(content) {
            Ok(bytes) if bytes <= self.max_frame_bytes => Ok(Some(bytes)),
            _ => Err(FrameError::TooLarge { bytes: content, limit: self.max_frame_bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_no_frame_is_longer_than_a_count_reaches() {
        let mut decoder = FrameDecoder::new(usize::MAX);
        for (content, taken) in [(MAX_FRAME_BYTES as u64, true), (MAX_FRAME_BYTES as u64 + 1, false)] {
            let mut input = BytesMut::from(&(content + LENGTH_BYTES as u64).to_be_bytes()[..]);
            assert_eq!(decoder.decode(&mut input).is_ok(), taken);
        }
    }
}
