//! Offers, and what frameworks do with them.

use super::{ResourceFormat, resources_to_wire, seconds_from_wire};
use crate::v1::{self, offer::operation::Type};
use bellows_model::{Filters, InvalidTask, Offer, OfferId, Operation, Resources, TaskInfo};
use std::time::Duration;

/// The longest that an offer is refused; Mesos' bound.
const MAX_REFUSAL: Duration = Duration::from_secs(365 * 24 * 3600);

/// The path of an agent's own pages, as Mesos names them in offers.
const AGENT_PATH: &str = "/slave(1)";

/// Writes an offer in the format that the framework understands.
pub fn offer_to_wire(offer: &Offer, format: ResourceFormat) -> v1::Offer {
    let agent = &offer.agent;
    v1::Offer {
        id: (&offer.id).into(),
        framework_id: (&offer.framework_id).into(),
        agent_id: (&offer.agent_id).into(),
        hostname: agent.hostname.clone(),
        url: Some(v1::Url {
            scheme: "http".into(),
            address: v1::Address {
                hostname: Some(agent.hostname.clone()),
                ip: Some(agent.ip.clone()),
                port: agent.port.into(),
            },
            path: Some(AGENT_PATH.into()),
            ..Default::default()
        }),
        resources: resources_to_wire(&offer.resources, Some(&offer.role), format),
        attributes: agent.attributes.iter().map(Into::into).collect(),
        allocation_info: Some(v1::resource::AllocationInfo { role: Some(offer.role.clone()) }),
        ..Default::default()
    }
}

/// The name of an operation's type on the wire.
pub fn operation_type_name(operation: &v1::offer::Operation) -> &'static str {
    operation.r#type().as_str_name()
}

/// Reads what ACCEPT asks for. It never fails as a whole: a task that cannot be read, or whose operation is not carried
/// out here, becomes one that is refused by itself.
pub fn operations_from_wire(operations: Vec<v1::offer::Operation>) -> Vec<Operation> {
    let mut read = Vec::with_capacity(operations.len());
    for operation in operations {
        let kind = operation.r#type();
        let name = operation_type_name(&operation);
        if kind != Type::Launch {
            read.push(Operation::Unsupported(name.to_owned()));
        }
        let launched = operation.launch.map(|launch| launch.task_infos);
        let grouped = operation.launch_group.map(|group| group.task_group.tasks);
        let (mut valid, mut invalid) = (Vec::new(), Vec::new());
        for (index, task) in launched.into_iter().chain(grouped).flatten().enumerate() {
            let identity = identity_of(&task);
            if kind != Type::Launch {
                let reason = format!("Operations of type {name} are not supported by this master");
                invalid.push(InvalidTask { task: identity, reason });
                continue;
            }
            match TaskInfo::try_from(task) {
                Ok(task) => valid.push(task),
                Err(error) => {
                    let reason = error.within(&format!("launch.task_infos[{index}]")).to_string();
                    invalid.push(InvalidTask { task: identity, reason });
                }
            }
        }
        if !valid.is_empty() {
            read.push(Operation::Launch(valid));
        }
        if !invalid.is_empty() {
            read.push(Operation::Invalid(invalid));
        }
    }
    read
}

/// The part of a task that its refusal names.
fn identity_of(task: &v1::TaskInfo) -> TaskInfo {
    TaskInfo {
        name: task.name.clone(),
        task_id: task.task_id.value.as_str().into(),
        agent_id: task.agent_id.value.as_str().into(),
        resources: Resources::new(),
        command: None,
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    }
}

/// Reads the offers that ACCEPT names. An id that none can have is kept short: it is repeated to the framework for each
/// of its tasks.
pub fn offer_ids_from_wire(ids: Vec<v1::OfferId>) -> Vec<OfferId> {
    ids.into_iter().map(|id| OfferId::try_from(id).unwrap_or_else(|_| OfferId::from("(invalid)"))).collect()
}

/// As in Mesos, what is no duration stands for Mesos' default, and what is too long for a year. What is not set
/// stays so.
impl From<v1::Filters> for Filters {
    fn from(filters: v1::Filters) -> Self {
        let refuse = filters.refuse_seconds.map(|seconds| match seconds_from_wire(seconds) {
            Some(refuse) => refuse.min(MAX_REFUSAL),
            None if seconds > 0.0 => MAX_REFUSAL,
            None => Self::DEFAULT_REFUSE,
        });
        Self { refuse }
    }
}

impl From<&Filters> for v1::Filters {
    fn from(filters: &Filters) -> Self {
        Self { refuse_seconds: filters.refuse.map(|refuse| refuse.as_secs_f64()) }
    }
}
