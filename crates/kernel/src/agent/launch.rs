//! From the master's wish to a process and to its end.
//!
//! stored -> fetched -> launched -> exited; a kill may come at every point of it.
use super::{
    Action, Exit, Fault, Framework, Phase, Record, Removal, Task,
    state::{Timer, Waiting},
    step::{Key, Step},
};
use bellows_model::{
    Capability, ContainerId, FrameworkId, FrameworkInfo, Reason, Source, TaskId, TaskInfo, TaskState,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

impl Step<'_> {
    pub(super) fn launch(&mut self, framework: Arc<FrameworkInfo>, task: TaskInfo) {
        let Some(framework_id) = framework.id.clone() else { return };
        let key = (framework_id, task.task_id.clone());
        match self.task(&key).map(|task| task.phase) {
            None => {}
            // The framework reuses the id, so it has seen the end: the acknowledgement was lost.
            Some(Phase::Ended) => self.forget_task(&key),
            Some(_) => return,
        }
        if self.is_ending(&key.0) {
            return;
        }
        self.cancel_removal(&key.0);
        self.add_framework(&key.0, framework);
        self.state.counters.tasks_launched += 1;
        let container_id = self.next_container_id();
        let task = Task {
            info: Arc::new(task),
            framework_id: key.0.clone(),
            container_id: container_id.clone(),
            phase: Phase::Storing,
            kill: None,
            statuses: Vec::new(),
            stored: 0,
            acknowledged: 0,
            in_flight: None,
            early_exit: None,
            contained: false,
            given_up: false,
        };
        let info = Arc::clone(&task.info);
        self.state.containers.insert(container_id.clone(), key.clone());
        if let Some(framework) = self.state.frameworks.get_mut(&key.0) {
            framework.tasks.insert(key.1.clone(), task);
        }
        let record = Record::Task {
            framework_id: key.0.clone(),
            info: Arc::new(info.without_secrets()),
            container_id: container_id.clone(),
        };
        let write = self.store(record);
        match validate(&key.0, &info) {
            Ok(()) => self.state.unstored.push_back((write, Waiting::Launch(container_id))),
            Err(message) => {
                self.report(&key, TaskState::Error, Source::Agent, Some(Reason::TaskInvalid), Some(message));
            }
        }
    }

    pub(super) fn add_framework(&mut self, framework_id: &FrameworkId, info: Arc<FrameworkInfo>) {
        let known = self.state.frameworks.get_mut(framework_id);
        if known.as_ref().is_some_and(|known| known.info == info) {
            return;
        }
        match known {
            Some(known) => known.info = Arc::clone(&info),
            None => {
                let framework = Framework {
                    info: Arc::clone(&info),
                    tasks: BTreeMap::new(),
                    completed_tasks: VecDeque::new(),
                    ending: false,
                };
                self.state.frameworks.insert(framework_id.clone(), framework);
            }
        }
        self.store(Record::Framework(info));
    }

    pub(super) fn task_stored(&mut self, container_id: &ContainerId, failure: Option<&str>) {
        let Some((key, _)) = self.task_in(container_id, Phase::Storing) else { return };
        match failure {
            None => self.fetch(&key),
            Some(message) => {
                let message = format!("The agent could not checkpoint the task: {message}");
                self.fail_launch(&key, Fault::Agent, message);
            }
        }
    }

    /// The next step of a task whose record is durable.
    pub(super) fn fetch(&mut self, key: &Key) {
        let removing = self.state.removals.contains_key(&key.0);
        let held = self.lacks_shuffle_service(&key.0);
        let due = self.now + self.state.config.shuffle_service_wait;
        let Some(task) = self.task(key) else { return };
        if removing || held {
            task.phase = Phase::Held;
            let container_id = task.container_id.clone();
            if held {
                self.state.timers.insert((due, Timer::ShuffleService(container_id)));
            }
            return;
        }
        task.phase = Phase::Fetching;
        self.actions.extend(self.job(key).map(Action::Fetch));
    }

    pub(super) fn fetched(&mut self, container_id: &ContainerId) {
        let Some((key, task)) = self.task_in(container_id, Phase::Fetching) else { return };
        task.phase = Phase::Launching;
        task.contained = true;
        self.state.counters.fetches += 1;
        self.actions.extend(self.job(&key).map(Action::Launch));
    }

    pub(super) fn fetch_failed(&mut self, container_id: &ContainerId, fault: Fault, message: String) {
        let Some((key, _)) = self.task_in(container_id, Phase::Fetching) else { return };
        self.state.counters.fetch_errors += 1;
        self.fail_launch(&key, fault, format!("Failed to launch container: {message}"));
    }

    pub(super) fn launched(&mut self, container_id: &ContainerId, pid: u32) {
        self.launch_succeeded();
        let Some((key, task)) = self.task_in(container_id, Phase::Launching) else { return };
        task.phase = Phase::Running { pid };
        let (kill, early_exit) = (task.kill, task.early_exit.take());
        if kill.is_none() {
            self.report_running(&key);
        }
        match (early_exit, kill) {
            (Some((exit, stderr)), _) => self.ended(&key, exit, &stderr),
            (None, Some(grace)) => {
                self.actions.push(Action::Kill { container_id: container_id.clone(), grace });
            }
            (None, None) => {}
        }
    }

    pub(super) fn launch_failed(&mut self, container_id: &ContainerId, fault: Fault, message: String) {
        let Some((key, task)) = self.task_in(container_id, Phase::Launching) else { return };
        if task.kill.is_some() {
            return self.killed_early(&key);
        }
        self.fail_launch(&key, fault, format!("Failed to launch container: {message}"));
    }

    pub(super) fn fail_launch(&mut self, key: &Key, fault: Fault, message: String) {
        self.state.counters.launch_errors += 1;
        if fault == Fault::Agent {
            self.launch_failed_here(&message);
        }
        let reason = Some(Reason::ContainerLaunchFailed);
        self.conclude(key, TaskState::Failed, Source::Agent, reason, Some(message));
    }

    /// Killed before it had a process.
    pub(super) fn killed_early(&mut self, key: &Key) {
        let reason = Some(Reason::TaskKilledDuringLaunch);
        let message = "Killed before its command was started".to_owned();
        self.conclude(key, TaskState::Killed, Source::Agent, reason, Some(message));
    }

    pub(super) fn exited(&mut self, container_id: &ContainerId, exit: Exit, stderr: String) {
        let Some(key) = self.key_of(container_id) else {
            // Nobody's container, killed when it was found.
            self.actions.push(Action::Forget { container_id: container_id.clone() });
            return self.stray_ended(container_id);
        };
        let Some(task) = self.task(&key) else { return };
        match task.phase {
            Phase::Launching => task.early_exit = Some((exit, stderr)),
            Phase::Running { .. } => self.ended(&key, exit, &stderr),
            Phase::Storing | Phase::Held | Phase::Fetching | Phase::Ended => {}
        }
    }

    /// Its last process is gone.
    pub(super) fn ended(&mut self, key: &Key, exit: Exit, stderr: &str) {
        let Some(task) = self.task(key) else { return };
        let (killed, given_up) = (task.kill.is_some(), task.given_up);
        self.state.counters.executors_terminated += 1;
        if !self.is_ending(&key.0) {
            self.actions.push(Action::ExecutorDeparted {
                framework_id: key.0.clone(),
                executor_id: key.1.as_str().into(),
            });
        }
        let (state, source, reason) = match exit {
            _ if given_up => (TaskState::Failed, Source::Agent, Some(Reason::ContainerLaunchFailed)),
            _ if killed => (TaskState::Killed, Source::Executor, None),
            Exit::Exited(0) => (TaskState::Finished, Source::Executor, None),
            Exit::Exited(_) | Exit::Signaled(_) => (TaskState::Failed, Source::Executor, None),
            Exit::Lost => (TaskState::Failed, Source::Agent, Some(Reason::ExecutorTerminated)),
        };
        let mut message = if given_up { self.service_is_missing() } else { exit_message(exit) };
        if state == TaskState::Failed && !stderr.is_empty() {
            message.push_str(". Its stderr ends with: ");
            message.push_str(stderr);
        }
        self.conclude(key, state, source, reason, Some(message));
    }

    /// The end of a task in whatever phase; nothing of it runs.
    pub(super) fn conclude(
        &mut self,
        key: &Key,
        state: TaskState,
        source: Source,
        reason: Option<Reason>,
        message: Option<String>,
    ) {
        self.actions.extend(self.job(key).map(Action::Retire));
        if self.is_ending(&key.0) {
            self.forget_task(key);
            self.finish_framework(&key.0);
        } else {
            self.report(key, state, source, reason, message);
        }
    }

    pub(super) fn kill(&mut self, framework_id: &FrameworkId, task_id: &TaskId, grace: Option<Duration>) {
        let key = (framework_id.clone(), task_id.clone());
        let default = self.state.config.kill_grace;
        let Some(task) = self.task(&key).filter(|task| task.phase != Phase::Ended) else { return };
        let grace = grace.or(task.info.kill_grace).unwrap_or(default);
        let first = task.kill.is_none();
        task.kill = Some(grace);
        let (phase, container_id) = (task.phase, task.container_id.clone());
        if first {
            self.store(Record::Killed { framework_id: key.0.clone(), task_id: key.1.clone() });
        }
        match phase {
            Phase::Storing | Phase::Held => self.killed_early(&key),
            Phase::Fetching => {
                self.actions.push(Action::CancelFetch { container_id });
                self.killed_early(&key);
            }
            // Whether there is a process to kill turns out soon.
            Phase::Launching | Phase::Ended => {}
            Phase::Running { .. } => {
                if first && self.has(&key.0, Capability::TaskKillingState) {
                    self.report(&key, TaskState::Killing, Source::Executor, None, None);
                }
                self.actions.push(Action::Kill { container_id, grace });
            }
        }
    }

    pub(super) fn has(&self, framework_id: &FrameworkId, capability: Capability) -> bool {
        self.state.frameworks.get(framework_id).is_some_and(|framework| framework.info.has(capability))
    }

    /// A framework whose files were about to go has tasks again: they go when it ends once more.
    fn cancel_removal(&mut self, framework_id: &FrameworkId) {
        let Some(removal) = self.state.removals.get(framework_id).copied() else { return };
        self.store(Record::ForgetRemoval(framework_id.clone()));
        if let Removal::Retry { due, .. } = removal {
            self.state.timers.remove(&(due, Timer::Removal(framework_id.clone())));
            self.state.removals.remove(framework_id);
        }
    }

    fn next_container_id(&mut self) -> ContainerId {
        let uuid = u128::from_be_bytes(self.next_uuid());
        let part = |shift: u32, bits: u32| (uuid >> shift) & ((1 << bits) - 1);
        let text = format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(96, 32),
            part(80, 16),
            part(64, 16),
            part(48, 16),
            part(0, 48)
        );
        ContainerId::new(text)
    }
}

