//! Agents and frameworks that lie. They have no connections that could be delayed: what they say is at the master at once.
//!
//! They leave alone what nobody can protect before identities are proven: a framework's own stream under its own id, and
//! states that a task's own agent may report.
use super::{Happening, World, number};
use bellows_kernel::master::{
    AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, Event, LinkId, RequestId, State,
};
use bellows_model::{
    AgentId, AgentInfo, CommandInfo, Filters, FrameworkId, FrameworkInfo, OfferId, Operation, Resources,
    Source, StatusUuid, StreamId, TaskId, TaskInfo, TaskState, TaskStatus,
};
use std::time::Duration;

/// The name of frameworks that lie.
const NAME: &str = "liar";

/// No framework is in this role: nobody who keeps to the rules runs anything on an agent that lies.
const SIZES: [&str; 5] = [
    "cpus(liar):1",
    "cpus(liar):100000000000;mem(liar):100000000000",
    "ports(liar):[1-18446744073709551615]",
    "cpus(liar):0.1;ports(liar):[1-5]",
    "cpus(liar):0.1;ports(liar):[3-9]",
];

/// Resources that tasks of lying frameworks ask for.
const WISHES: [&str; 5] = [
    "cpus:0.1;mem:64",
    "cpus:100000000000;mem:100000000000",
    "ports:[31000-31010]",
    "ports:[0-18446744073709551615]",
    "cpus(etl):1;made up:1",
];

fn size(text: &str) -> Resources {
    Resources::parse(text).expect("invariant: a constant")
}

impl World {
    pub(super) fn lie(&mut self) {
        if self.winding_down {
            return;
        }
        self.after(100, 3_000, Happening::Lie);
        let Some(event) = self.any_lie() else { return };
        self.report.lies += 1;
        self.master_step(event);
    }

    fn any_lie(&mut self) -> Option<Event> {
        match self.random.below(9) {
            0 => self.pretender(),
            1 => Some(self.stranger()),
            2 => self.lie_of_an_agent(),
            3 => {
                let link = LinkId(*self.random.pick(&self.liars)?);
                Some(Event::Agent { link, message: self.any_message()? })
            }
            4 => Some(self.subscribe_a_liar()),
            5..=7 => self.call_of_a_liar(),
            _ => {
                let liar = self.liars.pop()?;
                Some(match self.random.percent(50) {
                    true => Event::LinkClosed { link: LinkId(liar) },
                    false => Event::StreamClosed { stream: StreamId::new(liar.to_string()) },
                })
            }
        }
    }

    fn new_liar(&mut self) -> u64 {
        self.last += 1;
        self.liars.push(self.last);
        self.last
    }

    fn pick_from<T: Clone>(&mut self, all: impl Fn(&State) -> Vec<T>) -> Option<T> {
        let all = all(self.master.as_ref()?);
        self.random.pick(&all).cloned()
    }

    fn register(&mut self, id: Option<AgentId>) -> Event {
        let link = LinkId(self.new_liar());
        let info = AgentInfo {
            id: id.clone(),
            hostname: NAME.into(),
            ip: "127.0.0.2".into(),
            port: 9_000 + (link.0 % 1_000) as u16,
            resources: size(SIZES[self.random.below(SIZES.len())]),
            attributes: Vec::new(),
            version: "0".into(),
        };
        let frameworks = self.master.as_ref().map(|master| {
            master.frameworks.values().map(|framework| (*framework.info).clone()).collect::<Vec<_>>()
        });
        let mut frameworks = frameworks.unwrap_or_default();
        let made_up = self.framework();
        frameworks.push(FrameworkInfo { id: Some(FrameworkId::new(format!("liar-f{}", link.0))), ..made_up });
        let count = self.random.below(4);
        let tasks = (0..count).filter_map(|_| {
            let framework = self.random.pick(&frameworks)?.id.clone()?;
            let agent_id = id.clone().unwrap_or_else(|| "liar".into());
            // No scheduler has launched a task of such a name.
            let task_id = TaskId::new(format!("x{}", self.random.below(20)));
            let resources = size(SIZES[self.random.below(SIZES.len())]);
            let latest_state = self.any_state();
            Some(AgentTask {
                framework_id: framework,
                info: task(task_id, agent_id, resources),
                latest_state,
            })
        });
        let tasks = tasks.collect();
        let shuffle_service_down = self.random.percent(30);
        let condition = AgentCondition { paused: self.random.percent(10), troubles: Vec::new() };
        let registration = AgentRegistration { info, frameworks, tasks, shuffle_service_down, condition };
        Event::AgentRegister { link, registration }
    }

