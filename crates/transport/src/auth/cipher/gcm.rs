//! AES-GCM in messages (`crypto/GcmTransportCipher.java`, which builds on Tink's streaming AEAD with HKDF):
//! 8 bytes of length that count themselves, Tink's header (its own length, a salt, a nonce prefix), then segments of
//! 32 KiB with a tag each. Every message has a key of its own, derived from the salt and the length.

use std::convert::Infallible;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{Buf, BufMut, BytesMut};
use zeroize::Zeroizing;

use super::CipherError;
use crate::auth::engine::{derive, random};

const LENGTH_BYTES: usize = 8;
const PREFIX_BYTES: usize = 7;
const TAG_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 32 * 1024;
const PLAIN_SEGMENT_BYTES: usize = SEGMENT_BYTES - TAG_BYTES;

/// Whether a stream that begins so may be of messages under a key of this length. Requests have less than 4 GiB.
pub(super) fn begins_message(key_bytes: usize, head: &[u8]) -> bool {
    head.len() > LENGTH_BYTES
        && head[..4] == [0; 4]
        && usize::from(head[LENGTH_BYTES]) == header_bytes(key_bytes)
}

fn header_bytes(key_bytes: usize) -> usize {
    1 + key_bytes + PREFIX_BYTES
}

/// The session's key; no message is encrypted with it directly.
pub(super) struct GcmKey(Zeroizing<Vec<u8>>);

impl GcmKey {
    /// `key` has 16 or 32 bytes.
    pub(super) fn new(key: &[u8]) -> GcmKey {
        GcmKey(Zeroizing::new(key.to_vec()))
    }

    /// How long a message of `bytes` plain bytes is.
    pub(super) fn sealed_bytes(&self, bytes: usize) -> usize {
        LENGTH_BYTES + self.header_bytes() + bytes + bytes.div_ceil(PLAIN_SEGMENT_BYTES) * TAG_BYTES
    }

    /// Makes `out` one message, whose plain bytes `fill` writes segment by segment.
    pub(super) fn seal<E>(
        &self,
        out: &mut [u8],
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.seal_segments(out, |plain, tag, key, nonce| {
            fill(plain)?;
            let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), plain);
            tag.copy_from_slice(sealed.expect("AES-GCM takes a segment").as_ref());
            Ok(())
        })
    }

    /// Makes `out` a message of `plain`. Unlike [`GcmKey::seal`] it reads and writes every byte once.
    pub(super) fn seal_slice(&self, mut plain: &[u8], out: &mut [u8]) {
        let sealed = self.seal_segments(out, |sealed, tag, key, nonce| {
            let (now, later) = plain.split_at(sealed.len());
            plain = later;
            key.seal_out_of_place_scatter(nonce, Aad::empty(), now, sealed, &[], tag)
                .expect("AES-GCM takes a segment");
            Ok(())
        });
        sealed.unwrap_or_else(|never: Infallible| match never {});
    }

    /// Writes all but the segments; `seal` makes each of them: where its bytes go, where its tag goes.
    fn seal_segments<E>(
        &self,
        out: &mut [u8],
        mut seal: impl FnMut(&mut [u8], &mut [u8], &LessSafeKey, Nonce) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = (out.len() as u64).to_be_bytes();
        let salt: [u8; 32] = random();
        let salt = &salt[..self.0.len()];
        let prefix: [u8; PREFIX_BYTES] = random();
        let (mut head, segments) = out.split_at_mut(LENGTH_BYTES + self.header_bytes());
        head.put_slice(&length);
        head.put_u8(self.header_bytes() as u8);
        head.put_slice(salt);
        head.put_slice(&prefix);
        let key = self.message_key(salt, &length);
        let count = segments.len().div_ceil(SEGMENT_BYTES);
        for (number, segment) in segments.chunks_mut(SEGMENT_BYTES).enumerate() {
            let nonce = nonce(&prefix, number as u32, number + 1 == count);
            let (bytes, tag) = segment.split_at_mut(segment.len() - TAG_BYTES);
            seal(bytes, tag, &key, nonce)?;
        }
        Ok(())
    }

    fn header_bytes(&self) -> usize {
        header_bytes(self.0.len())
    }

    fn message_key(&self, salt: &[u8], length: &[u8; LENGTH_BYTES]) -> LessSafeKey {
        let mut key = Zeroizing::new([0; 32]);
        let key = &mut key[..self.0.len()];
        derive(&self.0, salt, length, key);
        let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        LessSafeKey::new(UnboundKey::new(algorithm, key).expect("session keys have 16 or 32 bytes"))
    }
}

