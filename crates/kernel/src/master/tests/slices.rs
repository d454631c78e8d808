//! Work that is too much for one step: others have their turn between its slices, and in the end all of it is done.
use super::support::*;
use crate::master::{
    Action, AgentCommand, Call, CallError, Config, Event, LinkId, Observation, RequestId, Step,
    work::{Asked, SLICE, Work},
};
use bellows_model::{AgentId, FrameworkId, FrameworkInfo, Offer, TaskState};
use std::time::Duration;

/// A framework with some slices of tasks and a few more.
const TASKS: usize = 8 * SLICE + 7;

fn busy_master() -> (Master, FrameworkId, AgentId) {
    let mut config = Config::new("m");
    config.max_tasks_per_agent = TASKS;
    let mut master = Master::with(config);
    let (agent, ..) = master.agent("cpus:10000;mem:4096");
    let (framework, _, outcome) = master.framework(framework_info("f"));
    let tasks = (0..TASKS).map(|n| task(&format!("t{n:05}"), &agent, "cpus:0.1")).collect();
    master.checked = false;
    master.accept(&framework, &[&outcome.offers()[0].id], tasks);
    master.checked = true;
    (master, framework, agent)
}

/// Ticks until nothing is left over; what each tick did.
fn finish(master: &mut Master) -> Vec<Outcome> {
    let mut slices = Vec::new();
    while master.state.has_work() {
        assert_eq!(master.state.next_deadline(), Some(master.state.started), "at once");
        slices.push(master.step(Event::Tick));
        assert!(slices.len() < 1_000, "it never ends");
    }
    slices
}

fn is_removed(outcome: &Outcome, framework: &FrameworkId) -> bool {
    outcome.0.contains(&Action::Observe(Observation::FrameworkRemoved(framework.clone())))
}

#[test]
fn a_framework_with_many_tasks_ends_in_slices() {
    let (mut master, framework, agent) = busy_master();
    let mut outcome = master.call(&framework, Call::Teardown);
    assert!(
        outcome.commands().contains(&&AgentCommand::ShutdownFramework { framework_id: framework.clone() })
    );
    assert_eq!(outcome.closed_streams().len(), 1, "it is over for its scheduler at once");
    let left = master.state.frameworks[&framework].tasks.len();
    assert!((TASKS - SLICE..TASKS).contains(&left), "{left}");

    // For everybody it has ended.
    let stream = "any".into();
    let refused = master.call_on(&framework, &stream, Call::Request);
    assert_eq!(refused.response(), &Err(CallError::UnknownFramework));
    let again = FrameworkInfo { id: Some(framework.clone()), ..framework_info("f") };
    let (_, refused, _) = master.framework(again);
    assert!(!master.state.streams.contains_key(&refused));
    let request = RequestId(0);
    let torn = master.step(Event::OperatorTeardown { request, framework_id: framework.clone() });
    assert_eq!(torn.response(), &Err(CallError::NothingToTearDown));
    let link = master.state.agents[&agent].link.expect("connected");
    let update = master.update(link, &framework, status("t04000", TaskState::Running, 1));
    assert!(
        update.commands().contains(&&AgentCommand::ShutdownFramework { framework_id: framework.clone() })
    );

    let slices = finish(&mut master);
    for outcome in &slices {
        assert!(outcome.0.len() <= 3 * SLICE, "{} actions in one step", outcome.0.len());
    }
    outcome = slices.into_iter().last().expect("a slice");
    assert!(is_removed(&outcome, &framework) && !master.state.frameworks.contains_key(&framework));
    assert_eq!(master.state.agents[&agent].used, resources(""));
}

#[test]
fn an_agent_may_get_lost_and_come_back_between_slices() {
    let (mut master, framework, agent) = busy_master();
    master.call(&framework, Call::Teardown);
    let link = master.state.agents[&agent].link.expect("connected");
    master.step(Event::LinkClosed { link });
    let running = (&framework, task("t04001", &agent, "cpus:0.1"), TaskState::Running);
    let (_, outcome) = master.come_back(&agent, vec![], vec![running]);
    assert!(
        outcome.commands().contains(&&AgentCommand::ShutdownFramework { framework_id: framework.clone() })
    );
    finish(&mut master);
    assert!(!master.state.frameworks.contains_key(&framework));
    assert_eq!(master.state.agents[&agent].used, resources(""));
}

