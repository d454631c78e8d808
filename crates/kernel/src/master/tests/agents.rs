//! Agents get lost and come back.
use super::support::*;
use crate::master::{
    Action, AgentCommand, AgentCondition, AgentMessage, AgentRegistration, AgentTask, Call, Config, Event,
    LinkId, SchedulerEvent,
};
use bellows_model::{AgentId, AgentInfo, FrameworkInfo, Reason, Source, TaskInfo, TaskState};
use std::time::Duration;

/// Mesos' ping budget: 5 of 15 s.
const BUDGET: Duration = Duration::from_secs(75);

fn not_partition_aware() -> FrameworkInfo {
    FrameworkInfo { capabilities: vec![], ..framework_info("f") }
}

fn lost_agents(outcome: &Outcome) -> Vec<&AgentId> {
    let lost = |event| match event {
        &SchedulerEvent::Failure { ref agent_id, executor_id: None, .. } => Some(agent_id),
        _ => None,
    };
    outcome.events().into_iter().filter_map(|(_, event)| lost(event)).collect()
}

#[test]
fn an_agent_that_does_not_answer_its_pings_is_unreachable() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let offer = master.call(&framework, Call::Revive { roles: vec![] }).offers().remove(0);
    // The first ping, at the registration, was answered.
    assert!(lost_agents(&master.pass(BUDGET + Duration::from_secs(14))).is_empty());
    let outcome = master.pass(Duration::from_secs(1));
    let update = outcome.the_update();
    assert_eq!((update.state, update.reason), (TaskState::Unreachable, Some(Reason::AgentRemoved)));
    assert_eq!((update.source, update.uuid), (Source::Master, None));
    assert_eq!(outcome.rescinded(), [offer.id]);
    assert_eq!(lost_agents(&outcome), [&agent]);
    assert!(outcome.0.contains(&Action::CloseLink { link }));
    assert!(master.state.agents[&agent].unreachable.is_some());
    assert_eq!(master.state.frameworks[&framework].used, resources(""));
}

#[test]
fn an_agent_that_answers_stays() {
    let (mut master, _, agent, _) = Master::running(framework_info("f"));
    assert!(lost_agents(&master.pass_with_pongs(BUDGET * 10)).is_empty());
    assert!(master.state.agents[&agent].link.is_some());
}

#[test]
fn a_short_absence_costs_nothing() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let outcome = master.step(Event::LinkClosed { link });
    assert!(outcome.updates().is_empty());
    let info = back(&master, &framework);
    master.pass(BUDGET - Duration::from_secs(1));
    let running = (&framework, task("t", &agent, "cpus:1;mem:512"), TaskState::Running);
    let (_, outcome) = master.come_back(&agent, vec![info], vec![running]);
    assert!(outcome.updates().is_empty());
    assert_eq!(outcome.registered(), Some(agent.clone()));
    assert_eq!(master.state.agents[&agent].used, resources("cpus:1;mem:512"));
    assert!(lost_agents(&master.pass_with_pongs(BUDGET)).is_empty());
}

#[test]
fn nothing_is_offered_of_an_agent_that_is_away() {
    let (mut master, framework, agent, link, offer) = Master::ready();
    assert_eq!(master.step(Event::LinkClosed { link }).rescinded(), [offer.id]);
    assert!(master.call(&framework, Call::Revive { roles: vec![] }).offers().is_empty());
    let (_, outcome) = master.come_back(&agent, vec![], vec![]);
    assert_eq!(outcome.offers().len(), 1);
}

fn back(master: &Master, framework: &bellows_model::FrameworkId) -> FrameworkInfo {
    (*master.state.frameworks[framework].info).clone()
}

#[test]
fn out_of_reach_and_back_again_tasks_go_on() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    master.step(Event::LinkClosed { link });
    let outcome = master.pass(BUDGET);
    assert_eq!(outcome.the_update().state, TaskState::Unreachable);
    let info = back(&master, &framework);
    let running = (&framework, task("t", &agent, "cpus:1;mem:512"), TaskState::Running);
    let (_, outcome) = master.come_back(&agent, vec![info], vec![running]);
    let update = outcome.the_update();
    assert_eq!((update.state, update.reason), (TaskState::Running, Some(Reason::AgentReregistered)));
    assert_eq!(master.state.agents[&agent].used, resources("cpus:1;mem:512"));
    assert_eq!(outcome.offers()[0].resources, resources("cpus:3;mem:3584"));
}

