//! Spark's authentication and encryption of connections: who the peer is, and the ciphers both sides then speak.
//! Without I/O: bytes in, bytes out. Secrets are never printed and are wiped when they are dropped.

mod cipher;
mod client;
mod engine;
mod message;
mod sasl;
mod secrets;
mod server;
#[cfg(test)]
mod vectors;

pub use cipher::{CipherError, Decryptor, Encryptor, SessionCipher, StreamCipher};
pub use client::{ClientAuth, ClientStep, Method, ServerNotProven};
pub use engine::EngineVersion;
pub use secrets::{SecretStore, SecretsError};
pub use server::{AuthPolicy, Refused, ServerAuth, Step};
