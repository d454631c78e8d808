//! A small cluster's master: its kernel with a framework and an agent that do as they should, beside what is fuzzed.
//! After every step the invariants hold, and all that the master says is understood by its receiver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bellows_kernel::Time;
use bellows_kernel::master::{
    Action, AgentCommand, AgentCondition, AgentMessage, AgentRegistration, Call, Config, Event, LinkId,
    RequestId, SchedulerEvent, State, invariants, step,
};
use bellows_master::fuzzing::{Speech, get_state, observed};
use bellows_model::{
    AgentId, AgentInfo, CommandInfo, Filters, FrameworkId, FrameworkInfo, Offer, Operation, Resources,
    Source, StatusUuid, StreamId, TaskId, TaskInfo, TaskState, TaskStatus,
};
use bellows_wire::convert::ResourceFormat;

use crate::decoding::said;

/// More steps than any input needs.
const MAX_STEPS: usize = 20_000;
/// Of the well-behaved framework.
const MAX_TASKS: usize = 3;

pub struct Master {
    state: State,
    speech: Speech,
    now: Time,
    last: u64,
    steps: usize,
    /// The newest stream of each framework.
    pub streams: BTreeMap<FrameworkId, StreamId>,
    /// Of well-behaved agents.
    links: BTreeSet<LinkId>,
    /// The well-behaved framework's stream.
    own: Option<StreamId>,
    tasks: usize,
    /// What is said before is always the same.
    is_set_up: bool,
    unanswered: BTreeSet<RequestId>,
    waiting: VecDeque<Event>,
}

impl Default for Master {
    /// The framework m-0000 is subscribed.
    fn default() -> Master {
        let mut master = Master::with_framework();
        master.is_set_up = true;
        master
    }
}

impl Master {
    fn with_framework() -> Master {
        let config = Config::new("m");
        let speech = Speech::new(&config, SocketAddr::from(([127, 0, 0, 1], 5050)));
        let mut master = Master {
            state: State::new(config, Time(0)),
            speech,
            now: Time(1_000_000_000),
            last: 0,
            steps: 0,
            streams: BTreeMap::new(),
            links: BTreeSet::new(),
            own: None,
            tasks: 0,
            is_set_up: false,
            unanswered: BTreeSet::new(),
            waiting: VecDeque::new(),
        };
        let info = framework_info();
        let (request, stream) = master.request();
        master.own = Some(stream.clone());
        master.take(Event::Subscribe { request, stream, info, suppressed_roles: Vec::new() });
        master
    }
}

impl Master {
    /// The agent m-S0 is registered, too, and has tasks.
    pub fn with_agent() -> Master {
        let mut master = Master::with_framework();
        let link = LinkId(master.number());
        master.links.insert(link);
        let registration = AgentRegistration {
            info: agent_info(),
            frameworks: Vec::new(),
            tasks: Vec::new(),
            shuffle_service_down: false,
            condition: AgentCondition::default(),
        };
        master.take(Event::AgentRegister { link, registration });
        assert_eq!(master.tasks, MAX_TASKS);
        master.is_set_up = true;
        master
    }

    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub fn request(&mut self) -> (RequestId, StreamId) {
        let number = self.number();
        (RequestId(number), StreamId::from(format!("s{number}")))
    }

    pub fn take(&mut self, event: Event) {
        self.waiting.push_back(event);
        while let Some(event) = self.waiting.pop_front() {
            self.step(event);
            while self.state.has_work() {
                self.step(Event::Tick);
            }
            assert!(self.unanswered.is_empty(), "{:?} are not answered", self.unanswered);
        }
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.state.next_deadline()
            && due <= end
        {
            self.now = self.now.max(due);
            self.take(Event::Tick);
        }
        self.now = end;
    }

    /// As operators read it.
    pub fn read(&self) {
        said(&get_state(&self.state));
        self.speech.legacy_state(&self.state).expect("JSON");
    }

    fn step(&mut self, event: Event) {
        self.steps += 1;
        assert!(self.steps < MAX_STEPS, "there is no end to it: {event:?}");
        if let Event::Subscribe { request, .. }
        | Event::Call { request, .. }
        | Event::OperatorTeardown { request, .. } = &event
        {
            self.unanswered.insert(*request);
        }
        let text = format!("{event:?}");
        let actions = step(&mut self.state, self.now, event);
        invariants(&self.state).unwrap_or_else(|broken| panic!("{broken}, after {text}"));
        actions.into_iter().for_each(|action| self.act(action));
    }

    /// Whoever is told something understands it.
    fn check(&self, action: &Action) {
        match action {
            Action::Send { event, .. } => {
                for format in [ResourceFormat::Legacy, ResourceFormat::Refined] {
                    said(&self.speech.to_scheduler(event.clone(), format));
                }
            }
            Action::Tell { command, .. } => {
                let heard = said(&self.speech.to_agent(command.clone()));
                let heard = bellows_agent::fuzzing::from_master(heard).expect("the agent understands");
                let heard = heard.expect("a command that the agent knows");
                assert!(is_the_same(&heard, command), "{heard:?} is not {command:?}");
            }
            Action::Observe(observation) => {
                let event = observed(&self.state, observation.clone());
                event.iter().for_each(|event| drop(said(event)));
            }
            Action::Respond { .. }
            | Action::CloseStream { .. }
            | Action::CloseLink { .. }
            | Action::Warn(_)
            | Action::Note(_) => {}
        }
    }