#[test]
fn what_was_unreachable_and_is_gone_gets_an_end() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    master.step(Event::LinkClosed { link });
    master.pass(BUDGET);
    let (_, outcome) = master.come_back(&agent, vec![], vec![]);
    assert_eq!(outcome.the_update().state, TaskState::Gone);
    assert!(master.state.frameworks[&framework].tasks.is_empty());
}

/// Mesos 1.12 would bring the task back to life; here an end that was told is final.
#[test]
fn a_framework_that_knows_only_lost_gets_an_end_and_the_task_is_killed_on_return() {
    let (mut master, framework, agent, link) = Master::running(not_partition_aware());
    master.step(Event::LinkClosed { link });
    let outcome = master.pass(BUDGET);
    assert_eq!(outcome.the_update().state, TaskState::Lost);
    let info = back(&master, &framework);
    let running = (&framework, task("t", &agent, "cpus:1;mem:512"), TaskState::Running);
    let (link, outcome) = master.come_back(&agent, vec![info], vec![running]);
    assert!(outcome.updates().is_empty());
    assert!(outcome.commands().iter().any(|command| matches!(command, AgentCommand::Kill { .. })));
    let outcome = master.update(link, &framework, status("t", TaskState::Killed, 5));
    assert!(outcome.updates().is_empty());
    assert!(matches!(outcome.commands()[..], [AgentCommand::Acknowledge { .. }]));
}

#[test]
fn an_end_is_final_even_when_it_is_no_longer_remembered() {
    let mut config = Config::new("m");
    config.max_completed_frameworks = 0;
    config.max_completed_tasks_per_framework = 0;
    let mut master = Master::with(config);
    let (agent, link, _) = master.agent("cpus:4;mem:4096");
    let infos = [not_partition_aware(), not_partition_aware()];
    let [first, second] = infos.map(|info| {
        let (framework, _, outcome) = master.framework(info);
        let offers = outcome.offers();
        let offer = offers.first().cloned().unwrap_or_else(|| {
            let free = |offer: &&bellows_model::Offer| offer.framework_id == framework;
            master.state.offers.values().find(free).cloned().expect("an offer")
        });
        master.accept(&framework, &[&offer.id], vec![task("t", &agent, "cpus:1;mem:512")]);
        framework
    });
    let known = [&first, &second].map(|framework| back(&master, framework));
    master.step(Event::LinkClosed { link });
    master.pass(BUDGET);
    master.call(&second, Call::Teardown);
    let tasks = [&first, &second].map(|of| (of, task("t", &agent, "cpus:1;mem:512"), TaskState::Running));
    let (_, outcome) = master.come_back(&agent, known.to_vec(), tasks.to_vec());
    let commands = outcome.commands();
    let kill = AgentCommand::Kill { framework_id: first, task_id: "t".into(), grace: None };
    assert!(commands.contains(&&kill) && outcome.updates().is_empty());
    assert!(commands.contains(&&AgentCommand::ShutdownFramework { framework_id: second }));
    assert_eq!(master.state.frameworks.len(), 1);
}

#[test]
fn a_launch_that_never_arrived_was_dropped_and_what_ran_is_gone() {
    for (info, dropped, gone) in [
        (framework_info("f"), TaskState::Dropped, TaskState::Gone),
        (not_partition_aware(), TaskState::Lost, TaskState::Lost),
    ] {
        let (mut master, framework, agent, _) = Master::running(info);
        let offer = master.call(&framework, Call::Revive { roles: vec![] }).offers().remove(0);
        master.accept(&framework, &[&offer.id], vec![task("new", &agent, "cpus:1;mem:512")]);
        // The agent's machine has restarted: it knows its id and nothing else.
        let (_, outcome) = master.come_back(&agent, vec![], vec![]);
        let states: Vec<_> =
            outcome.updates().iter().map(|update| (update.task_id.as_str(), update.state)).collect();
        assert_eq!(states, [("new", dropped), ("t", gone)]);
        assert!(outcome.updates().iter().all(|update| update.reason == Some(Reason::Reconciliation)));
        assert_eq!(master.state.agents[&agent].used, resources(""));
    }
}

/// Somebody connects under the agent's id, with nothing of what it has.
fn pretend(master: &mut Master, agent: &AgentId) -> (LinkId, Outcome) {
    let link = LinkId(master.number() + 1_000);
    let info = (*master.state.agents[agent].info).clone();
    let registration = registration_of(info);
    (link, master.step(Event::AgentRegister { link, registration }))
}

