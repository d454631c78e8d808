//! The whole cluster, as `/state`, `/state-summary`, `/slaves`, `/frameworks`, `/tasks` and `/roles` show it.
use super::{
    agent::{AgentSummary, AgentView, AgentWithFull},
    framework::{FrameworkSummary, FrameworkView, TaskView},
    resources::Counted,
};
use crate::{
    identity::{CAPABILITIES, Identity},
    index::Index,
    ingress::Version,
    operator::{RoleUse, roles, weight},
};
use bellows_kernel::master::{Agent, Framework, State, Task};
use bellows_model::{AgentId, FrameworkId, Resources, TaskState};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

/// An object that is always empty here.
type Nothing = Map<String, Value>;

/// How many tasks are in each state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TaskCounts([u32; COUNTED.len()]);

const COUNTED: [TaskState; 10] = [
    TaskState::Staging,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Killing,
    TaskState::Finished,
    TaskState::Killed,
    TaskState::Failed,
    TaskState::Lost,
    TaskState::Error,
    TaskState::Unreachable,
];

impl TaskCounts {
    pub(crate) fn count(&mut self, state: TaskState) {
        if let Some(at) = COUNTED.iter().position(|counted| *counted == state) {
            self.0[at] += 1;
        }
    }
}

impl Serialize for TaskCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(COUNTED.len()))?;
        for (state, count) in COUNTED.iter().zip(self.0) {
            map.serialize_entry(state.name(), &count)?;
        }
        map.end()
    }
}

/// `/flags`, and a part of `/state`: names and values as texts.
pub(crate) struct Flags<'a>(pub(crate) &'a [(&'static str, String)]);

impl Serialize for Flags<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[derive(Serialize)]
pub(crate) struct StateView<'a> {
    #[serde(flatten)]
    version: Version,
    start_time: f64,
    elected_time: f64,
    id: &'a str,
    pid: String,
    hostname: &'a str,
    capabilities: [&'static str; 1],
    activated_slaves: f64,
    deactivated_slaves: f64,
    unreachable_slaves: f64,
    leader: String,
    leader_info: LeaderInfo<'a>,
    flags: Flags<'a>,
    slaves: Vec<AgentView<'a>>,
    recovered_slaves: Vec<RecoveredAgent<'a>>,
    frameworks: Vec<FrameworkView<'a>>,
    completed_frameworks: Vec<FrameworkView<'a>>,
    orphan_tasks: [(); 0],
    unregistered_frameworks: [(); 0],
}

#[derive(Serialize)]
struct LeaderInfo<'a> {
    id: &'a str,
    pid: String,
    port: u16,
    hostname: &'a str,
}

impl<'a> StateView<'a> {
    pub(crate) fn new(
        state: &'a State,
        identity: &'a Identity,
        leader: &'a bellows_election::Leader,
        flags: &'a [(&'static str, String)],
    ) -> Self {
        let unreachable = state.agents.values().filter(|agent| agent.unreachable.is_some()).count();
        let active = state.agents.values().filter(|agent| super::agent::is_active(agent)).count();
        let inactive = registered(state).count() - active;
        let leader_pid = format!("master@{}", leader.authority());
        let started = identity.started.as_secs_f64();
        let mut index = Index::new(state);
        let mut framework = |framework| FrameworkView::new(framework, &mut index);
        Self {
            version: Version::new(identity),
            start_time: started,
            elected_time: started,
            id: &identity.id,
            pid: identity.pid(),
            hostname: &identity.hostname,
            capabilities: CAPABILITIES,
            activated_slaves: active as f64,
            deactivated_slaves: inactive as f64,
            unreachable_slaves: unreachable as f64,
            leader: leader_pid.clone(),
            leader_info: LeaderInfo {
                id: &leader.id,
                pid: leader_pid,
                port: leader.port,
                hostname: &leader.hostname,
            },
            flags: Flags(flags),
            slaves: registered(state).map(|(id, agent)| AgentView::new(id, agent)).collect(),
            recovered_slaves: recovered(state),
            frameworks: state.frameworks.values().map(&mut framework).collect(),
            completed_frameworks: state.completed_frameworks.iter().map(&mut framework).collect(),
            orphan_tasks: [],
            unregistered_frameworks: [],
        }
    }
}

/// Unreachable agents are counted, not listed, as in Mesos; those that have not come back are listed apart.
fn registered(state: &State) -> impl Iterator<Item = (&AgentId, &Agent)> {
    state.agents.iter().filter(|(_, agent)| agent.unreachable.is_none() && !agent.recovered)
}

/// Agents that a previous master knew and that have not come back yet.
#[derive(Serialize)]
struct RecoveredAgent<'a> {
    id: &'a str,
    hostname: &'a str,
}

fn recovered(state: &State) -> Vec<RecoveredAgent<'_>> {
    let recovered = state.agents.iter().filter(|(_, agent)| agent.recovered);
    recovered.map(|(id, agent)| RecoveredAgent { id: id.as_str(), hostname: &agent.info.hostname }).collect()
}

/// `/state-summary`
#[derive(Serialize)]
pub(crate) struct SummaryView<'a> {
    hostname: &'a str,
    slaves: Vec<AgentSummary<'a>>,
    frameworks: Vec<FrameworkSummary<'a>>,
}

