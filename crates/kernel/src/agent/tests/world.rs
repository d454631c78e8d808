//! Everything around an agent's kernel, in memory: a disk, containers, a shuffle service, a master.
use super::super::*;
use crate::Time;
use bellows_model::*;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Time,
    pub(super) unwritten: VecDeque<(WriteId, Record)>,
    unreliable: bool,
    pub(super) disk: Checkpoint,
    pub(super) fetching: BTreeSet<ContainerId>,
    pub(super) launching: BTreeSet<ContainerId>,
    pub(super) containers: BTreeMap<ContainerId, RecoveredContainer>,
    pub(super) removing: BTreeSet<FrameworkId>,
    pub(super) links: u64,
    pub(super) runs: u64,
    pub(super) launched_tasks: BTreeSet<(FrameworkId, TaskId)>,
    /// What the master took note of, by task.
    pub(super) seen: BTreeMap<(FrameworkId, TaskId), Vec<TaskStatus>>,
    /// Tasks that the agent did not speak of when it registered again.
    pub(super) lost: BTreeSet<(FrameworkId, TaskId)>,
    pub(super) ended_frameworks: BTreeSet<FrameworkId>,
    pub(super) log: Vec<Action>,
}

pub(super) fn agent_info() -> AgentInfo {
    AgentInfo {
        id: None,
        hostname: "host".into(),
        ip: "127.0.0.1".into(),
        port: 5051,
        resources: Resources::parse("cpus:4;mem:1024").expect("valid"),
        attributes: vec![],
        version: "0.1.0".into(),
    }
}

pub(super) fn framework(id: &str) -> FrameworkInfo {
    FrameworkInfo {
        id: Some(id.into()),
        name: id.into(),
        user: "u".into(),
        principal: None,
        roles: vec!["*".into()],
        hostname: "h".into(),
        webui_url: None,
        failover_timeout: Duration::ZERO,
        checkpoint: false,
        capabilities: vec![Capability::TaskKillingState],
        labels: vec![],
    }
}

