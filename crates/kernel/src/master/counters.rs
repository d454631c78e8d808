//! Monotone counts, of a master and of each of its frameworks, under the names of Mesos' metrics.
use super::{Call, SchedulerEvent, Step};
use bellows_model::{FrameworkId, Operation, Reason, Source, TaskState, TaskStatus};
use std::collections::BTreeMap;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Sums over all frameworks, also over those that are gone.
    pub of_frameworks: FrameworkCounters,
    pub tasks_launched: u64,
    /// Ends by who tells them, and why.
    pub task_ends: BTreeMap<(TaskState, Source, Option<Reason>), u64>,
    /// Of the SUBSCRIBE calls, those of frameworks that were known.
    pub frameworks_back: u64,
    pub executors_terminated: u64,
    pub agents_registered: u64,
    pub agents_reregistered: u64,
    pub agents_removed: BTreeMap<Removal, u64>,
    pub calls_refused: u64,
    /// Messages of agents that were not believed.
    pub messages_refused: u64,
    /// Agents' updates of tasks; of these, those that nobody waits for.
    pub status_updates: u64,
    pub stray_status_updates: u64,
    /// Frameworks' acknowledgements of updates that are known, and of others.
    pub acknowledgements: u64,
    pub stray_acknowledgements: u64,
    /// Messages between frameworks and executors that were passed on, and that had no receiver.
    pub messages_to_frameworks: u64,
    pub stray_messages_to_frameworks: u64,
    pub messages_to_executors: u64,
    pub stray_messages_to_executors: u64,
    /// How often resources were allocated.
    pub allocation_runs: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FrameworkCounters {
    /// By name, as `accept`.
    pub calls: BTreeMap<&'static str, u64>,
    /// By name, as `offers`.
    pub events: BTreeMap<&'static str, u64>,
    pub offers_sent: u64,
    pub offers_accepted: u64,
    pub offers_declined: u64,
    pub offers_rescinded: u64,
    /// The operations in its ACCEPT calls, and those of them that launch tasks.
    pub operations: u64,
    pub launches: u64,
    pub tasks_ended: BTreeMap<TaskState, u64>,
}

/// Why an agent is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// A new one is in its place.
    Registered,
    Unhealthy,
    Unregistered,
}

impl Step<'_> {
    /// Counts for the framework, if it is known, and for the sum of all.
    pub(super) fn count(&mut self, framework_id: &FrameworkId, count: impl Fn(&mut FrameworkCounters)) {
        count(&mut self.state.counters.of_frameworks);
        if let Some(framework) = self.state.frameworks.get_mut(framework_id) {
            count(&mut framework.counters);
        }
    }

    pub(super) fn count_end(&mut self, framework_id: &FrameworkId, state: TaskState) {
        self.count(framework_id, |counters| *counters.tasks_ended.entry(state).or_default() += 1);
    }

    /// Counts an end that the framework is told of.
    pub(super) fn count_told_end(&mut self, status: &TaskStatus) {
        let end = (status.state, status.source, status.reason);
        *self.state.counters.task_ends.entry(end).or_default() += 1;
    }

    pub(super) fn count_operations(&mut self, framework_id: &FrameworkId, operations: &[Operation]) {
        let launches = operations.iter().filter(|operation| matches!(operation, Operation::Launch(_)));
        let (all, launches) = (operations.len() as u64, launches.count() as u64);
        self.count(framework_id, |counters| {
            counters.operations += all;
            counters.launches += launches;
        });
    }
}

impl Call {
    /// The name in Mesos' metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Teardown => "teardown",
            Self::Accept { .. } => "accept",
            Self::Decline { .. } => "decline",
            Self::Revive { .. } => "revive",
            Self::Suppress { .. } => "suppress",
            Self::Kill { .. } => "kill",
            Self::Shutdown { .. } => "shutdown",
            Self::Acknowledge { .. } => "acknowledge",
            Self::Reconcile { .. } => "reconcile",
            Self::Message { .. } => "message",
            Self::UpdateFramework { .. } => "update_framework",
            Self::Request => "request",
        }
    }
}

impl SchedulerEvent {
    /// The name in Mesos' metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Subscribed { .. } => "subscribed",
            Self::Offers(_) => "offers",
            Self::Rescind(_) => "rescind",
            Self::Update(_) => "update",
            Self::Message { .. } => "message",
            Self::Failure { .. } => "failure",
            Self::Error(_) => "error",
        }
    }
}
