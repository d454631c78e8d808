//! What both sides speak once authenticated: a cipher over the whole byte stream, below Spark's frames.

mod ctr;
mod detect;
mod gcm;
mod sasl;

use std::convert::Infallible;
use std::fmt;

use bytes::BytesMut;

use super::engine::{EngineVersion, SessionKeys};
use ctr::Ctr;
use gcm::{GcmKey, GcmOpener};
pub(super) use sasl::{SaslCipher, SaslKeys};
use sasl::{SaslOpener, SaslSealer};

/// `fill` is handed at most so much at once.
const PART_BYTES: usize = 32 * 1024;

/// The stream is not what the peer's cipher wrote, or it breaks a bound: the connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    #[error("encrypted bytes were altered on their way")]
    Altered,
    #[error("an encrypted message of {0} bytes cannot be")]
    Length(u64),
    #[error("the first encrypted bytes are of no cipher that is known")]
    Unknown,
}

/// `spark.network.crypto.cipher`: what the auth engine's sessions speak; AES-CTR unless set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamCipher {
    AesCtr,
    AesGcm,
}

/// One connection's two directions. A server's may be told apart only by what the client sends first: it opens with
/// [`SessionCipher::open`], and seals nothing before something came out. Everybody else may own the two apart.
#[derive(Debug)]
pub struct SessionCipher {
    pub encryptor: Encryptor,
    pub decryptor: Decryptor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl SessionCipher {
    /// A server's, whose client will show which version and cipher it speaks.
    pub(super) fn undecided(keys: SessionKeys) -> SessionCipher {
        SessionCipher {
            encryptor: Encryptor(Sealer::Undecided),
            decryptor: Decryptor(Opener::Undecided(Box::new(keys))),
        }
    }

    /// [`Decryptor::open`], which every later call comes down to once the client has shown its cipher.
    pub fn open(&mut self, input: &mut BytesMut, plain: &mut BytesMut) -> Result<(), CipherError> {
        if let Opener::Undecided(keys) = &self.decryptor.0 {
            match detect::detect(keys, input)? {
                Some(decided) => *self = decided,
                None => return Ok(()),
            }
        }
        self.decryptor.open(input, plain)
    }

    pub(super) fn engine(
        version: EngineVersion,
        cipher: StreamCipher,
        keys: &SessionKeys,
        side: Side,
    ) -> SessionCipher {
        let key = keys.key(version);
        let (sent, received) = match side {
            Side::Client => (keys.from_client, keys.from_server),
            Side::Server => (keys.from_server, keys.from_client),
        };
        let (sealer, opener) = match cipher {
            StreamCipher::AesCtr => (Sealer::Ctr(Ctr::new(key, sent)), Opener::Ctr(Ctr::new(key, received))),
            StreamCipher::AesGcm => {
                (Sealer::Gcm(GcmKey::new(key)), Opener::Gcm(GcmOpener::new(GcmKey::new(key))))
            }
        };
        SessionCipher { encryptor: Encryptor(sealer), decryptor: Decryptor(opener) }
    }

    pub(super) fn sasl(keys: &SaslKeys, side: Side) -> SessionCipher {
        let (sealer, opener) = sasl::directions(keys, side);
        SessionCipher {
            encryptor: Encryptor(Sealer::Sasl(sealer)),
            decryptor: Decryptor(Opener::Sasl(opener)),
        }
    }
}

/// Outgoing bytes, in the order in which they are sent.
pub struct Encryptor(Sealer);

enum Sealer {
    Ctr(Ctr),
    Gcm(GcmKey),
    Sasl(SaslSealer),
    Undecided,
}

const UNDECIDED: &str = "a server answers what it has read, and has read with a cipher that is decided";

impl Encryptor {
    /// How long `bytes` plain bytes become when they are sealed together.
    pub fn sealed_bytes(&self, bytes: usize) -> usize {
        match &self.0 {
            Sealer::Ctr(_) => bytes,
            Sealer::Gcm(gcm) => gcm.sealed_bytes(bytes),
            Sealer::Sasl(sasl) => sasl.sealed_bytes(bytes),
            Sealer::Undecided => panic!("{UNDECIDED}"),
        }
    }

    /// Appends `plain`, encrypted, to `out`. Many small frames in one call cost less than one call each.
    pub fn seal(&mut self, plain: &[u8], out: &mut BytesMut) {
        let start = out.len();
        if let Sealer::Ctr(ctr) = &mut self.0 {
            out.extend_from_slice(plain);
            return ctr.apply(&mut out[start..]);
        }
        out.resize(start + self.sealed_bytes(plain.len()), 0);
        let out = &mut out[start..];
        match &mut self.0 {
            Sealer::Gcm(gcm) => gcm.seal_slice(plain, out),
            Sealer::Sasl(sasl) => {
                let filled = sasl.seal(plain.len(), out, |all| {
                    all.copy_from_slice(plain);
                    Ok(())
                });
                filled.unwrap_or_else(|never: Infallible| match never {});
            }
            Sealer::Ctr(_) | Sealer::Undecided => unreachable!("handled above"),
        }
    }

