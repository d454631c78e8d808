//! The clock, the network, and everything that happens.
use crate::{
    Report, Settings,
    machine::Machine,
    random::Random,
    scheduler::{Mood, Scheduler},
};
use bellows_kernel::{
    Time,
    agent::{self, Exit},
    master::{
        self, Action, AgentCommand, AgentMessage, AgentRegistration, AgentTask, Call, LinkId, Observation,
        RequestId, SchedulerEvent,
    },
};
use bellows_model::{ContainerId, FrameworkId, Resources, StreamId};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What waits in the queue.
enum Happening {
    MasterTick,
    MasterUp,
    /// Something arrives at the master over a connection.
    ToMaster(u64, ToMaster),
    /// Something arrives from the master.
    ToClient(u64, ToClient),
    /// The master notices that a connection is gone.
    MasterNotices(u64),
    /// The other side does.
    ClientNotices(Client, u64),
    Connect(Client),
    AgentUp(usize),
    /// For the agent of that epoch.
    Agent(usize, u64, Box<agent::Event>),
    AgentTick(usize, u64),
    Written(usize, u64),
    ProcessEnds(usize, ContainerId, Exit),
    SchedulerActs(usize),
    Fault,
}

enum ToMaster {
    Register(Box<AgentRegistration>),
    Agent(AgentMessage),
    Subscribe,
    Call(Call),
}

