//! Subscribing, failing over, ending: recordings 097, 098 and 080 of a real Mesos.
use super::support::*;
use crate::master::{Action, AgentCommand, Call, CallError, Config, Event, Observation, SchedulerEvent};
use bellows_model::{FrameworkId, FrameworkInfo, StreamId, TaskState};
use std::time::Duration;

fn back(master: &Master, framework: &FrameworkId) -> FrameworkInfo {
    (*master.state.frameworks[framework].info).clone()
}

fn error(outcome: &Outcome) -> Option<&str> {
    outcome.events().into_iter().find_map(|(_, event)| match event {
        SchedulerEvent::Error(message) => Some(message.as_str()),
        _ => None,
    })
}

#[test]
fn ids_count_up() {
    let mut master = Master::new();
    assert_eq!(master.framework(framework_info("a")).0.as_str(), "m-0000");
    assert_eq!(master.framework(framework_info("b")).0.as_str(), "m-0001");
}

#[test]
fn a_second_instance_takes_over() {
    let (mut master, framework, _, _, offer) = Master::ready();
    let old = master.state.frameworks[&framework].stream.clone().expect("connected");
    let (same, new, outcome) = master.framework(back(&master, &framework));
    assert_eq!(same, framework);
    let to_old: Vec<_> = outcome.events().into_iter().filter(|(stream, _)| **stream == old).collect();
    assert_eq!(to_old, [(&old, &SchedulerEvent::Error("Framework failed over".into()))]);
    assert_eq!(outcome.closed_streams(), [&old]);
    assert!(!master.state.offers.contains_key(&offer.id));
    assert_eq!(outcome.offers().len(), 1, "it is offered anew");
    let outcome = master.step(Event::StreamClosed { stream: old });
    assert!(outcome.0.is_empty(), "the old stream's end is of no interest");
    assert_eq!(master.state.frameworks[&framework].stream, Some(new));
}

#[test]
fn a_framework_that_comes_back_in_time_keeps_its_tasks() {
    let (mut master, framework, agent, _) = Master::running(framework_info("f"));
    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    master.step(Event::StreamClosed { stream });
    assert!(master.state.frameworks[&framework].disconnected.is_some());
    master.pass_with_pongs(Duration::from_secs(29));
    master.framework(back(&master, &framework));
    master.pass_with_pongs(Duration::from_secs(100));
    assert_eq!(master.state.frameworks[&framework].tasks["t"].state, TaskState::Running);
    assert_eq!(master.state.agents[&agent].used, resources("cpus:1;mem:512"));
}

#[test]
fn a_framework_that_does_not_come_back_ends() {
    for (timeout, wait) in [(0, 0), (30, 30)] {
        let mut info = framework_info("f");
        info.failover_timeout = Duration::from_secs(timeout);
        let (mut master, framework, agent, link) = Master::running(info);
        let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
        let mut actions = master.step(Event::StreamClosed { stream }).0;
        actions.extend(master.pass_with_pongs(Duration::from_secs(wait)).0);
        let framework_id = framework.clone();
        let shutdown = Action::Tell { link, command: AgentCommand::ShutdownFramework { framework_id } };
        assert!(actions.contains(&shutdown), "{actions:?}");
        assert_eq!(master.state.agents[&agent].used, resources(""));

        let info = FrameworkInfo { id: Some(framework.clone()), ..framework_info("f") };
        let (_, stream, outcome) = master.framework(info);
        assert_eq!(error(&outcome), Some("Framework has been removed"));
        assert_eq!(outcome.closed_streams(), [&stream]);
        assert!(master.state.streams.is_empty());
    }
}

/// Spark's dispatcher asks for 68 years.
#[test]
fn an_end_that_nobody_acknowledges_holds_neither_resources_nor_its_framework() {
    for timeout in [30, i32::MAX.unsigned_abs().into()] {
        let mut info = framework_info("f");
        info.failover_timeout = Duration::from_secs(timeout);
        let (mut master, framework, agent, link) = Master::running(info);
        let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
        master.step(Event::StreamClosed { stream });
        master.update(link, &framework, status("t", TaskState::Failed, 9));
        assert_eq!(master.state.agents[&agent].used, resources(""));
        master.pass_with_pongs(Duration::from_secs(29));
        assert_eq!(
            master.state.frameworks[&framework].tasks["t"].state,
            TaskState::Failed,
            "for who comes back"
        );
        if timeout > 30 {
            continue;
        }
        let actions = master.pass_with_pongs(Duration::from_secs(1)).0;
        let framework_id = framework.clone();
        let shutdown = Action::Tell { link, command: AgentCommand::ShutdownFramework { framework_id } };
        assert!(actions.contains(&shutdown), "{actions:?}");
        assert!(!master.state.frameworks.contains_key(&framework));
    }
}

