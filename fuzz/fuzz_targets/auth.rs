//! What an unauthenticated peer may send: nobody gets in who does not know the secret, and nothing panics. A secrets
//! file is read the same way.
#![no_main]

use std::sync::Arc;

use bellows_transport::auth::{AuthPolicy, SecretStore, ServerAuth, Step};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = SecretStore::parse(data);
    let secrets = Arc::new(SecretStore::one_for_all("not to be guessed: 7d5f0c".to_owned()));
    let mut auth = ServerAuth::new(secrets, AuthPolicy::default());
    // The first byte says where the first message ends.
    let Some((&first, messages)) = data.split_first() else { return };
    let (one, two) = messages.split_at(usize::from(first).min(messages.len()));
    for body in [one, two] {
        match auth.receive(Bytes::copy_from_slice(body)) {
            Ok(Step::Established { .. }) => panic!("let in without the secret"),
            Ok(Step::Reply(_)) | Err(_) => {}
        }
    }
});
