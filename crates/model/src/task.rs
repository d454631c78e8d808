//! Tasks, the commands they run and the states they pass through.
use crate::{AgentId, ContainerId, ExecutorId, Label, Resources, StatusUuid, TaskId};
use std::time::Duration;

/// Mesos' `TaskInfo`. Exactly one of `command` and `executor` is set in a valid task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskInfo {
    pub name: String,
    pub task_id: TaskId,
    pub agent_id: AgentId,
    pub resources: Resources,
    pub command: Option<CommandInfo>,
    pub executor: Option<ExecutorInfo>,
    pub data: Option<Vec<u8>>,
    pub labels: Vec<Label>,
    /// Mesos' `KillPolicy.grace_period`.
    pub kill_grace: Option<Duration>,
    /// The kind of container that the task asks for, when it asks for one (`DOCKER`, `MESOS`).
    pub container: Option<String>,
    /// A field by which the task asks for something that is done nowhere here, as `container.volumes`.
    pub unsupported: Option<String>,
}

impl TaskInfo {
    /// The task as a master remembers it and an agent writes it to disk: commands are reduced to who runs them and how.
    /// Environment, command line and URIs may hold secrets, and so may `data`; they may be large, too.
    pub fn without_secrets(&self) -> Self {
        Self {
            name: self.name.clone(),
            task_id: self.task_id.clone(),
            agent_id: self.agent_id.clone(),
            resources: self.resources.clone(),
            command: self.command.as_ref().map(CommandInfo::without_secrets),
            executor: self.executor.as_ref().map(ExecutorInfo::without_secrets),
            data: None,
            labels: self.labels.clone(),
            kill_grace: self.kill_grace,
            container: self.container.clone(),
            unsupported: self.unsupported.clone(),
        }
    }

    /// About how many bytes [`Self::without_secrets`] takes.
    pub fn kept_bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let label = |label: &Label| LABEL_BYTES + label.key.len() + length(&label.value);
        let executor = |executor: &ExecutorInfo| {
            let names =
                executor.executor_id.as_str().len() + length(&executor.name) + length(&executor.source);
            names + length(&executor.command.user) + executor.resources.bytes()
        };
        TASK_BYTES
            + self.name.len()
            + self.task_id.as_str().len()
            + self.resources.bytes()
            + self.labels.iter().map(label).sum::<usize>()
            + self.command.as_ref().map_or(0, |command| length(&command.user))
            + self.executor.as_ref().map_or(0, executor)
            + length(&self.container)
            + length(&self.unsupported)
    }
}

/// Bytes that a task and a label take beyond their texts.
const TASK_BYTES: usize = 512;
const LABEL_BYTES: usize = 48;

/// A framework's own executor, which runs many tasks (Mesos' `ExecutorInfo`).
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorInfo {
    pub executor_id: ExecutorId,
    pub name: Option<String>,
    pub source: Option<String>,
    pub command: CommandInfo,
    pub resources: Resources,
    pub data: Option<Vec<u8>>,
    pub shutdown_grace: Option<Duration>,
}

