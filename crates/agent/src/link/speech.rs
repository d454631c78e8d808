//! Between the link's messages and the kernel's values.
use bellows_kernel::agent::{AgentCommand, AgentCondition, AgentMessage, RegisteredTask, Registration};
use bellows_model::{DEFAULT_ROLE, TaskId};
use bellows_wire::{
    convert::{ConvertError, agent_to_wire, task_to_wire, uuid_from_wire},
    link::{self, agent_message, master_message::Message},
    v1,
};
use std::{sync::Arc, time::Duration};

pub(crate) fn register(registration: &Registration) -> link::AgentMessage {
    let register = link::Register {
        agent_info: agent_to_wire(&registration.info),
        version: registration.info.version.clone(),
        ip: Some(registration.info.ip.clone()),
        tasks: registration.tasks.iter().map(running_task).collect(),
        frameworks: registration.frameworks.iter().map(|info| (&**info).into()).collect(),
        shuffle_service_down: Some(registration.shuffle_service_down),
        condition: Some(condition(&registration.condition)),
    };
    link::AgentMessage { message: Some(agent_message::Message::Register(register)) }
}

fn condition(condition: &AgentCondition) -> link::Condition {
    link::Condition { paused: condition.paused, troubles: condition.troubles.clone() }
}

fn running_task(task: &RegisteredTask) -> link::RunningTask {
    link::RunningTask {
        task_info: task_to_wire(&task.info, &task.framework_id, DEFAULT_ROLE),
        framework_id: (&task.framework_id).into(),
        latest_state: v1::TaskState::from(task.latest_state).into(),
    }
}

pub(crate) fn to_master(message: AgentMessage) -> link::AgentMessage {
    let message = match message {
        AgentMessage::StatusUpdate { framework_id, status, latest_state } => {
            agent_message::Message::StatusUpdate(link::StatusUpdate {
                framework_id: (&framework_id).into(),
                status: (&status).into(),
                latest_state: Some(v1::TaskState::from(latest_state).into()),
            })
        }
        AgentMessage::ShuffleService { down } => {
            agent_message::Message::ShuffleService(link::ShuffleService { down })
        }
        AgentMessage::ExecutorTerminated { framework_id, executor_id, status } => {
            agent_message::Message::ExecutorTerminated(link::ExecutorTerminated {
                framework_id: (&framework_id).into(),
                executor_id: (&executor_id).into(),
                status,
            })
        }
        AgentMessage::ExecutorMessage { framework_id, executor_id, data } => {
            agent_message::Message::ExecutorMessage(link::ExecutorMessage {
                framework_id: (&framework_id).into(),
                executor_id: (&executor_id).into(),
                data: data.into(),
            })
        }
        AgentMessage::Condition(now) => agent_message::Message::Condition(condition(&now)),
        AgentMessage::Unregister => agent_message::Message::Unregister(link::Unregister {}),
        AgentMessage::Pong { seq } => agent_message::Message::Pong(link::Pong { seq }),
    };
    link::AgentMessage { message: Some(message) }
}

/// `None`: a message of a later version.
pub(crate) fn from_master(message: link::MasterMessage) -> Result<Option<AgentCommand>, ConvertError> {
    let Some(message) = message.message else { return Ok(None) };
    Ok(Some(match message {
        Message::Registered(registered) => {
            AgentCommand::Registered { agent_id: registered.agent_id.try_into()? }
        }
        Message::TryLater(later) => AgentCommand::TryLater { reason: later.reason },
        Message::Refused(refused) => AgentCommand::Refused { reason: refused.reason },
        Message::LaunchTask(launch) => {
            // No master takes a status update of a task that bears another id: the connection would break with each.
            let task_id = launch.task_info.task_id.clone();
            TaskId::try_from(task_id).map_err(|error| error.within("task_info.task_id"))?;
            AgentCommand::Launch {
                framework: Arc::new(launch.framework_info.try_into()?),
                task: launch.task_info.try_into()?,
            }
        }
        Message::KillTask(kill) => AgentCommand::Kill {
            framework_id: kill.framework_id.try_into()?,
            task_id: kill.task_id.try_into()?,
            grace: kill.kill_policy.and_then(|policy| policy.grace_period).map(grace),
        },
        Message::AcknowledgeStatus(acknowledge) => AgentCommand::Acknowledge {
            framework_id: acknowledge.framework_id.try_into()?,
            task_id: acknowledge.task_id.try_into()?,
            uuid: uuid_from_wire(&acknowledge.uuid)?,
        },
        Message::ShutdownFramework(shutdown) => {
            AgentCommand::ShutdownFramework { framework_id: shutdown.framework_id.try_into()? }
        }
        Message::ShutdownExecutor(shutdown) => AgentCommand::ShutdownExecutor {
            framework_id: shutdown.framework_id.try_into()?,
            executor_id: shutdown.executor_id.try_into()?,
        },
        Message::FrameworkMessage(message) => AgentCommand::Message {
            framework_id: message.framework_id.try_into()?,
            executor_id: message.executor_id.try_into()?,
            data: message.data.into(),
        },
        Message::UpdateFramework(update) => {
            AgentCommand::UpdateFramework { framework: Arc::new(update.framework_info.try_into()?) }
        }
        Message::Ping(ping) => AgentCommand::Ping { seq: ping.seq },
    }))
}

/// A negative one is none at all.
fn grace(duration: v1::DurationInfo) -> Duration {
    Duration::from_nanos(u64::try_from(duration.nanoseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_whose_updates_no_master_would_take_is_not_launched() {
        let launch = |task_id: &str| {
            let task_info = v1::TaskInfo {
                name: "task".into(),
                task_id: v1::TaskId { value: task_id.into() },
                agent_id: v1::AgentId { value: "m-S0".into() },
                ..Default::default()
            };
            let framework_info = v1::FrameworkInfo {
                user: "u".into(),
                name: "n".into(),
                id: Some(v1::FrameworkId { value: "m-0000".into() }),
                ..Default::default()
            };
            let launch = link::LaunchTask { framework_info, task_info };
            from_master(link::MasterMessage { message: Some(Message::LaunchTask(launch)) })
        };
        assert!(matches!(launch("t"), Ok(Some(AgentCommand::Launch { .. }))));
        for task_id in ["t\u{10}", "..", "a/b", ""] {
            assert!(launch(task_id).is_err(), "{task_id:?}");
        }
    }
}
