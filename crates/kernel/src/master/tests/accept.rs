//! ACCEPT: recordings 027 and 098 of a real Mesos.
use super::support::*;
use crate::master::{Action, AgentCommand, Call, Observation};
use bellows_model::{
    CommandInfo, Filters, InvalidTask, OfferId, Operation, Reason, Resources, Source, TaskInfo, TaskState,
    TaskStatus,
};
use std::time::Duration;

#[test]
fn a_task_takes_its_part_and_the_rest_is_kept_for_others() {
    let (mut master, framework, agent, link, offer) = Master::ready();
    assert_eq!(offer.resources, resources("cpus:4;mem:4096"));
    let outcome = master.accept(&framework, &[&offer.id], vec![task("ok", &agent, "cpus:0.5;mem:64")]);
    let commands = outcome.commands();
    assert!(
        matches!(commands[..], [AgentCommand::Launch { framework: info, task }]
            if info.id.as_ref() == Some(&framework) && task.task_id.as_str() == "ok"),
        "{commands:?}"
    );
    assert!(outcome.offers().is_empty(), "the framework has a filter of 5 s");
    assert_eq!(master.state.agents[&agent].used, resources("cpus:0.5;mem:64"));
    assert_eq!(master.state.agents[&agent].offered, Resources::new());

    let (_, _, outcome) = master.framework(framework_info("another"));
    assert_eq!(outcome.offers()[0].resources, resources("cpus:3.5;mem:4032"));

    let outcome = master.update(link, &framework, status("ok", TaskState::Finished, 1));
    assert_eq!(outcome.the_update().state, TaskState::Finished);
    let offers = outcome.offers();
    assert_eq!(offers.len(), 1, "what came free is offered in the same step");
    assert_eq!(offers[0].resources, resources("cpus:0.5;mem:64"));
}

#[test]
fn several_offers_of_an_agent_are_added_up() {
    let (mut master, framework, agent, link, offer) = Master::ready();
    master.accept(&framework, &[&offer.id], vec![task("a", &agent, "cpus:1;mem:1024")]);
    let first = master.call(&framework, Call::Revive { roles: vec![] }).offers().remove(0);
    let second = master.update(link, &framework, status("a", TaskState::Finished, 1)).offers().remove(0);
    assert_eq!(first.resources, resources("cpus:3;mem:3072"));
    assert_eq!(second.resources, resources("cpus:1;mem:1024"));
    let outcome =
        master.accept(&framework, &[&first.id, &second.id], vec![task("b", &agent, "cpus:4;mem:4000")]);
    assert!(outcome.updates().is_empty());
    assert_eq!(master.state.agents[&agent].used, resources("cpus:4;mem:4000"));
}

/// Accepts the offer for one task; what the master says of it.
fn refused(spoil: impl FnOnce(&mut TaskInfo)) -> (TaskState, String) {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let mut info = task("t", &agent, "cpus:1;mem:64");
    spoil(&mut info);
    let outcome = master.accept(&framework, &[&offer.id], vec![info]);
    let update = outcome.the_update();
    assert_eq!((update.source, update.reason), (Source::Master, Some(Reason::TaskInvalid)));
    assert_eq!(update.uuid, None);
    assert!(outcome.commands().is_empty());
    assert!(master.state.frameworks[&framework].tasks.is_empty());
    let again = master.pass(Duration::from_secs(5)).offers();
    assert_eq!(again.len(), 1, "the offer's resources are free again");
    (update.state, update.message.clone().unwrap_or_default())
}

#[test]
fn invalid_tasks_are_errors() {
    let both = |task: &mut TaskInfo| task.executor = Some(executor("e", "cpus:0.1"));
    let unspecified =
        |task: &mut TaskInfo| task.command = Some(CommandInfo { shell: true, ..Default::default() });
    let cases: [(&str, (TaskState, String)); 10] = [
        (
            "Total resources cpus:1000; mem:64 required by task and its executor is more than available \
             cpus:4; mem:4096",
            refused(|task| task.resources = resources("cpus:1000;mem:64")),
        ),
        (
            "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present",
            refused(|task| task.command = None),
        ),
        (
            "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present",
            refused(both),
        ),
        ("Task's `CommandInfo` is invalid: Shell command is not specified", refused(unspecified)),
        ("'../x' contains invalid characters", refused(|task| task.task_id = "../x".into())),
        ("Task uses no resources", refused(|task| task.resources = Resources::new())),
        (
            "Task uses invalid agent other while agent m-S0 is expected",
            refused(|t| t.agent_id = "other".into()),
        ),
        (
            "Task's `ContainerInfo` is invalid: 'DOCKER' containers are not supported",
            refused(|task| task.container = Some("DOCKER".into())),
        ),
        (
            "Task's `container.volumes` is not supported: tasks run on the agent's host, without containers or \
             checks of their own",
            refused(|task| task.unsupported = Some("container.volumes".into())),
        ),
        (
            "Total resources cpus(etl):1 required by task and its executor is more than available \
             cpus:4; mem:4096",
            refused(|task| task.resources = resources("cpus(etl):1")),
        ),
    ];
    for (expected, (state, message)) in cases {
        assert_eq!((state, message.as_str()), (TaskState::Error, expected));
    }
}

