//! Random sequences of events. After every step: the invariants, and nothing free that somebody would take.
//! At all times: an end that was told is final. In the end: no task has vanished.
use super::support::*;
use crate::{
    Time,
    master::{
        Action, AgentCommand, AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, Config,
        Event, LinkId, SchedulerEvent, State, StateCopy,
    },
};
use bellows_model::{
    AgentId, AgentInfo, Filters, FrameworkId, FrameworkInfo, OfferId, Reason, Source, StatusUuid, StreamId,
    TaskId, TaskInfo, TaskState,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What happens next; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Op {
    Subscribe {
        aware: bool,
        role: usize,
        failover: u64,
    },
    Resubscribe(usize),
    CloseStream(usize),
    NewAgent(usize),
    CloseLink(usize),
    ShuffleService(usize, bool),
    Pause(usize, bool),
    /// It comes back with a part of its tasks.
    ComeBack {
        agent: usize,
        forgets: bool,
        /// The master has heard that the connection before is gone.
        heard: bool,
    },
    Accept {
        offer: usize,
        tasks: usize,
        executor: bool,
        refuse: Option<u64>,
    },
    Decline {
        offer: usize,
        refuse: Option<u64>,
    },
    Progress {
        task: usize,
        state: usize,
    },
    Acknowledge(usize),
    Kill(usize),
    Reconcile(usize),
    Revive(usize),
    Suppress(usize),
    ChangeRole(usize, usize),
    Teardown(usize),
    ExecutorEnds(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let index = 0..64usize;
    prop_oneof![
        2 => (any::<bool>(), 0..3usize, prop_oneof![Just(0), Just(10), Just(1_000)])
            .prop_map(|(aware, role, failover)| Op::Subscribe { aware, role, failover }),
        2 => index.clone().prop_map(Op::Resubscribe),
        1 => index.clone().prop_map(Op::CloseStream),
        2 => (0..4usize).prop_map(Op::NewAgent),
        2 => index.clone().prop_map(Op::CloseLink),
        2 => (index.clone(), any::<bool>()).prop_map(|(link, down)| Op::ShuffleService(link, down)),
        2 => (index.clone(), any::<bool>()).prop_map(|(link, paused)| Op::Pause(link, paused)),
        3 => (index.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(agent, forgets, heard)| Op::ComeBack { agent, forgets, heard }),
        9 => (index.clone(), 0..4usize, any::<bool>(), proptest::option::of(0..20u64))
            .prop_map(|(offer, tasks, executor, refuse)| Op::Accept { offer, tasks, executor, refuse }),
        5 => (index.clone(), proptest::option::of(0..200u64)).prop_map(|(offer, refuse)| Op::Decline { offer, refuse }),
        9 => (index.clone(), 0..6usize).prop_map(|(task, state)| Op::Progress { task, state }),
        6 => index.clone().prop_map(Op::Acknowledge),
        3 => index.clone().prop_map(Op::Kill),
        2 => index.clone().prop_map(Op::Reconcile),
        2 => index.clone().prop_map(Op::Revive),
        1 => index.clone().prop_map(Op::Suppress),
        1 => (index.clone(), 0..3usize).prop_map(|(framework, role)| Op::ChangeRole(framework, role)),
        1 => index.clone().prop_map(Op::Teardown),
        1 => index.prop_map(Op::ExecutorEnds),
        4 => prop_oneof![1..20u64, Just(80), Just(700)].prop_map(Op::Pass),
    ]
}

const ROLES: [&str; 3] = ["*", "etl", "web"];
const STATES: [TaskState; 6] = [
    TaskState::Starting,
    TaskState::Running,
    TaskState::Killing,
    TaskState::Finished,
    TaskState::Failed,
    TaskState::Killed,
];

/// What an agent really has.
#[derive(Default)]
struct World {
    tasks: BTreeMap<(FrameworkId, TaskId), (TaskInfo, TaskState)>,
    frameworks: BTreeMap<FrameworkId, FrameworkInfo>,
}

struct Run {
    master: Master,
    agents: BTreeMap<AgentId, World>,
    launched: BTreeSet<(FrameworkId, TaskId)>,
    told_final: BTreeMap<(FrameworkId, TaskId), TaskState>,
    /// Updates that wait for an acknowledgement.
    unacknowledged: Vec<(FrameworkId, AgentId, TaskId, StatusUuid)>,
    streams: BTreeMap<StreamId, FrameworkId>,
    ever_disconnected: BTreeSet<FrameworkId>,
    /// Of the state, made an item at a time while things go on.
    copy: Option<StateCopy>,
}

fn pick<T: Clone>(all: impl IntoIterator<Item = T>, index: usize) -> Option<T> {
    let all: Vec<_> = all.into_iter().collect();
    (!all.is_empty()).then(|| all[index % all.len()].clone())
}

impl Run {
    fn new() -> Self {
        let mut config = Config::new("m");
        config.max_completed_tasks_per_framework = 100_000;
        config.max_completed_frameworks = 100_000;
        config.max_unreachable_agents = 2;
        Self {
            master: Master::with(config),
            agents: BTreeMap::new(),
            launched: BTreeSet::new(),
            told_final: BTreeMap::new(),
            unacknowledged: Vec::new(),
            streams: BTreeMap::new(),
            ever_disconnected: BTreeSet::new(),
            copy: None,
        }
    }

    fn watch(&mut self, outcome: &Outcome) {
        if let Some(copy) = &mut self.copy {
            for action in &outcome.0 {
                if let Action::Observe(observation) = action {
                    copy.observe(&self.master.state, observation);
                }
            }
            copy.go_on(&self.master.state, 1);
        }
        for action in &outcome.0 {
            match action {
                Action::Send { stream, event: SchedulerEvent::Subscribed { framework_id } } => {
                    self.streams.insert(stream.clone(), framework_id.clone());
                }
                Action::Send { stream, event: SchedulerEvent::Update(status) } => {
                    let framework = self.streams[stream].clone();
                    let key = (framework.clone(), status.task_id.clone());
                    let asked =
                        status.source == Source::Master && status.reason == Some(Reason::Reconciliation);
                    if let Some(end) = self.told_final.get(&key).filter(|_| !asked) {
                        assert_eq!(*end, status.state, "{key:?} had ended");
                    }
                    if self.launched.contains(&key) && status.state.is_terminal() {
                        self.told_final.entry(key).or_insert(status.state);
                    }
                    if let (Some(uuid), Some(agent)) = (status.uuid, &status.agent_id) {
                        self.unacknowledged.push((framework, agent.clone(), status.task_id.clone(), uuid));
                    }
                }
                Action::Tell { link, command } => self.obey(*link, command),
                _ => {}
            }
        }
    }

    fn obey(&mut self, link: LinkId, command: &AgentCommand) {
        let mine =
            |(id, agent): (&AgentId, &crate::master::Agent)| (agent.link == Some(link)).then(|| id.clone());
        let Some(id) = self.master.state.agents.iter().find_map(mine) else { return };
        let world = self.agents.entry(id).or_default();
        match command {
            AgentCommand::Launch { framework, task } => {
                let framework_id = framework.id.clone().expect("set");
                let key = (framework_id.clone(), task.task_id.clone());
                assert!(self.launched.insert(key.clone()), "launched twice");
                world.frameworks.insert(framework_id, (**framework).clone());
                world.tasks.insert(key, (task.clone(), TaskState::Staging));
            }
            AgentCommand::ShutdownFramework { framework_id } => {
                world.frameworks.remove(framework_id);
                world.tasks.retain(|(of, _), _| of != framework_id);
            }
            _ => {}
        }
    }

    fn step(&mut self, event: Event) {
        let outcome = self.master.step(event);
        self.watch(&outcome);
    }

    fn call(&mut self, framework: &FrameworkId, call: Call) {
        if self.master.state.frameworks.get(framework).is_some_and(|known| known.stream.is_some()) {
            let outcome = self.master.call(framework, call);
            self.watch(&outcome);
        }
    }

    fn framework(&self, index: usize) -> Option<FrameworkId> {
        pick(self.master.state.frameworks.keys().cloned(), index)
    }

    fn subscribe(&mut self, info: FrameworkInfo) {
        let outcome = self.master.framework(info).2;
        self.watch(&outcome);
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Subscribe { aware, role, failover } => {
                let mut info = framework_info("f");
                // Half of them use the shuffle service.
                info.labels.extend(aware.then(shuffle_service_label));
                info.failover_timeout = Duration::from_secs(failover);
                info.roles = ROLES[..=role].iter().map(|role| (*role).to_owned()).collect();
                if !aware {
                    info.capabilities.clear();
                }
                self.subscribe(info);
            }
            Op::Resubscribe(index) => {
                if let Some(id) = self.framework(index) {
                    self.subscribe((*self.master.state.frameworks[&id].info).clone());
                }
            }
            Op::CloseStream(index) => {
                if let Some(stream) = pick(self.master.state.streams.keys().cloned(), index) {
                    self.ever_disconnected.insert(self.streams[&stream].clone());
                    self.step(Event::StreamClosed { stream });
                }
            }
            Op::NewAgent(kind) => {
                let kinds =
                    ["cpus:4;mem:4096;ports:[1-9]", "cpus:2;cpus(etl):2;mem:512", "mem:100", "cpus:64;mem:9"];
                let link = LinkId(self.master.number());
                let info = agent_info(link.0 as u16, kinds[kind]);
                self.step(Event::AgentRegister {
                    link,
                    registration: AgentRegistration {
                        info,
                        frameworks: vec![],
                        tasks: vec![],
                        shuffle_service_down: false,
                        condition: AgentCondition::default(),
                    },
                });
            }
            Op::CloseLink(index) => {
                if let Some(link) = pick(self.master.state.links.keys().copied(), index) {
                    self.step(Event::LinkClosed { link });
                }
            }
            Op::ShuffleService(index, down) => {
                if let Some(link) = pick(self.master.state.links.keys().copied(), index) {
                    self.step(Event::Agent { link, message: AgentMessage::ShuffleService { down } });
                }
            }
            Op::Pause(index, paused) => {
                if let Some(link) = pick(self.master.state.links.keys().copied(), index) {
                    self.step(Event::Agent {
                        link,
                        message: AgentMessage::Condition(AgentCondition { paused, troubles: vec![] }),
                    });
                }
            }
            Op::ComeBack { agent, forgets, heard } => self.come_back(agent, forgets, heard),
            Op::Accept { offer, tasks, executor, refuse } => self.accept(offer, tasks, executor, refuse),
            Op::Decline { offer, refuse } => {
                if let Some(offer) = pick(self.master.state.offers.values().cloned(), offer) {
                    let filters = Filters { refuse: refuse.map(Duration::from_secs) };
                    self.call(&offer.framework_id, Call::Decline { offer_ids: vec![offer.id], filters });
                }
            }
            Op::Progress { task, state } => self.progress(task, STATES[state]),
            Op::Acknowledge(index) => {
                if !self.unacknowledged.is_empty() {
                    let index = index % self.unacknowledged.len();
                    let (framework, agent_id, task_id, uuid) = self.unacknowledged.swap_remove(index);
                    self.call(&framework, Call::Acknowledge { agent_id, task_id, uuid });
                }
            }
            Op::Kill(index) => {
                if let Some((framework, task_id)) = pick(self.launched.iter().cloned(), index) {
                    self.call(&framework, Call::Kill { task_id, agent_id: None, grace: None });
                }
            }
            Op::Reconcile(index) => {
                if let Some(framework) = self.framework(index) {
                    let all = self.launched.iter().filter(|(of, _)| *of == framework);
                    let tasks =
                        if index % 2 == 0 { vec![] } else { all.map(|(_, id)| (id.clone(), None)).collect() };
                    self.call(&framework, Call::Reconcile { tasks });
                }
            }
            Op::Revive(index) => {
                if let Some(framework) = self.framework(index) {
                    self.call(&framework, Call::Revive { roles: vec![] });
                }
            }
            Op::Suppress(index) => {
                if let Some(framework) = self.framework(index) {
                    self.call(&framework, Call::Suppress { roles: vec![] });
                }
            }
            Op::ChangeRole(index, role) => {
                if let Some(framework) = self.framework(index) {
                    let mut info = (*self.master.state.frameworks[&framework].info).clone();
                    info.roles = vec![ROLES[role].into()];
                    self.call(&framework, Call::UpdateFramework { info, suppressed_roles: vec![] });
                }
            }
            Op::Teardown(index) => {
                if let Some(framework) = self.framework(index) {
                    self.call(&framework, Call::Teardown);
                }
            }
            Op::ExecutorEnds(index) => {
                let all = self.master.state.agents.values().filter_map(|agent| Some((agent.link?, agent)));
                let all =
                    all.flat_map(|(link, agent)| agent.executors.keys().map(move |key| (link, key.clone())));
                if let Some((link, (framework_id, executor_id))) = pick(all, index) {
                    let message = AgentMessage::ExecutorTerminated { framework_id, executor_id, status: 0 };
                    self.step(Event::Agent { link, message });
                }
            }
            Op::Pass(seconds) => self.pass(Duration::from_secs(seconds)),
        }
    }

    /// Time passes, and only every second agent answers its pings.
    fn pass(&mut self, duration: Duration) {
        let end = self.master.now + duration;
        while let Some(deadline) = self.master.state.next_deadline().filter(|&deadline| deadline <= end) {
            self.master.now = self.master.now.max(deadline);
            self.step(Event::Tick);
            assert!(
                self.master.state.next_deadline().is_none_or(|next| next > self.master.now),
                "time stands still"
            );
            let alive = self.master.state.agents.values().filter(|agent| agent.info.port % 2 == 0);
            let pongs: Vec<_> = alive.filter_map(|agent| Some((agent.link?, agent.ping_seq))).collect();
            for (link, seq) in pongs {
                self.step(Event::Agent { link, message: AgentMessage::Pong { seq } });
            }
        }
        self.master.now = end;
    }

    fn come_back(&mut self, index: usize, forgets: bool, heard: bool) {
        let Some(id) = pick(self.agents.keys().cloned(), index) else { return };
        if let Some(link) = self.master.state.agents.get(&id).and_then(|agent| agent.link).filter(|_| heard) {
            self.step(Event::LinkClosed { link });
        }
        let world = self.agents.get_mut(&id).expect("picked");
        if forgets {
            let mut keep = false;
            world.tasks.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let tasks = world.tasks.iter().map(|((framework_id, _), (info, state))| AgentTask {
            framework_id: framework_id.clone(),
            info: info.clone(),
            latest_state: *state,
        });
        let (tasks, frameworks) = (tasks.collect(), world.frameworks.values().cloned().collect());
        let info = match self.master.state.agents.get(&id) {
            Some(known) => (*known.info).clone(),
            None => AgentInfo { id: Some(id), ..agent_info(7, "cpus:64;cpus(etl):64;mem:8192;ports:[1-9]") },
        };
        let link = LinkId(self.master.number());
        self.step(Event::AgentRegister {
            link,
            registration: AgentRegistration {
                info,
                frameworks,
                tasks,
                shuffle_service_down: false,
                condition: AgentCondition::default(),
            },
        });
    }

    fn accept(&mut self, offer: usize, tasks: usize, with_executor: bool, refuse: Option<u64>) {
        let Some(offer) = pick(self.master.state.offers.values().cloned(), offer) else { return };
        let part = if offer.resources.cpus().0 > 0 { "cpus:0.5" } else { "mem:10" };
        let tasks = (0..tasks).map(|_| {
            let mut info = task(&format!("t{}", self.master.number()), &offer.agent_id, part);
            if with_executor {
                info.command = None;
                info.executor = Some(executor("e", part));
            }
            info
        });
        let operations = vec![bellows_model::Operation::Launch(tasks.collect())];
        let offer_ids: Vec<OfferId> = vec![offer.id];
        let filters = Filters { refuse: refuse.map(Duration::from_secs) };
        self.call(&offer.framework_id, Call::Accept { offer_ids, operations, filters });
    }

    fn progress(&mut self, index: usize, state: TaskState) {
        let all =
            self.agents.iter().flat_map(|(agent, world)| world.tasks.keys().map(move |key| (agent, key)));
        let Some((agent, key)) = pick(all, index).map(|(agent, key)| (agent.clone(), key.clone())) else {
            return;
        };
        let known = self.agents.get_mut(&agent).and_then(|world| world.tasks.get_mut(&key)).expect("picked");
        if known.1.is_terminal() {
            return;
        }
        known.1 = state;
        if let Some(link) = self.master.state.agents.get(&agent).and_then(|agent| agent.link) {
            let uuid = self.master.number() as u8;
            let outcome = self.master.update(link, &key.0, status(key.1.as_str(), state, uuid));
            self.watch(&outcome);
        }
    }

    /// Every launched task is known, or has ended; and its framework heard of it, if it was always there.
    fn check_that_no_task_vanished(&self) {
        let state = &self.master.state;
        for key @ (framework_id, task_id) in &self.launched {
            let Some(framework) = state.frameworks.get(framework_id) else {
                assert!(state.is_completed(framework_id));
                continue;
            };
            if framework.tasks.contains_key(task_id) {
                continue;
            }
            let ended = framework.completed_tasks.iter().any(|task| task.info.task_id == *task_id);
            assert!(ended, "{key:?} vanished");
            let told = self.told_final.contains_key(key);
            assert!(told || self.ever_disconnected.contains(framework_id), "{key:?} ended untold");
        }
    }
}

/// Lists what there is by name, and the state of each task.
fn observable(state: &State) -> String {
    let framework = |framework: &crate::master::Framework| {
        let tasks = framework.tasks.values().chain(&framework.completed_tasks);
        let tasks: BTreeSet<_> = tasks.map(|task| (task.info.task_id.clone(), task.state)).collect();
        (framework.info.id.clone(), tasks)
    };
    let all = (
        state
            .agents
            .iter()
            .filter(|(_, agent)| agent.unreachable.is_none())
            .map(|(id, agent)| (id.clone(), agent.shuffle_service_down, agent.condition.clone()))
            .collect::<Vec<_>>(),
        state.frameworks.values().map(framework).collect::<Vec<_>>(),
        state.completed_frameworks.iter().map(framework).collect::<Vec<_>>(),
    );
    format!("{all:#?}")
}

proptest! {
    #[test]
    fn a_copy_that_is_made_meanwhile_is_the_state(
        ops in proptest::collection::vec(op(), 1..120),
        begin in 0..80usize,
    ) {
        let mut run = Run::new();
        for (at, op) in ops.into_iter().enumerate() {
            if at == begin {
                run.copy = Some(StateCopy::begin(&run.master.state));
            }
            run.run(op);
        }
        if let Some(mut copy) = run.copy {
            while !copy.go_on(&run.master.state, 1) {}
            prop_assert_eq!(observable(&copy.finish()), observable(&run.master.state));
        }
    }

    #[test]
    fn whatever_happens(ops in proptest::collection::vec(op(), 1..120)) {
        let mut run = Run::new();
        for op in ops {
            run.run(op);
        }
        run.check_that_no_task_vanished();
        // All come to an end, and all that was held is free.
        while let Some(framework) = run.framework(0) {
            let request = crate::master::RequestId(0);
            run.step(Event::OperatorTeardown { request, framework_id: framework });
        }
        prop_assert!(run.master.state.agents.values().all(|agent| agent.used.is_empty() && agent.offered.is_empty()));
        prop_assert!(run.master.now > Time(0));
    }
}
