//! DIGEST-MD5's privacy layer (RFC 2831, section 2.4, as the JDK does it) in Spark's blocks (`SaslEncryption.java`):
//! 8 bytes of length that count themselves, then {plain bytes, padding, MAC} encrypted, a type and a sequence number.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::{Buf, BufMut, BytesMut};
use des::TdesEde2;
use des::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use rc4::{Rc4, StreamCipher};
use zeroize::Zeroizing;

use super::{CipherError, Side};

const LENGTH_BYTES: usize = 8;
const MAC_BYTES: usize = 10;
const TRAILER_BYTES: usize = 6;
const MESSAGE_TYPE: [u8; 2] = [0, 1];
const DES_BLOCK_BYTES: usize = 8;
/// `spark.network.sasl.maxEncryptedBlockSize`'s default.
const PLAIN_BLOCK_BYTES: usize = 64 * 1024;
/// Clients may have set another block size; beyond this one they are refused.
const MAX_BLOCK_BYTES: usize = 4 << 20;

/// The ciphers of `auth-conf` that are offered. A JDK takes the first that it has, and it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SaslCipher {
    TripleDes,
    Rc4,
}

impl SaslCipher {
    pub(crate) fn parse(token: &[u8]) -> Option<SaslCipher> {
        match token {
            b"3des" => Some(SaslCipher::TripleDes),
            b"rc4" => Some(SaslCipher::Rc4),
            _ => None,
        }
    }
}

/// What the exchange left behind: H(A1) of RFC 2831.
pub(crate) struct SaslKeys {
    pub(crate) cipher: SaslCipher,
    pub(crate) session: Zeroizing<[u8; 16]>,
}

pub(super) struct SaslSealer(Direction);

pub(super) struct SaslOpener(Direction);

struct Direction {
    mac: Hmac<Md5>,
    cipher: Cipher,
    sequence: u32,
}

enum Cipher {
    TripleDes { cipher: TdesEde2, chain: [u8; DES_BLOCK_BYTES] },
    Rc4(Rc4),
}

pub(super) fn directions(keys: &SaslKeys, side: Side) -> (SaslSealer, SaslOpener) {
    let from_client = Direction::new(keys, "client-to-server");
    let from_server = Direction::new(keys, "server-to-client");
    match side {
        Side::Client => (SaslSealer(from_client), SaslOpener(from_server)),
        Side::Server => (SaslSealer(from_server), SaslOpener(from_client)),
    }
}

impl SaslSealer {
    /// How long `bytes` plain bytes become, in as many blocks as they need.
    pub(super) fn sealed_bytes(&self, bytes: usize) -> usize {
        let block_bytes = |plain| LENGTH_BYTES + self.0.sealed_bytes(plain);
        let last = bytes % PLAIN_BLOCK_BYTES;
        bytes / PLAIN_BLOCK_BYTES * block_bytes(PLAIN_BLOCK_BYTES)
            + if last > 0 { block_bytes(last) } else { 0 }
    }

    /// Makes `out` the blocks of `bytes` plain bytes, which `fill` writes.
    pub(super) fn seal<E>(
        &mut self,
        bytes: usize,
        out: &mut [u8],
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // The plain bytes wait behind where the blocks grow, which never reach those not yet taken.
        let mut plain = out.len() - bytes;
        fill(&mut out[plain..])?;
        let mut block = 0;
        while plain < out.len() {
            let taken = (out.len() - plain).min(PLAIN_BLOCK_BYTES);
            out.copy_within(plain..plain + taken, block + LENGTH_BYTES);
            plain += taken;
            let end = block + LENGTH_BYTES + self.0.sealed_bytes(taken);
            let length = (end - block) as u64;
            out[block..block + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
            self.0.seal(taken, &mut out[block + LENGTH_BYTES..end]);
            block = end;
        }
        Ok(())
    }
}

impl SaslOpener {
    pub(super) fn open(&mut self, input: &mut BytesMut, plain: &mut BytesMut) -> Result<(), CipherError> {
        while let Some(length) = input.first_chunk::<LENGTH_BYTES>() {
            let announced = u64::from_be_bytes(*length);
            let length = usize::try_from(announced).ok().filter(|&bytes| bytes <= MAX_BLOCK_BYTES);
            let length = length.ok_or(CipherError::Length(announced))?;
            if length < LENGTH_BYTES + MAC_BYTES + TRAILER_BYTES {
                return Err(CipherError::Length(announced));
            }
            if input.len() < length {
                return Ok(());
            }
            let message = self.0.open(&mut input[LENGTH_BYTES..length])?;
            plain.put_slice(&input[LENGTH_BYTES..LENGTH_BYTES + message]);
            input.advance(length);
        }
        Ok(())
    }
}

impl Direction {
    fn new(keys: &SaslKeys, direction: &str) -> Direction {
        let derive = |magic: String| {
            let key = Md5::new().chain_update(*keys.session).chain_update(magic).finalize();
            Zeroizing::new(<[u8; 16]>::from(key))
        };
        let sealing = derive(format!("Digest H(A1) to {direction} sealing key magic constant"));
        let signing = derive(format!("Digest session key to {direction} signing key magic constant"));
        Direction {
            mac: Hmac::new_from_slice(&*signing).expect("HMAC takes any key"),
            cipher: Cipher::new(keys.cipher, &sealing),
            sequence: 0,
        }
    }

