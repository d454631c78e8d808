//! Everything that a master knows. Read by the HTTP API; changed by `step` alone.
use super::LinkId;
use crate::Time;
use bellows_model::{
    AgentId, AgentInfo, FrameworkId, FrameworkInfo, Offer, OfferId, Resources, StreamId, TaskId, TaskInfo,
    TaskState, TaskStatus,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// What an operator sets; defaults are Mesos'.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Prefix of all ids that this master gives; new at each start, so that ids never repeat.
    pub master_id: String,
    /// `None`: offers do not expire by themselves, as in Mesos.
    pub offer_timeout: Option<Duration>,
    pub agent_ping_interval: Duration,
    pub max_agent_ping_timeouts: u32,
    /// How long agents of a previous master, and their frameworks, have to come back.
    pub agent_reregister_timeout: Duration,
    pub max_completed_frameworks: usize,
    pub max_completed_tasks_per_framework: usize,
    /// Offers smaller than both are not made (milli-CPUs, milli-MB): Mesos' `min_allocatable_resources`.
    pub min_cpus: i64,
    pub min_mem: i64,
}

impl Config {
    pub fn new(master_id: impl Into<String>) -> Self {
        Self {
            master_id: master_id.into(),
            offer_timeout: None,
            agent_ping_interval: Duration::from_secs(15),
            max_agent_ping_timeouts: 5,
            agent_reregister_timeout: Duration::from_secs(600),
            max_completed_frameworks: 50,
            max_completed_tasks_per_framework: 1_000,
            min_cpus: 10,
            min_mem: 32_000,
        }
    }
}

/// Fields are public to be read; only the kernel writes them.
#[derive(Debug)]
pub struct State {
    pub config: Config,
    pub started: Time,
    pub agents: BTreeMap<AgentId, Agent>,
    pub frameworks: BTreeMap<FrameworkId, Framework>,
    /// The newest last; bounded by `max_completed_frameworks`.
    pub completed_frameworks: VecDeque<Framework>,
    pub offers: BTreeMap<OfferId, Offer>,
    pub counters: Counters,
}

/// Monotone counts for `/metrics`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    pub offers_sent: u64,
    pub offers_accepted: u64,
    pub offers_declined: u64,
    pub offers_rescinded: u64,
    pub tasks_launched: u64,
    /// Terminal updates by state.
    pub tasks_ended: BTreeMap<TaskState, u64>,
    pub agents_registered: u64,
    pub agents_removed: u64,
    pub calls_refused: u64,
}

#[derive(Debug)]
pub struct Agent {
    pub info: Arc<AgentInfo>,
    /// `None` while it is not connected.
    pub link: Option<LinkId>,
    pub registered: Time,
    pub reregistered: Option<Time>,
    /// Sum of its tasks that are not terminal.
    pub used: Resources,
    /// Sum of its open offers.
    pub offered: Resources,
    /// `Some(when)` since the ping budget ran out; its tasks are then UNREACHABLE.
    pub unreachable: Option<Time>,
}

#[derive(Debug)]
pub struct Framework {
    /// Its `id` is set.
    pub info: FrameworkInfo,
    /// `None` while it is not connected.
    pub stream: Option<StreamId>,
    pub registered: Time,
    pub reregistered: Time,
    /// When it was removed.
    pub unregistered: Option<Time>,
    /// Disconnected at, while its failover timeout runs.
    pub disconnected: Option<Time>,
    /// Known only from its agents since this master started.
    pub recovered: bool,
    pub suppressed_roles: BTreeSet<String>,
    pub tasks: BTreeMap<TaskId, Task>,
    /// The newest last; bounded by `max_completed_tasks_per_framework`.
    pub completed_tasks: VecDeque<Task>,
    pub used: Resources,
    pub offered: Resources,
}

#[derive(Debug, Clone)]
pub struct Task {
    pub info: Arc<TaskInfo>,
    pub framework_id: FrameworkId,
    /// The role that its resources are allocated to.
    pub role: String,
    pub state: TaskState,
    /// The newest last; bounded by the number of states a task passes through.
    pub statuses: Vec<TaskStatus>,
}
