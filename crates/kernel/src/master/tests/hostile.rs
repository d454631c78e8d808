//! Agents and frameworks that say whatever they like. After every step the invariants hold, and nothing panics.
//!
//! Names come from small pools, so that lies meet what is there: ids of others, ids that the master gave or will give,
//! tasks that run, offers of somebody else.
use super::support::*;
use crate::master::{
    AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, Config, Event, LinkId, RequestId, State,
};
use bellows_model::{
    AgentId, AgentInfo, ExecutorInfo, Filters, FrameworkId, FrameworkInfo, Label, OfferId, Operation,
    Resources, Source, StatusUuid, StreamId, TaskInfo, TaskState, TaskStatus,
};
use proptest::{prelude::*, sample::select};
use std::time::Duration;

const AGENTS: [&str; 7] = ["m-S0", "m-S1", "m-S2", "m-S9", "old-S0", "old-S1", "m-x"];
const FRAMEWORKS: [&str; 7] = ["m-0000", "m-0001", "m-0002", "m-0009", "old-0000", "old-0001", "m-S0"];
const TASKS: [&str; 4] = ["t0", "t1", "t2", "../t"];
const ROLES: [&str; 3] = ["*", "etl", "web"];
const SIZES: [&str; 14] = [
    "",
    "cpus:0.1",
    "cpus:1;mem:64",
    "cpus:1;mem:64;ports:[1-5]",
    "ports:[3-9]",
    "ports:[0-18446744073709551615]",
    "cpus:4;mem:4096;ports:[1-9];zones:{a,b}",
    "cpus:4;cpus(etl):4;mem:4096;mem(web):100;ports:[1-20]",
    "cpus(etl):1",
    "zones:{a}",
    "cpus:100000000000;mem:100000000000;disk:100000000000;gpus:100000000000",
    "cpus(etl):100000000000;mem:99999999999.999;made up:100000000000",
    "mem:0.001",
    "cpus:64;mem:64000;ports:[1-20];zones:{a,b}",
];

fn text(pool: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    select(pool)
}

fn size() -> impl Strategy<Value = Resources> {
    text(&SIZES).prop_map(resources)
}

fn state() -> impl Strategy<Value = TaskState> {
    prop_oneof![3 => Just(TaskState::Running), 2 => select(&TaskState::ALL)]
}

fn duration() -> impl Strategy<Value = Duration> {
    let extreme = select(vec![Duration::ZERO, Duration::MAX, Duration::from_micros(u64::MAX)]);
    prop_oneof![3 => (0..100u64).prop_map(Duration::from_secs), 1 => extreme]
}

fn framework() -> impl Strategy<Value = FrameworkInfo> {
    let id = prop_oneof![Just(None), text(&FRAMEWORKS).prop_map(Some)];
    let roles = prop::collection::vec(text(&ROLES), 1..3);
    (id, roles, select(vec!["root", "mallory"]), duration(), any::<bool>()).prop_map(
        |(id, roles, user, failover_timeout, aware)| {
            let plain = framework_info("f");
            let capabilities = if aware { plain.capabilities.clone() } else { vec![] };
            FrameworkInfo {
                id: id.map(FrameworkId::from),
                roles: roles.into_iter().map(Into::into).collect(),
                user: user.into(),
                failover_timeout,
                capabilities,
                // A framework that uses the shuffle service, or not.
                labels: if aware { vec![shuffle_service_label()] } else { vec![] },
                ..plain
            }
        },
    )
}

fn an_executor() -> impl Strategy<Value = Option<ExecutorInfo>> {
    prop::option::of(
        (text(&["e0", "e1"]), size())
            .prop_map(|(id, size)| ExecutorInfo { resources: size, ..executor(id, "") }),
    )
}

fn a_task() -> impl Strategy<Value = TaskInfo> {
    (text(&TASKS), text(&AGENTS), size(), an_executor(), duration()).prop_map(
        |(id, agent, size, executor, grace)| {
            let plain = task(id, &agent.into(), "");
            let command = plain.command.clone().filter(|_| executor.is_none());
            let labels = vec![Label { key: id.into(), value: None }];
            TaskInfo { resources: size, command, executor, kill_grace: Some(grace), labels, ..plain }
        },
    )
}

fn registration() -> impl Strategy<Value = AgentRegistration> {
    let tasks = (text(&FRAMEWORKS), a_task(), state(), any::<bool>()).prop_map(|(id, info, state, own)| {
        (AgentTask { framework_id: id.into(), info, latest_state: state }, own)
    });
    let id = prop::option::of(text(&AGENTS));
    let lists = (prop::collection::vec(tasks, 0..5), prop::collection::vec(framework(), 0..3));
    (id, size(), 0..4u16, lists, any::<bool>()).prop_map(|(id, size, port, (tasks, frameworks), down)| {
        let info = AgentInfo { id: id.map(AgentId::from), resources: size, ..agent_info(port, "") };
        let tasks = tasks.into_iter().map(|(mut task, own)| {
            // Most get past the first check.
            if let (true, Some(id)) = (own, &info.id) {
                task.info.agent_id = id.clone();
            }
            task
        });
        AgentRegistration {
            tasks: tasks.collect(),
            info,
            frameworks,
            shuffle_service_down: down,
            condition: AgentCondition::default(),
        }
    })
}