pub(super) fn task(id: &str) -> TaskInfo {
    TaskInfo {
        name: id.into(),
        task_id: id.into(),
        agent_id: "M-S0".into(),
        resources: Resources::parse("cpus:0.1").expect("valid"),
        command: Some(CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() }),
        executor: None,
        data: None,
        labels: vec![],
        kill_grace: None,
        container: None,
        unsupported: None,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            state: State::new(Config::new(agent_info(), 1), Time(0)),
            now: Time(1),
            unwritten: VecDeque::new(),
            unreliable: false,
            disk: Checkpoint::default(),
            fetching: BTreeSet::new(),
            launching: BTreeSet::new(),
            containers: BTreeMap::new(),
            removing: BTreeSet::new(),
            links: 0,
            runs: 1,
            launched_tasks: BTreeSet::new(),
            seen: BTreeMap::new(),
            lost: BTreeSet::new(),
            ended_frameworks: BTreeSet::new(),
            log: vec![],
        }
    }

    /// Connected and registered.
    pub(super) fn registered() -> Self {
        let mut world = Self::new();
        world.connect();
        world.write_all();
        world
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Action> {
        let actions = step(&mut self.state, self.now, event);
        self.take(actions.clone());
        if let Err(broken) = invariants(&self.state) {
            panic!("{broken}\n{:#?}", self.log);
        }
        actions
    }

    pub(super) fn command(&mut self, command: AgentCommand) -> Vec<Action> {
        self.step(Event::Command { link: LinkId(self.links), command: Box::new(command) })
    }

    pub(super) fn connect(&mut self) {
        self.links += 1;
        self.step(Event::LinkOpened { link: LinkId(self.links) });
        self.let_register();
    }

    /// As the master does once the agent has introduced itself.
    fn let_register(&mut self) {
        if !matches!(self.state.master, Master::Registering(_)) {
            return;
        }
        self.command(AgentCommand::Registered { agent_id: "M-S0".into() });
        for framework_id in self.ended_frameworks.clone() {
            if self.state.frameworks.contains_key(&framework_id) {
                self.command(AgentCommand::ShutdownFramework { framework_id });
            }
        }
    }

    pub(super) fn launch(&mut self, framework_id: &str, task_info: TaskInfo) {
        if matches!(self.state.master, Master::Registered(_)) {
            self.launched_tasks.insert((framework_id.into(), task_info.task_id.clone()));
        }
        self.command(AgentCommand::Launch { framework: framework(framework_id).into(), task: task_info });
    }

    /// As one of Spark's with dynamic allocation: it uses the shuffle service.
    pub(super) fn launch_with_service(&mut self, framework_id: &str, task_info: TaskInfo) {
        if matches!(self.state.master, Master::Registered(_)) {
            self.launched_tasks.insert((framework_id.into(), task_info.task_id.clone()));
        }
        let label = Label { key: "bellows.shuffle_service".into(), value: Some("true".into()) };
        let framework = FrameworkInfo { labels: vec![label], ..framework(framework_id) };
        self.command(AgentCommand::Launch { framework: framework.into(), task: task_info });
    }

    pub(super) fn shut_down(&mut self, framework_id: &str) {
        self.ended_frameworks.insert(framework_id.into());
        self.command(AgentCommand::ShutdownFramework { framework_id: framework_id.into() });
    }

    pub(super) fn write_all(&mut self) {
        self.write(usize::MAX);
    }

    pub(super) fn write(&mut self, count: usize) {
        let mut upto = None;
        for _ in 0..count {
            let Some((write, record)) = self.unwritten.pop_front() else { break };
            apply(&mut self.disk, record);
            upto = Some(write);
        }
        if let Some(upto) = upto {
            self.step(Event::Stored { upto });
        }
    }

    /// The store keeps what it could not write, for later; a crash before that is another fault, not tried here.
    pub(super) fn fail_writes(&mut self) {
        if let Some((upto, _)) = self.unwritten.back().cloned() {
            self.unreliable = true;
            self.step(Event::StoreFailed { upto, message: "disk full".into() });
        }
    }

    pub(super) fn end_fetch(&mut self, container_id: ContainerId, good: bool) {
        self.fetching.remove(&container_id);
        self.step(match good {
            true => Event::Fetched { container_id },
            false => Event::FetchFailed { container_id, fault: Fault::Task, message: "no such file".into() },
        });
    }

    pub(super) fn end_launch(&mut self, container_id: ContainerId, good: bool) {
        self.launching.remove(&container_id);
        if !good {
            self.step(Event::LaunchFailed {
                container_id,
                fault: Fault::Task,
                message: "no such program".into(),
            });
            return;
        }
        self.containers.entry(container_id.clone()).or_insert(RecoveredContainer::Running { pid: 7 });
        self.step(Event::Launched { container_id, pid: 7 });
    }

    pub(super) fn exit(&mut self, container_id: ContainerId, exit: Exit) {
        self.containers.insert(container_id.clone(), RecoveredContainer::Ended(exit));
        self.step(Event::Exited { container_id, exit, stderr: "/bin/x: not found".into() });
    }

    pub(super) fn acknowledge(&mut self, key: &(FrameworkId, TaskId), uuid: StatusUuid) {
        let (framework_id, task_id) = key.clone();
        self.command(AgentCommand::Acknowledge { framework_id, task_id, uuid });
    }

    /// The agent's process dies; what was not written is gone.
    pub(super) fn crash(&mut self) {
        if std::mem::take(&mut self.unreliable) {
            self.write_all();
        }
        self.unwritten.clear();
        self.fetching.clear();
        // A launch under way goes on without the agent.
        for container_id in std::mem::take(&mut self.launching) {
            self.containers.insert(container_id, RecoveredContainer::Running { pid: 8 });
        }
        self.removing.clear();
        self.runs += 1;
        let shuffle_service = self.state.config.shuffle_service;
        let config = Config { shuffle_service, ..Config::new(agent_info(), self.runs) };
        let (state, actions) = recover(config, self.now, self.disk.clone(), self.containers.clone());
        self.state = state;
        self.take(actions);
        invariants(&self.state).expect("invariants after a restart");
    }

    pub(super) fn running(&self) -> Vec<ContainerId> {
        let running = |found: &RecoveredContainer| matches!(found, RecoveredContainer::Running { .. });
        self.containers.iter().filter(|(_, found)| running(found)).map(|(id, _)| id.clone()).collect()
    }

    /// Everything that is under way comes to its end, and the master hears of all of it.
    pub(super) fn drain(&mut self) {
        self.connect();
        self.step(Event::ShuffleService { down: false });
        for _ in 0..100 {
            self.write_all();
            if self.containers.is_empty() && self.state.tasks().count() + self.state.removals.len() == 0 {
                break;
            }
            for container_id in self.fetching.clone() {
                self.end_fetch(container_id, true);
            }
            for container_id in self.launching.clone() {
                self.end_launch(container_id, true);
            }
            for container_id in self.running() {
                self.exit(container_id, Exit::Exited(0));
            }
            self.let_register();
            for framework_id in std::mem::take(&mut self.removing) {
                self.step(Event::ShuffleRemoved { framework_id });
            }
            for (key, statuses) in self.seen.clone() {
                for uuid in statuses.iter().filter_map(|status| status.uuid) {
                    self.acknowledge(&key, uuid);
                }
            }
            if let Some(due) = self.state.next_deadline() {
                self.now = self.now.max(due);
                self.step(Event::Tick);
            }
        }
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.log.push(action.clone());
            match action {
                Action::Store { write, record } => self.unwritten.push_back((write, record)),
                Action::StoreAnew(checkpoint) => self.disk = *checkpoint,
                Action::Fetch(job) => assert!(self.fetching.insert(job.container_id)),
                Action::CancelFetch { container_id } => {
                    self.fetching.remove(&container_id);
                }
                Action::Launch(job) => {
                    assert!(!self.removing.contains(&job.framework_id));
                    assert!(self.launching.insert(job.container_id));
                }
                Action::Kill { container_id, .. } => assert!(self.containers.contains_key(&container_id)),
                Action::Forget { container_id } => {
                    let found = self.containers.remove(&container_id);
                    assert!(!matches!(found, Some(RecoveredContainer::Running { .. })));
                }
                Action::RemoveShuffle { framework_id } => {
                    self.removing.insert(framework_id);
                }
                Action::Register { registration, .. } => self.master_hears(&registration),
                Action::Send { message: AgentMessage::StatusUpdate { framework_id, status, .. }, .. } => {
                    let key = (framework_id, status.task_id.clone());
                    let seen = self.seen.entry(key).or_default();
                    if seen.iter().all(|known| known.uuid != status.uuid) {
                        seen.push(status);
                    }
                }
                _ => {}
            }
        }
    }

    fn master_hears(&mut self, registration: &Registration) {
        let told: BTreeSet<_> = registration
            .tasks
            .iter()
            .map(|task| (task.framework_id.clone(), task.info.task_id.clone()))
            .collect();
        for key in self.launched_tasks.difference(&told) {
            let over = self.seen.get(key).and_then(|seen| seen.last()).is_some_and(|s| s.state.is_terminal());
            if !over {
                self.lost.insert(key.clone());
            }
        }
    }
}

