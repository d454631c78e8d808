//! Offers, what a framework does with them, and what it refuses.
use crate::{AgentId, AgentInfo, FrameworkId, OfferId, Resources, TaskInfo};
use std::{sync::Arc, time::Duration};

/// Resources of one agent, held for one role of one framework until they are accepted, declined or rescinded.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    pub id: OfferId,
    pub framework_id: FrameworkId,
    pub agent_id: AgentId,
    /// Hostname, address and attributes as the agent registered them.
    pub agent: Arc<AgentInfo>,
    /// The role that the resources are allocated to.
    pub role: String,
    pub resources: Resources,
}

/// How long what was not used is kept from the same framework.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Filters {
    /// `None`: the framework did not say, and the master decides.
    pub refuse: Option<Duration>,
}

impl Filters {
    /// Mesos' default, for what is no duration.
    pub const DEFAULT_REFUSE: Duration = Duration::from_secs(5);
}

/// What ACCEPT asks to be done with the offered resources.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    Launch(Vec<TaskInfo>),
    /// Tasks that cannot be launched as they were given: each is refused by itself, the others of the call are not.
    Invalid(Vec<InvalidTask>),
    /// An operation that this master does not carry out, by its Mesos name.
    Unsupported(String),
}

/// A task that cannot be what its framework asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidTask {
    /// Its name and ids as they were given, unchecked, and nothing else.
    pub task: TaskInfo,
    /// The reason, for the framework.
    pub reason: String,
}
