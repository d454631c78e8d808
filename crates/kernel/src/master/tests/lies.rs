//! What an agent or a framework may not say, one by one: it is refused with a reason, and changes nothing.
use super::support::*;
use crate::master::{
    Action, AgentCommand, AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, Event, LinkId,
};
use bellows_model::{
    AgentInfo, Filters, FrameworkInfo, Operation, Source, TaskInfo, TaskState, TaskStatus, limits,
};
use std::time::Duration;

fn refused(outcome: &Outcome) -> Option<&str> {
    let told = outcome.told();
    told.into_iter().find_map(|(_, command)| match command {
        AgentCommand::Refused { reason } => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn a_status_that_only_a_master_may_say_is_not_believed() {
    use TaskState::*;
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let mut warnings = 0;
    let running = || status("t", Running, 9);
    let lies = [Unreachable, Unknown, Gone, GoneByOperator];
    let states = lies.map(|state| (status("t", state, 9), state));
    let behind = lies.map(|state| (running(), state));
    let others = [
        (TaskStatus { source: Source::Master, ..running() }, Running),
        (TaskStatus { uuid: None, ..running() }, Running),
    ];
    for (status, latest_state) in states.into_iter().chain(behind).chain(others) {
        let outcome = master.update_behind(link, &framework, status.clone(), latest_state);
        assert!(outcome.updates().is_empty() && outcome.commands().is_empty(), "{status:?}");
        warnings += outcome.warnings().len();
        assert_eq!(master.state.frameworks[&framework].tasks["t"].state, Running);
        assert_eq!(master.state.agents[&agent].used, resources("cpus:1;mem:512"));
    }
    assert_eq!((warnings, master.state.counters.messages_refused), (1, 10), "told once for each connection");
}

#[test]
fn other_messages_that_cannot_be_true_change_nothing() {
    let (mut master, framework, _, _) = Master::running(framework_info("f"));
    let (_, other, _) = master.agent("cpus:4;mem:4096");
    let (executor_id, framework_id) = ("e".into(), framework.clone());
    let message = AgentMessage::ExecutorMessage { framework_id, executor_id, data: vec![1] };
    let outcome = master.step(Event::Agent { link: other, message });
    assert!(outcome.events().is_empty() && outcome.warnings().len() == 1, "{outcome:?}");
    let pong = AgentMessage::Pong { seq: u64::MAX };
    assert!(master.step(Event::Agent { link: other, message: pong }).0.is_empty());
    let outcome = master.update(other, &framework, status("t", TaskState::Finished, 3));
    assert!(outcome.updates().is_empty(), "the task of another agent");
    assert_eq!(master.state.frameworks[&framework].tasks["t"].state, TaskState::Running);
}

#[test]
fn registrations_that_cannot_be_true_are_refused() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    master.step(Event::LinkClosed { link });
    let known = (*master.state.agents[&agent].info).clone();
    let info = FrameworkInfo { id: Some(framework.clone()), ..framework_info("f") };
    let of = |info: TaskInfo, latest_state| AgentTask { framework_id: framework.clone(), info, latest_state };
    let t = |size: &str| task("t", &agent, size);
    let with = |id: &str, size: &str, held: &str| TaskInfo {
        command: None,
        executor: Some(executor("e", held)),
        ..task(id, &agent, size)
    };
    let running = TaskState::Running;
    let many = (0..=limits::REGISTERED_TASKS).map(|n| of(task(&n.to_string(), &agent, "mem:1"), running));
    let cases: Vec<(&str, &str, Vec<AgentTask>)> = vec![
        ("TASK_UNREACHABLE, which only a master", "cpus:0.1", vec![of(t("cpus:1"), TaskState::Unreachable)]),
        ("TASK_UNKNOWN, which only a master", "cpus:4;mem:4096", vec![of(t("cpus:1"), TaskState::Unknown)]),
        ("is there twice", "cpus:9;mem:4096", vec![of(t("cpus:1"), running), of(t("cpus:1"), running)]),
        ("is of agent m-S9", "cpus:9;mem:4096", vec![of(task("t", &"m-S9".into(), "cpus:1"), running)]),
        ("Bad task ID", "cpus:9", vec![of(task("../t", &agent, "cpus:1"), running)]),
        ("less than what its tasks have", "cpus:0.5;mem:512", vec![of(t("cpus:0.1"), running)]),
        (
            "in two forms",
            "cpus:9;mem:999",
            vec![of(with("t", "cpus:1", "mem:1"), running), of(with("u", "cpus:1", "mem:2"), running)],
        ),
        ("are too many", "cpus:9;mem:9999", many.collect()),
    ];
    for (why, size, tasks) in cases {
        let info = AgentInfo { resources: resources(size), ..known.clone() };
        let registration = AgentRegistration {
            info,
            frameworks: vec![],
            tasks,
            shuffle_service_down: false,
            condition: AgentCondition::default(),
        };
        let link = LinkId(master.number() + 100);
        let outcome = master.step(Event::AgentRegister { link, registration });
        assert!(refused(&outcome).is_some_and(|reason| reason.contains(why)), "{why}: {outcome:?}");
        assert_eq!(master.state.frameworks[&framework].tasks["t"].state, running);
    }
    let frameworks = vec![info.clone(), info];
    let registration = AgentRegistration {
        info: known,
        frameworks,
        tasks: vec![],
        shuffle_service_down: false,
        condition: AgentCondition::default(),
    };
    let outcome = master.step(Event::AgentRegister { link: LinkId(99), registration });
    assert!(refused(&outcome).is_some_and(|reason| reason.contains("is there twice")));
}

/// What two tasks hold of a range counts twice, though their union is no more than one of them.
#[test]
fn tasks_that_share_their_ports_are_refused() {
    let mut master = Master::new();
    let agent = "old-S1".into();
    let framework = FrameworkInfo { id: Some("old-0001".into()), ..framework_info("f") };
    let of = |info| AgentTask { framework_id: "old-0001".into(), info, latest_state: TaskState::Running };
    let with_executor = TaskInfo {
        command: None,
        executor: Some(executor("e", "ports:[3-4]")),
        ..task("u", &agent, "ports:[4-5]")
    };
    let cases = [
        vec![of(task("t", &agent, "ports:[1-5]")), of(task("u", &agent, "ports:[5-9]"))],
        vec![of(task("t", &agent, "zones:{a}")), of(task("u", &agent, "zones:{a,b}"))],
        vec![of(with_executor)],
    ];
    for tasks in cases {
        let info = AgentInfo { id: Some(agent.clone()), ..agent_info(1, "cpus:4;ports:[1-9];zones:{a,b}") };
        let registration = AgentRegistration {
            info,
            frameworks: vec![framework.clone()],
            tasks,
            shuffle_service_down: false,
            condition: AgentCondition::default(),
        };
        let outcome = master.step(Event::AgentRegister { link: LinkId(7), registration });
        assert!(refused(&outcome).is_some_and(|why| why.contains("less than what its tasks have")));
        assert!(outcome.0.contains(&Action::CloseLink { link: LinkId(7) }));
    }
}

#[test]
fn a_task_and_its_executor_cannot_share_their_ports() {
    let mut master = Master::new();
    let (agent, ..) = master.agent("cpus:4;ports:[1-9]");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let info = TaskInfo {
        command: None,
        executor: Some(executor("e", "ports:[1-5]")),
        ..task("t", &agent, "cpus:1;ports:[5-9]")
    };
    let outcome = master.accept(&framework, &[&outcome.offers()[0].id], vec![info]);
    let update = outcome.the_update();
    assert_eq!(update.state, TaskState::Error);
    assert!(update.message.as_deref().is_some_and(|why| why.contains("more than available")));
}

#[test]
fn an_agent_s_tasks_are_bounded() {
    let mut config = crate::master::Config::new("m");
    config.max_tasks_per_agent = 2;
    let mut master = Master::with(config);
    let (agent, ..) = master.agent("cpus:4;mem:4096");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let tasks = ["a", "b", "c"].map(|id| task(id, &agent, "cpus:1")).into();
    let outcome = master.accept(&framework, &[&outcome.offers()[0].id], tasks);
    let update = outcome.the_update();
    assert_eq!((update.task_id.as_str(), update.state), ("c", TaskState::Error));
    assert!(update.message.as_deref().is_some_and(|why| why.contains("as many tasks as it may (2)")));
}

#[test]
fn times_without_end_are_only_long() {
    let (mut master, framework, _, _, offer) = Master::ready();
    let filters = Filters { refuse: Some(Duration::MAX) };
    master.call(&framework, Call::Decline { offer_ids: vec![offer.id], filters });
    let operations = vec![Operation::Launch(vec![])];
    master.call(&framework, Call::Accept { offer_ids: vec![], operations, filters });
    let info = FrameworkInfo { failover_timeout: Duration::MAX, ..framework_info("g") };
    let (second, stream, _) = master.framework(info);
    master.step(Event::StreamClosed { stream });
    master.pass(Duration::from_secs(100 * 365 * 24 * 3600));
    assert!(master.state.frameworks.contains_key(&second));
}

/// A master keeps of a task what it shows; command and data are its agent's.
#[test]
fn what_only_the_agent_needs_is_not_kept() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let mut info = task("t", &agent, "cpus:1");
    info.data = Some(vec![0; 1_000]);
    let outcome = master.accept(&framework, &[&offer.id], vec![info.clone()]);
    let launched =
        |command: &&AgentCommand| matches!(command, AgentCommand::Launch { task, .. } if *task == info);
    assert!(outcome.commands().iter().any(launched));
    let kept = &master.state.frameworks[&framework].tasks["t"].info;
    assert_eq!(**kept, info.without_secrets());
    assert_eq!((kept.command.as_ref().and_then(|command| command.value.as_ref()), &kept.data), (None, &None));
}
