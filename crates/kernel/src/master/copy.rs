//! A copy of what may be read of a master's state, made in slices, so that nobody waits for a large one. What changes
//! meanwhile and is observed is brought up to date: at the end, the copy and the observations that follow are all there is.

use super::{Agent, Framework, Observation, State, Task};
use bellows_model::{AgentId, FrameworkId, OfferId, TaskId};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{self, Excluded, Unbounded},
    sync::Arc,
};

/// Filters are only counted: so many of them cost as much as one item.
const FILTERS_FOR_ONE: usize = 16;

/// A copy under way.
#[derive(Debug)]
pub struct StateCopy {
    copied: State,
    part: Part,
}

/// The part to be copied next.
#[derive(Debug)]
enum Part {
    /// The frameworks that completed, from the one with this number on; see `State::ever_completed`.
    Completed(u64),
    Agents(Option<AgentId>),
    Frameworks(Option<FrameworkId>),
    Tasks(FrameworkId, Option<TaskId>),
    Offers(Option<OfferId>),
    Done,
}

impl StateCopy {
    pub fn begin(state: &State) -> Self {
        let mut copied = State::new(state.config.clone(), state.started);
        copied.counters = state.counters.clone();
        Self { copied, part: Part::Completed(0) }
    }

    /// Copies about `items` more. Says whether that was the last.
    pub fn go_on(&mut self, state: &State, items: usize) -> bool {
        let mut left = items;
        while left > 0 {
            let Some(cost) = self.one(state) else { return true };
            left = left.saturating_sub(cost);
        }
        matches!(self.part, Part::Done)
    }

    /// The copy, once all is in it: to be read, never to be stepped.
    pub fn finish(self) -> State {
        self.copied
    }

    /// Brings up to date what was copied and has changed since.
    pub fn observe(&mut self, state: &State, observation: &Observation) {
        match observation {
            Observation::AgentAdded(id) | Observation::AgentChanged(id) => {
                if let Some(agent) = state.agents.get(id) {
                    self.copied.agents.insert(id.clone(), agent.to_read());
                }
            }
            Observation::AgentRemoved(id) => drop(self.copied.agents.remove(id)),
            Observation::FrameworkAdded(id) | Observation::FrameworkUpdated(id) => self.framework(state, id),
            Observation::FrameworkRemoved(id) => self.framework_removed(state, id),
            Observation::TaskAdded { framework_id, task_id }
            | Observation::TaskChanged { framework_id, task_id } => self.task(state, framework_id, task_id),
            Observation::TaskUpdated { framework_id, status }
            | Observation::TaskRefused { framework_id, status } => {
                self.task(state, framework_id, &status.task_id);
            }
        }
    }

    /// Copies one item. How many it counts for; `None` when there are no more.
    fn one(&mut self, state: &State) -> Option<usize> {
        match &self.part {
            Part::Completed(next) => {
                let first = state.ever_completed - state.completed_frameworks.len() as u64;
                let next = first.max(*next);
                match state.completed_frameworks.get((next - first) as usize) {
                    Some(framework) => {
                        let copy = framework.to_read();
                        self.part = Part::Completed(next + 1);
                        let cost = 1 + copy.completed_tasks.len();
                        self.add_completed(state, copy);
                        return Some(cost);
                    }
                    None => self.part = Part::Agents(None),
                }
            }
            Part::Agents(last) => match after(&state.agents, last) {
                Some((id, agent)) => {
                    self.copied.agents.insert(id.clone(), agent.to_read());
                    self.part = Part::Agents(Some(id.clone()));
                    let filters = agent
                        .index
                        .map_or(0, |index| state.allocator.count_refusals(index, &mut self.copied.filters));
                    return Some(1 + agent.executors.len() + filters / FILTERS_FOR_ONE);
                }
                None => self.part = Part::Frameworks(None),
            },
            Part::Frameworks(last) => match after(&state.frameworks, last) {
                Some((id, framework)) => {
                    self.copied.frameworks.insert(id.clone(), framework.to_read());
                    self.part = Part::Tasks(id.clone(), None);
                    return Some(1 + framework.completed_tasks.len());
                }
                None => self.part = Part::Offers(None),
            },
            Part::Tasks(id, last) => {
                let task = state.frameworks.get(id).and_then(|framework| after(&framework.tasks, last));
                let copy = self.copied.frameworks.get_mut(id);
                match (task, copy) {
                    (Some((task_id, task)), Some(copy)) => {
                        copy.tasks.insert(task_id.clone(), task.clone());
                        self.part = Part::Tasks(id.clone(), Some(task_id.clone()));
                    }
                    _ => self.part = Part::Frameworks(Some(id.clone())),
                }
            }
            Part::Offers(last) => match after(&state.offers, last) {
                Some((id, offer)) => {
                    self.copied.offers.insert(id.clone(), offer.clone());
                    self.part = Part::Offers(Some(id.clone()));
                }
                None => self.part = Part::Done,
            },
            Part::Done => return None,
        }
        Some(1)
    }

