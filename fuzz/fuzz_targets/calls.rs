//! An RPC's body: a call or an error, in memory that follows the body's length, and a call encodes to one that is
//! equal. No call is the beginning of another.
#![no_main]

use bellows_transport::rpc::Rpc;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    bellows_fuzz::check_call(&body);
    let is_call = |body: Bytes| Rpc::decode(body).is_ok_and(|call| !matches!(call, Rpc::Unsupported(_)));
    if is_call(body.clone()) {
        assert!(!is_call(body.slice(..body.len() - 1)), "the last byte says nothing");
        assert!(!is_call([data, &[0]].concat().into()), "a byte more says nothing");
    }
});