#[test]
fn resources_of_a_disconnected_framework_go_to_others() {
    let (mut master, framework, _, _, offer) = Master::ready();
    let (second, ..) = master.framework(framework_info("second"));
    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    let outcome = master.step(Event::StreamClosed { stream });
    assert!(!master.state.offers.contains_key(&offer.id));
    assert_eq!(outcome.offers()[0].framework_id, second);
}

#[test]
fn a_framework_tears_itself_down() {
    let (mut master, framework, _, _, _) = Master::ready();
    let outcome = master.call(&framework, Call::Teardown);
    assert_eq!(outcome.closed_streams().len(), 1);
    assert!(master.state.frameworks.is_empty() && master.state.offers.is_empty());
}

#[test]
fn bad_subscriptions_get_an_error_on_the_stream() {
    type Spoil = fn(&mut FrameworkInfo);
    let cases: [(&str, Spoil); 4] = [
        ("contains invalid role", |info| info.roles = vec!["a//b".into()]),
        ("duplicate", |info| info.roles = vec!["a".into(), "a".into()]),
        ("invalid characters", |info| info.id = Some("a/b".into())),
        ("invalid role", |info| info.roles = vec![String::new()]),
    ];
    for (expected, spoil) in cases {
        let mut master = Master::new();
        let mut info = framework_info("f");
        spoil(&mut info);
        let (_, stream, outcome) = master.framework(info);
        assert!(error(&outcome).is_some_and(|error| error.contains(expected)), "{outcome:?}");
        assert_eq!(outcome.closed_streams(), [&stream]);
        assert!(master.state.frameworks.is_empty());
    }
}

#[test]
fn the_principal_cannot_change() {
    let (mut master, framework, ..) = Master::ready();
    let mut info = back(&master, &framework);
    info.principal = Some("mallory".into());
    let old = master.state.frameworks[&framework].stream.clone();
    let (.., outcome) = master.framework(info);
    assert_eq!(error(&outcome), Some("Changing framework's principal is not allowed."));
    assert_eq!(master.state.frameworks[&framework].stream, old, "the connected one goes on");
}

#[test]
fn the_user_cannot_change() {
    let (mut master, framework, ..) = Master::ready();
    let info = FrameworkInfo { user: "mallory".into(), ..back(&master, &framework) };
    let (.., outcome) = master.framework(info.clone());
    let refused = error(&outcome).expect("refused");
    assert!(refused.contains("user 'root', not 'mallory'"), "{refused}");
    assert_eq!(master.state.frameworks[&framework].info.user, "root");
}

#[test]
fn ids_that_the_master_gives_cannot_be_chosen() {
    let mut master = Master::new();
    let choose = |master: &mut Master, id: &str| {
        let info = FrameworkInfo { id: Some(id.into()), ..framework_info("chosen") };
        error(&master.framework(info).2).map(str::to_owned)
    };
    for id in ["m-0000", "m-0001", "m-00001", "m-18446744073709551616"] {
        assert_eq!(choose(&mut master, id).as_deref(), Some("Framework has been removed"), "{id}");
    }
    let (first, ..) = master.framework(framework_info("f"));
    assert_eq!((first.as_str(), master.state.frameworks.len()), ("m-0000", 1));
    // Nor can an agent report them.
    let agent = bellows_model::AgentId::from("old-S1");
    let info = FrameworkInfo { id: Some("m-0001".into()), user: "mallory".into(), ..framework_info("f") };
    master.come_back(&agent, vec![info], vec![]);
    assert!(!master.state.frameworks.contains_key("m-0001"));
    let (second, ..) = master.framework(framework_info("g"));
    assert_eq!((second.as_str(), &*master.state.frameworks[&second].info.user), ("m-0001", "root"));
    // A driver of Spark's dispatcher, with an id made of the dispatcher's.
    assert_eq!(choose(&mut master, "m-0000-driver-20260101000000-0001"), None);
    for (id, registered) in
        [("m-S0", false), ("m-S7", false), ("m-S18446744073709551616", false), ("n-S7", true)]
    {
        let (_, outcome) = master.come_back(&id.into(), vec![], vec![]);
        assert_eq!(outcome.registered().is_some(), registered, "{id}");
    }
}

