//! What peers can make a master keep, send or do has a bound, and reaching it costs nobody else.
use super::support::*;
use crate::master::{
    Action, AgentCommand, AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, CallError,
    Config, Event, LinkId, Observation, SchedulerEvent, StateCopy,
};
use bellows_model::{
    AgentId, AgentInfo, FrameworkId, FrameworkInfo, Label, TaskInfo, TaskState, TaskStatus, limits,
};
use std::{sync::Arc, time::Duration};

fn error(outcome: &Outcome) -> Option<&str> {
    outcome.events().into_iter().find_map(|(_, event)| match event {
        SchedulerEvent::Error(why) => Some(why.as_str()),
        _ => None,
    })
}

fn told_to_wait(outcome: &Outcome) -> bool {
    outcome.commands().iter().any(|command| matches!(command, AgentCommand::TryLater { .. }))
}

/// What an agent of a previous master has of frameworks that nobody knows any more: one task of each.
fn from_before(agent: &str, port: u16, frameworks: std::ops::Range<usize>, user: &str) -> AgentRegistration {
    let info = AgentInfo { id: Some(agent.into()), ..agent_info(port, "cpus:4000;mem:4096") };
    let ids: Vec<FrameworkId> = frameworks.map(|n| format!("old-{n:04}").into()).collect();
    let framework = |id: &FrameworkId| FrameworkInfo {
        id: Some(id.clone()),
        user: user.into(),
        ..framework_info("from before")
    };
    let task = |id: &FrameworkId| AgentTask {
        framework_id: id.clone(),
        info: task(&format!("t-{agent}"), &agent.into(), "cpus:1"),
        latest_state: TaskState::Running,
    };
    AgentRegistration {
        info,
        frameworks: ids.iter().map(framework).collect(),
        tasks: ids.iter().map(task).collect(),
        shuffle_service_down: false,
        condition: AgentCondition::default(),
    }
}

fn report_of(tasks: &[TaskInfo], framework: &FrameworkId, state: TaskState) -> Vec<AgentTask> {
    let of = |info: &TaskInfo| AgentTask {
        framework_id: framework.clone(),
        info: info.without_secrets(),
        latest_state: state,
    };
    tasks.iter().map(of).collect()
}

#[test]
fn an_agent_can_always_report_what_it_was_given() {
    let mut master = Master::new();
    let (agent, link, _) = master.agent("cpus:4000;mem:4096");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let label = Label { key: "k".repeat(limits::LABELS_BYTES), value: None };
    let large =
        |n: usize| TaskInfo { labels: vec![label.clone()], ..task(&format!("t{n}"), &agent, "cpus:1") };
    let tasks: Vec<_> = (0..600).map(large).collect();
    master.checked = false;
    let outcome = master.accept(&framework, &[&outcome.offers()[0].id], tasks.clone());
    let refused = outcome.updates();
    assert!((50..500).contains(&refused.len()), "{} were refused", refused.len());
    assert!(refused[0].message.as_deref().is_some_and(|why| why.contains("too much for it to report")));
    let given = &tasks[..tasks.len() - refused.len()];
    master.step(Event::LinkClosed { link });
    let known = (*master.state.agents[&agent].info).clone();
    let registration = AgentRegistration {
        tasks: report_of(given, &framework, TaskState::Running),
        ..registration_of(known)
    };
    assert!(master.register(LinkId(9_000), registration).registered().is_some());
    master.checked = true;
    master.step(Event::Tick);
}