    fn framework(&mut self, state: &State, id: &FrameworkId) {
        let Some(framework) = state.frameworks.get(id) else { return };
        let mut copy = framework.to_read();
        if let Some(before) = self.copied.frameworks.remove(id) {
            copy.tasks = before.tasks;
        }
        self.copied.frameworks.insert(id.clone(), copy);
    }

    fn framework_removed(&mut self, state: &State, id: &FrameworkId) {
        self.copied.frameworks.remove(id);
        // While those that completed are being copied, it has its turn among them.
        if !matches!(self.part, Part::Completed(_))
            && let Some(removed) =
                state.completed_frameworks.iter().rev().find(|it| it.info.id.as_ref() == Some(id))
        {
            self.add_completed(state, removed.to_read());
        }
    }

    fn add_completed(&mut self, state: &State, copy: Framework) {
        self.copied.completed_frameworks.push_back(copy);
        while self.copied.completed_frameworks.len() > state.completed_frameworks.len() {
            self.copied.completed_frameworks.pop_front();
        }
    }

    fn task(&mut self, state: &State, framework_id: &FrameworkId, task_id: &TaskId) {
        let Some(copy) = self.copied.frameworks.get_mut(framework_id) else { return };
        let Some(framework) = state.frameworks.get(framework_id) else { return };
        if let Some(task) = framework.tasks.get(task_id) {
            copy.tasks.insert(task_id.clone(), task.clone());
        } else {
            // It has ended, whether it was copied before or not.
            let is_it = |task: &&Task| task.info.task_id == *task_id;
            copy.tasks.remove(task_id);
            if !copy.was_completed(task_id)
                && framework.was_completed(task_id)
                && let Some(task) = framework.completed_tasks.iter().rev().find(is_it)
            {
                copy.keep_completed(task.clone(), state.config.max_completed_tasks_per_framework);
            }
        }
    }
}

fn after<'a, K: Ord, V>(map: &'a BTreeMap<K, V>, last: &Option<K>) -> Option<(&'a K, &'a V)> {
    let from: Bound<&K> = last.as_ref().map_or(Unbounded, Excluded);
    map.range((from, Unbounded)).next()
}

impl Agent {
    fn to_read(&self) -> Self {
        let mut copy = Self::new((*self.info).clone(), self.registered);
        copy.info = Arc::clone(&self.info);
        copy.link = self.link;
        copy.reregistered = self.reregistered;
        copy.used.clone_from(&self.used);
        copy.offered.clone_from(&self.offered);
        copy.unreachable = self.unreachable;
        copy.shuffle_service_down = self.shuffle_service_down;
        copy.condition.clone_from(&self.condition);
        copy.recovered = self.recovered;
        copy.executors.clone_from(&self.executors);
        copy
    }
}

impl Framework {
    /// Without its live tasks.
    fn to_read(&self) -> Self {
        let mut copy = Self::new(Arc::clone(&self.info), self.registered);
        copy.stream.clone_from(&self.stream);
        copy.reregistered = self.reregistered;
        copy.unregistered = self.unregistered;
        copy.disconnected = self.disconnected;
        copy.recovered = self.recovered;
        copy.suppressed_roles = BTreeSet::clone(&self.suppressed_roles);
        copy.completed_tasks.clone_from(&self.completed_tasks);
        copy.completed_ids.clone_from(&self.completed_ids);
        copy.counters.clone_from(&self.counters);
        copy.used.clone_from(&self.used);
        copy.offered.clone_from(&self.offered);
        copy
    }
}
