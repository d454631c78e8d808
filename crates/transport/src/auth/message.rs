//! The bodies of the RPCs that authenticate (`crypto/AuthMessage.java`, `sasl/SaslMessage.java`).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Result, put_byte_array, put_string};

/// Spark's own are a few hundred bytes; DIGEST-MD5 allows responses of 4,096.
pub(super) const MAX_MESSAGE_BYTES: usize = 8192;

const AUTH_TAG: u8 = 0xfb;
const SASL_TAG: u8 = 0xea;

/// An ephemeral public key, encrypted under a key of the application's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuthMessage {
    pub(super) app: String,
    pub(super) salt: Bytes,
    pub(super) ciphertext: Bytes,
}

impl AuthMessage {
    pub(super) fn decode(body: Bytes) -> Result<AuthMessage> {
        let mut reader = tagged(body, AUTH_TAG)?;
        let message = AuthMessage {
            app: reader.string("application id")?,
            salt: reader.byte_array("salt")?,
            ciphertext: reader.byte_array("encrypted key")?,
        };
        reader.end()?;
        Ok(message)
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(AUTH_TAG);
        put_string(out, &self.app);
        put_byte_array(out, &self.salt);
        put_byte_array(out, &self.ciphertext);
    }
}

/// One token of a SASL exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SaslMessage {
    pub(super) app: String,
    pub(super) token: Bytes,
}

impl SaslMessage {
    pub(super) fn decode(body: Bytes) -> Result<SaslMessage> {
        let mut reader = tagged(body, SASL_TAG)?;
        let app = reader.string("application id")?;
        // Spark ignores the token's length too: the frame says it already.
        reader.i32("token length")?;
        Ok(SaslMessage { app, token: reader.rest() })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(SASL_TAG);
        put_string(out, &self.app);
        put_byte_array(out, &self.token);
    }
}

fn tagged(body: Bytes, tag: u8) -> Result<Reader> {
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(DecodeError::Length("authentication message"));
    }
    let mut reader = Reader::new(body);
    match reader.u8("authentication tag")? {
        found if found == tag => Ok(reader),
        unknown => Err(DecodeError::UnknownType(unknown)),
    }
}
