//! What Mesos' allocator counts of each role.
use super::super::agent::is_active;
use bellows_kernel::master::State;
use bellows_model::Resources;
use bellows_runtime::metrics::Snapshot;
use std::collections::BTreeMap;

/// So many roles are told of one by one.
const MOST: usize = 1_000;

/// What is held in a role, in tasks and executors, and what is offered to it.
#[derive(Default)]
struct Held {
    used: Resources,
    offered: Resources,
}

pub(super) fn each(out: &mut Snapshot, state: &State) {
    let held = held(state);
    shares(out, state, &held);
    consumption(out, &held);
    for role in held.keys() {
        let filters = state.filters.get(*role).copied().unwrap_or_default();
        out.only_json(format!("allocator/mesos/offer_filters/roles/{role}/active"), filters as f64);
    }
}

fn held(state: &State) -> BTreeMap<&str, Held> {
    let mut roles: BTreeMap<&str, Held> = BTreeMap::new();
    let connected = state.frameworks.values().filter(|framework| framework.stream.is_some());
    for role in connected.flat_map(|framework| &framework.info.roles) {
        if roles.len() < MOST {
            roles.entry(role).or_default();
        }
    }
    let mut add = |role: &str, sum: &Resources, to: fn(&mut Held) -> &mut Resources| {
        if let Some(held) = roles.get_mut(role) {
            to(held).add(&sum.scalars());
        }
    };
    for task in state.frameworks.values().flat_map(|framework| framework.tasks.values()) {
        if task.holds_resources() {
            add(&task.role, &task.info.resources, |held| &mut held.used);
        }
    }
    for executor in state.agents.values().flat_map(|agent| agent.executors.values()) {
        add(&executor.role, &executor.info.resources, |held| &mut held.used);
    }
    for offer in state.offers.values() {
        add(&offer.role, &offer.resources, |held| &mut held.offered);
    }
    roles
}

/// The largest part of any resource that a role holds, offers included.
fn shares(out: &mut Snapshot, state: &State, roles: &BTreeMap<&str, Held>) {
    let mut total = Resources::new();
    let active = state.agents.values().filter(|agent| is_active(agent));
    active.for_each(|agent| total.add(&agent.info.resources.scalars()));
    for (role, Held { used, offered }) in roles {
        let of = |name: &str| {
            let all = total.scalar(name).as_f64();
            let held = used.scalar(name).as_f64() + offered.scalar(name).as_f64();
            if all > 0.0 { held / all } else { 0.0 }
        };
        let dominant = total.iter().map(|item| of(&item.name)).fold(0.0, f64::max);
        out.only_json(format!("allocator/mesos/roles/{role}/shares/dominant"), dominant);
    }
}

/// What counts against a quota, of each role with those below it and of the root, whose name is empty.
fn consumption(out: &mut Snapshot, roles: &BTreeMap<&str, Held>) {
    let mut consumed: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for (role, Held { used, .. }) in roles {
        let above = role.match_indices('/').map(|(end, _)| &role[..end]);
        for role in above.chain(["", role]) {
            for item in used.iter() {
                *consumed.entry((role, &item.name)).or_default() += used.scalar(&item.name).as_f64();
            }
        }
    }
    for ((role, name), sum) in consumed {
        out.only_json(format!("allocator/mesos/quota/roles/{role}/resources/{name}/consumed"), sum);
    }
}
