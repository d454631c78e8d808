//! Everything that a master knows. Read by the HTTP API; changed by `step` alone.
use super::{AgentCondition, AgentRegistration, Counters, FrameworkCounters, LinkId, load::Load, work::Work};
use crate::{
    Time,
    allocator::{AgentIndex, Allocator, ClientIndex, Settings},
};
use bellows_model::{
    AgentId, AgentInfo, ExecutorId, ExecutorInfo, FrameworkId, FrameworkInfo, Offer, OfferId, Resources,
    StreamId, TaskId, TaskInfo, TaskState, TaskStatus,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// What an operator sets; defaults are Mesos' unless they say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Prefix of all ids that this master gives; new at each start, so that ids never repeat.
    pub master_id: String,
    /// An offer that is held for longer is rescinded once another framework wants it (Mesos rescinds
    /// in any case, and by default never). `None`: offers do not expire by themselves.
    pub offer_timeout: Option<Duration>,
    /// What was declined, or accepted without launching anything, is kept from the same framework for at least
    /// so long, whatever its filter says. Mesos has its allocation interval (1 s) for that: without it, a
    /// framework that declines with `refuse_seconds: 0` would be offered the same at once, for ever.
    pub min_refusal: Duration,
    pub agent_ping_interval: Duration,
    pub max_agent_ping_timeouts: u32,
    /// How long agents of a previous master, and their frameworks, have to come back.
    pub agent_reregister_timeout: Duration,
    pub max_completed_frameworks: usize,
    pub max_completed_tasks_per_framework: usize,
    /// Offers smaller than both are not made (milli-CPUs, milli-MB): Mesos' `min_allocatable_resources`.
    pub min_cpus: i64,
    pub min_mem: i64,
    /// In thousandths; roles that are not named weigh 1,000.
    pub role_weights: BTreeMap<String, u32>,
    /// Most frameworks. Beyond these, the one without tasks that is disconnected for longest has to go, else one that
    /// never subscribed and is known from agents alone; or the subscription is refused.
    pub max_frameworks: usize,
    /// Most roles of all connected frameworks together, each counted once for each framework in it.
    pub max_roles: usize,
    /// Most tasks; further ones are refused.
    pub max_tasks_per_framework: usize,
    pub max_tasks_per_agent: usize,
    /// Most executors of frameworks' own on one agent.
    pub max_executors_per_agent: usize,
    /// Most agents. Beyond these, the one that is unreachable for longest is forgotten, or the new one has to wait.
    pub max_agents: usize,
    /// A connection that answers within this time after another one appeared under its agent's id is the right one.
    pub liveness_timeout: Duration,
    /// Most of these others that wait at once.
    pub max_newcomers: usize,
    /// Most unreachable agents; beyond these, the one that is so for longest is forgotten.
    pub max_unreachable_agents: usize,
}

impl Config {
    pub fn new(master_id: impl Into<String>) -> Self {
        Self {
            master_id: master_id.into(),
            offer_timeout: Some(Duration::from_secs(60)),
            min_refusal: Duration::from_millis(100),
            agent_ping_interval: Duration::from_secs(15),
            max_agent_ping_timeouts: 5,
            agent_reregister_timeout: Duration::from_secs(600),
            max_completed_frameworks: 50,
            max_completed_tasks_per_framework: 1_000,
            min_cpus: 10,
            min_mem: 32_000,
            role_weights: BTreeMap::new(),
            max_frameworks: 10_000,
            max_roles: 100_000,
            max_tasks_per_framework: 100_000,
            max_tasks_per_agent: 2_000,
            max_executors_per_agent: 256,
            max_agents: 50_000,
            liveness_timeout: Duration::from_secs(5),
            max_newcomers: 1_000,
            max_unreachable_agents: 10_000,
        }
    }
}

