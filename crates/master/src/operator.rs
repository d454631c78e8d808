//! The state in the messages of the operator API: what its reads answer and its stream tells.
use crate::{
    identity::API_VERSION,
    index::{ByRole, Index, OnAgent},
    views::agent::{is_active, pid},
};
use bellows_kernel::{
    Time,
    master::{Agent, Executor, Framework, Observation, State, Task},
};
use bellows_model::{AgentId, DEFAULT_ROLE, FrameworkId, Resources, TaskState, TaskStatus};
use bellows_wire::{
    convert::{
        ResourceFormat, agent_to_wire, executor_to_wire, offer_to_wire, resources_to_wire, task_to_wire,
    },
    v1::{
        self,
        master::{
            Event,
            event::{self, Type},
            response::{
                self, GetAgents, GetExecutors, GetFrameworks, GetRoles, GetState, GetTasks, GetWeights,
            },
        },
    },
};
use std::collections::BTreeMap;

const FORMAT: ResourceFormat = ResourceFormat::Legacy;

pub(crate) fn get_state(state: &State) -> GetState {
    GetState {
        get_tasks: Some(get_tasks(state)),
        get_executors: Some(get_executors(state)),
        get_frameworks: Some(get_frameworks(state)),
        get_agents: Some(get_agents(state)),
    }
}

pub(crate) fn get_agents(state: &State) -> GetAgents {
    let mut index = Index::new(state);
    let (recovered, known): (Vec<_>, Vec<_>) = state
        .agents
        .iter()
        .filter(|(_, agent)| agent.unreachable.is_none())
        .partition(|(_, agent)| agent.recovered);
    GetAgents {
        agents: known
            .into_iter()
            .map(|(id, agent)| {
                let OnAgent { used, offered, .. } = index.take_agent(id);
                agent_to_operator(id, agent, by_role(&used), by_role(&offered))
            })
            .collect(),
        recovered_agents: recovered.into_iter().map(|(id, agent)| agent_info(id, agent)).collect(),
    }
}

fn agent_info(id: &AgentId, agent: &Agent) -> v1::AgentInfo {
    v1::AgentInfo { id: Some(id.into()), ..agent_to_wire(&agent.info) }
}

fn by_role(held: &ByRole<'_>) -> Vec<v1::Resource> {
    held.iter().flat_map(|(role, resources)| resources_to_wire(resources, Some(role), FORMAT)).collect()
}

