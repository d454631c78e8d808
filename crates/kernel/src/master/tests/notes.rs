//! What the log and the metrics are told.
use super::support::*;
use crate::master::{
    Action, AgentChange, AgentMessage, Call, Event, FrameworkChange, Note, Removal, RequestId, StateCopy,
};
use bellows_model::{FrameworkId, FrameworkInfo, Reason, Source, TaskState};
use std::time::Duration;

const AGENT: &str = "m-S0";

fn agent_changes(outcome: &Outcome) -> Vec<AgentChange> {
    let change = |action: &Action| match action {
        Action::Note(Note::Agent { info, change }) => {
            assert_eq!(info.id.as_ref().map(|id| id.as_str()), Some(AGENT));
            Some(change.clone())
        }
        _ => None,
    };
    outcome.0.iter().filter_map(change).collect()
}

fn framework_changes(outcome: &Outcome) -> Vec<FrameworkChange> {
    let change = |action: &Action| match action {
        Action::Note(Note::Framework { change, .. }) => Some(change.clone()),
        _ => None,
    };
    outcome.0.iter().filter_map(change).collect()
}

#[test]
fn an_agent_comes_and_goes() {
    let mut master = Master::new();
    let (agent, link, outcome) = master.agent("cpus:4;mem:4096");
    assert_eq!(agent_changes(&outcome), [AgentChange::Added]);
    let budget = Duration::from_secs(75);
    let outcome = master.step(Event::LinkClosed { link });
    assert_eq!(agent_changes(&outcome), [AgentChange::Disconnected(budget)]);
    let (link, outcome) = master.come_back(&agent, vec![], vec![]);
    assert_eq!(agent_changes(&outcome), [AgentChange::Back { tasks: 0 }]);
    let outcome = master.pass(budget + Duration::from_secs(15));
    assert_eq!(agent_changes(&outcome), [AgentChange::Unreachable("health check timed out".into())]);
    let (_, outcome) = master.come_back(&agent, vec![], vec![]);
    assert_eq!(agent_changes(&outcome), [AgentChange::Back { tasks: 0 }]);
    assert!(agent_changes(&master.step(Event::LinkClosed { link })).is_empty(), "an old connection");
    let link = master.state.agents[&agent].link.expect("connected");
    let outcome = master.step(Event::Agent { link, message: AgentMessage::Unregister });
    assert_eq!(agent_changes(&outcome), [AgentChange::Removed("the agent unregistered".into())]);
    let counters = &master.state.counters;
    assert_eq!((counters.agents_registered, counters.agents_reregistered), (1, 2));
    assert_eq!(
        counters.agents_removed.clone().into_iter().collect::<Vec<_>>(),
        [(Removal::Unhealthy, 1), (Removal::Unregistered, 1)]
    );
}

#[test]
fn a_framework_comes_and_goes_and_the_reason_is_said() {
    let removed = |why: &str| [FrameworkChange::Removed(why.into())];
    let mut master = Master::new();
    let (id, stream, outcome) = master.framework(framework_info("f"));
    assert_eq!(framework_changes(&outcome), [FrameworkChange::Subscribed]);
    let patience = Duration::from_secs(30);
    let outcome = master.step(Event::StreamClosed { stream });
    assert_eq!(framework_changes(&outcome), [FrameworkChange::Disconnected(patience)]);
    let again = FrameworkInfo { id: Some(id.clone()), ..framework_info("f") };
    let (_, stream, outcome) = master.framework(again);
    assert_eq!(framework_changes(&outcome), [FrameworkChange::Back]);
    master.step(Event::StreamClosed { stream });
    assert_eq!(framework_changes(&master.pass(patience)), removed("it did not come back in time"));

    let (id, _, _) = master.framework(framework_info("itself"));
    assert_eq!(framework_changes(&master.call(&id, Call::Teardown)), removed("it ended itself"));
    let (id, _, _) = master.framework(framework_info("killed"));
    let request = RequestId(master.number());
    let outcome = master.step(Event::OperatorTeardown { request, framework_id: id });
    assert_eq!(framework_changes(&outcome), removed("an operator ended it"));
    let hasty = FrameworkInfo { failover_timeout: Duration::ZERO, ..framework_info("hasty") };
    let (_, stream, _) = master.framework(hasty);
    let outcome = master.step(Event::StreamClosed { stream });
    assert_eq!(framework_changes(&outcome), removed("its stream is gone, and it has no failover timeout"));
    assert_eq!(master.state.counters.frameworks_back, 1);
    assert_eq!(master.state.counters.of_frameworks.calls["subscribe"], 5);
}

