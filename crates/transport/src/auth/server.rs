//! The server's side of a connection's first messages (`AuthRpcHandler.java`, `SaslRpcHandler.java`).
//! Nothing else may be served before this says [`Step::Established`].

use std::sync::Arc;

use bytes::Bytes;

use super::cipher::SessionCipher;
use super::secrets::SecretStore;

/// `spark.network.crypto.authEngineVersion`; 1 unless set, in Spark 3.5 as in Spark 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineVersion {
    V1,
    V2,
}

/// `spark.network.crypto.cipher`: what the auth engine's sessions speak. Both sides must have set the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamCipher {
    AesCtr,
    AesGcm,
}

/// Spark's settings of the same meaning; client and server must agree on the first two, nothing on the wire does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthPolicy {
    pub engine: EngineVersion,
    pub cipher: StreamCipher,
    /// `spark.network.crypto.saslFallback`: clients without `spark.network.crypto.enabled` are taken too.
    pub sasl_fallback: bool,
    /// `spark.network.sasl.serverAlwaysEncrypt`: of those, only ones that encrypt.
    pub sasl_always_encrypt: bool,
}

/// What to do after one RPC of an unauthenticated connection.
#[derive(Debug)]
pub enum Step {
    /// Answer the RPC with this; another one follows.
    Reply(Bytes),
    /// Answer the RPC with `reply`, still plain; every byte after it, both ways, goes through `cipher`.
    Established { reply: Bytes, app: String, cipher: Option<Box<SessionCipher>> },
}

/// The peer is not let in: answer the RPC with a failure of this text, then close. The text tells the peer nothing
/// that it did not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("java.lang.IllegalArgumentException: Unknown challenge message.")]
    NotAuth,
    #[error("java.lang.IllegalArgumentException: Authentication failed.")]
    Failed,
    #[error("java.lang.IllegalArgumentException: Too many messages before authentication.")]
    TooLong,
}

/// One connection's way to being authenticated. Feed it the body of each RPC request, nothing else.
#[derive(Debug)]
pub struct ServerAuth {
    secrets: Arc<SecretStore>,
    policy: AuthPolicy,
}

impl ServerAuth {
    pub fn new(secrets: Arc<SecretStore>, policy: AuthPolicy) -> ServerAuth {
        ServerAuth { secrets, policy }
    }

    /// After an error or [`Step::Established`] it must not be called again; it then refuses.
    pub fn receive(&mut self, body: &Bytes) -> Result<Step, Refused> {
        let _ = (&self.policy, self.secrets.secret(""), body);
        Err(Refused::NotAuth)
    }
}
