//! The state's tasks, offers and executors, gathered by agent and by framework in one pass, for views of the whole.
use crate::views::cluster::TaskCounts;
use bellows_kernel::master::{Executor, State};
use bellows_model::{AgentId, FrameworkId, Offer, Resources};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Default)]
pub(crate) struct Index<'a> {
    agents: HashMap<&'a AgentId, OnAgent<'a>>,
    frameworks: HashMap<&'a FrameworkId, OfFramework<'a>>,
}

/// Resources by the role that they are allocated or offered to.
pub(crate) type ByRole<'a> = BTreeMap<&'a str, Resources>;

#[derive(Default)]
pub(crate) struct OnAgent<'a> {
    pub(crate) tasks: TaskCounts,
    pub(crate) frameworks: BTreeSet<&'a str>,
    pub(crate) used: ByRole<'a>,
    pub(crate) offered: ByRole<'a>,
}

#[derive(Default)]
pub(crate) struct OfFramework<'a> {
    pub(crate) used: ByRole<'a>,
    pub(crate) offered: ByRole<'a>,
    pub(crate) offers: Vec<&'a Offer>,
    pub(crate) executors: Vec<(&'a AgentId, &'a Executor)>,
}

impl<'a> Index<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        let mut index = Self::default();
        for (id, framework) in &state.frameworks {
            for task in framework.tasks.values().chain(&framework.completed_tasks) {
                let agent = index.agents.entry(&task.info.agent_id).or_default();
                agent.tasks.count(task.state);
                agent.frameworks.insert(id.as_str());
                if task.holds_resources() {
                    agent.used.entry(&task.role).or_default().add(&task.info.resources);
                    let of_framework = index.frameworks.entry(id).or_default();
                    of_framework.used.entry(&task.role).or_default().add(&task.info.resources);
                }
            }
        }
        for (agent_id, agent) in &state.agents {
            for ((id, _), executor) in &agent.executors {
                let on_agent = index.agents.entry(agent_id).or_default();
                on_agent.used.entry(&executor.role).or_default().add(&executor.info.resources);
                let of_framework = index.frameworks.entry(id).or_default();
                of_framework.used.entry(&executor.role).or_default().add(&executor.info.resources);
                of_framework.executors.push((agent_id, executor));
            }
        }
        for offer in state.offers.values() {
            let agent = index.agents.entry(&offer.agent_id).or_default();
            agent.offered.entry(&offer.role).or_default().add(&offer.resources);
            let of_framework = index.frameworks.entry(&offer.framework_id).or_default();
            of_framework.offered.entry(&offer.role).or_default().add(&offer.resources);
            of_framework.offers.push(offer);
        }
        index
    }

    /// Takes out what is known of an agent.
    pub(crate) fn take_agent(&mut self, id: &AgentId) -> OnAgent<'a> {
        self.agents.remove(id).unwrap_or_default()
    }

    /// Takes out what is known of a framework.
    pub(crate) fn take_framework(&mut self, id: Option<&FrameworkId>) -> OfFramework<'a> {
        id.and_then(|id| self.frameworks.remove(id)).unwrap_or_default()
    }
}

/// The sum over all roles.
pub(crate) fn sum(by_role: &ByRole<'_>) -> Resources {
    by_role.values().fold(Resources::new(), |mut sum, resources| {
        sum.add(resources);
        sum
    })
}
