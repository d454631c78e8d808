//! AES-CTR over the whole stream (`crypto/CtrTransportCipher.java`): as many bytes as before, nothing that would tell
//! that they were altered.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};

const BLOCK_BYTES: usize = 16;

/// One direction's key stream.
pub(super) struct Ctr {
    key: EncryptingKey,
    position: Position,
}

/// Where in the key stream the next byte lies.
#[derive(Clone)]
pub(super) struct Position {
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
            position: Position {
                counter: u128::from_be_bytes(iv),
                block: [0; BLOCK_BYTES],
                used: BLOCK_BYTES,
            },
        }
    }

    /// Encrypts or decrypts the stream's next bytes in place.
    pub(super) fn apply(&mut self, data: &mut [u8]) {
        let begun = data.len().min(BLOCK_BYTES - self.position.used);
        let (head, rest) = data.split_at_mut(begun);
        self.mix(head);
        let (blocks, tail) = rest.split_at_mut(rest.len() - rest.len() % BLOCK_BYTES);
        if !blocks.is_empty() {
            self.encrypt(blocks);
        }
        if !tail.is_empty() {
            let mut block = [0; BLOCK_BYTES];
            self.encrypt(&mut block);
            (self.position.block, self.position.used) = (block, 0);
            self.mix(tail);
        }
    }

    pub(super) fn position(&self) -> Position {
        self.position.clone()
    }

    /// Only for bytes that never left: a part of the key stream must not be seen twice.
    pub(super) fn go_back(&mut self, position: Position) {
        self.position = position;
    }

    fn mix(&mut self, data: &mut [u8]) {
        for byte in data {
            *byte ^= self.position.block[self.position.used];
            self.position.used += 1;
        }
    }

    fn encrypt(&mut self, blocks: &mut [u8]) {
        let iv = EncryptionContext::Iv128(self.position.counter.to_be_bytes().into());
        self.key.less_safe_encrypt(blocks, iv).expect("AES-CTR takes any length");
        let count = (blocks.len() / BLOCK_BYTES) as u128;
        self.position.counter = self.position.counter.wrapping_add(count);
    }
}
