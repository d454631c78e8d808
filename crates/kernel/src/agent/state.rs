//! Everything that an agent knows. Read by the HTTP API; changed by `step` alone.
use super::{Exit, Health, Job, LinkId};
use crate::Time;
use bellows_model::{
    AgentId, AgentInfo, ContainerId, FrameworkId, FrameworkInfo, Resources, TaskId, TaskInfo, TaskState,
    TaskStatus,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Numbers the records in the order in which they are to become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WriteId(pub u64);

/// What an operator sets; defaults are Mesos' where it has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What the agent says of itself; its `id` is in [`State::agent_id`].
    pub info: AgentInfo,
    /// New and random at each start: makes ids of containers and updates unique.
    pub run_id: u64,
    /// Between TERM and KILL, for tasks that do not say.
    pub kill_grace: Duration,
    pub resend_min: Duration,
    pub resend_max: Duration,
    pub removal_retry: Duration,
    /// The agent knows where the machine's shuffle service is, and asks it whether it is there.
    pub shuffle_service: bool,
    /// So long a task waits for it before it fails.
    pub shuffle_service_wait: Duration,
    /// After so many launches in a row that failed for reasons of the agent's own, it stops offering.
    pub failed_launches_limit: u32,
    /// So long at first, longer each time that the next launch fails as well.
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// So long a registration waits for the end of tasks that nobody remembers: their CPUs would be sold twice.
    pub strays_wait: Duration,
    pub max_completed_frameworks: usize,
    pub max_completed_tasks_per_framework: usize,
}

impl Config {
    pub fn new(info: AgentInfo, run_id: u64) -> Self {
        Self {
            info,
            run_id,
            kill_grace: Duration::from_secs(5),
            resend_min: Duration::from_secs(10),
            resend_max: Duration::from_secs(600),
            removal_retry: Duration::from_secs(5),
            shuffle_service: false,
            shuffle_service_wait: Duration::from_secs(60),
            failed_launches_limit: 3,
            pause_min: Duration::from_secs(10),
            pause_max: Duration::from_secs(300),
            strays_wait: Duration::from_secs(30),
            max_completed_frameworks: 50,
            max_completed_tasks_per_framework: 150,
        }
    }
}