#[test]
fn what_a_framework_does_is_counted_for_it_and_for_all() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let outcome = master.call(&framework, Call::Revive { roles: vec![] });
    let offer = outcome.offers().remove(0);
    master.decline_unsaid(&framework, &offer.id);
    let Some(uuid) = status("t", TaskState::Running, 1).uuid else { panic!("a uuid") };
    let acknowledge = |task: &str| Call::Acknowledge { agent_id: agent.clone(), task_id: task.into(), uuid };
    master.call(&framework, acknowledge("t"));
    master.call(&framework, acknowledge("none"));
    let mut end = status("t", TaskState::Failed, 2);
    (end.source, end.reason) = (Source::Agent, Some(Reason::ContainerLaunchFailed));
    master.update(link, &framework, end);
    // Of nobody's task.
    master.update(link, &framework, status("none", TaskState::Running, 3));
    let (other, ..) = master.framework(framework_info("g"));

    let of = |id: &FrameworkId| &master.state.frameworks[id].counters;
    let mine = of(&framework);
    assert_eq!(
        mine.calls.iter().map(|(name, count)| (*name, *count)).collect::<Vec<_>>(),
        [("accept", 1), ("acknowledge", 2), ("decline", 1), ("revive", 1), ("subscribe", 1)]
    );
    assert_eq!((mine.events["update"], mine.events["subscribed"]), (2, 1));
    assert_eq!((mine.offers_accepted, mine.offers_declined, mine.operations, mine.launches), (1, 1, 1, 1));
    assert_eq!(mine.tasks_ended[&TaskState::Failed], 1);
    let counters = &master.state.counters;
    assert_eq!(counters.of_frameworks.calls["subscribe"], 2);
    assert_eq!(counters.of_frameworks.offers_sent, mine.offers_sent + of(&other).offers_sent);
    assert_eq!((counters.status_updates, counters.stray_status_updates), (3, 1));
    assert_eq!((counters.acknowledgements, counters.stray_acknowledgements), (1, 1));
    let end = (TaskState::Failed, Source::Agent, Some(Reason::ContainerLaunchFailed));
    assert_eq!(counters.task_ends[&end], 1);
    assert!(counters.allocation_runs > 0);

    let mut copy = StateCopy::begin(&master.state);
    while !copy.go_on(&master.state, 1) {}
    let copied = copy.finish();
    assert_eq!(copied.frameworks[&framework].counters, *mine);
    assert_eq!(copied.counters, *counters);
}

#[test]
fn refusals_are_counted_by_role_in_a_copy() {
    let (mut master, framework, _, _, offer) = Master::ready();
    let filters = |master: &Master| {
        let mut copy = StateCopy::begin(&master.state);
        while !copy.go_on(&master.state, 1) {}
        copy.finish().filters.into_iter().map(|(role, count)| (role.to_string(), count)).collect::<Vec<_>>()
    };
    assert_eq!(filters(&master), []);
    master.decline(&framework, &offer.id, 60);
    assert_eq!(filters(&master), [("*".to_owned(), 1)]);
    master.call(&framework, Call::Revive { roles: vec![] });
    assert_eq!(filters(&master), []);
}
