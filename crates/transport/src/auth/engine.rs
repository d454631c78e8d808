//! Spark's auth engine (`crypto/AuthEngine.java`, `crypto/README.md`): both sides send an ephemeral X25519 key that is
//! encrypted under the application's secret and bound to all that was said before; what they agree on keys the session.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::{hkdf, rand};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::message::AuthMessage;

const KEY_BYTES: usize = 16;
const AGREED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const PUBLIC_KEY_BYTES: usize = 32;

/// The peer does not know the secret, or the bytes were altered. Which of the two cannot be told.
#[derive(Debug)]
pub(super) struct NotProven;

/// `spark.network.crypto.authEngineVersion`; 1 unless set, in Spark 3.5 as in Spark 4. Both have the same handshake, and
/// make another key of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineVersion {
    V1,
    V2,
}

/// What keys the two directions of a session, in either version.
pub(super) struct SessionKeys {
    /// Version 1 takes what was agreed as it is.
    pub(super) agreed: Zeroizing<[u8; AGREED_BYTES]>,
    pub(super) derived: Zeroizing<[u8; KEY_BYTES]>,
    /// For what the server sends; Spark derives it under the name of the client's input.
    pub(super) from_server: [u8; KEY_BYTES],
    pub(super) from_client: [u8; KEY_BYTES],
}

impl SessionKeys {
    pub(super) fn key(&self, version: EngineVersion) -> &[u8] {
        match version {
            EngineVersion::V1 => &*self.agreed,
            EngineVersion::V2 => &*self.derived,
        }
    }

    #[cfg(test)]
    pub(super) fn random() -> SessionKeys {
        SessionKeys {
            agreed: Zeroizing::new(random()),
            derived: Zeroizing::new(random()),
            from_server: random(),
            from_client: random(),
        }
    }
}

/// The client's side between its challenge and the server's response.
pub(super) struct Challenge {
    private_key: PrivateKey,
    sent: AuthMessage,
}

/// Answers a client's challenge; the response proves this side to the client.
pub(super) fn respond(secret: &str, challenge: &AuthMessage) -> Result<(Bytes, SessionKeys), NotProven> {
    let client_key = open_key(secret, challenge, &[])?;
    let private_key = generate();
    let mut transcript = encoded(challenge);
    let response = seal_key(secret, &challenge.app, &private_key, &transcript);
    let response_bytes = encoded(&response).freeze();
    transcript.extend_from_slice(&response_bytes);
    let keys = session_keys(&private_key, &client_key, &transcript)?;
    Ok((response_bytes, keys))
}

impl Challenge {
    pub(super) fn new(secret: &str, app: &str) -> Challenge {
        let private_key = generate();
        let sent = seal_key(secret, app, &private_key, &[]);
        Challenge { private_key, sent }
    }

    pub(super) fn encoded(&self) -> Bytes {
        encoded(&self.sent).freeze()
    }

    /// Checks the server's response.
    pub(super) fn finish(&self, secret: &str, response: &AuthMessage) -> Result<SessionKeys, NotProven> {
        if response.app != self.sent.app {
            return Err(NotProven);
        }
        let mut transcript = encoded(&self.sent);
        let server_key = open_key(secret, response, &transcript)?;
        response.encode(&mut transcript);
        session_keys(&self.private_key, &server_key, &transcript)
    }
}

fn seal_key(secret: &str, app: &str, private_key: &PrivateKey, transcript: &[u8]) -> AuthMessage {
    let public_key = private_key.compute_public_key().expect("an X25519 key has a public half");
    let salt: [u8; KEY_BYTES] = random();
    let nonce: [u8; NONCE_LEN] = random();
    let state = [app.as_bytes(), &salt, transcript].concat();
    let mut ciphertext = BytesMut::with_capacity(NONCE_LEN + PUBLIC_KEY_BYTES + TAG_BYTES);
    ciphertext.extend_from_slice(&nonce);
    ciphertext.extend_from_slice(public_key.as_ref());
    let tag = key_encrypting_key(secret, &salt, &state)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&state),
            &mut ciphertext[NONCE_LEN..],
        )
        .expect("AES-GCM takes 32 bytes");
    ciphertext.extend_from_slice(tag.as_ref());
    AuthMessage { app: app.to_owned(), salt: Bytes::copy_from_slice(&salt), ciphertext: ciphertext.freeze() }
}

