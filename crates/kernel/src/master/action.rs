//! Everything that a master wants done.
use super::{LinkId, RequestId};
use bellows_model::{
    AgentId, AgentInfo, ExecutorId, FrameworkId, FrameworkInfo, Offer, OfferId, StatusUuid, StreamId, TaskId,
    TaskInfo, TaskStatus,
};
use std::{sync::Arc, time::Duration};

#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "made and consumed one at a time; a box would cost every reader more"
)]
pub enum Action {
    /// Answers a request; each request gets exactly one.
    Respond { request: RequestId, response: Result<Response, CallError> },
    /// Puts an event on a framework's stream.
    Send { stream: StreamId, event: SchedulerEvent },
    /// Ends a framework's stream after what was sent before.
    CloseStream { stream: StreamId },
    /// Tells an agent something.
    Tell { link: LinkId, command: AgentCommand },
    /// Ends an agent's connection after what was told before.
    CloseLink { link: LinkId },
    /// Tells the operators who watch.
    Observe(Observation),
    /// Puts a line into the log. A peer cannot cause more than one for each of its connections.
    Warn(String),
    /// Tells the reader of the log what has become of an agent or a framework.
    Note(Note),
}

/// A change that the log tells of. It holds what it names, which may be gone from the state.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    Agent { info: Arc<AgentInfo>, change: AgentChange },
    Framework { info: Arc<FrameworkInfo>, change: FrameworkChange },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentChange {
    Added,
    /// It was known before, to this master or a previous one.
    Back {
        tasks: usize,
    },
    /// Its connection is gone; the time that it has to come back.
    Disconnected(Duration),
    Unreachable(String),
    Removed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameworkChange {
    Subscribed,
    Back,
    /// An agent has something of it; the time that it has to subscribe.
    Recovered(Duration),
    /// Its stream is gone; the time that it has to come back.
    Disconnected(Duration),
    Removed(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// 202, or 200 for an operator.
    Accepted,
    /// The stream is open; `SchedulerEvent::Subscribed` is the first event on it.
    Subscribed,
}

/// Why a call was refused at once; what is wrong with a task or an offer comes as an update on the stream instead.
/// The texts are what Mesos answers (recordings `refuse-*`, `teardown-*`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("Framework cannot be found")]
    UnknownFramework,
    #[error("Framework is not subscribed")]
    NotSubscribed,
    #[error(
        "The stream ID '{given}' included in this request didn't match the stream ID currently associated with \
         framework ID {framework_id}"
    )]
    WrongStream { given: StreamId, framework_id: FrameworkId },
    #[error("No framework found with specified ID")]
    NothingToTearDown,
    #[error("{0}")]
    Invalid(String),
}

/// The events of the scheduler API, but for HEARTBEAT, which the stream sends by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum SchedulerEvent {
    Subscribed {
        framework_id: FrameworkId,
    },
    Offers(Vec<Offer>),
    Rescind(OfferId),
    Update(TaskStatus),
    Message {
        agent_id: AgentId,
        executor_id: ExecutorId,
        data: Vec<u8>,
    },
    /// An executor (`Some`) or an agent (`None`) is gone.
    Failure {
        agent_id: AgentId,
        executor_id: Option<ExecutorId>,
        status: Option<i32>,
    },
    Error(String),
}

#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "made and consumed one at a time; a box would cost every reader more"
)]
pub enum AgentCommand {
    Registered {
        agent_id: AgentId,
    },
    /// The agent must end: it was removed, or its registration is invalid.
    Refused {
        reason: String,
    },
    /// The agent cannot be registered now. It keeps all that it has, and tries again after a while.
    TryLater {
        reason: String,
    },
    Launch {
        framework: Arc<FrameworkInfo>,
        task: TaskInfo,
    },
    Kill {
        framework_id: FrameworkId,
        task_id: TaskId,
        grace: Option<Duration>,
    },
    Acknowledge {
        framework_id: FrameworkId,
        task_id: TaskId,
        uuid: StatusUuid,
    },
    ShutdownFramework {
        framework_id: FrameworkId,
    },
    ShutdownExecutor {
        framework_id: FrameworkId,
        executor_id: ExecutorId,
    },
    Message {
        framework_id: FrameworkId,
        executor_id: ExecutorId,
        data: Vec<u8>,
    },
    UpdateFramework {
        framework: Arc<FrameworkInfo>,
    },
    Ping {
        seq: u64,
    },
}

/// What the operator API's SUBSCRIBE stream tells; the ids name what the reader then looks up in the state.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    AgentAdded(AgentId),
    /// Its shuffle service has fallen silent, or answers again. Operators are not told.
    AgentChanged(AgentId),
    AgentRemoved(AgentId),
    FrameworkAdded(FrameworkId),
    FrameworkUpdated(FrameworkId),
    FrameworkRemoved(FrameworkId),
    TaskAdded {
        framework_id: FrameworkId,
        task_id: TaskId,
    },
    /// Its state is newer than its last update, or it has moved to the completed ones. Operators hear of updates only.
    TaskChanged {
        framework_id: FrameworkId,
        task_id: TaskId,
    },
    TaskUpdated {
        framework_id: FrameworkId,
        status: TaskStatus,
    },
    /// It was never launched, and is among the framework's completed tasks.
    TaskRefused {
        framework_id: FrameworkId,
        status: TaskStatus,
    },
}
