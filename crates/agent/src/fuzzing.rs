//! What the fuzz targets reach of this crate: the messages of the link, both ways. Not for anyone else.

use crate::link::{self, speech};
use bellows_kernel::agent::{AgentCommand, AgentMessage, Registration};
use bellows_wire::{
    convert::ConvertError,
    link::{AgentMessage as ToMaster, MasterMessage, Registered},
};
use std::time::Duration;

/// A master's message as a command; `None`: a message of a later version.
pub fn from_master(message: MasterMessage) -> Result<Option<AgentCommand>, ConvertError> {
    speech::from_master(message)
}

/// How long the agent waits for a master that said so.
pub fn ping_budget(registered: &Registered) -> Duration {
    link::ping_budget(registered)
}

pub fn register(registration: &Registration) -> ToMaster {
    speech::register(registration)
}

pub fn to_master(message: AgentMessage) -> ToMaster {
    speech::to_master(message)
}
