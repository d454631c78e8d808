//! How long the master's kernel works on one event, under wishes that are as large as its bounds let them be.
//!
//! Nobody else is served in the meantime, so that this is what everybody waits for at most.
use anyhow::{Context, Result};
use bellows_kernel::{
    Time,
    master::{
        Action, AgentCommand, AgentRegistration, AgentTask, Call, Config, Event, LinkId, RequestId,
        SchedulerEvent, State, step,
    },
};
use bellows_model::{
    AgentId, AgentInfo, Capability, CommandInfo, Filters, FrameworkId, FrameworkInfo, Offer, Operation,
    Resources, StreamId, TaskInfo, TaskState, limits,
};
use std::time::Duration;

/// A master, and the longest of its steps since the last line was printed.
struct Master {
    state: State,
    now: Time,
    numbers: u64,
    longest: Duration,
    total: Duration,
    steps: u64,
}

impl Master {
    fn new() -> Self {
        let (now, zero) = (Time(1), Duration::ZERO);
        let state = State::new(Config::new("m"), now);
        Self { state, now, numbers: 0, longest: zero, total: zero, steps: 0 }
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        let begin = processor_time();
        let actions = step(&mut self.state, self.now, event);
        let took = processor_time().saturating_sub(begin);
        self.longest = self.longest.max(took);
        self.total += took;
        self.steps += 1;
        actions
    }

    /// Until nothing is left over.
    fn finish(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.state.has_work() {
            actions.extend(self.step(Event::Tick));
        }
        actions
    }

    fn show(&mut self, what: &str) {
        println!(
            "{what:<64} longest step {:>7.2} ms   all {:>9.1} ms in {} steps",
            self.longest.as_secs_f64() * 1e3,
            self.total.as_secs_f64() * 1e3,
            self.steps
        );
        (self.longest, self.total, self.steps) = (Duration::ZERO, Duration::ZERO, 0);
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn register(&mut self, id: Option<AgentId>, resources: &str, tasks: Vec<AgentTask>) -> Result<AgentId> {
        let link = LinkId(self.number());
        let info = AgentInfo {
            id,
            hostname: format!("host{}", link.0),
            ip: format!("10.0.{}.{}", link.0 / 250, link.0 % 250),
            port: 5_051,
            resources: Resources::parse(resources)?,
            attributes: Vec::new(),
            version: "0".into(),
        };
        let frameworks = self.state.frameworks.values().map(|framework| (*framework.info).clone()).collect();
        let registration = AgentRegistration {
            info,
            frameworks,
            tasks,
            shuffle_service_down: false,
            condition: Default::default(),
        };
        let actions = self.step(Event::AgentRegister { link, registration });
        let id = actions.into_iter().find_map(|action| match action {
            Action::Tell { command: AgentCommand::Registered { agent_id }, .. } => Some(agent_id),
            _ => None,
        });
        id.context("the agent is not registered")
    }

    fn subscribe(&mut self, roles: usize) -> Result<FrameworkId> {
        let number = self.number();
        let roles = match roles {
            1 => vec![format!("r{}", number % 50)],
            many => (0..many).map(|role| format!("r{number}-{role}")).collect(),
        };
        let info = FrameworkInfo {
            id: None,
            name: "bench".into(),
            user: "root".into(),
            principal: None,
            roles,
            hostname: String::new(),
            webui_url: None,
            failover_timeout: Duration::from_secs(1_000),
            checkpoint: true,
            capabilities: vec![Capability::MultiRole, Capability::PartitionAware],
            labels: Vec::new(),
        };
        let (request, stream) = (RequestId(number), StreamId::new(number.to_string()));
        let actions = self.step(Event::Subscribe { request, stream, info, suppressed_roles: Vec::new() });
        let id = actions.into_iter().find_map(|action| match action {
            Action::Send { event: SchedulerEvent::Subscribed { framework_id }, .. } => Some(framework_id),
            _ => None,
        });
        id.context("the framework is not subscribed")
    }

    fn call(&mut self, framework_id: &FrameworkId, call: Call) -> Result<Vec<Action>> {
        let known = self.state.frameworks.get(framework_id).context("an unknown framework")?;
        let stream = known.stream.clone().context("it is not connected")?;
        let (request, framework_id) = (RequestId(self.number()), framework_id.clone());
        Ok(self.step(Event::Call { request, framework_id, stream, call }))
    }

    /// Everybody refuses for long what there is.
    fn refuse_all(&mut self, rounds: usize) -> Result<()> {
        for _ in 0..rounds {
            let offers: Vec<_> = self.state.offers.values().cloned().collect();
            for Offer { id, framework_id, .. } in offers {
                let filters = Filters { refuse: Some(Duration::from_secs(100_000)) };
                self.call(&framework_id, Call::Decline { offer_ids: vec![id], filters })?;
            }
            self.finish();
        }
        Ok(())
    }

    /// Fills what is offered with as many tasks as may be.
    fn launch(&mut self, tasks: usize) -> Result<()> {
        let offers: Vec<_> = self.state.offers.values().cloned().collect();
        for offer in offers {
            for chunk in 0..tasks / limits::TASKS {
                let tasks = (0..limits::TASKS).map(|n| task(chunk * limits::TASKS + n, &offer.agent_id));
                let operations = vec![Operation::Launch(tasks.collect::<Result<_>>()?)];
                let open = self.state.offers.values().find(|open| open.agent_id == offer.agent_id);
                let id = open.context("what is left is offered again")?.id.clone();
                let filters = Filters { refuse: Some(Duration::ZERO) };
                self.call(&offer.framework_id, Call::Accept { offer_ids: vec![id], operations, filters })?;
                self.finish();
            }
        }
        Ok(())
    }
}

/// Of this thread: what other processes do on the same processors does not count.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn task(number: usize, agent_id: &AgentId) -> Result<TaskInfo> {
    Ok(TaskInfo {
        name: "bench".into(),
        task_id: format!("{agent_id}-{number}").into(),
        agent_id: agent_id.clone(),
        resources: Resources::parse("cpus:0.001;mem:0.001")?,
        command: Some(CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() }),
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    })
}

