//! Offers, filters, fairness among frameworks that do not behave.
use super::support::*;
use crate::master::{Call, Config, SchedulerEvent};
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
    let filters = Filters { refuse: Duration::from_secs(120) };
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
