//! Offers, filters, fairness among frameworks that do not behave.
use super::support::*;
use crate::master::{AgentCondition, Call, Config, SchedulerEvent};
use bellows_model::Filters;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_offer_leaves_in_the_step_that_makes_it_possible() {
    let mut master = Master::new();
    let (framework, stream, outcome) = master.framework(framework_info("f"));
    assert!(outcome.offers().is_empty());
    let (agent, _, outcome) = master.agent("cpus:4;mem:4096;ports:[31000-32000];zones:{a,b}");
    let offers = outcome.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!((&offers[0].framework_id, &offers[0].agent_id), (&framework, &agent));
    assert_eq!(offers[0].id.as_str(), "m-O0");
    assert_eq!(offers[0].role, "*");
    assert_eq!(offers[0].resources, resources("cpus:4;mem:4096;ports:[31000-32000];zones:{a,b}"));
    assert!(outcome.events().iter().all(|(to, _)| **to == stream));
}

#[test]
fn subscribed_comes_before_offers() {
    let mut master = Master::new();
    master.agent("cpus:4;mem:4096");
    let (.., outcome) = master.framework(framework_info("f"));
    let events: Vec<_> = outcome.events().into_iter().map(|(_, event)| event).collect();
    assert!(
        matches!(events[..], [SchedulerEvent::Subscribed { .. }, SchedulerEvent::Offers(_)]),
        "{events:?}"
    );
}

#[test]
fn a_declined_offer_goes_to_the_next_at_once_and_comes_back_when_the_filter_ends() {
    let (mut master, first, _, _, offer) = Master::ready();
    let (second, ..) = master.framework(framework_info("second"));
    let offer = master.decline(&first, &offer.id, 10).offers().remove(0);
    assert_eq!(offer.framework_id, second);
    assert!(master.decline(&second, &offer.id, 20).offers().is_empty());
    assert!(master.pass_with_pongs(Duration::from_millis(9_999)).offers().is_empty());
    let offers = master.pass_with_pongs(Duration::from_millis(1)).offers();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].framework_id, first);
}

#[test]
fn declining_without_a_filter_does_not_spin() {
    let (mut master, framework, _, _, offer) = Master::ready();
    assert!(master.decline(&framework, &offer.id, 0).offers().is_empty());
    let offers = master.pass(Duration::from_millis(100)).offers();
    assert_eq!(offers.len(), 1, "but not for long either");
}

#[test]
fn a_filter_lets_more_through_than_was_refused() {
    let (mut master, framework, agent, link, offer) = Master::ready();
    master.accept(&framework, &[&offer.id], vec![task("t", &agent, "cpus:1;mem:512")]);
    let outcome = master.update(link, &framework, status("t", bellows_model::TaskState::Failed, 1));
    assert_eq!(
        outcome.offers()[0].resources,
        resources("cpus:4;mem:4096"),
        "all of it, not only what is new"
    );
}

#[test]
fn revive_ends_filters() {
    let (mut master, framework, _, _, offer) = Master::ready();
    master.decline(&framework, &offer.id, 1_000);
    let outcome = master.call(&framework, Call::Revive { roles: vec!["other".into()] });
    assert!(outcome.offers().is_empty(), "a role that is not its own: the call has no effect");
    assert_eq!(master.call(&framework, Call::Revive { roles: vec!["*".into()] }).offers().len(), 1);
}

#[test]
fn suppressed_until_revived() {
    let (mut master, framework, _, _, offer) = Master::ready();
    master.call(&framework, Call::Suppress { roles: vec![] });
    assert!(master.state.offers.contains_key(&offer.id), "what is offered stays offered");
    master.decline(&framework, &offer.id, 0);
    assert!(master.pass(SECOND).offers().is_empty());
    let (.., outcome) = master.agent("cpus:1;mem:128");
    assert!(outcome.offers().is_empty());
    assert_eq!(master.call(&framework, Call::Revive { roles: vec![] }).offers().len(), 2);
}

