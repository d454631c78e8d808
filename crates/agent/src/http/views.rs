//! The legacy JSON of an agent: `/state`, `/containers`, `/monitor/statistics`.
use super::{API_VERSION, Refused, Shared, elsewhere};
use bellows_containment::{Run, Sandboxes, Usage};
use bellows_kernel::agent::{Framework, Master, Phase, State, Task};
use bellows_model::{
    Attribute, AttributeValue, CommandInfo, ContainerId, DEFAULT_ROLE, ExecutorId, FrameworkId,
    FrameworkInfo, Label, Resources, TaskInfo, TaskStatus, Value as Amount,
};
use bellows_wire::{
    convert::{ResourceFormat, resources_to_wire},
    json as wire_json,
};
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::SystemTime};

pub(super) fn version() -> Value {
    json!({ "version": API_VERSION })
}

pub(super) async fn state(shared: &Arc<Shared>) -> Result<Value, Refused> {
    let (view, state) = (Arc::clone(shared), shared.driver.read(State::to_read).await?);
    elsewhere(move || whole(&view, &state)).await
}

fn whole(shared: &Shared, state: &State) -> Value {
    let info = &state.config.info;
    let sandboxes = Sandboxes::new(&shared.work_dir);
    let master = match state.master {
        Master::Registered(_) => shared.master.borrow().as_ref().map(|leader| leader.hostname.clone()),
        _ => None,
    };
    let attributes: Map<String, Value> = info.attributes.iter().map(attribute).collect();
    let live = state.frameworks.iter().map(|(id, it)| framework(&sandboxes, id, it));
    let completed = state.completed_frameworks.iter().filter_map(|it| {
        let executors = it.completed_tasks.iter().map(|task| executor(&sandboxes, &it.info, task));
        Some(framework_of(it.info.id.as_ref()?, &it.info, vec![], executors.collect()))
    });
    let unreserved = info.resources.available_to(DEFAULT_ROLE);
    json!({
        "version": API_VERSION,
        "bellows_version": info.version,
        "start_time": state.started.as_secs_f64(),
        "id": state.agent_id.as_ref().map_or("", |id| id.as_str()),
        "pid": format!("slave(1)@{}", shared.announced.address()),
        "hostname": info.hostname,
        "capabilities": ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT"],
        "resources": resources(&info.resources),
        "reserved_resources": {},
        "unreserved_resources": resources(&unreserved),
        "reserved_resources_full": {},
        "unreserved_resources_full": full(&unreserved),
        "reserved_resources_allocated": {},
        "unreserved_resources_allocated": resources(&state.used()),
        "resource_providers": [],
        "attributes": attributes,
        "master_hostname": master,
        "paused": state.health.condition.paused,
        "troubles": state.health.condition.troubles,
        "flags": shared.flags,
        "frameworks": live.collect::<Vec<_>>(),
        "completed_frameworks": completed.collect::<Vec<_>>(),
    })
}

fn framework(sandboxes: &Sandboxes, id: &FrameworkId, framework: &Framework) -> Value {
    let (ended, live): (Vec<_>, Vec<_>) =
        framework.tasks.values().partition(|task| task.phase == Phase::Ended);
    let view = |task: &Task| executor(sandboxes, &framework.info, task);
    let completed = framework.completed_tasks.iter().map(view).chain(ended.into_iter().map(view));
    framework_of(id, &framework.info, live.into_iter().map(view).collect(), completed.collect())
}

fn framework_of(
    id: &FrameworkId,
    info: &FrameworkInfo,
    executors: Vec<Value>,
    completed: Vec<Value>,
) -> Value {
    json!({
        "id": id.as_str(),
        "name": info.name,
        "user": info.user,
        "failover_timeout": info.failover_timeout.as_secs_f64(),
        "checkpoint": info.checkpoint,
        "hostname": info.hostname,
        "roles": info.roles,
        "executors": executors,
        "completed_executors": completed,
    })
}

/// A command task as the one executor that Mesos makes of it.
fn executor(sandboxes: &Sandboxes, framework: &FrameworkInfo, of: &Task) -> Value {
    let (queued, live, ended) = match (of.phase, task(framework, of)) {
        (Phase::Ended, view) => (vec![], vec![], vec![view]),
        (Phase::Running { .. }, view) => (vec![], vec![view], vec![]),
        (_, view) => (vec![view], vec![], vec![]),
    };
    json!({
        "id": of.info.task_id.as_str(),
        "name": executor_name(&of.info),
        "source": of.info.task_id.as_str(),
        "container": of.container_id.as_str(),
        "directory": directory(sandboxes, of),
        "resources": resources(&of.info.resources),
        "role": framework.roles.first(),
        "tasks": live,
        "queued_tasks": queued,
        "completed_tasks": ended,
    })
}

fn task(framework: &FrameworkInfo, task: &Task) -> Value {
    let mut view = json!({
        "id": task.info.task_id.as_str(),
        "name": task.info.name,
        "framework_id": task.framework_id.as_str(),
        "executor_id": "",
        "slave_id": task.info.agent_id.as_str(),
        "state": task.latest_state().name(),
        "resources": resources(&task.info.resources),
        "role": framework.roles.first(),
        "statuses": task.statuses.iter().map(status).collect::<Vec<_>>(),
    });
    if !task.info.labels.is_empty() {
        view["labels"] = task.info.labels.iter().map(label).collect();
    }
    view
}

fn label(label: &Label) -> Value {
    json!({ "key": label.key, "value": label.value })
}