    /// Somebody under the id of an agent that is there.
    fn pretender(&mut self) -> Option<Event> {
        let id = self.pick_from(|master| master.agents.keys().cloned().collect())?;
        Some(self.register(Some(id)))
    }

    fn stranger(&mut self) -> Event {
        let id = match self.random.below(4) {
            0 => None,
            1 => Some(format!("m{}-S{}", self.masters, self.random.below(50))),
            _ => Some(format!("liar-S{}", self.random.below(5))),
        };
        self.register(id.map(AgentId::from))
    }

    fn any_state(&mut self) -> TaskState {
        match self.random.percent(60) {
            true => TaskState::Running,
            false => TaskState::ALL[self.random.below(TaskState::ALL.len())],
        }
    }

    /// An agent that belongs here says of others' tasks what it likes, and of its own what it may not.
    fn lie_of_an_agent(&mut self) -> Option<Event> {
        let connections: Vec<_> = self.machines.iter().filter_map(|machine| machine.connection).collect();
        let link = LinkId(*self.random.pick(&connections)?);
        let (framework_id, task) = self.pick_from(all_tasks)?;
        let master = self.master.as_ref()?;
        let own = master.agents.get(&task.agent_id).is_some_and(|agent| agent.link == Some(link));
        let state = self.any_state();
        if own && state.is_an_agents_to_report() {
            return Some(Event::Agent { link, message: AgentMessage::Pong { seq: u64::MAX } });
        }
        let status = self.status(task.task_id, state);
        let message = AgentMessage::StatusUpdate { framework_id, status, latest_state: state };
        Some(Event::Agent { link, message })
    }

    fn any_message(&mut self) -> Option<AgentMessage> {
        let (framework_id, task) = self.pick_from(all_tasks)?;
        Some(match self.random.below(7) {
            0 => AgentMessage::Pong { seq: self.random.below(3) as u64 },
            1 => AgentMessage::ExecutorTerminated { framework_id, executor_id: "x".into(), status: -1 },
            3 => AgentMessage::Unregister,
            2 => AgentMessage::ShuffleService { down: self.random.percent(50) },
            4 => {
                AgentMessage::Condition(AgentCondition { paused: self.random.percent(50), troubles: vec![] })
            }
            _ => {
                let (state, latest_state) = (self.any_state(), self.any_state());
                let status = self.status(task.task_id, state);
                AgentMessage::StatusUpdate { framework_id, status, latest_state }
            }
        })
    }