pub(super) fn show() -> Result<()> {
    let agent = "cpus:24;mem:4096;disk:4096;ports:[31000-32000]";
    println!("\nThe master's longest step: nobody else is served in the meantime");
    let mut master = Master::new();
    let frameworks: Vec<_> = (0..1_000).map(|_| master.subscribe(1)).collect::<Result<_>>()?;
    for _ in 0..3_000 {
        master.register(None, agent, Vec::new())?;
    }
    master.finish();
    master.show("3,000 agents register, wanted by 1,000 frameworks");
    master.refuse_all(20)?;
    master.show("20 times, all of their 3,000 offers are declined");
    for framework in &frameworks {
        master.call(framework, Call::Revive { roles: Vec::new() })?;
    }
    master.finish();
    master.show("a storm: all 1,000 frameworks revive");

    let mut master = Master::new();
    let first = master.subscribe(1)?;
    for _ in 0..10_000 {
        master.register(None, agent, Vec::new())?;
    }
    for _ in 1..master.state.config.max_frameworks {
        master.subscribe(1)?;
    }
    master.finish();
    master.show("10,000 agents register, then 10,000 frameworks subscribe");
    master.call(&first, Call::Teardown)?;
    master.finish();
    master.show("the one that had all 10,000 offers ends: all go to others");

    let mut master = Master::new();
    for _ in 0..1_000 {
        master.register(None, agent, Vec::new())?;
    }
    for _ in 0..100 {
        master.subscribe(limits::ROLES)?;
    }
    master.finish();
    master.show("100 frameworks subscribe in 100 roles each");
    let lost = master.state.frameworks.keys().next().cloned().context("many")?;
    master.call(&lost, Call::Revive { roles: Vec::new() })?;
    master.call(&lost, Call::Teardown)?;
    master.finish();
    master.show("one of them revives, and ends");

    let mut master = Master::new();
    let framework = master.subscribe(1)?;
    let most = master.state.config.max_tasks_per_agent;
    for _ in 0..50 {
        master.register(None, agent, Vec::new())?;
    }
    master.launch(most)?;
    master.show("100,000 tasks are launched, 1,000 in each call");
    master.call(&framework, Call::Reconcile { tasks: Vec::new() })?;
    master.finish();
    master.show("RECONCILE of 100,000 tasks");
    let agent_id = master.state.agents.keys().next().cloned().context("many")?;
    let link = master.state.agents[&agent_id].link.context("connected")?;
    master.step(Event::LinkClosed { link });
    master.now = master.now + Duration::from_secs(75);
    while master.state.next_deadline().is_some_and(|deadline| deadline <= master.now) {
        master.step(Event::Tick);
    }
    master.show("an agent with 2,000 tasks is lost");
    let tasks = (0..most).map(|n| {
        let info = task(n, &agent_id)?;
        Ok(AgentTask { framework_id: framework.clone(), info, latest_state: TaskState::Running })
    });
    let tasks = tasks.collect::<Result<_>>()?;
    master.register(Some(agent_id), agent, tasks)?;
    master.finish();
    master.show("it comes back with all of them");
    master.call(&framework, Call::Teardown)?;
    master.finish();
    master.show("a framework with 100,000 tasks ends");
    Ok(())
}
