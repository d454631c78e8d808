//! Everything that an agent wants done.
use super::{AgentCondition, AgentMessage, Checkpoint, LinkId, WriteId};
use bellows_model::{
    AgentId, AgentInfo, ContainerId, ExecutorId, FrameworkId, FrameworkInfo, TaskId, TaskInfo, TaskState,
    TaskStatus,
};
use std::{sync::Arc, time::Duration};

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Introduces the agent on a new connection.
    Register { link: LinkId, registration: Registration },
    /// Tells the master something. What is lost with the connection is not missed: the kernel sends it again.
    Send { link: LinkId, message: AgentMessage },
    /// Makes a record durable. Records become durable in the order of their ids.
    Store { write: WriteId, record: Record },
    /// Puts a whole new checkpoint in the place of the one that is gone. What is stored before it is in it.
    StoreAnew(Box<Checkpoint>),
    /// The operator is to know that something is wrong here, or is well again.
    Trouble { what: String, over: bool },
    /// Creates the sandbox and the framework's shuffle directories, then fetches the command's files.
    Fetch(Job),
    /// Nobody waits for the files of this container any more.
    CancelFetch { container_id: ContainerId },
    /// Starts the command in its sandbox.
    Launch(Job),
    /// TERM to all processes, KILL to those left after `grace`.
    Kill { container_id: ContainerId, grace: Duration },
    /// The container's end is durable here: what the containment remembers of it may go.
    Forget { container_id: ContainerId },
    /// The run is over: its sandbox may be collected when it is old enough.
    Retire(Job),
    /// Only shuffle files of this executor are still of use to anybody.
    ExecutorDeparted { framework_id: FrameworkId, executor_id: ExecutorId },
    /// Asks the shuffle service whether it is there, and says so whatever was said before.
    AskShuffleService,
    /// Looks for shuffle directories of any framework.
    FindShuffle,
    /// Deletes all shuffle files of a framework that has ended.
    RemoveShuffle { framework_id: FrameworkId },
    /// The master will not have this agent: the process must end.
    Stop { reason: String },
}

/// One run of one task; a command task's executor bears the task's id.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub framework: Arc<FrameworkInfo>,
    pub framework_id: FrameworkId,
    pub task: Arc<TaskInfo>,
    pub container_id: ContainerId,
}

/// The agent's whole view, so that a master which knows nothing can take it over.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub info: AgentInfo,
    pub frameworks: Vec<Arc<FrameworkInfo>>,
    pub tasks: Vec<RegisteredTask>,
    pub shuffle_service_down: bool,
    pub condition: AgentCondition,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RegisteredTask {
    pub framework_id: FrameworkId,
    pub info: Arc<TaskInfo>,
    pub latest_state: TaskState,
}

/// One change of the checkpoint. Each may be applied twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    AgentId(AgentId),
    /// The next start is that of a new agent.
    ForgetAgentId,
    Framework(Arc<FrameworkInfo>),
    ForgetFramework(FrameworkId),
    /// Without what may be a secret: of a task that has no process after a restart, only the end can be told.
    Task {
        framework_id: FrameworkId,
        info: Arc<TaskInfo>,
        container_id: ContainerId,
    },
    /// Its end, whenever it comes, is on purpose.
    Killed {
        framework_id: FrameworkId,
        task_id: TaskId,
    },
    /// The task's status number `index`, counted from 0.
    Status {
        framework_id: FrameworkId,
        index: usize,
        status: TaskStatus,
    },
    /// So many of the task's statuses were acknowledged.
    Acknowledged {
        framework_id: FrameworkId,
        task_id: TaskId,
        count: usize,
    },
    /// The task with all its statuses.
    ForgetTask {
        framework_id: FrameworkId,
        task_id: TaskId,
    },
    /// The framework has ended: its shuffle files must go when its last process is gone.
    Removal(FrameworkId),
    ForgetRemoval(FrameworkId),
}
