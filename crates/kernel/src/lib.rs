//! The decisions of a master and of an agent, pure: `step(&mut State, now, Event) -> Vec<Action>`.
//!
//! No I/O, no clock, no randomness, no protobuf: whoever calls brings events and carries out actions.
//! The outcome of an action comes back as another event, never as a callback.
#![forbid(unsafe_code)]

pub mod agent;
pub mod allocator;
pub mod master;
mod time;

pub use time::Time;
