//! Tasks of applications that use the shuffle service of their machine wait while it does not answer: Spark's driver
//! connects to it at TASK_RUNNING, and fails where it cannot.
use super::{
    Action, AgentMessage, Fault, Phase, Task,
    state::Timer,
    step::{Key, Step},
};
use bellows_model::{ContainerId, FrameworkId, Source, TaskState};

impl Step<'_> {
    fn uses_shuffle_service(&self, framework_id: &FrameworkId) -> bool {
        let framework = self.state.frameworks.get(framework_id);
        framework.is_some_and(|framework| framework.info.uses_shuffle_service())
    }

    pub(super) fn lacks_shuffle_service(&self, framework_id: &FrameworkId) -> bool {
        self.state.shuffle_service_down && self.uses_shuffle_service(framework_id)
    }

    /// What Mesos' command executor says once its command has been started. TASK_RUNNING waits until the service, where
    /// one is needed, was heard of since.
    pub(super) fn report_running(&mut self, key: &Key) {
        self.report_once(key, TaskState::Starting);
        if !(self.state.config.shuffle_service && self.uses_shuffle_service(&key.0)) {
            return self.report_once(key, TaskState::Running);
        }
        let due = self.now + self.state.config.shuffle_service_wait;
        if let Some(task) = self.task(key).filter(|task| task.is_unannounced()) {
            let timer = Timer::ShuffleService(task.container_id.clone());
            self.state.timers.insert((due, timer));
            self.actions.push(Action::AskShuffleService);
        }
    }

    fn report_once(&mut self, key: &Key, state: TaskState) {
        if self.task(key).is_some_and(|task| !task.has_been(state)) {
            self.report(key, state, Source::Executor, None, None);
        }
    }

    /// The service answers, or does not.
    pub(super) fn shuffle_service(&mut self, down: bool) {
        let changed = std::mem::replace(&mut self.state.shuffle_service_down, down) != down;
        if let Some(link) = self.state.link().filter(|_| changed) {
            self.actions.push(Action::Send { link, message: AgentMessage::ShuffleService { down } });
        }
        if down {
            return;
        }
        self.state.timers.retain(|(_, timer)| !matches!(timer, Timer::ShuffleService(_)));
        let waiting = self.state.tasks().filter(|task| task.phase == Phase::Held || task.is_unannounced());
        let waiting: Vec<Key> =
            waiting.map(|task| (task.framework_id.clone(), task.info.task_id.clone())).collect();
        for key in &waiting {
            match self.task(key).map(|task| task.phase) {
                Some(Phase::Held) => self.fetch(key),
                _ => self.report_once(key, TaskState::Running),
            }
        }
    }

    /// The task has waited for long enough.
    pub(super) fn gave_up_shuffle_service(&mut self, container_id: &ContainerId) {
        let Some(key) = self.key_of(container_id) else { return };
        let (default, lacking) = (self.state.config.kill_grace, self.lacks_shuffle_service(&key.0));
        let Some(task) = self.task(&key) else { return };
        if task.phase == Phase::Held && lacking {
            let message = self.service_is_missing();
            self.fail_launch(&key, Fault::Task, message);
        } else if task.is_unannounced() {
            let grace = task.info.kill_grace.unwrap_or(default);
            task.kill = Some(grace);
            task.given_up = true;
            self.actions.push(Action::Kill { container_id: container_id.clone(), grace });
        }
    }

    pub(super) fn service_is_missing(&self) -> String {
        let waited = self.state.config.shuffle_service_wait.as_secs();
        format!(
            "The shuffle service of this machine has not answered for {waited} s, and the application uses it: start \
             `bellows shuffle`, or see its log"
        )
    }
}

impl Task {
    fn has_been(&self, state: TaskState) -> bool {
        self.statuses.iter().any(|status| status.state == state)
    }

    /// Its process runs, and its framework is yet to be told.
    pub(super) fn is_unannounced(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
            && self.kill.is_none()
            && !self.has_been(TaskState::Running)
    }
}
