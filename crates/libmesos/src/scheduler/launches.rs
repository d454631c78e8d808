//! Which tasks were launched on which agent, and which of them nobody has spoken of yet. It sends nothing itself.

use std::collections::{HashMap, VecDeque};

use bellows_wire::v1::{AgentId, TaskId, TaskState, TaskStatus, task_status::Reason};

/// Live tasks that are kept account of at most: the master takes no more of one framework.
const MAX_LIVE: usize = 100_000;
/// Ended tasks that are remembered at most, for what is still said of them: the latest.
const MAX_ENDED: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Launches {
    tasks: HashMap<String, Launch>,
    /// Ended tasks, oldest first; may name tasks that were launched anew.
    ended: VecDeque<String>,
    subscriptions: u64,
    master: Option<String>,
}

#[derive(Debug)]
struct Launch {
    agent_id: AgentId,
    state: State,
    /// The driver has asked the master about it by itself.
    asked: bool,
    /// No answer to that has come yet.
    awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its agent has said nothing: whether it has the task depends on the connections and masters in between.
    Sent,
    /// Its agent has it and tells what becomes of it.
    Running,
    Ended,
}

/// Says how an update is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It is told, and `first` says whether the task's end was not known before.
    Told { first: bool },
    /// It repeats an end, which Spark would count as another failure.
    Repeated,
}

impl Launches {
    pub(super) fn launched(&mut self, tasks: &[(TaskId, AgentId)]) {
        for (task_id, agent_id) in tasks {
            if self.tasks.len() >= MAX_LIVE + MAX_ENDED {
                return;
            }
            let launch =
                Launch { agent_id: agent_id.clone(), state: State::Sent, asked: false, awaited: false };
            self.tasks.insert(task_id.value.clone(), launch);
        }
    }

    pub(super) fn agent_of(&self, task_id: &TaskId) -> Option<&AgentId> {
        self.tasks.get(&task_id.value).map(|launch| &launch.agent_id)
    }

    /// Takes note of an update, and fills in its agent where it names none: Spark's backend looks it up. `made_up`: by
    /// the driver, which does not know better than the master.
    pub(super) fn heard(&mut self, status: &mut TaskStatus, made_up: bool) -> News {
        let end = is_end(status.state());
        let Some(launch) = self.tasks.get_mut(&status.task_id.value) else {
            return News::Told { first: end };
        };
        if status.agent_id.as_ref().is_none_or(|agent_id| agent_id.value.is_empty()) {
            status.agent_id = Some(launch.agent_id.clone());
        }
        launch.awaited = false;
        let answers = launch.asked && status.reason == Some(Reason::Reconciliation.into());
        if launch.state == State::Ended && (made_up || end && status.uuid.is_none() && answers) {
            return News::Repeated;
        }
        let first = end && launch.state != State::Ended;
        if first {
            launch.state = State::Ended;
            self.ended.push_back(status.task_id.value.clone());
            self.forget_oldest();
        } else if !end && status.state() != TaskState::TaskStaging {
            launch.state = State::Running;
        }
        News::Told { first }
    }

    /// A subscription began with this master. Gives its number, and whether another master had the one before.
    pub(super) fn subscribed(&mut self, master: &str) -> (u64, bool) {
        self.subscriptions += 1;
        let before = self.master.replace(master.to_owned());
        for launch in self.tasks.values_mut().filter(|launch| launch.state == State::Sent) {
            launch.asked = true;
            launch.awaited = true;
        }
        (self.subscriptions, before.is_some_and(|before| before != master))
    }

    /// The tasks that are asked about in this subscription and of which nothing was heard since.
    pub(super) fn awaited(&self, subscription: u64) -> Vec<(TaskId, AgentId)> {
        let current = self.subscriptions == subscription;
        let awaited = self.tasks.iter().filter(|(_, launch)| current && launch.awaited);
        awaited.map(|(id, launch)| (TaskId { value: id.clone() }, launch.agent_id.clone())).collect()
    }

    fn forget_oldest(&mut self) {
        while self.ended.len() > MAX_ENDED {
            let Some(oldest) = self.ended.pop_front() else { return };
            if self.tasks.get(&oldest).is_some_and(|launch| launch.state == State::Ended) {
                self.tasks.remove(&oldest);
            }
        }
    }
}

