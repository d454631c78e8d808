//! Offers, and what frameworks do with them.

use super::{ConvertError, ResourceFormat, repeated, resources_to_wire, seconds_from_wire};
use crate::v1::{self, offer::operation::Type};
use bellows_model::{Filters, Offer, Operation, TaskInfo};
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

impl TryFrom<v1::offer::Operation> for Operation {
    type Error = ConvertError;

    fn try_from(operation: v1::offer::Operation) -> Result<Self, ConvertError> {
        match operation.r#type() {
            Type::Unknown => Err(ConvertError::missing("type")),
            Type::Launch => {
                let launch = operation.launch.ok_or_else(|| ConvertError::missing("launch"))?;
                let tasks = repeated("task_infos", launch.task_infos);
                Ok(Self::Launch(tasks.map_err(|error| error.within("launch"))?))
            }
            // Each of its tasks is refused by itself, so that the framework hears of it.
            Type::LaunchGroup => {
                let group = operation.launch_group.ok_or_else(|| ConvertError::missing("launch_group"))?;
                let tasks = repeated("task_group.tasks", group.task_group.tasks);
                let mut tasks: Vec<TaskInfo> = tasks.map_err(|error| error.within("launch_group"))?;
                tasks.iter_mut().for_each(|task| task.unsupported = Some("launch_group".to_owned()));
                Ok(Self::Launch(tasks))
            }
            _ => Ok(Self::Unsupported(operation_type_name(&operation).to_owned())),
        }
    }
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