#[test]
fn roles_suppressed_from_the_start() {
    let mut master = Master::new();
    master.agent("cpus:4;mem:4096");
    let mut info = framework_info("f");
    info.roles = vec!["a".into(), "b".into()];
    let number = master.number();
    let event = crate::master::Event::Subscribe {
        request: crate::master::RequestId(number),
        stream: "s".into(),
        info,
        suppressed_roles: vec!["a".into()],
    };
    let offers = master.step(event).offers();
    assert_eq!(offers[0].role, "b");
}

#[test]
fn an_offer_held_for_too_long_goes_to_one_who_waits() {
    let (mut master, lazy, _, _, offer) = Master::ready();
    let timeout = Config::new("m").offer_timeout.expect("on by default");
    assert!(master.pass_with_pongs(timeout * 3).rescinded().is_empty(), "nobody waits");
    let (waiting, ..) = master.framework(framework_info("waiting"));
    let outcome = master.pass_with_pongs(timeout);
    assert_eq!(outcome.rescinded(), [offer.id]);
    assert_eq!(outcome.offers()[0].framework_id, waiting);
    assert!(master.state.frameworks[&lazy].offered.is_empty());
}

#[test]
fn nobody_waits_who_refused_or_suppressed() {
    let (mut master, first, _, _, offer) = Master::ready();
    let (second, ..) = master.framework(framework_info("second"));
    let offer = master.decline(&first, &offer.id, 100_000).offers().remove(0);
    assert_eq!(offer.framework_id, second);
    assert!(master.pass_with_pongs(Duration::from_secs(500)).rescinded().is_empty());
}

#[test]
fn many_small_applications_do_not_starve_a_big_one() {
    let mut master = Master::new();
    for _ in 0..4 {
        master.agent("cpus:4;mem:4096");
    }
    // Each small one declines for as long as Spark does at its core cap.
    let filters = Filters { refuse: Some(Duration::from_secs(120)) };
    let small: Vec<_> = (0..20).map(|n| master.framework(framework_info(&format!("s{n}"))).0).collect();
    let (big, ..) = master.framework(framework_info("big"));
    let mut open: Vec<_> = master.state.offers.values().cloned().collect();
    while let Some(offer) = open.pop() {
        if offer.framework_id == big {
            continue;
        }
        assert!(small.contains(&offer.framework_id));
        let decline = Call::Decline { offer_ids: vec![offer.id], filters };
        open.extend(master.call(&offer.framework_id, decline).offers());
    }
    assert_eq!(master.state.frameworks[&big].offered, resources("cpus:16;mem:16384"), "in no time at all");
}

#[test]
fn reserved_resources_go_to_their_role_only() {
    let mut master = Master::new();
    master.agent("cpus:2;mem:1024;cpus(etl):6;mem(etl):4096");
    let (_, _, outcome) = master.framework(framework_info("anyone"));
    assert_eq!(outcome.offers()[0].resources, resources("cpus:2;mem:1024"));
    let mut info = framework_info("etl");
    info.roles = vec!["etl".into()];
    let (_, _, outcome) = master.framework(info);
    assert_eq!(outcome.offers()[0].resources, resources("cpus(etl):6;mem(etl):4096"));
    assert_eq!(outcome.offers()[0].role, "etl");
}

#[test]
fn crumbs_are_not_offered_but_either_cpu_or_memory_will_do() {
    let mut master = Master::new();
    master.framework(framework_info("f"));
    assert!(master.agent("cpus:0.009;mem:31;ports:[1-9]").2.offers().is_empty());
    assert_eq!(master.agent("cpus:0.01").2.offers().len(), 1);
    assert_eq!(master.agent("mem:32").2.offers().len(), 1);
}

#[test]
fn open_offers_deadlines_are_bounded() {
    let (mut master, framework, _, _, mut offer) = Master::ready();
    for _ in 0..500 {
        master.decline(&framework, &offer.id, 0);
        offer = master.call(&framework, Call::Revive { roles: vec![] }).offers().remove(0);
    }
}

/// When the next offer of `framework` comes, if it does within a minute; the offer.
fn next_offer(master: &mut Master) -> Option<(Duration, bellows_model::Offer)> {
    let started = master.now;
    while master.now.since(started) < MINUTE {
        let next = master.state.next_deadline().map_or(MINUTE, |when| when.since(master.now));
        if let Some(offer) = master.pass_with_pongs(next).offers().pop() {
            return Some((master.now.since(started), offer));
        }
    }
    None
}