/// Fields are public to be read; only the kernel writes them.
#[derive(Debug)]
pub struct State {
    pub config: Config,
    pub started: Time,
    pub agents: BTreeMap<AgentId, Agent>,
    pub frameworks: BTreeMap<FrameworkId, Framework>,
    /// The newest last; bounded by `max_completed_frameworks`.
    pub completed_frameworks: VecDeque<Framework>,
    /// How many frameworks have ever been added to `completed_frameworks`.
    pub(super) ever_completed: u64,
    pub offers: BTreeMap<OfferId, Offer>,
    pub counters: Counters,
    /// How many refusals are in force, by role. Counted only where a copy is made.
    pub filters: BTreeMap<Arc<str>, u64>,
    pub(super) streams: BTreeMap<StreamId, FrameworkId>,
    pub(super) links: BTreeMap<LinkId, AgentId>,
    /// Connections that wait until it is certain that their agent's other one is dead.
    pub(super) newcomers: BTreeMap<LinkId, Newcomer>,
    /// The agents that are unreachable, longest first.
    pub(super) unreachable: BTreeSet<(Time, AgentId)>,
    /// How many agents are `recovered`.
    pub(super) recovered_agents: usize,
    pub(super) backlog: VecDeque<Work>,
    /// How many frameworks are `ending`.
    pub(super) ending: usize,
    pub(super) timers: BTreeSet<(Time, Timer)>,
    /// When open offers have been held for too long, in the order of time; may name offers that are gone.
    pub(super) held_offers: VecDeque<(Time, OfferId)>,
    pub(super) allocator: Allocator,
    pub(super) ids: Ids,
}

/// Whose `deadline` a timer is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Agent(AgentId),
    Framework(FrameworkId),
    Newcomer(LinkId),
}

/// A connection under the id of an agent that has one already.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) agent_id: AgentId,
    pub(super) registration: AgentRegistration,
    /// The ping that the other one has to answer, or a later one.
    pub(super) ping_seq: u64,
    pub(super) deadline: Time,
}

/// How many ids of each kind were given.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub(super) frameworks: u64,
    pub(super) agents: u64,
    pub(super) offers: u64,
}

#[derive(Debug)]
pub struct Agent {
    pub info: Arc<AgentInfo>,
    /// `None` while it is not connected.
    pub link: Option<LinkId>,
    pub registered: Time,
    pub reregistered: Option<Time>,
    /// Sum of its tasks that hold resources (see [`Task::holds_resources`]) and of its executors.
    pub used: Resources,
    /// Sum of its open offers.
    pub offered: Resources,
    /// Its shuffle service does not answer: see [`super::AgentMessage::ShuffleService`].
    pub shuffle_service_down: bool,
    pub condition: AgentCondition,
    /// `Some(when)` since the ping budget ran out; its tasks are then UNREACHABLE.
    pub unreachable: Option<Time>,
    /// A previous master knew it; it has not come back yet.
    pub recovered: bool,
    /// Frameworks' own executors, but for those of command tasks.
    pub executors: BTreeMap<(FrameworkId, ExecutorId), Executor>,
    /// Every task in `frameworks[..].tasks` that names this agent.
    pub(super) tasks: BTreeSet<(FrameworkId, TaskId)>,
    /// Its open offers.
    pub(super) offers: BTreeSet<OfferId>,
    /// What its `tasks` weigh.
    pub(super) load: Load,
    /// What frameworks asked to be killed and has not ended yet, in case that the agent did not hear of it.
    pub(super) killed: BTreeMap<(FrameworkId, TaskId), Option<Duration>>,
    /// Its ordinal with the allocator; `None` while it is unreachable or not back yet.
    pub(super) index: Option<AgentIndex>,
    /// The next ping when connected; when it becomes unreachable otherwise.
    pub(super) deadline: Option<Time>,
    pub(super) ping_seq: u64,
    pub(super) unanswered_pings: u32,
    /// The connection that waits to replace `link`.
    pub(super) newcomer: Option<LinkId>,
    /// Whether a message of this connection was refused, and the operator told.
    pub(super) has_lied: bool,
}

#[derive(Debug, Clone)]
pub struct Executor {
    /// Without command and data, which only its agent needs.
    pub info: Arc<ExecutorInfo>,
    /// The role that its resources are allocated to.
    pub role: String,
}

