//! What Mesos' allocator counts of each role.
use super::super::agent::is_active;
use super::RESOURCES;
use bellows_kernel::master::State;
use bellows_model::Resources;
use bellows_runtime::metrics::Snapshot;
use std::collections::BTreeMap;

/// So many roles are told of one by one, if their names are not longer than this.
const MOST: usize = 1_000;
const MAX_NAME_BYTES: usize = 256;
/// So many of the roles above one have what it consumes in their sum.
const MAX_DEPTH: usize = 8;

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
        if roles.len() < MOST && role.len() <= MAX_NAME_BYTES {
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
    let totals = RESOURCES.map(|name| (name, total.scalar(name).as_f64()));
    for (role, Held { used, offered }) in roles {
        let of = |(name, all): (&str, f64)| {
            let held = used.scalar(name).as_f64() + offered.scalar(name).as_f64();
            if all > 0.0 { held / all } else { 0.0 }
        };
        let dominant = totals.map(of).into_iter().fold(0.0, f64::max);
        out.only_json(format!("allocator/mesos/roles/{role}/shares/dominant"), dominant);
    }
}

/// What counts against a quota, of each role with those below it and of the root, whose name is empty.
fn consumption(out: &mut Snapshot, roles: &BTreeMap<&str, Held>) {
    let mut consumed: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for (role, Held { used, .. }) in roles {
        let above = role.match_indices('/').map(|(end, _)| &role[..end]).take(MAX_DEPTH);
        let held = RESOURCES.map(|name| (name, used.scalar(name).as_f64()));
        for role in above.chain(["", role]) {
            for (name, amount) in held.into_iter().filter(|(_, amount)| *amount > 0.0) {
                *consumed.entry((role, name)).or_default() += amount;
            }
        }
    }
    for ((role, name), sum) in consumed {
        out.only_json(format!("allocator/mesos/quota/roles/{role}/resources/{name}/consumed"), sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_role_consumes_counts_once_also_where_it_is_reserved() {
        let used = Resources::parse("cpus:2;cpus(etl):2;mem:64").expect("resources");
        let deep = format!("deep{}", "/a".repeat(30));
        let held = [("etl/night", used.clone()), (deep.as_str(), used)];
        let held = held.map(|(role, used)| (role, Held { used, ..Held::default() }));
        let mut out = Snapshot::default();
        consumption(&mut out, &BTreeMap::from(held));
        let json = out.json();
        let consumed = |role: &str, name: &str| {
            json[format!("allocator/mesos/quota/roles/{role}/resources/{name}/consumed")].as_f64()
        };
        assert_eq!((consumed("etl/night", "cpus"), consumed("etl", "mem")), (Some(4.0), Some(64.0)));
        assert_eq!(consumed("", "cpus"), Some(8.0));
        assert_eq!(json.as_object().expect("an object").len(), 2 * (3 + 8 + 1));
    }
}
