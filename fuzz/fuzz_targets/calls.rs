//! An RPC's body: a call or an error, and a call encodes to one that is equal.
#![no_main]

use bellows_transport::rpc::Rpc;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(call) = Rpc::decode(Bytes::copy_from_slice(data)) else { return };
    if let Rpc::FetchShuffleBlocks(fetch) = &call {
        assert!(fetch.chunks() * 4 <= data.len());
        assert_eq!(fetch.reduces_per_map().count(), fetch.maps.len());
    }
    if !matches!(call, Rpc::Unsupported(_)) {
        assert_eq!(Rpc::decode(call.encode()), Ok(call));
    }
});