    fn act(&mut self, action: Action) {
        if self.is_set_up {
            self.check(&action);
        }
        match action {
            Action::Respond { request, response } => {
                assert!(self.unanswered.remove(&request), "answered twice: {response:?}");
            }
            Action::Send { stream, event } => {
                if let SchedulerEvent::Subscribed { framework_id } = &event {
                    self.streams.insert(framework_id.clone(), stream.clone());
                }
                if self.own.as_ref() == Some(&stream) {
                    self.framework(stream, event);
                }
            }
            Action::Tell { link, command } if self.links.contains(&link) => self.agent(link, command),
            Action::CloseStream { stream } => self.waiting.push_back(Event::StreamClosed { stream }),
            Action::CloseLink { link } => self.waiting.push_back(Event::LinkClosed { link }),
            Action::Tell { .. } | Action::Observe(_) | Action::Warn(_) | Action::Note(_) => {}
        }
    }

    /// Launches what is offered, and acknowledges what is told.
    fn framework(&mut self, stream: StreamId, event: SchedulerEvent) {
        let calls: Vec<_> = match event {
            SchedulerEvent::Offers(offers) => offers.into_iter().map(|offer| self.accept(offer)).collect(),
            SchedulerEvent::Update(TaskStatus {
                agent_id: Some(agent_id),
                task_id,
                uuid: Some(uuid),
                ..
            }) => {
                vec![Call::Acknowledge { agent_id, task_id, uuid }]
            }
            _ => return,
        };
        for call in calls {
            let (request, _) = self.request();
            let (stream, framework_id) = (stream.clone(), FrameworkId::from("m-0000"));
            self.waiting.push_back(Event::Call { request, framework_id, stream, call });
        }
    }

    fn accept(&mut self, offer: Offer) -> Call {
        let filters = Filters { refuse: Some(Duration::ZERO) };
        if self.tasks == MAX_TASKS {
            return Call::Decline {
                offer_ids: vec![offer.id],
                filters: Filters { refuse: Some(Duration::from_secs(600)) },
            };
        }
        let task = task_info(self.tasks, offer.agent_id);
        self.tasks += 1;
        Call::Accept { offer_ids: vec![offer.id], operations: vec![Operation::Launch(vec![task])], filters }
    }

    /// Runs what it is told, until it is told otherwise.
    fn agent(&mut self, link: LinkId, command: AgentCommand) {
        let message = match command {
            AgentCommand::Launch { framework, task } => {
                let Some(id) = framework.id.clone() else { return };
                update(id, task.task_id, TaskState::Running)
            }
            AgentCommand::Kill { framework_id, task_id, .. } => {
                update(framework_id, task_id, TaskState::Killed)
            }
            AgentCommand::Ping { seq } => AgentMessage::Pong { seq },
            _ => return,
        };
        self.waiting.push_back(Event::Agent { link, message });
    }
}

/// But for times of the framework's, which are rounded.
fn is_the_same(heard: &AgentCommand, said: &AgentCommand) -> bool {
    match (heard, said) {
        (
            AgentCommand::Launch { framework: heard_of, task: heard },
            AgentCommand::Launch { framework, task },
        ) => heard_of.id == framework.id && heard == task,
        (AgentCommand::UpdateFramework { framework: heard }, AgentCommand::UpdateFramework { framework }) => {
            heard.id == framework.id
        }
        _ => heard == said,
    }
}

fn update(framework_id: FrameworkId, task_id: TaskId, state: TaskState) -> AgentMessage {
    let status = TaskStatus {
        task_id,
        state,
        source: Source::Agent,
        reason: None,
        message: None,
        agent_id: Some("m-S0".into()),
        executor_id: None,
        timestamp: 1.5,
        uuid: Some(StatusUuid([state as u8; 16])),
        container: None,
        data: None,
        healthy: None,
        labels: Vec::new(),
    };
    AgentMessage::StatusUpdate { framework_id, latest_state: state, status }
}

pub fn framework_info() -> FrameworkInfo {
    FrameworkInfo {
        id: None,
        name: "own".into(),
        user: "root".into(),
        principal: None,
        roles: vec!["*".into()],
        hostname: String::new(),
        webui_url: None,
        failover_timeout: Duration::from_secs(100),
        checkpoint: true,
        capabilities: Vec::new(),
        labels: Vec::new(),
    }
}

pub fn agent_info() -> AgentInfo {
    AgentInfo {
        id: None,
        hostname: "host".into(),
        ip: "127.0.0.1".into(),
        port: 5051,
        resources: Resources::parse("cpus:8;mem:8192;disk:100;ports:[31000-32000]").expect("resources"),
        attributes: Vec::new(),
        version: "0".into(),
    }
}

fn task_info(number: usize, agent_id: AgentId) -> TaskInfo {
    let port = 31_000 + number;
    let resources = format!("cpus:0.5;mem:64;ports:[{port}-{port}]");
    TaskInfo {
        name: "task".into(),
        task_id: format!("t{number}").into(),
        agent_id,
        resources: Resources::parse(&resources).expect("resources"),
        command: Some(CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() }),
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    }
}
