//! A scheduler's call, from the wire to the kernel's terms; what lacks a part is refused in Mesos' words.
use super::Refused;
use bellows_kernel::master::Call;
use bellows_model::{FrameworkInfo, limits};
use bellows_wire::{
    convert::{ConvertError, offer_ids_from_wire, operations_from_wire, uuid_from_wire},
    v1::{
        self,
        scheduler::{self, call::Type},
    },
};
use std::time::Duration;

/// A call in the kernel's terms.
#[derive(Debug, PartialEq)]
pub(crate) enum Known {
    Subscribe { info: FrameworkInfo, suppressed_roles: Vec<String> },
    Other(Call),
}

pub(super) fn invalid(what: impl std::fmt::Display) -> Refused {
    Refused::bad_request(format!("Failed to validate scheduler::Call: {what}"))
}

fn missing(field: &str) -> Refused {
    invalid(format_args!("Expecting '{field}' to be present"))
}

/// Refuses a list that is too long before anything is made of it.
fn few<T>(field: &str, max: usize, list: &[T]) -> Result<(), Refused> {
    at_most(&format!("entries in '{field}'"), max, list.len())
}

fn at_most(what: &str, max: usize, count: usize) -> Result<(), Refused> {
    if count > max { Err(invalid(format_args!("{count} {what} are more than {max}"))) } else { Ok(()) }
}

impl TryFrom<scheduler::Call> for Known {
    type Error = Refused;

    fn try_from(call: scheduler::Call) -> Result<Self, Refused> {
        let kind = call.r#type();
        if kind == Type::Unknown {
            return Err(missing("type"));
        }
        if kind != Type::Subscribe && call.framework_id.is_none() {
            return Err(missing("framework_id"));
        }
        let name = kind.as_str_name().to_lowercase();
        let part = |error: ConvertError| invalid(error.within(&name));
        let known = match kind {
            Type::Unknown => return Err(missing("type")),
            Type::Subscribe => {
                let subscribe = call.subscribe.ok_or_else(|| missing(&name))?;
                let outer = call.framework_id.filter(|id| !id.value.is_empty());
                return subscribed(subscribe, outer);
            }
            Type::Teardown => Call::Teardown,
            Type::Accept => {
                let accept = call.accept.ok_or_else(|| missing(&name))?;
                few("accept.offer_ids", limits::OFFERS, &accept.offer_ids)?;
                few("accept.operations", limits::OPERATIONS, &accept.operations)?;
                let tasks = |operation: &v1::offer::Operation| {
                    operation.launch.as_ref().map_or(0, |launch| launch.task_infos.len())
                        + operation.launch_group.as_ref().map_or(0, |group| group.task_group.tasks.len())
                };
                let tasks = accept.operations.iter().map(tasks).sum();
                at_most("tasks in 'accept.operations'", limits::TASKS, tasks)?;
                Call::Accept {
                    offer_ids: offer_ids_from_wire(accept.offer_ids),
                    operations: operations_from_wire(accept.operations),
                    filters: accept.filters.map(Into::into).unwrap_or_default(),
                }
            }
            Type::Decline => {
                let decline = call.decline.ok_or_else(|| missing(&name))?;
                few("decline.offer_ids", limits::OFFERS, &decline.offer_ids)?;
                Call::Decline {
                    offer_ids: each("offer_ids", decline.offer_ids).map_err(part)?,
                    filters: decline.filters.map(Into::into).unwrap_or_default(),
                }
            }
            Type::Revive => {
                let revive = call.revive.unwrap_or_default();
                few("revive.roles", limits::ROLES, &revive.roles)?;
                Call::Revive { roles: revive.roles }
            }
            Type::Suppress => {
                let suppress = call.suppress.unwrap_or_default();
                few("suppress.roles", limits::ROLES, &suppress.roles)?;
                Call::Suppress { roles: suppress.roles }
            }
            Type::Kill => {
                let kill = call.kill.ok_or_else(|| missing(&name))?;
                Call::Kill {
                    task_id: one("task_id", kill.task_id).map_err(part)?,
                    agent_id: kill.agent_id.map(|id| one("agent_id", id)).transpose().map_err(part)?,
                    grace: kill.kill_policy.and_then(|policy| policy.grace_period).map(grace).transpose()?,
                }
            }
            Type::Shutdown => {
                let shutdown = call.shutdown.ok_or_else(|| missing(&name))?;
                Call::Shutdown {
                    executor_id: one("executor_id", shutdown.executor_id).map_err(part)?,
                    agent_id: one("agent_id", shutdown.agent_id).map_err(part)?,
                }
            }
            Type::Acknowledge => {
                let acknowledge = call.acknowledge.ok_or_else(|| missing(&name))?;
                Call::Acknowledge {
                    agent_id: one("agent_id", acknowledge.agent_id).map_err(part)?,
                    task_id: one("task_id", acknowledge.task_id).map_err(part)?,
                    uuid: uuid_from_wire(&acknowledge.uuid).map_err(part)?,
                }
            }
            Type::Reconcile => {
                let reconcile = call.reconcile.ok_or_else(|| missing(&name))?;
                few("reconcile.tasks", limits::RECONCILED_TASKS, &reconcile.tasks)?;
                let tasks = reconcile.tasks.into_iter().map(|task| {
                    let agent_id = task.agent_id.map(|id| one("agent_id", id)).transpose()?;
                    Ok((one("task_id", task.task_id)?, agent_id))
                });
                Call::Reconcile { tasks: tasks.collect::<Result<_, _>>().map_err(part)? }
            }
            Type::Message => {
                let message = call.message.ok_or_else(|| missing(&name))?;
                Call::Message {
                    agent_id: one("agent_id", message.agent_id).map_err(part)?,
                    executor_id: one("executor_id", message.executor_id).map_err(part)?,
                    data: message.data.into(),
                }
            }
            Type::UpdateFramework => {
                let update = call.update_framework.ok_or_else(|| missing(&name))?;
                few("update_framework.suppressed_roles", limits::ROLES, &update.suppressed_roles)?;
                Call::UpdateFramework {
                    info: one("framework_info", update.framework_info).map_err(part)?,
                    suppressed_roles: update.suppressed_roles,
                }
            }
            Type::Request => Call::Request,
            Type::AcceptInverseOffers
            | Type::DeclineInverseOffers
            | Type::AcknowledgeOperationStatus
            | Type::ReconcileOperations => {
                return Err(Refused::not_supported(kind.as_str_name()));
            }
        };
        Ok(Self::Other(known))
    }
}

