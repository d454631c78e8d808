//! The client's side (`crypto/AuthClientBootstrap.java`, `sasl/SaslClientBootstrap.java`): for tests and for load.

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::cipher::{SessionCipher, Side, StreamCipher};
use super::engine::{Challenge, EngineVersion};
use super::message::{AuthMessage, SaslMessage};
use super::sasl::DigestClient;

/// How a client proves itself, and what it speaks then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Engine(EngineVersion, StreamCipher),
    Sasl { encrypt: bool },
}

#[derive(Debug)]
pub enum ClientStep {
    /// Send this as the next RPC.
    Send(Bytes),
    /// Every byte from now on, both ways, goes through the cipher.
    Established(Option<Box<SessionCipher>>),
}

/// The server did not prove that it knows the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server does not know the secret of {app}")]
pub struct ServerNotProven {
    pub app: String,
}

/// One connection's way to being authenticated, seen from the client. Feed it the body of each RPC response.
pub struct ClientAuth {
    app: String,
    secret: Zeroizing<String>,
    state: State,
}

enum State {
    Engine(Challenge, EngineVersion, StreamCipher),
    SaslStart { encrypt: bool },
    SaslSent(DigestClient),
    Over,
}

impl ClientAuth {
    /// Also returns the first RPC's body.
    pub fn new(app: &str, secret: String, method: Method) -> (ClientAuth, Bytes) {
        let (state, first) = match method {
            Method::Engine(version, cipher) => {
                let challenge = Challenge::new(&secret, app);
                let first = challenge.encoded();
                (State::Engine(challenge, version, cipher), first)
            }
            Method::Sasl { encrypt } => (State::SaslStart { encrypt }, sasl_message(app, Bytes::new())),
        };
        (ClientAuth { app: app.to_owned(), secret: Zeroizing::new(secret), state }, first)
    }

    pub fn receive(&mut self, body: Bytes) -> Result<ClientStep, ServerNotProven> {
        let state = std::mem::replace(&mut self.state, State::Over);
        self.step(state, body).ok_or_else(|| ServerNotProven { app: self.app.clone() })
    }

    fn step(&mut self, state: State, body: Bytes) -> Option<ClientStep> {
        match state {
            State::Engine(challenge, version, cipher) => {
                let response = AuthMessage::decode(body).ok()?;
                let keys = challenge.finish(&self.secret, &response).ok()?;
                let cipher = SessionCipher::engine(version, cipher, &keys, Side::Client);
                Some(ClientStep::Established(Some(Box::new(cipher))))
            }
            State::SaslStart { encrypt } => {
                let (digest, response) = DigestClient::respond(&self.secret, encrypt, &body).ok()?;
                self.state = State::SaslSent(digest);
                Some(ClientStep::Send(sasl_message(&self.app, response)))
            }
            State::SaslSent(digest) => {
                let protection = digest.finish(&body).ok()?;
                let cipher = protection.map(|keys| Box::new(SessionCipher::sasl(&keys, Side::Client)));
                Some(ClientStep::Established(cipher))
            }
            State::Over => None,
        }
    }
}

fn sasl_message(app: &str, token: Bytes) -> Bytes {
    let mut body = BytesMut::new();
    SaslMessage { app: app.to_owned(), token }.encode(&mut body);
    body.freeze()
}
