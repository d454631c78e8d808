//! KILL, ACKNOWLEDGE, RECONCILE and the like: recordings 071-080, 084-096, 098 of a real Mesos.
use super::support::*;
use crate::master::{AgentCommand, Call, CallError, Event, RequestId, Response};
use bellows_model::{AgentInfo, FrameworkId, Reason, Source, StatusUuid, StreamId, TaskId, TaskState};
use std::time::Duration;

#[test]
fn updates_are_forwarded_and_acknowledgements_go_back() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let outcome = master.update(link, &framework, status("t", TaskState::Finished, 2));
    let update = outcome.the_update();
    assert_eq!((update.state, &update.agent_id), (TaskState::Finished, &Some(agent.clone())));
    assert_eq!(update.uuid, Some(StatusUuid([2; 16])));
    assert_eq!(master.state.agents[&agent].used, resources(""));
    assert!(master.state.frameworks[&framework].tasks.contains_key("t"), "until it is acknowledged");

    let outcome = master.update(link, &framework, status("t", TaskState::Finished, 2));
    assert_eq!(outcome.updates().len(), 1, "sent again, forwarded again");

    let uuid = StatusUuid([2; 16]);
    let acknowledge = |uuid| Call::Acknowledge { agent_id: agent.clone(), task_id: "t".into(), uuid };
    master.call(&framework, acknowledge(StatusUuid([9; 16])));
    assert!(master.state.frameworks[&framework].tasks.contains_key("t"), "not by another's acknowledgement");
    let outcome = master.call(&framework, acknowledge(uuid));
    let (framework_id, task_id) = (framework.clone(), TaskId::from("t"));
    assert_eq!(outcome.commands(), [&AgentCommand::Acknowledge { framework_id, task_id, uuid }]);
    let known = &master.state.frameworks[&framework];
    assert!(known.tasks.is_empty());
    assert_eq!(known.completed_tasks.len(), 1);
    assert_eq!(master.state.counters.of_frameworks.tasks_ended[&TaskState::Finished], 1);
}

#[test]
fn an_end_is_final_and_a_late_update_is_acknowledged_for_the_framework() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    master.update(link, &framework, status("t", TaskState::Finished, 2));
    let outcome = master.update(link, &framework, status("t", TaskState::Failed, 3));
    assert!(outcome.updates().is_empty());
    assert!(matches!(outcome.commands()[..], [AgentCommand::Acknowledge { .. }]));
    assert_eq!(master.state.frameworks[&framework].tasks["t"].state, TaskState::Finished);
    assert_eq!(master.state.agents[&agent].used, resources(""));
    let outcome = master.update(link, &framework, status("never-was", TaskState::Running, 4));
    assert!(outcome.updates().is_empty() && outcome.commands().len() == 1);
}

#[test]
fn updates_wait_at_the_agent_while_the_framework_is_away_but_resources_do_not() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    master.step(Event::StreamClosed { stream });
    let outcome = master.update(link, &framework, status("t", TaskState::Finished, 2));
    assert!(outcome.updates().is_empty() && outcome.commands().is_empty(), "the agent will send it again");
    assert_eq!(master.state.agents[&agent].used, resources(""));
}

#[test]
fn an_end_behind_an_unacknowledged_update_frees_resources_before_the_framework_hears_of_it() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let outcome =
        master.update_behind(link, &framework, status("t", TaskState::Running, 2), TaskState::Finished);
    assert_eq!(outcome.the_update().state, TaskState::Running);
    assert_eq!(master.state.agents[&agent].used, resources(""));
    let known = master.call(&framework, reconcile(&[("t", None)])).the_update().state;
    assert_eq!(known, TaskState::Running, "what the framework was told");
    let acknowledge = |uuid| Call::Acknowledge {
        agent_id: agent.clone(),
        task_id: "t".into(),
        uuid: StatusUuid([uuid; 16]),
    };
    master.call(&framework, acknowledge(2));
    assert!(master.state.frameworks[&framework].tasks.contains_key("t"), "its end is still to come");
    let outcome = master.update(link, &framework, status("t", TaskState::Finished, 3));
    assert_eq!(outcome.the_update().state, TaskState::Finished);
    master.call(&framework, acknowledge(3));
    assert!(master.state.frameworks[&framework].tasks.is_empty());
}