    fn status(&mut self, task_id: TaskId, state: TaskState) -> TaskStatus {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.random.next().to_be_bytes());
        TaskStatus {
            task_id,
            state,
            source: if self.random.percent(80) { Source::Executor } else { Source::Master },
            reason: None,
            message: None,
            agent_id: None,
            executor_id: None,
            timestamp: 0.0,
            uuid: Some(StatusUuid(uuid)),
            container: None,
            data: None,
            healthy: None,
            labels: Vec::new(),
        }
    }

    fn framework(&mut self) -> FrameworkInfo {
        let roles: &[&str] = if self.random.percent(50) { &["*"] } else { &["etl", "*"] };
        FrameworkInfo {
            id: None,
            name: NAME.into(),
            user: "mallory".into(),
            principal: None,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            hostname: String::new(),
            webui_url: None,
            failover_timeout: Duration::from_secs([0, 30, 1_000_000_000_000][self.random.below(3)]),
            checkpoint: true,
            capabilities: Vec::new(),
            labels: Vec::new(),
        }
    }

    fn subscribe_a_liar(&mut self) -> Event {
        let liar = self.new_liar();
        let mut info = self.framework();
        info.id = match self.random.below(3) {
            0 => None,
            // Ids that the master gave to somebody who is gone, or will give.
            1 => Some(format!("m{}-{:04}", self.masters, 100 + self.random.below(100)).into()),
            _ => Some(format!("liar-{}", self.random.below(5)).into()),
        };
        let (request, stream) = (RequestId(liar), StreamId::new(liar.to_string()));
        Event::Subscribe { request, stream, info, suppressed_roles: Vec::new() }
    }

    /// A framework that lies makes a call, about its own or with the id of another.
    fn call_of_a_liar(&mut self) -> Option<Event> {
        let (own, stream) = self.pick_from(|master| {
            let liars = master.frameworks.iter().filter(|(_, framework)| framework.info.name == NAME);
            liars.filter_map(|(id, framework)| Some((id.clone(), framework.stream.clone()?))).collect()
        })?;
        let any = self.pick_from(|master| master.frameworks.keys().cloned().collect())?;
        let framework_id = if self.random.percent(80) { own } else { any };
        let call = match self.random.below(6) {
            0 => Call::Decline { offer_ids: self.offers(), filters: Filters { refuse: Some(Duration::MAX) } },
            1 => {
                let (_, task) = self.pick_from(all_tasks)?;
                Call::Kill { task_id: task.task_id, agent_id: None, grace: Some(Duration::MAX) }
            }
            2 => Call::Reconcile { tasks: Vec::new() },
            3 => Call::UpdateFramework { info: self.framework(), suppressed_roles: vec!["none".into()] },
            _ => {
                let offer_ids = self.offers();
                let operations = vec![Operation::Launch(self.wishes(&offer_ids))];
                Call::Accept { offer_ids, operations, filters: Filters { refuse: Some(Duration::MAX) } }
            }
        };
        let request = RequestId(number(stream.as_str()));
        Some(Event::Call { request, framework_id, stream, call })
    }

    /// Own ones and others', some twice.
    fn offers(&mut self) -> Vec<OfferId> {
        let count = 1 + self.random.below(2);
        let offers = (0..count)
            .filter_map(|_| self.pick_from(|master| master.offers.keys().cloned().collect::<Vec<OfferId>>()));
        offers.collect()
    }

    fn wishes(&mut self, offers: &[OfferId]) -> Vec<TaskInfo> {
        let offer = offers.first().and_then(|id| self.master.as_ref()?.offers.get(id)).cloned();
        let agent_id = offer.map_or_else(|| AgentId::from("nobody"), |offer| offer.agent_id);
        let count = self.random.below(4);
        let wishes = (0..count).map(|_| {
            let task_id = TaskId::new(format!("l{}", self.random.below(1_000)));
            let resources = size(WISHES[self.random.below(WISHES.len())]);
            task(task_id, agent_id.clone(), resources)
        });
        wishes.collect()
    }

    /// An operator sees to it that only honest ones are left.
    pub(super) fn end_liars(&mut self) {
        for liar in std::mem::take(&mut self.liars) {
            self.master_step(Event::LinkClosed { link: LinkId(liar) });
            self.master_step(Event::StreamClosed { stream: StreamId::new(liar.to_string()) });
        }
        let Some(master) = &self.master else { return };
        let liars = master.frameworks.iter().filter(|(_, framework)| framework.info.name == NAME);
        let liars: Vec<_> = liars.map(|(id, _)| id.clone()).collect();
        for framework_id in liars {
            self.master_step(Event::OperatorTeardown { request: RequestId(0), framework_id });
        }
    }
}

fn all_tasks(master: &State) -> Vec<(FrameworkId, TaskInfo)> {
    let tasks = master.frameworks.values().flat_map(|framework| framework.tasks.values());
    tasks.map(|task| (task.framework_id.clone(), (*task.info).clone())).collect()
}

fn task(task_id: TaskId, agent_id: AgentId, resources: Resources) -> TaskInfo {
    TaskInfo {
        name: NAME.into(),
        task_id,
        agent_id,
        resources,
        command: Some(CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() }),
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    }
}