#[test]
fn tasks_that_ended_and_are_still_reported_count() {
    let mut master = Master::new();
    let zones: Vec<_> = (0..250).map(|n| format!("z{n}")).collect();
    let size = format!("cpus:1;zones:{{{}}}", zones.join(","));
    let (agent, link, _) = master.agent(&format!("{size};mem:4096"));
    let (framework, ..) = master.framework(framework_info("f"));
    let mut given = Vec::new();
    let refused = (0..100).find_map(|n: u8| {
        master.pass_with_pongs(Duration::from_secs(6));
        let offer = master.state.offers.values().next().expect("an offer").id.clone();
        let info = task(&format!("t{n}"), &agent, &size);
        let outcome = master.accept(&framework, &[&offer], vec![info.clone()]);
        if let Some(refused) = outcome.updates().first() {
            return refused.message.clone();
        }
        master.update(link, &framework, status(&format!("t{n}"), TaskState::Finished, n));
        given.push(info);
        None
    });
    assert!(refused.is_some_and(|why| why.contains("too much for it to report")));
    assert!((70..=80).contains(&given.len()), "{}", given.len());
    master.step(Event::LinkClosed { link });
    let known = (*master.state.agents[&agent].info).clone();
    let registration = AgentRegistration {
        tasks: report_of(&given, &framework, TaskState::Finished),
        ..registration_of(known)
    };
    assert!(master.register(LinkId(9_000), registration).registered().is_some());
}

#[test]
fn an_agent_with_too_much_is_not_told_to_stop() {
    let mut master = Master::new();
    let zones: Vec<_> = (0..200).map(|n| format!("z{n}")).collect();
    let size = format!("zones:{{{}}}", zones.join(","));
    let tasks: Vec<_> = (0..201).map(|n| task(&n.to_string(), &"old-S0".into(), &size)).collect();
    let info = AgentInfo { id: Some("old-S0".into()), ..agent_info(1, &size) };
    let tasks = report_of(&tasks, &"old-0001".into(), TaskState::Finished);
    let outcome = master.register(LinkId(1), AgentRegistration { tasks, ..registration_of(info) });
    assert!(told_to_wait(&outcome), "{outcome:?}");
}

#[test]
fn frameworks_that_left_do_not_keep_their_roles() {
    let mut config = Config::new("m");
    config.max_roles = 100;
    let mut master = Master::with(config);
    for number in 0..5 {
        let roles = (0..100).map(|role| format!("r{number}-{role}")).collect();
        let failover_timeout = Duration::from_secs(1_000_000_000_000);
        let info = FrameworkInfo { roles, failover_timeout, ..framework_info("f") };
        let (id, stream, outcome) = master.framework(info);
        assert_eq!(error(&outcome), None, "framework {number}");
        master.step(Event::StreamClosed { stream });
        assert!(master.state.frameworks.contains_key(&id));
    }
}

#[test]
fn frameworks_that_only_an_agent_has_spoken_of_make_room() {
    let mut config = Config::new("m");
    config.max_frameworks = 3;
    let mut master = Master::with(config);
    assert!(master.register(LinkId(1), from_before("old-S0", 1, 0..3, "root")).registered().is_some());
    let (honest, _, outcome) = master.framework(framework_info("honest"));
    assert_eq!(error(&outcome), None);
    assert!(master.state.frameworks.contains_key(&honest));
    let shut_down = |command: &&AgentCommand| matches!(command, AgentCommand::ShutdownFramework { .. });
    assert_eq!(outcome.commands().into_iter().filter(shut_down).count(), 1);
}

#[test]
fn one_agent_cannot_bring_any_number_of_frameworks() {
    let mut master = Master::new();
    let outcome = master.register(LinkId(1), from_before("old-S0", 1, 0..1_001, "root"));
    assert!(told_to_wait(&outcome), "{outcome:?}");
    assert!(master.register(LinkId(2), from_before("old-S0", 1, 0..1_000, "root")).registered().is_some());
}

#[test]
fn launches_share_what_their_framework_says_of_itself() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let tasks = ["a", "b"].map(|id| task(id, &agent, "cpus:1")).into();
    let outcome = master.accept(&framework, &[&offer.id], tasks);
    match outcome.commands()[..] {
        [AgentCommand::Launch { framework: first, .. }, AgentCommand::Launch { framework: second, .. }] => {
            assert!(Arc::ptr_eq(first, second))
        }
        ref others => panic!("{others:?}"),
    }
}