const MINUTE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

/// Declines without a filter for so long, and returns all waits for the next offer.
fn decline_for(
    master: &mut Master,
    framework: &bellows_model::FrameworkId,
    offer: &mut bellows_model::Offer,
    time: Duration,
) -> Vec<Duration> {
    let (started, mut waits) = (master.now, Vec::new());
    while master.now.since(started) < time {
        assert!(master.decline_unsaid(framework, &offer.id).offers().is_empty(), "not at once");
        let (wait, next) = next_offer(master).expect("there is another one");
        *offer = next;
        waits.push(wait);
    }
    waits
}

/// What Spark declines without a filter it may want a moment later, and it will not say so.
#[test]
fn who_declines_without_a_filter_is_asked_again_soon_then_more_rarely() {
    let (mut master, framework, _, _, mut offer) = Master::ready();
    let waits = decline_for(&mut master, &framework, &mut offer, 10 * MINUTE);
    assert_eq!(waits[0], 100 * MS);
    assert!(waits.is_sorted());
    assert_eq!(waits.last(), Some(&(400 * MS)));
    assert!(waits.len() < 1_600, "{}", waits.len());
}

#[test]
fn a_change_of_mind_is_met_at_once() {
    let changes: [fn(&mut Master, &bellows_model::FrameworkId); 3] = [
        |master, framework| drop(master.call(framework, Call::Revive { roles: vec![] })),
        |master, framework| {
            let suppressed_roles = vec![];
            let mut info = (*master.state.frameworks[framework].info).clone();
            info.name = "another name".into();
            drop(master.call(framework, Call::UpdateFramework { info, suppressed_roles }));
        },
        |master, framework| {
            let (task_id, agent_id, grace) = ("running".into(), None, None);
            drop(master.call(framework, Call::Kill { task_id, agent_id, grace }));
        },
    ];
    for change in changes {
        let (mut master, framework, agent, _, offer) = Master::ready();
        let rest = master.accept(&framework, &[&offer.id], vec![task("running", &agent, "cpus:1;mem:512")]);
        assert!(rest.offers().is_empty());
        let (_, mut offer) = next_offer(&mut master).expect("the rest is offered again");
        decline_for(&mut master, &framework, &mut offer, MINUTE);
        master.decline_unsaid(&framework, &offer.id);
        master.pass_with_pongs(200 * MS);
        assert!(master.state.offers.is_empty());
        change(&mut master, &framework);
        let mut offer = master.state.offers.values().next().cloned().expect("offered in the same step");
        assert_eq!(decline_for(&mut master, &framework, &mut offer, MS), [100 * MS], "patience begins anew");
    }
}

/// Spark's target rises: once it took one offer, the other agents' follow in the same step.
#[test]
fn a_launch_brings_the_offers_of_all_other_agents() {
    let (mut master, framework, agent, _, offer) = Master::ready();
    for _ in 0..3 {
        master.agent("cpus:2;mem:2048");
    }
    let others: Vec<_> = master.state.offers.keys().filter(|id| **id != offer.id).cloned().collect();
    others.iter().for_each(|id| drop(master.decline_unsaid(&framework, id)));
    assert!(master.pass_with_pongs(99 * MS).offers().is_empty());
    let again = master.pass_with_pongs(MS).offers();
    assert_eq!(again.len(), 3);
    again.iter().for_each(|offer| drop(master.decline_unsaid(&framework, &offer.id)));
    master.pass_with_pongs(50 * MS);
    let outcome = master.accept(&framework, &[&offer.id], vec![task("t", &agent, "cpus:4;mem:4096")]);
    assert!(outcome.offers().is_empty(), "what was declined a moment ago is not offered at once");
    assert_eq!(master.pass_with_pongs(50 * MS).offers().len(), 3);
}

