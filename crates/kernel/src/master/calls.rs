//! The calls of the scheduler API, but for SUBSCRIBE and ACCEPT.
use super::{
    AgentCommand, Call, CallError, RequestId, Response, SchedulerEvent, Step,
    work::{Asked, EndOfOffer, Work},
};
use bellows_model::{
    AgentId, Filters, FrameworkId, OfferId, Reason, StatusUuid, StreamId, TaskId, TaskState, TaskStatus,
    limits,
};
use std::{collections::BTreeSet, time::Duration};

impl Step<'_> {
    pub(super) fn call(
        &mut self,
        request: RequestId,
        framework_id: &FrameworkId,
        stream: &StreamId,
        call: Call,
    ) {
        if let Err(error) = self.authorize(framework_id, stream) {
            return self.respond(request, Err(error));
        }
        let name = call.name();
        self.count(framework_id, |counters| *counters.calls.entry(name).or_default() += 1);
        if let Call::UpdateFramework { info, suppressed_roles } = call {
            let updated = self.update_framework(framework_id, info, suppressed_roles);
            return self.respond(request, updated.map(|()| Response::Accepted).map_err(CallError::Invalid));
        }
        if let Call::Reconcile { tasks } = call {
            let taken = self.reconcile(framework_id, stream, tasks);
            return self.respond(request, taken.map(|()| Response::Accepted).map_err(CallError::Invalid));
        }
        if let Call::Message { data, .. } = &call
            && data.len() > limits::MESSAGE_BYTES
        {
            let why = format!("'data' has {} bytes, more than {}", data.len(), limits::MESSAGE_BYTES);
            return self.respond(request, Err(CallError::Invalid(why)));
        }
        self.respond(request, Ok(Response::Accepted));
        match call {
            Call::Teardown => self.remove_framework(framework_id, "it ended itself"),
            Call::Accept { offer_ids, operations, filters } => {
                self.accept(framework_id, &offer_ids, operations, filters);
            }
            Call::Decline { offer_ids, filters } => self.decline(framework_id, &offer_ids, filters),
            Call::Revive { roles } => self.revive(framework_id, &roles),
            Call::Suppress { roles } => self.suppress(framework_id, roles),
            Call::Kill { task_id, agent_id, grace } => self.kill(framework_id, task_id, agent_id, grace),
            // An agent that has nothing of the framework is none of its business: its queue is not to be filled.
            Call::Shutdown { agent_id, .. } if !self.has_anything_on(framework_id, &agent_id) => {}
            Call::Message { agent_id, .. } if !self.has_anything_on(framework_id, &agent_id) => {
                self.state.counters.stray_messages_to_executors += 1;
            }
            Call::Shutdown { executor_id, agent_id } => {
                let framework_id = framework_id.clone();
                self.tell(&agent_id, AgentCommand::ShutdownExecutor { framework_id, executor_id });
            }
            Call::Acknowledge { agent_id, task_id, uuid } => {
                self.acknowledge(framework_id, &agent_id, task_id, uuid);
            }
            Call::Message { agent_id, executor_id, data } => {
                self.state.counters.messages_to_executors += 1;
                let framework_id = framework_id.clone();
                self.tell(&agent_id, AgentCommand::Message { framework_id, executor_id, data });
            }
            // Answered above; REQUEST has no effect.
            Call::UpdateFramework { .. } | Call::Reconcile { .. } | Call::Request => {}
        }
    }

    fn authorize(&self, framework_id: &FrameworkId, stream: &StreamId) -> Result<(), CallError> {
        let framework = self.state.live_framework(framework_id).ok_or(CallError::UnknownFramework)?;
        match &framework.stream {
            None => Err(CallError::NotSubscribed),
            Some(current) if current != stream => {
                Err(CallError::WrongStream { given: stream.clone(), framework_id: framework_id.clone() })
            }
            Some(_) => Ok(()),
        }
    }

    fn decline(&mut self, framework_id: &FrameworkId, offer_ids: &[OfferId], filters: Filters) {
        let how = EndOfOffer::Discard(self.declined(filters));
        let declined = self.end_own_offers(framework_id, offer_ids, how);
        self.count(framework_id, |counters| counters.offers_declined += declined as u64);
    }

    /// The framework's roles that are meant; `None` if one of them is not its own: the call is then dropped whole.
    fn meant_roles(&self, framework_id: &FrameworkId, roles: &[String]) -> Option<BTreeSet<String>> {
        let own: BTreeSet<_> = self.state.frameworks[framework_id].info.roles.iter().cloned().collect();
        if roles.is_empty() {
            return Some(own);
        }
        let meant: BTreeSet<_> = roles.iter().cloned().collect();
        meant.is_subset(&own).then_some(meant)
    }

    fn revive(&mut self, framework_id: &FrameworkId, roles: &[String]) {
        let Some(roles) = self.meant_roles(framework_id, roles) else { return };
        self.framework_mut(framework_id).suppressed_roles.retain(|role| !roles.contains(role));
        self.refresh_clients(framework_id);
        for role in &roles {
            let client = self.client(framework_id, role);
            self.state.allocator.revive(client);
        }
    }

    fn suppress(&mut self, framework_id: &FrameworkId, roles: Vec<String>) {
        let Some(roles) = self.meant_roles(framework_id, &roles) else { return };
        self.framework_mut(framework_id).suppressed_roles.extend(roles);
        self.refresh_clients(framework_id);
    }

    fn kill(
        &mut self,
        framework_id: &FrameworkId,
        task_id: TaskId,
        agent_id: Option<AgentId>,
        grace: Option<Duration>,
    ) {
        let Some(task) = self.state.frameworks[framework_id].tasks.get(&task_id) else {
            return self.reconcile_task(framework_id, task_id, agent_id);
        };
        let runs_on = task.info.agent_id.clone();
        if agent_id.is_some_and(|agent_id| agent_id != runs_on) {
            return;
        }
        if task.state.is_terminal() {
            // It ended already; the update is on its way or waits for its acknowledgement.
            return;
        }
        let unreachable = task.state == TaskState::Unreachable;
        self.reconsider(framework_id);
        self.agent_mut(&runs_on).killed.insert((framework_id.clone(), task_id.clone()), grace);
        if unreachable {
            self.reconcile_task(framework_id, task_id, Some(runs_on));
        } else {
            let framework_id = framework_id.clone();
            self.tell(&runs_on, AgentCommand::Kill { framework_id, task_id, grace });
        }
    }

    fn acknowledge(
        &mut self,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        task_id: TaskId,
        uuid: StatusUuid,
    ) {
        let task = self.state.frameworks[framework_id].tasks.get(&task_id);
        let statuses = task.filter(|task| task.info.agent_id == *agent_id).map(|task| &task.statuses[..]);
        let statuses = statuses.unwrap_or_default();
        let is_meant = |status: &TaskStatus| status.uuid == Some(uuid);
        let is_over = statuses.last().is_some_and(|status| status.state.is_terminal() && is_meant(status));
        let counters = &mut self.state.counters;
        match statuses.iter().any(is_meant) {
            true => counters.acknowledgements += 1,
            false => counters.stray_acknowledgements += 1,
        }
        if is_over {
            self.complete_task(framework_id, &task_id);
        }
        let framework_id = framework_id.clone();
        self.tell(agent_id, AgentCommand::Acknowledge { framework_id, task_id, uuid });
    }

    /// Takes the question down; the answers follow. Empty `tasks`: it asks for all that are known.
    fn reconcile(
        &mut self,
        framework_id: &FrameworkId,
        stream: &StreamId,
        tasks: Vec<(TaskId, Option<AgentId>)>,
    ) -> Result<(), String> {
        let all = tasks.is_empty();
        let max = self.state.config.max_tasks_per_framework;
        // A framework has at most one question of each kind under way, however often it asks.
        let open = self.state.backlog.iter_mut().find_map(|work| match work {
            Work::Reconcile { framework_id: of, stream: on, asked }
                if of == framework_id && on == stream && matches!(asked, Asked::All { .. }) == all =>
            {
                Some(asked)
            }
            _ => None,
        });
        match open {
            Some(Asked::All { after }) => *after = None,
            Some(Asked::Listed(list)) if list.len() + tasks.len() > max => {
                return Err(format!("More than {max} tasks to reconcile are under way"));
            }
            Some(Asked::Listed(list)) => list.extend(tasks),
            None => {
                let asked = if all { Asked::All { after: None } } else { Asked::Listed(tasks.into()) };
                let (framework_id, stream) = (framework_id.clone(), stream.clone());
                self.state.backlog.push_front(Work::Reconcile { framework_id, stream, asked });
            }
        }
        Ok(())
    }

    pub(super) fn reconcile_task(
        &mut self,
        framework_id: &FrameworkId,
        task_id: TaskId,
        agent_id: Option<AgentId>,
    ) {
        let status = match self.state.frameworks[framework_id].tasks.get(&task_id) {
            Some(task) => {
                let state = task.reported_state();
                let message = match state {
                    TaskState::Unreachable => "Reconciliation: Task is unreachable",
                    _ => "Reconciliation: Latest task state",
                };
                self.task_status(framework_id, &task_id, state, Reason::Reconciliation, message)
            }
            None => {
                let Some((state, message)) = self.state_of_unknown_task(agent_id.as_ref()) else { return };
                let state = self.for_partition_aware(framework_id, state);
                self.status(&task_id, agent_id.as_ref(), state, Reason::Reconciliation, message)
            }
        };
        self.send(framework_id, SchedulerEvent::Update(status));
    }

    /// What can be said of a task that the master does not know. Nothing as long as it may be on an agent that a
    /// previous master had and that has not come back yet: the framework asks again.
    fn state_of_unknown_task(&self, agent_id: Option<&AgentId>) -> Option<(TaskState, &'static str)> {
        let unknown = (TaskState::Unknown, "Reconciliation: Task is unknown");
        let Some(agent_id) = agent_id else {
            return (self.state.recovered_agents == 0).then_some(unknown);
        };
        match self.state.agents.get(agent_id) {
            None => Some(unknown),
            Some(agent) if agent.recovered => None,
            Some(agent) if agent.unreachable.is_some() => {
                Some((TaskState::Unreachable, "Reconciliation: Task is unreachable"))
            }
            Some(_) => Some((TaskState::Gone, "Reconciliation: Task is unknown to the agent")),
        }
    }
}
