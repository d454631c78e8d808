//! Everything that reaches a master, decoded and validated in form; `step` validates it against the state.
use bellows_model::{
    AgentId, AgentInfo, ExecutorId, Filters, FrameworkId, FrameworkInfo, OfferId, Operation, StatusUuid,
    StreamId, TaskId, TaskInfo, TaskState, TaskStatus,
};
use std::time::Duration;

/// Names one request that waits for [`super::Action::Respond`]. Given by the ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one connection of an agent. Given by the ingress; a new connection has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// [`super::State::next_deadline`] has passed.
    Tick,
    /// A framework subscribes on a new stream; with an id in `info` it comes back.
    Subscribe { request: RequestId, stream: StreamId, info: FrameworkInfo, suppressed_roles: Vec<String> },
    /// The connection under a framework's stream is gone.
    StreamClosed { stream: StreamId },
    /// Any other call of the scheduler API.
    Call { request: RequestId, framework_id: FrameworkId, stream: StreamId, call: Call },
    /// An operator ends a framework (`POST /teardown`, operator API TEARDOWN).
    OperatorTeardown { request: RequestId, framework_id: FrameworkId },
    /// An agent connected and said who it is.
    AgentRegister { link: LinkId, registration: AgentRegistration },
    /// The connection of an agent is gone. It has the ping budget to come back.
    LinkClosed { link: LinkId },
    /// Anything that a registered agent says.
    Agent { link: LinkId, message: AgentMessage },
    /// A registered agent said something that cannot be read; `why` says what is wrong with it.
    AgentUnreadable { link: LinkId, why: String },
}

/// The calls of the scheduler API other than SUBSCRIBE.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Teardown,
    Accept {
        offer_ids: Vec<OfferId>,
        operations: Vec<Operation>,
        filters: Filters,
    },
    Decline {
        offer_ids: Vec<OfferId>,
        filters: Filters,
    },
    /// Empty `roles`: all of the framework's.
    Revive {
        roles: Vec<String>,
    },
    /// Empty `roles`: all of the framework's.
    Suppress {
        roles: Vec<String>,
    },
    Kill {
        task_id: TaskId,
        agent_id: Option<AgentId>,
        grace: Option<Duration>,
    },
    Shutdown {
        executor_id: ExecutorId,
        agent_id: AgentId,
    },
    Acknowledge {
        agent_id: AgentId,
        task_id: TaskId,
        uuid: StatusUuid,
    },
    /// Empty `tasks`: every task of the framework that is not terminal.
    Reconcile {
        tasks: Vec<(TaskId, Option<AgentId>)>,
    },
    Message {
        agent_id: AgentId,
        executor_id: ExecutorId,
        data: Vec<u8>,
    },
    UpdateFramework {
        info: FrameworkInfo,
        suppressed_roles: Vec<String>,
    },
    /// Calls that are accepted and have no effect here, as in Mesos: REQUEST.
    Request,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AgentRegistration {
    /// With an id when it registered before.
    pub info: AgentInfo,
    pub frameworks: Vec<FrameworkInfo>,
    pub tasks: Vec<AgentTask>,
    /// Its shuffle service does not answer.
    pub shuffle_service_down: bool,
    pub condition: AgentCondition,
}

/// How fit an agent is for tasks, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentCondition {
    /// Tasks would only fail there: nothing of it is offered.
    pub paused: bool,
    /// What is wrong with its machine, a sentence each.
    pub troubles: Vec<String>,
}

/// A task that an agent has, as it says when it registers again.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentTask {
    pub framework_id: FrameworkId,
    pub info: TaskInfo,
    pub latest_state: TaskState,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AgentMessage {
    /// `latest_state`: the newest that the agent has stored; `status` may be behind it.
    StatusUpdate {
        framework_id: FrameworkId,
        status: TaskStatus,
        latest_state: TaskState,
    },
    ExecutorTerminated {
        framework_id: FrameworkId,
        executor_id: ExecutorId,
        status: i32,
    },
    ExecutorMessage {
        framework_id: FrameworkId,
        executor_id: ExecutorId,
        data: Vec<u8>,
    },
    Pong {
        seq: u64,
    },
    /// The agent's shuffle service has fallen silent, or answers again.
    ShuffleService {
        down: bool,
    },
    /// Something broke on the agent's machine, or is well again.
    Condition(AgentCondition),
    /// The agent goes for good, and its tasks with it.
    Unregister,
}