fn message() -> impl Strategy<Value = AgentMessage> {
    let update = (text(&FRAMEWORKS), text(&TASKS), state(), state(), 0..8u8).prop_map(
        |(framework, task, state, latest_state, kind)| {
            let status = TaskStatus {
                source: [Source::Executor, Source::Agent, Source::Master][usize::from(kind) % 3],
                uuid: (kind != 7).then_some(StatusUuid([kind; 16])),
                timestamp: f64::MAX,
                ..status(task, state, 0)
            };
            AgentMessage::StatusUpdate { framework_id: framework.into(), status, latest_state }
        },
    );
    let executor =
        (text(&FRAMEWORKS), text(&["e0", "e1"]), any::<bool>()).prop_map(|(framework, id, ended)| {
            let (framework_id, executor_id) = (framework.into(), id.into());
            match ended {
                true => AgentMessage::ExecutorTerminated { framework_id, executor_id, status: i32::MIN },
                false => AgentMessage::ExecutorMessage { framework_id, executor_id, data: vec![0; 9] },
            }
        });
    let pong = prop_oneof![0..6u64, Just(u64::MAX)].prop_map(|seq| AgentMessage::Pong { seq });
    let service = any::<bool>().prop_map(|down| AgentMessage::ShuffleService { down });
    let condition = any::<bool>()
        .prop_map(|paused| AgentMessage::Condition(AgentCondition { paused, troubles: vec!["x".into()] }));
    prop_oneof![8 => update, 4 => executor, 2 => pong, 2 => service, 2 => condition, 1 => Just(AgentMessage::Unregister)]
}

