//! Spark's authentication and encryption of connections: who the peer is, and the ciphers both sides then speak.
//! Without I/O: bytes in, bytes out. Secrets are never printed and are wiped when they are dropped.

mod cipher;
mod secrets;
mod server;

pub use cipher::{CipherError, Decryptor, Encryptor, SessionCipher};
pub use secrets::{SecretStore, SecretsError};
pub use server::{AuthPolicy, EngineVersion, Refused, ServerAuth, Step, StreamCipher};
