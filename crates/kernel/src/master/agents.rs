//! Agents register, answer pings, get lost and come back with what they have.
use super::{
    Action, Agent, AgentChange, AgentCommand, AgentCondition, AgentMessage, AgentRegistration, AgentTask,
    LinkId, MAX_TEXT, Observation, Removal, SchedulerEvent, Step, Task,
    load::Load,
    offers,
    state::{Newcomer, Timer, holds_resources},
    tasks::Origin,
};
use bellows_model::{
    AgentId, AgentInfo, DEFAULT_ROLE, ExecutorInfo, FrameworkId, FrameworkInfo, Offer, Reason, Resources,
    TaskId, TaskInfo, TaskState, clipped, limits,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Most frameworks that one registration may bring and that are not known yet. They become fewer as frameworks subscribe.
const MAX_UNKNOWN_FRAMEWORKS: usize = 1_000;

/// Most agents that a new one at their address replaces at once; the time of the others ends by itself.
const MAX_REPLACED: usize = 16;

/// Why an agent is not registered.
enum Refusal {
    /// It would only say the same again.
    Invalid(String),
    Later(String),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Invalid(reason)
    }
}

impl Step<'_> {
    pub(super) fn register_agent(&mut self, link: LinkId, registration: AgentRegistration) {
        self.take_newcomer(link);
        match self.validate_registration(link, &registration) {
            Ok(()) => {}
            Err(Refusal::Invalid(reason)) => return self.refuse(link, reason),
            Err(Refusal::Later(reason)) => return self.try_later(link, reason),
        }
        let known = registration.info.id.as_ref().and_then(|id| self.state.agents.get(id));
        match known.and_then(|known| known.link) {
            Some(_) => self.let_wait(link, registration),
            None => self.admit_agent(link, registration),
        }
    }

    /// Registers an agent that has no other connection.
    fn admit_agent(&mut self, link: LinkId, mut registration: AgentRegistration) {
        let id = match registration.info.id.clone() {
            Some(id) => id,
            None => {
                self.replace_same_address(&registration.info);
                self.next_agent_id()
            }
        };
        let stranger = self.is_stranger(&id);
        let tasks = registration.tasks.len();
        let is_back = registration.info.id.replace(id.clone()).is_some();
        if self.state.agents.contains_key(&id) {
            self.disconnect(&id);
            self.drop_what_is_gone(&id, &registration.tasks);
        } else if let Err(reason) = self.make_room_for_agent() {
            return self.try_later(link, reason);
        }
        self.spend(registration.tasks.len() + registration.frameworks.len());
        self.connect(link, &id, registration.info);
        self.shuffle_service(&id, registration.shuffle_service_down);
        self.condition(&id, registration.condition);
        let counters = &mut self.state.counters;
        let change = match is_back {
            true => {
                counters.agents_reregistered += 1;
                AgentChange::Back { tasks }
            }
            false => {
                counters.agents_registered += 1;
                AgentChange::Added
            }
        };
        self.note_agent(&id, change);
        self.tell(&id, AgentCommand::Registered { agent_id: id.clone() });
        let others = self.of_another_user(&id, &registration.frameworks);
        for framework in registration.frameworks {
            self.meet_framework(&id, framework, stranger);
        }
        for task in registration.tasks {
            self.adopt_task(&id, task, stranger, &others);
        }
        self.ping(&id);
    }

    fn agent_id(&self, number: u64) -> AgentId {
        AgentId::new(format!("{}-S{number}", self.state.config.master_id))
    }

    fn next_agent_id(&mut self) -> AgentId {
        loop {
            let id = self.agent_id(self.state.ids.agents);
            self.state.ids.agents += 1;
            if !self.state.agents.contains_key(&id) {
                return id;
            }
        }
    }

    /// Removes the agent that is out of reach for longest if there is no room.
    fn make_room_for_agent(&mut self) -> Result<(), String> {
        let max = self.state.config.max_agents;
        if self.state.agents.len() < max {
            return Ok(());
        }
        let Some((_, longest)) = self.state.unreachable.first().cloned() else {
            return Err(format!("The master has as many agents as it can take ({max})"));
        };
        self.remove_agent(
            &longest,
            Removal::Unhealthy,
            "the agent is out of reach, and its place was needed",
        );
        Ok(())
    }

    /// Whether the agent may have tasks that this master never heard of. Of an agent that it knew before, what it
    /// does not know has ended, even if it is no longer among the completed. But as long as agents of a previous master
    /// come back, somebody else may have been here under the id before.
    fn is_stranger(&self, id: &AgentId) -> bool {
        let takeover = self.state.started + self.state.config.agent_reregister_timeout;
        match self.state.agents.get(id) {
            Some(agent) if agent.recovered => true,
            Some(_) => !self.state.is_of_our_making(id.as_str()) && self.now < takeover,
            None => !self.state.is_of_our_making(id.as_str()),
        }
    }

    /// Nothing is changed before it is certain that the registration is taken.
    fn validate_registration(&self, link: LinkId, registration: &AgentRegistration) -> Result<(), Refusal> {
        if self.state.links.contains_key(&link) {
            return Err("The connection has registered an agent already".to_owned().into());
        }
        match &registration.info.id {
            Some(id) => self.validate_agent_id(id)?,
            None if !registration.tasks.is_empty() => {
                return Err("An agent without an ID cannot have tasks".to_owned().into());
            }
            None => {}
        }
        validate_reported(registration)?;
        Load::check_reported(registration.tasks.iter().map(|task| &task.info)).map_err(Refusal::Later)?;
        if let Err(needed) = self.fits(registration) {
            return Err(Refusal::Invalid(format!(
                "The agent's resources ({}) are less than what its tasks have: {needed}; end them first",
                registration.info.resources
            )));
        }
        let unknown = registration.frameworks.iter().filter_map(|info| info.id.as_ref());
        let unknown = unknown.filter(|id| !self.state.frameworks.contains_key(*id)).count();
        if unknown > MAX_UNKNOWN_FRAMEWORKS {
            return Err(Refusal::Later(format!(
                "The agent brings {unknown} frameworks that have not subscribed yet, more than {MAX_UNKNOWN_FRAMEWORKS}"
            )));
        }
        let live = self.state.frameworks.len() - self.state.ending;
        if unknown > 0 && live + unknown > self.state.config.max_frameworks {
            let max = self.state.config.max_frameworks;
            return Err(Refusal::Later(format!("The master has as many frameworks as it can take ({max})")));
        }
        Ok(())
    }

    fn validate_agent_id(&self, id: &AgentId) -> Result<(), String> {
        id.validate().map_err(|error| format!("Bad agent ID: {error}"))?;
        if !self.state.is_of_our_making(id.as_str()) || self.state.agents.contains_key(id) {
            return Ok(());
        }
        let number = id.as_str().rsplit_once("-S").and_then(|(_, number)| number.parse::<u64>().ok());
        let given =
            number.filter(|number| *number < self.state.ids.agents).map(|number| self.agent_id(number));
        match given {
            Some(given) if given == *id => Ok(()),
            _ => Err(format!("Agent ID {id} was never given to anybody")),
        }
    }

    /// Whether the agent has what its tasks and their executors will hold; if not, what lacks. Of those that are known the
    /// master's own account counts.
    fn fits(&self, registration: &AgentRegistration) -> Result<(), Resources> {
        // One after the other: in a sum, ranges that two want would count once.
        let mut left = registration.info.resources.clone();
        let mut take = |part: &Resources| {
            if left.take(part) { Ok(()) } else { Err(part.clone()) }
        };
        let mut executors = BTreeSet::new();
        let reported = registration.frameworks.iter().filter_map(|info| info.id.as_ref()).collect();
        let agent = registration.info.id.as_ref().and_then(|id| self.state.agents.get(id));
        for task in registration.tasks.iter().filter(|task| holds_resources(task.latest_state)) {
            let framework = self.state.frameworks.get(&task.framework_id);
            let known = framework.and_then(|framework| framework.tasks.get(&task.info.task_id));
            let kept = self.is_kept(registration, &reported, task);
            if kept {
                take(known.map_or(&task.info.resources, |known| &known.info.resources))?;
            }
            let known_executor = known.and_then(|known| known.info.executor.as_ref());
            for executor in known_executor.into_iter().chain(&task.info.executor) {
                let key = (task.framework_id.clone(), executor.executor_id.clone());
                let known = agent.and_then(|agent| agent.executors.get(&key));
                // A known executor is kept for any task that the agent says it has.
                if (kept || known.is_some()) && executors.insert(key) {
                    take(known.map_or(&executor.resources, |known| &known.info.resources))?;
                }
            }
        }
        Ok(())
    }

    /// Whether a reported task will hold resources.
    fn is_kept(
        &self,
        registration: &AgentRegistration,
        reported: &BTreeSet<&FrameworkId>,
        task: &AgentTask,
    ) -> bool {
        let (framework_id, task_id) = (&task.framework_id, &task.info.task_id);
        let stranger = registration.info.id.as_ref().is_none_or(|id| self.is_stranger(id));
        holds_resources(task.latest_state)
            && match self.state.frameworks.get(framework_id) {
                Some(framework) => match framework.tasks.get(task_id) {
                    Some(known) => !known.state.is_terminal(),
                    None => stranger && !framework.was_completed(task_id),
                },
                None => stranger && reported.contains(framework_id) && self.may_recover(framework_id),
            }
    }

    fn refuse(&mut self, link: LinkId, reason: String) {
        let reason = clipped(&reason, MAX_TEXT).to_owned();
        self.warn(format!("an agent is refused: {reason}"));
        self.actions.push(Action::Tell { link, command: AgentCommand::Refused { reason } });
        self.actions.push(Action::CloseLink { link });
    }

    fn try_later(&mut self, link: LinkId, reason: String) {
        let reason = clipped(&reason, MAX_TEXT).to_owned();
        self.warn(format!("an agent has to wait: {reason}"));
        self.actions.push(Action::Tell { link, command: AgentCommand::TryLater { reason } });
        self.actions.push(Action::CloseLink { link });
    }

    /// Ignores a message that an agent must not send, and tells once per connection. Its connection stays: its other tasks
    /// need it, and it would only say the same on the next one.
    pub(super) fn refuse_message(&mut self, agent_id: &AgentId, why: &str) {
        self.state.counters.messages_refused += 1;
        if !std::mem::replace(&mut self.agent_mut(agent_id).has_lied, true) {
            self.warn(format!("agent {agent_id} is not believed, here and, in silence, later: {why}"));
        }
    }

    /// Removes who was at a new agent's address before: that one is not coming back, its work directory is lost. One
    /// that is connected is there all the same: the address is shared (NAT), or one of the two announces a wrong one.
    fn replace_same_address(&mut self, info: &AgentInfo) {
        let same = |agent: &Agent| {
            let at_address = agent.info.ip == info.ip && agent.info.port == info.port && info.port != 0;
            at_address && agent.link.is_none()
        };
        let replaced = self.state.agents.iter().filter(|(_, agent)| same(agent)).take(MAX_REPLACED);
        let replaced: Vec<_> = replaced.map(|(id, _)| id.clone()).collect();
        for id in replaced {
            self.remove_agent(&id, Removal::Registered, "a new agent registered at the same address");
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

    /// An id that is connected already: whoever has it keeps it if the connection answers a ping in time.
    fn let_wait(&mut self, link: LinkId, registration: AgentRegistration) {
        let Some(agent_id) = registration.info.id.clone() else { return };
        let (waiting, max) = (self.state.newcomers.len(), self.state.config.max_newcomers);
        let deadline = self.now + self.state.config.liveness_timeout;
        let agent = self.agent_mut(&agent_id);
        if agent.newcomer.is_some() || waiting >= max {
            let reason =
                format!("Agent {agent_id} is connected, and it is being found out whether it still lives");
            return self.try_later(link, reason);
        }
        agent.newcomer = Some(link);
        agent.ping_seq += 1;
        let seq = agent.ping_seq;
        self.tell(&agent_id, AgentCommand::Ping { seq });
        self.state.timers.insert((deadline, Timer::Newcomer(link)));
        self.state.newcomers.insert(link, Newcomer { agent_id, registration, ping_seq: seq, deadline });
    }

    /// Forgets a connection that waits.
    fn take_newcomer(&mut self, link: LinkId) -> Option<Newcomer> {
        let newcomer = self.state.newcomers.remove(&link)?;
        self.agent_mut(&newcomer.agent_id).newcomer = None;
        self.state.timers.remove(&(newcomer.deadline, Timer::Newcomer(link)));
        Some(newcomer)
    }

    /// The agent's connection has answered nothing in time.
    pub(super) fn newcomer_deadline(&mut self, link: LinkId) {
        if let Some(newcomer) = self.take_newcomer(link) {
            self.link_lost(&newcomer.agent_id);
            self.register_agent(link, newcomer.registration);
        }
    }

    fn connect(&mut self, link: LinkId, id: &AgentId, info: AgentInfo) {
        let now = self.now;
        let agent = self.state.agents.entry(id.clone()).and_modify(|agent| agent.reregistered = Some(now));
        let agent = agent.or_insert_with(|| Agent::new(info.clone(), now));
        let total = info.resources.clone();
        agent.info = Arc::new(info);
        agent.link = Some(link);
        agent.unanswered_pings = 0;
        agent.has_lied = false;
        if let Some(since) = agent.unreachable.take() {
            self.state.unreachable.remove(&(since, id.clone()));
        }
        self.state.recovered_agents -= usize::from(std::mem::take(&mut agent.recovered));
        let allocator = &mut self.state.allocator;
        match agent.index {
            None => agent.index = Some(allocator.add_agent(id.clone(), total)),
            Some(index) => {
                allocator.resize_agent(index, total);
                allocator.set_active(index, true);
            }
        }
        self.state.links.insert(link, id.clone());
        self.observe(Observation::AgentAdded(id.clone()));
    }

    /// Those frameworks that have said themselves that they have another user than the agent says: what is not known of them
    /// runs as somebody else, and is not taken over.
    fn of_another_user(&mut self, agent_id: &AgentId, reported: &[FrameworkInfo]) -> BTreeSet<FrameworkId> {
        let other = |reported: &&FrameworkInfo| {
            let known = reported.id.as_ref().and_then(|id| self.state.live_framework(id));
            known.is_some_and(|known| !known.recovered && known.info.user != reported.user)
        };
        let others: BTreeSet<_> = reported.iter().filter(other).filter_map(|info| info.id.clone()).collect();
        if let Some(first) = others.first() {
            let count = others.len();
            self.warn(format!(
                "agent {agent_id} says of {count} frameworks, as {first}, that they have another user than they say: \
                 tasks of theirs that are not known are not taken over"
            ));
        }
        others
    }

    /// A framework that the agent has something of: tasks, or files.
    fn meet_framework(&mut self, agent_id: &AgentId, reported: FrameworkInfo, stranger: bool) {
        let Some(framework_id) = reported.id.clone() else { return };
        if let Some(known) = self.state.live_framework(&framework_id) {
            let (framework, recovered) = (Arc::clone(&known.info), known.recovered);
            if recovered && stranger {
                self.framework_mut(&framework_id)
                    .reported_users
                    .insert(agent_id.clone(), reported.user.clone());
            }
            if *framework != reported {
                self.tell(agent_id, AgentCommand::UpdateFramework { framework });
            }
        } else if stranger && self.may_recover(&framework_id) {
            let user = reported.user.clone();
            self.recover_framework(reported);
            self.framework_mut(&framework_id).reported_users.insert(agent_id.clone(), user);
        } else {
            self.tell(agent_id, AgentCommand::ShutdownFramework { framework_id });
        }
    }

    /// Whether the framework may be one of a previous master.
    fn may_recover(&self, id: &FrameworkId) -> bool {
        !self.state.frameworks.contains_key(id)
            && !self.state.is_completed(id)
            && !self.state.is_frameworks_of_our_making(id)
    }

    /// Takes a task over that the agent reported.
    fn adopt_task(
        &mut self,
        agent_id: &AgentId,
        reported: AgentTask,
        stranger: bool,
        others: &BTreeSet<FrameworkId>,
    ) {
        let AgentTask { framework_id, info, latest_state } = reported;
        let task_id = info.task_id.clone();
        let Some(framework) = self.state.live_framework(&framework_id) else {
            return self.tell(agent_id, AgentCommand::ShutdownFramework { framework_id });
        };
        let known = framework.tasks.get(&task_id);
        let is_anothers = others.contains(&framework_id);
        let full = framework.tasks.len() >= self.state.config.max_tasks_per_framework;
        if known.is_some_and(|known| known.info.agent_id != *agent_id)
            || known.is_some_and(|known| known.state.is_terminal() && !latest_state.is_terminal())
            || known.is_none() && (!stranger || full || is_anothers || framework.was_completed(&task_id))
        {
            // Its framework was told that it ended, and an end is final.
            if !latest_state.is_terminal() {
                self.tell(agent_id, AgentCommand::Kill { framework_id, task_id, grace: None });
            }
            return;
        }
        match known.map(|known| known.state) {
            Some(TaskState::Unreachable) => {
                let message = "Unreachable agent re-registered";
                self.resume_task(&framework_id, &task_id, latest_state, info.executor, message);
            }
            Some(_) => self.set_task_state(&framework_id, &task_id, latest_state),
            None => {
                let role = allocation_role(&framework.info, &info);
                let executor = info.executor.clone();
                let task = Task {
                    info: Arc::new(TaskInfo { agent_id: agent_id.clone(), ..info.without_secrets() }),
                    framework_id: framework_id.clone(),
                    role,
                    state: latest_state,
                    statuses: Vec::new(),
                };
                self.add_task(task, executor, Origin::Agent);
                self.announce_task(&framework_id, &task_id, "Unknown agent re-registered");
            }
        }
        let killed = self.state.agents[agent_id].killed.get(&(framework_id.clone(), task_id.clone()));
        if let Some(&grace) = killed {
            self.tell(agent_id, AgentCommand::Kill { framework_id, task_id, grace });
        }
    }

    fn resume_task(
        &mut self,
        framework_id: &FrameworkId,
        task_id: &TaskId,
        state: TaskState,
        executor: Option<ExecutorInfo>,
        message: &str,
    ) {
        let task = &self.state.frameworks[framework_id].tasks[task_id];
        let (role, info) = (task.role.clone(), Arc::clone(&task.info));
        if holds_resources(state)
            && let Some(known) = info.executor.clone()
        {
            // The agent has it whole; what it holds is as it was launched.
            let same = |executor: &ExecutorInfo| {
                executor.executor_id == known.executor_id && executor.resources == known.resources
            };
            let executor = executor.filter(same).unwrap_or(known);
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

    pub(super) fn agent_unreadable(&mut self, link: LinkId, why: &str) {
        if let Some(agent_id) = self.state.links.get(&link).cloned() {
            self.refuse_message(&agent_id, &format!("a message that cannot be read: {why}"));
        }
    }

    pub(super) fn agent_message(&mut self, link: LinkId, message: AgentMessage) {
        let Some(agent_id) = self.state.links.get(&link).cloned() else {
            let Some(newcomer) = self.state.newcomers.get_mut(&link) else { return };
            match message {
                AgentMessage::ShuffleService { down } => newcomer.registration.shuffle_service_down = down,
                AgentMessage::Condition(condition) => newcomer.registration.condition = condition,
                _ => {}
            }
            return;
        };
        match message {
            AgentMessage::StatusUpdate { framework_id, status, latest_state } => {
                self.status_update(&agent_id, &framework_id, status, latest_state);
            }
            AgentMessage::ExecutorTerminated { framework_id, executor_id, status } => {
                self.executor_terminated(&agent_id, &framework_id, executor_id, status);
            }
            AgentMessage::ExecutorMessage { framework_id, executor_id, data } => {
                self.executor_message(&agent_id, &framework_id, executor_id, data);
            }
            AgentMessage::ShuffleService { down } => self.shuffle_service(&agent_id, down),
            AgentMessage::Condition(condition) => self.condition(&agent_id, condition),
            AgentMessage::Pong { seq } => self.pong(&agent_id, seq),
            AgentMessage::Unregister => {
                let reason = "the agent unregistered".to_owned();
                self.tell(&agent_id, AgentCommand::Refused { reason: reason.clone() });
                self.remove_agent(&agent_id, Removal::Unregistered, &reason);
            }
        }
    }

    fn pong(&mut self, agent_id: &AgentId, seq: u64) {
        let agent = self.agent_mut(agent_id);
        if seq > agent.ping_seq {
            return self.refuse_message(agent_id, "an answer to a ping that was never sent");
        }
        if seq == agent.ping_seq {
            agent.unanswered_pings = 0;
        }
        let newcomer = agent.newcomer;
        if let Some((link, newcomer)) = newcomer.and_then(|link| self.state.newcomers.get_key_value(&link))
            && newcomer.ping_seq <= seq
        {
            self.dismiss_newcomer(*link, agent_id);
        }
    }

    fn dismiss_newcomer(&mut self, link: LinkId, agent_id: &AgentId) {
        self.take_newcomer(link);
        let hint = "two agents with copies of one work directory? give each its own";
        let reason = format!("Agent {agent_id} is connected already, and its connection lives ({hint})");
        self.try_later(link, reason);
    }

    /// While it is down, frameworks that use it are offered nothing of the agent: an executor that runs there has
    /// Spark's driver register with the service, and fail for good if that is not there.
    fn shuffle_service(&mut self, agent_id: &AgentId, down: bool) {
        if std::mem::replace(&mut self.agent_mut(agent_id).shuffle_service_down, down) != down {
            self.observe(Observation::AgentChanged(agent_id.clone()));
        }
        let Some(index) = self.state.agents[agent_id].index else { return };
        self.state.allocator.set_shuffle_service_down(index, down);
        if !down {
            return;
        }
        let uses = |offer: &&Offer| {
            let framework = self.state.frameworks.get(&offer.framework_id);
            framework.is_some_and(|framework| framework.info.uses_shuffle_service())
        };
        let here = self.state.agents[agent_id].offers.iter().map(|id| &self.state.offers[id]);
        let void: Vec<_> = here.filter(uses).map(|offer| offer.id.clone()).collect();
        void.iter().for_each(|id| self.rescind(id, offers::Refusal::None));
    }

    /// An agent on which every task fails is always free: without a pause it would draw all tasks to itself.
    fn condition(&mut self, agent_id: &AgentId, condition: AgentCondition) {
        let paused = condition.paused;
        let agent = self.agent_mut(agent_id);
        if agent.condition != condition {
            agent.condition = condition;
            self.observe(Observation::AgentChanged(agent_id.clone()));
        }
        let Some(index) = self.state.agents[agent_id].index else { return };
        self.state.allocator.set_paused(index, paused);
        if paused {
            self.rescind_of_agent(agent_id);
        }
    }

    pub(super) fn link_closed(&mut self, link: LinkId) {
        self.take_newcomer(link);
        let Some(agent_id) = self.state.links.get(&link).cloned() else { return };
        self.take_over_or(&agent_id, Self::link_lost);
    }

    /// The agent's connection is dead: another one that waits replaces it; if there is none, `otherwise`.
    fn take_over_or(&mut self, agent_id: &AgentId, otherwise: impl FnOnce(&mut Self, &AgentId)) {
        match self.state.agents[agent_id].newcomer {
            Some(newcomer) => self.newcomer_deadline(newcomer),
            None => otherwise(self, agent_id),
        }
    }

    /// The agent has its ping budget to come back.
    fn link_lost(&mut self, agent_id: &AgentId) {
        self.disconnect(agent_id);
        let config = &self.state.config;
        let budget = config.agent_ping_interval * config.max_agent_ping_timeouts;
        self.note_agent(agent_id, AgentChange::Disconnected(budget));
        self.arm_agent(agent_id, budget);
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
            self.take_over_or(agent_id, |step, id| step.lose_agent(id, "health check timed out"));
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
        let recovered = std::mem::take(&mut agent.recovered);
        self.state.recovered_agents -= usize::from(recovered);
        self.state.unreachable.insert((now, agent_id.clone()));
        self.note_agent(agent_id, AgentChange::Unreachable(message.to_owned()));
        self.announce_loss(agent_id, Removal::Unhealthy);
        self.forget_longest_unreachable();
    }

    /// The agent is gone for good, and its tasks with it.
    fn remove_agent(&mut self, agent_id: &AgentId, removal: Removal, message: &str) {
        if let Some(newcomer) = self.state.agents[agent_id].newcomer {
            self.take_newcomer(newcomer);
            self.try_later(newcomer, format!("Agent {agent_id} was just removed: {message}"));
        }
        self.disconnect(agent_id);
        for (framework_id, task_id) in self.state.agents[agent_id].tasks.clone() {
            let state = self.for_partition_aware(&framework_id, TaskState::Gone);
            self.end_task(&framework_id, &task_id, state, Reason::AgentRemoved, message);
        }
        let was_unreachable = self.state.agents[agent_id].unreachable.is_some();
        self.withdraw(agent_id);
        self.note_agent(agent_id, AgentChange::Removed(message.to_owned()));
        if !was_unreachable {
            self.announce_loss(agent_id, removal);
        }
        if let Some(agent) = self.state.agents.remove(agent_id) {
            self.state.recovered_agents -= usize::from(agent.recovered);
            if let Some(since) = agent.unreachable {
                self.state.unreachable.remove(&(since, agent_id.clone()));
            }
        }
    }

    /// Takes the agent from the allocator.
    fn withdraw(&mut self, agent_id: &AgentId) {
        self.remove_executors(agent_id, None);
        if let Some(index) = self.agent_mut(agent_id).index.take() {
            self.state.allocator.remove_agent(index);
        }
    }

    fn announce_loss(&mut self, agent_id: &AgentId, removal: Removal) {
        *self.state.counters.agents_removed.entry(removal).or_default() += 1;
        let frameworks: Vec<_> = self.state.streams.values().cloned().collect();
        self.spend(self.state.agents[agent_id].tasks.len() + frameworks.len() / 4);
        for framework_id in frameworks {
            let agent_id = agent_id.clone();
            self.send(&framework_id, SchedulerEvent::Failure { agent_id, executor_id: None, status: None });
        }
        self.observe(Observation::AgentRemoved(agent_id.clone()));
    }

    fn forget_longest_unreachable(&mut self) {
        while self.state.unreachable.len() > self.state.config.max_unreachable_agents
            && let Some((_, id)) = self.state.unreachable.first().cloned()
        {
            self.remove_agent(&id, Removal::Unhealthy, "the agent has been out of reach for too long");
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

/// Checks a registration by itself, whatever this master knows.
fn validate_reported(registration: &AgentRegistration) -> Result<(), String> {
    let AgentRegistration { info, frameworks, tasks, shuffle_service_down: _, condition: _ } = registration;
    if tasks.len() > limits::REGISTERED_TASKS || frameworks.len() > limits::REGISTERED_FRAMEWORKS {
        return Err(format!("{} tasks of {} frameworks are too many", tasks.len(), frameworks.len()));
    }
    let mut known = BTreeSet::new();
    if let Some(twice) = frameworks.iter().find(|info| info.id.is_none() || !known.insert(&info.id)) {
        return Err(format!("Framework {:?} has no ID, or is there twice", twice.id));
    }
    let mut known = BTreeSet::new();
    let mut executors = BTreeMap::new();
    for AgentTask { framework_id, info: task, latest_state } in tasks {
        let task_id = &task.task_id;
        task_id.validate().map_err(|error| format!("Bad task ID: {error}"))?;
        if !latest_state.is_an_agents_to_report() {
            return Err(format!("Task {task_id} is {}, which only a master may say", latest_state.name()));
        }
        if info.id.as_ref() != Some(&task.agent_id) {
            return Err(format!("Task {task_id} is of agent {}, not of this one", task.agent_id));
        }
        if !known.insert((framework_id, task_id)) {
            return Err(format!("Task {task_id} of framework {framework_id} is there twice"));
        }
        if let Some(executor) = &task.executor {
            executor.executor_id.validate().map_err(|error| format!("Bad executor ID: {error}"))?;
            let first = executors.entry((framework_id, &executor.executor_id)).or_insert(executor);
            if *first != executor {
                let id = &executor.executor_id;
                return Err(format!("Executor {id} of framework {framework_id} is there in two forms"));
            }
        }
    }
    Ok(())
}

/// The wire does not carry the role that a reported task is allocated to; with one role there is no doubt.
fn allocation_role(framework: &FrameworkInfo, task: &TaskInfo) -> String {
    let reserved = task.resources.iter().find_map(|item| item.reserved_for.as_deref());
    let first = framework.roles.first().map_or(DEFAULT_ROLE, String::as_str);
    reserved.unwrap_or(first).to_owned()
}