#[derive(Debug)]
pub struct Framework {
    /// Its `id` is set.
    pub info: Arc<FrameworkInfo>,
    /// `None` while it is not connected.
    pub stream: Option<StreamId>,
    pub registered: Time,
    pub reregistered: Time,
    /// When it was removed.
    pub unregistered: Option<Time>,
    /// Disconnected at, while its failover timeout runs.
    pub disconnected: Option<Time>,
    /// Known only from its agents since this master started.
    pub recovered: bool,
    /// It was removed; its tasks and executors are on their way out.
    pub ending: bool,
    pub suppressed_roles: BTreeSet<String>,
    pub tasks: BTreeMap<TaskId, Task>,
    /// The newest last; bounded by `max_completed_tasks_per_framework`.
    pub completed_tasks: VecDeque<Task>,
    /// How often each id is among `completed_tasks`.
    pub(super) completed_ids: BTreeMap<TaskId, usize>,
    /// Scalars only: ranges and sets of different agents do not add up.
    pub used: Resources,
    /// Scalars only.
    pub offered: Resources,
    /// The open offers that it knows of.
    pub(super) offers: BTreeSet<OfferId>,
    /// Its ordinals with the allocator, by role; also of roles that it left while it held resources in them.
    pub(super) clients: BTreeMap<String, ClientIndex>,
    /// The users that agents said it has, until it has said so itself.
    pub(super) reported_users: BTreeMap<AgentId, String>,
    /// When the failover timeout ends.
    pub(super) deadline: Option<Time>,
    pub counters: FrameworkCounters,
}

#[derive(Debug, Clone)]
pub struct Task {
    /// Without command and data, which only its agent needs.
    pub info: Arc<TaskInfo>,
    pub framework_id: FrameworkId,
    /// The role that its resources are allocated to.
    pub role: String,
    /// The latest that is known; updates that the framework has not acknowledged may still be on their way.
    pub state: TaskState,
    /// The newest last; bounded by the number of states a task passes through.
    pub statuses: Vec<TaskStatus>,
}

impl Task {
    /// A task that ended, or that is out of reach, holds none.
    pub fn holds_resources(&self) -> bool {
        holds_resources(self.state)
    }

    /// The end that the framework was told of.
    pub(super) fn reported_end(&self) -> Option<TaskState> {
        self.statuses.last().map(|status| status.state).filter(|state| state.is_terminal())
    }

    /// What the framework was told last.
    pub fn reported_state(&self) -> TaskState {
        self.statuses.last().map_or(self.state, |status| status.state)
    }
}

pub(super) fn holds_resources(state: TaskState) -> bool {
    !state.is_terminal() && state != TaskState::Unreachable
}

impl State {
    /// A master that knows nothing yet.
    pub fn new(config: Config, now: Time) -> Self {
        let settings = Settings {
            min_cpus: config.min_cpus,
            min_mem: config.min_mem,
            role_weights: config.role_weights.clone(),
        };
        Self {
            config,
            started: now,
            agents: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            completed_frameworks: VecDeque::new(),
            ever_completed: 0,
            offers: BTreeMap::new(),
            counters: Counters::default(),
            filters: BTreeMap::new(),
            streams: BTreeMap::new(),
            links: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            recovered_agents: 0,
            backlog: VecDeque::new(),
            ending: 0,
            timers: BTreeSet::new(),
            held_offers: VecDeque::new(),
            allocator: Allocator::new(settings),
            ids: Ids::default(),
        }
    }

    /// A master that knows from a registry which agents a previous one had. Each has `agent_reregister_timeout`
    /// to come back; until then nothing is said about tasks that it may have. Infos without an id are ignored.
    pub fn recover(config: Config, now: Time, agents: impl IntoIterator<Item = AgentInfo>) -> Self {
        let mut state = Self::new(config, now);
        let deadline = now + state.config.agent_reregister_timeout;
        for info in agents {
            let Some(id) = info.id.clone() else { continue };
            let mut agent = Agent::new(info, now);
            agent.recovered = true;
            agent.deadline = Some(deadline);
            state.timers.insert((deadline, Timer::Agent(id.clone())));
            state.agents.insert(id, agent);
        }
        state.recovered_agents = state.agents.len();
        state
    }

