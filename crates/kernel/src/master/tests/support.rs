//! A master under test: every step is checked against the invariants.
use crate::{
    Time,
    master::{
        Action, AgentCommand, AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, CallError,
        Config, Event, LinkId, RequestId, Response, SchedulerEvent, State, invariants, step,
    },
};
use bellows_model::{
    AgentId, AgentInfo, Capability, CommandInfo, ExecutorId, ExecutorInfo, Filters, FrameworkId,
    FrameworkInfo, Label, Offer, OfferId, Operation, Resources, Source, StatusUuid, StreamId, TaskInfo,
    TaskState, TaskStatus,
};
use std::time::Duration;

pub(super) struct Master {
    pub(super) state: State,
    pub(super) now: Time,
    /// Whether each step is checked; without, a large state is built in no time.
    pub(super) checked: bool,
    last: u64,
}

/// What a step made the master do, in parts.
#[derive(Debug)]
pub(super) struct Outcome(pub(super) Vec<Action>);

pub(super) fn resources(text: &str) -> Resources {
    Resources::parse(text).expect("test text")
}

pub(super) fn framework_info(name: &str) -> FrameworkInfo {
    FrameworkInfo {
        id: None,
        name: name.into(),
        user: "root".into(),
        principal: None,
        roles: vec!["*".into()],
        hostname: String::new(),
        webui_url: None,
        failover_timeout: Duration::from_secs(30),
        checkpoint: true,
        capabilities: vec![Capability::PartitionAware],
        labels: Vec::new(),
    }
}

/// An agent that has nothing yet.
pub(super) fn registration_of(info: AgentInfo) -> AgentRegistration {
    AgentRegistration {
        info,
        frameworks: vec![],
        tasks: vec![],
        shuffle_service_down: false,
        condition: AgentCondition::default(),
    }
}

/// What a framework that uses the shuffle service says of itself.
pub(super) fn shuffle_service_label() -> Label {
    Label { key: "bellows.shuffle_service".into(), value: Some("true".into()) }
}

pub(super) fn agent_info(port: u16, text: &str) -> AgentInfo {
    AgentInfo {
        id: None,
        hostname: "host".into(),
        ip: "127.0.0.1".into(),
        port,
        resources: resources(text),
        attributes: Vec::new(),
        version: "0".into(),
    }
}

pub(super) fn task(id: &str, agent_id: &AgentId, text: &str) -> TaskInfo {
    TaskInfo {
        name: id.into(),
        task_id: id.into(),
        agent_id: agent_id.clone(),
        resources: resources(text),
        command: Some(CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() }),
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    }
}

pub(super) fn executor(id: &str, text: &str) -> ExecutorInfo {
    ExecutorInfo {
        executor_id: ExecutorId::from(id),
        name: None,
        source: None,
        command: CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() },
        resources: resources(text),
        data: None,
        shutdown_grace: None,
    }
}

pub(super) fn status(id: &str, state: TaskState, uuid: u8) -> TaskStatus {
    TaskStatus {
        task_id: id.into(),
        state,
        source: Source::Executor,
        reason: None,
        message: None,
        agent_id: None,
        executor_id: None,
        timestamp: 0.0,
        uuid: Some(StatusUuid([uuid; 16])),
        container: None,
        data: None,
        healthy: None,
        labels: Vec::new(),
    }
}

impl Master {
    pub(super) fn new() -> Self {
        Self::with(Config::new("m"))
    }

    pub(super) fn with(config: Config) -> Self {
        Self::of(State::new(config, Time(0)))
    }

    pub(super) fn of(state: State) -> Self {
        Self { state, now: Time(1_000_000_000), checked: true, last: 0 }
    }

    pub(super) fn step(&mut self, event: Event) -> Outcome {
        if !self.checked {
            return Outcome(step(&mut self.state, self.now, event));
        }
        let text = format!("{event:?}");
        let actions = step(&mut self.state, self.now, event);
        if let Err(error) = invariants(&self.state) {
            panic!("after {text}: {error}");
        }
        if let Some((agent, framework)) = self.state.allocator.overlooked(self.now) {
            panic!("after {text}: {agent:?} has something free that {framework:?} would take");
        }
        Outcome(actions)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Lets time pass, with a tick at each deadline on the way. All that happened, together.
    pub(super) fn pass(&mut self, duration: Duration) -> Outcome {
        let end = self.now + duration;
        let mut actions = Vec::new();
        while let Some(deadline) = self.state.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = self.now.max(deadline);
            actions.extend(self.step(Event::Tick).0);
        }
        self.now = end;
        Outcome(actions)
    }