#[test]
fn statuses_are_kept_one_a_state_without_data() {
    let (mut master, framework, _, link) = Master::running(framework_info("f"));
    for uuid in 2..40 {
        let mut again = status("t", TaskState::Running, uuid);
        again.data = Some(vec![0; 1_000]);
        let outcome = master.update(link, &framework, again);
        assert!(outcome.the_update().data.is_some());
    }
    let statuses = &master.state.frameworks[&framework].tasks["t"].statuses;
    assert_eq!(statuses.len(), 1);
    assert_eq!((statuses[0].uuid, &statuses[0].data), (Some(StatusUuid([39; 16])), &None));
    for uuid in 0..40 {
        let state = if uuid % 2 == 0 { TaskState::Starting } else { TaskState::Running };
        master.update(link, &framework, status("t", state, uuid));
    }
    assert_eq!(master.state.frameworks[&framework].tasks["t"].statuses.len(), 16);
}

fn reconcile(tasks: &[(&str, Option<&str>)]) -> Call {
    let tasks = tasks.iter().map(|(task, agent)| (TaskId::from(*task), agent.map(Into::into))).collect();
    Call::Reconcile { tasks }
}

#[test]
fn reconciliation_says_what_is_known() {
    let (mut master, framework, agent, _) = Master::running(framework_info("f"));
    let outcome = master.call(&framework, reconcile(&[("t", None), ("never-was", None)]));
    let updates = outcome.updates();
    let [known, unknown] = updates[..] else { panic!("{updates:?}") };
    assert_eq!(
        (known.state, known.message.as_deref()),
        (TaskState::Running, Some("Reconciliation: Latest task state"))
    );
    assert_eq!(known.agent_id.as_ref(), Some(&agent));
    assert_eq!(
        (unknown.state, unknown.message.as_deref(), &unknown.agent_id),
        (TaskState::Unknown, Some("Reconciliation: Task is unknown"), &None)
    );
    for update in [known, unknown] {
        assert_eq!((update.source, update.reason), (Source::Master, Some(Reason::Reconciliation)));
        assert_eq!((update.uuid, &update.executor_id), (None, &None));
    }
    let outcome = master.call(&framework, reconcile(&[]));
    assert_eq!(outcome.the_update().state, TaskState::Running, "implicitly, all that are known");
}

#[test]
fn an_unknown_task_is_as_good_as_its_agent() {
    for aware in [true, false] {
        let mut info = framework_info("f");
        if !aware {
            info.capabilities.clear();
        }
        let (mut master, framework, agent, link) = Master::running(info);
        let state_on = |master: &mut Master, agent: &str| {
            master.call(&framework, reconcile(&[("x", Some(agent))])).the_update().state
        };
        let expect = |master: &mut Master, agent: &str, state: TaskState| {
            assert_eq!(state_on(master, agent), if aware { state } else { TaskState::Lost });
        };
        expect(&mut master, "nowhere", TaskState::Unknown);
        expect(&mut master, agent.as_str(), TaskState::Gone);
        master.step(Event::LinkClosed { link });
        master.pass(Duration::from_secs(75));
        expect(&mut master, agent.as_str(), TaskState::Unreachable);
    }
}

#[test]
fn nothing_is_said_of_tasks_that_may_be_on_an_agent_that_is_still_to_come() {
    let known = AgentInfo { id: Some("old-S0".into()), ..agent_info(1, "cpus:4;mem:4096") };
    let state = crate::master::State::recover(crate::master::Config::new("m"), crate::Time(0), [known]);
    let mut master = Master::of(state);
    let (framework, ..) = master.framework(framework_info("f"));
    for agent in [None, Some("old-S0")] {
        assert!(master.call(&framework, reconcile(&[("t", agent)])).updates().is_empty());
    }
    assert_eq!(
        master.call(&framework, reconcile(&[("t", Some("old-S9"))])).the_update().state,
        TaskState::Unknown
    );
    let outcome = master.pass(Duration::from_secs(600));
    assert!(
        outcome.events().iter().any(|(_, event)| matches!(
            event,
            crate::master::SchedulerEvent::Failure { executor_id: None, .. }
        ))
    );
    assert_eq!(
        master.call(&framework, reconcile(&[("t", Some("old-S0"))])).the_update().state,
        TaskState::Unreachable
    );
    let (_, outcome) = master.come_back(&"old-S0".into(), vec![], vec![]);
    assert_eq!(outcome.offers().len(), 1);
}

fn kill(task: &str, agent: Option<&str>) -> Call {
    Call::Kill { task_id: task.into(), agent_id: agent.map(Into::into), grace: Some(Duration::from_secs(3)) }
}

