//! What Mesos counts of each framework, under a prefix with the framework's name and id.
use bellows_kernel::master::{Framework, State};
use bellows_model::{TaskState, clipped};
use bellows_runtime::metrics::Snapshot;
use std::fmt::Write as _;

/// So many frameworks are told of one by one, and as long as their figures' names take no more than this together: peers
/// choose what the names are made of.
const MOST: usize = 1_000;
const MOST_NAME_BYTES: usize = 8 << 20;
/// Each has no more figures than this, besides one for each role.
const FIGURES: usize = 65;
/// The longest part of a framework's name that is repeated in those of its figures.
const MAX_NAME_BYTES: usize = 128;

const CALLS: [&str; 17] = [
    "accept",
    "accept_inverse_offers",
    "acknowledge",
    "acknowledge_operation_status",
    "decline",
    "decline_inverse_offers",
    "kill",
    "message",
    "reconcile",
    "reconcile_operations",
    "request",
    "revive",
    "shutdown",
    "subscribe",
    "suppress",
    "teardown",
    "update_framework",
];

/// Heartbeats are the stream's own and are not counted.
const EVENTS: [&str; 11] = [
    "error",
    "failure",
    "heartbeat",
    "inverse_offers",
    "message",
    "offers",
    "rescind",
    "rescind_inverse_offer",
    "subscribed",
    "update",
    "update_operation_status",
];

/// Besides those that launch tasks.
const OPERATIONS: [&str; 9] = [
    "create",
    "create_disk",
    "destroy",
    "destroy_disk",
    "grow_volume",
    "launch_group",
    "reserve",
    "shrink_volume",
    "unreserve",
];

pub(super) fn each(out: &mut Snapshot, state: &State) {
    let mut left = MOST_NAME_BYTES;
    for framework in state.frameworks.values().take(MOST) {
        let Some(id) = &framework.info.id else { continue };
        let prefix =
            format!("master/frameworks/{}/{id}", encoded(clipped(&framework.info.name, MAX_NAME_BYTES)));
        let roles = &framework.info.roles;
        let bytes = (FIGURES + roles.len()) * prefix.len() + roles.iter().map(String::len).sum::<usize>();
        let Some(rest) = left.checked_sub(bytes) else { return };
        left = rest;
        one(out, &prefix, framework);
    }
}

fn one(out: &mut Snapshot, prefix: &str, framework: &Framework) {
    let counters = &framework.counters;
    let mut put = |name: &str, value: u64| out.only_json(format!("{prefix}/{name}"), value as f64);
    put("subscribed", u64::from(framework.stream.is_some()));
    for (kind, names, counts) in
        [("calls", &CALLS[..], &counters.calls), ("events", &EVENTS[..], &counters.events)]
    {
        put(kind, counts.values().sum());
        for name in names {
            put(&format!("{kind}/{name}"), counts.get(name).copied().unwrap_or_default());
        }
    }
    put("offers/sent", counters.offers_sent);
    put("offers/accepted", counters.offers_accepted);
    put("offers/declined", counters.offers_declined);
    put("offers/rescinded", counters.offers_rescinded);
    put("operations", counters.operations);
    put("operations/launch", counters.launches);
    for name in OPERATIONS {
        put(&format!("operations/{name}"), 0);
    }
    for role in &framework.info.roles {
        let suppressed = framework.suppressed_roles.contains(role);
        put(&format!("roles/{role}/suppressed"), u64::from(suppressed));
    }
    let mut alive = [0; TaskState::ALL.len()];
    framework.tasks.values().for_each(|task| alive[task.state as usize] += 1);
    for state in TaskState::ALL {
        let name = state.name().to_lowercase();
        match state.is_terminal() {
            true => {
                let ended = counters.tasks_ended.get(&state).copied().unwrap_or_default();
                put(&format!("tasks/terminal/{name}"), ended);
            }
            false => put(&format!("tasks/active/{name}"), alive[state as usize]),
        }
    }
}

/// As in a URL, so that no `/` of a name is taken for one of the path.
fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            _ => write!(text, "%{byte:02X}").expect("a String takes all"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_the_path() {
        assert_eq!(encoded("Spark shell/1 ü"), "Spark%20shell%2F1%20%C3%BC");
        assert_eq!(encoded("etl-0.1_a~"), "etl-0.1_a~");
    }
}