/// Whether a state is final, as Mesos' `protobuf::isTerminalState` says.
pub(super) fn is_end(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::TaskFinished
            | TaskState::TaskFailed
            | TaskState::TaskKilled
            | TaskState::TaskError
            | TaskState::TaskLost
            | TaskState::TaskDropped
            | TaskState::TaskGone
            | TaskState::TaskGoneByOperator
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str) -> (TaskId, AgentId) {
        (TaskId { value: id.to_owned() }, AgentId { value: "S-1".to_owned() })
    }

    fn status(id: &str, state: TaskState, reason: Option<Reason>) -> TaskStatus {
        TaskStatus {
            task_id: TaskId { value: id.to_owned() },
            state: state.into(),
            reason: reason.map(Into::into),
            ..TaskStatus::default()
        }
    }

    fn hear(launches: &mut Launches, id: &str, state: TaskState, reason: Option<Reason>) -> News {
        launches.heard(&mut status(id, state, reason), false)
    }

    const NO_NEWS: News = News::Told { first: false };

    #[test]
    fn an_update_gets_the_agent_that_the_task_was_launched_on() {
        let mut launches = Launches::default();
        launches.launched(&[task("a")]);
        for agent_id in [None, Some(AgentId::default())] {
            let mut update = TaskStatus { agent_id, ..status("a", TaskState::TaskLost, None) };
            launches.heard(&mut update, false);
            assert_eq!(update.agent_id, Some(task("a").1), "also after its end");
        }
        let mut update = status("unknown", TaskState::TaskLost, None);
        assert_eq!(launches.heard(&mut update, false), News::Told { first: true });
        assert_eq!(update.agent_id, None);
    }

    #[test]
    fn what_no_agent_has_spoken_of_is_asked_about_until_it_is_heard_of() {
        let mut launches = Launches::default();
        assert_eq!(launches.subscribed("m-1"), (1, false));
        launches.launched(&[task("lost"), task("runs"), task("ends")]);
        assert_eq!(launches.awaited(1), [], "the connection has not failed");
        assert_eq!(hear(&mut launches, "runs", TaskState::TaskStarting, None), NO_NEWS);
        hear(&mut launches, "ends", TaskState::TaskFailed, None);

        assert_eq!(launches.subscribed("m-1"), (2, false));
        assert_eq!(launches.awaited(2), [task("lost")]);
        // The master has it, and its agent may never hear of it.
        hear(&mut launches, "lost", TaskState::TaskStaging, Some(Reason::Reconciliation));
        assert_eq!(launches.awaited(2), []);
        assert_eq!(launches.subscribed("m-2"), (3, true));
        assert_eq!(launches.awaited(3), [task("lost")]);
        assert_eq!(launches.awaited(2), [], "an older subscription asks no more");
    }

    #[test]
    fn an_end_is_told_once() {
        let mut launches = Launches::default();
        launches.launched(&[task("a")]);
        launches.subscribed("m-1");
        let reconciled = Some(Reason::Reconciliation);
        let lost = TaskState::TaskLost;
        assert_eq!(hear(&mut launches, "a", lost, Some(Reason::InvalidOffers)), News::Told { first: true });
        assert_eq!(hear(&mut launches, "a", lost, reconciled), News::Repeated);
        assert_eq!(launches.heard(&mut status("a", lost, None), true), News::Repeated);
        // Frameworks that ask by themselves are answered.
        launches.launched(&[task("a")]);
        assert_eq!(hear(&mut launches, "a", lost, None), News::Told { first: true });
        assert_eq!(hear(&mut launches, "a", lost, reconciled), NO_NEWS);
    }

    #[test]
    fn what_is_kept_of_ended_tasks_is_bounded() {
        let mut launches = Launches::default();
        for number in 0..MAX_ENDED + 10 {
            let id = number.to_string();
            launches.launched(&[task(&id)]);
            hear(&mut launches, &id, TaskState::TaskFinished, None);
        }
        assert_eq!(launches.tasks.len(), MAX_ENDED);
        assert!(launches.agent_of(&task("9").0).is_none() && launches.agent_of(&task("10").0).is_some());
    }
}