    /// Makes `out` what `bytes` plain bytes become, [`Encryptor::sealed_bytes`] of them; `fill` writes the plain
    /// bytes, part by part and in order, where they are then encrypted. If it fails, the connection is lost.
    pub fn seal_with<E>(
        &mut self,
        bytes: usize,
        out: &mut [u8],
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        debug_assert_eq!(out.len(), self.sealed_bytes(bytes));
        match &mut self.0 {
            Sealer::Ctr(ctr) => out.chunks_mut(PART_BYTES).try_for_each(|part| {
                fill(part)?;
                ctr.apply(part);
                Ok(())
            }),
            Sealer::Gcm(gcm) => gcm.seal(out, fill),
            Sealer::Sasl(sasl) => {
                sasl.seal(bytes, out, |all| all.chunks_mut(PART_BYTES).try_for_each(&mut fill))
            }
            Sealer::Undecided => panic!("{UNDECIDED}"),
        }
    }
}

/// Incoming bytes, in the order in which they arrive.
pub struct Decryptor(Opener);

enum Opener {
    Ctr(Ctr),
    Gcm(GcmOpener),
    Sasl(SaslOpener),
    Undecided(Box<SessionKeys>),
}

impl Decryptor {
    /// Takes off `input` all that can be decrypted yet and appends it, plain, to `plain`. What stays in `input` is
    /// less than one segment (32 KiB; with SASL one block, at most 4 MiB) and waits for more. After an error the
    /// connection is lost; what was appended before it was genuine.
    pub fn open(&mut self, input: &mut BytesMut, plain: &mut BytesMut) -> Result<(), CipherError> {
        match &mut self.0 {
            Opener::Ctr(ctr) => {
                ctr.apply(input);
                // Moves the buffer rather than the bytes if `plain` is empty.
                plain.unsplit(input.split());
                Ok(())
            }
            Opener::Gcm(gcm) => gcm.open(input, plain),
            Opener::Sasl(sasl) => sasl.open(input, plain),
            Opener::Undecided(_) => panic!("{UNDECIDED}"),
        }
    }
}

impl fmt::Debug for Encryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Sealer::Ctr(_) => "Encryptor(AES-CTR)",
            Sealer::Gcm(_) => "Encryptor(AES-GCM)",
            Sealer::Sasl(_) => "Encryptor(SASL)",
            Sealer::Undecided => "Encryptor(undecided)",
        })
    }
}

impl fmt::Debug for Decryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Opener::Ctr(_) => "Decryptor(AES-CTR)",
            Opener::Gcm(_) => "Decryptor(AES-GCM)",
            Opener::Sasl(_) => "Decryptor(SASL)",
            Opener::Undecided(_) => "Decryptor(undecided)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::vectors;

    const VERSIONS: [(&str, EngineVersion); 2] = [("v1", EngineVersion::V1), ("v2", EngineVersion::V2)];

    /// Of a handshake of this version; the other one's key is not known.
    fn session(name: &str, version: EngineVersion, cipher: StreamCipher, side: Side) -> SessionCipher {
        let bytes = |field: &str| vectors::bytes(&format!("engine-{name}-{field}"));
        let iv = |field: &str| bytes(field)[..].try_into().expect("16 bytes");
        let mut keys = SessionKeys::random();
        (keys.from_server, keys.from_client) = (iv("client-in"), iv("client-out"));
        match version {
            EngineVersion::V1 => keys.agreed.copy_from_slice(&bytes("key")),
            EngineVersion::V2 => keys.derived.copy_from_slice(&bytes("key")),
        }
        SessionCipher::engine(version, cipher, &keys, side)
    }

    fn opened(cipher: StreamCipher, (name, version): (&str, EngineVersion), sealed: &[u8]) -> BytesMut {
        let mut server = session(name, version, cipher, Side::Server);
        let mut plain = BytesMut::new();
        server.decryptor.open(&mut BytesMut::from(sealed), &mut plain).expect("genuine");
        plain
    }

    #[test]
    fn ctr_is_that_of_spark() {
        for (name, version) in VERSIONS {
            let sealed = vectors::bytes(&format!("ctr-{name}"));
            let plain = [3, 100, 64].map(vectors::plain).concat();
            assert_eq!(opened(StreamCipher::AesCtr, (name, version), &sealed), plain[..]);
            let mut client = session(name, version, StreamCipher::AesCtr, Side::Client);
            let mut out = BytesMut::new();
            plain.chunks(7).for_each(|part| client.encryptor.seal(part, &mut out));
            assert_eq!(out, sealed);
        }
    }

    #[test]
    fn gcm_is_that_of_spark() {
        for (version, sizes) in VERSIONS.into_iter().zip([[5, 100], [5, 33_000]]) {
            let sealed = vectors::bytes(&format!("gcm-{}", version.0));
            let plain = sizes.map(vectors::plain).concat();
            assert_eq!(opened(StreamCipher::AesGcm, version, &sealed), plain[..]);
        }
    }
}
