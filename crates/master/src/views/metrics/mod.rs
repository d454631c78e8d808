//! The master's figures under Mesos' names, counted when somebody asks.
use super::agent::is_active;
use crate::snapshot::Snapshot as Copied;
use bellows_kernel::{Time, master::State};
use bellows_model::{Resources, TaskState};
use bellows_runtime::metrics::Snapshot;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn snapshot(copied: &Copied, started: Time) -> Snapshot {
    let state = &copied.state;
    let mut out = Snapshot::default();
    process(&mut out, copied.watching, started);
    resources(&mut out, state);
    agents(&mut out, state);
    frameworks(&mut out, state);
    tasks(&mut out, state);
    out
}

fn process(out: &mut Snapshot, watching: usize, started: Time) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    out.gauge("master/elected", "Whether this master leads", 1.0);
    out.gauge("master/uptime_secs", "Seconds since the start", now.as_secs_f64() - started.as_secs_f64());
    let watching = watching as f64;
    out.gauge("master/operator_event_stream_subscribers", "Operators that watch events", watching);
}

fn resources(out: &mut Snapshot, state: &State) {
    let (mut total, mut used, mut offered) = (Resources::new(), Resources::new(), Resources::new());
    for agent in state.agents.values().filter(|agent| agent.unreachable.is_none()) {
        total.add(&agent.info.resources);
        used.add(&agent.used);
        offered.add(&agent.offered);
    }
    for name in ["cpus", "mem", "disk", "gpus"] {
        let [total, used, offered] = [&total, &used, &offered].map(|sum| sum.scalar(name).as_f64());
        let percent = if total > 0.0 { used / total } else { 0.0 };
        out.gauge(format!("master/{name}_total"), "Of all agents, as offered", total);
        out.gauge(format!("master/{name}_used"), "Held by tasks", used);
        out.gauge(format!("master/{name}_percent"), "Part of the total held by tasks", percent);
        let prefix = format!("allocator/mesos/resources/{name}");
        out.gauge(format!("{prefix}/total"), "Of all agents, as offered", total);
        out.gauge(format!("{prefix}/offered_or_allocated"), "Held by tasks or in offers", used + offered);
    }
}

fn agents(out: &mut Snapshot, state: &State) {
    let count = |wanted: fn(&bellows_kernel::master::Agent) -> bool| {
        state.agents.values().filter(|agent| wanted(agent)).count() as f64
    };
    let connected = count(is_active);
    let disconnected = count(|agent| agent.link.is_none() && agent.unreachable.is_none() && !agent.recovered);
    out.gauge("master/slaves_active", "Agents that offers are made of", connected);
    out.gauge("master/slaves_connected", "Agents with a connection", connected);
    out.gauge("master/slaves_disconnected", "Agents without one", disconnected);
    out.gauge("master/slaves_inactive", "Agents that no offers are made of", disconnected);
    let unreachable = count(|agent| agent.unreachable.is_some());
    out.gauge("master/slaves_unreachable", "Agents that answer no pings", unreachable);
    let counters = &state.counters;
    out.counter("master/slave_registrations", "Agents that registered", counters.agents_registered as f64);
    out.counter("master/slave_removals", "Agents that were removed", counters.agents_removed as f64);
}

fn frameworks(out: &mut Snapshot, state: &State) {
    let connected = state.frameworks.values().filter(|framework| framework.stream.is_some()).count() as f64;
    let disconnected = state.frameworks.len() as f64 - connected;
    out.gauge("master/frameworks_active", "Frameworks that get offers", connected);
    out.gauge("master/frameworks_connected", "Frameworks with a stream", connected);
    out.gauge("master/frameworks_disconnected", "Frameworks without one", disconnected);
    out.gauge("master/frameworks_inactive", "Frameworks that get no offers", disconnected);
    out.gauge("master/outstanding_offers", "Offers without an answer", state.offers.len() as f64);
    let counters = &state.counters;
    out.counter("master/offers_sent", "Offers made", counters.offers_sent as f64);
    out.counter("master/offers_accepted", "Offers accepted", counters.offers_accepted as f64);
    out.counter("master/offers_declined", "Offers declined", counters.offers_declined as f64);
    out.counter("master/offers_rescinded", "Offers taken back", counters.offers_rescinded as f64);
    out.counter("master/messages_launch_tasks", "Tasks sent to agents", counters.tasks_launched as f64);
    out.counter("master/calls_refused", "Calls answered with an error", counters.calls_refused as f64);
}

fn tasks(out: &mut Snapshot, state: &State) {
    for wanted in TaskState::ALL {
        let name = format!("master/{}", wanted.name().to_lowercase().replacen("task_", "tasks_", 1));
        if wanted.is_terminal() {
            let ended = state.counters.tasks_ended.get(&wanted).copied().unwrap_or_default();
            out.counter(name, "Tasks that ended so", ended as f64);
        } else if wanted != TaskState::Unknown {
            let tasks = state.frameworks.values().flat_map(|framework| framework.tasks.values());
            out.gauge(
                name,
                "Tasks that are so now",
                tasks.filter(|task| task.state == wanted).count() as f64,
            );
        }
    }
}
