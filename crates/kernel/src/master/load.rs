//! How much an agent's tasks weigh. Each weighs the same when it is launched as when its agent reports it, so that an agent
//! that was given no more than it may have can always register again.
use bellows_model::{AgentId, TaskInfo};
use std::ops::{AddAssign, SubAssign};

/// What tasks cost those who keep them and reckon with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Scalars, ranges and items of resources: arithmetic walks along them.
    parts: usize,
    /// Bytes in memory, and about so many in a registration.
    bytes: usize,
}

/// The most that one agent may be given. A registration is one record of at most 64 MiB; half of that is for tasks.
const MOST: Load = Load { parts: 20_000, bytes: 32 << 20 };

/// The most that is taken in of an agent. It is more than [`MOST`]: tasks that ended for the master may not have ended for
/// their agent.
const MOST_REPORTED: Load = Load { parts: 2 * MOST.parts, bytes: 2 * MOST.bytes };

impl Load {
    pub(super) fn of(task: &TaskInfo) -> Self {
        let of_executor = task.executor.as_ref().map_or(0, |executor| executor.resources.parts());
        Self { parts: task.resources.parts() + of_executor, bytes: task.kept_bytes() }
    }

    pub(super) fn sum<'a>(tasks: impl Iterator<Item = &'a TaskInfo>) -> Self {
        let mut sum = Self::default();
        tasks.for_each(|task| sum += Self::of(task));
        sum
    }

    /// Checks the tasks of a registration together.
    pub(super) fn check_reported<'a>(tasks: impl Iterator<Item = &'a TaskInfo>) -> Result<(), String> {
        let sum = Self::sum(tasks);
        match sum.is_within(MOST_REPORTED) {
            true => Ok(()),
            false => Err(format!(
                "The agent's tasks are too much to take in: {} parts of resources and {} bytes",
                sum.parts, sum.bytes
            )),
        }
    }

    /// Checks that the agent may be given another task.
    pub(super) fn has_room_for(mut self, task: &TaskInfo, agent_id: &AgentId) -> Result<(), String> {
        self += Self::of(task);
        match self.is_within(MOST) {
            true => Ok(()),
            false => Err(format!(
                "The tasks of agent {agent_id} would be too much for it to report: {} parts of resources and {} bytes",
                self.parts, self.bytes
            )),
        }
    }

    fn is_within(self, most: Self) -> bool {
        self.parts <= most.parts && self.bytes <= most.bytes
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.parts += other.parts;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Self) {
        self.parts -= other.parts;
        self.bytes -= other.bytes;
    }
}