fn agent_to_operator(
    id: &AgentId,
    agent: &Agent,
    used: Vec<v1::Resource>,
    offered: Vec<v1::Resource>,
) -> response::get_agents::Agent {
    use v1::agent_info::{Capability, capability::Type};
    response::get_agents::Agent {
        agent_info: agent_info(id, agent),
        active: is_active(agent),
        deactivated: Some(false),
        version: API_VERSION.to_owned(),
        pid: Some(pid(agent)),
        registered_time: Some(time(agent.registered)),
        reregistered_time: agent.reregistered.map(time),
        shuffle_service_down: agent.shuffle_service_down.then_some(true),
        paused: agent.condition.paused.then_some(true),
        troubles: agent.condition.troubles.clone(),
        total_resources: resources_to_wire(&agent.info.resources, None, FORMAT),
        allocated_resources: used,
        offered_resources: offered,
        capabilities: [Type::MultiRole, Type::HierarchicalRole]
            .map(|kind| Capability { r#type: Some(kind.into()) })
            .into(),
        ..Default::default()
    }
}

pub(crate) fn get_frameworks(state: &State) -> GetFrameworks {
    let mut index = Index::new(state);
    let mut framework = |framework| framework_to_operator(framework, &mut index);
    GetFrameworks {
        frameworks: state.frameworks.values().map(&mut framework).collect(),
        completed_frameworks: state.completed_frameworks.iter().map(&mut framework).collect(),
        ..Default::default()
    }
}

fn framework_to_operator(
    framework: &Framework,
    index: &mut Index<'_>,
) -> response::get_frameworks::Framework {
    let held = index.take_framework(framework.info.id.as_ref());
    response::get_frameworks::Framework {
        offers: held.offers.iter().map(|offer| offer_to_wire(offer, ResourceFormat::Refined)).collect(),
        allocated_resources: by_role(&held.used),
        offered_resources: by_role(&held.offered),
        ..framework_alone(framework)
    }
}

/// Tells of a framework what is known without a look at others' tasks and offers: sums without roles, and no offers.
fn framework_event(framework: &Framework) -> response::get_frameworks::Framework {
    let [used, offered] =
        [&framework.used, &framework.offered].map(|sum| resources_to_wire(sum, None, FORMAT));
    response::get_frameworks::Framework {
        allocated_resources: used,
        offered_resources: offered,
        ..framework_alone(framework)
    }
}

/// Tells of a framework all but what it holds.
fn framework_alone(framework: &Framework) -> response::get_frameworks::Framework {
    let connected = framework.stream.is_some();
    response::get_frameworks::Framework {
        framework_info: (&*framework.info).into(),
        active: connected,
        connected,
        recovered: framework.recovered,
        registered_time: Some(time(framework.registered)),
        reregistered_time: Some(time(framework.reregistered)),
        unregistered_time: framework.unregistered.map(time),
        offer_constraints: Some(v1::scheduler::OfferConstraints::default()),
        ..Default::default()
    }
}

pub(crate) fn get_tasks(state: &State) -> GetTasks {
    let mut tasks = GetTasks::default();
    for framework in state.frameworks.values().chain(&state.completed_frameworks) {
        for task in framework.tasks.values() {
            match task.state {
                TaskState::Unreachable => tasks.unreachable_tasks.push(task_to_operator(task)),
                _ => tasks.tasks.push(task_to_operator(task)),
            }
        }
        tasks.completed_tasks.extend(framework.completed_tasks.iter().map(task_to_operator));
    }
    tasks
}

fn task_to_operator(task: &Task) -> v1::Task {
    let info = task_to_wire(&task.info, &task.framework_id, &task.role);
    let latest: Option<&TaskStatus> = task.statuses.last();
    v1::Task {
        name: info.name,
        task_id: info.task_id,
        framework_id: (&task.framework_id).into(),
        executor_id: info.executor.map(|executor| executor.executor_id),
        agent_id: info.agent_id,
        state: v1::TaskState::from(task.state).into(),
        resources: info.resources,
        statuses: task.statuses.iter().map(Into::into).collect(),
        status_update_state: latest.map(|status| v1::TaskState::from(status.state).into()),
        status_update_uuid: latest.and_then(|status| status.uuid).map(|uuid| uuid.0.to_vec().into()),
        labels: info.labels,
        container: info.container.map(|container| *container),
        kill_policy: info.kill_policy,
        ..Default::default()
    }
}

/// Returns frameworks' own executors; those of command tasks are not listed, as in Mesos.
pub(crate) fn get_executors(state: &State) -> GetExecutors {
    let executors =
        executors(state).map(|(agent_id, framework_id, executor)| response::get_executors::Executor {
            executor_info: executor_to_wire(&executor.info, framework_id, &executor.role),
            agent_id: agent_id.into(),
        });
    GetExecutors { executors: executors.collect(), ..Default::default() }
}

fn executors(state: &State) -> impl Iterator<Item = (&AgentId, &FrameworkId, &Executor)> {
    state.agents.iter().flat_map(|(agent_id, agent)| {
        agent.executors.iter().map(move |((framework_id, _), executor)| (agent_id, framework_id, executor))
    })
}

pub(crate) fn get_roles(state: &State) -> GetRoles {
    let roles = roles(state).into_iter().map(|(name, role)| v1::Role {
        name: name.to_owned(),
        weight: weight(state, name),
        frameworks: role.frameworks.iter().map(|id| (*id).into()).collect(),
        resources: resources_to_wire(&role.held().scalars(), None, ResourceFormat::Refined),
    });
    GetRoles { roles: roles.collect() }
}

/// Returns the weights that an operator set.
pub(crate) fn get_weights(state: &State) -> GetWeights {
    let weights = state.config.role_weights.keys();
    let weight_infos = weights
        .map(|role| v1::WeightInfo { weight: weight(state, role), role: Some(role.clone()) })
        .collect();
    GetWeights { weight_infos }
}

/// Returns a role's weight: 1 unless an operator set another one.
pub(crate) fn weight(state: &State, role: &str) -> f64 {
    state.config.role_weights.get(role).map_or(1.0, |thousandths| f64::from(*thousandths) / 1_000.0)
}

/// One role, over all frameworks that are in it.
#[derive(Default)]
pub(crate) struct RoleUse<'a> {
    pub(crate) frameworks: Vec<&'a FrameworkId>,
    pub(crate) used: Resources,
    pub(crate) offered: Resources,
    pub(crate) reserved: Resources,
}

impl RoleUse<'_> {
    /// Used and offered together.
    pub(crate) fn held(&self) -> Resources {
        let mut held = self.used.clone();
        held.add(&self.offered);
        held
    }
}

