//! The clock, the network, and everything that happens.
mod faults;
mod hosts;
mod leader;
mod liars;
mod network;
mod schedulers;

use crate::{Report, Settings, machine::Machine, random::Random, scheduler::Scheduler};
use bellows_kernel::{
    Time,
    agent::{self, Exit},
    master::{self, AgentCommand, AgentMessage, AgentRegistration, Call, SchedulerEvent},
};
use bellows_model::{ContainerId, FrameworkId, Resources};
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
    Lie,
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
    /// Links and streams of those who lie.
    liars: Vec<u64>,
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
            liars: Vec::new(),
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
        if self.settings.lies {
            self.after(1_000, 5_000, Happening::Lie);
        }
        self.run_until(self.now + self.settings.unrest);
        self.wind_down();
        self.report
    }

    /// Nothing goes wrong any more: every task must come to its end, and nothing may be left of anything.
    fn wind_down(&mut self) {
        self.winding_down = true;
        self.run_until(self.now + 300 * SECOND);
        self.end_liars();
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
            Happening::ToMaster(connection, message) => self.arrive_at_master(connection, message),
            Happening::ToClient(connection, message) => self.arrive_at_client(connection, message),
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
            Happening::Lie => self.lie(),
        }
    }

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
