//! An agent's figures, under the names of Mesos.
use super::{Refused, Shared};
use crate::collect::Figures as Collected;
use bellows_containment::Fetcher;
use bellows_kernel::{
    Time,
    agent::{Counters, Master, Phase, State},
};
use bellows_model::{Resources, TaskState, Value};
use bellows_runtime::metrics::{Snapshot, system};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::timeout;

/// Where the figures come from that the state does not have.
pub(crate) struct Sources {
    pub(crate) fetcher: Fetcher,
    pub(crate) collected: Arc<Collected>,
    /// How long it took to find what earlier processes left.
    pub(crate) recovery: Duration,
}

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
    terminating: usize,
    started: Time,
}

/// Those that take no time if the others take longer than `patience`.
pub(super) async fn in_time(shared: &Shared, patience: Option<Duration>) -> Result<Snapshot, Refused> {
    timeout(patience.unwrap_or(Duration::MAX), snapshot(shared)).await.unwrap_or_else(|_| {
        let mut out = Snapshot::default();
        system(&mut out);
        Ok(out)
    })
}

pub(super) async fn snapshot(shared: &Shared) -> Result<Snapshot, Refused> {
    let figures = shared.driver.read(figures).await?;
    let mut snapshot = Snapshot::default();
    resources(&mut snapshot, &figures);
    tasks(&mut snapshot, &figures);
    agent(&mut snapshot, &figures);
    sources(&mut snapshot, &shared.sources, &figures.counters);
    absent(&mut snapshot);
    system(&mut snapshot);
    Ok(snapshot)
}

fn figures(state: &State) -> Figures {
    let (mut phases, mut terminating) = ([0; 4], 0);
    for task in state.tasks() {
        let at = match (task.phase, task.latest_state()) {
            (Phase::Ended, _) => continue,
            (_, TaskState::Staging) => 0,
            (_, TaskState::Starting) => 1,
            (_, TaskState::Killing) => 3,
            _ => 2,
        };
        phases[at] += 1;
        terminating += usize::from(task.kill.is_some() && matches!(task.phase, Phase::Running { .. }));
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
        terminating,
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
    ] {
        let ended = figures.counters.tasks_ended.get(&state).copied().unwrap_or(0);
        snapshot.counter(format!("slave/tasks_{name}"), "Tasks that ended so", ended as f64);
    }
    // A command task is its executor's only one.
    let executors = figures.phases[1..].iter().sum::<usize>() as f64;
    snapshot.gauge("slave/executors_running", "Executors with a process", executors);
    snapshot.gauge("slave/executors_registering", "Executors about to run", figures.phases[0] as f64);
    snapshot.gauge("slave/executors_terminating", "Executors that are to end", figures.terminating as f64);
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
        ("invalid_framework_messages", "Messages for executors that take none", counters.stray_messages),
        ("invalid_acknowledgements", "Acknowledgements of nothing", counters.stray_acknowledgements),
        ("checkpoint_errors", "Failed writes of the checkpoint", counters.store_errors),
        ("shuffle_removals", "Frameworks whose files were deleted", counters.shuffle_removals),
        ("shuffle_removal_errors", "Failed attempts at it", counters.shuffle_removal_errors),
    ] {
        snapshot.counter(format!("slave/{name}"), help, count as f64);
    }
}

fn sources(snapshot: &mut Snapshot, sources: &Sources, counters: &Counters) {
    let (used, limit) = sources.fetcher.cache_bytes();
    let Sources { collected, recovery, .. } = sources;
    snapshot.gauge(
        "containerizer/fetcher/cache_size_total_bytes",
        "Room of the fetcher's cache",
        limit as f64,
    );
    snapshot.gauge(
        "containerizer/fetcher/cache_size_used_bytes",
        "Files in the fetcher's cache",
        used as f64,
    );
    let (fetched, failed) = (counters.fetches as f64, counters.fetch_errors as f64);
    snapshot.counter("containerizer/fetcher/task_fetches_succeeded", "Tasks with all their files", fetched);
    snapshot.counter("containerizer/fetcher/task_fetches_failed", "Tasks whose files did not come", failed);
    let [deleted, failed, pending, max_age] =
        [&collected.deleted, &collected.failed, &collected.pending, &collected.max_age_secs]
            .map(|figure| figure.load(Relaxed) as f64);
    snapshot.counter("gc/path_removals_succeeded", "Sandboxes that were deleted", deleted);
    snapshot.counter("gc/path_removals_failed", "Failed attempts at it", failed);
    snapshot.gauge("gc/path_removals_pending", "Sandboxes of ended tasks", pending);
    let name = "slave/executor_directory_max_allowed_age_secs";
    snapshot.gauge(name, "How old sandboxes may become on a disk so full", max_age);
    snapshot.gauge(
        "slave/recovery_time_secs",
        "Time that the start took to find tasks",
        recovery.as_secs_f64(),
    );
}

/// What an agent of Mesos has and this one does not, for readers that expect it.
fn absent(snapshot: &mut Snapshot) {
    for name in ["cpus", "mem", "disk", "gpus"] {
        for what in ["total", "used", "percent"] {
            snapshot.only_json(format!("slave/{name}_revocable_{what}"), 0.0);
        }
    }
    for name in [
        "containerizer/mesos/container_destroy_errors",
        "containerizer/mesos/provisioner/bind/remove_rootfs_errors",
        "containerizer/mesos/provisioner/remove_container_errors",
        "resource_provider_manager/events/disconnect",
        "resource_provider_manager/events/subscribe",
        "resource_provider_manager/subscribed",
        "slave/executors_preempted",
        "slave/invalid_status_updates",
        "slave/recovery_errors",
        "slave/tasks_gone",
        "slave/valid_framework_messages",
    ] {
        snapshot.only_json(name, 0.0);
    }
}
