//! A framework's scheduler: takes offers, watches its tasks, and checks that what it is told makes sense.
use crate::random::Random;
use bellows_kernel::master::{Call, SchedulerEvent};
use bellows_model::{
    AgentId, Capability, CommandInfo, Filters, FrameworkId, FrameworkInfo, Offer, OfferId, Operation, Reason,
    Resources, Source, StatusUuid, TaskId, TaskInfo, TaskState, TaskStatus,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub(crate) struct Scheduler {
    pub(crate) info: FrameworkInfo,
    /// The stream it is subscribed on, or tries to be.
    pub(crate) connection: Option<u64>,
    /// Its process is gone for good, or its framework has ended.
    pub(crate) over: bool,
    /// It never comes back when it loses its connection.
    pub(crate) mortal: bool,
    pub(crate) tasks: BTreeMap<TaskId, Known>,
    held: Vec<Offer>,
    /// Offers that it was told are no more.
    rescinded: BTreeSet<OfferId>,
    last_task: u64,
}

/// What it knows of a task that it wanted launched.
pub(crate) struct Known {
    agent_id: AgentId,
    offer_id: OfferId,
    /// The terminal state that it was told, and how many masters there had been by then.
    pub(crate) end: Option<(TaskState, u64)>,
    seen: BTreeSet<StatusUuid>,
    furthest: u8,
}

/// What a scheduler wants, now and from now on.
pub(crate) struct Mood {
    /// It wants no tasks any more, and the ones that it has to end.
    pub(crate) winding_down: bool,
    /// All agents are back for long: what the master does not know of now is nowhere.
    pub(crate) settled: bool,
    /// How many masters there were.
    pub(crate) masters: u64,
    /// Nothing ever breaks.
    pub(crate) faultless: bool,
    /// Some lie. The id of an agent that is gone may then be that of one which is out of reach, for ever.
    pub(crate) lies: bool,
}

/// States of tasks whose fate nobody saw, or that never began.
fn is_given_up(state: TaskState) -> bool {
    use TaskState::*;
    matches!(state, Lost | Dropped | Gone | GoneByOperator | Unreachable | Unknown)
}

fn stage(state: TaskState) -> u8 {
    match state {
        TaskState::Staging => 0,
        TaskState::Starting => 1,
        TaskState::Running => 2,
        TaskState::Killing => 3,
        _ => 4,
    }
}

impl Scheduler {
    pub(crate) fn new(number: usize, random: &mut Random) -> Self {
        let roles: &[&str] = match random.below(4) {
            0 => &["etl"],
            1 => &["*", "etl"],
            _ => &["*"],
        };
        let mut capabilities = vec![Capability::MultiRole];
        if random.percent(60) {
            capabilities.push(Capability::PartitionAware);
        }
        if random.percent(50) {
            capabilities.push(Capability::TaskKillingState);
        }
        Self {
            info: FrameworkInfo {
                id: None,
                name: format!("framework {number}"),
                user: "nobody".into(),
                principal: None,
                roles: roles.iter().map(|role| (*role).to_owned()).collect(),
                hostname: String::new(),
                webui_url: None,
                failover_timeout: Duration::from_secs([0, 30, 300][random.below(3)]),
                checkpoint: true,
                capabilities,
                labels: Vec::new(),
            },
            connection: None,
            over: false,
            mortal: random.percent(10),
            tasks: BTreeMap::new(),
            held: Vec::new(),
            rescinded: BTreeSet::new(),
            last_task: 0,
        }
    }

    pub(crate) fn id(&self) -> Option<&FrameworkId> {
        self.info.id.as_ref()
    }

    pub(crate) fn lost_connection(&mut self) {
        self.connection = None;
        self.held.clear();
    }

    /// Tasks that it does not know to have ended.
    pub(crate) fn open_tasks(&self) -> impl Iterator<Item = (&TaskId, &Known)> {
        self.tasks.iter().filter(|(_, known)| known.end.is_none())
    }

    /// Reacts to an event; the calls that it makes.
    pub(crate) fn on_event(&mut self, event: SchedulerEvent, mood: &Mood, random: &mut Random) -> Vec<Call> {
        match event {
            SchedulerEvent::Subscribed { framework_id } => {
                if let Some(id) = self.id() {
                    assert_eq!(*id, framework_id, "another id than it had");
                }
                self.info.id = Some(framework_id);
                Vec::new()
            }
            SchedulerEvent::Offers(offers) => {
                offers.into_iter().filter_map(|offer| self.on_offer(offer, mood, random)).collect()
            }
            SchedulerEvent::Rescind(id) => {
                self.held.retain(|offer| offer.id != id);
                self.rescinded.insert(id);
                Vec::new()
            }
            SchedulerEvent::Update(status) => self.on_update(&status, mood, random),
            SchedulerEvent::Error(message) => {
                if message != "Framework failed over" {
                    assert_eq!(message, "Framework has been removed");
                    self.over = true;
                }
                Vec::new()
            }
            SchedulerEvent::Message { .. } | SchedulerEvent::Failure { .. } => Vec::new(),
        }
    }

    fn on_offer(&mut self, offer: Offer, mood: &Mood, random: &mut Random) -> Option<Call> {
        assert_eq!(Some(&offer.framework_id), self.id(), "somebody else's offer");
        let foreign = offer
            .resources
            .iter()
            .any(|item| item.reserved_for.as_deref().is_some_and(|role| role != offer.role));
        assert!(!foreign && self.info.roles.contains(&offer.role), "{offer:?}");
        let offer_ids = vec![offer.id.clone()];
        let refuse = [None, Some(0), Some(1_000), Some(5_000), Some(120_000)][random.below(5)];
        let refuse = refuse.map(Duration::from_millis);
        let filters = Filters { refuse };
        if mood.winding_down {
            return Some(Call::Decline {
                offer_ids,
                filters: Filters { refuse: Some(Duration::from_secs(3_600)) },
            });
        }
        match random.below(10) {
            0 => {
                self.held.push(offer);
                None
            }
            1..=3 => Some(Call::Decline { offer_ids, filters }),
            _ => Some(self.accept(&offer, filters, random)),
        }
    }

    fn accept(&mut self, offer: &Offer, filters: Filters, random: &mut Random) -> Call {
        let count = random.below(4);
        let tasks = (0..count).map(|_| {
            self.last_task += 1;
            let task_id = TaskId::new(format!("t{}", self.last_task));
            let known = Known {
                agent_id: offer.agent_id.clone(),
                offer_id: offer.id.clone(),
                end: None,
                seen: BTreeSet::new(),
                furthest: 0,
            };
            self.tasks.insert(task_id.clone(), known);
            task(task_id, offer, random)
        });
        let operations = vec![Operation::Launch(tasks.collect())];
        Call::Accept { offer_ids: vec![offer.id.clone()], operations, filters }
    }

    fn on_update(&mut self, status: &TaskStatus, mood: &Mood, random: &mut Random) -> Vec<Call> {
        // Some agent that lies says that it has it.
        if status.task_id.as_str().starts_with('x') {
            return Vec::new();
        }
        let Some(known) = self.tasks.get_mut(&status.task_id) else {
            panic!("an update about a task that was never launched: {status:?}")
        };
        // A new master may still learn of a task that it says is unknown.
        let answer = status.source == Source::Master && status.reason == Some(Reason::Reconciliation);
        if mood.faultless && is_given_up(status.state) {
            // The one way: the ACCEPT crossed the end of its offer, of which the scheduler was told before. Besides, it
            // may have asked about a task that was refused before it heard so.
            let crossed =
                status.reason == Some(Reason::InvalidOffers) && self.rescinded.contains(&known.offer_id);
            let late = answer && known.end.is_some();
            let by_master = status.source == Source::Master;
            assert!(by_master && (crossed || late), "given up for no reason: {status:?}");
        }
        let unknown = status.state == TaskState::Unknown
            || mood.lies && mood.settled && status.state == TaskState::Unreachable;
        let terminal = status.state.is_terminal() || answer && unknown;
        if let Some((end, masters)) = known.end
            && masters == mood.masters
            && !answer
        {
            assert_eq!(end, status.state, "a terminal state is final: {status:?}");
        }
        if terminal && known.end.is_none() && (!answer || mood.settled) {
            known.end = Some((status.state, mood.masters));
        }
        let (Some(uuid), Some(agent_id)) = (status.uuid, status.agent_id.clone()) else { return Vec::new() };
        if known.seen.insert(uuid) {
            assert!(stage(status.state) >= known.furthest, "out of order: {status:?}");
            known.furthest = stage(status.state);
        }
        if !mood.winding_down && random.percent(5) {
            return Vec::new();
        }
        vec![Call::Acknowledge { agent_id, task_id: status.task_id.clone(), uuid }]
    }

    /// What it does by itself from time to time.
    pub(crate) fn act(&mut self, mood: &Mood, random: &mut Random) -> Vec<Call> {
        let open: Vec<_> =
            self.open_tasks().map(|(id, known)| (id.clone(), known.agent_id.clone())).collect();
        let kill = |(task_id, agent_id): (TaskId, AgentId)| Call::Kill {
            task_id,
            agent_id: Some(agent_id),
            grace: None,
        };
        if mood.winding_down {
            let tasks = open.iter().map(|(task, agent)| (task.clone(), Some(agent.clone()))).collect();
            let reconcile = (!open.is_empty()).then_some(Call::Reconcile { tasks });
            return open.into_iter().map(kill).chain(reconcile).collect();
        }
        match random.below(10) {
            0..=2 => random.pick(&open).cloned().map(kill).into_iter().collect(),
            3 => vec![Call::Reconcile { tasks: Vec::new() }],
            4 => {
                let tasks = open.into_iter().map(|(task, agent)| (task, random.percent(50).then_some(agent)));
                vec![Call::Reconcile { tasks: tasks.collect() }]
            }
            5 => vec![Call::Suppress { roles: Vec::new() }],
            6 | 7 => vec![Call::Revive { roles: Vec::new() }],
            // Held for long, and perhaps not there any more.
            8 => {
                let held = self.held.pop();
                held.map(|offer| self.accept(&offer, Filters::default(), random)).into_iter().collect()
            }
            _ => {
                let mut info = self.info.clone();
                info.webui_url = Some(format!("http://{}", random.below(3)));
                self.info = info.clone();
                vec![Call::UpdateFramework { info, suppressed_roles: Vec::new() }]
            }
        }
    }
}

fn task(task_id: TaskId, offer: &Offer, random: &mut Random) -> TaskInfo {
    let size = match random.below(20) {
        0 => "cpus:1;mem:16000",
        1 => "cpus(etl):1",
        2..=10 => "cpus:0.1;mem:64",
        _ => "cpus:0.5;mem:256",
    };
    TaskInfo {
        name: task_id.to_string(),
        task_id,
        agent_id: offer.agent_id.clone(),
        resources: Resources::parse(size).expect("invariant: a constant"),
        command: Some(CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() }),
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    }
}