fn pinged(outcome: &Outcome, link: LinkId) -> u64 {
    let told = outcome.told();
    let seq = told.iter().find_map(|(to, command)| match command {
        AgentCommand::Ping { seq } if *to == link => Some(*seq),
        _ => None,
    });
    seq.expect("a ping")
}

fn put_off(outcome: &Outcome) -> Vec<LinkId> {
    let put_off = |(link, command): &(LinkId, &AgentCommand)| {
        matches!(command, AgentCommand::TryLater { .. }).then_some(*link)
    };
    outcome.told().iter().filter_map(put_off).collect()
}

#[test]
fn a_connection_that_lives_is_not_displaced() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let (other, outcome) = pretend(&mut master, &agent);
    let seq = pinged(&outcome, link);
    assert_eq!((outcome.registered(), outcome.updates().len()), (None, 0));
    let (third, outcome) = pretend(&mut master, &agent);
    assert_eq!(put_off(&outcome), [third], "one waits at a time");
    let stale = Event::Agent { link, message: AgentMessage::Pong { seq: seq - 1 } };
    assert_eq!(put_off(&master.step(stale)), [], "the answer to an older ping proves nothing");
    let outcome = master.step(Event::Agent { link, message: AgentMessage::Pong { seq } });
    assert_eq!(put_off(&outcome), [other]);
    assert!(outcome.0.contains(&Action::CloseLink { link: other }));
    assert_eq!(master.state.agents[&agent].link, Some(link));
    assert_eq!(master.state.frameworks[&framework].tasks["t"].state, TaskState::Running);
    let outcome = master.pass(Duration::from_secs(10));
    assert!(outcome.updates().is_empty() && outcome.registered().is_none());
}

#[test]
fn a_connection_that_does_not_answer_is_replaced() {
    let (mut master, framework, agent, old) = Master::running(framework_info("f"));
    let (new, _) = pretend(&mut master, &agent);
    assert!(master.pass(Duration::from_millis(4_999)).registered().is_none());
    let outcome = master.pass(Duration::from_millis(1));
    assert_eq!(outcome.registered(), Some(agent.clone()));
    assert!(outcome.0.contains(&Action::CloseLink { link: old }));
    assert_eq!(master.state.agents[&agent].link, Some(new));
    let outcome = master.update(old, &framework, status("t", TaskState::Failed, 7));
    assert!(outcome.0.is_empty(), "the old connection has no voice");
    assert!(master.step(Event::LinkClosed { link: old }).0.is_empty());
}

#[test]
fn a_connection_that_waits_takes_over_when_the_old_one_ends() {
    let (mut master, _, agent, old) = Master::running(framework_info("f"));
    pretend(&mut master, &agent);
    assert_eq!(master.step(Event::LinkClosed { link: old }).registered(), Some(agent.clone()));
    // And one that gives up while it waits leaves nothing behind.
    let (other, _) = pretend(&mut master, &agent);
    master.step(Event::LinkClosed { link: other });
    assert!(put_off(&master.pass(Duration::from_secs(6))).is_empty());
    assert!(master.state.newcomers.is_empty());
}

#[test]
fn what_a_connection_says_of_the_shuffle_service_while_it_waits_counts() {
    let mut spark = framework_info("spark");
    spark.labels.push(shuffle_service_label());
    let (mut master, _, agent, old) = Master::running(spark);
    let (other, _) = pretend(&mut master, &agent);
    master.step(Event::Agent { link: other, message: AgentMessage::ShuffleService { down: true } });
    assert!(!master.state.agents[&agent].shuffle_service_down, "it is not the agent yet");
    let outcome = master.step(Event::LinkClosed { link: old });
    assert_eq!(outcome.registered(), Some(agent.clone()));
    assert!(master.state.agents[&agent].shuffle_service_down && outcome.offers().is_empty());
}

/// Nobody can take another's agent out of service.
#[test]
fn a_connection_that_waits_unregisters_nobody() {
    let (mut master, _, agent, old) = Master::running(framework_info("f"));
    let (other, _) = pretend(&mut master, &agent);
    let outcome = master.step(Event::Agent { link: other, message: AgentMessage::Unregister });
    assert!(outcome.0.is_empty(), "{outcome:?}");
    assert_eq!(master.state.agents[&agent].link, Some(old));
}

