//! What a framework asks of its driver, as calls to the master.

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use bellows_client::CallError;
use bellows_wire::v1::scheduler::{Call, call};
use bellows_wire::v1::{
    AgentId, ExecutorId, Filters, FrameworkInfo, OfferId, Request, TaskId, TaskInfo, TaskState, TaskStatus,
    framework_info, offer, task_status,
};
use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Client, SchedulerDriver};
use crate::lifecycle::Status;

impl SchedulerDriver {
    pub(crate) fn launch_tasks(
        &self,
        offer_ids: Vec<OfferId>,
        tasks: Vec<TaskInfo>,
        filters: Filters,
    ) -> Status {
        let launch = offer::Operation {
            r#type: Some(offer::operation::Type::Launch.into()),
            launch: Some(offer::operation::Launch { task_infos: tasks }),
            ..offer::Operation::default()
        };
        self.accept_offers(offer_ids, vec![launch], filters)
    }

    /// A launch that certainly never reached the master is answered with an update, so that the framework does not
    /// wait for its tasks.
    pub(crate) fn accept_offers(
        &self,
        offer_ids: Vec<OfferId>,
        operations: Vec<offer::Operation>,
        filters: Filters,
    ) -> Status {
        let tasks: Vec<TaskId> = operations
            .iter()
            .filter_map(|operation| operation.launch.as_ref())
            .flat_map(|launch| launch.task_infos.iter().map(|task| task.task_id.clone()))
            .collect();
        let Some((Client { master, local }, runtime)) = self.reach() else { return self.status() };
        let state = self.lost_state();
        if !self.role.connected.load(Ordering::Acquire) {
            tell_lost(&local, tasks, state, "Master disconnected");
            return self.status();
        }
        let answer = master.submit(Call {
            r#type: Some(call::Type::Accept.into()),
            accept: Some(call::Accept { offer_ids, operations, filters: Some(filters) }),
            ..Call::default()
        });
        runtime.spawn(async move {
            match answer.await {
                Ok(()) => {}
                Err(error @ (CallError::NotConnected | CallError::Refused(_))) => {
                    tell_lost(&local, tasks, state, &error.to_string());
                }
                Err(error) => warn!(%error, "whether the offers were accepted is unknown"),
            }
        });
        self.status()
    }

    pub(crate) fn decline_offer(&self, offer_id: OfferId, filters: Filters) -> Status {
        self.send(Call {
            r#type: Some(call::Type::Decline.into()),
            decline: Some(call::Decline { offer_ids: vec![offer_id], filters: Some(filters) }),
            ..Call::default()
        })
    }

    /// No roles: all. Unheard revives are told at the next registration.
    pub(crate) fn revive_offers(&self, roles: Vec<String>) -> Status {
        if self.is_running() && !self.role.connected.load(Ordering::Acquire) {
            self.role.revive_wanted.store(true, Ordering::Release);
        }
        self.send_always(Call {
            r#type: Some(call::Type::Revive.into()),
            revive: (!roles.is_empty()).then_some(call::Revive { roles }),
            ..Call::default()
        })
    }

    /// No roles: all.
    pub(crate) fn suppress_offers(&self, roles: Vec<String>) -> Status {
        self.role.revive_wanted.store(false, Ordering::Release);
        self.send_always(Call {
            r#type: Some(call::Type::Suppress.into()),
            suppress: (!roles.is_empty()).then_some(call::Suppress { roles }),
            ..Call::default()
        })
    }

    pub(crate) fn kill_task(&self, task_id: TaskId) -> Status {
        self.send(Call {
            r#type: Some(call::Type::Kill.into()),
            kill: Some(call::Kill { task_id, ..call::Kill::default() }),
            ..Call::default()
        })
    }

    /// Nothing is sent for an update that wants no acknowledgement: one without a uuid.
    pub(crate) fn acknowledge(&self, status: TaskStatus) -> Status {
        match (status.agent_id, status.uuid.filter(|uuid| !uuid.is_empty())) {
            (Some(agent_id), Some(uuid)) => self.send(Call {
                r#type: Some(call::Type::Acknowledge.into()),
                acknowledge: Some(call::Acknowledge { agent_id, task_id: status.task_id, uuid }),
                ..Call::default()
            }),
            _ => self.status(),
        }
    }

    pub(crate) fn send_framework_message(
        &self,
        executor_id: ExecutorId,
        agent_id: AgentId,
        data: Bytes,
    ) -> Status {
        self.send(Call {
            r#type: Some(call::Type::Message.into()),
            message: Some(call::Message { agent_id, executor_id, data }),
            ..Call::default()
        })
    }

    /// No statuses: the master tells about every task it knows.
    pub(crate) fn reconcile_tasks(&self, statuses: Vec<TaskStatus>) -> Status {
        let tasks = statuses
            .into_iter()
            .map(|status| call::reconcile::Task { task_id: status.task_id, agent_id: status.agent_id })
            .collect();
        self.send(Call {
            r#type: Some(call::Type::Reconcile.into()),
            reconcile: Some(call::Reconcile { tasks }),
            ..Call::default()
        })
    }

    pub(crate) fn request_resources(&self, requests: Vec<Request>) -> Status {
        self.send(Call {
            r#type: Some(call::Type::Request.into()),
            request: Some(call::Request { requests }),
            ..Call::default()
        })
    }

    pub(crate) fn update_framework(&self, framework: FrameworkInfo, suppressed_roles: Vec<String>) -> Status {
        self.send_always(Call {
            r#type: Some(call::Type::UpdateFramework.into()),
            update_framework: Some(call::UpdateFramework {
                framework_info: framework,
                suppressed_roles,
                ..call::UpdateFramework::default()
            }),
            ..Call::default()
        })
    }

    /// Drops the call while disconnected, as Mesos does: a framework reconciles after it has registered again.
    fn send(&self, call: Call) -> Status {
        if self.role.connected.load(Ordering::Acquire) {
            return self.send_always(call);
        }
        debug!(call = call.r#type().as_str_name(), "dropped: not connected to a master");
        self.status()
    }

    /// For calls whose effect the client repeats with its next subscription.
    fn send_always(&self, call: Call) -> Status {
        if let Some((client, _)) = self.reach()
            && client.master.post(call).is_err()
        {
            debug!("dropped: the client has stopped");
        }
        self.status()
    }

    fn lost_state(&self) -> TaskState {
        let partition_aware = framework_info::capability::Type::PartitionAware;
        let aware = self.role.settings.framework.capabilities.iter().any(|c| c.r#type() == partition_aware);
        if aware { TaskState::TaskDropped } else { TaskState::TaskLost }
    }
}

/// Made up by the driver, in the master's name; without a uuid, as nobody waits for an acknowledgement.
fn tell_lost(local: &mpsc::Sender<TaskStatus>, tasks: Vec<TaskId>, state: TaskState, message: &str) {
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    for task_id in tasks {
        let status = TaskStatus {
            task_id,
            state: state.into(),
            message: Some(message.to_owned()),
            source: Some(task_status::Source::Master.into()),
            reason: Some(task_status::Reason::MasterDisconnected.into()),
            timestamp: Some(timestamp),
            ..TaskStatus::default()
        };
        if let Err(error) = local.try_send(status) {
            warn!(%error, "an update about a task that was not launched is lost; reconcile");
        }
    }
}
