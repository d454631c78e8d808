//! Tasks and their updates. Every change of a task's state is made here.
use super::{
    AgentCommand, Observation, SchedulerEvent, Step, Task,
    ledger::Account,
    load::Load,
    state::{Executor, holds_resources},
};
use bellows_model::{
    AgentId, Capability, ExecutorId, ExecutorInfo, FrameworkId, Reason, Resources, Source, TaskId, TaskState,
    TaskStatus, clipped, limits,
};

use std::sync::Arc;

/// Statuses kept of one task. Consecutive ones of the same state count once.
const MAX_STATUSES: usize = 16;

/// Bytes kept of a status' message.
const MAX_MESSAGE: usize = 1 << 10;

/// Where a task came from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Origin {
    /// It was launched: its resources are offered ones.
    Offer,
    /// Its agent reported it: its resources are free ones.
    Agent,
}

impl Step<'_> {
    /// Enters a task, and its executor where that is new, into the books.
    pub(super) fn add_task(&mut self, task: Task, executor: Option<ExecutorInfo>, origin: Origin) {
        let (framework_id, role) = (task.framework_id.clone(), task.role.clone());
        let (agent_id, task_id) = (task.info.agent_id.clone(), task.info.task_id.clone());
        if task.holds_resources() {
            if let Some(info) = executor {
                self.add_executor(&framework_id, &role, &agent_id, info, origin);
            }
            self.occupy(&framework_id, &role, &agent_id, &task.info.resources, origin);
        }
        let agent = self.agent_mut(&agent_id);
        agent.tasks.insert((framework_id.clone(), task_id.clone()));
        agent.load += Load::of(&task.info);
        self.framework_mut(&framework_id).tasks.insert(task_id.clone(), task);
        self.observe(Observation::TaskAdded { framework_id, task_id });
    }

    /// Enters the executor of a task into the books, unless it runs already.
    pub(super) fn add_executor(
        &mut self,
        framework_id: &FrameworkId,
        role: &str,
        agent_id: &AgentId,
        info: ExecutorInfo,
        origin: Origin,
    ) {
        let key = (framework_id.clone(), info.executor_id.clone());
        if !self.state.agents[agent_id].executors.contains_key(&key) {
            self.occupy(framework_id, role, agent_id, &info.resources, origin);
            let info = Arc::new(info.without_secrets());
            self.agent_mut(agent_id).executors.insert(key, Executor { info, role: role.to_owned() });
        }
    }

    fn occupy(
        &mut self,
        framework_id: &FrameworkId,
        role: &str,
        agent_id: &AgentId,
        sum: &Resources,
        origin: Origin,
    ) {
        match origin {
            Origin::Offer => {
                self.strike(Account::Offered, framework_id, agent_id, sum);
                self.enter(Account::Used, framework_id, agent_id, sum);
            }
            Origin::Agent => self.charge(framework_id, role, agent_id, sum),
        }
    }

    /// An update from the agent: recorded, and forwarded to the framework, whose acknowledgement ends the agent's
    /// resending. What the framework needs not hear any more is acknowledged in its place. A task whose end waits
    /// behind this update holds nothing from now on, as in Mesos: the framework may take long to acknowledge.
    pub(super) fn status_update(
        &mut self,
        agent_id: &AgentId,
        framework_id: &FrameworkId,
        mut status: TaskStatus,
        latest_state: TaskState,
    ) {
        status.agent_id = Some(agent_id.clone());
        self.state.counters.status_updates += 1;
        if let Err(why) = validate_status(&status, latest_state) {
            self.state.counters.stray_status_updates += 1;
            return self.refuse_message(agent_id, &why);
        }
        let Some(framework) = self.state.live_framework(framework_id) else {
            self.state.counters.stray_status_updates += 1;
            return self
                .tell(agent_id, AgentCommand::ShutdownFramework { framework_id: framework_id.clone() });
        };
        let task = framework.tasks.get(&status.task_id).filter(|task| task.info.agent_id == *agent_id);
        let end = task.and_then(Task::reported_end);
        if task.is_none() || end.is_some_and(|end| end != status.state) {
            self.state.counters.stray_status_updates += 1;
            if let Some(uuid) = status.uuid {
                let task_id = status.task_id;
                let framework_id = framework_id.clone();
                self.tell(agent_id, AgentCommand::Acknowledge { framework_id, task_id, uuid });
            }
            return;
        }
        let given_up = status.state.is_terminal() && status.source == Source::Agent;
        let executor = task.and_then(|task| task.info.executor.as_ref()).filter(|_| given_up);
        let executor_id = executor.map(|executor| executor.executor_id.clone());
        let task_id = status.task_id.clone();
        self.send(framework_id, SchedulerEvent::Update(status.clone()));
        self.update_task(framework_id, status);
        self.set_task_state(framework_id, &task_id, latest_state);
        if let Some(executor_id) = executor_id {
            self.remove_unused_executor(framework_id, agent_id, &executor_id);
        }
    }

    /// The agent could not run a task: of an executor that was to be started for it nothing else will be heard.
    fn remove_unused_executor(
        &mut self,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        executor_id: &ExecutorId,
    ) {
        let framework = &self.state.frameworks[framework_id];
        let in_use = framework.tasks.values().any(|task| {
            task.info.agent_id == *agent_id
                && task.holds_resources()
                && task.info.executor.as_ref().is_some_and(|executor| executor.executor_id == *executor_id)
        });
        if !in_use {
            self.remove_executor(framework_id, agent_id, executor_id);
        }
    }

    /// Records an update. Resources are freed when the task stops to hold any, and only then.
    pub(super) fn update_task(&mut self, framework_id: &FrameworkId, mut status: TaskStatus) {
        self.set_task_state(framework_id, &status.task_id, status.state);
        // They may be large; the framework has them whole.
        status.data = None;
        status.labels = Vec::new();
        if let Some(message) = &mut status.message {
            message.truncate(clipped(message, MAX_MESSAGE).len());
        }
        let task = self.task_mut(framework_id, &status.task_id);
        let news = task.statuses.last().is_none_or(|last| last.state != status.state);
        if !news {
            task.statuses.pop();
        } else if task.statuses.len() >= MAX_STATUSES {
            task.statuses.remove(0);
        }
        task.statuses.push(status.clone());
        if news {
            if status.state.is_terminal() {
                self.count_told_end(&status);
            }
            self.observe(Observation::TaskUpdated { framework_id: framework_id.clone(), status });
        }
    }

    /// Takes note of the latest state, without an update. A terminal state is final.
    pub(super) fn set_task_state(&mut self, framework_id: &FrameworkId, task_id: &TaskId, state: TaskState) {
        let task = self.task_mut(framework_id, task_id);
        let old = task.state;
        if old.is_terminal() || old == state {
            return;
        }
        if holds_resources(old) && !holds_resources(state) {
            self.release_task(framework_id, task_id);
        }
        let task = self.task_mut(framework_id, task_id);
        task.state = state;
        let agent_id = task.info.agent_id.clone();
        if holds_resources(state) && !holds_resources(old) {
            let (role, info) = (task.role.clone(), task.info.clone());
            self.charge(framework_id, &role, &agent_id, &info.resources);
        }
        if state.is_terminal() {
            self.count_end(framework_id, state);
            self.agent_mut(&agent_id).killed.remove(&(framework_id.clone(), task_id.clone()));
            self.reconsider(framework_id);
        }
        let (framework_id, task_id) = (framework_id.clone(), task_id.clone());
        self.observe(Observation::TaskChanged { framework_id, task_id });
    }

    /// Ends a task of which nothing more will be heard, and tells the framework; if an end is known and not yet
    /// acknowledged, then of that.
    pub(super) fn end_task(
        &mut self,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        state: TaskState,
        reason: Reason,
        message: &str,
    ) {
        let known = self.state.frameworks[framework_id].tasks[task_id].state;
        let state = if known.is_terminal() { known } else { state };
        let status = self.task_status(framework_id, task_id, state, reason, message);
        self.send(framework_id, SchedulerEvent::Update(status.clone()));
        self.update_task(framework_id, status);
        self.complete_task(framework_id, task_id);
    }

    /// Moves a task that ended to the completed ones.
    pub(super) fn complete_task(&mut self, framework_id: &FrameworkId, task_id: &TaskId) {
        let Some(task) = self.framework_mut(framework_id).tasks.remove(task_id) else { return };
        let (agent_id, load) = (task.info.agent_id.clone(), Load::of(&task.info));
        self.keep_completed(task);
        if let Some(agent) = self.state.agents.get_mut(&agent_id) {
            let key = (framework_id.clone(), task_id.clone());
            if agent.tasks.remove(&key) {
                agent.load -= load;
            }
            agent.killed.remove(&key);
        }
        let (framework_id, task_id) = (framework_id.clone(), task_id.clone());
        self.observe(Observation::TaskChanged { framework_id, task_id });
    }

    /// Remembers a task that ended, or never began, for who looks at its framework.
    pub(super) fn keep_completed(&mut self, task: Task) {
        let limit = self.state.config.max_completed_tasks_per_framework;
        self.framework_mut(&task.framework_id.clone()).keep_completed(task, limit);
    }

    /// An update about a task that is known.
    pub(super) fn task_status(
        &self,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        state: TaskState,
        reason: Reason,
        message: &str,
    ) -> TaskStatus {
        let task = &self.state.frameworks[framework_id].tasks[task_id];
        let last = task.statuses.last();
        TaskStatus {
            executor_id: task.info.executor.as_ref().map(|executor| executor.executor_id.clone()),
            container: last.and_then(|status| status.container.clone()),
            healthy: last.and_then(|status| status.healthy),
            ..self.status(task_id, Some(&task.info.agent_id), state, reason, message)
        }
    }

    /// An update by the master, which needs no acknowledgement.
    pub(super) fn status(
        &self,
        task_id: &TaskId,
        agent_id: Option<&AgentId>,
        state: TaskState,
        reason: Reason,
        message: &str,
    ) -> TaskStatus {
        TaskStatus {
            task_id: task_id.clone(),
            state,
            source: Source::Master,
            reason: Some(reason),
            message: Some(message.to_owned()),
            agent_id: agent_id.cloned(),
            executor_id: None,
            timestamp: self.now.as_secs_f64(),
            uuid: None,
            container: None,
            data: None,
            healthy: None,
            labels: Vec::new(),
        }
    }

    /// The state that a framework understands: without PARTITION_AWARE it knows only TASK_LOST.
    pub(super) fn for_partition_aware(&self, framework_id: &FrameworkId, state: TaskState) -> TaskState {
        let aware = |framework: &super::Framework| framework.info.has(Capability::PartitionAware);
        if self.state.frameworks.get(framework_id).is_some_and(aware) { state } else { TaskState::Lost }
    }

    pub(super) fn executor_terminated(
        &mut self,
        agent_id: &AgentId,
        framework_id: &FrameworkId,
        executor_id: ExecutorId,
        status: i32,
    ) {
        self.state.counters.executors_terminated += 1;
        // Command tasks' executors are not the framework's business, as in Mesos.
        if self.state.frameworks.contains_key(framework_id)
            && self.remove_executor(framework_id, agent_id, &executor_id)
        {
            let agent_id = agent_id.clone();
            let event =
                SchedulerEvent::Failure { agent_id, executor_id: Some(executor_id), status: Some(status) };
            self.send(framework_id, event);
        }
    }

    /// The message of a framework's executor, if the agent has anything of the framework.
    pub(super) fn executor_message(
        &mut self,
        agent_id: &AgentId,
        framework_id: &FrameworkId,
        executor_id: ExecutorId,
        data: Vec<u8>,
    ) {
        if !self.has_anything_on(framework_id, agent_id) || data.len() > limits::MESSAGE_BYTES {
            let why = format!(
                "a message of executor {executor_id} of {framework_id}, of which it has nothing, or too long a one"
            );
            self.state.counters.stray_messages_to_frameworks += 1;
            return self.refuse_message(agent_id, &why);
        }
        self.state.counters.messages_to_frameworks += 1;
        let agent_id = agent_id.clone();
        self.send(framework_id, SchedulerEvent::Message { agent_id, executor_id, data });
    }

    fn task_mut(&mut self, framework_id: &FrameworkId, task_id: &TaskId) -> &mut Task {
        self.framework_mut(framework_id).tasks.get_mut(task_id).expect("invariant: a known task")
    }
}

/// Checks what an agent says of a task. Whatever it says changes a task of its own alone, and nothing follows an end.
fn validate_status(status: &TaskStatus, latest_state: TaskState) -> Result<(), String> {
    let task_id = &status.task_id;
    if let Some(state) =
        [status.state, latest_state].into_iter().find(|state| !state.is_an_agents_to_report())
    {
        return Err(format!(
            "a status update of task {task_id} with {}, which only a master may say",
            state.name()
        ));
    }
    if status.source == Source::Master {
        return Err(format!("a status update of task {task_id} in the master's name"));
    }
    if status.uuid.is_none() {
        return Err(format!("a status update of task {task_id} without a uuid"));
    }
    Ok(())
}
