//! RecordIO framing: each record is its length in decimal digits, a newline, then so many bytes.
//! It knows nothing of what the records hold.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Large enough for the SUBSCRIBED of a full operator stream, small enough to hold in memory.
pub const DEFAULT_MAX_RECORD_BYTES: usize = 64 * 1024 * 1024;

/// Digits that a length may have; more cannot be a length that any bound allows.
const MAX_HEADER_DIGITS: usize = 12;

/// Why a stream of records cannot be read on. The decoder that gave it gives it again for every later call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("expected a record's length in decimal digits, found '{0}'")]
    BadLength(String),
    #[error("a record of {length} bytes exceeds the limit of {max} bytes")]
    TooLong { length: u64, max: usize },
    #[error("the stream ended within a record, after {had} bytes of it")]
    Truncated { had: usize },
}

/// Turns chunks of any size into records. Holds at most what was pushed and not yet taken, so a caller that takes
/// all records after each push holds no more than one record and one chunk.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// Length of the record whose header has been read.
    pending: Option<usize>,
    max_record_bytes: usize,
    failed: Option<RecordError>,
}

impl Decoder {
    /// A decoder that refuses records longer than this many bytes.
    pub fn new(max_record_bytes: usize) -> Self {
        Self { buffer: BytesMut::new(), pending: None, max_record_bytes, failed: None }
    }

    /// Takes the next bytes of the stream, however they were cut.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(chunk);
        }
    }

    /// The next whole record, or `None` until more bytes come.
    pub fn next_record(&mut self) -> Result<Option<Bytes>, RecordError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.advance().inspect_err(|error| {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        })
    }

    /// How many bytes it holds: those of a record that is not whole yet, once all whole ones were taken.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Whether a record has begun and is not whole.
    pub fn is_within_record(&self) -> bool {
        !self.buffer.is_empty() || self.pending.is_some()
    }

    /// To be asked at the stream's end: an error unless it ended between two records.
    pub fn finish(&self) -> Result<(), RecordError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.buffer.is_empty() && self.pending.is_none() => Ok(()),
            None => Err(RecordError::Truncated { had: self.buffer.len() }),
        }
    }

    fn advance(&mut self) -> Result<Option<Bytes>, RecordError> {
        let length = match self.pending {
            Some(length) => length,
            None => match self.header()? {
                Some(length) => *self.pending.insert(length),
                None => return Ok(None),
            },
        };
        if self.buffer.len() < length {
            return Ok(None);
        }
        self.pending = None;
        let record = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // What a long record took is not kept for the next.
            self.buffer = BytesMut::new();
        }
        Ok(Some(record))
    }

    fn header(&mut self) -> Result<Option<usize>, RecordError> {
        let digits = self.buffer.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let bad = |buffer: &BytesMut| {
            let shown = &buffer[..buffer.len().min(2 * MAX_HEADER_DIGITS)];
            RecordError::BadLength(shown.escape_ascii().to_string())
        };
        if digits > MAX_HEADER_DIGITS {
            return Err(bad(&self.buffer));
        }
        match self.buffer.get(digits) {
            None => return Ok(None),
            Some(b'\n') if digits > 0 => {}
            Some(_) => return Err(bad(&self.buffer)),
        }
        let length = self.buffer[..digits].iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        let max = self.max_record_bytes;
        let fits = usize::try_from(length).ok().filter(|length| *length <= max);
        let length = fits.ok_or(RecordError::TooLong { length, max })?;
        self.buffer.advance(digits + 1);
        Ok(Some(length))
    }
}

/// One record as one buffer, length and body together: some clients need them in one HTTP chunk.
pub fn encode(record: &[u8]) -> Bytes {
    let mut out = with_header(record.len());
    out.put_slice(record);
    out.freeze()
}

/// [`encode`] of a message's protobuf form, without a copy between.
pub fn encode_message(message: &impl Message) -> Bytes {
    let mut out = with_header(message.encoded_len());
    message.encode(&mut out).expect("invariant: BytesMut grows");
    out.freeze()
}

fn with_header(length: usize) -> BytesMut {
    let header = length.to_string();
    let mut out = BytesMut::with_capacity(header.len() + 1 + length);
    out.put_slice(header.as_bytes());
    out.put_u8(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(decoder: &mut Decoder) -> Result<Vec<Bytes>, RecordError> {
        std::iter::from_fn(|| decoder.next_record().transpose()).collect()
    }

    #[test]
    fn names_what_is_wrong() {
        for (bytes, expected) in [
            (&b"x\n"[..], RecordError::BadLength("x\\n".into())),
            (b"\nabc", RecordError::BadLength("\\nabc".into())),
            (b"-1\n", RecordError::BadLength("-1\\n".into())),
            (b"1234567890123", RecordError::BadLength("1234567890123".into())),
            (b"11\n", RecordError::TooLong { length: 11, max: 10 }),
            (b"999999999999\n", RecordError::TooLong { length: 999_999_999_999, max: 10 }),
        ] {
            let mut decoder = Decoder::new(10);
            decoder.push(bytes);
            assert_eq!(decoder.next_record(), Err(expected.clone()), "{}", bytes.escape_ascii());
            decoder.push(b"1\na");
            assert_eq!(decoder.next_record(), Err(expected.clone()), "it stays failed");
            assert_eq!(decoder.finish(), Err(expected));
        }
    }

    #[test]
    fn an_end_within_a_record_is_told() {
        for (bytes, had) in [(&b"3"[..], 1), (b"3\n", 0), (b"3\nab", 2)] {
            let mut decoder = Decoder::new(10);
            decoder.push(bytes);
            assert_eq!(decoder.next_record(), Ok(None));
            assert_eq!(decoder.finish(), Err(RecordError::Truncated { had }));
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_records(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            cuts in proptest::collection::vec(1usize..20, 1..30),
        ) {
            let stream: Vec<u8> = records.iter().flat_map(|record| encode(record)).collect();
            let mut decoder = Decoder::new(40);
            let (mut got, mut rest, mut cuts) = (Vec::new(), stream.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at((*cuts.next().expect("cycles")).min(rest.len()));
                decoder.push(chunk);
                got.extend(drain(&mut decoder).expect("valid"));
                rest = tail;
            }
            prop_assert_eq!(got, records);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }

        #[test]
        fn garbage_is_refused_or_bounded(chunks in proptest::collection::vec(
            prop_oneof![proptest::collection::vec(any::<u8>(), 0..64), "[0-9]{0,14}\n?".prop_map(String::into_bytes)],
            0..16,
        )) {
            let mut decoder = Decoder::new(100);
            for chunk in chunks {
                decoder.push(&chunk);
                if let Ok(records) = drain(&mut decoder) {
                    prop_assert!(records.iter().all(|record| record.len() <= 100));
                }
                prop_assert!(decoder.buffer.len() < 100 + MAX_HEADER_DIGITS + 64);
            }
        }
    }
}