#[test]
fn the_longest_disconnected_framework_without_tasks_makes_room() {
    let mut config = Config::new("m");
    config.max_frameworks = 3;
    let mut master = Master::with(config);
    let patient =
        FrameworkInfo { failover_timeout: Duration::from_secs(1_000_000_000_000), ..framework_info("f") };
    let (agent, link, _) = master.agent("cpus:4;mem:4096");
    let (busy, stream, outcome) = master.framework(patient.clone());
    master.accept(&busy, &[&outcome.offers()[0].id], vec![task("t", &agent, "cpus:1")]);
    master.update(link, &busy, status("t", TaskState::Running, 1));
    master.step(Event::StreamClosed { stream });
    let idle: Vec<_> = (0..2)
        .map(|_| {
            let (id, stream, _) = master.framework(patient.clone());
            master.now = master.now + Duration::from_secs(1);
            master.step(Event::StreamClosed { stream });
            id
        })
        .collect();
    let (new, _, outcome) = master.framework(patient.clone());
    assert_eq!(error(&outcome), None);
    assert!(outcome.0.contains(&Action::Observe(Observation::FrameworkRemoved(idle[0].clone()))));
    let left: Vec<_> = master.state.frameworks.keys().cloned().collect();
    assert_eq!(left, [busy, idle[1].clone(), new], "one with a task stays");
    master.framework(patient.clone());
    let (.., outcome) = master.framework(patient);
    assert!(error(&outcome).is_some_and(|why| why.contains("each is connected or has tasks")), "{outcome:?}");
}

#[test]
fn roles_are_bounded_over_all_frameworks() {
    let mut config = Config::new("m");
    config.max_roles = 3;
    let mut master = Master::with(config);
    let of = |roles: &[&str]| FrameworkInfo {
        roles: roles.iter().map(|role| (*role).into()).collect(),
        ..framework_info("f")
    };
    let (first, ..) = master.framework(of(&["a", "b"]));
    assert!(error(&master.framework(of(&["a", "c"])).2).is_some_and(|why| why.contains("as many roles")));
    let info = FrameworkInfo { id: Some(first.clone()), ..of(&["a", "b", "c"]) };
    master.call(&first, Call::UpdateFramework { info, suppressed_roles: vec![] });
    let info = FrameworkInfo { id: Some(first.clone()), ..of(&["a", "b", "c", "d"]) };
    let stream = master.state.frameworks[&first].stream.clone().expect("connected");
    let outcome = master.call_on(&first, &stream, Call::UpdateFramework { info, suppressed_roles: vec![] });
    assert!(outcome.response().is_err());
}

#[test]
fn the_number_of_frameworks_is_bounded() {
    let mut config = Config::new("m");
    config.max_frameworks = 1;
    let mut master = Master::with(config);
    let (framework, ..) = master.framework(framework_info("f"));
    assert!(error(&master.framework(framework_info("g")).2).is_some());
    let (.., outcome) = master.framework(back(&master, &framework));
    assert_eq!(error(&outcome), Some("Framework failed over"), "one that is known may come back");
}

#[test]
fn update_framework_changes_roles_and_tells_agents() {
    let (mut master, framework, agent, _) = Master::running(framework_info("f"));
    let outcome = master.call(&framework, Call::Revive { roles: vec![] });
    let open = outcome.offers().remove(0);
    let mut info = back(&master, &framework);
    info.name = "renamed".into();
    info.roles = vec!["new".into()];
    let outcome =
        master.call(&framework, Call::UpdateFramework { info: info.clone(), suppressed_roles: vec![] });
    assert_eq!(outcome.rescinded(), [open.id]);
    assert_eq!(outcome.offers()[0].role, "new");
    assert!(
        matches!(outcome.commands()[..], [AgentCommand::UpdateFramework { framework }] if **framework == info)
    );
    assert_eq!(master.state.agents[&agent].used, resources("cpus:1;mem:512"), "tasks stay in the old role");

    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    info.user = "other".into();
    let outcome =
        master.call_on(&framework, &stream, Call::UpdateFramework { info, suppressed_roles: vec![] });
    assert!(
        matches!(outcome.response(), Err(CallError::Invalid(why)) if why.contains("'FrameworkInfo.user'"))
    );
}

#[test]
fn a_framework_of_a_previous_master_may_come_back_with_its_id() {
    let mut master = Master::new();
    let info = FrameworkInfo { id: Some("old-0007".into()), ..framework_info("f") };
    let (framework, _, outcome) = master.framework(info);
    assert_eq!(framework.as_str(), "old-0007");
    assert_eq!(error(&outcome), None);
}

#[test]
fn a_stream_cannot_be_used_twice() {
    let mut master = Master::new();
    let (_, stream, _) = master.framework(framework_info("f"));
    let event = Event::Subscribe {
        request: crate::master::RequestId(99),
        stream: StreamId::clone(&stream),
        info: framework_info("g"),
        suppressed_roles: vec![],
    };
    assert!(master.step(event).response().is_err());
}

#[test]
fn completed_frameworks_are_bounded() {
    let mut config = Config::new("m");
    config.max_completed_frameworks = 2;
    let mut master = Master::with(config);
    for _ in 0..5 {
        let (framework, ..) = master.framework(framework_info("f"));
        master.call(&framework, Call::Teardown);
    }
    let ids: Vec<_> = master.state.completed_frameworks.iter().map(|ended| ended.info.id.clone()).collect();
    assert_eq!(ids, [Some("m-0003".into()), Some("m-0004".into())]);
}