    /// When to send [`super::Event::Tick`].
    pub fn next_deadline(&self) -> Option<Time> {
        if self.has_work() {
            return Some(self.started);
        }
        let timer = self.timers.first().map(|&(when, _)| when);
        let offer = self.held_offers.front().map(|&(when, _)| when);
        [timer, offer, self.allocator.next_expiry()].into_iter().flatten().min()
    }

    /// Whether the last step left something over. The next one, which should come soon, goes on with it.
    pub fn has_work(&self) -> bool {
        !self.backlog.is_empty() || self.allocator.has_work()
    }

    /// A framework that has not been removed.
    pub fn live_framework(&self, id: &FrameworkId) -> Option<&Framework> {
        self.frameworks.get(id).filter(|framework| !framework.ending)
    }

    /// Whether this master alone gives such ids.
    pub(super) fn is_of_our_making(&self, id: &str) -> bool {
        self.own_part(id).is_some()
    }

    /// Whether this master alone gives such ids to frameworks. Spark's dispatcher makes those of its drivers of its own:
    /// `<its id>-driver-20260101000000-0001`.
    pub(super) fn is_frameworks_of_our_making(&self, id: &FrameworkId) -> bool {
        self.own_part(id.as_str()).is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// What follows on this master's id.
    fn own_part<'a>(&self, id: &'a str) -> Option<&'a str> {
        id.strip_prefix(&self.config.master_id)?.strip_prefix('-')
    }

    /// Whether the framework has ended, as far as is remembered.
    pub fn is_completed(&self, id: &FrameworkId) -> bool {
        self.completed_frameworks.iter().any(|framework| framework.info.id.as_ref() == Some(id))
    }
}

impl Agent {
    pub(super) fn new(info: AgentInfo, now: Time) -> Self {
        Self {
            info: Arc::new(info),
            link: None,
            registered: now,
            reregistered: None,
            used: Resources::new(),
            offered: Resources::new(),
            shuffle_service_down: false,
            condition: AgentCondition::default(),
            unreachable: None,
            recovered: false,
            executors: BTreeMap::new(),
            tasks: BTreeSet::new(),
            offers: BTreeSet::new(),
            load: Load::default(),
            killed: BTreeMap::new(),
            index: None,
            deadline: None,
            ping_seq: 0,
            unanswered_pings: 0,
            newcomer: None,
            has_lied: false,
        }
    }
}

impl Framework {
    pub(super) fn new(info: impl Into<Arc<FrameworkInfo>>, now: Time) -> Self {
        Self {
            info: info.into(),
            stream: None,
            registered: now,
            reregistered: now,
            unregistered: None,
            disconnected: None,
            recovered: false,
            ending: false,
            suppressed_roles: BTreeSet::new(),
            tasks: BTreeMap::new(),
            completed_tasks: VecDeque::new(),
            completed_ids: BTreeMap::new(),
            used: Resources::new(),
            offered: Resources::new(),
            offers: BTreeSet::new(),
            clients: BTreeMap::new(),
            reported_users: BTreeMap::new(),
            deadline: None,
            counters: FrameworkCounters::default(),
        }
    }

    /// Whether a task of that id is among the completed ones.
    pub(super) fn was_completed(&self, task_id: &TaskId) -> bool {
        self.completed_ids.contains_key(task_id)
    }

    /// Adds to the completed tasks; of those, the newest `limit` are kept.
    pub(super) fn keep_completed(&mut self, task: Task, limit: usize) {
        *self.completed_ids.entry(task.info.task_id.clone()).or_default() += 1;
        self.completed_tasks.push_back(task);
        while self.completed_tasks.len() > limit
            && let Some(oldest) = self.completed_tasks.pop_front()
            && let Some(count) = self.completed_ids.get_mut(&oldest.info.task_id)
        {
            *count -= 1;
            if *count == 0 {
                self.completed_ids.remove(&oldest.info.task_id);
            }
        }
    }
}
