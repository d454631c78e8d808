//! What Mesos' scheduler driver does between a framework's calls and its callbacks: what is sent while connected and
//! what becomes of it otherwise, what is acknowledged, how the framework ends. It knows nothing of Java.

mod calls;
mod failures;
mod launches;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bellows_client::{Credential, OperatorClient, SchedulerClient, SchedulerEvent, SchedulerOptions};
use bellows_election::{Backoff, Leader, MasterAddress, detect};
use bellows_wire::text::one_line;
use bellows_wire::v1::scheduler::{Call, Event, call, event};
use bellows_wire::v1::{
    AgentId, ExecutorId, FrameworkId, FrameworkInfo, MasterInfo, Offer, OfferId, TaskId, TaskState,
    TaskStatus,
    task_status::{self, Reason},
};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::driver::{Driver, Over, Role};
use crate::lifecycle::Status;
use failures::{Failures, is_failure};
use launches::{Launches, News};

/// Updates that the driver itself makes up; further ones wait with the tasks that they are about.
const LOCAL_CAPACITY: usize = 256;
/// When the master is asked again about a task that it says nothing of: its agent may be on its way back.
const FIRST_RECONCILE: Duration = Duration::from_secs(5);
const LAST_RECONCILE: Duration = Duration::from_secs(60);
/// How long agents may take to come back to another master. Before, it would take their tasks for lost.
const AGENTS_RETURN: Duration = Duration::from_secs(10);
const RECONCILED_AT_ONCE: usize = 1_000;
const NOTHING_LEFT: &str = "no agent is left that Spark would use: unless another one offers resources, jobs wait for \
                            ever. What the tasks failed of is said above";

/// One method of `org.apache.mesos.Scheduler`, with its arguments.
#[derive(Debug)]
pub(crate) enum Callback {
    Registered(FrameworkId, MasterInfo),
    Reregistered(MasterInfo),
    Disconnected,
    ResourceOffers(Vec<Offer>),
    OfferRescinded(OfferId),
    StatusUpdate(Box<TaskStatus>),
    FrameworkMessage(ExecutorId, AgentId, Bytes),
    AgentLost(AgentId),
    ExecutorLost(ExecutorId, AgentId, i32),
    Error(String),
}

pub(crate) struct Settings {
    pub(crate) master: String,
    pub(crate) framework: FrameworkInfo,
    pub(crate) suppressed_roles: Vec<String>,
    pub(crate) credential: Option<Credential>,
    pub(crate) implicit_acknowledgements: bool,
    pub(crate) backend: Backend,
}

/// Whose scheduler it is, which tells what it will do without saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Spark's coarse-grained one: it uses no agent again on which two of its tasks have failed.
    CoarseGrained,
    /// Spark's fine-grained one: a task that was refused is launched again on the next offer, without end.
    FineGrained,
    Other,
}

pub(crate) type SchedulerDriver = Driver<Scheduler>;

pub(crate) struct Scheduler {
    settings: Settings,
    /// Registered with a master, as far as callbacks have told.
    connected: AtomicBool,
    /// A revive that no master has heard yet.
    revive_wanted: AtomicBool,
    // What an aborted driver needs to end its framework.
    leader: OnceLock<watch::Receiver<Option<Leader>>>,
    framework_id: OnceLock<FrameworkId>,
    /// The program's first callback has returned.
    registered: AtomicBool,
    launches: Arc<Mutex<Launches>>,
}

/// The way to the master, and to the framework for what the driver itself says in the master's name.
#[derive(Clone)]
pub(crate) struct Client {
    master: SchedulerClient,
    local: mpsc::Sender<TaskStatus>,
}

pub(crate) struct Events {
    master: mpsc::Receiver<SchedulerEvent>,
    local: mpsc::Receiver<TaskStatus>,
    registered: bool,
    leader: Option<Leader>,
    failures: Failures,
}

pub(crate) enum Heard {
    Master(SchedulerEvent),
    Local(Box<TaskStatus>),
}