#[test]
fn agents_are_bounded_and_the_longest_unreachable_makes_room() {
    let mut config = Config::new("m");
    config.max_agents = 2;
    let mut master = Master::with(config);
    let (first, ..) = master.agent("cpus:1");
    let (second, ..) = master.agent("cpus:1");
    let register = |master: &mut Master| {
        let link = LinkId(master.number());
        let info = agent_info(link.0 as u16, "cpus:1");
        (link, master.register(link, registration_of(info)))
    };
    let (link, outcome) = register(&mut master);
    assert_eq!(put_off(&outcome), [link]);
    master.pass(BUDGET * 2);
    assert!(master.state.agents[&first].unreachable.is_some());
    assert!(register(&mut master).1.registered().is_some());
    assert!(!master.state.agents.contains_key(&first) && master.state.agents.contains_key(&second));
}

#[test]
fn a_new_master_learns_from_agents_and_waits_for_their_frameworks() {
    let mut master = Master::new();
    let (agent, framework) = (AgentId::from("old-S3"), bellows_model::FrameworkId::from("old-0001"));
    let mut info = FrameworkInfo { id: Some(framework.clone()), ..framework_info("f") };
    info.failover_timeout = Duration::ZERO;
    let running = (&framework, task("t", &agent, "cpus:1;mem:512"), TaskState::Running);
    let (_, outcome) = master.come_back(&agent, vec![info.clone()], vec![running]);
    assert_eq!(outcome.registered(), Some(agent.clone()));
    assert!(master.state.frameworks[&framework].recovered);
    assert_eq!(master.state.agents[&agent].used, resources("cpus:1;mem:512"));
    master.pass_with_pongs(Duration::from_secs(599));
    let (.., outcome) = master.framework(info);
    assert_eq!(outcome.offers()[0].resources, resources("cpus:3;mem:3584"));
    assert!(!master.state.frameworks[&framework].recovered);
    master.pass_with_pongs(Duration::from_secs(600));
    assert!(master.state.frameworks.contains_key(&framework));
}

#[test]
fn a_recovered_framework_that_never_comes_ends() {
    let mut master = Master::new();
    let info = FrameworkInfo { id: Some("old-0001".into()), ..framework_info("f") };
    master.come_back(&"old-S3".into(), vec![info], vec![]);
    let outcome = master.pass_with_pongs(Duration::from_secs(600));
    let told = outcome.commands();
    assert!(told.iter().any(|command| matches!(command, AgentCommand::ShutdownFramework { .. })), "{told:?}");
    assert!(master.state.frameworks.is_empty());
}

#[test]
fn what_is_left_of_a_completed_framework_is_shut_down() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let info = back(&master, &framework);
    master.step(Event::LinkClosed { link });
    master.call(&framework, Call::Teardown);
    let running = (&framework, task("t", &agent, "cpus:1;mem:512"), TaskState::Running);
    let (_, outcome) = master.come_back(&agent, vec![info], vec![running]);
    assert!(
        outcome.commands().iter().any(|command| matches!(command, AgentCommand::ShutdownFramework { .. }))
    );
    assert_eq!(master.state.agents[&agent].used, resources(""));
}

#[test]
fn a_new_agent_at_the_same_address_replaces_one_that_is_away() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    master.step(Event::LinkClosed { link });
    let info = AgentInfo { id: None, ..(*master.state.agents[&agent].info).clone() };
    let outcome = master.register(LinkId(77), registration_of(info));
    assert_eq!(outcome.the_update().state, TaskState::Gone);
    assert_eq!(lost_agents(&outcome), [&agent]);
    assert!(!master.state.agents.contains_key(&agent));
    assert_eq!(outcome.registered(), Some("m-S1".into()));
    assert!(master.state.frameworks[&framework].tasks.is_empty());
}

#[test]
fn a_new_agent_at_the_same_address_leaves_a_connected_one_alone() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let info = AgentInfo { id: None, ..(*master.state.agents[&agent].info).clone() };
    let outcome = master.register(LinkId(77), registration_of(info));
    assert!(lost_agents(&outcome).is_empty() && outcome.updates().is_empty());
    assert_eq!(outcome.registered(), Some("m-S1".into()));
    assert_eq!(master.state.agents[&agent].link, Some(link));
    assert_eq!(master.state.frameworks[&framework].tasks["t"].state, TaskState::Running);
}