/// What a store does with a record.
fn apply(disk: &mut Checkpoint, record: Record) {
    let at = |disk: &Checkpoint, framework_id: &FrameworkId, task_id: &TaskId| {
        disk.tasks.iter().position(|task| task.framework_id == *framework_id && task.info.task_id == *task_id)
    };
    match record {
        Record::AgentId(agent_id) => disk.agent_id = Some(agent_id),
        Record::ForgetAgentId => disk.agent_id = None,
        Record::Framework(info) => {
            disk.frameworks.retain(|known| known.id != info.id);
            disk.frameworks.push((*info).clone());
        }
        Record::ForgetFramework(id) => disk.frameworks.retain(|known| known.id.as_ref() != Some(&id)),
        Record::Task { framework_id, info, container_id } => {
            let info = (*info).clone();
            match at(disk, &framework_id, &info.task_id) {
                Some(at) => (disk.tasks[at].info, disk.tasks[at].container_id) = (info, container_id),
                None => disk.tasks.push(StoredTask {
                    framework_id,
                    info,
                    container_id,
                    killed: false,
                    statuses: vec![],
                    acknowledged: 0,
                }),
            }
        }
        Record::Killed { framework_id, task_id } => {
            if let Some(at) = at(disk, &framework_id, &task_id) {
                disk.tasks[at].killed = true;
            }
        }
        Record::Status { framework_id, index, status } => {
            if let Some(at) = at(disk, &framework_id, &status.task_id) {
                let statuses = &mut disk.tasks[at].statuses;
                match statuses.get_mut(index) {
                    Some(known) => *known = status,
                    None => statuses.push(status),
                }
            }
        }
        Record::Acknowledged { framework_id, task_id, count } => {
            if let Some(at) = at(disk, &framework_id, &task_id) {
                disk.tasks[at].acknowledged = count;
            }
        }
        Record::ForgetTask { framework_id, task_id } => {
            if let Some(at) = at(disk, &framework_id, &task_id) {
                disk.tasks.remove(at);
            }
        }
        Record::Removal(framework_id) => {
            disk.removals.retain(|known| *known != framework_id);
            disk.removals.push(framework_id);
        }
        Record::ForgetRemoval(framework_id) => disk.removals.retain(|known| *known != framework_id),
    }
}