#[test]
fn all_tasks_are_reconciled_in_slices_and_asking_again_begins_anew() {
    let (mut master, framework, _) = busy_master();
    let ask = Call::Reconcile { tasks: vec![] };
    let first = master.call(&framework, ask.clone());
    assert!((1..=SLICE).contains(&first.updates().len()));
    for _ in 0..10 {
        master.call(&framework, ask.clone());
    }
    assert_eq!(master.state.backlog.len(), 1, "one question at a time");
    let told: usize = finish(&mut master).iter().map(|outcome| outcome.updates().len()).sum();
    assert!(told >= TASKS - SLICE, "{told}");

    let all: Vec<_> = (0..TASKS).map(|n| (format!("t{n:05}").into(), None)).collect();
    let first = master.call(&framework, Call::Reconcile { tasks: all });
    let told: usize = finish(&mut master).iter().map(|outcome| outcome.updates().len()).sum();
    assert_eq!(first.updates().len() + told, TASKS);
}

#[test]
fn questions_and_their_answers_end_with_the_stream() {
    let (mut master, framework, _) = busy_master();
    master.call(&framework, Call::Reconcile { tasks: vec![] });
    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    master.step(Event::StreamClosed { stream });
    let told: usize = finish(&mut master).iter().map(|outcome| outcome.updates().len()).sum();
    assert_eq!(told, 0);
}

#[test]
fn more_questions_than_a_framework_may_have_tasks_are_refused() {
    let mut config = Config::new("m");
    config.max_tasks_per_framework = 2 * SLICE;
    let mut master = Master::with(config);
    let (framework, stream, _) = master.framework(framework_info("f"));
    let ask = Call::Reconcile { tasks: (0..2 * SLICE).map(|n| (n.to_string().into(), None)).collect() };
    master.call(&framework, ask.clone());
    let outcome = master.call_on(&framework, &stream, ask);
    assert!(matches!(outcome.response(), Err(CallError::Invalid(why)) if why.contains("under way")));
    finish(&mut master);
}

/// Many agents, all offered to one framework.
fn many_offers(count: usize) -> (Master, FrameworkId, Vec<Offer>) {
    let mut master = Master::new();
    let (framework, ..) = master.framework(framework_info("f"));
    let mut offers = Vec::new();
    master.checked = false;
    for _ in 0..count {
        offers.extend(master.agent("cpus:1;mem:64").2.offers());
    }
    master.checked = true;
    (master, framework, offers)
}

#[test]
fn offers_that_were_declined_are_nobody_s_until_they_are_free() {
    let (mut master, framework, offers) = many_offers(SLICE + 100);
    assert_eq!(offers.len(), SLICE + 100);
    let offer_ids: Vec<_> = offers.iter().map(|offer| offer.id.clone()).collect();
    let filters = bellows_model::Filters { refuse: Some(Duration::from_secs(100)) };
    master.call(&framework, Call::Decline { offer_ids: offer_ids.clone(), filters });
    assert_eq!(master.state.counters.of_frameworks.offers_declined as usize, SLICE + 100);
    let last = offers.last().expect("many");
    assert!(master.state.offers.contains_key(&last.id), "it waits for its end");
    let outcome = master.accept(&framework, &[&last.id], vec![task("t", &last.agent_id, "cpus:1")]);
    let update = outcome.the_update();
    assert!(update.message.as_deref().is_some_and(|why| why.contains("no longer valid")), "{update:?}");
    finish(&mut master);
    assert!(master.state.offers.is_empty());
}

#[test]
fn a_framework_comes_back_while_its_offers_are_taken_back() {
    let (mut master, framework, offers) = many_offers(SLICE + 100);
    let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
    master.step(Event::StreamClosed { stream });
    assert!(!master.state.offers.is_empty());
    let (.., outcome) =
        master.framework(FrameworkInfo { id: Some(framework.clone()), ..framework_info("f") });
    let mut new = outcome.offers();
    new.extend(finish(&mut master).iter().flat_map(Outcome::offers));
    assert_eq!(new.len(), offers.len(), "everything is offered anew");
    master.call(&framework, Call::Teardown);
    finish(&mut master);
    assert!(master.state.offers.is_empty());
}