#[test]
fn a_task_id_is_unique_among_live_tasks() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let twice = vec![task("t", &agent, "cpus:1"), task("t", &agent, "cpus:1")];
    let outcome = master.accept(&framework, &[&offer.id], twice);
    assert_eq!(outcome.the_update().message.as_deref(), Some("Task has duplicate ID: t"));
    assert_eq!(outcome.commands().len(), 1);
    assert_eq!(master.state.agents[&agent].used, resources("cpus:1"));
}

#[test]
fn an_offer_is_good_for_one_use() {
    for (aware, state) in [(true, TaskState::Dropped), (false, TaskState::Lost)] {
        let mut master = Master::new();
        let (agent, ..) = master.agent("cpus:4;mem:4096");
        let mut info = framework_info("f");
        if !aware {
            info.capabilities.clear();
        }
        let (framework, _, outcome) = master.framework(info);
        let offer = outcome.offers().remove(0);
        master.accept(&framework, &[&offer.id], vec![task("a", &agent, "cpus:1")]);
        let outcome = master.accept(&framework, &[&offer.id], vec![task("b", &agent, "cpus:1")]);
        let update = outcome.the_update();
        assert_eq!((update.state, update.reason), (state, Some(Reason::InvalidOffers)));
        assert_eq!(
            update.message.as_deref(),
            Some("Task launched with invalid offers: Offer m-O0 is no longer valid")
        );
    }
}

#[test]
fn offers_that_do_not_go_together_are_refused_and_free_again() {
    let mut master = Master::new();
    let (agent, ..) = master.agent("cpus:4;mem:4096");
    master.agent("cpus:4;mem:4096");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let offers = outcome.offers();
    let ids = [&offers[0].id, &offers[1].id];
    let outcome = master.accept(&framework, &ids, vec![task("a", &agent, "cpus:5")]);
    assert_eq!(
        outcome.the_update().message.as_deref(),
        Some(
            "Task launched with invalid offers: Aggregated offers must belong to one single agent. Offer m-O1 \
             uses agent m-S1 and agent m-S0"
        )
    );
    assert!(master.state.offers.is_empty());
    assert_eq!(master.pass(Duration::from_secs(1)).offers().len(), 2);
    let outcome = master.accept(&framework, &[], vec![task("a", &agent, "cpus:5")]);
    assert_eq!(
        outcome.the_update().message.as_deref(),
        Some("Task launched with invalid offers: No offers specified")
    );
}

#[test]
fn another_framework_s_offer_is_neither_used_nor_taken_from_it() {
    let (mut master, _, agent, _, offer) = Master::ready();
    let (thief, ..) = master.framework(framework_info("thief"));
    let outcome = master.accept(&thief, &[&offer.id], vec![task("a", &agent, "cpus:1")]);
    assert_eq!(outcome.the_update().reason, Some(Reason::InvalidOffers));
    master.decline(&thief, &offer.id, 5);
    assert!(master.state.offers.contains_key(&offer.id));
}

#[test]
fn the_same_offer_twice_in_one_call() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let outcome = master.accept(&framework, &[&offer.id, &offer.id], vec![task("a", &agent, "cpus:1")]);
    let message = outcome.the_update().message.clone().expect("message");
    assert!(message.ends_with("Duplicate offer m-O0 in offer list"), "{message}");
    assert!(master.state.offers.is_empty());
}

#[test]
fn accepting_without_a_launch_is_declining() {
    let (mut master, framework, _, _, offer) = Master::ready();
    let operations = vec![Operation::Unsupported("RESERVE".into())];
    let offer_ids = vec![offer.id];
    let outcome =
        master.call(&framework, Call::Accept { offer_ids, operations, filters: Filters::default() });
    assert!(outcome.offers().is_empty() && master.state.offers.is_empty());
    assert_eq!(master.pass(Duration::from_secs(5)).offers().len(), 1);
}

