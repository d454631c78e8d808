//! ACCEPT: which tasks the offered resources may be used for, and what happens to the rest.
use super::{AgentCommand, SchedulerEvent, Step, Task, offers::Refusal, tasks::Origin};
use bellows_model::{
    AgentId, CommandInfo, ExecutorInfo, Filters, FrameworkId, OfferId, Operation, Reason, Resources,
    TaskInfo, TaskState,
};
use std::{collections::BTreeSet, sync::Arc};

/// Tasks' own containers that need nothing beyond what an agent gives to every task.
const PLAIN_CONTAINER: &str = "MESOS";

impl Step<'_> {
    pub(super) fn accept(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: Vec<Operation>,
        filters: Filters,
    ) {
        if let Err(error) = self.validate_offers(framework_id, offer_ids) {
            return self.refuse_accept(framework_id, offer_ids, operations, &error);
        }
        let offers: Vec<_> = offer_ids.iter().filter_map(|id| self.take_offer(id)).collect();
        let Some(offer) = offers.first().cloned() else { return };
        self.state.counters.offers_accepted += offers.len() as u64;
        let mut left = Resources::new();
        offers.iter().for_each(|offer| left.add(&offer.resources));
        let mut launched = false;
        for operation in operations {
            // Others are not carried out here; what they would have used stays free.
            let Operation::Launch(tasks) = operation else { continue };
            for task in tasks {
                match self.validate_task(framework_id, &task, &offer.agent_id, &left) {
                    Ok(rest) => {
                        left = rest;
                        launched = true;
                        self.launch(framework_id, offer.role.clone(), task);
                    }
                    Err(error) => {
                        self.refuse_task(framework_id, &task, TaskState::Error, Reason::TaskInvalid, &error);
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
            info: Arc::new(info.clone()),
            framework_id: framework_id.clone(),
            role,
            state: TaskState::Staging,
            statuses: Vec::new(),
        };
        self.add_task(task, Origin::Offer);
        let framework = self.state.frameworks[framework_id].info.clone();
        self.tell(&agent_id, AgentCommand::Launch { framework, task: info });
    }

    fn refuse_accept(
        &mut self,
        framework_id: &FrameworkId,
        offer_ids: &[OfferId],
        operations: Vec<Operation>,
        error: &str,
    ) {
        for id in offer_ids {
            if self.state.offers.get(id).is_some_and(|offer| offer.framework_id == *framework_id) {
                self.discard(id, Refusal::For(self.state.config.min_refusal));
            }
        }
        let state = self.for_partition_aware(framework_id, TaskState::Dropped);
        let message = format!("Task launched with invalid offers: {error}");
        for operation in operations {
            let Operation::Launch(tasks) = operation else { continue };
            for task in tasks {
                self.refuse_task(framework_id, &task, state, Reason::InvalidOffers, &message);
            }
        }
    }

    fn refuse_task(
        &mut self,
        framework_id: &FrameworkId,
        task: &TaskInfo,
        state: TaskState,
        reason: Reason,
        message: &str,
    ) {
        *self.state.counters.tasks_ended.entry(state).or_default() += 1;
        let status = self.status(&task.task_id, Some(&task.agent_id), state, reason, message);
        self.send(framework_id, SchedulerEvent::Update(status));
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

    /// What is left of `available` when the task has its part.
    fn validate_task(
        &self,
        framework_id: &FrameworkId,
        task: &TaskInfo,
        agent_id: &AgentId,
        available: &Resources,
    ) -> Result<Resources, String> {
        task.task_id.validate().map_err(|error| error.to_string())?;
        let framework = &self.state.frameworks[framework_id];
        match framework.tasks.get(&task.task_id).map(|known| known.state) {
            Some(TaskState::Unreachable) => {
                return Err(format!("Task reuses the ID of an unreachable task: {}", task.task_id));
            }
            Some(_) => return Err(format!("Task has duplicate ID: {}", task.task_id)),
            None => {}
        }
        if framework.tasks.len() >= self.state.config.max_tasks_per_framework {
            return Err("The framework has as many tasks as the master can take".into());
        }
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
        let mut needed = task.resources.clone();
        match (&task.command, &task.executor) {
            (Some(command), None) => {
                validate_command(command)
                    .map_err(|error| format!("Task's `CommandInfo` is invalid: {error}"))?;
            }
            (None, Some(executor)) => {
                if self.is_new_executor(framework_id, executor, agent_id)? {
                    needed.add(&executor.resources);
                }
            }
            _ => {
                return Err(
                    "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
                        .into(),
                );
            }
        }
        available.checked_sub(&needed).ok_or_else(|| {
            format!(
                "Total resources {needed} required by task and its executor is more than available {available}"
            )
        })
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
            Some(known) if known.info != *executor => {
                Err("ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID".into())
            }
            known => Ok(known.is_none()),
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