#[test]
fn a_sweep_past_many_agents_is_cut_and_misses_nobody() {
    let (mut master, _, offers) = many_offers(600);
    master.checked = false;
    for offer in &offers {
        let framework = offer.framework_id.clone();
        master.decline(&framework, &offer.id, 3_600);
    }
    master.checked = true;
    let (second, _, outcome) = master.framework(framework_info("second"));
    let first = outcome.offers().len();
    assert!(first > 0 && first < 600, "{first} offers in one step");
    // One that comes in the middle is not overlooked.
    let link = LinkId(9_999);
    let info = agent_info(9_999, "cpus:1;mem:64");
    let outcome = master.register(link, registration_of(info));
    let between = outcome.offers().iter().filter(|offer| offer.framework_id == second).count();
    let rest: Vec<_> = finish(&mut master).iter().flat_map(Outcome::offers).collect();
    let to_second = rest.iter().filter(|offer| offer.framework_id == second).count();
    let all = master.state.offers.len();
    assert_eq!(all, 601);
    assert!(first + between + to_second >= 600, "{first} + {between} + {to_second}");
}

/// Ends what is left over; what all steps together made the master do.
fn finish_all(master: &mut Master, first: Outcome) -> Outcome {
    let mut actions = first.0;
    actions.extend(finish(master).into_iter().flat_map(|outcome| outcome.0));
    Outcome(actions)
}

#[test]
fn a_framework_ends_on_all_agents_however_many_offers_it_had() {
    for count in SLICE - 4..=SLICE + 2 {
        let (mut master, framework, _) = many_offers(count);
        let first = master.call(&framework, Call::Teardown);
        let outcome = finish_all(&mut master, first);
        let end = AgentCommand::ShutdownFramework { framework_id: framework.clone() };
        let told = outcome.commands().into_iter().filter(|command| **command == end).count();
        assert_eq!(told, count, "every agent, and none twice");
        assert!(!master.state.frameworks.contains_key(&framework));
    }
}

#[test]
fn no_work_is_lost_however_little_of_a_step_is_left_for_it() {
    let few = 3;
    for left in 0..=2 * few {
        let (mut master, framework, offers) = many_offers(few);
        let stream = master.state.frameworks[&framework].stream.clone().expect("connected");
        for offer in &offers {
            let id = format!("on-{}", offer.agent_id);
            master.accept(&framework, &[&offer.id], vec![task(&id, &offer.agent_id, "cpus:1")]);
        }
        finish(&mut master);
        let framework_id = framework.clone();
        let update = Work::UpdateAgents { framework_id: framework_id.clone(), after: None };
        let all = Asked::All { after: None };
        let ask = Work::Reconcile { framework_id: framework_id.clone(), stream, asked: all };
        for work in [update, ask] {
            master.state.backlog.push_back(work);
            let mut step = Step { state: &mut master.state, now: master.now, actions: vec![], left };
            step.work_off();
            let first = Outcome(step.actions);
            let outcome = finish_all(&mut master, first);
            assert_eq!(outcome.commands().len() + outcome.updates().len(), few, "with {left} units left");
        }
        master.framework_ends_with(&framework, left, few);
    }
}

impl Master {
    fn framework_ends_with(&mut self, framework: &FrameworkId, left: usize, agents: usize) {
        let mut step = Step { state: &mut self.state, now: self.now, actions: vec![], left };
        step.remove_framework(framework, "a test ends it");
        step.work_off();
        let first = Outcome(step.actions);
        let outcome = finish_all(self, first);
        assert_eq!(outcome.commands().len(), agents, "with {left} units left");
        assert!(is_removed(&outcome, framework));
    }
}

#[test]
fn long_work_of_one_framework_does_not_keep_another_waiting() {
    let mut master = Master::new();
    let questions = || Call::Reconcile { tasks: (0..4_000).map(|n| (n.to_string().into(), None)).collect() };
    let streams = ["first", "second", "third"].map(|name| {
        let (framework, stream, _) = master.framework(framework_info(name));
        master.call(&framework, questions());
        stream
    });
    let outcome = master.step(Event::Tick);
    for stream in &streams {
        assert!(outcome.events().iter().any(|(to, _)| *to == stream), "{stream} had no turn in the step");
    }
}