#[test]
fn a_framework_cannot_bother_agents_that_have_nothing_of_it() {
    let (mut master, framework, busy, _) = Master::running(framework_info("f"));
    let (idle, ..) = master.agent("cpus:4;mem:4096");
    let message = |agent_id: &AgentId, bytes| {
        let (agent_id, data) = (agent_id.clone(), vec![0; bytes]);
        Call::Message { agent_id, executor_id: "e".into(), data }
    };
    assert_eq!(master.call(&framework, message(&busy, 9)).commands().len(), 1);
    assert_eq!(master.call(&framework, message(&idle, 9)).commands().len(), 0);
    let shutdown = Call::Shutdown { executor_id: "e".into(), agent_id: idle };
    assert_eq!(master.call(&framework, shutdown).commands().len(), 0);

    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    let outcome = master.call_on(&framework, &stream, message(&busy, limits::MESSAGE_BYTES + 1));
    assert!(matches!(outcome.response(), Err(CallError::Invalid(why)) if why.contains("'data' has")));
    assert!(outcome.commands().is_empty());
    let link = master.state.agents[&busy].link.expect("connected");
    let (framework_id, data) = (framework, vec![0; limits::MESSAGE_BYTES + 1]);
    let message = AgentMessage::ExecutorMessage { framework_id, executor_id: "e".into(), data };
    assert!(master.step(Event::Agent { link, message }).events().is_empty());
}

#[test]
fn a_message_that_cannot_be_read_is_ignored() {
    let (mut master, _, agent, link) = Master::running(framework_info("f"));
    let outcome = master.step(Event::AgentUnreadable { link, why: "x".repeat(100_000) });
    assert!(matches!(outcome.warnings()[..], [one] if one.len() <= 4_096));
    assert_eq!(master.state.agents[&agent].link, Some(link));
    assert_eq!(master.state.counters.messages_refused, 1);
}

/// An agent that says that a framework has another user cannot keep the framework's driver out.
#[test]
fn the_driver_says_who_its_framework_is() {
    for liar_first in [true, false] {
        let mut master = Master::new();
        let agents = [("old-S0", "mallory"), ("old-S1", "root")];
        let order: Vec<_> = if liar_first { agents.into() } else { agents.into_iter().rev().collect() };
        for (number, (agent, user)) in order.into_iter().enumerate() {
            let link = LinkId(number as u64 + 1);
            let registration = from_before(agent, link.0 as u16, 1..2, user);
            assert!(master.register(link, registration).registered().is_some());
        }
        let driver = FrameworkInfo { id: Some("old-0001".into()), ..framework_info("driver") };
        let (framework, _, outcome) = master.framework(driver);
        assert_eq!(error(&outcome), None);
        assert_eq!(master.state.frameworks[&framework].info.user, "root");
        assert_eq!(
            outcome.commands().into_iter().filter_map(killed).collect::<Vec<_>>(),
            ["t-old-S0"],
            "it runs as somebody else"
        );
        assert_eq!(outcome.warnings().len(), 1);
        // Nor is what comes later taken over.
        let late = from_before("old-S2", 9, 1..2, "mallory");
        let outcome = master.register(LinkId(9), late);
        assert_eq!(outcome.commands().into_iter().filter_map(killed).collect::<Vec<_>>(), ["t-old-S2"]);
        assert!(!master.state.frameworks[&framework].tasks.contains_key("t-old-S2"));
    }
}

fn killed(command: &AgentCommand) -> Option<&str> {
    match command {
        AgentCommand::Kill { task_id, .. } => Some(task_id.as_str()),
        _ => None,
    }
}

#[test]
fn little_is_kept_of_statuses_and_executors() {
    let (mut master, framework, agent, link, offer) = Master::ready();
    let mut large = executor("e", "cpus:1");
    large.data = Some(vec![0; 1_000]);
    let info = TaskInfo { command: None, executor: Some(large.clone()), ..task("t", &agent, "cpus:1") };
    let again = TaskInfo { task_id: "u".into(), ..info.clone() };
    let outcome = master.accept(&framework, &[&offer.id], vec![info, again]);
    assert!(outcome.updates().is_empty(), "the second describes the same executor");
    let kept = master.state.agents[&agent].executors.values().next().expect("an executor");
    assert_eq!(*kept.info, large.without_secrets());
    assert_eq!((&kept.info.data, &kept.info.command.value), (&None, &None));

    let label = Label { key: "k".into(), value: Some("v".into()) };
    let update = TaskStatus { labels: vec![label.clone()], ..status("t", TaskState::Running, 1) };
    let outcome = master.update(link, &framework, update);
    assert_eq!(outcome.the_update().labels, [label], "the framework has them");
    assert_eq!(master.state.frameworks[&framework].tasks["t"].statuses[0].labels, []);
}