/// Fields are public to be read; only the kernel writes them.
#[derive(Debug)]
pub struct State {
    pub config: Config,
    pub started: Time,
    pub agent_id: Option<AgentId>,
    pub master: Master,
    pub frameworks: BTreeMap<FrameworkId, Framework>,
    /// Frameworks that have ended and whose shuffle files are still to be deleted.
    pub removals: BTreeMap<FrameworkId, Removal>,
    /// The newest last.
    pub completed_frameworks: VecDeque<CompletedFramework>,
    pub counters: Counters,
    /// Executors of frameworks that use it would only fail.
    pub shuffle_service_down: bool,
    pub health: Health,
    pub(super) containers: BTreeMap<ContainerId, (FrameworkId, TaskId)>,
    pub(super) timers: BTreeSet<(Time, Timer)>,
    /// Records that somebody waits for, in the order of their ids.
    pub(super) unstored: VecDeque<(WriteId, Waiting)>,
    pub(super) writes: u64,
    pub(super) uuids: u64,
    /// Shuffle directories of unknown frameworks were looked for since the start.
    pub(super) orphans_sought: bool,
    /// The master was told so, and has not answered yet.
    pub(super) retiring: bool,
    /// Containers without a task that are being killed since the start.
    pub(super) strays: BTreeSet<ContainerId>,
    /// The connection that waits for the end of `strays`.
    pub(super) waiting_link: Option<LinkId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Master {
    Disconnected,
    Registering(LinkId),
    Registered(LinkId),
    /// It will not have this agent; the reason.
    Refused(String),
}

#[derive(Debug)]
pub struct Framework {
    /// Its `id` is set.
    pub info: Arc<FrameworkInfo>,
    pub tasks: BTreeMap<TaskId, Task>,
    /// The newest last.
    pub completed_tasks: VecDeque<Task>,
    /// The master said that it has ended: nothing is launched and nothing reported any more.
    pub ending: bool,
}

#[derive(Debug)]
pub struct CompletedFramework {
    pub info: Arc<FrameworkInfo>,
    pub completed_tasks: VecDeque<Task>,
}

#[derive(Debug, Clone)]
pub struct Task {
    pub info: Arc<TaskInfo>,
    pub framework_id: FrameworkId,
    pub container_id: ContainerId,
    pub phase: Phase,
    /// Somebody wants it dead: its end is KILLED, however it comes.
    pub kill: Option<Duration>,
    /// The whole history, the oldest first; a handful.
    pub statuses: Vec<TaskStatus>,
    /// So many of them are durable, so many acknowledged.
    pub stored: usize,
    pub acknowledged: usize,
    /// Of the oldest that is not acknowledged.
    pub in_flight: Option<InFlight>,
    /// Came before the news of its start.
    pub(super) early_exit: Option<(Exit, String)>,
    /// The containment remembers it, as long as its end is not durable here.
    pub(super) contained: bool,
    /// It is killed for lack of the shuffle service: its end is a failure.
    pub(super) given_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Until its record is durable.
    Storing,
    /// Until an older removal of its framework's files is over, and the shuffle service answers if it needs that.
    Held,
    Fetching,
    Launching,
    Running {
        pid: u32,
    },
    /// Its last status is terminal, and waits for acknowledgement.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    pub due: Time,
    pub interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Its last process is not gone yet.
    Blocked,
    UnderWay {
        attempt: u32,
    },
    Retry {
        attempt: u32,
        due: Time,
    },
}

/// Monotone counts for `/metrics`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    pub registrations: u64,
    pub tasks_launched: u64,
    pub launch_errors: u64,
    pub fetches: u64,
    pub fetch_errors: u64,
    /// Messages to executors: command tasks listen to none.
    pub stray_messages: u64,
    pub executors_terminated: u64,
    pub statuses_sent: u64,
    pub statuses_resent: u64,
    /// Acknowledgements of what nobody waits for.
    pub stray_acknowledgements: u64,
    pub store_errors: u64,
    pub shuffle_removals: u64,
    pub shuffle_removal_errors: u64,
    /// Terminal states by name.
    pub tasks_ended: BTreeMap<TaskState, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Resend(ContainerId),
    Removal(FrameworkId),
    /// The task has waited for the shuffle service for long enough.
    ShuffleService(ContainerId),
    /// Offers are made again.
    Pause,
    /// Strays that have not ended by now may never do.
    Strays,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiting {
    Launch(ContainerId),
    Status(ContainerId),
}

impl State {
    /// The run in a container that nobody has asked to end; `None` also where nothing is known of it.
    pub fn unkilled_job(&self, container_id: &ContainerId) -> Option<Job> {
        let (framework_id, task_id) = self.containers.get(container_id)?;
        let framework = self.frameworks.get(framework_id).filter(|framework| !framework.ending)?;
        let task = framework.tasks.get(task_id).filter(|task| task.kill.is_none())?;
        Some(Job {
            framework: Arc::clone(&framework.info),
            framework_id: framework_id.clone(),
            task: Arc::clone(&task.info),
            container_id: container_id.clone(),
        })
    }

    /// An agent that nothing is known of yet.
    pub fn new(config: Config, now: Time) -> Self {
        Self {
            config,
            started: now,
            agent_id: None,
            master: Master::Disconnected,
            frameworks: BTreeMap::new(),
            removals: BTreeMap::new(),
            completed_frameworks: VecDeque::new(),
            counters: Counters::default(),
            shuffle_service_down: false,
            health: Health::default(),
            containers: BTreeMap::new(),
            timers: BTreeSet::new(),
            unstored: VecDeque::new(),
            writes: 0,
            uuids: 0,
            orphans_sought: false,
            retiring: false,
            strays: BTreeSet::new(),
            waiting_link: None,
        }
    }

    /// When `step` wants an [`super::Event::Tick`].
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.frameworks.values().flat_map(|framework| framework.tasks.values())
    }

    /// The task whose run this is, until its end was acknowledged.
    pub fn task_of(&self, container_id: &ContainerId) -> Option<&Task> {
        let (framework_id, task_id) = self.containers.get(container_id)?;
        self.frameworks.get(framework_id)?.tasks.get(task_id)
    }

    /// What tasks that have not ended hold.
    pub fn used(&self) -> Resources {
        let mut used = Resources::new();
        self.tasks()
            .filter(|task| task.phase != Phase::Ended)
            .for_each(|task| used.add(&task.info.resources));
        used
    }

    /// Tasks whose processes run, or may be about to.
    pub fn busy(&self) -> usize {
        self.tasks().filter(|task| task.phase != Phase::Ended).count()
    }

