//! AES-CTR over the whole stream (`crypto/CtrTransportCipher.java`): as many bytes as before, nothing that would tell
//! that they were altered.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};

const BLOCK_BYTES: usize = 16;

/// One direction's key stream.
pub(super) struct Ctr {
    key: EncryptingKey,
    counter: u128,
    /// The last block begun, and how many of its bytes are used up.
    block: [u8; BLOCK_BYTES],
    used: usize,
}

impl Ctr {
    /// `key` has 16 or 32 bytes.
    pub(super) fn new(key: &[u8], iv: [u8; BLOCK_BYTES]) -> Ctr {
        let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
        let key = UnboundCipherKey::new(algorithm, key).and_then(EncryptingKey::ctr);
        Ctr {
            key: key.expect("session keys have 16 or 32 bytes"),
            counter: u128::from_be_bytes(iv),
            block: [0; BLOCK_BYTES],
            used: BLOCK_BYTES,
        }
    }

    /// Encrypts or decrypts the stream's next bytes in place.
    pub(super) fn apply(&mut self, data: &mut [u8]) {
        let begun = data.len().min(BLOCK_BYTES - self.used);
        let (head, rest) = data.split_at_mut(begun);
        self.mix(head);
        let (blocks, tail) = rest.split_at_mut(rest.len() - rest.len() % BLOCK_BYTES);
        if !blocks.is_empty() {
            self.encrypt(blocks);
        }
        if !tail.is_empty() {
            let mut block = [0; BLOCK_BYTES];
            self.encrypt(&mut block);
            (self.block, self.used) = (block, 0);
            self.mix(tail);
        }
    }

    fn mix(&mut self, data: &mut [u8]) {
        for byte in data {
            *byte ^= self.block[self.used];
            self.used += 1;
        }
    }

    fn encrypt(&mut self, blocks: &mut [u8]) {
        let iv = EncryptionContext::Iv128(self.counter.to_be_bytes().into());
        self.key.less_safe_encrypt(blocks, iv).expect("AES-CTR takes any length");
        let count = (blocks.len() / BLOCK_BYTES) as u128;
        self.counter = self.counter.wrapping_add(count);
    }
}
