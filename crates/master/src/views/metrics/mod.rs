//! The master's figures under Mesos' names, counted when somebody asks.
//!
//! Every name that a master of Mesos has is there: what does not exist here is 0, for readers that expect it.
mod frameworks;
mod roles;

use super::agent::is_active;
use crate::snapshot::{Figures, Snapshot as Copied};
use bellows_kernel::{
    Time,
    master::{Agent, Counters, Removal, State},
};
use bellows_model::{Resources, Source, TaskState};
use bellows_runtime::metrics::{Snapshot, Window, system};
use bellows_wire::v1::task_status::Reason;
use std::time::{SystemTime, UNIX_EPOCH};

/// Resources that have metrics of their own.
const RESOURCES: [&str; 4] = ["cpus", "mem", "disk", "gpus"];
/// Operations on resources, which a master of Mesos counts.
const OPERATIONS: [&str; 8] = [
    "create",
    "create_disk",
    "destroy",
    "destroy_disk",
    "grow_volume",
    "reserve",
    "shrink_volume",
    "unreserve",
];
const OPERATION_STATES: [&str; 9] = [
    "dropped",
    "error",
    "failed",
    "finished",
    "gone_by_operator",
    "pending",
    "recovering",
    "total",
    "unreachable",
];

pub(crate) fn snapshot(copied: &Copied, started: Time) -> Snapshot {
    let state = &copied.state;
    let mut out = without_state(started);
    process(&mut out, copied);
    resources(&mut out, state);
    agents(&mut out, state);
    frameworks(&mut out, state);
    messages(&mut out, &state.counters);
    tasks(&mut out, state);
    operations(&mut out);
    registrar(&mut out);
    allocator(&mut out, &copied.figures, &state.counters);
    frameworks::each(&mut out, state);
    roles::each(&mut out, state);
    out
}

/// What can be said without a copy of the state.
pub(crate) fn without_state(started: Time) -> Snapshot {
    let mut out = Snapshot::default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    out.gauge("master/elected", "Whether this master leads", 1.0);
    out.gauge("master/uptime_secs", "Seconds since the start", now.as_secs_f64() - started.as_secs_f64());
    system(&mut out);
    out
}

fn process(out: &mut Snapshot, copied: &Copied) {
    let watching = copied.watching as f64;
    out.gauge("master/operator_event_stream_subscribers", "Operators that watch events", watching);
    let queued = copied.figures.queued as f64;
    out.gauge("master/event_queue_dispatches", "Messages that wait for the driver", queued);
    out.only_json("master/event_queue_http_requests", 0.0);
    out.only_json("master/event_queue_messages", 0.0);
    out.only_json("master/http_cache_hits", 0.0);
}

fn resources(out: &mut Snapshot, state: &State) {
    let (mut total, mut used, mut offered) = (Resources::new(), Resources::new(), Resources::new());
    for agent in state.agents.values().filter(|agent| agent.unreachable.is_none()) {
        total.add(&agent.info.resources);
        used.add(&agent.used);
        offered.add(&agent.offered);
    }
    for name in RESOURCES {
        let [total, used, offered] = [&total, &used, &offered].map(|sum| sum.scalar(name).as_f64());
        let percent = if total > 0.0 { used / total } else { 0.0 };
        out.gauge(format!("master/{name}_total"), "Of all agents, as offered", total);
        out.gauge(format!("master/{name}_used"), "Held by tasks", used);
        out.gauge(format!("master/{name}_percent"), "Part of the total held by tasks", percent);
        for what in ["total", "used", "percent"] {
            out.only_json(format!("master/{name}_revocable_{what}"), 0.0);
        }
        let prefix = format!("allocator/mesos/resources/{name}");
        out.gauge(format!("{prefix}/total"), "Of all agents, as offered", total);
        out.gauge(format!("{prefix}/offered_or_allocated"), "Held by tasks or in offers", used + offered);
    }
}