#[test]
fn kill_goes_to_the_agent() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let outcome = master.call(&framework, kill("t", None));
    let command = AgentCommand::Kill {
        framework_id: framework.clone(),
        task_id: "t".into(),
        grace: Some(Duration::from_secs(3)),
    };
    assert_eq!(outcome.told(), [(link, &command)]);
    assert!(outcome.updates().is_empty());
    assert!(master.call(&framework, kill("t", Some("other"))).told().is_empty());
    assert_eq!(master.call(&framework, kill("t", Some(agent.as_str()))).told().len(), 1);
    master.update(link, &framework, status("t", TaskState::Killed, 2));
    let outcome = master.call(&framework, kill("t", None));
    assert!(outcome.told().is_empty(), "it has ended");
}

#[test]
fn killing_an_unknown_task_reconciles_it() {
    let (mut master, framework, ..) = Master::running(framework_info("f"));
    let outcome = master.call(&framework, kill("never-was", None));
    let update = outcome.the_update();
    assert_eq!((update.state, update.reason), (TaskState::Unknown, Some(Reason::Reconciliation)));
}

#[test]
fn a_kill_waits_for_an_agent_that_is_away() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let info = task("t", &agent, "cpus:1;mem:512");
    master.step(Event::LinkClosed { link });
    assert!(master.call(&framework, kill("t", None)).told().is_empty());
    let known = (*master.state.frameworks[&framework].info).clone();
    let (_, outcome) = master.come_back(&agent, vec![known], vec![(&framework, info, TaskState::Running)]);
    let kills = outcome.commands().into_iter().filter(|command| matches!(command, AgentCommand::Kill { .. }));
    assert_eq!(kills.count(), 1);
}

#[test]
fn messages_and_shutdowns_go_to_the_agent() {
    let (mut master, framework, agent, _) = Master::running(framework_info("f"));
    let (agent_id, executor_id) = (agent.clone(), bellows_model::ExecutorId::from("e"));
    let call = Call::Message { agent_id, executor_id: executor_id.clone(), data: vec![1] };
    let outcome = master.call(&framework, call);
    assert!(matches!(outcome.commands()[..], [AgentCommand::Message { data, .. }] if *data == [1]));
    let outcome = master.call(&framework, Call::Shutdown { executor_id, agent_id: agent });
    assert!(matches!(outcome.commands()[..], [AgentCommand::ShutdownExecutor { .. }]));
    assert!(master.call(&framework, Call::Request).commands().is_empty());
}

#[test]
fn calls_need_the_framework_s_own_stream() {
    let (mut master, framework, ..) = Master::ready();
    let revive = || Call::Revive { roles: vec![] };
    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    let outcome = master.call_on(&"nobody".into(), &stream, revive());
    assert_eq!(outcome.response(), &Err(CallError::UnknownFramework));
    let zero: StreamId = "00000000-0000-0000-0000-000000000000".into();
    let outcome = master.call_on(&framework, &zero, revive());
    assert_eq!(
        outcome.response().as_ref().map_err(ToString::to_string),
        Err(
            "The stream ID '00000000-0000-0000-0000-000000000000' included in this request didn't match the \
             stream ID currently associated with framework ID m-0000"
                .into()
        )
    );
    master.step(Event::StreamClosed { stream: stream.clone() });
    let outcome = master.call_on(&framework, &stream, revive());
    assert_eq!(outcome.response(), &Err(CallError::NotSubscribed));
    assert_eq!(master.state.counters.calls_refused, 3);
}

fn teardown(master: &mut Master, framework: &FrameworkId) -> super::support::Outcome {
    let request = RequestId(master.number());
    master.step(Event::OperatorTeardown { request, framework_id: framework.clone() })
}

#[test]
fn an_operator_tears_down() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    assert_eq!(teardown(&mut master, &"nobody".into()).response(), &Err(CallError::NothingToTearDown));
    let outcome = teardown(&mut master, &framework);
    assert_eq!(outcome.response(), &Ok(Response::Accepted));
    let framework_id = framework.clone();
    assert_eq!(outcome.told(), [(link, &AgentCommand::ShutdownFramework { framework_id })]);
    assert_eq!(outcome.closed_streams(), [&stream]);
    assert_eq!(master.state.agents[&agent].used, resources(""));
    let ended = &master.state.completed_frameworks[0];
    assert_eq!(ended.completed_tasks[0].state, TaskState::Killed);
    assert_eq!(ended.unregistered, Some(master.now));
    let outcome = master.call_on(&framework, &stream, Call::Revive { roles: vec![] });
    assert_eq!(outcome.response(), &Err(CallError::UnknownFramework));

    let outcome = master.update(link, &framework, status("t", TaskState::Killed, 2));
    assert!(matches!(outcome.commands()[..], [AgentCommand::ShutdownFramework { .. }]));
    assert!(outcome.updates().is_empty());
}
