//! One agent, as `/slaves`, `/state` and `/state-summary` show it.
use super::{
    cluster::TaskCounts,
    resources::{Flat, FullByRole, Reserved, ReservedFull, Unreserved, UnreservedFull},
};
use crate::{
    identity::API_VERSION,
    index::{Index, OnAgent},
};
use bellows_kernel::master::Agent;
use bellows_model::{AgentId, Attribute, AttributeValue};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// What every agent of this version can do, in Mesos' names.
pub(crate) const CAPABILITIES: [&str; 2] = ["MULTI_ROLE", "HIERARCHICAL_ROLE"];

#[derive(Serialize)]
pub(crate) struct AgentView<'a> {
    id: &'a str,
    hostname: &'a str,
    port: u16,
    attributes: Attributes<'a>,
    pid: String,
    registered_time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reregistered_time: Option<f64>,
    resources: Flat<'a>,
    used_resources: Flat<'a>,
    offered_resources: Flat<'a>,
    reserved_resources: Reserved<'a>,
    unreserved_resources: Unreserved<'a>,
    active: bool,
    deactivated: bool,
    /// This and the next two are not Mesos'; only where it is so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shuffle_service_down: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    troubles: &'a [String],
    version: &'static str,
    capabilities: [&'static str; 2],
}

impl<'a> AgentView<'a> {
    pub(crate) fn new(id: &'a AgentId, agent: &'a Agent) -> Self {
        let info = &agent.info;
        Self {
            id: id.as_str(),
            hostname: &info.hostname,
            port: info.port,
            attributes: Attributes(&info.attributes),
            pid: pid(agent),
            registered_time: agent.registered.as_secs_f64(),
            reregistered_time: agent.reregistered.map(|time| time.as_secs_f64()),
            resources: Flat(&info.resources),
            used_resources: Flat(&agent.used),
            offered_resources: Flat(&agent.offered),
            reserved_resources: Reserved(&info.resources),
            unreserved_resources: Unreserved(&info.resources),
            active: is_active(agent),
            deactivated: false,
            shuffle_service_down: agent.shuffle_service_down,
            paused: agent.condition.paused,
            troubles: &agent.condition.troubles,
            version: API_VERSION,
            capabilities: CAPABILITIES,
        }
    }
}

/// Offers are made of it.
pub(crate) fn is_active(agent: &Agent) -> bool {
    agent.link.is_some() && agent.unreachable.is_none()
}

/// Mesos' name of the process; clients take the address from it.
pub(crate) fn pid(agent: &Agent) -> String {
    let port = agent.info.port;
    match agent.info.ip.parse::<IpAddr>() {
        Ok(ip) => format!("slave(1)@{}", SocketAddr::new(ip, port)),
        Err(_) => format!("slave(1)@{}:{port}", agent.info.ip),
    }
}

/// With every resource one by one: `/slaves`.
#[derive(Serialize)]
pub(crate) struct AgentWithFull<'a> {
    #[serde(flatten)]
    agent: AgentView<'a>,
    reserved_resources_full: ReservedFull<'a>,
    unreserved_resources_full: UnreservedFull<'a>,
    used_resources_full: FullByRole<'a>,
    offered_resources_full: FullByRole<'a>,
}

impl<'a> AgentWithFull<'a> {
    pub(crate) fn new(id: &'a AgentId, agent: &'a Agent, index: &mut Index<'a>) -> Self {
        let OnAgent { used, offered, .. } = index.take_agent(id);
        let resources = &agent.info.resources;
        Self {
            agent: AgentView::new(id, agent),
            reserved_resources_full: ReservedFull(resources),
            unreserved_resources_full: UnreservedFull(resources),
            used_resources_full: FullByRole(used),
            offered_resources_full: FullByRole(offered),
        }
    }
}

/// With what its tasks do: `/state-summary`.
#[derive(Serialize)]
pub(crate) struct AgentSummary<'a> {
    #[serde(flatten)]
    agent: AgentView<'a>,
    #[serde(flatten)]
    tasks: TaskCounts,
    framework_ids: BTreeSet<&'a str>,
}

impl<'a> AgentSummary<'a> {
    pub(crate) fn new(id: &'a AgentId, agent: &'a Agent, index: &mut Index<'a>) -> Self {
        let OnAgent { tasks, frameworks, .. } = index.take_agent(id);
        Self { agent: AgentView::new(id, agent), tasks, framework_ids: frameworks }
    }
}

struct Attributes<'a>(&'a [Attribute]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ranges = |ranges: &[(u64, u64)]| {
            let parts: Vec<_> = ranges.iter().map(|(begin, end)| format!("{begin}-{end}")).collect();
            format!("[{}]", parts.join(", "))
        };
        let mut map = serializer.serialize_map(None)?;
        for attribute in self.0 {
            match &attribute.value {
                AttributeValue::Scalar(value) => map.serialize_entry(&attribute.name, value)?,
                AttributeValue::Ranges(list) => map.serialize_entry(&attribute.name, &ranges(list))?,
                AttributeValue::Set(items) => {
                    map.serialize_entry(&attribute.name, &format!("{{{}}}", items.join(", ")))?;
                }
                AttributeValue::Text(text) => map.serialize_entry(&attribute.name, text)?,
            }
        }
        map.end()
    }
}
