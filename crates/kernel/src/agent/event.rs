//! Everything that reaches an agent: what the master says, and how its own actions turned out.
use super::{AgentCommand, Disks, LinkId, WriteId};
use bellows_model::{ContainerId, FrameworkId};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// [`super::State::next_deadline`] has passed.
    Tick,
    /// The agent is reached at another address than it believed.
    AddressChanged {
        ip: String,
        hostname: String,
    },
    /// A connection to the leading master is open; it waits for the registration.
    LinkOpened {
        link: LinkId,
    },
    LinkClosed {
        link: LinkId,
    },
    /// The master said something.
    Command {
        link: LinkId,
        command: Box<AgentCommand>,
    },
    /// Every record up to `upto` is durable.
    Stored {
        upto: WriteId,
    },
    /// The records up to `upto` that were neither stored nor reported before could not be stored.
    StoreFailed {
        upto: WriteId,
        message: String,
    },
    /// The sandbox is there with all files in it.
    Fetched {
        container_id: ContainerId,
    },
    FetchFailed {
        container_id: ContainerId,
        fault: Fault,
        message: String,
    },
    /// The command's process has been started.
    Launched {
        container_id: ContainerId,
        pid: u32,
    },
    LaunchFailed {
        container_id: ContainerId,
        fault: Fault,
        message: String,
    },
    /// The last process of a container is gone. May overtake [`Event::Launched`].
    Exited {
        container_id: ContainerId,
        exit: Exit,
        /// The end of its stderr, on one line; empty when that is of no interest.
        stderr: String,
    },
    /// These frameworks have shuffle directories here.
    ShuffleFound {
        frameworks: Vec<FrameworkId>,
    },
    ShuffleRemoved {
        framework_id: FrameworkId,
    },
    ShuffleRemovalFailed {
        framework_id: FrameworkId,
    },
    /// The shuffle service was asked whether it answers.
    ShuffleService {
        down: bool,
    },
    /// The disks were looked at.
    DisksFound(Disks),
    /// A disk that had been left out is in use again.
    DiskBack,
    /// The checkpoint was deleted under the agent.
    CheckpointGone,
    /// The operator wants every task ended, in so much time; `None`: in the task's own.
    KillAll {
        grace: Option<Duration>,
    },
    /// The operator takes this agent out of service: the master forgets it, its tasks end. A second one does not wait
    /// for the master any longer.
    Retire,
}

/// Whose doing it is that a task did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Another task may well start here.
    Task,
    /// The next one is likely to fail, too: its disk, its sandboxes, its shims.
    Agent,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Exited(i32),
    Signaled(i32),
    /// Nobody saw it.
    Lost,
}
