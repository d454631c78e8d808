//! The state's tasks and offers, gathered by agent in one pass, for views that show agents.
use crate::views::cluster::TaskCounts;
use bellows_kernel::master::State;
use bellows_model::{AgentId, Resources};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Default)]
pub(crate) struct Index<'a>(HashMap<&'a AgentId, OnAgent<'a>>);

#[derive(Default)]
struct OnAgent<'a> {
    tasks: TaskCounts,
    frameworks: BTreeSet<&'a str>,
    used: BTreeMap<&'a str, Resources>,
    offered: BTreeMap<&'a str, Resources>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        let mut index = Self::default();
        for (id, framework) in &state.frameworks {
            for task in framework.tasks.values().chain(&framework.completed_tasks) {
                let agent = index.0.entry(&task.info.agent_id).or_default();
                agent.tasks.count(task.state);
                agent.frameworks.insert(id.as_str());
                if task.holds_resources() {
                    agent.used.entry(&task.role).or_default().add(&task.info.resources);
                }
            }
        }
        for (id, agent) in &state.agents {
            for executor in agent.executors.values() {
                let on_agent = index.0.entry(id).or_default();
                on_agent.used.entry(&executor.role).or_default().add(&executor.info.resources);
            }
        }
        for offer in state.offers.values() {
            let agent = index.0.entry(&offer.agent_id).or_default();
            agent.offered.entry(&offer.role).or_default().add(&offer.resources);
        }
        index
    }

    /// What its tasks do, and whose they are.
    pub(crate) fn of_agent(&self, id: &AgentId) -> (TaskCounts, Vec<&'a str>) {
        self.0
            .get(id)
            .map_or_else(Default::default, |agent| (agent.tasks, agent.frameworks.iter().copied().collect()))
    }

    /// By role.
    pub(crate) fn used(&self, id: &AgentId) -> BTreeMap<&'a str, Resources> {
        self.0.get(id).map(|agent| agent.used.clone()).unwrap_or_default()
    }

    /// By role.
    pub(crate) fn offered(&self, id: &AgentId) -> BTreeMap<&'a str, Resources> {
        self.0.get(id).map(|agent| agent.offered.clone()).unwrap_or_default()
    }
}
