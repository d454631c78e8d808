//! ACCEPT: which tasks the offered resources may be used for, and what happens to the rest.
use super::{
    AgentCommand, Observation, SchedulerEvent, Step, Task, offers::Refusal, tasks::Origin, work::EndOfOffer,
};
use bellows_model::{
    AgentId, CommandInfo, ExecutorInfo, Filters, FrameworkId, InvalidTask, OfferId, Operation, Reason,
    Resources, TaskInfo, TaskState, clipped,
};
use std::{collections::BTreeSet, sync::Arc};

/// Tasks' own containers that need nothing beyond what an agent gives to every task.
const PLAIN_CONTAINER: &str = "MESOS";

/// The longest text that is kept of a task that was refused.
const MAX_KEPT_BYTES: usize = 1_024;
const MAX_KEPT_RESOURCES: usize = 16;

impl Step<'_> {
    pub(super) fn accept(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: Vec<Operation>,
        filters: Filters,
    ) {
        self.count_operations(framework_id, &operations);
        if let Err(error) = self.validate_offers(framework_id, offer_ids) {
            return self.refuse_accept(framework_id, offer_ids, operations, &error);
        }
        let offers: Vec<_> = offer_ids.iter().filter_map(|id| self.take_offer(id)).collect();
        let Some(offer) = offers.first().cloned() else { return };
        self.count(framework_id, |counters| counters.offers_accepted += offers.len() as u64);
        let mut left = Resources::new();
        offers.iter().for_each(|offer| left.add(&offer.resources));
        let mut launched = false;
        for operation in operations {
            let tasks = match operation {
                Operation::Launch(tasks) => tasks,
                Operation::Invalid(tasks) => {
                    self.refuse_invalid(framework_id, &offer.agent_id, &offer.role, tasks);
                    continue;
                }
                // Not carried out here; what it would have used stays free.
                Operation::Unsupported(_) => continue,
            };
            for task in tasks {
                match self.validate_task(framework_id, &task, &offer.agent_id, &mut left) {
                    Ok(()) => {
                        launched = true;
                        self.launch(framework_id, offer.role.clone(), task);
                    }
                    Err(error) => {
                        let refusal = (TaskState::Error, Reason::TaskInvalid, error.as_str());
                        self.refuse_task(framework_id, &offer.role, task, refusal);
                    }
                }
            }
        }
        if launched {
            self.reconsider(framework_id);
        }
        let refusal = if launched { Self::left_over(filters) } else { self.declined(filters) };
        self.give_back(&offer, &left, refusal);
    }

    fn launch(&mut self, framework_id: &FrameworkId, role: String, info: TaskInfo) {
        self.state.counters.tasks_launched += 1;
        let agent_id = info.agent_id.clone();
        let task = Task {
            info: Arc::new(info.without_secrets()),
            framework_id: framework_id.clone(),
            role,
            state: TaskState::Staging,
            statuses: Vec::new(),
        };
        self.add_task(task, info.executor.clone(), Origin::Offer);
        let framework = Arc::clone(&self.state.frameworks[framework_id].info);
        self.tell(&agent_id, AgentCommand::Launch { framework, task: info });
    }

    fn refuse_accept(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: Vec<Operation>,
        error: &str,
    ) {
        // Of an offer that is gone nothing is known; the framework's own word is as good.
        let known = offer_ids.iter().find_map(|id| self.state.offers.get(id));
        let known = known.map(|offer| (offer.agent_id.clone(), offer.role.clone()));
        let framework = &self.state.frameworks[framework_id].info;
        let (agent_id, role) = known
            .unwrap_or_else(|| (AgentId::from(""), framework.roles.first().cloned().unwrap_or_default()));
        let refusal = Refusal::For(self.state.config.min_refusal);
        self.end_own_offers(framework_id, offer_ids, EndOfOffer::Discard(refusal));
        let state = self.for_partition_aware(framework_id, TaskState::Dropped);
        let message = format!("Task launched with invalid offers: {error}");
        for operation in operations {
            match operation {
                Operation::Launch(tasks) => {
                    for task in tasks {
                        let refusal = (state, Reason::InvalidOffers, message.as_str());
                        self.refuse_task(framework_id, &role, task, refusal);
                    }
                }
                Operation::Invalid(tasks) => self.refuse_invalid(framework_id, &agent_id, &role, tasks),
                Operation::Unsupported(_) => {}
            }
        }
    }

    /// Refuses tasks that could not be read, in the name of the agent whose resources they were to have.
    fn refuse_invalid(
        &mut self,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        role: &str,
        tasks: Vec<InvalidTask>,
    ) {
        for InvalidTask { mut task, reason } in tasks {
            if task.agent_id.validate().is_err() {
                task.agent_id = agent_id.clone();
            }
            let refusal = (TaskState::Error, Reason::TaskInvalid, reason.as_str());
            self.refuse_task(framework_id, role, task, refusal);
        }
    }

    /// Tells the framework that a task will not be launched, and lists it among those that ended.
    fn refuse_task(
        &mut self,
        framework_id: &FrameworkId,
        role: &str,
        task: TaskInfo,
        (state, reason, message): (TaskState, Reason, &str),
    ) {
        self.count_end(framework_id, state);
        let agent_id = Some(&task.agent_id).filter(|id| !id.as_str().is_empty());
        let status = self.status(&task.task_id, agent_id, state, reason, clipped(message, MAX_KEPT_BYTES));
        self.count_told_end(&status);
        self.send(framework_id, SchedulerEvent::Update(status.clone()));
        self.observe(Observation::TaskRefused { framework_id: framework_id.clone(), status: status.clone() });
        let kept = |id: &str| id.len() <= MAX_KEPT_BYTES;
        // Nothing has looked at it: what is kept of it must not grow with what it was sent as.
        if kept(task.task_id.as_str()) && kept(task.agent_id.as_str()) {
            let info = TaskInfo {
                name: clipped(&task.name, MAX_KEPT_BYTES).to_owned(),
                resources: if task.resources.iter().count() <= MAX_KEPT_RESOURCES {
                    task.resources
                } else {
                    Resources::new()
                },
                command: None,
                executor: None,
                data: None,
                labels: Vec::new(),
                ..task
            };
            let (framework_id, role) = (framework_id.clone(), role.to_owned());
            let task = Task { info: Arc::new(info), framework_id, role, state, statuses: vec![status] };
            self.keep_completed(task);
        }
    }

    fn validate_offers(&self, framework_id: &FrameworkId, offer_ids: &[OfferId]) -> Result<(), String> {
        if offer_ids.is_empty() {
            return Err("No offers specified".into());
        }
        let mut seen = BTreeSet::new();
        if let Some(id) = offer_ids.iter().find(|id| !seen.insert(*id)) {
            return Err(format!("Duplicate offer {id} in offer list"));
        }
        let find = |id| self.state.offers.get(id).ok_or_else(|| format!("Offer {id} is no longer valid"));
        let offers = offer_ids.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let first = offers[0];
        for offer in offers {
            let id = &offer.id;
            if offer.framework_id != *framework_id {
                return Err(format!(
                    "Offer {id} has invalid framework {} while framework {framework_id} is expected",
                    offer.framework_id
                ));
            }
            if !self.state.frameworks[framework_id].offers.contains(id) {
                return Err(format!("Offer {id} is no longer valid"));
            }
            if offer.role != first.role {
                return Err(format!(
                    "Aggregated offers must be allocated to the same role. Offer {id} uses role '{}' but \
                     another is using role '{}'",
                    offer.role, first.role
                ));
            }
            if offer.agent_id != first.agent_id {
                return Err(format!(
                    "Aggregated offers must belong to one single agent. Offer {id} uses agent {} and agent {}",
                    offer.agent_id, first.agent_id
                ));
            }
        }
        Ok(())
    }

    /// Checks a task, and takes what it needs from `available`; what is refused changes nothing.
    fn validate_task(
        &self,
        framework_id: &FrameworkId,
        task: &TaskInfo,
        agent_id: &AgentId,
        available: &mut Resources,
    ) -> Result<(), String> {
        task.task_id.validate().map_err(|error| error.to_string())?;
        let framework = &self.state.frameworks[framework_id];
        match framework.tasks.get(&task.task_id).map(|known| known.state) {
            Some(TaskState::Unreachable) => {
                return Err(format!("Task reuses the ID of an unreachable task: {}", task.task_id));
            }
            Some(_) => return Err(format!("Task has duplicate ID: {}", task.task_id)),
            None => {}
        }
        let (agent, config) = (&self.state.agents[agent_id], &self.state.config);
        if framework.tasks.len() >= config.max_tasks_per_framework {
            let most = config.max_tasks_per_framework;
            return Err(format!("The framework has as many tasks as the master can take ({most})"));
        }
        if agent.tasks.len() >= config.max_tasks_per_agent {
            let most = config.max_tasks_per_agent;
            return Err(format!(
                "Agent {agent_id} has as many tasks as it may ({most}); of those that ended, updates wait to be \
                 acknowledged"
            ));
        }
        agent.load.has_room_for(task, agent_id)?;
        if task.agent_id != *agent_id {
            return Err(format!(
                "Task uses invalid agent {} while agent {agent_id} is expected",
                task.agent_id
            ));
        }
        if task.resources.is_empty() {
            return Err("Task uses no resources".into());
        }
        if let Some(kind) = task.container.as_deref().filter(|kind| *kind != PLAIN_CONTAINER) {
            return Err(format!("Task's `ContainerInfo` is invalid: '{kind}' containers are not supported"));
        }
        if let Some(field) = &task.unsupported {
            return Err(format!(
                "Task's `{field}` is not supported: tasks run on the agent's host, without containers or checks \
                 of their own"
            ));
        }
        let nothing = Resources::new();
        let mut executor_needs = &nothing;
        match (&task.command, &task.executor) {
            (Some(command), None) => {
                validate_command(command)
                    .map_err(|error| format!("Task's `CommandInfo` is invalid: {error}"))?;
            }
            (None, Some(executor)) => {
                if self.is_new_executor(framework_id, executor, agent_id)? {
                    executor_needs = &executor.resources;
                }
            }
            _ => {
                return Err(
                    "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
                        .into(),
                );
            }
        }
        // One after the other: in a sum, ranges that both want would count once.
        if available.take(&task.resources) {
            if available.take(executor_needs) {
                return Ok(());
            }
            available.add(&task.resources);
        }
        let mut needed = task.resources.clone();
        needed.add(executor_needs);
        Err(format!(
            "Total resources {needed} required by task and its executor is more than available {available}"
        ))
    }

    fn is_new_executor(
        &self,
        framework_id: &FrameworkId,
        executor: &ExecutorInfo,
        agent_id: &AgentId,
    ) -> Result<bool, String> {
        executor.executor_id.validate().map_err(|error| error.to_string())?;
        validate_command(&executor.command)
            .map_err(|error| format!("Executor's `CommandInfo` is invalid: {error}"))?;
        let key = (framework_id.clone(), executor.executor_id.clone());
        match self.state.agents[agent_id].executors.get(&key) {
            Some(known) if *known.info != executor.without_secrets() => {
                Err("ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID".into())
            }
            Some(_) => Ok(false),
            None if self.state.agents[agent_id].executors.len()
                >= self.state.config.max_executors_per_agent =>
            {
                Err(format!("Agent {agent_id} has as many executors as it may"))
            }
            None => Ok(true),
        }
    }
}

fn validate_command(command: &CommandInfo) -> Result<(), String> {
    if command.value.as_deref().is_none_or(str::is_empty) {
        return Err(if command.shell {
            "Shell command is not specified".into()
        } else {
            "Executable of the command is not specified".into()
        });
    }
    match command.uris.iter().find(|uri| uri.value.is_empty()) {
        Some(_) => Err("URI of the command is empty".into()),
        None => Ok(()),
    }
}
