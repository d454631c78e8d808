//! One framework and its tasks, as `/frameworks`, `/state`, `/state-summary` and `/tasks` show them.
use super::{
    cluster::TaskCounts,
    resources::{AllocationInfo, Flat, FlatOwned},
};
use crate::{
    index::{Index, OfFramework, sum},
    names::capability,
};
use bellows_kernel::master::{Executor, Framework, Task};
use bellows_model::{AgentId, Label, Offer, TaskState, TaskStatus};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct FrameworkBase<'a> {
    id: &'a str,
    name: &'a str,
    used_resources: FlatOwned,
    offered_resources: FlatOwned,
    capabilities: Vec<&'static str>,
    hostname: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    webui_url: Option<&'a str>,
    active: bool,
    connected: bool,
    recovered: bool,
}

impl<'a> FrameworkBase<'a> {
    fn new(framework: &'a Framework, held: &OfFramework<'_>) -> Self {
        let info = &framework.info;
        let connected = framework.stream.is_some();
        Self {
            id: info.id.as_ref().map_or("", |id| id.as_str()),
            name: &info.name,
            used_resources: FlatOwned(sum(&held.used)),
            offered_resources: FlatOwned(sum(&held.offered)),
            capabilities: info.capabilities.iter().map(|&one| capability(one)).collect(),
            hostname: &info.hostname,
            webui_url: info.webui_url.as_deref(),
            active: connected,
            connected,
            recovered: framework.recovered,
        }
    }
}

/// `/state-summary`.
#[derive(Serialize)]
pub(crate) struct FrameworkSummary<'a> {
    #[serde(flatten)]
    base: FrameworkBase<'a>,
    #[serde(flatten)]
    tasks: TaskCounts,
    slave_ids: BTreeSet<&'a str>,
}

impl<'a> FrameworkSummary<'a> {
    pub(crate) fn new(framework: &'a Framework, index: &mut Index<'a>) -> Self {
        let held = index.take_framework(framework.info.id.as_ref());
        let all = || framework.tasks.values().chain(&framework.completed_tasks);
        let mut tasks = TaskCounts::default();
        all().for_each(|task| tasks.count(task.state));
        Self {
            base: FrameworkBase::new(framework, &held),
            tasks,
            slave_ids: all().map(|task| task.info.agent_id.as_str()).collect(),
        }
    }
}

/// `/state` and `/frameworks`.
#[derive(Serialize)]
pub(crate) struct FrameworkView<'a> {
    #[serde(flatten)]
    base: FrameworkBase<'a>,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
    failover_timeout: f64,
    checkpoint: bool,
    registered_time: f64,
    unregistered_time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reregistered_time: Option<f64>,
    /// Used and offered together.
    resources: FlatOwned,
    roles: &'a [String],
    tasks: Vec<TaskView<'a>>,
    unreachable_tasks: Vec<TaskView<'a>>,
    completed_tasks: Vec<TaskView<'a>>,
    offers: Vec<OfferView<'a>>,
    executors: Vec<ExecutorView<'a>>,
    #[serde(skip_serializing_if = "<[Label]>::is_empty", serialize_with = "labels")]
    labels: &'a [Label],
    offer_constraints: serde_json::Map<String, serde_json::Value>,
}

impl<'a> FrameworkView<'a> {
    pub(crate) fn new(framework: &'a Framework, index: &mut Index<'a>) -> Self {
        let info = &framework.info;
        let held = index.take_framework(info.id.as_ref());
        let mut resources = sum(&held.used);
        resources.add(&sum(&held.offered));
        let (unreachable, live): (Vec<_>, Vec<_>) =
            framework.tasks.values().partition(|task| task.state == TaskState::Unreachable);
        Self {
            base: FrameworkBase::new(framework, &held),
            user: &info.user,
            principal: info.principal.as_deref(),
            failover_timeout: info.failover_timeout.as_secs_f64(),
            checkpoint: info.checkpoint,
            registered_time: framework.registered.as_secs_f64(),
            unregistered_time: framework.unregistered.unwrap_or_default().as_secs_f64(),
            reregistered_time: (framework.reregistered != framework.registered)
                .then(|| framework.reregistered.as_secs_f64()),
            resources: FlatOwned(resources),
            roles: &info.roles,
            executors: held.executors.iter().map(|&own| ExecutorView::new(own)).collect(),
            tasks: live.into_iter().map(TaskView::new).collect(),
            unreachable_tasks: unreachable.into_iter().map(TaskView::new).collect(),
            completed_tasks: framework.completed_tasks.iter().map(TaskView::new).collect(),
            offers: held.offers.iter().map(|&offer| OfferView::new(offer)).collect(),
            labels: &info.labels,
            offer_constraints: serde_json::Map::new(),
        }
    }
}

