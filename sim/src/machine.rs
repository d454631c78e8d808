//! A machine: its disk, its processes, and the agent on it, which may crash while the rest goes on.
use bellows_kernel::{
    Time,
    agent::{self, Checkpoint, Exit, Record, RecoveredContainer, StoredTask, WriteId},
};
use bellows_model::{AgentInfo, ContainerId, FrameworkId, Resources, TaskId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) struct Machine {
    pub(crate) info: AgentInfo,
    /// `None` while the agent is down.
    pub(crate) agent: Option<agent::State>,
    /// Counts the agent's starts: what was meant for an earlier one is lost.
    pub(crate) epoch: u64,
    /// The agent's connection to the master.
    pub(crate) connection: Option<u64>,
    pub(crate) connecting: bool,
    pub(crate) disk: Checkpoint,
    /// On their way to the disk.
    pub(crate) writes: VecDeque<(WriteId, Record)>,
    pub(crate) last_write: Time,
    /// Processes, and the exit status of those that have ended.
    pub(crate) containers: BTreeMap<ContainerId, Option<Exit>>,
    /// Which task each process was started for; never forgotten.
    pub(crate) started: BTreeMap<ContainerId, (FrameworkId, TaskId)>,
    pub(crate) shuffle: BTreeSet<FrameworkId>,
    pub(crate) tick: Option<Time>,
}

impl Machine {
    pub(crate) fn new(number: usize, resources: Resources) -> Self {
        Self {
            info: AgentInfo {
                id: None,
                hostname: format!("host{number}"),
                ip: "127.0.0.1".into(),
                port: 5_051 + number as u16,
                resources,
                attributes: Vec::new(),
                version: "0".into(),
            },
            agent: None,
            epoch: 0,
            connection: None,
            connecting: false,
            disk: Checkpoint::default(),
            writes: VecDeque::new(),
            last_write: Time(0),
            containers: BTreeMap::new(),
            started: BTreeMap::new(),
            shuffle: BTreeSet::new(),
            tick: None,
        }
    }

    /// What a starting agent finds of its tasks.
    pub(crate) fn recovered(&self) -> BTreeMap<ContainerId, RecoveredContainer> {
        let found = |exit: &Option<Exit>| match exit {
            None => RecoveredContainer::Running { pid: 1 },
            Some(exit) => RecoveredContainer::Ended(*exit),
        };
        self.containers.iter().map(|(id, exit)| (id.clone(), found(exit))).collect()
    }

    pub(crate) fn is_running(&self, framework: &FrameworkId, task: &TaskId) -> bool {
        self.containers.iter().any(|(id, exit)| {
            exit.is_none() && self.started.get(id).is_some_and(|key| key.0 == *framework && key.1 == *task)
        })
    }

    /// The first write in the queue reaches the disk.
    pub(crate) fn write(&mut self) -> Option<WriteId> {
        let (write, record) = self.writes.pop_front()?;
        apply(&mut self.disk, record);
        Some(write)
    }
}

fn apply(disk: &mut Checkpoint, record: Record) {
    let task = |disk: &Checkpoint, framework: &FrameworkId, task: &TaskId| {
        disk.tasks.iter().position(|known| known.framework_id == *framework && known.info.task_id == *task)
    };
    match record {
        Record::AgentId(id) => disk.agent_id = Some(id),
        Record::ForgetAgentId => disk.agent_id = None,
        Record::Framework(info) => {
            disk.frameworks.retain(|known| known.id != info.id);
            disk.frameworks.push((*info).clone());
        }
        Record::ForgetFramework(id) => disk.frameworks.retain(|known| known.id.as_ref() != Some(&id)),
        Record::Task { framework_id, info, container_id } => {
            if let Some(at) = task(disk, &framework_id, &info.task_id) {
                disk.tasks.remove(at);
            }
            disk.tasks.push(StoredTask {
                framework_id,
                info: (*info).clone(),
                container_id,
                killed: false,
                statuses: Vec::new(),
                acknowledged: 0,
            });
        }
        Record::Killed { framework_id, task_id } => {
            if let Some(at) = task(disk, &framework_id, &task_id) {
                disk.tasks[at].killed = true;
            }
        }
        Record::Status { framework_id, index, status } => {
            if let Some(at) = task(disk, &framework_id, &status.task_id) {
                disk.tasks[at].statuses.truncate(index);
                disk.tasks[at].statuses.push(status);
            }
        }
        Record::Acknowledged { framework_id, task_id, count } => {
            if let Some(at) = task(disk, &framework_id, &task_id) {
                disk.tasks[at].acknowledged = count;
            }
        }
        Record::ForgetTask { framework_id, task_id } => {
            if let Some(at) = task(disk, &framework_id, &task_id) {
                disk.tasks.remove(at);
            }
        }
        Record::Removal(id) => {
            disk.removals.retain(|known| *known != id);
            disk.removals.push(id);
        }
        Record::ForgetRemoval(id) => disk.removals.retain(|known| *known != id),
    }
}