fn agents(out: &mut Snapshot, state: &State) {
    let count =
        |wanted: fn(&Agent) -> bool| state.agents.values().filter(|agent| wanted(agent)).count() as f64;
    let connected = count(is_active);
    let active = count(|agent| is_active(agent) && !agent.condition.paused);
    let disconnected = count(|agent| agent.link.is_none() && agent.unreachable.is_none() && !agent.recovered);
    out.gauge("master/slaves_active", "Agents that offers are made of", active);
    out.gauge("master/slaves_connected", "Agents with a connection", connected);
    out.gauge("master/slaves_disconnected", "Agents without one", disconnected);
    out.gauge(
        "master/slaves_inactive",
        "Agents that no offers are made of",
        disconnected + connected - active,
    );
    let unreachable = count(|agent| agent.unreachable.is_some());
    out.gauge("master/slaves_unreachable", "Agents that answer no pings", unreachable);
    let counters = &state.counters;
    let removals = |kind| counters.agents_removed.get(&kind).copied().unwrap_or_default() as f64;
    let [replaced, unhealthy, unregistered] =
        [Removal::Registered, Removal::Unhealthy, Removal::Unregistered].map(removals);
    let removed = replaced + unhealthy + unregistered;
    for (name, help, count) in [
        ("slave_registrations", "Agents that registered", counters.agents_registered as f64),
        ("slave_reregistrations", "Agents that came back", counters.agents_reregistered as f64),
        ("slave_removals", "Agents that were removed", removed),
        ("slave_removals/reason_registered", "Agents that a new one replaced", replaced),
        ("slave_removals/reason_unhealthy", "Agents that fell silent", unhealthy),
        ("slave_removals/reason_unregistered", "Agents that left", unregistered),
    ] {
        out.counter(format!("master/{name}"), help, count);
    }
    // Nothing waits between the decision and what follows from it.
    for (what, completed) in [("slave_unreachable", unhealthy), ("slave_shutdowns", 0.0)] {
        out.only_json(format!("master/{what}_scheduled"), completed);
        out.only_json(format!("master/{what}_completed"), completed);
        out.only_json(format!("master/{what}_canceled"), 0.0);
    }
    out.only_json("master/recovery_slave_removals", 0.0);
}

fn frameworks(out: &mut Snapshot, state: &State) {
    let connected = state.frameworks.values().filter(|framework| framework.stream.is_some()).count() as f64;
    let disconnected = state.frameworks.len() as f64 - connected;
    out.gauge("master/frameworks_active", "Frameworks that get offers", connected);
    out.gauge("master/frameworks_connected", "Frameworks with a stream", connected);
    out.gauge("master/frameworks_disconnected", "Frameworks without one", disconnected);
    out.gauge("master/frameworks_inactive", "Frameworks that get no offers", disconnected);
    out.gauge("master/outstanding_offers", "Offers without an answer", state.offers.len() as f64);
    let all = &state.counters.of_frameworks;
    out.counter("master/offers_sent", "Offers made", all.offers_sent as f64);
    out.counter("master/offers_accepted", "Offers accepted", all.offers_accepted as f64);
    out.counter("master/offers_declined", "Offers declined", all.offers_declined as f64);
    out.counter("master/offers_rescinded", "Offers taken back", all.offers_rescinded as f64);
    out.counter("master/tasks_launched", "Tasks sent to agents", state.counters.tasks_launched as f64);
    out.counter("master/calls_refused", "Calls answered with an error", state.counters.calls_refused as f64);
}