fn open_key(
    secret: &str,
    message: &AuthMessage,
    transcript: &[u8],
) -> Result<[u8; PUBLIC_KEY_BYTES], NotProven> {
    let state = [message.app.as_bytes(), &message.salt, transcript].concat();
    let (nonce, sealed) = message.ciphertext.split_first_chunk::<NONCE_LEN>().ok_or(NotProven)?;
    let (sealed, tag) = sealed.split_first_chunk::<PUBLIC_KEY_BYTES>().ok_or(NotProven)?;
    let mut public_key = [0; PUBLIC_KEY_BYTES];
    key_encrypting_key(secret, &message.salt, &state)
        .open_separate_gather(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(&state),
            sealed,
            tag,
            &mut public_key,
        )
        .map_err(|_| NotProven)?;
    Ok(public_key)
}

fn session_keys(
    private_key: &PrivateKey,
    peer_key: &[u8],
    transcript: &[u8],
) -> Result<SessionKeys, NotProven> {
    agree(private_key, UnparsedPublicKey::new(&X25519, peer_key), NotProven, |shared| {
        let mut keys = SessionKeys {
            agreed: Zeroizing::new([0; AGREED_BYTES]),
            derived: Zeroizing::new([0; KEY_BYTES]),
            from_server: [0; KEY_BYTES],
            from_client: [0; KEY_BYTES],
        };
        keys.agreed.copy_from_slice(shared);
        derive(shared, transcript, b"derivedKey", &mut *keys.derived);
        derive(shared, transcript, b"inputIv", &mut keys.from_server);
        derive(shared, transcript, b"outputIv", &mut keys.from_client);
        Ok(keys)
    })
}

fn key_encrypting_key(secret: &str, salt: &[u8], state: &[u8]) -> LessSafeKey {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    derive(secret.as_bytes(), salt, state, &mut *key);
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &*key).expect("16 bytes are an AES-128 key"))
}

/// HKDF with HMAC-SHA256.
pub(super) fn derive(key: &[u8], salt: &[u8], info: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(key)
        .expand(&[info], Length(out.len()))
        .and_then(|derived| derived.fill(out))
        .expect("HKDF gives up to 8,160 bytes");
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}

fn generate() -> PrivateKey {
    PrivateKey::generate(&X25519).expect("the system has randomness")
}

fn encoded(message: &AuthMessage) -> BytesMut {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::vectors;

    /// A handshake that Spark's own classes had with each other, seen from the client, whose private key is known.
    #[test]
    fn keys_are_those_of_spark() {
        for (name, version) in [("v1", EngineVersion::V1), ("v2", EngineVersion::V2)] {
            let bytes = |field: &str| vectors::bytes(&format!("engine-{name}-{field}"));
            let private_key = PrivateKey::from_private_key(&X25519, &bytes("private")).expect("a key");
            let sent = AuthMessage::decode(bytes("challenge")).expect("decodes");
            let response = AuthMessage::decode(bytes("response")).expect("decodes");
            let keys = Challenge { private_key, sent }.finish("s3cret", &response).expect("proven");
            assert_eq!(keys.key(version), &bytes("key")[..]);
            assert_eq!(keys.from_server[..], bytes("client-in")[..]);
            assert_eq!(keys.from_client[..], bytes("client-out")[..]);
        }
    }

    #[test]
    fn any_altered_byte_is_noticed() {
        let challenge = Challenge::new("s3cret", "app");
        let sent = challenge.encoded();
        for at in 0..sent.len() {
            let mut altered = sent.to_vec();
            altered[at] ^= 1;
            let Ok(altered) = AuthMessage::decode(altered.into()) else { continue };
            assert!(respond("s3cret", &altered).is_err(), "byte {at}");
        }
        let (response, _) = respond("s3cret", &challenge.sent).expect("proven");
        for at in 0..response.len() {
            let mut altered = response.to_vec();
            altered[at] ^= 1;
            let Ok(altered) = AuthMessage::decode(altered.into()) else { continue };
            assert!(challenge.finish("s3cret", &altered).is_err(), "byte {at}");
        }
    }
}