#[test]
fn an_explicit_filter_is_kept_whatever_is_declined_without_one() {
    let (mut master, framework, _, _, offer) = Master::ready();
    let (_, link, outcome) = master.agent("cpus:1;mem:64");
    let (small, agent) = (outcome.offers().remove(0), outcome.offers().remove(0).agent_id);
    master.decline(&framework, &offer.id, 120);
    master.accept(&framework, &[&small.id], vec![task("t", &agent, "cpus:1;mem:64")]);
    for state in [bellows_model::TaskState::Running, bellows_model::TaskState::Finished] {
        master.update(link, &framework, status("t", state, 1));
    }
    for _ in 0..100 {
        let Some((_, offer)) = next_offer(&mut master).filter(|(wait, _)| *wait < SECOND) else { break };
        assert_eq!(offer.agent_id, agent, "the other is refused for two minutes");
        master.decline_unsaid(&framework, &offer.id);
    }
}

#[test]
fn agents_with_gpus_are_offered_to_those_who_know_gpus_only() {
    let mut master = Master::new();
    let (plain, ..) = master.framework(framework_info("plain"));
    assert!(master.agent("cpus:4;mem:4096;gpus:1").2.offers().is_empty(), "Mesos' filter");
    assert_eq!(master.agent("cpus:1;mem:64;gpus:0").2.offers().len(), 1);
    let mut info = framework_info("gpus");
    info.capabilities.push(bellows_model::Capability::GpuResources);
    let (aware, _, outcome) = master.framework(info);
    let offer = outcome.offers().remove(0);
    assert_eq!((&offer.framework_id, offer.resources), (&aware, resources("cpus:4;mem:4096;gpus:1")));
    // It passes by who does not know them when it comes back.
    assert!(master.decline(&aware, &offer.id, 60).offers().is_empty());
    let mut info = (*master.state.frameworks[&plain].info).clone();
    info.capabilities.push(bellows_model::Capability::GpuResources);
    let outcome = master.call(&plain, Call::UpdateFramework { info, suppressed_roles: vec![] });
    assert_eq!(outcome.offers().len(), 1, "it has learnt it");
}

/// Each task would fail there at once, and the agent be free again for the next.
#[test]
fn an_agent_that_pauses_offers_nothing_until_it_says_so() {
    let mut master = Master::new();
    let (framework, ..) = master.framework(framework_info("spark"));
    let (agent, link, outcome) = master.agent("cpus:4;mem:4096");
    let offer = outcome.offers().remove(0);
    let says = |paused| {
        let condition = AgentCondition { paused, troubles: vec!["the disk is out".into()] };
        crate::master::Event::Agent { link, message: crate::master::AgentMessage::Condition(condition) }
    };
    assert_eq!(master.step(says(true)).rescinded(), [offer.id]);
    assert!(master.call(&framework, Call::Revive { roles: vec![] }).offers().is_empty());
    assert!(master.state.agents[&agent].condition.paused);
    let offers = master.step(says(false)).offers();
    assert_eq!(offers[0].framework_id, framework, "in the same step");
    assert_eq!(master.state.agents[&agent].condition.troubles, ["the disk is out"]);
}

/// Spark's driver registers with the shuffle service of the machine where an executor runs; without it, it hangs.
#[test]
fn an_agent_whose_shuffle_service_is_down_is_for_those_who_do_not_use_it() {
    let mut master = Master::new();
    let mut info = framework_info("spark");
    info.labels.push(shuffle_service_label());
    let (spark, ..) = master.framework(info);
    let (_, link, outcome) = master.agent("cpus:4;mem:4096");
    let offer = outcome.offers().remove(0);
    let says = |down| {
        let message = crate::master::AgentMessage::ShuffleService { down };
        crate::master::Event::Agent { link, message }
    };
    assert_eq!(master.step(says(true)).rescinded(), [offer.id]);
    assert!(master.call(&spark, Call::Revive { roles: vec![] }).offers().is_empty());
    let (other, _, outcome) = master.framework(framework_info("other"));
    let offer = outcome.offers().remove(0);
    assert_eq!(offer.framework_id, other);
    assert!(master.decline(&other, &offer.id, 60).offers().is_empty());
    let offers = master.step(says(false)).offers();
    assert_eq!(offers[0].framework_id, spark, "in the same step");
}
