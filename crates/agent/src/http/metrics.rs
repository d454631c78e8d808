//! An agent's figures, under the names of Mesos.
use super::{Refused, Shared};
use crate::machine;
use bellows_kernel::{
    Time,
    agent::{Counters, Master, Phase, State},
};
use bellows_model::{Resources, TaskState, Value};
use bellows_runtime::metrics::Snapshot;
use std::time::{SystemTime, UNIX_EPOCH};

struct Figures {
    total: Resources,
    used: Resources,
    counters: Counters,
    registered: bool,
    frameworks: usize,
    removals: usize,
    disks_left_out: usize,
    work_dir_unusable: bool,
    paused: bool,
    phases: [usize; 4],
    started: Time,
}

pub(super) async fn snapshot(shared: &Shared) -> Result<Snapshot, Refused> {
    let figures = shared.driver.read(figures).await?;
    let mut snapshot = Snapshot::default();
    resources(&mut snapshot, &figures);
    tasks(&mut snapshot, &figures);
    agent(&mut snapshot, &figures);
    system(&mut snapshot);
    Ok(snapshot)
}

fn figures(state: &State) -> Figures {
    let mut phases = [0; 4];
    for task in state.tasks() {
        let at = match (task.phase, task.latest_state()) {
            (Phase::Ended, _) => continue,
            (_, TaskState::Staging) => 0,
            (_, TaskState::Starting) => 1,
            (_, TaskState::Killing) => 3,
            _ => 2,
        };
        phases[at] += 1;
    }
    Figures {
        total: state.config.info.resources.clone(),
        used: state.used(),
        counters: state.counters.clone(),
        registered: matches!(state.master, Master::Registered(_)),
        frameworks: state.frameworks.len(),
        removals: state.removals.len(),
        disks_left_out: state.health.disks.left_out(),
        work_dir_unusable: state.health.disks.work_dir.is_some(),
        paused: state.health.condition.paused,
        phases,
        started: state.started,
    }
}

fn resources(snapshot: &mut Snapshot, figures: &Figures) {
    for (name, help) in [("cpus", "CPUs"), ("mem", "Memory in MB"), ("disk", "Disk in MB"), ("gpus", "GPUs")]
    {
        let (total, used) = (figures.total.scalar(name).as_f64(), figures.used.scalar(name).as_f64());
        snapshot.gauge(format!("slave/{name}_total"), help, total);
        snapshot.gauge(format!("slave/{name}_used"), help, used);
        let part = if total > 0.0 { used / total } else { 0.0 };
        snapshot.gauge(format!("slave/{name}_percent"), "Used, from 0 to 1", part);
    }
    let ports = |resources: &Resources| -> f64 {
        let ranges = resources.iter().filter(|item| &*item.name == "ports").map(|item| match &item.value {
            Value::Ranges(ranges) => ranges.iter().map(|(begin, end)| (end - begin + 1) as f64).sum(),
            _ => 0.0,
        });
        ranges.sum()
    };
    snapshot.gauge("slave/ports_total", "Ports", ports(&figures.total));
    snapshot.gauge("slave/ports_used", "Ports", ports(&figures.used));
}

fn tasks(snapshot: &mut Snapshot, figures: &Figures) {
    for (name, count) in ["staging", "starting", "running", "killing"].iter().zip(figures.phases) {
        snapshot.gauge(format!("slave/tasks_{name}"), "Tasks in this state", count as f64);
    }
    for (state, name) in [
        (TaskState::Finished, "finished"),
        (TaskState::Failed, "failed"),
        (TaskState::Killed, "killed"),
        (TaskState::Error, "error"),
        (TaskState::Lost, "lost"),
        (TaskState::Gone, "gone"),
    ] {
        let ended = figures.counters.tasks_ended.get(&state).copied().unwrap_or(0);
        snapshot.counter(format!("slave/tasks_{name}"), "Tasks that ended so", ended as f64);
    }
    // A command task is its executor's only one.
    let executors = figures.phases[1..].iter().sum::<usize>() as f64;
    snapshot.gauge("slave/executors_running", "Executors with a process", executors);
    snapshot.gauge("slave/executors_registering", "Executors about to run", figures.phases[0] as f64);
}

fn agent(snapshot: &mut Snapshot, figures: &Figures) {
    let counters = &figures.counters;
    snapshot.gauge("slave/registered", "1 while a master knows it", f64::from(u8::from(figures.registered)));
    snapshot.gauge("slave/frameworks_active", "Frameworks known here", figures.frameworks as f64);
    snapshot.gauge(
        "slave/shuffle_removals_pending",
        "Frameworks whose files are to go",
        figures.removals as f64,
    );
    for (name, help, value) in [
        ("disks_left_out", "Shuffle directories whose disks cannot be used", figures.disks_left_out),
        ("work_dir_unusable", "1 while no sandbox can be made", usize::from(figures.work_dir_unusable)),
        ("paused", "1 while nothing is offered, since tasks would only fail", usize::from(figures.paused)),
    ] {
        snapshot.gauge(format!("slave/{name}"), help, value as f64);
    }
    let age = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    snapshot.gauge("slave/uptime_secs", "Since the start", (age - figures.started.as_secs_f64()).max(0.0));
    for (name, help, count) in [
        ("registrations", "Registrations with a master", counters.registrations),
        ("tasks_launched", "Tasks that the master sent", counters.tasks_launched),
        ("container_launch_errors", "Tasks that could not be started", counters.launch_errors),
        ("executors_terminated", "Executors that ended", counters.executors_terminated),
        ("valid_status_updates", "Statuses sent for the first time", counters.statuses_sent),
        ("resent_status_updates", "Statuses sent again", counters.statuses_resent),
        ("invalid_acknowledgements", "Acknowledgements of nothing", counters.stray_acknowledgements),
        ("checkpoint_errors", "Failed writes of the checkpoint", counters.store_errors),
        ("shuffle_removals", "Frameworks whose files were deleted", counters.shuffle_removals),
        ("shuffle_removal_errors", "Failed attempts at it", counters.shuffle_removal_errors),
    ] {
        snapshot.counter(format!("slave/{name}"), help, count as f64);
    }
}

fn system(snapshot: &mut Snapshot) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    snapshot.gauge("system/cpus_total", "CPUs of the machine", cpus as f64);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    for (name, value) in ["1min", "5min", "15min"].iter().zip(load.split_whitespace()) {
        let value = value.parse().unwrap_or(0.0);
        snapshot.gauge(format!("system/load_{name}"), "Load average", value);
    }
    for (name, line) in [("total", "MemTotal:"), ("free", "MemFree:")] {
        let bytes = machine::meminfo_kb(line).unwrap_or(0) as f64 * 1024.0;
        snapshot.gauge(format!("system/mem_{name}_bytes"), "Memory of the machine", bytes);
    }
}
