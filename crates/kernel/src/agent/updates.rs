//! Statuses on their way to the framework: durable before they are sent, in order, again until acknowledged.
use super::{
    Action, AgentMessage, InFlight, Master, Phase, Record, WriteId,
    state::{Timer, Waiting},
    step::{Key, Step},
};
use bellows_model::{
    ContainerId, ContainerStatus, ExecutorId, FrameworkId, Reason, Source, StatusUuid, TaskId, TaskState,
    TaskStatus, clipped,
};

/// Bytes of a status' message. It may hold what a framework gave to its task, as a URI or a user, of any length; a master
/// does not take in a status that is too long.
const MAX_MESSAGE: usize = 4 << 10;

impl Step<'_> {
    /// Adds to the task's history. Never called for a framework that is ending.
    pub(super) fn report(
        &mut self,
        key: &Key,
        state: TaskState,
        source: Source,
        reason: Option<Reason>,
        message: Option<String>,
    ) {
        let uuid = StatusUuid(self.next_uuid());
        let timestamp = self.now.as_secs_f64();
        let agent_id = self.state.agent_id.clone();
        let ip_address = Some(self.state.config.info.ip.clone());
        let Some(task) = self.task(key) else { return };
        let container = match task.phase {
            Phase::Running { pid } => Some(ContainerStatus {
                container_id: task.container_id.clone(),
                executor_pid: Some(pid),
                ip_address,
            }),
            _ => task.statuses.last().and_then(|last| last.container.clone()),
        };
        let status = TaskStatus {
            task_id: key.1.clone(),
            state,
            source,
            reason,
            message: message.map(|message| clipped(&message, MAX_MESSAGE).to_owned()),
            agent_id: agent_id.or_else(|| Some(task.info.agent_id.clone())),
            executor_id: Some(ExecutorId::from(key.1.as_str())),
            timestamp,
            uuid: Some(uuid),
            container,
            data: None,
            healthy: None,
            labels: Vec::new(),
        };
        let index = task.statuses.len();
        task.statuses.push(status.clone());
        let container_id = task.container_id.clone();
        if state.is_terminal() {
            task.phase = Phase::Ended;
            *self.state.counters.tasks_ended.entry(state).or_default() += 1;
        }
        let write = self.store(Record::Status { framework_id: key.0.clone(), index, status });
        self.state.unstored.push_back((write, Waiting::Status(container_id)));
    }

    /// A status that could not be stored is sent all the same: better once than never.
    pub(super) fn status_stored(&mut self, container_id: &ContainerId, failure: Option<&str>) {
        let Some(key) = self.key_of(container_id) else { return };
        let Some(task) = self.task(&key) else { return };
        task.stored += 1;
        let whole = task.phase == Phase::Ended && task.stored == task.statuses.len();
        if whole && failure.is_none() {
            self.forget_container(&key);
        }
        self.send_oldest(&key);
    }

    /// Sends the oldest status that is not acknowledged, unless that one is on its way.
    pub(super) fn send_oldest(&mut self, key: &Key) {
        let Master::Registered(link) = self.state.master else { return };
        let (now, interval) = (self.now, self.state.config.resend_min);
        if self.is_ending(&key.0) {
            return;
        }
        let Some(task) = self.task(key) else { return };
        if task.in_flight.is_some() || task.acknowledged >= task.stored {
            return;
        }
        let due = now + interval;
        task.in_flight = Some(InFlight { due, interval });
        let (status, latest_state) = task.to_send();
        let container_id = task.container_id.clone();
        self.state.timers.insert((due, Timer::Resend(container_id)));
        self.state.counters.statuses_sent += 1;
        let message = AgentMessage::StatusUpdate { framework_id: key.0.clone(), status, latest_state };
        self.actions.push(Action::Send { link, message });
    }

    pub(super) fn resend(&mut self, container_id: &ContainerId) {
        let Master::Registered(link) = self.state.master else { return };
        let (now, longest) = (self.now, self.state.config.resend_max);
        let Some(key) = self.key_of(container_id) else { return };
        let Some(task) = self.task(&key) else { return };
        let Some(in_flight) = &mut task.in_flight else { return };
        in_flight.interval = (in_flight.interval * 2).min(longest);
        in_flight.due = now + in_flight.interval;
        let due = in_flight.due;
        let (status, latest_state) = task.to_send();
        self.state.timers.insert((due, Timer::Resend(container_id.clone())));
        self.state.counters.statuses_resent += 1;
        let message = AgentMessage::StatusUpdate { framework_id: key.0, status, latest_state };
        self.actions.push(Action::Send { link, message });
    }

    pub(super) fn acknowledged(&mut self, framework_id: &FrameworkId, task_id: &TaskId, uuid: StatusUuid) {
        let key = (framework_id.clone(), task_id.clone());
        let awaited = self.task(&key).filter(|task| {
            let oldest = task.statuses[..task.stored].get(task.acknowledged);
            oldest.is_some_and(|status| status.uuid == Some(uuid))
        });
        let Some(task) = awaited else {
            self.state.counters.stray_acknowledgements += 1;
            return;
        };
        task.acknowledged += 1;
        let (count, last) = (task.acknowledged, task.acknowledged == task.statuses.len());
        let over = last && task.phase == Phase::Ended;
        self.not_in_flight(&key);
        if over {
            self.forget_task(&key);
        } else {
            let (framework_id, task_id) = key.clone();
            self.store(Record::Acknowledged { framework_id, task_id, count });
            self.send_oldest(&key);
        }
    }

    /// The task moves to the history; nothing of it is kept for a restart.
    pub(super) fn forget_task(&mut self, key: &Key) {
        self.not_in_flight(key);
        // Unless its last status was never stored, that has been done.
        self.forget_container(key);
        let Some(framework) = self.state.frameworks.get_mut(&key.0) else { return };
        let Some(task) = framework.tasks.remove(&key.1) else { return };
        self.state.containers.remove(&task.container_id);
        framework.completed_tasks.push_back(task);
        if framework.completed_tasks.len() > self.state.config.max_completed_tasks_per_framework {
            framework.completed_tasks.pop_front();
        }
        let _: WriteId =
            self.store(Record::ForgetTask { framework_id: key.0.clone(), task_id: key.1.clone() });
    }

    /// Once: the containment need not remember its end any longer.
    pub(super) fn forget_container(&mut self, key: &Key) {
        let Some(task) = self.task(key) else { return };
        if std::mem::take(&mut task.contained) {
            let container_id = task.container_id.clone();
            self.actions.push(Action::Forget { container_id });
        }
    }

    pub(super) fn not_in_flight(&mut self, key: &Key) {
        let Some(task) = self.task(key) else { return };
        if let Some(InFlight { due, .. }) = task.in_flight.take() {
            let timer = (due, Timer::Resend(task.container_id.clone()));
            self.state.timers.remove(&timer);
        }
    }

    pub(super) fn nothing_in_flight(&mut self) {
        self.state.timers.retain(|(_, timer)| !matches!(timer, Timer::Resend(_)));
        for framework in self.state.frameworks.values_mut() {
            framework.tasks.values_mut().for_each(|task| task.in_flight = None);
        }
    }
}
