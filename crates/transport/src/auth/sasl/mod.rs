//! DIGEST-MD5 (RFC 2831) as Spark uses it (`sasl/SparkSaslServer.java`, on the JDK's mechanism): challenge, response,
//! and the server's proof. Realm and digest URI are constants that both sides know.

mod directives;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::cipher::{SaslCipher, SaslKeys};
use super::engine::random;
use directives::{Directives, quote};

/// The user that Spark's clients name, whatever the application.
const USER: &str = "sparkSaslUser";
const REALM: &[u8] = b"default";
/// The JDK's, of no protocol and of the server name that Spark gives.
const DIGEST_URI: &[u8] = b"null/default";
const NONCE_BYTES: usize = 30;
const NONCE_COUNT: &[u8] = b"00000001";

/// The peer's token is not one of this exchange, or its author does not know the secret.
#[derive(Debug)]
pub(super) struct NotProven;

/// What the connection speaks afterwards: plain frames, or blocks under these keys.
pub(super) type Protection = Option<SaslKeys>;

/// The server's side, between its challenge and the client's response.
pub(super) struct DigestServer {
    nonce: String,
    always_encrypt: bool,
}

impl DigestServer {
    pub(super) fn new(always_encrypt: bool) -> DigestServer {
        DigestServer { nonce: BASE64.encode(random::<NONCE_BYTES>()), always_encrypt }
    }

    pub(super) fn challenge(&self) -> Bytes {
        let qop = if self.always_encrypt { "auth-conf" } else { "auth-conf,auth" };
        format!(
            "realm=\"default\",nonce=\"{}\",qop=\"{qop}\",charset=utf-8,cipher=\"3des,rc4\",algorithm=md5-sess",
            self.nonce
        )
        .into()
    }

    /// Checks the client's response; returns the token that proves this side.
    pub(super) fn finish(&self, secret: &str, response: &[u8]) -> Result<(Bytes, Protection), NotProven> {
        let response = Directives::parse(response)?;
        let offered = [
            (response.get("realm"), REALM),
            (response.get("nonce"), self.nonce.as_bytes()),
            (response.get("nc"), NONCE_COUNT),
        ];
        let charset = response.get("charset").unwrap_or(b"utf-8");
        let uri = response.get("digest-uri").unwrap_or_default();
        if offered.iter().any(|(said, ours)| *said != Some(ours))
            || charset != b"utf-8"
            || !uri.eq_ignore_ascii_case(DIGEST_URI)
        {
            return Err(NotProven);
        }
        let exchange = Exchange {
            user: response.get("username").ok_or(NotProven)?,
            nonce: self.nonce.as_bytes(),
            client_nonce: response.get("cnonce").ok_or(NotProven)?,
            uri,
            qop: Qop::parse(&response, self.always_encrypt)?,
            authorized: response.get("authzid"),
        };
        let session = exchange.session_key(secret);
        let proof = response.get("response").ok_or(NotProven)?;
        verify_slices_are_equal(&exchange.proof(&session, b"AUTHENTICATE"), proof).map_err(|_| NotProven)?;
        if exchange.authorized.is_some_and(|other| other != exchange.user) {
            return Err(NotProven);
        }
        let token = [&b"rspauth="[..], &exchange.proof(&session, b"")].concat();
        Ok((token.into(), exchange.qop.protection(session)))
    }
}

/// The client's side, between its response and the server's proof.
pub(super) struct DigestClient {
    expected: Vec<u8>,
    protection: Protection,
}

impl DigestClient {
    /// Answers a challenge as a JDK does.
    pub(super) fn respond(
        secret: &str,
        encrypt: bool,
        challenge: &[u8],
    ) -> Result<(DigestClient, Bytes), NotProven> {
        let challenge = Directives::parse(challenge)?;
        let nonce = challenge.get("nonce").ok_or(NotProven)?;
        let client_nonce = BASE64.encode(random::<NONCE_BYTES>());
        let user = BASE64.encode(USER);
        let qop = if encrypt { Qop::AuthConf(SaslCipher::TripleDes) } else { Qop::Auth };
        let exchange = Exchange {
            user: user.as_bytes(),
            nonce,
            client_nonce: client_nonce.as_bytes(),
            uri: DIGEST_URI,
            qop,
            authorized: None,
        };
        let session = exchange.session_key(secret);
        let mut response = b"charset=utf-8,username=\"".to_vec();
        response.extend_from_slice(&quote(user.as_bytes()));
        response.extend_from_slice(b"\",realm=\"default\",nonce=\"");
        response.extend_from_slice(&quote(nonce));
        response.extend_from_slice(b"\",nc=00000001,cnonce=\"");
        response.extend_from_slice(client_nonce.as_bytes());
        response.extend_from_slice(b"\",digest-uri=\"null/default\",maxbuf=65536,response=");
        response.extend_from_slice(&exchange.proof(&session, b"AUTHENTICATE"));
        response.extend_from_slice(b",qop=");
        response.extend_from_slice(qop.token());
        if encrypt {
            response.extend_from_slice(b",cipher=\"3des\"");
        }
        let expected = [&b"rspauth="[..], &exchange.proof(&session, b"")].concat();
        Ok((DigestClient { expected, protection: qop.protection(session) }, response.into()))
    }

    /// Checks the server's proof.
    pub(super) fn finish(self, proof: &[u8]) -> Result<Protection, NotProven> {
        verify_slices_are_equal(&self.expected, proof).map_err(|_| NotProven)?;
        Ok(self.protection)
    }
}

