//! Work that is too much for one step: it is done in slices, between which other events have their turn.
//!
//! What is left over waits in `State::backlog`. Everything that waits gets a small part of each step in turn, so that a
//! long piece of work does not keep the others waiting. Between two slices all invariants hold.
use super::{AgentCommand, Framework, Observation, Step, offers::Refusal};
use bellows_model::{AgentId, FrameworkId, OfferId, Reason, StreamId, TaskId, TaskState};
use std::{
    collections::VecDeque,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

/// A step goes on until it has done about so much: a few milliseconds. One unit is a task that ends, an agent that is
/// told, an answer to a question.
pub(super) const SLICE: usize = 500;

/// So much of a step goes to one thing that waits before the next one has its turn.
const QUANTUM: usize = 50;

#[derive(Debug)]
pub(super) enum Work {
    /// Takes back offers that the framework does not have any more.
    EndOffers { framework_id: FrameworkId, offers: VecDeque<OfferId>, how: EndOfOffer },
    /// Tells the agents that have tasks of a framework what it says of itself now.
    UpdateAgents { framework_id: FrameworkId, after: Option<AgentId> },
    /// Answers RECONCILE on the stream that it came from.
    Reconcile { framework_id: FrameworkId, stream: StreamId, asked: Asked },
    /// Ends a framework whose `ending` is set.
    EndFramework { framework_id: FrameworkId, told: Told },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum EndOfOffer {
    /// The framework knows, or cannot be told.
    Discard(Refusal),
    Rescind,
}

#[derive(Debug)]
pub(super) enum Asked {
    /// All tasks; those up to `after` are answered.
    All {
        after: Option<TaskId>,
    },
    Listed(VecDeque<(TaskId, Option<AgentId>)>),
}

/// Which agents were told that a framework has ended.
#[derive(Debug)]
pub(super) enum Told {
    UpTo(Option<AgentId>),
    All,
}

impl Step<'_> {
    pub(super) fn spend(&mut self, units: usize) {
        self.left = self.left.saturating_sub(units);
    }

    /// Goes on with what was left over, as far as this step may.
    pub(super) fn work_off(&mut self) {
        // Taking it up costs one unit; with nothing beyond that it would be taken for done.
        while self.left > 1
            && let Some(work) = self.state.backlog.pop_front()
        {
            let for_others = self.left.saturating_sub(QUANTUM);
            self.left -= for_others;
            self.spend(1);
            let rest = match work {
                Work::EndOffers { framework_id, offers, how } => self.end_offers(framework_id, offers, how),
                Work::UpdateAgents { framework_id, after } => self.update_agents(framework_id, after),
                Work::Reconcile { framework_id, stream, asked } => {
                    self.answer_reconcile(framework_id, stream, asked)
                }
                Work::EndFramework { framework_id, told } => self.end_framework(framework_id, told),
            };
            self.left += for_others;
            self.state.backlog.extend(rest);
        }
    }

    fn end_offers(
        &mut self,
        framework_id: FrameworkId,
        mut offers: VecDeque<OfferId>,
        how: EndOfOffer,
    ) -> Option<Work> {
        while self.left > 0
            && let Some(id) = offers.pop_front()
        {
            self.spend(1);
            match how {
                EndOfOffer::Discard(refusal) => self.discard(&id, refusal),
                EndOfOffer::Rescind => self.rescind(&id, Refusal::None),
            }
        }
        (!offers.is_empty()).then_some(Work::EndOffers { framework_id, offers, how })
    }

    /// The next agents that this step has time for.
    fn agents_after(&self, after: Option<AgentId>) -> Vec<AgentId> {
        let from = after.map_or(Unbounded, Excluded);
        let agents = self.state.agents.range((from, Unbounded)).take(self.left);
        agents.map(|(id, _)| id.clone()).collect()
    }

    fn update_agents(&mut self, framework_id: FrameworkId, after: Option<AgentId>) -> Option<Work> {
        let framework = Arc::clone(&self.state.frameworks.get(&framework_id)?.info);
        let agents = self.agents_after(after);
        let first = (framework_id.clone(), TaskId::from(""));
        for agent in &agents {
            let next = self.state.agents[agent].tasks.range(&first..).next();
            if next.is_some_and(|(of, _)| *of == framework_id) {
                self.tell(agent, AgentCommand::UpdateFramework { framework: Arc::clone(&framework) });
            }
        }
        self.spend(agents.len());
        let after = Some(agents.last()?.clone());
        (self.left == 0).then_some(Work::UpdateAgents { framework_id, after })
    }

    fn answer_reconcile(
        &mut self,
        framework_id: FrameworkId,
        stream: StreamId,
        mut asked: Asked,
    ) -> Option<Work> {
        let framework = self.state.frameworks.get(&framework_id)?;
        if framework.stream.as_ref() != Some(&stream) {
            return None;
        }
        let done = match &mut asked {
            Asked::All { after } => {
                let from = after.take().map_or(Unbounded, Excluded);
                let tasks = framework.tasks.range((from, Unbounded)).take(self.left);
                let tasks: Vec<_> = tasks.map(|(id, _)| id.clone()).collect();
                let done = tasks.len() < self.left;
                *after = tasks.last().cloned();
                tasks.into_iter().for_each(|task_id| self.answer(&framework_id, task_id, None));
                done
            }
            Asked::Listed(tasks) => {
                while self.left > 0
                    && let Some((task_id, agent_id)) = tasks.pop_front()
                {
                    self.answer(&framework_id, task_id, agent_id);
                }
                tasks.is_empty()
            }
        };
        (!done).then_some(Work::Reconcile { framework_id, stream, asked })
    }

    fn answer(&mut self, framework_id: &FrameworkId, task_id: TaskId, agent_id: Option<AgentId>) {
        self.spend(1);
        self.reconcile_task(framework_id, task_id, agent_id);
    }

    /// Every agent shuts down what it has of the framework; then its tasks count as killed.
    fn end_framework(&mut self, framework_id: FrameworkId, told: Told) -> Option<Work> {
        if let Told::UpTo(after) = told {
            for agent in self.agents_after(after) {
                // An agent without tasks of it may still keep its shuffle files.
                self.tell(&agent, AgentCommand::ShutdownFramework { framework_id: framework_id.clone() });
                let executors = self.remove_executors(&agent, Some(&framework_id));
                self.spend(1 + executors);
                if self.left == 0 {
                    return Some(Work::EndFramework { framework_id, told: Told::UpTo(Some(agent)) });
                }
            }
        }
        let message = format!("Framework {framework_id} removed");
        while let Some(task_id) = self.state.frameworks[&framework_id].tasks.keys().next().cloned() {
            if self.left == 0 {
                return Some(Work::EndFramework { framework_id, told: Told::All });
            }
            self.spend(1);
            self.end_task(&framework_id, &task_id, TaskState::Killed, Reason::FrameworkRemoved, &message);
        }
        if !self.state.frameworks[&framework_id].offered.is_empty() {
            // Its offers wait behind this in the backlog.
            return Some(Work::EndFramework { framework_id, told: Told::All });
        }
        self.bury(&framework_id);
        None
    }

    /// Moves a framework that holds nothing any more to the completed ones.
    fn bury(&mut self, framework_id: &FrameworkId) {
        let mut framework: Framework =
            self.state.frameworks.remove(framework_id).expect("invariant: a known framework");
        self.spend(framework.clients.len());
        for client in std::mem::take(&mut framework.clients).into_values() {
            self.state.allocator.remove_client(client);
        }
        framework.ending = false;
        framework.unregistered = Some(self.now);
        self.state.ending -= 1;
        self.state.ever_completed += 1;
        self.state.completed_frameworks.push_back(framework);
        while self.state.completed_frameworks.len() > self.state.config.max_completed_frameworks {
            self.state.completed_frameworks.pop_front();
        }
        self.observe(Observation::FrameworkRemoved(framework_id.clone()));
    }
}