    /// Like [`Self::pass`], with every agent answering its pings.
    pub(super) fn pass_with_pongs(&mut self, duration: Duration) -> Outcome {
        let end = self.now + duration;
        let mut actions = Vec::new();
        while let Some(deadline) = self.state.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = self.now.max(deadline);
            let outcome = self.step(Event::Tick);
            for action in &outcome.0 {
                if let Action::Tell { link, command: AgentCommand::Ping { seq } } = action {
                    self.step(Event::Agent { link: *link, message: AgentMessage::Pong { seq: *seq } });
                }
            }
            actions.extend(outcome.0);
        }
        self.now = end;
        Outcome(actions)
    }

    /// A new agent.
    pub(super) fn agent(&mut self, text: &str) -> (AgentId, LinkId, Outcome) {
        let link = LinkId(self.number());
        let info = agent_info(link.0 as u16, text);
        let outcome = self.register(link, registration_of(info));
        let id = outcome.registered().expect("registered");
        (id, link, outcome)
    }

    pub(super) fn register(&mut self, link: LinkId, registration: AgentRegistration) -> Outcome {
        let outcome = self.step(Event::AgentRegister { link, registration });
        for (_, command) in outcome.told() {
            if let AgentCommand::Ping { seq } = command {
                self.step(Event::Agent { link, message: AgentMessage::Pong { seq: *seq } });
            }
        }
        outcome
    }

    /// The agent comes back on a new link with these tasks, after the old one has ended.
    pub(super) fn come_back(
        &mut self,
        agent: &AgentId,
        frameworks: Vec<FrameworkInfo>,
        tasks: Vec<(&FrameworkId, TaskInfo, TaskState)>,
    ) -> (LinkId, Outcome) {
        if let Some(link) = self.state.agents.get(agent).and_then(|agent| agent.link) {
            self.step(Event::LinkClosed { link });
        }
        let link = LinkId(self.number());
        let info = self.state.agents.get(agent).map_or_else(
            || AgentInfo { id: Some(agent.clone()), ..agent_info(1, "cpus:4;mem:4096") },
            |agent| (*agent.info).clone(),
        );
        let tasks = tasks
            .into_iter()
            .map(|(framework_id, info, latest_state)| AgentTask {
                framework_id: framework_id.clone(),
                info,
                latest_state,
            })
            .collect();
        (
            link,
            self.register(
                link,
                AgentRegistration {
                    info,
                    frameworks,
                    tasks,
                    shuffle_service_down: false,
                    condition: AgentCondition::default(),
                },
            ),
        )
    }

    pub(super) fn framework(&mut self, info: FrameworkInfo) -> (FrameworkId, StreamId, Outcome) {
        let number = self.number();
        let stream = StreamId::new(format!("stream{number}"));
        let outcome = self.step(Event::Subscribe {
            request: RequestId(number),
            stream: stream.clone(),
            info,
            suppressed_roles: vec![],
        });
        assert_eq!(outcome.response(), &Ok(Response::Subscribed));
        let id = outcome.subscribed().unwrap_or_else(|| FrameworkId::from("refused"));
        (id, stream, outcome)
    }

    /// A call of the framework on the stream that it has.
    pub(super) fn call(&mut self, framework: &FrameworkId, call: Call) -> Outcome {
        let stream = self.state.frameworks[framework].stream.clone().expect("connected");
        let outcome = self.call_on(framework, &stream, call);
        assert_eq!(outcome.response(), &Ok(Response::Accepted));
        outcome
    }

    pub(super) fn call_on(&mut self, framework: &FrameworkId, stream: &StreamId, call: Call) -> Outcome {
        let request = RequestId(self.number());
        self.step(Event::Call { request, framework_id: framework.clone(), stream: stream.clone(), call })
    }

    pub(super) fn accept(
        &mut self,
        framework: &FrameworkId,
        offers: &[&OfferId],
        tasks: Vec<TaskInfo>,
    ) -> Outcome {
        let offer_ids = offers.iter().map(|id| (*id).clone()).collect();
        let operations = vec![Operation::Launch(tasks)];
        self.call(framework, Call::Accept { offer_ids, operations, filters: Filters::default() })
    }

    pub(super) fn decline(&mut self, framework: &FrameworkId, offer: &OfferId, seconds: u64) -> Outcome {
        let filters = Filters { refuse: Some(Duration::from_secs(seconds)) };
        self.call(framework, Call::Decline { offer_ids: vec![offer.clone()], filters })
    }

    /// As Spark declines what it has no use for.
    pub(super) fn decline_unsaid(&mut self, framework: &FrameworkId, offer: &OfferId) -> Outcome {
        let filters = Filters::default();
        self.call(framework, Call::Decline { offer_ids: vec![offer.clone()], filters })
    }

    pub(super) fn update(&mut self, link: LinkId, framework: &FrameworkId, status: TaskStatus) -> Outcome {
        let latest_state = status.state;
        self.update_behind(link, framework, status, latest_state)
    }

    /// An update of a task that has come further since.
    pub(super) fn update_behind(
        &mut self,
        link: LinkId,
        framework: &FrameworkId,
        status: TaskStatus,
        latest_state: TaskState,
    ) -> Outcome {
        let framework_id = framework.clone();
        let message = AgentMessage::StatusUpdate { framework_id, status, latest_state };
        self.step(Event::Agent { link, message })
    }

    /// One agent of 4 CPUs and 4 GB, one framework, and the offer that it has.
    pub(super) fn ready() -> (Self, FrameworkId, AgentId, LinkId, Offer) {
        let mut master = Self::new();
        let (agent, link, _) = master.agent("cpus:4;mem:4096");
        let (framework, _, outcome) = master.framework(framework_info("f"));
        let offer = outcome.offers().remove(0);
        (master, framework, agent, link, offer)
    }

    /// The same with a task of 1 CPU that runs.
    pub(super) fn running(info: FrameworkInfo) -> (Self, FrameworkId, AgentId, LinkId) {
        let mut master = Self::new();
        let (agent, link, _) = master.agent("cpus:4;mem:4096");
        let (framework, _, outcome) = master.framework(info);
        let offer = outcome.offers().remove(0);
        master.accept(&framework, &[&offer.id], vec![task("t", &agent, "cpus:1;mem:512")]);
        master.update(link, &framework, status("t", TaskState::Running, 1));
        (master, framework, agent, link)
    }
}

