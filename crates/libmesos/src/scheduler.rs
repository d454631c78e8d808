//! What Mesos' scheduler driver does between a framework's calls and its callbacks: what is sent while connected and
//! what becomes of it otherwise, what is acknowledged, how the framework ends. It knows nothing of Java.

mod calls;

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bellows_client::{Credential, OperatorClient, SchedulerClient, SchedulerEvent, SchedulerOptions};
use bellows_election::{Leader, MasterAddress, detect};
use bellows_wire::v1::scheduler::{Call, Event, call, event};
use bellows_wire::v1::{
    AgentId, ExecutorId, FrameworkId, FrameworkInfo, MasterInfo, Offer, OfferId, TaskStatus,
};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::driver::{CallbackFailed, Driver, Role};
use crate::lifecycle::Status;

/// Updates that the driver itself makes up; more than this in one callback is beyond any framework.
const LOCAL_CAPACITY: usize = 4096;

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
        }
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
        let events = Events { master: events, local: local_events, registered: false, leader: None };
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
        callback: &mut impl FnMut(Callback) -> Result<(), CallbackFailed>,
    ) -> Result<(), CallbackFailed> {
        match event {
            Heard::Local(status) => callback(Callback::StatusUpdate(status)),
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
                driver.abort();
                callback(Callback::Error(message))?;
                Err(CallbackFailed)
            }
        }
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
        callback: &mut impl FnMut(Callback) -> Result<(), CallbackFailed>,
    ) -> Result<(), CallbackFailed> {
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
                // As Mesos: also who fails over, with an id from an earlier process, is registered first.
                if std::mem::replace(&mut events.registered, true) {
                    callback(Callback::Reregistered(master))
                } else {
                    callback(Callback::Registered(subscribed.framework_id, master))
                }
            }
            event::Type::Offers => match event.offers.map(|offers| offers.offers) {
                Some(offers) if !offers.is_empty() => callback(Callback::ResourceOffers(offers)),
                _ => Ok(()),
            },
            event::Type::Rescind => with(event.rescind, |r| callback(Callback::OfferRescinded(r.offer_id))),
            event::Type::Update => with(event.update, |update| {
                let status = update.status;
                callback(Callback::StatusUpdate(Box::new(status.clone())))?;
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
                    (Some(agent_id), None) => callback(Callback::AgentLost(agent_id)),
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

fn with<T>(
    part: Option<T>,
    then: impl FnOnce(T) -> Result<(), CallbackFailed>,
) -> Result<(), CallbackFailed> {
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
