//! The server's side of a connection's first messages (`crypto/AuthRpcHandler.java`, `sasl/SaslRpcHandler.java`).
//! Nothing else may be served before this says [`Step::Established`].

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::cipher::{SessionCipher, Side};
use super::engine;
use super::message::{AuthMessage, SaslMessage};
use super::sasl::DigestServer;
use super::secrets::SecretStore;

/// What is asked of clients. Which version of the auth engine they have and which cipher they speak is not: the server
/// follows them, and every one of these sessions is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthPolicy {
    /// `spark.network.crypto.saslFallback`: clients without `spark.network.crypto.enabled` are taken too.
    pub sasl_fallback: bool,
    /// `spark.network.sasl.serverAlwaysEncrypt`: of those, only ones that encrypt.
    pub sasl_always_encrypt: bool,
}

/// What Spark does where nothing is set.
impl Default for AuthPolicy {
    fn default() -> AuthPolicy {
        AuthPolicy { sasl_fallback: true, sasl_always_encrypt: false }
    }
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
/// that it did not know; which application was claimed is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("java.lang.IllegalArgumentException: Unknown challenge message.")]
    NotAuth,
    #[error("java.lang.IllegalArgumentException: Authentication failed.")]
    Failed { app: String },
}

/// One connection's way to being authenticated, in at most two RPCs. Feed it the body of each RPC request.
pub struct ServerAuth {
    secrets: Arc<SecretStore>,
    policy: AuthPolicy,
    state: State,
}

enum State {
    Start,
    /// The claimed application and what it was asked.
    Challenged(String, DigestServer),
    /// Established or refused: nothing more is taken.
    Over,
}

impl ServerAuth {
    pub fn new(secrets: Arc<SecretStore>, policy: AuthPolicy) -> ServerAuth {
        ServerAuth { secrets, policy, state: State::Start }
    }

    pub fn receive(&mut self, body: Bytes) -> Result<Step, Refused> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Start => match AuthMessage::decode(body.clone()) {
                Ok(challenge) => self.respond(challenge),
                Err(_) if self.policy.sasl_fallback => self.challenge(body),
                Err(_) => Err(Refused::NotAuth),
            },
            State::Challenged(app, digest) => self.finish(app, &digest, body),
            State::Over => Err(Refused::NotAuth),
        }
    }

    fn respond(&self, challenge: AuthMessage) -> Result<Step, Refused> {
        let secret = self.secrets.secret(&challenge.app);
        let answer = secret.and_then(|secret| engine::respond(secret, &challenge).ok());
        let app = challenge.app;
        let Some((reply, keys)) = answer else { return Err(Refused::Failed { app }) };
        let cipher = Box::new(SessionCipher::undecided(keys));
        Ok(Step::Established { reply, app, cipher: Some(cipher) })
    }

    /// The first token of SASL is empty: DIGEST-MD5 begins with the server's challenge. Whether the application is
    /// known is not told yet.
    fn challenge(&mut self, body: Bytes) -> Result<Step, Refused> {
        let message = SaslMessage::decode(body).map_err(|_| Refused::NotAuth)?;
        if !message.token.is_empty() {
            return Err(Refused::Failed { app: message.app });
        }
        let digest = DigestServer::new(self.policy.sasl_always_encrypt);
        let challenge = digest.challenge();
        self.state = State::Challenged(message.app, digest);
        Ok(Step::Reply(challenge))
    }

    fn finish(&self, app: String, digest: &DigestServer, body: Bytes) -> Result<Step, Refused> {
        let message = SaslMessage::decode(body).map_err(|_| Refused::NotAuth)?;
        let secret = self.secrets.secret(&app).filter(|_| message.app == app);
        match secret.and_then(|secret| digest.finish(secret, &message.token).ok()) {
            None => Err(Refused::Failed { app }),
            Some((reply, protection)) => {
                let cipher = protection.map(|keys| Box::new(SessionCipher::sasl(&keys, Side::Server)));
                Ok(Step::Established { reply, app, cipher })
            }
        }
    }
}

impl fmt::Debug for ServerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Start => "start",
            State::Challenged(..) => "challenged",
            State::Over => "over",
        };
        f.debug_struct("ServerAuth")
            .field("policy", &self.policy)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