#[test]
fn an_executor_counts_once() {
    let (mut master, framework, agent, link, offer) = Master::ready();
    let with_executor = |id: &str| TaskInfo {
        command: None,
        executor: Some(executor("e", "cpus:1;mem:100")),
        ..task(id, &agent, "cpus:0.5;mem:50")
    };
    master.accept(&framework, &[&offer.id], vec![with_executor("a"), with_executor("b")]);
    assert_eq!(master.state.agents[&agent].used, resources("cpus:2;mem:200"));
    for (id, uuid) in [("a", 1), ("b", 2)] {
        master.update(link, &framework, status(id, TaskState::Finished, uuid));
    }
    assert_eq!(master.state.agents[&agent].used, resources("cpus:1;mem:100"), "the executor goes on");
    let message = crate::master::AgentMessage::ExecutorTerminated {
        framework_id: framework.clone(),
        executor_id: "e".into(),
        status: 9,
    };
    let outcome = master.step(crate::master::Event::Agent { link, message });
    assert!(outcome.events().iter().any(|(_, event)| matches!(
        event,
        crate::master::SchedulerEvent::Failure { executor_id: Some(_), status: Some(9), .. }
    )));
    assert_eq!(master.state.agents[&agent].used, Resources::new());
}

#[test]
fn an_executor_that_the_agent_could_not_start_holds_nothing() {
    let (mut master, framework, agent, link, offer) = Master::ready();
    let info = TaskInfo {
        command: None,
        executor: Some(executor("e", "cpus:1")),
        ..task("a", &agent, "cpus:1;mem:50")
    };
    master.accept(&framework, &[&offer.id], vec![info]);
    assert_eq!(master.state.agents[&agent].used, resources("cpus:2;mem:50"));
    let error = TaskStatus { source: Source::Agent, ..status("a", TaskState::Error, 1) };
    master.update(link, &framework, error);
    assert_eq!(master.state.agents[&agent].used, Resources::new());
}

#[test]
fn a_framework_s_tasks_are_bounded() {
    let mut config = crate::master::Config::new("m");
    config.max_tasks_per_framework = 1;
    let mut master = Master::with(config);
    let (agent, ..) = master.agent("cpus:4;mem:4096");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let id: OfferId = outcome.offers().remove(0).id;
    let tasks = vec![task("a", &agent, "cpus:1"), task("b", &agent, "cpus:1")];
    let outcome = master.accept(&framework, &[&id], tasks);
    assert_eq!(outcome.the_update().state, TaskState::Error);
}

fn invalid(id: &str, agent: &str) -> InvalidTask {
    let task = TaskInfo { resources: Resources::new(), command: None, ..task(id, &agent.into(), "cpus:1") };
    InvalidTask { task, reason: "Invalid 'command.value': it contains a NUL".into() }
}

#[test]
fn a_task_that_cannot_be_read_is_refused_alone_and_on_its_agent() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let operations = vec![
        Operation::Invalid(vec![invalid("bad", "")]),
        Operation::Launch(vec![task("good", &agent, "cpus:1;mem:64")]),
    ];
    let offer_ids = vec![offer.id];
    let call = Call::Accept { offer_ids: offer_ids.clone(), operations, filters: Filters::default() };
    let outcome = master.call(&framework, call);
    assert_eq!(outcome.commands().len(), 1, "the other one is launched");
    let update = outcome.the_update();
    assert_eq!((update.task_id.as_str(), update.state), ("bad", TaskState::Error));
    assert_eq!(update.agent_id, Some(agent), "Spark's backend looks it up");
    assert_eq!(update.message.as_deref(), Some("Invalid 'command.value': it contains a NUL"));

    let operations = vec![Operation::Invalid(vec![invalid("late", "m-S7")])];
    let outcome =
        master.call(&framework, Call::Accept { offer_ids, operations, filters: Filters::default() });
    let update = outcome.the_update();
    assert_eq!((update.state, update.reason), (TaskState::Error, Some(Reason::TaskInvalid)));
    assert_eq!(update.agent_id, Some("m-S7".into()));
}

#[test]
fn a_refused_task_is_listed_among_those_that_ended_and_told_to_operators() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let mut large = task("large", &agent, "cpus:1000");
    large.name = "ü".repeat(100_000);
    large.data = Some(vec![0; 100_000]);
    let mut nameless = task("x", &agent, "cpus:1");
    nameless.task_id = "/".repeat(100_000).into();
    let outcome = master.accept(&framework, &[&offer.id], vec![large, nameless]);
    let observed = outcome.0.iter().filter(|action| {
        matches!(action, Action::Observe(Observation::TaskRefused { status, .. })
            if status.state == TaskState::Error)
    });
    assert_eq!(observed.count(), 2);
    let completed = &master.state.frameworks[&framework].completed_tasks;
    assert_eq!(completed.len(), 1, "an id of that length is not kept");
    assert_eq!((completed[0].info.task_id.as_str(), completed[0].state), ("large", TaskState::Error));
    assert_eq!(completed[0].statuses.len(), 1);
    assert!(completed[0].info.name.len() <= 1_024 && completed[0].info.data.is_none());

    let outcome = master.accept(&framework, &[&offer.id], vec![task("late", &agent, "cpus:1")]);
    assert_eq!(outcome.the_update().state, TaskState::Dropped);
    let completed = &master.state.frameworks[&framework].completed_tasks;
    assert_eq!(completed.back().map(|task| task.state), Some(TaskState::Dropped));
}
