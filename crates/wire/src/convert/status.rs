//! Task states and status updates.

use super::{ConvertError, field, labels_from_wire, labels_to_wire, optional};
use crate::v1::{
    self,
    network_info::IpAddress,
    task_status::{Reason as WireReason, Source as WireSource},
};
use bellows_model::{ContainerStatus, Reason, Source, StatusUuid, TaskState, TaskStatus, clipped, limits};

/// Both directions of two enums from one list, so that the compiler sees a variant of the model that is left out.
macro_rules! enums {
    ($($wire:ident <=> $model:ident, $read:ident: { $($from:ident = $to:ident),* $(,)? })*) => {$(
        fn $read(wire: $wire) -> Option<$model> {
            $(if wire == $wire::$from { return Some($model::$to); })*
            None
        }

        impl From<$model> for $wire {
            fn from(model: $model) -> Self {
                match model {
                    $($model::$to => Self::$from),*
                }
            }
        }
    )*};
}

use v1::TaskState as WireState;

enums! {
    WireState <=> TaskState, state_from_wire: {
        TaskStaging = Staging,
        TaskStarting = Starting,
        TaskRunning = Running,
        TaskKilling = Killing,
        TaskFinished = Finished,
        TaskFailed = Failed,
        TaskKilled = Killed,
        TaskError = Error,
        TaskLost = Lost,
        TaskDropped = Dropped,
        TaskUnreachable = Unreachable,
        TaskGone = Gone,
        TaskGoneByOperator = GoneByOperator,
        TaskUnknown = Unknown,
    }
    WireSource <=> Source, source_from_wire: {
        Master = Master,
        Agent = Agent,
        Executor = Executor,
    }
    WireReason <=> Reason, reason_from_wire: {
        CommandExecutorFailed = CommandExecutorFailed,
        ContainerLaunchFailed = ContainerLaunchFailed,
        ContainerLimitationDisk = ContainerLimitationDisk,
        ContainerLimitationMemory = ContainerLimitationMemory,
        ExecutorTerminated = ExecutorTerminated,
        ExecutorUnregistered = ExecutorUnregistered,
        FrameworkRemoved = FrameworkRemoved,
        InvalidFrameworkid = InvalidFrameworkId,
        InvalidOffers = InvalidOffers,
        MasterDisconnected = MasterDisconnected,
        Reconciliation = Reconciliation,
        ResourcesUnknown = ResourcesUnknown,
        AgentDisconnected = AgentDisconnected,
        AgentRemoved = AgentRemoved,
        AgentRemovedByOperator = AgentRemovedByOperator,
        AgentReregistered = AgentReregistered,
        AgentRestarted = AgentRestarted,
        AgentUnknown = AgentUnknown,
        TaskInvalid = TaskInvalid,
        TaskKilledDuringLaunch = TaskKilledDuringLaunch,
        TaskUnauthorized = TaskUnauthorized,
        TaskUnknown = TaskUnknown,
    }
}

impl From<v1::TaskState> for TaskState {
    fn from(state: v1::TaskState) -> Self {
        state_from_wire(state).expect("invariant: the model has every state of the wire, see the test")
    }
}

/// `source` is the executor when absent; reasons that the model does not know are dropped, the message stays.
/// What only explains is clipped or dropped where it is too long: a status that is refused would come again for ever, and
/// the framework would never hear of its task's end.
impl TryFrom<v1::TaskStatus> for TaskStatus {
    type Error = ConvertError;

    fn try_from(status: v1::TaskStatus) -> Result<Self, ConvertError> {
        let state =
            v1::TaskState::try_from(status.state).map_err(|error| ConvertError::invalid("state", error))?;
        let timestamp = status.timestamp();
        if !timestamp.is_finite() {
            return Err(ConvertError::invalid("timestamp", "it is not finite"));
        }
        let source = status.source.and_then(|source| WireSource::try_from(source).ok());
        let reason = status.reason.and_then(|reason| WireReason::try_from(reason).ok());
        Ok(Self {
            task_id: field("task_id", status.task_id)?,
            state: state.into(),
            source: source.and_then(source_from_wire).unwrap_or(Source::Executor),
            reason: reason.and_then(reason_from_wire),
            message: status.message.map(|text| clipped(&text, limits::STATUS_MESSAGE).to_owned()),
            agent_id: optional("agent_id", status.agent_id)?,
            executor_id: optional("executor_id", status.executor_id)?,
            timestamp,
            uuid: status
                .uuid
                .filter(|uuid| !uuid.is_empty())
                .map(|uuid| uuid_from_wire(&uuid))
                .transpose()?,
            container: container_from_wire(status.container_status)?,
            data: status.data.map(Into::into),
            healthy: status.healthy,
            labels: labels_from_wire(status.labels).unwrap_or_default(),
        })
    }
}

/// Reads the `uuid` of an update or of its acknowledgement.
pub fn uuid_from_wire(uuid: &[u8]) -> Result<StatusUuid, ConvertError> {
    let bytes = uuid.try_into().map_err(|_| ConvertError::invalid("uuid", "it is not 16 bytes long"))?;
    Ok(StatusUuid(bytes))
}

fn container_from_wire(status: Option<v1::ContainerStatus>) -> Result<Option<ContainerStatus>, ConvertError> {
    // Without an id it says nothing that is kept.
    let Some((status, id)) = status.and_then(|mut status| {
        let id = status.container_id.take()?;
        Some((status, id))
    }) else {
        return Ok(None);
    };
    let addresses = status.network_infos.into_iter().flat_map(|network| network.ip_addresses);
    Ok(Some(ContainerStatus {
        container_id: field("container_status.container_id", id)?,
        executor_pid: status.executor_pid,
        ip_address: addresses
            .filter_map(|address| address.ip_address)
            .next()
            .filter(|address| address.len() <= limits::NAME),
    }))
}

impl From<&TaskStatus> for v1::TaskStatus {
    fn from(status: &TaskStatus) -> Self {
        Self {
            task_id: (&status.task_id).into(),
            state: WireState::from(status.state).into(),
            message: status.message.clone(),
            source: Some(WireSource::from(status.source).into()),
            reason: status.reason.map(|reason| WireReason::from(reason).into()),
            data: status.data.clone().map(Into::into),
            agent_id: status.agent_id.as_ref().map(Into::into),
            executor_id: status.executor_id.as_ref().map(Into::into),
            timestamp: Some(status.timestamp),
            uuid: status.uuid.map(|uuid| uuid.0.to_vec().into()),
            healthy: status.healthy,
            labels: labels_to_wire(&status.labels),
            container_status: status.container.as_ref().map(Into::into),
            ..Default::default()
        }
    }
}

impl From<&ContainerStatus> for v1::ContainerStatus {
    fn from(status: &ContainerStatus) -> Self {
        let network = |address: &String| v1::NetworkInfo {
            ip_addresses: vec![IpAddress { ip_address: Some(address.clone()), ..Default::default() }],
            ..Default::default()
        };
        Self {
            container_id: Some((&status.container_id).into()),
            network_infos: status.ip_address.iter().map(network).collect(),
            executor_pid: status.executor_pid,
            ..Default::default()
        }
    }
}