impl Scheduler {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            connected: AtomicBool::new(false),
            revive_wanted: AtomicBool::new(false),
            leader: OnceLock::new(),
            framework_id: OnceLock::new(),
            registered: AtomicBool::new(false),
            launches: Arc::default(),
        }
    }

    pub(crate) fn has_registered(&self) -> bool {
        self.registered.load(Ordering::Acquire)
    }

    fn launches(&self) -> MutexGuard<'_, Launches> {
        self.launches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Role for Scheduler {
    const THREAD: &'static str = "mesos-scheduler";
    type Client = Client;
    type Event = Heard;
    type Events = Events;
    type Callback = Callback;

    fn connect(&self) -> Result<(Client, Events), String> {
        let master = &self.settings.master;
        let address = MasterAddress::parse(master)
            .map_err(|error| format!("Failed to create a master detector for '{master}': {error}"))?;
        let options = SchedulerOptions {
            framework: self.settings.framework.clone(),
            suppressed_roles: self.settings.suppressed_roles.clone(),
            offer_constraints: None,
            credential: self.settings.credential.clone(),
        };
        let leader = self.leader.get_or_init(|| detect(&address)).clone();
        let (master, events) = SchedulerClient::start(leader, options);
        let (local, local_events) = mpsc::channel(LOCAL_CAPACITY);
        let events = Events {
            master: events,
            local: local_events,
            registered: false,
            leader: None,
            failures: Failures::default(),
        };
        Ok((Client { master, local }, events))
    }

    async fn flush(client: &Client) {
        client.master.flush().await;
    }

    async fn next(events: &mut Events) -> Option<Heard> {
        tokio::select! {
            biased;
            Some(status) = events.local.recv() => Some(Heard::Local(Box::new(status))),
            event = events.master.recv() => event.map(Heard::Master),
        }
    }

    fn heard(
        driver: &SchedulerDriver,
        events: &mut Events,
        event: Heard,
        callback: &mut impl FnMut(Callback) -> Result<(), Over>,
    ) -> Result<(), Over> {
        match event {
            Heard::Local(status) => driver.updated(*status, true, events, callback),
            Heard::Master(SchedulerEvent::Connected(leader)) => {
                events.leader = Some(leader);
                Ok(())
            }
            Heard::Master(SchedulerEvent::Disconnected { .. }) => {
                driver.role.connected.store(false, Ordering::Release);
                callback(Callback::Disconnected)
            }
            Heard::Master(SchedulerEvent::Received(event)) => driver.received(*event, events, callback),
            Heard::Master(SchedulerEvent::Fatal(message)) => {
                // The framework is gone, or another instance's: its end is nothing to ask for.
                driver.role.connected.store(false, Ordering::Release);
                Err(Over::because(message))
            }
        }
    }

    fn error(reason: String) -> Callback {
        Callback::Error(reason)
    }
}