/// Returns every role that a framework is in or that something is reserved for.
pub(crate) fn roles(state: &State) -> BTreeMap<&str, RoleUse<'_>> {
    let mut roles = BTreeMap::<&str, RoleUse<'_>>::new();
    for (id, framework) in &state.frameworks {
        for role in &framework.info.roles {
            roles.entry(role).or_default().frameworks.push(id);
        }
        for task in framework.tasks.values().filter(|task| task.holds_resources()) {
            roles.entry(&task.role).or_default().used.add(&task.info.resources);
        }
    }
    for (_, _, executor) in executors(state) {
        roles.entry(&executor.role).or_default().used.add(&executor.info.resources);
    }
    for offer in state.offers.values() {
        roles.entry(&offer.role).or_default().offered.add(&offer.resources);
    }
    for agent in state.agents.values() {
        for item in agent.info.resources.iter() {
            let Some(role) = item.reserved_for.as_deref().filter(|role| *role != DEFAULT_ROLE) else {
                continue;
            };
            if let Ok(one) = Resources::from_items([item.clone()]) {
                roles.entry(role).or_default().reserved.add(&one);
            }
        }
    }
    roles
}

/// Returns what those who watch are told; `None` when what it names is forgotten already.
pub(crate) fn observed(state: &State, observation: Observation) -> Option<Event> {
    let mut event = Event::default();
    // To gather all that one framework has would keep everybody waiting, at each of many that come at once.
    let framework = |id: &FrameworkId| state.frameworks.get(id).map(framework_event);
    let kind = match observation {
        Observation::AgentAdded(id) => {
            let agent = state.agents.get(&id)?;
            // Without roles: to gather them for each agent of many that come at once would take too long.
            let [used, offered] =
                [&agent.used, &agent.offered].map(|sum| resources_to_wire(sum, None, FORMAT));
            let agent = agent_to_operator(&id, agent, used, offered);
            event.agent_added = Some(event::AgentAdded { agent });
            Type::AgentAdded
        }
        Observation::AgentRemoved(id) => {
            event.agent_removed = Some(event::AgentRemoved { agent_id: (&id).into() });
            Type::AgentRemoved
        }
        Observation::FrameworkAdded(id) => {
            event.framework_added = Some(event::FrameworkAdded { framework: framework(&id)? });
            Type::FrameworkAdded
        }
        Observation::FrameworkUpdated(id) => {
            event.framework_updated = Some(event::FrameworkUpdated { framework: framework(&id)? });
            Type::FrameworkUpdated
        }
        Observation::FrameworkRemoved(id) => {
            let mut removed = state.completed_frameworks.iter().rev();
            let removed = removed.find(|framework| framework.info.id.as_ref() == Some(&id))?;
            event.framework_removed =
                Some(event::FrameworkRemoved { framework_info: (&*removed.info).into() });
            Type::FrameworkRemoved
        }
        Observation::TaskAdded { framework_id, task_id } => {
            let task = state.frameworks.get(&framework_id)?.tasks.get(&task_id)?;
            event.task_added = Some(event::TaskAdded { task: task_to_operator(task) });
            Type::TaskAdded
        }
        Observation::TaskUpdated { framework_id, status } => {
            event.task_updated = Some(event::TaskUpdated {
                framework_id: (&framework_id).into(),
                state: v1::TaskState::from(status.state).into(),
                status: (&status).into(),
            });
            Type::TaskUpdated
        }
        // Mesos' operators hear of launched tasks only.
        Observation::TaskRefused { .. } | Observation::TaskChanged { .. } | Observation::AgentChanged(_) => {
            return None;
        }
    };
    event.r#type = Some(kind.into());
    Some(event)
}

fn time(time: Time) -> v1::TimeInfo {
    v1::TimeInfo { nanoseconds: i64::try_from(time.0).unwrap_or(i64::MAX) }
}
