//! What an agent decides: when a task may start, when it ends, what the master still has to be told of it,
//! and when a framework's files may go.
mod action;
mod copy;
mod event;
mod frameworks;
mod health;
mod launch;
mod recover;
mod shuffle_service;
mod state;
mod step;
mod updates;

#[cfg(test)]
mod tests;

pub use crate::master::{AgentCommand, AgentCondition, AgentMessage, LinkId};
pub use action::{Action, Job, Record, RegisteredTask, Registration};
pub use event::{Event, Exit, Fault};
pub use health::{Disks, Health};
pub use recover::{Checkpoint, RecoveredContainer, StoredTask, recover};
pub use state::{
    CompletedFramework, Config, Counters, Framework, InFlight, Master, Phase, Removal, State, Task, WriteId,
    invariants,
};
pub use step::step;