/// Which offers a call names, out of those that there are.
#[derive(Debug, Clone)]
enum Hostile {
    Register(u64, AgentRegistration),
    /// A registration that is as the master knows the agent, but for its resources.
    Again(usize, u64, Resources, TaskState),
    Close(u64),
    Say(usize, AgentMessage),
    Subscribe(FrameworkInfo, Vec<&'static str>),
    Hangup(usize),
    Accept {
        framework: usize,
        offers: Vec<usize>,
        tasks: Vec<(TaskInfo, bool)>,
        refuse: Option<Duration>,
    },
    Call(usize, Call),
    Teardown(usize),
    Pass(Duration),
}

fn call() -> impl Strategy<Value = Call> {
    let task = (text(&TASKS), prop::option::of(text(&AGENTS)));
    let named = task.prop_map(|(task, agent)| (task.into(), agent.map(Into::into)));
    let roles = prop::collection::vec(text(&ROLES), 0..3)
        .prop_map(|roles| roles.into_iter().map(Into::into).collect::<Vec<String>>());
    prop_oneof![
        named.clone().prop_map(|(task_id, agent_id)| Call::Kill {
            task_id,
            agent_id,
            grace: Some(Duration::MAX)
        }),
        prop::collection::vec(named, 0..4).prop_map(|tasks| Call::Reconcile { tasks }),
        roles.clone().prop_map(|roles| Call::Revive { roles }),
        roles.prop_map(|roles| Call::Suppress { roles }),
        framework().prop_map(|info| Call::UpdateFramework { info, suppressed_roles: vec![] }),
        (text(&AGENTS), text(&TASKS), 0..8u8).prop_map(|(agent, task, uuid)| Call::Acknowledge {
            agent_id: agent.into(),
            task_id: task.into(),
            uuid: StatusUuid([uuid; 16]),
        }),
        text(&AGENTS).prop_map(|agent| Call::Shutdown { executor_id: "e0".into(), agent_id: agent.into() }),
        (text(&AGENTS), 0..2usize).prop_map(|(agent, long)| Call::Message {
            executor_id: "e0".into(),
            agent_id: agent.into(),
            data: vec![0; long << 21],
        }),
        Just(Call::Teardown),
    ]
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let index = 0..64usize;
    let accept = (
        index.clone(),
        prop::collection::vec(0..64usize, 0..3),
        prop::collection::vec((a_task(), prop::bool::weighted(0.8)), 0..4),
        prop::option::of(duration()),
    );
    prop_oneof![
        4 => (0..12u64, registration()).prop_map(|(link, registration)| Hostile::Register(link, registration)),
        3 => (index.clone(), 0..12u64, size(), state())
            .prop_map(|(agent, link, size, state)| Hostile::Again(agent, link, size, state)),
        1 => (0..12u64).prop_map(Hostile::Close),
        6 => (index.clone(), message()).prop_map(|(link, message)| Hostile::Say(link, message)),
        3 => (framework(), prop::collection::vec(text(&ROLES), 0..2))
            .prop_map(|(info, suppressed)| Hostile::Subscribe(info, suppressed)),
        1 => index.clone().prop_map(Hostile::Hangup),
        6 => accept.prop_map(|(framework, offers, tasks, refuse)|
            Hostile::Accept { framework, offers, tasks, refuse }),
        4 => (index.clone(), call()).prop_map(|(framework, call)| Hostile::Call(framework, call)),
        1 => index.prop_map(Hostile::Teardown),
        2 => prop_oneof![1..20u64, Just(80), Just(700)]
            .prop_map(|seconds| Hostile::Pass(Duration::from_secs(seconds))),
    ]
}

fn pick<T>(mut all: impl ExactSizeIterator<Item = T>, index: usize) -> Option<T> {
    let count = all.len();
    if count == 0 { None } else { all.nth(index % count) }
}

/// What the master knows of an agent, told by an agent.
fn as_known(state: &State, agent: &AgentId, size: Resources, latest_state: TaskState) -> AgentRegistration {
    let known = &state.agents[agent];
    let info = |key: &(FrameworkId, bellows_model::TaskId)| &state.frameworks[&key.0].tasks[&key.1].info;
    let tasks = known.tasks.iter().map(|key| AgentTask {
        framework_id: key.0.clone(),
        info: (**info(key)).clone(),
        latest_state,
    });
    AgentRegistration {
        tasks: tasks.collect(),
        info: AgentInfo { resources: size, ..(*known.info).clone() },
        frameworks: state.frameworks.values().map(|framework| (*framework.info).clone()).collect(),
        shuffle_service_down: known.shuffle_service_down,
        condition: known.condition.clone(),
    }
}

fn perform(master: &mut Master, hostile: Hostile) {
    match hostile {
        Hostile::Register(link, registration) => {
            master.step(Event::AgentRegister { link: LinkId(link), registration });
        }
        Hostile::Again(agent, link, size, state) => {
            if let Some(agent) = pick(master.state.agents.keys(), agent) {
                let registration = as_known(&master.state, agent, size, state);
                master.step(Event::AgentRegister { link: LinkId(link), registration });
            }
        }
        Hostile::Close(link) => {
            master.step(Event::LinkClosed { link: LinkId(link) });
        }
        Hostile::Say(link, message) => {
            if let Some(&link) = pick(master.state.links.keys(), link) {
                master.step(Event::Agent { link, message });
            }
        }
        Hostile::Subscribe(info, suppressed) => {
            let number = master.number();
            master.step(Event::Subscribe {
                request: RequestId(number),
                stream: StreamId::new(format!("stream{number}")),
                info,
                suppressed_roles: suppressed.into_iter().map(Into::into).collect(),
            });
        }
        Hostile::Hangup(stream) => {
            if let Some(stream) = pick(master.state.streams.keys(), stream).cloned() {
                master.step(Event::StreamClosed { stream });
            }
        }
        Hostile::Accept { framework, offers, tasks, refuse } => {
            let offers = offers.iter().filter_map(|&index| pick(master.state.offers.values(), index));
            let offers: Vec<_> = offers.cloned().collect();
            let tasks = tasks.into_iter().map(|(mut task, fits)| {
                // Most name the agent that was offered.
                if let (true, Some(offer)) = (fits, offers.first()) {
                    task.agent_id = offer.agent_id.clone();
                }
                task
            });
            let operations = vec![Operation::Launch(tasks.collect())];
            let offer_ids: Vec<OfferId> = offers.iter().map(|offer| offer.id.clone()).collect();
            let accept = Call::Accept { offer_ids, operations, filters: Filters { refuse } };
            // Most are the ones that were offered something.
            let owner = offers.first().map(|offer| offer.framework_id.clone()).filter(|_| framework % 8 > 0);
            if let Some(framework) =
                owner.or_else(|| pick(master.state.frameworks.keys(), framework).cloned())
            {
                say(master, framework, accept);
            }
        }
        Hostile::Call(framework, call) => {
            if let Some(framework) = pick(master.state.frameworks.keys(), framework).cloned() {
                say(master, framework, call);
            }
        }
        Hostile::Teardown(framework) => {
            if let Some(framework_id) = pick(master.state.frameworks.keys(), framework).cloned() {
                master.step(Event::OperatorTeardown { request: RequestId(0), framework_id });
            }
        }
        Hostile::Pass(duration) => {
            master.pass(duration);
        }
    }
}

fn say(master: &mut Master, framework: FrameworkId, call: Call) {
    let stream = master.state.frameworks.get(&framework).and_then(|known| known.stream.clone());
    let stream = stream.unwrap_or_else(|| "none".into());
    master.call_on(&framework, &stream, call);
}

proptest! {
    /// `PROPTEST_CASES=100000` makes a long run (in release).
    #[test]
    fn whatever_they_say(lies in prop::collection::vec(hostile(), 1..100)) {
        let mut config = Config::new("m");
        config.max_frameworks = 5;
        config.max_agents = 5;
        config.max_unreachable_agents = 2;
        config.max_roles = 9;
        config.max_tasks_per_agent = 6;
        config.max_tasks_per_framework = 9;
        config.max_newcomers = 2;
        let mut master = Master::with(config);
        for lie in lies {
            perform(&mut master, lie);
        }
    }
}