impl SchedulerDriver {
    /// Ends the connection; without `failover` the master is told to end the framework and its tasks. Returns
    /// when the master has heard it, or cannot.
    pub(crate) fn stop(&self, failover: bool) -> Status {
        self.stop_after(|client| {
            info!(failover, "stopping the framework");
            let ends = self.role.connected.load(Ordering::Acquire) && !failover;
            let known = self.role.framework_id.get().cloned().zip(self.role.leader.get().cloned());
            let credential = self.role.settings.credential.clone();
            async move {
                let result = match (client, known.filter(|_| ends)) {
                    (Some(client), Some(_)) => {
                        let teardown = Some(call::Type::Teardown.into());
                        client.master.call(Call { r#type: teardown, ..Call::default() }).await
                    }
                    (Some(client), None) => {
                        client.master.flush().await;
                        Ok(())
                    }
                    // Aborted before: there is no subscription to say it on.
                    (None, Some((framework_id, leader))) => {
                        OperatorClient::new(leader, credential.as_ref()).teardown(&framework_id).await
                    }
                    (None, None) => Ok(()),
                };
                if let Err(error) = result {
                    warn!(%error, "the master did not take the framework's end");
                }
            }
        })
    }

    pub(crate) fn implicit_acknowledgements(&self) -> bool {
        self.role.settings.implicit_acknowledgements
    }

    fn received(
        &self,
        event: Event,
        events: &mut Events,
        callback: &mut impl FnMut(Callback) -> Result<(), Over>,
    ) -> Result<(), Over> {
        match event.r#type() {
            event::Type::Subscribed => {
                let Some(subscribed) = event.subscribed else { return Ok(()) };
                self.role.framework_id.get_or_init(|| subscribed.framework_id.clone());
                self.role.connected.store(true, Ordering::Release);
                if self.role.revive_wanted.swap(false, Ordering::AcqRel) {
                    self.revive_offers(Vec::new());
                }
                let master = subscribed.master_info.or_else(|| events.leader.as_ref().map(master_info));
                let master = master.unwrap_or_default();
                self.reconcile_unheard(&master.id);
                // As Mesos: also who fails over, with an id from an earlier process, is registered first.
                if std::mem::replace(&mut events.registered, true) {
                    callback(Callback::Reregistered(master))
                } else {
                    callback(Callback::Registered(subscribed.framework_id, master))?;
                    self.role.registered.store(true, Ordering::Release);
                    Ok(())
                }
            }
            event::Type::Offers => match event.offers.map(|offers| offers.offers) {
                Some(offers) if !offers.is_empty() => {
                    if self.role.settings.backend == Backend::CoarseGrained {
                        events.failures.offered(&offers);
                    }
                    callback(Callback::ResourceOffers(offers))
                }
                _ => Ok(()),
            },
            event::Type::Rescind => with(event.rescind, |r| callback(Callback::OfferRescinded(r.offer_id))),
            event::Type::Update => with(event.update, |update| {
                let status = update.status;
                self.updated(status.clone(), false, events, callback)?;
                if self.implicit_acknowledgements() && self.is_running() {
                    self.acknowledge(status);
                }
                Ok(())
            }),
            event::Type::Message => with(event.message, |message| {
                callback(Callback::FrameworkMessage(message.executor_id, message.agent_id, message.data))
            }),
            event::Type::Failure => {
                with(event.failure, |failure| match (failure.agent_id, failure.executor_id) {
                    (Some(agent_id), Some(executor_id)) => callback(Callback::ExecutorLost(
                        executor_id,
                        agent_id,
                        failure.status.unwrap_or_default(),
                    )),
                    (Some(agent_id), None) => {
                        if events.failures.lost(&agent_id) {
                            warn!("{NOTHING_LEFT}");
                        }
                        callback(Callback::AgentLost(agent_id))
                    }
                    (None, _) => Ok(()),
                })
            }
            // The Java API has no callback for these; heartbeats and errors are the client's.
            event::Type::InverseOffers
            | event::Type::RescindInverseOffer
            | event::Type::UpdateOperationStatus
            | event::Type::Heartbeat
            | event::Type::Error
            | event::Type::Unknown => Ok(()),
        }
    }
}

impl SchedulerDriver {
    /// Tells the program of an update, and the log of a task that failed: Spark's own says the state alone.
    fn updated(
        &self,
        mut status: TaskStatus,
        made_up: bool,
        events: &mut Events,
        callback: &mut impl FnMut(Callback) -> Result<(), Over>,
    ) -> Result<(), Over> {
        let news = self.role.launches().heard(&mut status, made_up);
        let News::Told { first } = news else { return Ok(()) };
        let failed = is_failure(status.state());
        if failed && first {
            log_failure(&status, &events.failures);
        }
        let given_up = status.agent_id.as_ref().filter(|_| failed);
        let given_up = given_up.and_then(|agent_id| events.failures.failed(agent_id));
        let hopeless = hopeless(self.role.settings.backend, &status);
        callback(Callback::StatusUpdate(Box::new(status)))?;
        if let Some(reason) = hopeless {
            return Err(Over::because(reason));
        }
        if let Some(agent) = given_up {
            let hostname = one_line(&agent.hostname);
            warn!(%hostname, "two tasks have failed on this agent: Spark will launch nothing there any more");
            if agent.left == 0 {
                warn!("{NOTHING_LEFT}");
            }
        }
        Ok(())
    }