impl ExecutorInfo {
    /// Returns the executor as a master remembers it; see [`TaskInfo::without_secrets`].
    pub fn without_secrets(&self) -> Self {
        Self {
            executor_id: self.executor_id.clone(),
            name: self.name.clone(),
            source: self.source.clone(),
            command: self.command.without_secrets(),
            resources: self.resources.clone(),
            data: None,
            shutdown_grace: self.shutdown_grace,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct CommandInfo {
    /// `true`: `value` goes to `/bin/sh -c`; `false`: `value` is the program and `arguments` its argv, with argv[0].
    pub shell: bool,
    pub value: Option<String>,
    pub arguments: Vec<String>,
    pub environment: Vec<EnvironmentVariable>,
    pub uris: Vec<Uri>,
    pub user: Option<String>,
}

impl CommandInfo {
    fn without_secrets(&self) -> Self {
        Self { shell: self.shell, user: self.user.clone(), ..Self::default() }
    }
}

/// Its value may be a secret: it is never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvironmentVariable {
    pub name: String,
    pub value: String,
}

impl std::fmt::Debug for EnvironmentVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// A file that the fetcher brings into the sandbox (Mesos' `CommandInfo.URI`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    pub value: String,
    pub executable: bool,
    /// Unpack known archives; Mesos' default is `true`.
    pub extract: bool,
    pub cache: bool,
    pub output_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    Staging,
    Starting,
    Running,
    Killing,
    Finished,
    Failed,
    Killed,
    Error,
    Lost,
    Dropped,
    Unreachable,
    Gone,
    GoneByOperator,
    Unknown,
}

impl TaskState {
    pub const ALL: [Self; 14] = [
        Self::Staging,
        Self::Starting,
        Self::Running,
        Self::Killing,
        Self::Finished,
        Self::Failed,
        Self::Killed,
        Self::Error,
        Self::Lost,
        Self::Dropped,
        Self::Unreachable,
        Self::Gone,
        Self::GoneByOperator,
        Self::Unknown,
    ];

    /// Nothing follows a terminal state, and its resources are free. As in Mesos' `protobuf::isTerminalState`,
    /// UNREACHABLE and UNKNOWN are not terminal: the task may come back.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Finished
                | Self::Failed
                | Self::Killed
                | Self::Error
                | Self::Lost
                | Self::Dropped
                | Self::Gone
                | Self::GoneByOperator
        )
    }

    /// Whether an agent may say so of its tasks. Only a master knows which tasks are out of reach, gone or unknown.
    pub fn is_an_agents_to_report(self) -> bool {
        !matches!(self, Self::Unreachable | Self::Gone | Self::GoneByOperator | Self::Unknown)
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Staging => "TASK_STAGING",
            Self::Starting => "TASK_STARTING",
            Self::Running => "TASK_RUNNING",
            Self::Killing => "TASK_KILLING",
            Self::Finished => "TASK_FINISHED",
            Self::Failed => "TASK_FAILED",
            Self::Killed => "TASK_KILLED",
            Self::Error => "TASK_ERROR",
            Self::Lost => "TASK_LOST",
            Self::Dropped => "TASK_DROPPED",
            Self::Unreachable => "TASK_UNREACHABLE",
            Self::Gone => "TASK_GONE",
            Self::GoneByOperator => "TASK_GONE_BY_OPERATOR",
            Self::Unknown => "TASK_UNKNOWN",
        }
    }
}

/// Who says so (Mesos' `TaskStatus.Source`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Master,
    Agent,
    Executor,
}

/// Why (the part of Mesos' `TaskStatus.Reason` that arises here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    CommandExecutorFailed,
    ContainerLaunchFailed,
    ContainerLimitationDisk,
    ContainerLimitationMemory,
    ExecutorTerminated,
    ExecutorUnregistered,
    FrameworkRemoved,
    InvalidFrameworkId,
    InvalidOffers,
    MasterDisconnected,
    Reconciliation,
    ResourcesUnknown,
    AgentDisconnected,
    AgentRemoved,
    AgentRemovedByOperator,
    AgentReregistered,
    AgentRestarted,
    AgentUnknown,
    TaskInvalid,
    TaskKilledDuringLaunch,
    TaskUnauthorized,
    TaskUnknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TaskStatus {
    pub task_id: TaskId,
    pub state: TaskState,
    pub source: Source,
    pub reason: Option<Reason>,
    pub message: Option<String>,
    pub agent_id: Option<AgentId>,
    pub executor_id: Option<ExecutorId>,
    /// Seconds since the Unix epoch, as on the wire.
    pub timestamp: f64,
    /// Set when the update must be acknowledged.
    pub uuid: Option<StatusUuid>,
    pub container: Option<ContainerStatus>,
    pub data: Option<Vec<u8>>,
    pub healthy: Option<bool>,
    pub labels: Vec<Label>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    pub container_id: ContainerId,
    pub executor_pid: Option<u32>,
    /// The address that the task's network is reached at.
    pub ip_address: Option<String>,
}
