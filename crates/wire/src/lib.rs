//! The Mesos v1 protocol and Bellows' own master-agent stream: messages, JSON, framing.
//! Bytes in, values out; nothing here opens a socket, reads a clock or decides anything.

pub mod bounds;
pub mod convert;
mod descriptors;
pub mod json;
pub mod media;
pub mod recordio;
mod schema;
pub mod text;
pub mod v0;

mod protocol {
    //! Generated from `proto/`; their comments are the documentation.
    #![allow(unreachable_pub, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/protocol.rs"));
}

/// The stream between master and agent: `AgentMessage` one way, `MasterMessage` the other, as RecordIO records.
pub use protocol::bellows::link;
/// Mesos v1: the messages themselves, and per API `Call` with `Event` or `Response` in `scheduler`, `executor`,
/// `master` and `agent`.
pub use protocol::mesos::v1;