    /// Frameworks whose files are going, or will as soon as their last process is gone. Failed attempts do not count.
    pub fn removals_under_way(&self) -> usize {
        self.removals.values().filter(|removal| !matches!(removal, Removal::Retry { .. })).count()
    }

    pub fn link(&self) -> Option<LinkId> {
        match self.master {
            Master::Registering(link) | Master::Registered(link) => Some(link),
            Master::Disconnected | Master::Refused(_) => None,
        }
    }
}

impl Task {
    /// STAGING until there is anything to say.
    pub fn latest_state(&self) -> TaskState {
        self.statuses.last().map_or(TaskState::Staging, |status| status.state)
    }

    /// The oldest status that is not acknowledged, of one that is stored; and the newest stored state.
    pub(super) fn to_send(&self) -> (TaskStatus, TaskState) {
        (self.statuses[self.acknowledged].clone(), self.statuses[self.stored - 1].state)
    }
}

/// What holds after every step; the first thing that does not.
pub fn invariants(state: &State) -> Result<(), String> {
    let check = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
    check(state.containers.len() == state.tasks().count(), "a container without its task".into())?;
    check(
        state.unstored.iter().map(|(write, _)| *write).is_sorted_by(|a, b| a < b),
        "unordered writes".into(),
    )?;
    state.health.invariants(|due| state.timers.contains(&(due, Timer::Pause)))?;
    for (framework_id, framework) in &state.frameworks {
        check(
            framework.info.id.as_ref() == Some(framework_id),
            format!("{framework_id:?} under another name"),
        )?;
        check(
            !framework.ending || !framework.tasks.is_empty(),
            format!("{framework_id:?} has ended and is still there"),
        )?;
        if framework.ending {
            let removal = state.removals.get(framework_id);
            check(
                matches!(removal, Some(Removal::Blocked)),
                format!("{framework_id:?} is ending with removal {removal:?}"),
            )?;
        }
        for task in framework.tasks.values() {
            invariants_of_task(state, framework, task)
                .map_err(|what| format!("{framework_id:?} {:?}: {what}", task.info.task_id))?;
        }
    }
    for (framework_id, removal) in &state.removals {
        let due = |due: &Time| state.timers.contains(&(*due, Timer::Removal(framework_id.clone())));
        check(
            !matches!(removal, Removal::Retry { due: at, .. } if !due(at)),
            format!("{framework_id:?} is never removed"),
        )?;
        let living = state.frameworks.get(framework_id);
        let running = living.is_some_and(|framework| {
            framework
                .tasks
                .values()
                .any(|task| matches!(task.phase, Phase::Fetching | Phase::Launching | Phase::Running { .. }))
        });
        check(
            matches!(removal, Removal::Blocked) || !running,
            format!("files of {framework_id:?} are deleted under its tasks"),
        )?;
    }
    Ok(())
}

fn invariants_of_task(state: &State, framework: &Framework, task: &Task) -> Result<(), String> {
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {task:?}")) };
    let known = state.containers.get(&task.container_id);
    check(known == Some(&(task.framework_id.clone(), task.info.task_id.clone())), "unknown container")?;
    let terminal = task.statuses.iter().position(|status| status.state.is_terminal());
    check(terminal.is_none_or(|at| at + 1 == task.statuses.len()), "a terminal state is not final")?;
    if framework.ending {
        check(
            matches!(task.phase, Phase::Launching | Phase::Running { .. }) && task.kill.is_some(),
            "kept for no reason",
        )?;
        return check(task.in_flight.is_none(), "in flight for nobody");
    }
    let waits = |(_, timer): &(Time, Timer)| *timer == Timer::ShuffleService(task.container_id.clone());
    check(!task.is_unannounced() || state.timers.iter().any(waits), "never said to run")?;
    check(terminal.is_some() == (task.phase == Phase::Ended), "the phase contradicts the last status")?;
    check(task.acknowledged <= task.stored && task.stored <= task.statuses.len(), "counts")?;
    check(
        task.phase != Phase::Ended || task.acknowledged < task.statuses.len(),
        "remembered after the last acknowledgement",
    )?;
    let sendable = task.acknowledged < task.stored && matches!(state.master, Master::Registered(_));
    check(task.in_flight.is_some() == sendable, "the oldest stored status is in flight, and nothing else")?;
    if let Some(InFlight { due, .. }) = task.in_flight {
        let timer = (due, Timer::Resend(task.container_id.clone()));
        check(state.timers.contains(&timer), "never sent again")?;
    }
    Ok(())
}
