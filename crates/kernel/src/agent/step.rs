//! One event in, decisions out. What concerns launches, statuses and frameworks lies in the modules of that name.
use super::{
    Action, AgentCommand, AgentMessage, Event, Framework, Job, LinkId, Master, Phase, Record, RegisteredTask,
    Registration, State, Task, WriteId, state::Timer, state::Waiting,
};
use crate::Time;
use bellows_model::{AgentId, ContainerId, FrameworkId, FrameworkInfo, TaskId, limits};
use std::sync::Arc;

/// Most bytes of the frameworks in one registration, which is one record of at most 64 MiB, tasks included.
const MAX_FRAMEWORKS_BYTES: usize = 16 << 20;

/// Names one task.
pub(super) type Key = (FrameworkId, TaskId);

/// `now` never goes back.
pub fn step(state: &mut State, now: Time, event: Event) -> Vec<Action> {
    let mut step = Step { state, now, actions: Vec::new() };
    step.handle(event);
    step.actions
}

pub(super) struct Step<'a> {
    pub(super) state: &'a mut State,
    pub(super) now: Time,
    pub(super) actions: Vec<Action>,
}

impl Step<'_> {
    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::AddressChanged { ip, hostname } => {
                self.state.config.info.ip = ip;
                self.state.config.info.hostname = hostname;
            }
            Event::LinkOpened { link } => self.link_opened(link),
            Event::LinkClosed { link } => {
                self.state.waiting_link = self.state.waiting_link.filter(|waiting| *waiting != link);
                if self.state.link() == Some(link) {
                    self.disconnected();
                    if self.state.retiring {
                        self.retire();
                    }
                }
            }
            Event::Command { link, command } => self.command(link, *command),
            Event::Stored { upto } => self.stored(upto, None),
            Event::StoreFailed { upto, message } => {
                self.state.counters.store_errors += 1;
                self.stored(upto, Some(&message));
            }
            Event::Fetched { container_id } => self.fetched(&container_id),
            Event::FetchFailed { container_id, fault, message } => {
                self.fetch_failed(&container_id, fault, message);
            }
            Event::Launched { container_id, pid } => self.launched(&container_id, pid),
            Event::LaunchFailed { container_id, fault, message } => {
                self.launch_failed(&container_id, fault, message);
            }
            Event::Exited { container_id, exit, stderr } => self.exited(&container_id, exit, stderr),
            Event::ShuffleFound { frameworks } => self.shuffle_found(frameworks),
            Event::ShuffleRemoved { framework_id } => self.shuffle_removed(&framework_id),
            Event::ShuffleRemovalFailed { framework_id } => self.shuffle_removal_failed(&framework_id),
            Event::ShuffleService { down } => self.shuffle_service(down),
            Event::DisksFound(disks) => self.disks_found(disks),
            Event::DiskBack => {
                if self.state.orphans_sought {
                    self.actions.push(Action::FindShuffle);
                }
            }
            Event::CheckpointGone => {
                let checkpoint = Box::new(self.state.checkpoint());
                self.actions.push(Action::StoreAnew(checkpoint));
            }
            Event::KillAll { grace } => {
                let all: Vec<Key> = self.state.containers.values().cloned().collect();
                all.iter().for_each(|(framework_id, task_id)| self.kill(framework_id, task_id, grace));
            }
            Event::Retire => self.retire(),
        }
    }

    fn tick(&mut self) {
        while let Some((due, _)) = self.state.timers.first()
            && *due <= self.now
        {
            match self.state.timers.pop_first() {
                Some((_, Timer::Resend(container_id))) => self.resend(&container_id),
                Some((_, Timer::ShuffleService(container_id))) => self.gave_up_shuffle_service(&container_id),
                Some((_, Timer::Pause)) => self.end_pause(),
                Some((_, Timer::Strays)) => self.strays_gone(),
                Some((_, Timer::Removal(framework_id))) => self.retry_removal(&framework_id),
                None => {}
            }
        }
    }

    fn link_opened(&mut self, link: LinkId) {
        if let Master::Refused(_) = self.state.master {
            return;
        }
        self.disconnected();
        if !self.state.strays.is_empty() {
            self.state.waiting_link = Some(link);
            return;
        }
        self.state.master = Master::Registering(link);
        let registration = self.registration();
        self.actions.push(Action::Register { link, registration });
    }

    pub(super) fn stray_ended(&mut self, container_id: &ContainerId) {
        if self.state.strays.remove(container_id) && self.state.strays.is_empty() {
            self.strays_gone();
        }
    }

    /// All of them, or it makes no sense to wait any longer.
    fn strays_gone(&mut self) {
        self.state.strays.clear();
        self.state.timers.retain(|(_, timer)| *timer != Timer::Strays);
        if let Some(link) = self.state.waiting_link.take() {
            self.link_opened(link);
        }
    }

    fn registration(&self) -> Registration {
        let mut info = self.state.config.info.clone();
        info.id = self.state.agent_id.clone();
        let tasks = self.state.frameworks.values().filter(|framework| !framework.ending);
        let tasks = tasks.flat_map(|framework| framework.tasks.values()).map(|task| RegisteredTask {
            framework_id: task.framework_id.clone(),
            info: task.info.clone(),
            latest_state: task.latest_state(),
        });
        Registration {
            info,
            frameworks: self.registered_frameworks(),
            tasks: tasks.collect(),
            shuffle_service_down: self.state.shuffle_service_down,
            condition: self.state.health.condition.clone(),
        }
    }

    /// The frameworks that the master hears of: all, unless some made their infos so large that they would be too much for
    /// one registration. Of those, the smallest come first, and those with tasks before the others.
    fn registered_frameworks(&self) -> Vec<Arc<FrameworkInfo>> {
        let mut frameworks: Vec<_> = self.state.frameworks.values().collect();
        frameworks.sort_by_cached_key(|framework| (framework.tasks.is_empty(), framework.info.bytes()));
        let mut left = MAX_FRAMEWORKS_BYTES;
        let fits = |framework: &&&Framework| {
            let rest = usize::checked_sub(left, framework.info.bytes());
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let frameworks = frameworks.iter().take(limits::REGISTERED_FRAMEWORKS).take_while(fits);
        frameworks.map(|framework| Arc::clone(&framework.info)).collect()
    }

    fn disconnected(&mut self) {
        self.state.master = Master::Disconnected;
        self.nothing_in_flight();
    }

    /// The master answers by turning this agent away.
    fn retire(&mut self) {
        match self.state.master {
            Master::Refused(_) => {}
            Master::Registered(link) if !self.state.retiring => {
                self.state.retiring = true;
                self.actions.push(Action::Send { link, message: AgentMessage::Unregister });
            }
            _ => self.removed("the operator took it out of service".into()),
        }
    }

    fn command(&mut self, link: LinkId, command: AgentCommand) {
        if self.state.link() != Some(link) {
            return;
        }
        match command {
            AgentCommand::Registered { agent_id } => self.registered(link, agent_id),
            AgentCommand::Refused { reason } => self.refused(reason),
            // The connection ends by itself, and another one is opened after a while.
            AgentCommand::TryLater { .. } => {}
            AgentCommand::Ping { seq } => {
                self.actions.push(Action::Send { link, message: AgentMessage::Pong { seq } });
            }
            // Nothing else counts before the registration.
            _ if self.state.master != Master::Registered(link) => {}
            AgentCommand::Launch { framework, task } => self.launch(framework, task),
            AgentCommand::Kill { framework_id, task_id, grace } => self.kill(&framework_id, &task_id, grace),
            AgentCommand::Acknowledge { framework_id, task_id, uuid } => {
                self.acknowledged(&framework_id, &task_id, uuid);
            }
            AgentCommand::ShutdownFramework { framework_id } => self.shut_down(&framework_id),
            // A command task's executor bears its id, and has no other task.
            AgentCommand::ShutdownExecutor { framework_id, executor_id } => {
                self.kill(&framework_id, &TaskId::from(executor_id.as_str()), None);
            }
            // Command tasks listen to nobody.
            AgentCommand::Message { .. } => self.state.counters.stray_messages += 1,
            AgentCommand::UpdateFramework { framework } => self.update_framework(framework),
        }
    }

    fn registered(&mut self, link: LinkId, agent_id: AgentId) {
        // Tasks here bear the id that the agent has: a master that gives another one is none.
        if self.state.agent_id.as_ref().is_some_and(|known| *known != agent_id) {
            return;
        }
        self.state.counters.registrations += 1;
        if self.state.agent_id.is_none() {
            self.state.agent_id = Some(agent_id.clone());
            self.store(Record::AgentId(agent_id));
        }
        self.state.master = Master::Registered(link);
        let all: Vec<Key> = self.state.containers.values().cloned().collect();
        all.iter().for_each(|key| self.send_oldest(key));
        if !self.state.orphans_sought {
            self.state.orphans_sought = true;
            self.actions.push(Action::FindShuffle);
        }
    }

    /// A registration that is refused is for the operator to mend, and tasks go on. An agent that is turned away
    /// later was removed: whatever runs here, nobody knows of it any more, as if every framework had ended.
    fn refused(&mut self, reason: String) {
        if matches!(self.state.master, Master::Registered(_)) {
            return self.removed(reason);
        }
        self.disconnected();
        self.state.master = Master::Refused(reason.clone());
        self.actions.push(Action::Stop { reason });
    }

    fn removed(&mut self, reason: String) {
        self.disconnected();
        self.state.master = Master::Refused(reason);
        if self.state.agent_id.take().is_some() {
            self.store(Record::ForgetAgentId);
        }
        let all: Vec<FrameworkId> = self.state.frameworks.keys().cloned().collect();
        all.iter().for_each(|framework_id| self.shut_down(framework_id));
        self.stop_if_refused();
    }

    pub(super) fn stop_if_refused(&mut self) {
        if let Master::Refused(reason) = &self.state.master
            && self.state.frameworks.is_empty()
        {
            self.actions.push(Action::Stop { reason: reason.clone() });
        }
    }

    fn stored(&mut self, upto: WriteId, failure: Option<&str>) {
        while let Some((write, _)) = self.state.unstored.front()
            && *write <= upto
        {
            match self.state.unstored.pop_front() {
                Some((_, Waiting::Launch(container_id))) => self.task_stored(&container_id, failure),
                Some((_, Waiting::Status(container_id))) => self.status_stored(&container_id, failure),
                None => {}
            }
        }
    }

    pub(super) fn store(&mut self, record: Record) -> WriteId {
        self.state.writes += 1;
        let write = WriteId(self.state.writes);
        self.actions.push(Action::Store { write, record });
        write
    }

    /// 16 bytes in the form of a UUID: the run's random number and a counter.
    pub(super) fn next_uuid(&mut self) -> [u8; 16] {
        self.state.uuids += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.state.config.run_id.to_be_bytes());
        bytes[8..].copy_from_slice(&self.state.uuids.to_be_bytes());
        // Version 8 (whatever the maker likes), variant 1: RFC 9562.
        bytes[6] = 0x80 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        bytes
    }

    pub(super) fn key_of(&self, container_id: &ContainerId) -> Option<Key> {
        self.state.containers.get(container_id).cloned()
    }

    pub(super) fn task(&mut self, (framework_id, task_id): &Key) -> Option<&mut Task> {
        self.state.frameworks.get_mut(framework_id)?.tasks.get_mut(task_id)
    }

    /// The task of that container, if it is in that phase.
    pub(super) fn task_in(&mut self, container_id: &ContainerId, phase: Phase) -> Option<(Key, &mut Task)> {
        let key = self.key_of(container_id)?;
        let task = self.task(&key).filter(|task| task.phase == phase)?;
        Some((key, task))
    }

    pub(super) fn is_ending(&self, framework_id: &FrameworkId) -> bool {
        self.state.frameworks.get(framework_id).is_some_and(|framework| framework.ending)
    }

    pub(super) fn job(&self, (framework_id, task_id): &Key) -> Option<Job> {
        let framework = self.state.frameworks.get(framework_id)?;
        let task = framework.tasks.get(task_id)?;
        Some(Job {
            framework: Arc::clone(&framework.info),
            framework_id: framework_id.clone(),
            task: Arc::clone(&task.info),
            container_id: task.container_id.clone(),
        })
    }
}