/// Takes messages apart again, a segment at a time.
pub(super) struct GcmOpener {
    key: GcmKey,
    message: Option<OpenMessage>,
}

struct OpenMessage {
    key: LessSafeKey,
    prefix: [u8; PREFIX_BYTES],
    segment: u32,
    left: u64,
}

impl GcmOpener {
    pub(super) fn new(key: GcmKey) -> GcmOpener {
        GcmOpener { key, message: None }
    }

    pub(super) fn open(&mut self, input: &mut BytesMut, plain: &mut BytesMut) -> Result<(), CipherError> {
        loop {
            let Some(message) = &mut self.message else {
                match self.begin(input)? {
                    true => continue,
                    false => return Ok(()),
                }
            };
            if message.left == 0 {
                self.message = None;
                continue;
            }
            let segment = message.left.min(SEGMENT_BYTES as u64) as usize;
            if input.len() < segment {
                return Ok(());
            }
            message.open_segment(&input[..segment], plain)?;
            input.advance(segment);
        }
    }

    /// Reads a message's header, if it is there whole.
    fn begin(&mut self, input: &mut BytesMut) -> Result<bool, CipherError> {
        let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else { return Ok(false) };
        let bytes = u64::from_be_bytes(*length);
        let header_bytes = self.key.header_bytes();
        let before = LENGTH_BYTES + header_bytes;
        let left = bytes.checked_sub(before as u64).ok_or(CipherError::Length(bytes))?;
        // A last segment of a tag alone never is; the number of segments fits their counter.
        let last = left % SEGMENT_BYTES as u64;
        let segments = left / SEGMENT_BYTES as u64;
        if (1..=TAG_BYTES as u64).contains(&last) || segments >= u64::from(u32::MAX) {
            return Err(CipherError::Length(bytes));
        }
        if rest.len() < header_bytes {
            return Ok(false);
        }
        if usize::from(rest[0]) != header_bytes {
            return Err(CipherError::Altered);
        }
        let (salt, prefix) = rest[1..header_bytes].split_at(header_bytes - 1 - PREFIX_BYTES);
        let prefix = prefix.try_into().expect("the header ends with the nonce prefix");
        let key = self.key.message_key(salt, length);
        self.message = Some(OpenMessage { key, prefix, segment: 0, left });
        input.advance(before);
        Ok(true)
    }
}

impl OpenMessage {
    fn open_segment(&mut self, segment: &[u8], plain: &mut BytesMut) -> Result<(), CipherError> {
        let last = self.left == segment.len() as u64;
        let (sealed, tag) = segment.split_at(segment.len() - TAG_BYTES);
        let start = plain.len();
        plain.resize(start + sealed.len(), 0);
        let nonce = nonce(&self.prefix, self.segment, last);
        let opened = self.key.open_separate_gather(nonce, Aad::empty(), sealed, tag, &mut plain[start..]);
        if opened.is_err() {
            plain.truncate(start);
            return Err(CipherError::Altered);
        }
        self.left -= segment.len() as u64;
        self.segment += 1;
        Ok(())
    }
}

/// Tink's: prefix, the segment's number, and whether it is the last.
fn nonce(prefix: &[u8; PREFIX_BYTES], segment: u32, last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..PREFIX_BYTES].copy_from_slice(prefix);
    nonce[PREFIX_BYTES..NONCE_LEN - 1].copy_from_slice(&segment.to_be_bytes());
    nonce[NONCE_LEN - 1] = last.into();
    Nonce::assume_unique_for_key(nonce)
}