fn status(status: &TaskStatus) -> Value {
    let mut view = json!({ "state": status.state.name(), "timestamp": status.timestamp });
    if let Some(container) = &status.container {
        let addresses: Vec<Value> = container
            .ip_address
            .iter()
            .map(|ip| json!({ "ip_addresses": [{ "protocol": "IPv4", "ip_address": ip }] }))
            .collect();
        view["container_status"] = json!({ "container_id": { "value": container.container_id.as_str() }, "network_infos": addresses });
    }
    view
}

/// As Mesos names the executor that it puts around a command.
pub(super) fn executor_name(task: &TaskInfo) -> String {
    let command = task.command.as_ref();
    let text = match command {
        // After a restart what it runs is not known any more. The words are Mesos'.
        Some(CommandInfo { shell: false, value: None, .. }) => "NO EXECUTABLE".to_owned(),
        Some(CommandInfo { value: None, .. }) | None => "NO COMMAND".to_owned(),
        Some(CommandInfo { shell: false, value: Some(value), arguments, .. }) => {
            format!("{value} {}", arguments.join(" "))
        }
        Some(CommandInfo { value: Some(value), .. }) => format!("sh -c '{value}'"),
    };
    const SHOWN: usize = 20;
    let short: String = text.chars().take(SHOWN).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("Command Executor (Task: {}) (Command: {short}{dots})", task.task_id)
}

fn directory(sandboxes: &Sandboxes, task: &Task) -> String {
    let run = Run {
        agent_id: task.info.agent_id.clone(),
        framework_id: task.framework_id.clone(),
        executor_id: ExecutorId::from(task.info.task_id.as_str()),
        container_id: task.container_id.clone(),
    };
    sandboxes.path(&run).map(|path| path.display().to_string()).unwrap_or_default()
}

/// Mesos always names these four.
fn resources(resources: &Resources) -> Value {
    let mut view: Map<String, Value> = ["disk", "mem", "gpus", "cpus"]
        .map(|name| (name.to_owned(), json!(resources.scalar(name).as_f64())))
        .into_iter()
        .collect();
    for item in resources.iter() {
        let value = match &item.value {
            Amount::Scalar(_) => json!(resources.scalar(&item.name).as_f64()),
            Amount::Ranges(ranges) => {
                let ranges: Vec<_> = ranges.iter().map(|(begin, end)| format!("{begin}-{end}")).collect();
                json!(format!("[{}]", ranges.join(", ")))
            }
            Amount::Set(set) => json!(format!("{{{}}}", set.iter().cloned().collect::<Vec<_>>().join(", "))),
        };
        view.insert(item.name.to_string(), value);
    }
    Value::Object(view)
}

fn full(resources: &Resources) -> Vec<Value> {
    let wire = resources_to_wire(resources, None, ResourceFormat::Legacy);
    let json = |resource| serde_json::from_slice(&wire_json::encode(resource)).unwrap_or(Value::Null);
    wire.iter().map(json).collect()
}

fn attribute(attribute: &Attribute) -> (String, Value) {
    let value = match &attribute.value {
        AttributeValue::Scalar(number) => json!(number),
        AttributeValue::Text(text) => json!(text),
        AttributeValue::Ranges(ranges) => {
            let ranges: Vec<_> = ranges.iter().map(|(begin, end)| format!("{begin}-{end}")).collect();
            json!(format!("[{}]", ranges.join(", ")))
        }
        AttributeValue::Set(items) => json!(format!("{{{}}}", items.join(", "))),
    };
    (attribute.name.clone(), value)
}

/// One running container with what it uses.
pub(super) struct Container {
    pub(super) framework_id: FrameworkId,
    pub(super) task: Arc<TaskInfo>,
    pub(super) container_id: ContainerId,
    pub(super) pid: u32,
    pub(super) usage: Usage,
    pub(super) timestamp: f64,
}

pub(super) async fn running(shared: &Shared) -> Result<Vec<Container>, Refused> {
    let running = |state: &State| {
        let with_process = |task: &Task| match task.phase {
            Phase::Running { pid } => {
                Some((task.framework_id.clone(), task.info.clone(), task.container_id.clone(), pid))
            }
            _ => None,
        };
        state.tasks().filter_map(with_process).collect::<Vec<_>>()
    };
    let mut containers = Vec::new();
    for (framework_id, task, container_id, pid) in shared.driver.read(running).await? {
        let Some(usage) = shared.containerizer.usage(&container_id).await else { continue };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_secs_f64();
        containers.push(Container { framework_id, task, container_id, pid, usage, timestamp });
    }
    Ok(containers)
}

/// `whole`: with the container itself, as `/containers` has it.
pub(super) async fn containers(shared: &Shared, whole: bool) -> Result<Vec<Value>, Refused> {
    let view = |container: Container| {
        let (task, usage) = (&container.task, container.usage);
        let memory = (task.resources.mem().as_f64() * f64::from(1 << 20)) as u64;
        let mut view = json!({
            "executor_id": task.task_id.as_str(),
            "executor_name": executor_name(task),
            "framework_id": container.framework_id.as_str(),
            "source": task.task_id.as_str(),
            "statistics": {
                "cpus_limit": task.resources.cpus().as_f64(),
                "cpus_system_time_secs": usage.cpu_system_seconds,
                "cpus_user_time_secs": usage.cpu_user_seconds,
                "mem_limit_bytes": memory,
                "mem_rss_bytes": usage.rss_bytes,
                "processes": usage.processes,
                "timestamp": container.timestamp,
            },
        });
        if whole {
            let id = container.container_id.as_str();
            view["container_id"] = json!(id);
            view["status"] = json!({ "container_id": { "value": id }, "executor_pid": container.pid });
        }
        view
    };
    Ok(running(shared).await?.into_iter().map(view).collect())
}