fn refusal(outcome: &Outcome) -> Option<&str> {
    outcome.commands().into_iter().find_map(|command| match command {
        AgentCommand::Refused { reason } => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn an_agent_that_shrank_below_its_tasks_is_refused_and_harms_nothing() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    master.step(Event::LinkClosed { link });
    let small =
        |text: &str| AgentInfo { resources: resources(text), ..(*master.state.agents[&agent].info).clone() };
    // It lies about the task's size as well: what the master knows counts.
    let info = small("cpus:0.5;mem:4096");
    let fits = small("cpus:1;mem:600");
    let frameworks = vec![back(&master, &framework)];
    let tasks = vec![AgentTask {
        framework_id: framework.clone(),
        info: task("t", &agent, "cpus:0.1;mem:1"),
        latest_state: TaskState::Running,
    }];
    let registration = AgentRegistration {
        info,
        frameworks: frameworks.clone(),
        tasks: tasks.clone(),
        shuffle_service_down: false,
        condition: AgentCondition::default(),
    };
    let outcome = master.register(LinkId(50), registration);
    assert!(refusal(&outcome).is_some_and(|reason| reason.contains("less than what its tasks have")));
    assert_eq!(master.state.frameworks[&framework].tasks["t"].state, TaskState::Running);

    let outcome = master.register(
        LinkId(51),
        AgentRegistration {
            info: fits,
            frameworks,
            tasks,
            shuffle_service_down: false,
            condition: AgentCondition::default(),
        },
    );
    assert_eq!(refusal(&outcome), None, "smaller, but large enough");
    assert_eq!(master.state.agents[&agent].info.resources, resources("cpus:1;mem:600"));
}

#[test]
fn bad_registrations_are_refused() {
    let mut master = Master::new();
    let (_, link, _) = master.agent("cpus:1");
    let registration = |id: Option<&str>, tasks| AgentRegistration {
        shuffle_service_down: false,
        condition: AgentCondition::default(),
        info: AgentInfo { id: id.map(Into::into), ..agent_info(9, "cpus:1") },
        frameworks: vec![],
        tasks,
    };
    let tasks = vec![AgentTask {
        framework_id: "f".into(),
        info: task("t", &"a".into(), "cpus:1"),
        latest_state: TaskState::Running,
    }];
    assert!(refusal(&master.register(link, registration(None, vec![]))).is_some(), "one agent a connection");
    assert!(refusal(&master.register(LinkId(90), registration(Some("../a"), vec![]))).is_some());
    assert!(refusal(&master.register(LinkId(91), registration(None, tasks))).is_some());
}

#[test]
fn executors_come_back_with_their_tasks() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    let info = TaskInfo {
        command: None,
        executor: Some(executor("e", "cpus:1;mem:100")),
        ..task("t", &agent, "cpus:1;mem:100")
    };
    master.accept(&framework, &[&offer.id], vec![info.clone()]);
    let known = back(&master, &framework);
    master.pass(BUDGET + Duration::from_secs(15));
    assert!(master.state.agents[&agent].executors.is_empty());
    master.come_back(&agent, vec![known.clone()], vec![(&framework, info.clone(), TaskState::Running)]);
    assert_eq!(master.state.agents[&agent].used, resources("cpus:2;mem:200"));
    master.come_back(&agent, vec![known], vec![(&framework, info, TaskState::Finished)]);
    assert_eq!(master.state.agents[&agent].used, resources(""));
}

#[test]
fn of_unreachable_agents_only_so_many_are_remembered() {
    let mut config = Config::new("m");
    config.max_unreachable_agents = 1;
    let mut master = Master::with(config);
    let (first, ..) = master.agent("cpus:4;mem:4096");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let offer = outcome.offers().remove(0);
    master.accept(&framework, &[&offer.id], vec![task("t", &first, "cpus:1")]);
    assert_eq!(master.pass(BUDGET * 2).the_update().state, TaskState::Unreachable);
    master.agent("cpus:1");
    let outcome = master.pass(BUDGET * 2);
    assert_eq!(outcome.the_update().state, TaskState::Gone, "the first is forgotten for good");
    assert_eq!(master.state.agents.len(), 1);
}

#[test]
fn an_agent_that_unregisters_is_forgotten_at_once() {
    let (mut master, framework, agent, link) = Master::running(framework_info("f"));
    let outcome = master.step(Event::Agent { link, message: AgentMessage::Unregister });
    assert_eq!(outcome.the_update().state, TaskState::Gone);
    assert_eq!(lost_agents(&outcome), [&agent]);
    let reason = "the agent unregistered".to_owned();
    assert!(outcome.0.contains(&Action::Tell { link, command: AgentCommand::Refused { reason } }));
    assert!(outcome.0.contains(&Action::CloseLink { link }));
    assert!(!master.state.agents.contains_key(&agent));
    assert_eq!(master.state.frameworks[&framework].used, resources(""));
}
