//! What an agent does first after a restart: its checkpoint and the containers that are still there make its state.
use super::{
    Action, Config, Exit, Framework, Phase, Record, Removal, State, Task,
    state::Timer,
    step::{Key, Step},
};
use crate::Time;
use bellows_model::{
    AgentId, Capability, ContainerId, FrameworkId, FrameworkInfo, Reason, Source, TaskInfo, TaskState,
    TaskStatus,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// The sum of all [`Record`]s.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    pub agent_id: Option<AgentId>,
    pub frameworks: Vec<FrameworkInfo>,
    pub tasks: Vec<StoredTask>,
    pub removals: Vec<FrameworkId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoredTask {
    pub framework_id: FrameworkId,
    /// Without what may be a secret.
    pub info: TaskInfo,
    pub container_id: ContainerId,
    pub killed: bool,
    /// The oldest first.
    pub statuses: Vec<TaskStatus>,
    pub acknowledged: usize,
}

/// What was found of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveredContainer {
    /// Its [`super::Event::Exited`] will come.
    Running {
        pid: u32,
    },
    Ended(Exit),
    /// It will never run.
    NotStarted,
}

impl State {
    /// What [`recover`] would need now: the sum of all records.
    pub fn checkpoint(&self) -> Checkpoint {
        let stored = |task: &Task| StoredTask {
            framework_id: task.framework_id.clone(),
            info: task.info.without_secrets(),
            container_id: task.container_id.clone(),
            // One that was given up asks for the shuffle service anew after a restart.
            killed: task.kill.is_some() && !task.given_up,
            statuses: task.statuses.clone(),
            acknowledged: task.acknowledged,
        };
        // Files of a framework that has tasks again do not go.
        let goes = |id: &&FrameworkId| self.frameworks.get(*id).is_none_or(|framework| framework.ending);
        Checkpoint {
            agent_id: self.agent_id.clone(),
            frameworks: self.frameworks.values().map(|framework| (*framework.info).clone()).collect(),
            tasks: self.tasks().map(stored).collect(),
            removals: self.removals.keys().filter(goes).cloned().collect(),
        }
    }
}

pub fn recover(
    config: Config,
    now: Time,
    checkpoint: Checkpoint,
    mut containers: BTreeMap<ContainerId, RecoveredContainer>,
) -> (State, Vec<Action>) {
    let mut state = State::new(config, now);
    state.agent_id = checkpoint.agent_id;
    let mut step = Step { state: &mut state, now, actions: Vec::new() };
    for info in checkpoint.frameworks {
        step.recover_framework(info, &checkpoint.removals);
    }
    for stored in checkpoint.tasks {
        let container = containers.remove(&stored.container_id);
        step.recover_task(stored, container);
    }
    for (container_id, container) in containers {
        step.stray_container(container_id, container);
    }
    for framework_id in &checkpoint.removals {
        match step.state.frameworks.contains_key(framework_id) {
            true => step.finish_framework(framework_id),
            false => step.remove_shuffle(framework_id, false),
        }
    }
    let actions = step.actions;
    (state, actions)
}

impl Step<'_> {
    fn recover_framework(&mut self, info: FrameworkInfo, removals: &[FrameworkId]) {
        let Some(framework_id) = info.id.clone() else { return };
        let ending = removals.contains(&framework_id);
        if ending {
            self.state.removals.insert(framework_id.clone(), Removal::Blocked);
        }
        let framework = Framework {
            info: Arc::new(info),
            tasks: BTreeMap::new(),
            completed_tasks: VecDeque::new(),
            ending,
        };
        self.state.frameworks.insert(framework_id, framework);
    }

    fn recover_task(&mut self, stored: StoredTask, container: Option<RecoveredContainer>) {
        let key: Key = (stored.framework_id.clone(), stored.info.task_id.clone());
        let Some(framework) = self.state.frameworks.get_mut(&key.0) else {
            self.store(Record::ForgetTask { framework_id: key.0, task_id: key.1 });
            if let Some(container) = container {
                self.stray_container(stored.container_id, container);
            }
            return;
        };
        let (ending, kill_grace) = (framework.ending, self.state.config.kill_grace);
        let grace = stored.info.kill_grace.unwrap_or(kill_grace);
        let over = stored.statuses.last().is_some_and(|status| status.state.is_terminal());
        let ran = !stored.statuses.is_empty();
        let task = Task {
            framework_id: key.0.clone(),
            container_id: stored.container_id.clone(),
            phase: if over { Phase::Ended } else { Phase::Launching },
            kill: (stored.killed || ending).then_some(grace),
            stored: stored.statuses.len(),
            acknowledged: stored.acknowledged.min(stored.statuses.len()),
            statuses: stored.statuses,
            in_flight: None,
            early_exit: None,
            contained: container.is_some(),
            given_up: false,
            info: Arc::new(stored.info),
        };
        self.state.containers.insert(stored.container_id.clone(), key.clone());
        framework.tasks.insert(key.1.clone(), task);
        match container {
            Some(RecoveredContainer::Running { pid }) if !over => {
                self.running_again(
                    &key,
                    &stored.container_id,
                    pid,
                    (stored.killed || ending).then_some(grace),
                );
            }
            Some(RecoveredContainer::Ended(exit)) if !over => self.ended(&key, exit, ""),
            _ if ending => {
                self.forget_task(&key);
            }
            _ if over => self.forget_container(&key),
            _ if stored.killed => self.killed_early(&key),
            _ if ran => self.ended(&key, Exit::Lost, ""),
            _ => self.never_started(&key),
        }
    }

    /// Ends a task whose process never began. It cannot begin again: what it was to run may hold secrets, and was never on
    /// the disk.
    fn never_started(&mut self, key: &Key) {
        let state = match self.has(&key.0, Capability::PartitionAware) {
            true => TaskState::Dropped,
            false => TaskState::Lost,
        };
        let message = "The agent was restarted before the task had been started".to_owned();
        self.conclude(key, state, Source::Agent, Some(Reason::AgentRestarted), Some(message));
    }

    fn running_again(&mut self, key: &Key, container_id: &ContainerId, pid: u32, kill: Option<Duration>) {
        if let Some(task) = self.task(key) {
            task.phase = Phase::Running { pid };
        }
        match kill {
            Some(grace) => self.actions.push(Action::Kill { container_id: container_id.clone(), grace }),
            None => self.report_running(key),
        }
    }

    fn stray_container(&mut self, container_id: ContainerId, container: RecoveredContainer) {
        let action = match container {
            RecoveredContainer::Running { .. } => {
                self.state.strays.insert(container_id.clone());
                self.state.timers.insert((self.now + self.state.config.strays_wait, Timer::Strays));
                let what =
                    format!("container {container_id} runs, and nobody remembers its task: it is killed");
                self.actions.push(Action::Trouble { what, over: false });
                Action::Kill { container_id, grace: Duration::ZERO }
            }
            RecoveredContainer::Ended(_) | RecoveredContainer::NotStarted => Action::Forget { container_id },
        };
        self.actions.push(action);
    }
}
