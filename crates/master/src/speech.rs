//! What the kernel says, in the messages of the wire: to frameworks and to agents.
use crate::identity::Identity;
use bellows_kernel::master::{AgentCommand, SchedulerEvent};
use bellows_model::DEFAULT_ROLE;
use bellows_wire::{
    convert::{ResourceFormat, offer_to_wire, task_to_wire},
    link::{self, MasterMessage, master_message::Message},
    v1::{
        self,
        scheduler::{self, event},
    },
};
use std::time::Duration;

pub(crate) fn scheduler_event(
    event: SchedulerEvent,
    resources: ResourceFormat,
    master: &v1::MasterInfo,
    heartbeat: Duration,
) -> scheduler::Event {
    let mut wire = scheduler::Event::default();
    let kind = match event {
        SchedulerEvent::Subscribed { framework_id } => {
            wire.subscribed = Some(event::Subscribed {
                framework_id: (&framework_id).into(),
                heartbeat_interval_seconds: Some(heartbeat.as_secs_f64()),
                master_info: Some(master.clone()),
            });
            event::Type::Subscribed
        }
        SchedulerEvent::Offers(offers) => {
            let offers = offers.iter().map(|offer| offer_to_wire(offer, resources)).collect();
            wire.offers = Some(event::Offers { offers });
            event::Type::Offers
        }
        SchedulerEvent::Rescind(offer_id) => {
            wire.rescind = Some(event::Rescind { offer_id: (&offer_id).into() });
            event::Type::Rescind
        }
        SchedulerEvent::Update(status) => {
            wire.update = Some(event::Update { status: (&status).into() });
            event::Type::Update
        }
        SchedulerEvent::Message { agent_id, executor_id, data } => {
            wire.message = Some(event::Message {
                agent_id: (&agent_id).into(),
                executor_id: (&executor_id).into(),
                data: data.into(),
            });
            event::Type::Message
        }
        SchedulerEvent::Failure { agent_id, executor_id, status } => {
            wire.failure = Some(event::Failure {
                agent_id: Some((&agent_id).into()),
                executor_id: executor_id.as_ref().map(Into::into),
                status,
            });
            event::Type::Failure
        }
        SchedulerEvent::Error(message) => {
            wire.error = Some(event::Error { message });
            event::Type::Error
        }
    };
    wire.r#type = Some(kind.into());
    wire
}

impl Identity {
    pub(crate) fn to_agent(&self, command: AgentCommand) -> MasterMessage {
        let message = match command {
            AgentCommand::Registered { agent_id } => Message::Registered(link::Registered {
                agent_id: (&agent_id).into(),
                master_info: self.master_info(),
                ping_interval_seconds: self.ping_interval.as_secs_f64(),
                max_missed_pings: self.max_missed_pings,
            }),
            AgentCommand::Refused { reason } => Message::Refused(link::Refused { reason }),
            AgentCommand::TryLater { reason } => Message::TryLater(link::TryLater { reason }),
            AgentCommand::Launch { framework, task } => {
                // A launch names a framework that has its id; the empty one would be refused by the agent.
                let framework_id = framework.id.clone().unwrap_or_else(|| "".into());
                let role = framework.roles.first().map_or(DEFAULT_ROLE, String::as_str);
                Message::LaunchTask(link::LaunchTask {
                    task_info: task_to_wire(&task, &framework_id, role),
                    framework_info: (&*framework).into(),
                })
            }
            AgentCommand::Kill { framework_id, task_id, grace } => Message::KillTask(link::KillTask {
                framework_id: (&framework_id).into(),
                task_id: (&task_id).into(),
                kill_policy: grace.map(|grace| v1::KillPolicy { grace_period: Some(duration(grace)) }),
            }),
            AgentCommand::Acknowledge { framework_id, task_id, uuid } => {
                Message::AcknowledgeStatus(link::AcknowledgeStatus {
                    framework_id: (&framework_id).into(),
                    task_id: (&task_id).into(),
                    uuid: uuid.0.to_vec().into(),
                })
            }
            AgentCommand::ShutdownFramework { framework_id } => {
                Message::ShutdownFramework(link::ShutdownFramework { framework_id: (&framework_id).into() })
            }
            AgentCommand::ShutdownExecutor { framework_id, executor_id } => {
                Message::ShutdownExecutor(link::ShutdownExecutor {
                    framework_id: (&framework_id).into(),
                    executor_id: (&executor_id).into(),
                })
            }
            AgentCommand::Message { framework_id, executor_id, data } => {
                Message::FrameworkMessage(link::FrameworkMessage {
                    framework_id: (&framework_id).into(),
                    executor_id: (&executor_id).into(),
                    data: data.into(),
                })
            }
            AgentCommand::UpdateFramework { framework } => {
                Message::UpdateFramework(link::UpdateFramework { framework_info: (&*framework).into() })
            }
            AgentCommand::Ping { seq } => Message::Ping(link::Ping { seq }),
        };
        MasterMessage { message: Some(message) }
    }
}

fn duration(duration: Duration) -> v1::DurationInfo {
    v1::DurationInfo { nanoseconds: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX) }
}