    /// Asks the master about the tasks that no agent has spoken of: their ACCEPT, or the master that took it, may have
    /// been lost before their agent heard of them.
    fn reconcile_unheard(&self, master: &str) {
        let (subscription, elsewhere) = self.role.launches().subscribed(master);
        let launches = Arc::clone(&self.role.launches);
        if let Some((client, runtime)) = self.reach()
            && !awaited(&launches, subscription).is_empty()
        {
            let delay = if elsewhere { AGENTS_RETURN } else { Duration::ZERO };
            runtime.spawn(reconcile(client.master, launches, subscription, delay));
        }
    }
}

/// Asks until something was heard of each task, or another subscription began.
async fn reconcile(
    master: SchedulerClient,
    launches: Arc<Mutex<Launches>>,
    subscription: u64,
    delay: Duration,
) {
    let mut backoff = Backoff::new(FIRST_RECONCILE, LAST_RECONCILE);
    tokio::time::sleep(delay).await;
    loop {
        let tasks = awaited(&launches, subscription);
        if tasks.is_empty() {
            return;
        }
        warn!(tasks = tasks.len(), "asking the master about tasks that nothing was heard of");
        for tasks in tasks.chunks(RECONCILED_AT_ONCE) {
            let task = |(task_id, agent_id): &(TaskId, AgentId)| call::reconcile::Task {
                task_id: task_id.clone(),
                agent_id: Some(agent_id.clone()),
            };
            let call = Call {
                r#type: Some(call::Type::Reconcile.into()),
                reconcile: Some(call::Reconcile { tasks: tasks.iter().map(task).collect() }),
                ..Call::default()
            };
            if let Err(error) = master.call(call).await {
                warn!(%error, "the master could not be asked");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn awaited(launches: &Mutex<Launches>, subscription: u64) -> Vec<(TaskId, AgentId)> {
    launches.lock().unwrap_or_else(PoisonError::into_inner).awaited(subscription)
}

/// Why the program must not go on: all its tasks are alike, and one is nothing that the cluster could run.
fn hopeless(backend: Backend, status: &TaskStatus) -> Option<String> {
    let invalid = status.state() == TaskState::TaskError && status.reason() == Reason::TaskInvalid;
    (backend == Backend::FineGrained && invalid).then(|| {
        format!(
            "Spark's fine-grained mode (spark.mesos.coarse=false) does not work on this cluster, leave the setting out: {}",
            status.message()
        )
    })
}

fn log_failure(status: &TaskStatus, failures: &Failures) {
    let agent_id = status.agent_id.as_ref();
    let agent = agent_id.and_then(|id| failures.hostname(id)).or(agent_id.map(|id| id.value.as_str()));
    let reason = status.reason.and_then(|reason| task_status::Reason::try_from(reason).ok());
    warn!(
        task = %one_line(&status.task_id.value),
        agent = %one_line(agent.unwrap_or("unknown")),
        state = status.state().as_str_name(),
        reason = reason.map_or("none", |reason| reason.as_str_name()),
        "a task has failed: {}",
        one_line(status.message())
    );
}

fn with<T>(part: Option<T>, then: impl FnOnce(T) -> Result<(), Over>) -> Result<(), Over> {
    part.map_or(Ok(()), then)
}

/// For masters that do not introduce themselves.
fn master_info(leader: &Leader) -> MasterInfo {
    let ip = match leader.ip {
        // Four bytes as they lie in memory on x86, as Mesos writes them.
        Some(IpAddr::V4(v4)) => u32::from_le_bytes(v4.octets()),
        _ => 0,
    };
    MasterInfo {
        id: leader.id.clone(),
        ip,
        port: leader.port.into(),
        hostname: Some(leader.hostname.clone()),
        ..MasterInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fine_grained_mode_ends_with_the_first_task_that_cannot_be() {
        let status = |state: TaskState, reason: Reason| TaskStatus {
            state: state.into(),
            reason: Some(reason.into()),
            message: Some("no executors of your own".to_owned()),
            ..TaskStatus::default()
        };
        let refused = status(TaskState::TaskError, Reason::TaskInvalid);
        let reason = hopeless(Backend::FineGrained, &refused).expect("a reason");
        assert!(reason.contains("spark.mesos.coarse=false") && reason.ends_with("no executors of your own"));
        assert_eq!(hopeless(Backend::CoarseGrained, &refused), None, "its tasks may differ");
        assert_eq!(hopeless(Backend::Other, &refused), None);
        for passing in [
            status(TaskState::TaskFailed, Reason::ContainerLaunchFailed),
            status(TaskState::TaskLost, Reason::InvalidOffers),
            status(TaskState::TaskError, Reason::TaskUnauthorized),
        ] {
            assert_eq!(hopeless(Backend::FineGrained, &passing), None, "{passing:?}");
        }
    }
}
