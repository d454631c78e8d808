//! The protocol's descriptors, and how a generated type finds its own.

use prost::Name;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use std::sync::LazyLock;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice())
        .expect("invariant: build.rs wrote valid descriptors")
});

pub(crate) fn descriptor<T: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&T::full_name()).expect("invariant: every generated type has its descriptor")
}
