//! Which agents Spark has given up, by the rule of its own backend, which says nothing of it: two tasks that failed.

use std::collections::HashMap;

use bellows_wire::v1::{AgentId, Offer, TaskState};

/// Spark's `MAX_AGENT_FAILURES`.
const MAX_FAILURES: u32 = 2;
/// Agents beyond these are not kept account of.
const MAX_AGENTS: usize = 50_000;

/// The agents whose offers the framework has seen.
#[derive(Debug, Default)]
pub(super) struct Failures {
    agents: HashMap<String, Agent>,
}

#[derive(Debug)]
struct Agent {
    hostname: String,
    failures: u32,
    gone: bool,
}

/// An agent that Spark will launch nothing on any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub(super) hostname: String,
    /// How many of the other agents it still uses.
    pub(super) left: usize,
}

impl Failures {
    pub(super) fn offered(&mut self, offers: &[Offer]) {
        for offer in offers {
            let id = &offer.agent_id.value;
            if let Some(agent) = self.agents.get_mut(id) {
                agent.gone = false;
            } else if self.agents.len() < MAX_AGENTS {
                let agent = Agent { hostname: offer.hostname.clone(), failures: 0, gone: false };
                self.agents.insert(id.clone(), agent);
            }
        }
    }

    /// Takes note of an agent that is gone; its failures count when it comes back. Says whether Spark has given up all
    /// that are left.
    pub(super) fn lost(&mut self, agent_id: &AgentId) -> bool {
        match self.agents.get_mut(&agent_id.value) {
            Some(agent) if agent.failures > 0 => agent.gone = true,
            Some(_) => drop(self.agents.remove(&agent_id.value)),
            None => return false,
        }
        self.agents.values().any(|agent| !agent.gone) && self.left() == 0
    }

    /// Takes note of a task that failed; says so when it was the one too many.
    pub(super) fn failed(&mut self, agent_id: &AgentId) -> Option<GivenUp> {
        let agent = self.agents.get_mut(&agent_id.value)?;
        agent.failures = agent.failures.saturating_add(1);
        if agent.failures != MAX_FAILURES {
            return None;
        }
        let hostname = agent.hostname.clone();
        Some(GivenUp { hostname, left: self.left() })
    }

    fn left(&self) -> usize {
        self.agents.values().filter(|agent| !agent.gone && agent.failures < MAX_FAILURES).count()
    }

    pub(super) fn hostname(&self, agent_id: &AgentId) -> Option<&str> {
        self.agents.get(&agent_id.value).map(|agent| agent.hostname.as_str())
    }
}

/// Whether Spark counts a state as a failure (`TaskState.isFailed`): all ends but the good one and those that were
/// wanted.
pub(super) fn is_failure(state: TaskState) -> bool {
    !matches!(
        state,
        TaskState::TaskStaging
            | TaskState::TaskStarting
            | TaskState::TaskRunning
            | TaskState::TaskKilling
            | TaskState::TaskFinished
            | TaskState::TaskKilled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: &str) -> AgentId {
        AgentId { value: id.to_owned() }
    }

    fn offer(id: &str) -> Offer {
        Offer { agent_id: agent(id), hostname: format!("host-{id}"), ..Offer::default() }
    }

    #[test]
    fn the_second_failure_is_one_too_many() {
        let mut failures = Failures::default();
        failures.offered(&[offer("a"), offer("b"), offer("c")]);
        assert_eq!(failures.failed(&agent("a")), None);
        assert_eq!(failures.failed(&agent("b")), None, "each agent has its own");
        let given_up = |host: &str, left| Some(GivenUp { hostname: host.to_owned(), left });
        assert_eq!(failures.failed(&agent("a")), given_up("host-a", 2));
        assert_eq!(failures.failed(&agent("a")), None, "said once");
        assert!(!failures.lost(&agent("c")) && !failures.lost(&agent("stranger")));
        assert!(failures.lost(&agent("b")), "nothing is left but what was given up");
        failures.offered(&[offer("b")]);
        assert_eq!(failures.failed(&agent("b")), given_up("host-b", 0));
        failures.offered(&[offer("a"), offer("d")]);
        assert_eq!(failures.failed(&agent("a")), None, "an agent that is offered again is not forgiven");
        assert_eq!(failures.failed(&agent("stranger")), None);
    }

    #[test]
    fn what_was_wanted_is_no_failure() {
        let states = [TaskState::TaskFinished, TaskState::TaskKilled, TaskState::TaskRunning];
        assert!(!states.into_iter().any(is_failure));
        let states = [TaskState::TaskFailed, TaskState::TaskLost, TaskState::TaskError, TaskState::TaskGone];
        assert!(states.into_iter().all(is_failure));
    }
}