#[test]
fn frameworks_that_end_are_bounded() {
    let mut master = Master::new();
    master.checked = false;
    master.state.ending = 1_000;
    let (.., outcome) = master.framework(framework_info("f"));
    assert!(error(&outcome).is_some_and(|why| why.contains("still removing")));
}

#[test]
fn only_the_form_in_which_ids_are_given_is_one_of_ours() {
    let mut master = Master::new();
    let (_, link, _) = master.agent("cpus:1");
    master.step(Event::Agent { link, message: AgentMessage::Unregister });
    for (number, (id, good)) in
        [("m-S+0", false), ("m-S00", false), ("m-x-S0", false), ("m-S0", true)].into_iter().enumerate()
    {
        let info = AgentInfo { id: Some(id.into()), ..agent_info(1, "cpus:1") };
        let outcome = master.register(LinkId(100 + number as u64), registration_of(info));
        assert_eq!(outcome.registered().is_some(), good, "{id}");
    }
}

fn observe(copy: &mut StateCopy, master: &Master, outcome: &Outcome) {
    for action in &outcome.0 {
        if let Action::Observe(observation) = action {
            copy.observe(&master.state, observation);
        }
    }
}

#[test]
fn a_copy_ends_however_many_frameworks_come_and_go() {
    let mut config = Config::new("m");
    config.max_completed_frameworks = 9;
    let mut master = Master::with(config);
    for _ in 0..9 {
        let (id, ..) = master.framework(framework_info("short"));
        let outcome = master.call(&id, Call::Teardown);
        assert!(outcome.0.contains(&Action::Observe(Observation::FrameworkRemoved(id))));
    }
    let mut copy = StateCopy::begin(&master.state);
    let mut turn = || {
        let (id, _, first) = master.framework(framework_info("short"));
        let second = master.call(&id, Call::Teardown);
        observe(&mut copy, &master, &first);
        observe(&mut copy, &master, &second);
        copy.go_on(&master.state, 3)
    };
    assert!((0..100).any(|_| turn()), "it never ends");
    let ids = |state: &crate::master::State| {
        state.completed_frameworks.iter().map(|framework| framework.info.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&copy.finish()), ids(&master.state));
}

#[test]
fn a_copy_keeps_no_more_completed_tasks_than_the_state() {
    let mut config = Config::new("m");
    config.max_completed_tasks_per_framework = 3;
    let mut master = Master::with(config);
    let (agent, link, _) = master.agent("cpus:4;mem:4096");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let ids = ["a", "b", "c", "d", "e"];
    let tasks = ids.map(|id| task(id, &agent, "cpus:0.1")).into();
    master.accept(&framework, &[&outcome.offers()[0].id], tasks);
    let mut copy = StateCopy::begin(&master.state);
    while !copy.go_on(&master.state, 1) {}
    for id in ids {
        let update = status(id, TaskState::Finished, 1);
        let (agent_id, uuid) = (agent.clone(), update.uuid.expect("set"));
        let outcome = master.update(link, &framework, update);
        observe(&mut copy, &master, &outcome);
        let outcome = master.call(&framework, Call::Acknowledge { agent_id, task_id: id.into(), uuid });
        observe(&mut copy, &master, &outcome);
    }
    let completed = |state: &crate::master::State| {
        let tasks = state.frameworks[&framework].completed_tasks.iter();
        tasks.map(|task| task.info.task_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(completed(&master.state), ["c", "d", "e"]);
    assert_eq!(completed(&copy.finish()), ["c", "d", "e"]);
}