#[derive(Serialize)]
struct OfferView<'a> {
    id: &'a str,
    framework_id: &'a str,
    allocation_info: AllocationInfo<'a>,
    slave_id: &'a str,
    resources: Flat<'a>,
}

impl<'a> OfferView<'a> {
    fn new(offer: &'a Offer) -> Self {
        Self {
            id: offer.id.as_str(),
            framework_id: offer.framework_id.as_str(),
            allocation_info: AllocationInfo { role: &offer.role },
            slave_id: offer.agent_id.as_str(),
            resources: Flat(&offer.resources),
        }
    }
}

/// A framework's own executor on one agent.
#[derive(Serialize)]
struct ExecutorView<'a> {
    executor_id: &'a str,
    name: &'a str,
    slave_id: &'a str,
    resources: Flat<'a>,
}

impl<'a> ExecutorView<'a> {
    fn new((agent_id, executor): (&'a AgentId, &'a Executor)) -> Self {
        Self {
            executor_id: executor.info.executor_id.as_str(),
            name: executor.info.name.as_deref().unwrap_or_default(),
            slave_id: agent_id.as_str(),
            resources: Flat(&executor.info.resources),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct TaskView<'a> {
    id: &'a str,
    name: &'a str,
    framework_id: &'a str,
    /// Empty for a command task, as in Mesos.
    executor_id: &'a str,
    slave_id: &'a str,
    state: &'static str,
    resources: Flat<'a>,
    role: &'a str,
    statuses: Vec<StatusView<'a>>,
    #[serde(skip_serializing_if = "<[Label]>::is_empty", serialize_with = "labels")]
    labels: &'a [Label],
}

impl<'a> TaskView<'a> {
    pub(crate) fn new(task: &'a Task) -> Self {
        Self {
            id: task.info.task_id.as_str(),
            name: &task.info.name,
            framework_id: task.framework_id.as_str(),
            executor_id: task.info.executor.as_ref().map_or("", |executor| executor.executor_id.as_str()),
            slave_id: task.info.agent_id.as_str(),
            state: task.state.name(),
            resources: Flat(&task.info.resources),
            role: &task.role,
            statuses: task.statuses.iter().map(StatusView::new).collect(),
            labels: &task.info.labels,
        }
    }
}

#[derive(Serialize)]
struct StatusView<'a> {
    state: &'static str,
    timestamp: f64,
    #[serde(skip_serializing_if = "<[Label]>::is_empty", serialize_with = "labels")]
    labels: &'a [Label],
    #[serde(skip_serializing_if = "Option::is_none")]
    container_status: Option<ContainerView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthy: Option<bool>,
}

#[derive(Serialize)]
struct ContainerView<'a> {
    container_id: Wrapped<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_infos: Option<[NetworkInfo<'a>; 1]>,
}

#[derive(Serialize)]
struct Wrapped<'a> {
    value: &'a str,
}

#[derive(Serialize)]
struct NetworkInfo<'a> {
    ip_addresses: [IpAddress<'a>; 1],
}

#[derive(Serialize)]
struct IpAddress<'a> {
    protocol: &'static str,
    ip_address: &'a str,
}

impl<'a> StatusView<'a> {
    fn new(status: &'a TaskStatus) -> Self {
        let container = status.container.as_ref().map(|container| ContainerView {
            container_id: Wrapped { value: container.container_id.as_str() },
            network_infos: container.ip_address.as_deref().map(|ip_address| {
                let protocol = if ip_address.contains(':') { "IPv6" } else { "IPv4" };
                [NetworkInfo { ip_addresses: [IpAddress { protocol, ip_address }] }]
            }),
        });
        Self {
            state: status.state.name(),
            timestamp: status.timestamp,
            labels: &status.labels,
            container_status: container,
            healthy: status.healthy,
        }
    }
}

fn labels<S: serde::Serializer>(labels: &[Label], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct LabelView<'a> {
        key: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<&'a str>,
    }
    serializer
        .collect_seq(labels.iter().map(|label| LabelView { key: &label.key, value: label.value.as_deref() }))
}