/// What the master cannot know: whether this agent can run such a task. Ids become names of directories here.
fn validate(framework_id: &FrameworkId, task: &TaskInfo) -> Result<(), String> {
    framework_id.validate().map_err(|error| format!("The framework's id cannot be used: {error}"))?;
    task.task_id.validate().map_err(|error| format!("The task's id cannot be used: {error}"))?;
    if let Some(kind) = task.container.as_deref()
        && kind != "MESOS"
    {
        return Err(format!("Containers of type {kind} are not supported by this agent"));
    }
    if task.executor.is_some() {
        return Err(
            "Executors of a framework's own are not supported by this agent: give the task a command".into(),
        );
    }
    match &task.command {
        Some(command) if command.value.is_some() => Ok(()),
        Some(_) => Err("The task's command has no value".into()),
        None => Err("The task has no command".into()),
    }
}

/// As Mesos' command executor words it.
fn exit_message(exit: Exit) -> String {
    match exit {
        Exit::Exited(status) => format!("Command exited with status {status}"),
        Exit::Signaled(signal) => format!("Command terminated with signal {}", signal_name(signal)),
        Exit::Lost => {
            "Nobody saw how the command ended: its supervisor was killed, or the machine went down".into()
        }
    }
}

/// strsignal(3) on Linux.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "Hangup",
        2 => "Interrupt",
        3 => "Quit",
        4 => "Illegal instruction",
        5 => "Trace/breakpoint trap",
        6 => "Aborted",
        7 => "Bus error",
        8 => "Floating point exception",
        9 => "Killed",
        10 => "User defined signal 1",
        11 => "Segmentation fault",
        12 => "User defined signal 2",
        13 => "Broken pipe",
        14 => "Alarm clock",
        15 => "Terminated",
        24 => "CPU time limit exceeded",
        25 => "File size limit exceeded",
        31 => "Bad system call",
        _ => return signal.to_string(),
    };
    name.to_owned()
}
