//! Which engine version and cipher a client speaks. The handshake is the same for all of them, so its first message
//! afterwards has to tell; a client always speaks first, and a server has nothing to send before it has read that.
//!
//! AES-CTR carries no mark of its own, so the message is decrypted tentatively, with the key of either version: its
//! beginning is a call's frame, of which 72 bits are known. No other bytes pass for that but with a chance of 2^-70,
//! and nobody without the keys can do better. What is left is AES-GCM, whose header tells the key's length in the
//! clear and whose tags then prove every byte.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::ctr::Ctr;
use super::{CipherError, SessionCipher, Side, gcm};
use crate::auth::engine::SessionKeys;
use crate::auth::{EngineVersion, StreamCipher};

/// An RPC's frame up to its body: length, type, request id, the body's length.
const RPC_HEAD_BYTES: usize = 21;
/// The same without a request id.
const ONE_WAY_HEAD_BYTES: usize = 13;
const RPC_REQUEST: u8 = 3;
const ONE_WAY: u8 = 9;

/// The server's cipher for a stream from a client that begins with `input`; nothing while that is too short. Every call
/// of Spark's clients is longer than what is looked at.
pub(super) fn detect(keys: &SessionKeys, input: &[u8]) -> Result<Option<SessionCipher>, CipherError> {
    let Some(head) = input.first_chunk::<RPC_HEAD_BYTES>() else { return Ok(None) };
    let cipher = |version, cipher| Ok(Some(SessionCipher::engine(version, cipher, keys, Side::Server)));
    for version in [EngineVersion::V1, EngineVersion::V2] {
        let mut plain = *head;
        Ctr::new(keys.key(version), keys.from_client).apply(&mut plain);
        if begins_a_call(&plain) {
            return cipher(version, StreamCipher::AesCtr);
        }
    }
    for version in [EngineVersion::V1, EngineVersion::V2] {
        if gcm::begins_message(keys.key(version).len(), head) {
            return cipher(version, StreamCipher::AesGcm);
        }
    }
    Err(CipherError::Unknown)
}

/// The two lengths agree, and neither reaches 4 GiB. What is compared becomes known to nobody by how long it takes.
fn begins_a_call(head: &[u8; RPC_HEAD_BYTES]) -> bool {
    let head_bytes = match head[8] {
        RPC_REQUEST => RPC_HEAD_BYTES,
        ONE_WAY => ONE_WAY_HEAD_BYTES,
        _ => return false,
    };
    let body = head[..head_bytes].last_chunk::<4>().expect("a head ends with the body's length");
    let frame = u64::from(u32::from_be_bytes(*body)) + head_bytes as u64;
    verify_slices_are_equal(&frame.to_be_bytes(), &head[..8]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::vectors;
    use bytes::BytesMut;

    const ALL: [(EngineVersion, StreamCipher); 4] = [
        (EngineVersion::V1, StreamCipher::AesCtr),
        (EngineVersion::V1, StreamCipher::AesGcm),
        (EngineVersion::V2, StreamCipher::AesCtr),
        (EngineVersion::V2, StreamCipher::AesGcm),
    ];

    fn frame(kind: u8, body: usize) -> Vec<u8> {
        let head_bytes = if kind == ONE_WAY { ONE_WAY_HEAD_BYTES } else { RPC_HEAD_BYTES };
        let mut frame = ((head_bytes + body) as u64).to_be_bytes().to_vec();
        frame.push(kind);
        frame.resize(head_bytes - 4, 0xa5);
        frame.extend_from_slice(&(body as u32).to_be_bytes());
        frame.resize(head_bytes + body, 7);
        frame
    }

    #[test]
    fn every_kind_of_client_is_told_by_its_first_call() {
        let keys = SessionKeys::random();
        for (version, kind) in ALL {
            for plain in [frame(RPC_REQUEST, 0), frame(RPC_REQUEST, 70_000), frame(ONE_WAY, 8)] {
                let mut client = SessionCipher::engine(version, kind, &keys, Side::Client);
                let mut sealed = BytesMut::new();
                client.encryptor.seal(&plain, &mut sealed);
                assert!(detect(&keys, &sealed[..RPC_HEAD_BYTES - 1]).expect("may be").is_none());
                let mut server = detect(&keys, &sealed).expect("known").expect("told");
                let (mut opened, mut answer, mut back) = Default::default();
                server.decryptor.open(&mut sealed, &mut opened).expect("genuine");
                assert_eq!(opened, plain[..], "{version:?} {kind:?}");
                server.encryptor.seal(b"answer", &mut answer);
                client.decryptor.open(&mut answer, &mut back).expect("genuine");
                assert_eq!(&back[..], b"answer");
            }
        }
    }

    /// Neither what Spark's ciphers write under other keys, nor a head of which one known bit is another.
    #[test]
    fn other_streams_are_refused() {
        let keys = SessionKeys::random();
        for name in ["ctr-v1", "ctr-v2"] {
            assert_eq!(detect(&keys, &vectors::bytes(name)).err(), Some(CipherError::Unknown), "{name}");
        }
        let known = (0..8 * 8).chain(17 * 8..21 * 8);
        for bit in known {
            let mut plain = frame(RPC_REQUEST, 100);
            plain[bit / 8] ^= 1 << (bit % 8);
            let mut client =
                SessionCipher::engine(EngineVersion::V1, StreamCipher::AesCtr, &keys, Side::Client);
            let mut sealed = BytesMut::new();
            client.encryptor.seal(&plain, &mut sealed);
            assert_eq!(detect(&keys, &sealed).err(), Some(CipherError::Unknown), "bit {bit}");
        }
    }
}
