//! Who leads: turns the address an operator gave (`host:port` or `zk://…`) into a watch of the leading master,
//! and lets a master stand for election.
//!
//! It never talks to a master: whether the announced leader answers is for its clients to find out.

mod address;
mod backoff;
mod contend;
mod detect;
mod leader;
mod zookeeper;

pub use address::{AddressError, DEFAULT_MASTER_PORT, MasterAddress, ZooKeeperAddress};
pub use backoff::Backoff;
pub use contend::{Standing, contend};
pub use detect::detect;
pub use leader::Leader;
