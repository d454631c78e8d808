//! The end of a framework, and of its shuffle files.
//!
//! A framework without tasks is no reason to delete anything: only the master knows when it has ended.
use super::{
    Action, CompletedFramework, Phase, Record, Removal,
    state::Timer,
    step::{Key, Step},
};
use bellows_model::{FrameworkId, FrameworkInfo};
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn update_framework(&mut self, info: Arc<FrameworkInfo>) {
        let Some(framework_id) = info.id.clone() else { return };
        if self.state.frameworks.get(&framework_id).is_some_and(|framework| !framework.ending) {
            self.add_framework(&framework_id, info);
        }
    }

    /// The framework has ended: its tasks go without a word, then its files.
    pub(super) fn shut_down(&mut self, framework_id: &FrameworkId) {
        let Some(framework) = self.state.frameworks.get_mut(framework_id) else {
            if !self.state.removals.contains_key(framework_id) {
                self.remove_shuffle(framework_id, true);
            }
            return;
        };
        if framework.ending {
            return;
        }
        framework.ending = true;
        let tasks: Vec<Key> =
            framework.tasks.keys().map(|task_id| (framework_id.clone(), task_id.clone())).collect();
        // An older removal that is under way cannot have processes beside it.
        self.store(Record::Removal(framework_id.clone()));
        self.state.removals.entry(framework_id.clone()).or_insert(Removal::Blocked);
        tasks.iter().for_each(|key| self.end_silently(key));
        self.finish_framework(framework_id);
    }

    fn end_silently(&mut self, key: &Key) {
        self.not_in_flight(key);
        let default = self.state.config.kill_grace;
        let Some(task) = self.task(key) else { return };
        let container_id = task.container_id.clone();
        let grace = task.info.kill_grace.unwrap_or(default);
        match task.phase {
            Phase::Launching => task.kill = Some(grace),
            Phase::Running { .. } => {
                task.kill = Some(grace);
                self.actions.push(Action::Kill { container_id, grace });
            }
            phase => {
                if phase == Phase::Fetching {
                    self.actions.push(Action::CancelFetch { container_id });
                }
                if phase != Phase::Ended {
                    self.actions.extend(self.job(key).map(Action::Retire));
                }
                self.forget_task(key);
            }
        }
    }

    /// Once the last process of an ending framework is gone.
    pub(super) fn finish_framework(&mut self, framework_id: &FrameworkId) {
        let over = |framework: &super::Framework| framework.ending && framework.tasks.is_empty();
        if !self.state.frameworks.get(framework_id).is_some_and(over) {
            return;
        }
        if let Some(framework) = self.state.frameworks.remove(framework_id) {
            self.state.completed_frameworks.push_back(CompletedFramework {
                info: framework.info,
                completed_tasks: framework.completed_tasks,
            });
        }
        if self.state.completed_frameworks.len() > self.state.config.max_completed_frameworks {
            self.state.completed_frameworks.pop_front();
        }
        self.store(Record::ForgetFramework(framework_id.clone()));
        if self.state.removals.get(framework_id) == Some(&Removal::Blocked) {
            self.remove_shuffle(framework_id, false);
        }
        self.stop_if_refused();
    }

    /// `new`: the duty is not durable yet.
    pub(super) fn remove_shuffle(&mut self, framework_id: &FrameworkId, new: bool) {
        if new {
            self.store(Record::Removal(framework_id.clone()));
        }
        self.state.removals.insert(framework_id.clone(), Removal::UnderWay { attempt: 0 });
        self.actions.push(Action::RemoveShuffle { framework_id: framework_id.clone() });
    }

    pub(super) fn retry_removal(&mut self, framework_id: &FrameworkId) {
        if let Some(removal) = self.state.removals.get_mut(framework_id)
            && let Removal::Retry { attempt, .. } = *removal
        {
            *removal = Removal::UnderWay { attempt };
            self.actions.push(Action::RemoveShuffle { framework_id: framework_id.clone() });
        }
    }

    /// Directories of frameworks that nobody here remembers; the master has confirmed who we are by now, so that
    /// a framework which it still wants here is in the state.
    pub(super) fn shuffle_found(&mut self, frameworks: Vec<FrameworkId>) {
        for framework_id in frameworks {
            let known = self.state.frameworks.contains_key(&framework_id);
            if !known && !self.state.removals.contains_key(&framework_id) {
                self.remove_shuffle(&framework_id, true);
            }
        }
    }

    pub(super) fn shuffle_removed(&mut self, framework_id: &FrameworkId) {
        if matches!(self.state.removals.get(framework_id), Some(Removal::UnderWay { .. })) {
            self.state.counters.shuffle_removals += 1;
            self.end_removal(framework_id);
        }
    }

    pub(super) fn shuffle_removal_failed(&mut self, framework_id: &FrameworkId) {
        let Some(Removal::UnderWay { attempt }) = self.state.removals.get(framework_id).copied() else {
            return;
        };
        self.state.counters.shuffle_removal_errors += 1;
        if self.state.frameworks.contains_key(framework_id) {
            // It has tasks again; what is left goes when it ends once more.
            return self.end_removal(framework_id);
        }
        let due = self.now + self.state.config.removal_retry * (1 << attempt.min(6));
        let retry = Removal::Retry { attempt: attempt.saturating_add(1), due };
        self.state.removals.insert(framework_id.clone(), retry);
        self.state.timers.insert((due, Timer::Removal(framework_id.clone())));
    }

    fn end_removal(&mut self, framework_id: &FrameworkId) {
        self.state.removals.remove(framework_id);
        self.store(Record::ForgetRemoval(framework_id.clone()));
        let Some(framework) = self.state.frameworks.get(framework_id) else { return };
        let waiting = framework.tasks.values().filter(|task| task.phase == Phase::Held);
        let waiting: Vec<Key> =
            waiting.map(|task| (framework_id.clone(), task.info.task_id.clone())).collect();
        waiting.iter().for_each(|key| self.fetch(key));
    }
}
