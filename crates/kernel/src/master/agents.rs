//! Agents register, answer pings, get lost and come back with what they have.
use super::{
    Action, Agent, AgentCommand, AgentMessage, AgentRegistration, AgentTask, Framework, LinkId, Observation,
    SchedulerEvent, Step, Task,
    state::{Timer, holds_resources},
    tasks::Origin,
};
use bellows_model::{
    AgentId, AgentInfo, DEFAULT_ROLE, FrameworkId, FrameworkInfo, Reason, Resources, TaskId, TaskInfo,
    TaskState,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

impl Step<'_> {
    pub(super) fn register_agent(&mut self, link: LinkId, mut registration: AgentRegistration) {
        if let Err(reason) = self.validate_registration(link, &registration) {
            return self.refuse(link, reason);
        }
        let id = match registration.info.id.clone() {
            Some(id) => id,
            None => {
                self.replace_same_address(&registration.info);
                let id = AgentId::new(format!("{}-S{}", self.state.config.master_id, self.state.ids.agents));
                self.state.ids.agents += 1;
                id
            }
        };
        let stranger = self.is_stranger(&id);
        registration.info.id = Some(id.clone());
        if self.state.agents.contains_key(&id) {
            self.disconnect(&id);
            self.drop_what_is_gone(&id, &registration.tasks);
        }
        self.connect(link, &id, registration.info);
        self.tell(&id, AgentCommand::Registered { agent_id: id.clone() });
        for framework in registration.frameworks {
            self.meet_framework(&id, framework, stranger);
        }
        for task in registration.tasks {
            self.adopt_task(&id, task, stranger);
        }
        self.ping(&id);
    }

    /// Whether the agent may have tasks that this master never heard of. Of an agent that it knew before, what it
    /// does not know has ended, even if it is no longer among the completed.
    fn is_stranger(&self, id: &AgentId) -> bool {
        self.state.agents.get(id).is_none_or(|agent| agent.recovered)
    }

    /// Nothing is changed before it is certain that the registration is taken.
    fn validate_registration(&self, link: LinkId, registration: &AgentRegistration) -> Result<(), String> {
        if self.state.links.contains_key(&link) {
            return Err("The connection has registered an agent already".into());
        }
        let needed = self.resources_kept(registration);
        if !registration.info.resources.contains(&needed) {
            return Err(format!(
                "The agent's resources ({}) are less than what its tasks have ({needed}); end them first",
                registration.info.resources
            ));
        }
        match &registration.info.id {
            Some(id) => id.validate().map_err(|error| format!("Bad agent ID: {error}")),
            None if !registration.tasks.is_empty() => Err("An agent without an ID cannot have tasks".into()),
            None => Ok(()),
        }
    }

    /// What reported tasks and their executors will hold. Of those that are known the master's own account counts.
    fn resources_kept(&self, registration: &AgentRegistration) -> Resources {
        let mut needed = Resources::new();
        let mut executors = BTreeSet::new();
        let agent = registration.info.id.as_ref().and_then(|id| self.state.agents.get(id));
        for task in registration.tasks.iter().filter(|task| self.is_kept(registration, task)) {
            let framework = self.state.frameworks.get(&task.framework_id);
            let known = framework.and_then(|framework| framework.tasks.get(&task.info.task_id));
            let info = known.map_or(&task.info, |known| &known.info);
            needed.add(&info.resources);
            for executor in info.executor.iter().chain(&task.info.executor) {
                let key = (task.framework_id.clone(), executor.executor_id.clone());
                let known = agent.and_then(|agent| agent.executors.get(&key));
                if executors.insert(key) {
                    needed.add(known.map_or(&executor.resources, |known| &known.info.resources));
                }
            }
        }
        needed
    }

    /// Whether a reported task will hold resources.
    fn is_kept(&self, registration: &AgentRegistration, task: &AgentTask) -> bool {
        let (framework_id, task_id) = (&task.framework_id, &task.info.task_id);
        let stranger = registration.info.id.as_ref().is_none_or(|id| self.is_stranger(id));
        let reported = |info: &FrameworkInfo| info.id.as_ref() == Some(framework_id);
        holds_resources(task.latest_state)
            && match self.state.frameworks.get(framework_id) {
                Some(framework) => match framework.tasks.get(task_id) {
                    Some(known) => !known.state.is_terminal(),
                    None => stranger && !was_completed(framework, task_id),
                },
                None => {
                    stranger
                        && !self.state.is_completed(framework_id)
                        && registration.frameworks.iter().any(reported)
                }
            }
    }

    fn refuse(&mut self, link: LinkId, reason: String) {
        self.actions.push(Action::Tell { link, command: AgentCommand::Refused { reason } });
        self.actions.push(Action::CloseLink { link });
    }

    /// A new agent where another one was: that one is not coming back, its work directory is lost.
    fn replace_same_address(&mut self, info: &AgentInfo) {
        let same = |agent: &Agent| agent.info.ip == info.ip && agent.info.port == info.port && info.port != 0;
        let replaced: Vec<_> =
            self.state.agents.iter().filter(|(_, agent)| same(agent)).map(|(id, _)| id.clone()).collect();
        for id in replaced {
            self.remove_agent(&id, "a new agent registered at the same address");
        }
    }

    /// Ends what the master knows of and the agent does not have any more: its launch never arrived, or the
    /// machine has restarted.
    fn drop_what_is_gone(&mut self, id: &AgentId, reported: &[AgentTask]) {
        let (mut tasks, mut executors) = (BTreeMap::new(), BTreeSet::new());
        for task in reported {
            tasks.insert((task.framework_id.clone(), task.info.task_id.clone()), task.latest_state);
            if let Some(executor) = &task.info.executor
                && holds_resources(task.latest_state)
            {
                executors.insert((task.framework_id.clone(), executor.executor_id.clone()));
            }
        }
        for (framework_id, task_id) in self.state.agents[id].tasks.clone() {
            match tasks.get(&(framework_id.clone(), task_id.clone())) {
                Some(state) if state.is_terminal() => self.set_task_state(&framework_id, &task_id, *state),
                Some(_) => {}
                None => {
                    let staging = self.state.frameworks[&framework_id].tasks[&task_id].statuses.is_empty();
                    let state = if staging { TaskState::Dropped } else { TaskState::Gone };
                    let state = self.for_partition_aware(&framework_id, state);
                    let message = "Reconciliation: Task is unknown to the agent";
                    self.end_task(&framework_id, &task_id, state, Reason::Reconciliation, message);
                }
            }
        }
        let gone: Vec<_> = self.state.agents[id].executors.keys().cloned().collect();
        for (framework_id, executor_id) in gone {
            if !executors.contains(&(framework_id.clone(), executor_id.clone())) {
                self.remove_executor(&framework_id, id, &executor_id);
            }
        }
    }

    fn connect(&mut self, link: LinkId, id: &AgentId, info: AgentInfo) {
        let now = self.now;
        let agent = self.state.agents.entry(id.clone()).and_modify(|agent| agent.reregistered = Some(now));
        let agent = agent.or_insert_with(|| Agent::new(info.clone(), now));
        let total = info.resources.clone();
        agent.info = Arc::new(info);
        agent.link = Some(link);
        agent.unreachable = None;
        agent.recovered = false;
        agent.unanswered_pings = 0;
        let allocator = &mut self.state.allocator;
        match agent.index {
            None => agent.index = Some(allocator.add_agent(id.clone(), total)),
            Some(index) => {
                allocator.resize_agent(index, total);
                allocator.set_active(index, true);
            }
        }
        self.state.links.insert(link, id.clone());
        self.state.counters.agents_registered += 1;
        self.observe(Observation::AgentAdded(id.clone()));
    }

    /// A framework that the agent has something of: tasks, or files.
    fn meet_framework(&mut self, agent_id: &AgentId, reported: FrameworkInfo, stranger: bool) {
        let Some(framework_id) = reported.id.clone() else { return };
        if let Some(known) = self.state.frameworks.get(&framework_id) {
            if known.info != reported {
                let framework = known.info.clone();
                self.tell(agent_id, AgentCommand::UpdateFramework { framework });
            }
        } else if stranger && !self.state.is_completed(&framework_id) {
            self.recover_framework(reported);
        } else {
            self.tell(agent_id, AgentCommand::ShutdownFramework { framework_id });
        }
    }

    /// Takes a task over that the agent reported.
    fn adopt_task(&mut self, agent_id: &AgentId, reported: AgentTask, stranger: bool) {
        let AgentTask { framework_id, info, latest_state } = reported;
        let task_id = info.task_id.clone();
        let Some(framework) = self.state.frameworks.get(&framework_id) else {
            return self.tell(agent_id, AgentCommand::ShutdownFramework { framework_id });
        };
        let known = framework.tasks.get(&task_id);
        if known.is_some_and(|known| known.info.agent_id != *agent_id)
            || known.is_some_and(|known| known.state.is_terminal() && !latest_state.is_terminal())
            || known.is_none() && (!stranger || was_completed(framework, &task_id))
        {
            // Its framework was told that it ended, and an end is final.
            if !latest_state.is_terminal() {
                self.tell(agent_id, AgentCommand::Kill { framework_id, task_id, grace: None });
            }
            return;
        }
        match known.map(|known| known.state) {
            Some(TaskState::Unreachable) => {
                self.resume_task(&framework_id, &task_id, latest_state, "Unreachable agent re-registered");
            }
            Some(_) => self.set_task_state(&framework_id, &task_id, latest_state),
            None => {
                let role = allocation_role(&framework.info, &info);
                let task = Task {
                    info: Arc::new(TaskInfo { agent_id: agent_id.clone(), ..info }),
                    framework_id: framework_id.clone(),
                    role,
                    state: latest_state,
                    statuses: Vec::new(),
                };
                self.add_task(task, Origin::Agent);
                self.announce_task(&framework_id, &task_id, "Unknown agent re-registered");
            }
        }
        let killed = self.state.agents[agent_id].killed.get(&(framework_id.clone(), task_id.clone()));
        if let Some(&grace) = killed {
            self.tell(agent_id, AgentCommand::Kill { framework_id, task_id, grace });
        }
    }

    fn resume_task(&mut self, framework_id: &FrameworkId, task_id: &TaskId, state: TaskState, message: &str) {
        let task = &self.state.frameworks[framework_id].tasks[task_id];
        let (role, info) = (task.role.clone(), Arc::clone(&task.info));
        if holds_resources(state)
            && let Some(executor) = info.executor.clone()
        {
            self.add_executor(framework_id, &role, &info.agent_id, executor, Origin::Agent);
        }
        self.set_task_state(framework_id, task_id, state);
        self.announce_task(framework_id, task_id, message);
    }

    /// Tells the framework that a task is there. Of its end the agent itself tells, in order.
    fn announce_task(&mut self, framework_id: &FrameworkId, task_id: &TaskId, message: &str) {
        let state = self.state.frameworks[framework_id].tasks[task_id].state;
        if !state.is_terminal() {
            let status = self.task_status(framework_id, task_id, state, Reason::AgentReregistered, message);
            self.send(framework_id, SchedulerEvent::Update(status.clone()));
            self.update_task(framework_id, status);
        }
    }

    pub(super) fn agent_message(&mut self, link: LinkId, message: AgentMessage) {
        let Some(agent_id) = self.state.links.get(&link).cloned() else { return };
        match message {
            AgentMessage::StatusUpdate { framework_id, status, latest_state } => {
                self.status_update(&agent_id, &framework_id, status, latest_state);
            }
            AgentMessage::ExecutorTerminated { framework_id, executor_id, status } => {
                self.executor_terminated(&agent_id, &framework_id, executor_id, status);
            }
            AgentMessage::ExecutorMessage { framework_id, executor_id, data } => {
                self.send(&framework_id, SchedulerEvent::Message { agent_id, executor_id, data });
            }
            AgentMessage::Pong { seq } => {
                let agent = self.agent_mut(&agent_id);
                if seq == agent.ping_seq {
                    agent.unanswered_pings = 0;
                }
            }
            AgentMessage::Unregister => {
                let reason = "the agent unregistered".to_owned();
                self.tell(&agent_id, AgentCommand::Refused { reason: reason.clone() });
                self.remove_agent(&agent_id, &reason);
            }
        }
    }

    pub(super) fn link_closed(&mut self, link: LinkId) {
        let Some(agent_id) = self.state.links.get(&link).cloned() else { return };
        self.disconnect(&agent_id);
        let config = &self.state.config;
        let budget = config.agent_ping_interval * config.max_agent_ping_timeouts;
        self.arm_agent(&agent_id, budget);
    }

    /// Cuts the link, if there is one; tasks stay.
    fn disconnect(&mut self, agent_id: &AgentId) {
        self.disarm_agent(agent_id);
        let agent = self.agent_mut(agent_id);
        let (link, index) = (agent.link.take(), agent.index);
        if let Some(link) = link {
            self.state.links.remove(&link);
            self.actions.push(Action::CloseLink { link });
        }
        if let Some(index) = index {
            self.state.allocator.set_active(index, false);
        }
        self.rescind_of_agent(agent_id);
    }

    pub(super) fn agent_deadline(&mut self, agent_id: &AgentId) {
        let agent = self.agent_mut(agent_id);
        agent.deadline = None;
        let exhausted = agent.unanswered_pings >= self.state.config.max_agent_ping_timeouts;
        if self.state.agents[agent_id].link.is_none() {
            self.lose_agent(agent_id, "agent did not come back in time");
        } else if exhausted {
            self.lose_agent(agent_id, "health check timed out");
        } else {
            self.ping(agent_id);
        }
    }

    fn ping(&mut self, agent_id: &AgentId) {
        let agent = self.agent_mut(agent_id);
        agent.unanswered_pings += 1;
        agent.ping_seq += 1;
        let seq = agent.ping_seq;
        self.tell(agent_id, AgentCommand::Ping { seq });
        self.arm_agent(agent_id, self.state.config.agent_ping_interval);
    }

    /// The agent is out of reach: nothing of it is offered, and frameworks are told about their tasks. It may
    /// come back, with tasks of PARTITION_AWARE frameworks going on.
    fn lose_agent(&mut self, agent_id: &AgentId, message: &str) {
        let now = self.now;
        self.disconnect(agent_id);
        for (framework_id, task_id) in self.state.agents[agent_id].tasks.clone() {
            let task = &self.state.frameworks[&framework_id].tasks[&task_id];
            if !task.holds_resources() {
                continue;
            }
            let reason = Reason::AgentRemoved;
            match self.for_partition_aware(&framework_id, TaskState::Unreachable) {
                TaskState::Unreachable => {
                    let state = TaskState::Unreachable;
                    let status = self.task_status(&framework_id, &task_id, state, reason, message);
                    self.send(&framework_id, SchedulerEvent::Update(status.clone()));
                    self.update_task(&framework_id, status);
                }
                lost => self.end_task(&framework_id, &task_id, lost, reason, message),
            }
        }
        self.withdraw(agent_id);
        let agent = self.agent_mut(agent_id);
        agent.unreachable = Some(now);
        agent.recovered = false;
        self.announce_loss(agent_id);
        self.forget_longest_unreachable();
    }

    /// The agent is gone for good, and its tasks with it.
    fn remove_agent(&mut self, agent_id: &AgentId, message: &str) {
        self.disconnect(agent_id);
        for (framework_id, task_id) in self.state.agents[agent_id].tasks.clone() {
            let state = self.for_partition_aware(&framework_id, TaskState::Gone);
            self.end_task(&framework_id, &task_id, state, Reason::AgentRemoved, message);
        }
        let was_unreachable = self.state.agents[agent_id].unreachable.is_some();
        self.withdraw(agent_id);
        if !was_unreachable {
            self.announce_loss(agent_id);
        }
        self.state.agents.remove(agent_id);
    }

    /// Takes the agent from the allocator.
    fn withdraw(&mut self, agent_id: &AgentId) {
        self.remove_executors(agent_id, None);
        if let Some(index) = self.agent_mut(agent_id).index.take() {
            self.state.allocator.remove_agent(index);
        }
    }

    fn announce_loss(&mut self, agent_id: &AgentId) {
        self.state.counters.agents_removed += 1;
        let frameworks: Vec<_> = self.state.frameworks.keys().cloned().collect();
        for framework_id in frameworks {
            let agent_id = agent_id.clone();
            self.send(&framework_id, SchedulerEvent::Failure { agent_id, executor_id: None, status: None });
        }
        self.observe(Observation::AgentRemoved(agent_id.clone()));
    }

    fn forget_longest_unreachable(&mut self) {
        let lost = |(id, agent): (&AgentId, &Agent)| agent.unreachable.map(|since| (since, id.clone()));
        let mut unreachable: Vec<_> = self.state.agents.iter().filter_map(lost).collect();
        unreachable.sort_unstable();
        let excess = unreachable.len().saturating_sub(self.state.config.max_unreachable_agents);
        for (_, id) in unreachable.into_iter().take(excess) {
            self.remove_agent(&id, "the agent has been out of reach for too long");
        }
    }

    fn arm_agent(&mut self, agent_id: &AgentId, delay: Duration) {
        self.disarm_agent(agent_id);
        let deadline = self.now + delay;
        self.agent_mut(agent_id).deadline = Some(deadline);
        self.state.timers.insert((deadline, Timer::Agent(agent_id.clone())));
    }

    fn disarm_agent(&mut self, agent_id: &AgentId) {
        if let Some(deadline) = self.agent_mut(agent_id).deadline.take() {
            self.state.timers.remove(&(deadline, Timer::Agent(agent_id.clone())));
        }
    }
}

fn was_completed(framework: &Framework, task_id: &TaskId) -> bool {
    framework.completed_tasks.iter().any(|task| task.info.task_id == *task_id)
}

/// The wire does not carry the role that a reported task is allocated to; with one role there is no doubt.
fn allocation_role(framework: &FrameworkInfo, task: &TaskInfo) -> String {
    let reserved = task.resources.iter().find_map(|item| item.reserved_for.as_deref());
    let first = framework.roles.first().map_or(DEFAULT_ROLE, String::as_str);
    reserved.unwrap_or(first).to_owned()
}
