//! Reading and writing the few primitive types of Spark's encoders (`network-common`, `protocol/Encoders.java`).
//! Every count is held against the bytes that are really there before anything is allocated for it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that are not the message they claim to be. The peer's fault; the text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("message ends within {0}")]
    Truncated(&'static str),
    #[error("{0} announces a length that the message cannot hold")]
    Length(&'static str),
    #[error("{0} is not UTF-8")]
    Utf8(&'static str),
    #[error("unknown message type {0}")]
    UnknownType(u8),
    #[error("{0}")]
    Invalid(&'static str),
}

pub(crate) type Result<T> = std::result::Result<T, DecodeError>;

/// Takes fields off the front of one message.
pub(crate) struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Reader {
        Reader { bytes }
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8> {
        self.need(1, field)?;
        Ok(self.bytes.get_u8())
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32> {
        self.need(4, field)?;
        Ok(self.bytes.get_i32())
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64> {
        self.need(8, field)?;
        Ok(self.bytes.get_i64())
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64> {
        self.need(8, field)?;
        Ok(self.bytes.get_u64())
    }

    /// An element count, each element taking at least `element_bytes` of what remains.
    pub(crate) fn count(&mut self, element_bytes: usize, field: &'static str) -> Result<usize> {
        let count = usize::try_from(self.i32(field)?).map_err(|_| DecodeError::Length(field))?;
        if count > self.bytes.len() / element_bytes {
            return Err(DecodeError::Length(field));
        }
        Ok(count)
    }

    pub(crate) fn byte_array(&mut self, field: &'static str) -> Result<Bytes> {
        let length = self.count(1, field)?;
        Ok(self.bytes.split_to(length))
    }

    pub(crate) fn string(&mut self, field: &'static str) -> Result<String> {
        let bytes = self.byte_array(field)?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| DecodeError::Utf8(field))
    }

    pub(crate) fn strings(&mut self, field: &'static str) -> Result<Vec<String>> {
        let count = self.count(4, field)?;
        (0..count).map(|_| self.string(field)).collect()
    }

    pub(crate) fn ints(&mut self, field: &'static str) -> Result<Vec<i32>> {
        let count = self.count(4, field)?;
        (0..count).map(|_| self.i32(field)).collect()
    }

    pub(crate) fn longs(&mut self, field: &'static str) -> Result<Vec<i64>> {
        let count = self.count(8, field)?;
        (0..count).map(|_| self.i64(field)).collect()
    }

    /// What is left of the message.
    pub(crate) fn rest(self) -> Bytes {
        self.bytes
    }

    /// For a message that is complete: more bytes mean that the two sides disagree about what it is.
    pub(crate) fn end(self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Invalid("bytes after the message")) }
    }

    fn need(&self, bytes: usize, field: &'static str) -> Result<()> {
        if self.bytes.len() < bytes { Err(DecodeError::Truncated(field)) } else { Ok(()) }
    }
}

pub(crate) fn put_count(out: &mut BytesMut, count: usize) {
    out.put_i32(i32::try_from(count).expect("what is sent is no longer than what may be received"));
}

pub(crate) fn put_byte_array(out: &mut BytesMut, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

pub(crate) fn put_string(out: &mut BytesMut, text: &str) {
    put_byte_array(out, text.as_bytes());
}

pub(crate) fn put_strings(out: &mut BytesMut, strings: &[String]) {
    put_count(out, strings.len());
    strings.iter().for_each(|s| put_string(out, s));
}

pub(crate) fn put_ints(out: &mut BytesMut, ints: &[i32]) {
    put_count(out, ints.len());
    ints.iter().for_each(|&i| out.put_i32(i));
}

pub(crate) fn put_longs(out: &mut BytesMut, longs: &[i64]) {
    put_count(out, longs.len());
    longs.iter().for_each(|&l| out.put_i64(l));
}