impl<'a> SummaryView<'a> {
    pub(crate) fn new(state: &'a State, identity: &'a Identity) -> Self {
        let mut index = Index::new(state);
        Self {
            hostname: &identity.hostname,
            slaves: registered(state).map(|(id, agent)| AgentSummary::new(id, agent, &mut index)).collect(),
            frameworks: state
                .frameworks
                .values()
                .map(|framework| FrameworkSummary::new(framework, &mut index))
                .collect(),
        }
    }
}

/// `/slaves`
#[derive(Serialize)]
pub(crate) struct AgentsView<'a> {
    slaves: Vec<AgentWithFull<'a>>,
    recovered_slaves: Vec<RecoveredAgent<'a>>,
}

impl<'a> AgentsView<'a> {
    pub(crate) fn new(state: &'a State, only: Option<&str>) -> Self {
        let mut index = Index::new(state);
        let wanted = registered(state).filter(|(id, _)| only.is_none_or(|only| id.as_str() == only));
        Self {
            slaves: wanted.map(|(id, agent)| AgentWithFull::new(id, agent, &mut index)).collect(),
            recovered_slaves: recovered(state),
        }
    }
}

/// `/frameworks`
#[derive(Serialize)]
pub(crate) struct FrameworksView<'a> {
    frameworks: Vec<FrameworkView<'a>>,
    completed_frameworks: Vec<FrameworkView<'a>>,
    unregistered_frameworks: [(); 0],
}

impl<'a> FrameworksView<'a> {
    pub(crate) fn new(state: &'a State, only: Option<&str>) -> Self {
        let wanted = |framework: &&Framework| {
            only.is_none_or(|only| framework.info.id.as_ref().is_some_and(|id| id.as_str() == only))
        };
        let mut index = Index::new(state);
        let mut view = |framework| FrameworkView::new(framework, &mut index);
        Self {
            frameworks: state.frameworks.values().filter(wanted).map(&mut view).collect(),
            completed_frameworks: state.completed_frameworks.iter().filter(wanted).map(&mut view).collect(),
            unregistered_frameworks: [],
        }
    }
}

/// Which tasks `/tasks` shows: the newest first unless told otherwise, 100 at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskQuery {
    pub(crate) limit: usize,
    pub(crate) offset: usize,
    pub(crate) ascending: bool,
    pub(crate) framework_id: Option<String>,
    pub(crate) task_id: Option<String>,
}

/// `/tasks`
#[derive(Serialize)]
pub(crate) struct TasksView<'a> {
    tasks: Vec<TaskView<'a>>,
}

impl<'a> TasksView<'a> {
    pub(crate) fn new(state: &'a State, query: &TaskQuery) -> Self {
        let frameworks = state.frameworks.values().chain(&state.completed_frameworks);
        let tasks =
            frameworks.flat_map(|framework| framework.tasks.values().chain(&framework.completed_tasks));
        let wanted = |task: &&Task| {
            query.framework_id.as_deref().is_none_or(|id| task.framework_id.as_str() == id)
                && query.task_id.as_deref().is_none_or(|id| task.info.task_id.as_str() == id)
        };
        let mut tasks: Vec<&Task> = tasks.filter(wanted).collect();
        // A task that nobody has heard of yet is the newest.
        let begun = |task: &Task| task.statuses.first().map_or(f64::INFINITY, |status| status.timestamp);
        tasks.sort_by(|a, b| begun(a).total_cmp(&begun(b)));
        if !query.ascending {
            tasks.reverse();
        }
        let shown = tasks.into_iter().skip(query.offset).take(query.limit);
        Self { tasks: shown.map(TaskView::new).collect() }
    }
}

/// `/roles`
#[derive(Serialize)]
pub(crate) struct RolesView<'a> {
    roles: Vec<RoleView<'a>>,
}

struct RoleView<'a> {
    name: &'a str,
    weight: f64,
    of: RoleUse<'a>,
}

impl<'a> RolesView<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        Self {
            roles: roles(state)
                .into_iter()
                .map(|(name, of)| RoleView { name, weight: weight(state, name), of })
                .collect(),
        }
    }
}

impl Serialize for RoleView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Quota<'a> {
            role: &'a str,
            guarantee: Nothing,
            limit: Nothing,
            consumed: Counted<'a>,
        }
        let RoleView { name, weight, of } = self;
        let mut consumed: Resources = of.used.clone();
        consumed.add(&of.reserved);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", name)?;
        map.serialize_entry("weight", weight)?;
        let quota = Quota {
            role: name,
            guarantee: Nothing::new(),
            limit: Nothing::new(),
            consumed: Counted(&consumed),
        };
        map.serialize_entry("quota", &quota)?;
        map.serialize_entry("resources", &Counted(&of.held()))?;
        map.serialize_entry("allocated", &Counted(&of.used))?;
        map.serialize_entry("offered", &Counted(&of.offered))?;
        map.serialize_entry("reserved", &Counted(&of.reserved))?;
        let ids: Vec<_> = of.frameworks.iter().map(|id: &&FrameworkId| id.as_str()).collect();
        map.serialize_entry("frameworks", &ids)?;
        map.end()
    }
}

/// `/weights`: those that an operator set.
pub(crate) struct WeightsView<'a>(pub(crate) &'a State);

impl Serialize for WeightsView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Weight<'a> {
            role: &'a str,
            weight: f64,
        }
        let roles = self.0.config.role_weights.keys();
        serializer.collect_seq(roles.map(|role| Weight { role, weight: weight(self.0, role) }))
    }
}
