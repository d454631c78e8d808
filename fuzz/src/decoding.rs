//! A message as a server takes it: in memory that follows the body's length, and what is accepted can be written and
//! read again.

use bellows_wire::{
    bounds::allowed,
    json::{JsonError, ShapeError},
    media::{DecodeError, Encoding},
};
use bytes::Bytes;
use prost::{Message, Name};

use crate::within;

/// JSON is written as protobuf before it becomes a message, in memory that grows with it.
fn most(encoding: Encoding, bytes: usize) -> usize {
    allowed(bytes) + if encoding == Encoding::Json { 2 * bytes } else { 0 }
}

pub fn decode<T: Message + Name + Default>(encoding: Encoding, body: &[u8]) -> Option<T> {
    // The tables are made once.
    let _ = encoding.decode::<T>(Bytes::from_static(if encoding == Encoding::Json { b"{}" } else { b"" }));
    let (length, body, mut needed) = (body.len(), Bytes::copy_from_slice(body), 0);
    let admit = |memory: usize| {
        needed = memory;
        true
    };
    let decoded = within(most(encoding, length), || encoding.decode_if::<T>(body, admit));
    assert!(needed <= allowed(length), "{needed} bytes were asked for");
    let message = decoded.ok()?;
    let protobuf = message.encode_to_vec();
    let again = T::decode(protobuf.as_slice()).expect("own bytes");
    assert_eq!(again.encode_to_vec(), protobuf);
    json_again(&message);
    Some(message)
}

/// JSON fills in defaults and passes over unknown values, the first time.
fn json_again<T: Message + Name + Default>(message: &T) {
    let mut before: Option<T> = None;
    for _ in 0..2 {
        let text = Encoding::Json.encode(before.as_ref().unwrap_or(message));
        let read = match Encoding::Json.decode::<T>(text.clone()) {
            Ok(read) => read,
            // Its text is shorter than what came.
            Err(DecodeError::Json(JsonError::Shape { problem: ShapeError::TooLarge { .. }, .. })) => return,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&text)),
        };
        if let Some(before) = before {
            assert_eq!(read.encode_to_vec(), before.encode_to_vec(), "{}", String::from_utf8_lossy(&text));
        }
        before = Some(read);
    }
}

/// What one of us says, any of us understands.
pub fn said<T: Message + Name + Default + std::fmt::Debug>(message: &T) -> T {
    let bytes = Encoding::Protobuf.encode(message);
    let heard = Encoding::Protobuf.decode::<T>(bytes).unwrap_or_else(|error| panic!("{error}: {message:?}"));
    let text = Encoding::Json.encode(message);
    Encoding::Json
        .decode::<T>(text.clone())
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)));
    heard
}