    fn sealed_bytes(&self, plain: usize) -> usize {
        plain + self.cipher.padding(plain) + MAC_BYTES + TRAILER_BYTES
    }

    /// `block` begins with `plain` bytes and has room for what is added.
    fn seal(&mut self, plain: usize, block: &mut [u8]) {
        let mac = self.mac(&block[..plain]);
        let (encrypted, trailer) = block.split_at_mut(block.len() - TRAILER_BYTES);
        let padding = self.cipher.padding(plain);
        let (pad, tail) = encrypted[plain..].split_at_mut(padding);
        pad.fill(padding as u8);
        tail.copy_from_slice(&mac);
        self.cipher.encrypt(encrypted);
        trailer[..2].copy_from_slice(&MESSAGE_TYPE);
        trailer[2..].copy_from_slice(&self.sequence.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Decrypts in place; the plain bytes are the first so many.
    fn open(&mut self, block: &mut [u8]) -> Result<usize, CipherError> {
        let (encrypted, trailer) = block.split_at_mut(block.len() - TRAILER_BYTES);
        if trailer[..2] != MESSAGE_TYPE || trailer[2..] != self.sequence.to_be_bytes() {
            return Err(CipherError::Altered);
        }
        self.cipher.decrypt(encrypted)?;
        let (padded, mac) = encrypted.split_at(encrypted.len() - MAC_BYTES);
        let padding = self.cipher.found_padding(padded)?;
        let message = &padded[..padded.len() - padding];
        verify_slices_are_equal(&self.mac(message), mac).map_err(|_| CipherError::Altered)?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(message.len())
    }

    fn mac(&self, message: &[u8]) -> [u8; MAC_BYTES] {
        let mac = self.mac.clone().chain_update(self.sequence.to_be_bytes()).chain_update(message).finalize();
        *mac.as_bytes().first_chunk().expect("an HMAC-MD5 has 16 bytes")
    }
}

impl Cipher {
    fn new(cipher: SaslCipher, key: &[u8; 16]) -> Cipher {
        match cipher {
            SaslCipher::TripleDes => {
                let mut des_key = Zeroizing::new([0; 16]);
                des_key[..8].copy_from_slice(&des_subkey(&key[..7]));
                des_key[8..].copy_from_slice(&des_subkey(&key[7..14]));
                let cipher = TdesEde2::new_from_slice(&*des_key).expect("16 bytes are two DES keys");
                Cipher::TripleDes { cipher, chain: *key.last_chunk().expect("16 bytes hold 8") }
            }
            SaslCipher::Rc4 => Cipher::Rc4(Rc4::new_from_slice(key).expect("RC4 takes 16 bytes")),
        }
    }

    /// How much is added to `plain` bytes, so that they fill blocks together with their MAC.
    fn padding(&self, plain: usize) -> usize {
        match self {
            Cipher::TripleDes { .. } => DES_BLOCK_BYTES - (plain + MAC_BYTES) % DES_BLOCK_BYTES,
            Cipher::Rc4(_) => 0,
        }
    }

    fn found_padding(&self, padded: &[u8]) -> Result<usize, CipherError> {
        match (self, padded.last()) {
            (Cipher::Rc4(_), _) => Ok(0),
            (_, Some(&last))
                if (1..=DES_BLOCK_BYTES).contains(&last.into()) && padded.len() >= last.into() =>
            {
                Ok(last.into())
            }
            _ => Err(CipherError::Altered),
        }
    }

    fn encrypt(&mut self, data: &mut [u8]) {
        match self {
            Cipher::Rc4(rc4) => rc4.apply_keystream(data),
            Cipher::TripleDes { cipher, chain } => {
                for block in data.as_chunks_mut::<DES_BLOCK_BYTES>().0 {
                    block.iter_mut().zip(&*chain).for_each(|(byte, before)| *byte ^= before);
                    cipher.encrypt_block(block.into());
                    *chain = *block;
                }
            }
        }
    }

    fn decrypt(&mut self, data: &mut [u8]) -> Result<(), CipherError> {
        match self {
            Cipher::Rc4(rc4) => rc4.apply_keystream(data),
            Cipher::TripleDes { cipher, chain } => {
                let (blocks, []) = data.as_chunks_mut::<DES_BLOCK_BYTES>() else {
                    return Err(CipherError::Altered);
                };
                for block in blocks {
                    let encrypted = *block;
                    cipher.decrypt_block(block.into());
                    block.iter_mut().zip(&*chain).for_each(|(byte, before)| *byte ^= before);
                    *chain = encrypted;
                }
            }
        }
        Ok(())
    }
}

/// 56 bits, seven to a byte; the eighth is parity, which DES does not look at.
fn des_subkey(bits: &[u8]) -> [u8; 8] {
    let bits = bits.iter().fold(0u64, |all, &byte| all << 8 | u64::from(byte));
    std::array::from_fn(|at| ((bits >> (49 - 7 * at)) as u8) << 1)
}