enum ToClient {
    Command(Box<AgentCommand>),
    Event(SchedulerEvent),
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Client {
    Agent(usize),
    Scheduler(usize),
}

/// Both ways in order.
struct Connection {
    client: Client,
    to_master: Time,
    to_client: Time,
}

pub(crate) struct World {
    settings: Settings,
    random: Random,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    last: u64,
    master: Option<master::State>,
    masters: u64,
    master_tick: Option<Time>,
    connections: BTreeMap<u64, Connection>,
    machines: Vec<Machine>,
    schedulers: Vec<Scheduler>,
    /// Frameworks that some master has ended.
    ended: BTreeSet<FrameworkId>,
    winding_down: bool,
    settled: bool,
    report: Report,
}

const SECOND: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        let mut random = Random::new(seed);
        let sizes =
            ["cpus:4;mem:4096;ports:[31000-32000]", "cpus:2;cpus(etl):2;mem:2048", "cpus:8;mem:20000"];
        let size = |random: &mut Random| {
            Resources::parse(sizes[random.below(sizes.len())]).expect("invariant: a constant")
        };
        let machines = (0..settings.agents).map(|number| Machine::new(number, size(&mut random))).collect();
        let schedulers = (0..settings.frameworks).map(|n| Scheduler::new(n, &mut random)).collect();
        Self {
            settings,
            random,
            now: Time(1_000_000_000),
            queue: BTreeMap::new(),
            last: 0,
            master: None,
            masters: 0,
            master_tick: None,
            connections: BTreeMap::new(),
            machines,
            schedulers,
            ended: BTreeSet::new(),
            winding_down: false,
            settled: false,
            report: Report::default(),
        }
    }

    pub(crate) fn run(mut self) -> Report {
        self.master_up();
        for machine in 0..self.machines.len() {
            self.after(0, 2_000, Happening::AgentUp(machine));
        }
        for scheduler in 0..self.schedulers.len() {
            self.start_scheduler(scheduler);
        }
        if self.settings.faults {
            self.after(1_000, 20_000, Happening::Fault);
        }
        self.run_until(self.now + self.settings.unrest);
        self.wind_down();
        self.report
    }

    /// Nothing goes wrong any more: every task must come to its end, and nothing may be left of anything.
    fn wind_down(&mut self) {
        self.winding_down = true;
        self.run_until(self.now + 300 * SECOND);
        self.settled = true;
        self.run_until(self.now + 1_200 * SECOND);
        for number in 0..self.schedulers.len() {
            let scheduler = &self.schedulers[number];
            let open: Vec<_> = scheduler.open_tasks().map(|(id, _)| id.clone()).collect();
            assert!(
                scheduler.over || open.is_empty(),
                "scheduler {number} never heard of the end of {open:?}"
            );
            let Some(id) = scheduler.id() else { continue };
            for task in scheduler.tasks.keys() {
                assert!(
                    !self.machines.iter().any(|machine| machine.is_running(id, task)),
                    "{task:?} still runs"
                );
            }
        }
        for number in 0..self.schedulers.len() {
            self.calls(number, vec![Call::Teardown]);
            self.schedulers[number].over = true;
        }
        self.run_until(self.now + 1_800 * SECOND);
        let master = self.master.as_ref().expect("invariant: it is up");
        assert!(master.frameworks.is_empty() && master.offers.is_empty(), "frameworks are left");
        for agent in master.agents.values() {
            assert!(agent.used.is_empty() && agent.offered.is_empty(), "{agent:?} holds something");
        }
        for machine in &self.machines {
            assert!(machine.containers.values().all(Option::is_some), "{:?} run", machine.containers);
            assert!(machine.shuffle.is_empty(), "files are left of {:?}", machine.shuffle);
            let agent = machine.agent.as_ref().expect("invariant: it is up");
            assert!(agent.frameworks.is_empty(), "{:?} are left on an agent", agent.frameworks);
            assert!(
                machine.disk.tasks.is_empty() && machine.disk.frameworks.is_empty(),
                "{:?}",
                machine.disk
            );
        }
    }

    fn run_until(&mut self, end: Time) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((when, _), happening) = entry.remove_entry();
            self.now = when;
            self.report.events += 1;
            self.happen(happening);
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::MasterTick => {
                // Others were meant for a deadline that was put forward.
                if self.master_tick == Some(self.now) {
                    self.master_tick = None;
                    self.master_step(master::Event::Tick);
                }
            }
            Happening::MasterUp => self.master_up(),
            Happening::ToMaster(connection, message) => self.to_master(connection, message),
            Happening::ToClient(connection, message) => self.to_client(connection, message),
            Happening::MasterNotices(connection) => self.master_notices(connection),
            Happening::ClientNotices(client, connection) => self.client_notices(client, connection),
            Happening::Connect(client) => self.connect(client),
            Happening::AgentUp(machine) => self.agent_up(machine),
            Happening::Agent(machine, epoch, event) => {
                if self.machines[machine].epoch == epoch {
                    self.agent_step(machine, *event);
                }
            }
            Happening::AgentTick(machine, epoch) => {
                if self.machines[machine].epoch == epoch && self.machines[machine].tick == Some(self.now) {
                    self.machines[machine].tick = None;
                    self.agent_step(machine, agent::Event::Tick);
                }
            }
            Happening::Written(machine, epoch) => {
                if self.machines[machine].epoch == epoch
                    && let Some(upto) = self.machines[machine].write()
                {
                    self.agent_step(machine, agent::Event::Stored { upto });
                }
            }
            Happening::ProcessEnds(machine, container_id, exit) => {
                self.process_ends(machine, container_id, exit)
            }
            Happening::SchedulerActs(number) => self.scheduler_acts(number),
            Happening::Fault => self.fault(),
        }
    }

    // The master

    fn master_up(&mut self) {
        self.masters += 1;
        let mut config = master::Config::new(format!("m{}", self.masters));
        config.agent_reregister_timeout = 120 * SECOND;
        config.max_completed_tasks_per_framework = 200;
        config.max_completed_frameworks = 5;
        // Now and then it has a registry that tells which agents there were.
        let registry = self.random.percent(50);
        let known = self.machines.iter().filter(|machine| registry && machine.disk.agent_id.is_some());
        let known = known.map(|machine| {
            let mut info = machine.info.clone();
            info.id.clone_from(&machine.disk.agent_id);
            info
        });
        self.master = Some(master::State::recover(config, self.now, known));
        self.master_tick = None;
        self.schedule_master_tick();
    }

    fn master_step(&mut self, event: master::Event) {
        let Some(state) = &mut self.master else { return };
        let checked = self.report.events.is_multiple_of(self.settings.check_every).then(|| event.clone());
        let actions = master::step(state, self.now, event);
        if let Some(event) = checked
            && let Err(error) = master::invariants(state)
        {
            panic!("after {event:?}: {error}");
        }
        for action in actions {
            self.master_does(action);
        }
        self.schedule_master_tick();
    }

    fn master_does(&mut self, action: Action) {
        match action {
            Action::Send { stream, event } => {
                if let SchedulerEvent::Offers(offers) = &event {
                    self.report.offers += offers.len() as u64;
                }
                self.from_master(number(stream.as_str()), ToClient::Event(event));
            }
            Action::CloseStream { stream } => self.from_master(number(stream.as_str()), ToClient::Close),
            Action::Tell { link, command } => {
                if let AgentCommand::Refused { reason } = &command {
                    panic!("an agent was refused: {reason}");
                }
                self.report.launched += u64::from(matches!(command, AgentCommand::Launch { .. }));
                self.from_master(link.0, ToClient::Command(Box::new(command)));
            }
            Action::CloseLink { link } => self.from_master(link.0, ToClient::Close),
            Action::Observe(Observation::FrameworkRemoved(id)) => {
                self.ended.insert(id);
            }
            Action::Observe(_) | Action::Respond { .. } => {}
        }
    }

    fn schedule_master_tick(&mut self) {
        let deadline = self.master.as_ref().and_then(master::State::next_deadline);
        if let Some(deadline) = deadline.map(|deadline| deadline.max(self.now))
            && self.master_tick.is_none_or(|tick| deadline < tick)
        {
            self.master_tick = Some(deadline);
            self.at(deadline, Happening::MasterTick);
        }
    }

    // The network

    fn connect(&mut self, client: Client) {
        let wanted = match client {
            Client::Agent(number) => {
                self.machines[number].connecting = false;
                self.machines[number].agent.is_some() && self.machines[number].connection.is_none()
            }
            Client::Scheduler(number) => !self.schedulers[number].over,
        };
        if !wanted {
            return;
        }
        if self.master.is_none() {
            return self.reconnect(client);
        }
        self.last += 1;
        let id = self.last;
        let (to_master, to_client) = (self.now, self.now);
        self.connections.insert(id, Connection { client, to_master, to_client });
        match client {
            Client::Agent(number) => {
                self.machines[number].connection = Some(id);
                self.agent_step(number, agent::Event::LinkOpened { link: LinkId(id) });
            }
            Client::Scheduler(number) => {
                self.schedulers[number].connection = Some(id);
                self.send(id, ToMaster::Subscribe);
            }
        }
    }

    fn reconnect(&mut self, client: Client) {
        if let Client::Agent(number) = client
            && std::mem::replace(&mut self.machines[number].connecting, true)
        {
            return;
        }
        self.after(50, 3_000, Happening::Connect(client));
    }

    fn send(&mut self, connection: u64, message: ToMaster) {
        let delay = self.delay();
        let Some(open) = self.connections.get_mut(&connection) else { return };
        open.to_master = open.to_master.max(self.now + delay);
        let when = open.to_master;
        self.at(when, Happening::ToMaster(connection, message));
    }

    fn from_master(&mut self, connection: u64, message: ToClient) {
        let delay = self.delay();
        let Some(open) = self.connections.get_mut(&connection) else { return };
        open.to_client = open.to_client.max(self.now + delay);
        let when = open.to_client;
        self.at(when, Happening::ToClient(connection, message));
    }

    fn to_master(&mut self, connection: u64, message: ToMaster) {
        let Some(open) = self.connections.get(&connection) else { return };
        let link = LinkId(connection);
        let (request, stream) = (RequestId(connection), StreamId::new(connection.to_string()));
        let event = match (message, open.client) {
            (ToMaster::Register(registration), _) => {
                master::Event::AgentRegister { link, registration: *registration }
            }
            (ToMaster::Agent(message), _) => master::Event::Agent { link, message },
            (ToMaster::Subscribe, Client::Scheduler(number)) => {
                let info = self.schedulers[number].info.clone();
                master::Event::Subscribe { request, stream, info, suppressed_roles: Vec::new() }
            }
            (ToMaster::Call(call), Client::Scheduler(number)) => {
                let Some(framework_id) = self.schedulers[number].id().cloned() else { return };
                master::Event::Call { request, framework_id, stream, call }
            }
            (_, Client::Agent(_)) => unreachable!("invariant: agents make no calls"),
        };
        self.master_step(event);
    }

    fn to_client(&mut self, connection: u64, message: ToClient) {
        let Some(open) = self.connections.get(&connection) else { return };
        match (message, open.client) {
            (ToClient::Command(command), Client::Agent(number)) => {
                self.agent_step(number, agent::Event::Command { link: LinkId(connection), command });
            }
            (ToClient::Event(event), Client::Scheduler(number)) => {
                if self.schedulers[number].connection == Some(connection) {
                    self.scheduler_event(number, event);
                }
            }
            (ToClient::Close, client) => {
                self.connections.remove(&connection);
                self.client_notices(client, connection);
            }
            _ => unreachable!("invariant: commands go to agents, events to schedulers"),
        }
    }

    /// What is on its way is lost, and each side notices in its time.
    fn drop_connection(&mut self, connection: u64) {
        if let Some(open) = self.connections.remove(&connection) {
            self.report.dropped_connections += 1;
            self.after(0, 20_000, Happening::MasterNotices(connection));
            self.after(0, 20_000, Happening::ClientNotices(open.client, connection));
        }
    }

    fn master_notices(&mut self, connection: u64) {
        self.master_step(master::Event::LinkClosed { link: LinkId(connection) });
        self.master_step(master::Event::StreamClosed { stream: StreamId::new(connection.to_string()) });
    }

    fn client_notices(&mut self, client: Client, connection: u64) {
        match client {
            Client::Agent(number) if self.machines[number].connection == Some(connection) => {
                self.machines[number].connection = None;
                self.agent_step(number, agent::Event::LinkClosed { link: LinkId(connection) });
                self.reconnect(client);
            }
            Client::Scheduler(number) if self.schedulers[number].connection == Some(connection) => {
                let scheduler = &mut self.schedulers[number];
                scheduler.lost_connection();
                scheduler.over |= scheduler.mortal;
                if scheduler.over {
                    self.replace_scheduler(number);
                } else {
                    self.reconnect(client);
                }
            }
            _ => {}
        }
    }

    // Agents and their machines

    fn agent_up(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        if machine.agent.is_some() {
            return;
        }
        machine.epoch += 1;
        let mut config = agent::Config::new(machine.info.clone(), self.random.next());
        config.resend_max = 60 * SECOND;
        let (state, actions) = agent::recover(config, self.now, machine.disk.clone(), machine.recovered());
        machine.agent = Some(state);
        self.agent_does(number, actions);
        self.reconnect(Client::Agent(number));
    }

    fn agent_down(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.agent = None;
        machine.epoch += 1;
        machine.writes.clear();
        machine.tick = None;
        machine.last_write = self.now;
        if let Some(connection) = machine.connection.take() {
            self.drop_connection(connection);
        }
        self.after(100, 120_000, Happening::AgentUp(number));
    }

    fn agent_step(&mut self, number: usize, event: agent::Event) {
        let Some(state) = &mut self.machines[number].agent else { return };
        let actions = agent::step(state, self.now, event.clone());
        if let Err(error) = agent::invariants(state) {
            panic!("after {event:?} on agent {number}: {error}");
        }
        self.agent_does(number, actions);
    }

    fn agent_does(&mut self, number: usize, actions: Vec<agent::Action>) {
        for action in actions {
            self.agent_action(number, action);
        }
        let machine = &self.machines[number];
        let deadline = machine.agent.as_ref().and_then(agent::State::next_deadline);
        if let Some(deadline) = deadline.map(|deadline| deadline.max(self.now))
            && machine.tick.is_none_or(|tick| deadline < tick)
        {
            let epoch = machine.epoch;
            self.machines[number].tick = Some(deadline);
            self.at(deadline, Happening::AgentTick(number, epoch));
        }
    }

    fn agent_action(&mut self, number: usize, action: agent::Action) {
        use agent::{Action, Event};
        match action {
            Action::Register { link, registration } => {
                let registration = AgentRegistration {
                    info: registration.info,
                    frameworks: registration.frameworks.iter().map(|info| (**info).clone()).collect(),
                    tasks: registration
                        .tasks
                        .into_iter()
                        .map(|task| AgentTask {
                            framework_id: task.framework_id,
                            info: (*task.info).clone(),
                            latest_state: task.latest_state,
                        })
                        .collect(),
                };
                self.send(link.0, ToMaster::Register(Box::new(registration)));
            }
            Action::Send { link, message } => self.send(link.0, ToMaster::Agent(message)),
            Action::Store { write, record } => {
                let delay = self.random.millis(1, 30);
                let machine = &mut self.machines[number];
                machine.last_write = machine.last_write.max(self.now + delay);
                machine.writes.push_back((write, record));
                let (when, epoch) = (machine.last_write, machine.epoch);
                self.at(when, Happening::Written(number, epoch));
            }
            Action::Fetch(job) => {
                self.machines[number].shuffle.insert(job.framework_id);
                let container_id = job.container_id;
                let event = if self.random.percent(3) {
                    Event::FetchFailed { container_id, message: "no such file".into() }
                } else {
                    Event::Fetched { container_id }
                };
                self.tell_agent(number, 1, 5_000, event);
            }
            Action::Launch(job) => self.launch(number, &job),
            Action::Kill { container_id, grace } => {
                let longest = grace.as_millis() as u64 + 100;
                self.after(1, longest, Happening::ProcessEnds(number, container_id, Exit::Signaled(15)));
            }
            Action::Forget { container_id } => {
                let forgotten = self.machines[number].containers.remove(&container_id);
                assert_ne!(forgotten, Some(None), "a process that runs was forgotten");
            }
            Action::FindShuffle => {
                let frameworks = self.machines[number].shuffle.iter().cloned().collect();
                self.tell_agent(number, 1, 500, Event::ShuffleFound { frameworks });
            }
            Action::RemoveShuffle { framework_id } => self.remove_shuffle(number, framework_id),
            Action::CancelFetch { .. } | Action::Retire(_) | Action::ExecutorDeparted { .. } => {}
            Action::Stop { reason } => panic!("an agent stops: {reason}"),
        }
    }

    fn launch(&mut self, number: usize, job: &agent::Job) {
        let container_id = job.container_id.clone();
        if self.random.percent(3) {
            let message = "no such program".into();
            return self.tell_agent(number, 1, 200, agent::Event::LaunchFailed { container_id, message });
        }
        let machine = &mut self.machines[number];
        let key = (job.framework_id.clone(), job.task.task_id.clone());
        assert!(!machine.started.values().any(|known| *known == key), "{key:?} was started twice");
        machine.started.insert(container_id.clone(), key);
        machine.containers.insert(container_id.clone(), None);
        let exit = if self.random.percent(70) { Exit::Exited(0) } else { Exit::Exited(1) };
        self.after(10, 60_000, Happening::ProcessEnds(number, container_id.clone(), exit));
        self.tell_agent(number, 1, 200, agent::Event::Launched { container_id, pid: 1 });
    }

    fn process_ends(&mut self, number: usize, container_id: ContainerId, exit: Exit) {
        let Some(known) = self.machines[number].containers.get_mut(&container_id) else { return };
        if known.is_none() {
            *known = Some(exit);
            let epoch = self.machines[number].epoch;
            let event = agent::Event::Exited { container_id, exit };
            self.after(1, 20, Happening::Agent(number, epoch, Box::new(event)));
        }
    }

    fn remove_shuffle(&mut self, number: usize, framework_id: FrameworkId) {
        assert!(self.ended.contains(&framework_id), "files of {framework_id:?} go while it lives");
        if self.random.percent(10) {
            return self.tell_agent(number, 1, 500, agent::Event::ShuffleRemovalFailed { framework_id });
        }
        self.machines[number].shuffle.remove(&framework_id);
        self.tell_agent(number, 1, 500, agent::Event::ShuffleRemoved { framework_id });
    }

    fn tell_agent(&mut self, number: usize, from: u64, to: u64, event: agent::Event) {
        let epoch = self.machines[number].epoch;
        self.after(from, to, Happening::Agent(number, epoch, Box::new(event)));
    }

    // Schedulers

    fn start_scheduler(&mut self, number: usize) {
        self.report.frameworks += 1;
        self.after(0, 5_000, Happening::Connect(Client::Scheduler(number)));
        self.after(1_000, 10_000, Happening::SchedulerActs(number));
    }

    /// One that is over leaves its place to a new one.
    fn replace_scheduler(&mut self, number: usize) {
        if !self.winding_down {
            let next = self.schedulers.len();
            self.schedulers.push(Scheduler::new(next, &mut self.random));
            self.start_scheduler(next);
        }
        self.schedulers[number].over = true;
    }

    fn mood(&self) -> Mood {
        Mood { winding_down: self.winding_down, settled: self.settled, masters: self.masters }
    }

    fn scheduler_event(&mut self, number: usize, event: SchedulerEvent) {
        let mood = self.mood();
        let scheduler = &mut self.schedulers[number];
        let task = match &event {
            SchedulerEvent::Update(status) => Some(status.task_id.clone()),
            _ => None,
        };
        let open = |scheduler: &Scheduler| {
            task.as_ref()
                .is_some_and(|task| scheduler.tasks.get(task).is_some_and(|known| known.end.is_none()))
        };
        let was_open = open(scheduler);
        let calls = scheduler.on_event(event, &mood, &mut self.random);
        if was_open && !open(scheduler) {
            let known = task.as_ref().and_then(|task| scheduler.tasks.get(task));
            if let Some((state, _)) = known.and_then(|known| known.end) {
                *self.report.ended.entry(state).or_default() += 1;
            }
        }
        self.calls(number, calls);
    }

    fn scheduler_acts(&mut self, number: usize) {
        let mood = self.mood();
        let scheduler = &mut self.schedulers[number];
        if scheduler.over {
            return;
        }
        if scheduler.connection.is_some() && scheduler.id().is_some() {
            let calls = scheduler.act(&mood, &mut self.random);
            self.calls(number, calls);
        }
        self.after(500, 10_000, Happening::SchedulerActs(number));
    }

    fn calls(&mut self, number: usize, calls: Vec<Call>) {
        if let Some(connection) = self.schedulers[number].connection {
            calls.into_iter().for_each(|call| self.send(connection, ToMaster::Call(call)));
        }
    }

    // What goes wrong

    fn fault(&mut self) {
        if self.winding_down {
            return;
        }
        match self.random.below(10) {
            0..=2 => {
                let all: Vec<_> = self.connections.keys().copied().collect();
                if let Some(&connection) = self.random.pick(&all) {
                    self.drop_connection(connection);
                }
            }
            3 | 4 => {
                let number = self.random.below(self.machines.len());
                self.report.agent_crashes += 1;
                self.crash_agent(number);
            }
            5 => self.reboot(),
            6 => self.crash_master(),
            // Another instance of a scheduler takes over, while the first is still there.
            7 | 8 => {
                let number = self.random.below(self.schedulers.len());
                if self.schedulers[number].id().is_some() {
                    self.schedulers[number].lost_connection();
                    self.connect(Client::Scheduler(number));
                }
            }
            _ => {
                let number = self.random.below(self.schedulers.len());
                if !self.schedulers[number].over {
                    self.calls(number, vec![Call::Teardown]);
                }
            }
        }
        self.after(500, 30_000, Happening::Fault);
    }

    fn crash_agent(&mut self, number: usize) {
        if self.machines[number].agent.is_some() {
            self.agent_down(number);
        }
    }

    /// All processes are gone. Sometimes the disk comes up empty: another agent, at the same address.
    fn reboot(&mut self) {
        let number = self.random.below(self.machines.len());
        self.report.reboots += 1;
        self.crash_agent(number);
        self.machines[number].containers.clear();
        if self.random.percent(30) {
            self.machines[number].disk = agent::Checkpoint::default();
            self.machines[number].shuffle.clear();
        }
    }

    fn crash_master(&mut self) {
        if self.master.take().is_none() {
            return;
        }
        self.report.master_crashes += 1;
        let all: Vec<_> = self.connections.keys().copied().collect();
        for connection in all {
            self.drop_connection(connection);
        }
        self.after(100, 10_000, Happening::MasterUp);
    }

    // The clock

    fn at(&mut self, when: Time, happening: Happening) {
        self.last += 1;
        self.queue.insert((when.max(self.now), self.last), happening);
    }

    /// After some milliseconds between the two.
    fn after(&mut self, from: u64, to: u64, happening: Happening) {
        let delay = self.random.millis(from, to);
        self.at(self.now + delay, happening);
    }

    /// Of a message: mostly short, at times long.
    fn delay(&mut self) -> Duration {
        if self.random.percent(2) { self.random.millis(100, 5_000) } else { self.random.millis(1, 20) }
    }
}

fn number(stream: &str) -> u64 {
    stream.parse().expect("invariant: streams are named by numbers here")
}