fn messages(out: &mut Snapshot, counters: &Counters) {
    let call = |name: &str| counters.of_frameworks.calls.get(name).copied().unwrap_or_default();
    let removals = |kind| counters.agents_removed.get(&kind).copied().unwrap_or_default();
    let Counters { status_updates, stray_status_updates, acknowledgements, stray_acknowledgements, .. } =
        *counters;
    let Counters { messages_to_frameworks, stray_messages_to_frameworks, .. } = *counters;
    let Counters { messages_to_executors, stray_messages_to_executors, .. } = *counters;
    for (name, count) in [
        ("dropped_messages", counters.messages_refused),
        ("messages_decline_offers", call("decline")),
        ("messages_executor_to_framework", messages_to_frameworks + stray_messages_to_frameworks),
        ("messages_exited_executor", counters.executors_terminated),
        ("messages_framework_to_executor", messages_to_executors + stray_messages_to_executors),
        ("messages_kill_task", call("kill")),
        ("messages_launch_tasks", call("accept")),
        ("messages_reconcile_tasks", call("reconcile")),
        ("messages_register_framework", call("subscribe") - counters.frameworks_back),
        ("messages_register_slave", counters.agents_registered),
        ("messages_reregister_framework", counters.frameworks_back),
        ("messages_reregister_slave", counters.agents_reregistered),
        ("messages_resource_request", call("request")),
        ("messages_revive_offers", call("revive")),
        ("messages_status_update", status_updates),
        ("messages_status_update_acknowledgement", acknowledgements + stray_acknowledgements),
        ("messages_suppress_offers", call("suppress")),
        ("messages_unregister_framework", call("teardown")),
        ("messages_unregister_slave", removals(Removal::Unregistered)),
        ("valid_executor_to_framework_messages", messages_to_frameworks),
        ("invalid_executor_to_framework_messages", stray_messages_to_frameworks),
        ("valid_framework_to_executor_messages", messages_to_executors),
        ("invalid_framework_to_executor_messages", stray_messages_to_executors),
        ("valid_status_updates", status_updates - stray_status_updates),
        ("invalid_status_updates", stray_status_updates),
        ("valid_status_update_acknowledgements", acknowledgements),
        ("invalid_status_update_acknowledgements", stray_acknowledgements),
    ] {
        out.counter(format!("master/{name}"), "Calls and messages of this kind", count as f64);
    }
    for name in [
        "messages_authenticate",
        "messages_deactivate_framework",
        "messages_operation_status_update",
        "messages_operation_status_update_acknowledgement",
        "messages_reconcile_operations",
        "messages_update_slave",
        "valid_operation_status_updates",
        "invalid_operation_status_updates",
        "valid_operation_status_update_acknowledgements",
        "invalid_operation_status_update_acknowledgements",
    ] {
        out.only_json(format!("master/{name}"), 0.0);
    }
}

fn tasks(out: &mut Snapshot, state: &State) {
    let mut alive = [0_u64; TaskState::ALL.len()];
    for task in state.frameworks.values().flat_map(|framework| framework.tasks.values()) {
        alive[task.state as usize] += 1;
    }
    for wanted in TaskState::ALL {
        let name = format!("master/{}", wanted.name().to_lowercase().replacen("task_", "tasks_", 1));
        if wanted.is_terminal() {
            let ended = &state.counters.of_frameworks.tasks_ended;
            let ended = ended.get(&wanted).copied().unwrap_or_default();
            out.counter(name, "Tasks that ended so", ended as f64);
        } else if wanted != TaskState::Unknown {
            out.gauge(name, "Tasks that are so now", alive[wanted as usize] as f64);
        }
    }
    for ((state, source, reason), count) in &state.counters.task_ends {
        let Some(reason) = reason.map(Reason::from) else { continue };
        let source = match source {
            Source::Master => "master",
            Source::Agent => "slave",
            Source::Executor => "executor",
        };
        let (state, reason) = (state.name().to_lowercase(), reason.as_str_name().to_lowercase());
        // The names of the time before agents were called so.
        let reason = reason.replace("agent", "slave");
        out.only_json(format!("master/{state}/source_{source}/{reason}"), *count as f64);
    }
}

fn operations(out: &mut Snapshot) {
    for state in OPERATION_STATES {
        out.only_json(format!("master/operations/{state}"), 0.0);
        for operation in OPERATIONS {
            out.only_json(format!("master/operations/{operation}/{state}"), 0.0);
        }
    }
}

/// This master keeps no registry: agents come back to it by themselves.
fn registrar(out: &mut Snapshot) {
    for name in ["queued_operations", "registry_size_bytes", "state_fetch_ms"] {
        out.only_json(format!("registrar/{name}"), 0.0);
    }
    out.statistics("registrar/state_store_ms", "No registry is stored", &Window::default());
}

fn allocator(out: &mut Snapshot, figures: &Figures, counters: &Counters) {
    let (took, waited) = ("Time of a step that allocates", "Wait of what causes it");
    out.statistics("allocator/mesos/allocation_run_ms", took, &figures.allocation);
    out.statistics("allocator/mesos/allocation_run_latency_ms", waited, &figures.allocation_wait);
    let runs = counters.allocation_runs as f64;
    out.counter("allocator/mesos/allocation_runs", "Allocations of resources", runs);
    // What is to be allocated does not wait: it is a part of the same step.
    out.only_json("allocator/event_queue_dispatches", 0.0);
    out.only_json("allocator/mesos/event_queue_dispatches", 0.0);
}
