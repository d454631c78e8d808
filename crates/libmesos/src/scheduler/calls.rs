//! What a framework asks of its driver, as calls to the master.

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use bellows_client::{CallError, Refusal};
use bellows_wire::text::clipped;
use bellows_wire::v1::scheduler::{Call, call};
use bellows_wire::v1::{
    AgentId, ExecutorId, Filters, FrameworkInfo, OfferId, Request, TaskId, TaskInfo, TaskState, TaskStatus,
    framework_info, offer,
    task_status::{self, Reason},
};
use bytes::Bytes;
use http::StatusCode;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Client, SchedulerDriver};
use crate::lifecycle::Status;

/// Whatever a master, or something in between, answers.
const MAX_MESSAGE_BYTES: usize = 1_024;

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

    /// A launch that certainly came to nothing is answered with updates, so that the framework does not wait for its
    /// tasks. Of one whose answer was lost the next subscription asks.
    pub(crate) fn accept_offers(
        &self,
        offer_ids: Vec<OfferId>,
        operations: Vec<offer::Operation>,
        filters: Filters,
    ) -> Status {
        let tasks: Vec<_> = operations.iter().flat_map(launched_by).collect();
        let Some((Client { master, local }, runtime)) = self.reach() else { return self.status() };
        let lost = self.lost_state();
        // Before the call: an update may come before its answer.
        self.role.launches().launched(&tasks);
        if !self.role.connected.load(Ordering::Acquire) {
            let error = CallError::NotConnected;
            runtime.spawn(tell_of(local, tasks, (lost, Reason::MasterDisconnected), error));
            return self.status();
        }
        let accept = call::Accept { offer_ids: offer_ids.clone(), operations, filters: Some(filters) };
        let answer = master.submit(Call {
            r#type: Some(call::Type::Accept.into()),
            accept: Some(accept),
            ..Call::default()
        });
        runtime.spawn(async move {
            let Err(error) = answer.await else { return };
            let Some(verdict) = verdict(&error, lost) else {
                return warn!(%error, "whether the offers were accepted is unknown until the master is asked");
            };
            tell_of(local, tasks, verdict, error).await;
            // The program has done with the offers, and the master goes on holding them for it.
            if verdict.0 == TaskState::TaskError
                && let Err(error) = master.call(decline(offer_ids, filters)).await
            {
                warn!(%error, "the offers could not be given back");
            }
        });
        self.status()
    }

    pub(crate) fn decline_offer(&self, offer_id: OfferId, filters: Filters) -> Status {
        self.send(decline(vec![offer_id], filters))
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
            // With its agent, so that the answer about a task that is gone names one.
            kill: Some(call::Kill {
                agent_id: self.role.launches().agent_of(&task_id).cloned(),
                task_id,
                ..call::Kill::default()
            }),
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

fn decline(offer_ids: Vec<OfferId>, filters: Filters) -> Call {
    Call {
        r#type: Some(call::Type::Decline.into()),
        decline: Some(call::Decline { offer_ids, filters: Some(filters) }),
        ..Call::default()
    }
}

/// The tasks that an operation launches, with their agents.
fn launched_by(operation: &offer::Operation) -> impl Iterator<Item = (TaskId, AgentId)> {
    let launched = operation.launch.iter().flat_map(|launch| &launch.task_infos);
    let grouped = operation.launch_group.iter().flat_map(|group| &group.task_group.tasks);
    launched.chain(grouped).map(|task| (task.task_id.clone(), task.agent_id.clone()))
}

/// Decides what becomes of the tasks of a failed ACCEPT. `None`: it may have been carried out.
fn verdict(error: &CallError, lost: TaskState) -> Option<(TaskState, Reason)> {
    match error {
        CallError::NotConnected => Some((lost, Reason::MasterDisconnected)),
        CallError::Refused(refusal) if refusal.status.is_server_error() => None,
        CallError::Refused(refusal) if refusal.is_temporary() || names_no_session(&refusal.message) => {
            Some((lost, Reason::MasterDisconnected))
        }
        CallError::Refused(Refusal { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. }) => {
            Some((TaskState::TaskError, Reason::TaskUnauthorized))
        }
        CallError::Refused(_) => Some((TaskState::TaskError, Reason::TaskInvalid)),
        CallError::Connection { .. } | CallError::Protocol { .. } | CallError::Stopped => None,
    }
}

/// Mesos' words for a call whose subscription has just ended or been replaced: nothing is wrong with its tasks.
fn names_no_session(message: &str) -> bool {
    ["Framework is not subscribed", "Framework cannot be found", "didn't match the stream ID"]
        .iter()
        .any(|words| message.contains(words))
}

/// Makes up updates in the master's name; without a uuid, as nobody waits for an acknowledgement.
async fn tell_of(
    local: mpsc::Sender<TaskStatus>,
    tasks: Vec<(TaskId, AgentId)>,
    (state, reason): (TaskState, Reason),
    error: CallError,
) {
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let message = match error {
        CallError::NotConnected => "Master disconnected".to_owned(),
        error => {
            clipped(&format!("The master did not take the launch: {error}"), MAX_MESSAGE_BYTES).to_owned()
        }
    };
    for (task_id, agent_id) in tasks {
        let status = TaskStatus {
            task_id,
            state: state.into(),
            agent_id: Some(agent_id),
            message: Some(message.clone()),
            source: Some(task_status::Source::Master.into()),
            reason: Some(reason.into()),
            timestamp: Some(timestamp),
            ..TaskStatus::default()
        };
        if local.send(status).await.is_err() {
            // The driver has ended: nobody waits.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_an_accept_that_failed_may_have_been_carried_out() {
        let lost = TaskState::TaskLost;
        let refused = |status: u16, message: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            let refusal = Refusal { status, message: message.to_owned() };
            verdict(&CallError::Refused(refusal), lost).map(|(state, reason)| (state.as_str_name(), reason))
        };
        let disconnected = Some(("TASK_LOST", Reason::MasterDisconnected));
        let invalid = Some(("TASK_ERROR", Reason::TaskInvalid));
        assert_eq!(refused(400, "Failed to validate scheduler::Call"), invalid);
        assert_eq!(refused(413, "The body is longer than 10 bytes"), invalid);
        assert_eq!(refused(403, "the policy says no"), Some(("TASK_ERROR", Reason::TaskUnauthorized)));
        assert_eq!(refused(403, "Framework is not subscribed"), disconnected);
        assert_eq!(refused(400, "Framework cannot be found"), disconnected);
        assert_eq!(
            refused(400, "The stream ID 'a' included in this request didn't match the stream ID"),
            disconnected
        );
        assert_eq!(refused(307, ""), disconnected, "a follower does nothing");
        assert_eq!(refused(503, "This master is stopping"), None, "it may have been about to");
        let broken = CallError::Connection { authority: "m:5050".to_owned(), reason: "closed".to_owned() };
        assert_eq!(verdict(&broken, lost), None);
    }
}
