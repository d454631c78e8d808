//! Spark's network protocol without I/O: frames, messages and the shuffle service's calls, as bytes in and values
//! out. No sockets, clocks or files here; whoever owns a connection feeds this crate.

pub mod auth;
mod codec;
pub mod frame;
pub mod message;
pub mod rpc;

pub use codec::DecodeError;
pub use frame::{Decoded, FrameDecoder, FrameError};
pub use message::Message;
pub use rpc::Rpc;