impl Outcome {
    pub(super) fn response(&self) -> &Result<Response, CallError> {
        let mut responses = self.0.iter().filter_map(|action| match action {
            Action::Respond { response, .. } => Some(response),
            _ => None,
        });
        let response = responses.next().expect("a response");
        assert_eq!(responses.next(), None, "one response only");
        response
    }

    pub(super) fn events(&self) -> Vec<(&StreamId, &SchedulerEvent)> {
        self.0.iter().filter_map(event_of).collect()
    }

    pub(super) fn warnings(&self) -> Vec<&str> {
        let actions = self.0.iter();
        actions
            .filter_map(|action| match action {
                Action::Warn(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    pub(super) fn told(&self) -> Vec<(LinkId, &AgentCommand)> {
        let command = |action| match action {
            &Action::Tell { link, ref command } => Some((link, command)),
            _ => None,
        };
        self.0.iter().filter_map(command).collect()
    }

    /// What agents were told, but for pings.
    pub(super) fn commands(&self) -> Vec<&AgentCommand> {
        let told = self.told().into_iter().map(|(_, command)| command);
        told.filter(|command| !matches!(command, AgentCommand::Ping { .. })).collect()
    }

    pub(super) fn updates(&self) -> Vec<&TaskStatus> {
        let events = self.events().into_iter();
        events
            .filter_map(|(_, event)| match event {
                SchedulerEvent::Update(status) => Some(status),
                _ => None,
            })
            .collect()
    }

    /// The only update.
    pub(super) fn the_update(&self) -> &TaskStatus {
        let updates = self.updates();
        assert_eq!(updates.len(), 1, "{updates:?}");
        updates[0]
    }

    pub(super) fn offers(&self) -> Vec<Offer> {
        let offers = |(_, event): (_, &SchedulerEvent)| match event {
            SchedulerEvent::Offers(offers) => Some(offers.clone()),
            _ => None,
        };
        self.events().into_iter().filter_map(offers).flatten().collect()
    }

    pub(super) fn rescinded(&self) -> Vec<OfferId> {
        let rescind = |(_, event): (_, &SchedulerEvent)| match event {
            SchedulerEvent::Rescind(id) => Some(id.clone()),
            _ => None,
        };
        self.events().into_iter().filter_map(rescind).collect()
    }

    pub(super) fn closed_streams(&self) -> Vec<&StreamId> {
        let actions = self.0.iter();
        actions
            .filter_map(|action| match action {
                Action::CloseStream { stream } => Some(stream),
                _ => None,
            })
            .collect()
    }

    pub(super) fn registered(&self) -> Option<AgentId> {
        self.told().into_iter().find_map(|(_, command)| match command {
            AgentCommand::Registered { agent_id } => Some(agent_id.clone()),
            _ => None,
        })
    }

    fn subscribed(&self) -> Option<FrameworkId> {
        self.events().into_iter().find_map(|(_, event)| match event {
            SchedulerEvent::Subscribed { framework_id } => Some(framework_id.clone()),
            _ => None,
        })
    }
}

fn event_of(action: &Action) -> Option<(&StreamId, &SchedulerEvent)> {
    match action {
        Action::Send { stream, event } => Some((stream, event)),
        _ => None,
    }
}