/// All that both proofs are made of.
struct Exchange<'a> {
    user: &'a [u8],
    nonce: &'a [u8],
    client_nonce: &'a [u8],
    uri: &'a [u8],
    qop: Qop,
    authorized: Option<&'a [u8]>,
}

impl Exchange<'_> {
    /// H(A1).
    fn session_key(&self, secret: &str) -> Zeroizing<[u8; 16]> {
        let password = Zeroizing::new(BASE64.encode(secret));
        let known = Zeroizing::new(md5(&[self.user, b":", REALM, b":", password.as_bytes()]));
        let mut a1 = Md5::new();
        for part in [&known[..], b":", self.nonce, b":", self.client_nonce] {
            a1.update(part);
        }
        if let Some(authorized) = self.authorized {
            a1.update(b":");
            a1.update(authorized);
        }
        Zeroizing::new(a1.finalize().into())
    }

    fn proof(&self, session: &[u8; 16], method: &[u8]) -> [u8; 32] {
        let layer: &[u8] = match self.qop {
            Qop::Auth => b"",
            Qop::AuthConf(_) => b":00000000000000000000000000000000",
        };
        let a2 = hex(md5(&[method, b":", self.uri, layer]));
        hex(md5(&[
            &hex(*session),
            b":",
            self.nonce,
            b":",
            NONCE_COUNT,
            b":",
            self.client_nonce,
            b":",
            self.qop.token(),
            b":",
            &a2,
        ]))
    }
}

/// Quality of protection.
#[derive(Debug, Clone, Copy)]
enum Qop {
    Auth,
    AuthConf(SaslCipher),
}

impl Qop {
    fn parse(response: &Directives, always_encrypt: bool) -> Result<Qop, NotProven> {
        match response.get("qop").unwrap_or(b"auth") {
            b"auth" if !always_encrypt => Ok(Qop::Auth),
            b"auth-conf" => {
                response.get("cipher").and_then(SaslCipher::parse).map(Qop::AuthConf).ok_or(NotProven)
            }
            _ => Err(NotProven),
        }
    }

    fn token(self) -> &'static [u8] {
        match self {
            Qop::Auth => b"auth",
            Qop::AuthConf(_) => b"auth-conf",
        }
    }

    fn protection(self, session: Zeroizing<[u8; 16]>) -> Protection {
        match self {
            Qop::Auth => None,
            Qop::AuthConf(cipher) => Some(SaslKeys { cipher, session }),
        }
    }
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut md5 = Md5::new();
    parts.iter().for_each(|part| md5.update(part));
    md5.finalize().into()
}

fn hex(bytes: [u8; 16]) -> [u8; 32] {
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
    std::array::from_fn(|at| digit(if at % 2 == 0 { bytes[at / 2] >> 4 } else { bytes[at / 2] & 15 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::cipher::{SessionCipher, Side};
    use crate::auth::vectors;
    use bytes::BytesMut;

    /// Two whole exchanges between the JDK's two sides, and what its client then sent.
    #[test]
    fn exchange_is_that_of_the_jdk() {
        for cipher in ["3des", "rc4"] {
            let bytes = |field: &str| vectors::bytes(&format!("sasl-{cipher}-{field}"));
            let challenge = Directives::parse(&bytes("challenge")).expect("parses");
            let nonce = String::from_utf8(challenge.get("nonce").expect("a nonce").to_vec()).expect("text");
            let server = DigestServer { nonce, always_encrypt: true };
            let (proof, keys) = server.finish("s3cret", &bytes("response")).expect("proven");
            assert_eq!(proof, bytes("proof"));
            assert!(server.finish("S3cret", &bytes("response")).is_err());
            let mut cipher = SessionCipher::sasl(&keys.expect("auth-conf"), Side::Server);
            let mut plain = BytesMut::new();
            cipher.decryptor.open(&mut bytes("stream").into(), &mut plain).expect("genuine");
            assert_eq!(plain, [7, 45].map(vectors::plain).concat()[..]);
        }
    }

    #[test]
    fn any_altered_byte_of_a_response_is_noticed() {
        let server = DigestServer::new(false);
        let (_, response) = DigestClient::respond("s3cret", true, &server.challenge()).expect("responds");
        assert!(server.finish("s3cret", &response).is_ok());
        // What is not signed (maxbuf, charset, cipher) may still be another valid value, never a crash.
        let signed =
            |name: &[u8]| response.windows(name.len()).position(|part| part == name).expect("is there");
        for name in [&b"username=\""[..], b"nonce=\"", b"cnonce=\"", b"nc=", b"response=", b"qop="] {
            let at = signed(name) + name.len() + 1;
            let mut altered = response.to_vec();
            altered[at] ^= 1;
            assert!(server.finish("s3cret", &altered).is_err(), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn the_same_response_does_not_prove_anything_twice() {
        let (_, response) =
            DigestClient::respond("s3cret", false, &DigestServer::new(false).challenge()).expect("responds");
        assert!(DigestServer::new(false).finish("s3cret", &response).is_err());
    }

    #[test]
    fn a_server_that_always_encrypts_takes_no_plain_client() {
        let server = DigestServer::new(true);
        let (_, response) = DigestClient::respond("s3cret", false, &server.challenge()).expect("responds");
        assert!(server.finish("s3cret", &response).is_err());
    }
}
