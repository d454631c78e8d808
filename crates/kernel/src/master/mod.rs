//! What a master decides: who is subscribed, who is offered what, which task runs where.
mod action;
mod event;
mod state;

pub use action::{Action, AgentCommand, CallError, Observation, Response, SchedulerEvent};
pub use event::{AgentMessage, AgentRegistration, AgentTask, Call, Event, LinkId, RequestId};
pub use state::{Agent, Config, Framework, State, Task};