/// The id may stand beside the framework's description, in it, or in both; then they must agree.
fn subscribed(
    subscribe: scheduler::call::Subscribe,
    outer: Option<v1::FrameworkId>,
) -> Result<Known, Refused> {
    few("subscribe.suppressed_roles", limits::ROLES, &subscribe.suppressed_roles)?;
    let mut info = subscribe.framework_info;
    info.id = info.id.filter(|id| !id.value.is_empty());
    match (&info.id, outer) {
        (Some(inner), Some(outer)) if *inner != outer => {
            return Err(invalid("'framework_id' differs from 'subscribe.framework_info.id'"));
        }
        (None, outer) => info.id = outer,
        _ => {}
    }
    let info = one("subscribe.framework_info", info).map_err(invalid)?;
    Ok(Known::Subscribe { info, suppressed_roles: subscribe.suppressed_roles })
}

fn grace(duration: v1::DurationInfo) -> Result<Duration, Refused> {
    u64::try_from(duration.nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| invalid("'kill.kill_policy.grace_period' is negative"))
}

fn one<W, M: TryFrom<W, Error = ConvertError>>(name: &str, wire: W) -> Result<M, ConvertError> {
    M::try_from(wire).map_err(|error| error.within(name))
}

fn each<W, M: TryFrom<W, Error = ConvertError>>(name: &str, wire: Vec<W>) -> Result<Vec<M>, ConvertError> {
    wire.into_iter().enumerate().map(|(index, wire)| one(&format!("{name}[{index}]"), wire)).collect()
}
