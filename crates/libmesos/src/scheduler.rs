//! What Mesos' scheduler driver does between a framework's calls and its callbacks: which state it is in, what is
//! sent while connected and what becomes of it otherwise, what is acknowledged. It knows nothing of Java.

mod calls;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bellows_client::{Credential, OperatorClient, SchedulerClient, SchedulerEvent, SchedulerOptions};
use bellows_election::{Leader, MasterAddress, detect};
use bellows_wire::v1::scheduler::{Call, Event, call, event};
use bellows_wire::v1::{
    AgentId, ExecutorId, FrameworkId, FrameworkInfo, MasterInfo, Offer, OfferId, TaskStatus,
};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::lifecycle::{Lifecycle, Status};
use crate::network::Network;

/// Updates that the driver itself makes up; more than this in one callback is beyond any framework.
const LOCAL_CAPACITY: usize = 4096;

/// What an abort may take on the master's account.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

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

/// The callback did not return normally; the driver must be aborted. What happened was told already.
#[derive(Debug)]
pub(crate) struct CallbackFailed;

pub(crate) struct Settings {
    pub(crate) master: String,
    pub(crate) framework: FrameworkInfo,
    pub(crate) suppressed_roles: Vec<String>,
    pub(crate) credential: Option<Credential>,
    pub(crate) implicit_acknowledgements: bool,
}

pub(crate) struct SchedulerDriver {
    settings: Settings,
    lifecycle: Lifecycle,
    /// Registered with a master, as far as callbacks have told.
    connected: AtomicBool,
    /// A revive that no master has heard yet.
    revive_wanted: AtomicBool,
    connection: Mutex<Option<Connection>>,
}

/// Exists from `start` to `stop`; without a client once aborted.
struct Connection {
    network: Network,
    client: Option<SchedulerClient>,
    leader: watch::Receiver<Option<Leader>>,
    local: mpsc::Sender<TaskStatus>,
    /// Dropped when nothing is left to be sent: until then the callbacks' thread keeps the subscription open.
    running: Option<watch::Sender<()>>,
}

/// What the thread for callbacks needs.
pub(crate) struct Work {
    driver: Arc<SchedulerDriver>,
    runtime: Handle,
    events: mpsc::Receiver<SchedulerEvent>,
    local: mpsc::Receiver<TaskStatus>,
    running: watch::Receiver<()>,
}

impl SchedulerDriver {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            lifecycle: Lifecycle::new(),
            connected: AtomicBool::new(false),
            revive_wanted: AtomicBool::new(false),
            connection: Mutex::new(None),
        }
    }

    /// Connects, and hands what the callbacks' thread has to do to `spawn`. An error has aborted the driver; its
    /// text is for the `error` callback.
    pub(crate) fn start(
        self: &Arc<Self>,
        spawn: impl FnOnce(Work) -> std::io::Result<()>,
    ) -> Result<Status, String> {
        self.lifecycle.start(|| {
            let master = &self.settings.master;
            let address = MasterAddress::parse(master)
                .map_err(|error| format!("Failed to create a master detector for '{master}': {error}"))?;
            let options = SchedulerOptions {
                framework: self.settings.framework.clone(),
                suppressed_roles: self.settings.suppressed_roles.clone(),
                offer_constraints: None,
                credential: self.settings.credential.clone(),
            };
            let start = move || {
                let leader = detect(&address);
                (leader.clone(), SchedulerClient::start(leader, options))
            };
            let failed = |error: std::io::Error| format!("cannot start a thread: {error}");
            let (network, (leader, (client, events))) =
                Network::start("mesos-scheduler", start).map_err(failed)?;
            let (local, local_receiver) = mpsc::channel(LOCAL_CAPACITY);
            let (running, running_receiver) = watch::channel(());
            let work = Work {
                driver: Arc::clone(self),
                runtime: network.handle.clone(),
                events,
                local: local_receiver,
                running: running_receiver,
            };
            *self.lock() =
                Some(Connection { network, client: Some(client), leader, local, running: Some(running) });
            spawn(work).map_err(failed)
        })
    }

    /// Ends the connection; without `failover` the master is told to end the framework and its tasks. Returns
    /// when the master has heard it, or cannot.
    pub(crate) fn stop(&self, failover: bool) -> Status {
        let (answer, _) = self.lifecycle.stop();
        let connection = if answer == Status::NotStarted { None } else { self.lock().take() };
        if let Some(connection) = connection {
            info!(failover, "stopping the framework");
            let ends = self.connected.load(Ordering::Acquire) && !failover;
            let teardown = if ends { self.framework_id(&connection) } else { None };
            if connection.close(teardown, self.settings.credential.clone()).join().is_err() {
                warn!("the network thread panicked");
            }
        }
        answer
    }

    /// Ends the callbacks and the subscription: the master sees the framework disconnected.
    pub(crate) fn abort(&self) -> Status {
        if self.lifecycle.abort() {
            info!("aborting the framework");
            if let Some(connection) = self.lock().as_mut() {
                let (client, running) = (connection.client.take(), connection.running.take());
                // What was asked before the abort is still sent.
                connection.network.handle.spawn(async move {
                    if let Some(client) = client
                        && timeout(FLUSH_TIMEOUT, client.flush()).await.is_err()
                    {
                        warn!("the master does not hear what was asked before the abort");
                    }
                    drop(running);
                });
            }
        }
        self.lifecycle.status()
    }

    /// As if the process had ended: the connection is cut, the master is told nothing.
    pub(crate) fn discard(&self) {
        self.lifecycle.stop();
        self.lock().take();
    }

    pub(crate) fn status(&self) -> Status {
        self.lifecycle.status()
    }

    /// Blocks until the driver is stopped or aborted and no callback runs any more.
    pub(crate) fn join(&self) -> Status {
        self.lifecycle.join()
    }

    pub(crate) fn implicit_acknowledgements(&self) -> bool {
        self.settings.implicit_acknowledgements
    }

    /// Not under the lock while sending, which may wait.
    fn reach(&self) -> Option<(SchedulerClient, Handle, mpsc::Sender<TaskStatus>)> {
        let connection = self.lock();
        let connection = connection.as_ref()?;
        Some((connection.client.clone()?, connection.network.handle.clone(), connection.local.clone()))
    }

    fn framework_id(&self, connection: &Connection) -> Option<FrameworkId> {
        let known = connection.client.as_ref().and_then(SchedulerClient::framework_id);
        known.or_else(|| self.settings.framework.id.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// With a framework id: its end is told to the master first.
    fn close(self, teardown: Option<FrameworkId>, credential: Option<Credential>) -> JoinHandle<()> {
        let Self { network, client, leader, running, .. } = self;
        network.close(async move {
            let result = match (client, teardown) {
                (Some(client), Some(_)) => {
                    client.call(Call { r#type: Some(call::Type::Teardown.into()), ..Call::default() }).await
                }
                (Some(client), None) => {
                    client.flush().await;
                    Ok(())
                }
                // Aborted before: there is no subscription to say it on.
                (None, Some(framework_id)) => {
                    OperatorClient::new(leader, credential.as_ref()).teardown(&framework_id).await
                }
                (None, None) => Ok(()),
            };
            if let Err(error) = result {
                warn!(%error, "the master did not take the framework's end");
            }
            drop(running);
        })
    }
}

#[derive(Default)]
struct Registration {
    done: bool,
    leader: Option<Leader>,
}

enum Next {
    Event(SchedulerEvent),
    Local(Box<TaskStatus>),
    Ended,
}

impl Work {
    /// Runs callbacks one after the other until the driver is stopped or aborted.
    pub(crate) fn run(mut self, mut callback: impl FnMut(Callback) -> Result<(), CallbackFailed>) {
        let _end = CallbacksEnd {
            driver: Arc::clone(&self.driver),
            runtime: self.runtime.clone(),
            running: self.running.clone(),
        };
        let mut registration = Registration::default();
        loop {
            let result = match self.next() {
                Next::Ended => return,
                Next::Local(status) => callback(Callback::StatusUpdate(status)),
                Next::Event(SchedulerEvent::Connected(leader)) => {
                    registration.leader = Some(leader);
                    Ok(())
                }
                Next::Event(SchedulerEvent::Disconnected { .. }) => {
                    self.driver.connected.store(false, Ordering::Release);
                    callback(Callback::Disconnected)
                }
                Next::Event(SchedulerEvent::Received(event)) => {
                    self.received(*event, &mut registration, &mut callback)
                }
                Next::Event(SchedulerEvent::Fatal(message)) => {
                    self.driver.abort();
                    let _ = callback(Callback::Error(message));
                    return;
                }
            };
            if result.is_err() {
                return;
            }
        }
    }

    fn next(&mut self) -> Next {
        if !self.driver.lifecycle.is_running() {
            // Not started yet: `start` still holds its lock, and `is_running` has waited for it.
            return Next::Ended;
        }
        let Self { events, local, running, runtime, driver } = self;
        let next = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = running.changed() => Next::Ended,
                Some(status) = local.recv() => Next::Local(Box::new(status)),
                event = events.recv() => event.map_or(Next::Ended, Next::Event),
            }
        });
        if driver.lifecycle.is_running() { next } else { Next::Ended }
    }

    fn received(
        &self,
        event: Event,
        registration: &mut Registration,
        callback: &mut impl FnMut(Callback) -> Result<(), CallbackFailed>,
    ) -> Result<(), CallbackFailed> {
        match event.r#type() {
            event::Type::Subscribed => {
                let Some(subscribed) = event.subscribed else { return Ok(()) };
                self.driver.connected.store(true, Ordering::Release);
                if self.driver.revive_wanted.swap(false, Ordering::AcqRel) {
                    self.driver.revive_offers(Vec::new());
                }
                let master = subscribed.master_info.or_else(|| registration.leader.as_ref().map(master_info));
                let master = master.unwrap_or_default();
                // As Mesos: also who fails over, with an id from an earlier process, is registered first.
                if std::mem::replace(&mut registration.done, true) {
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
                if self.driver.implicit_acknowledgements() && self.driver.lifecycle.is_running() {
                    self.driver.acknowledge(status);
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

/// The end of the callbacks, also by a panic.
struct CallbacksEnd {
    driver: Arc<SchedulerDriver>,
    runtime: Handle,
    running: watch::Receiver<()>,
}

impl Drop for CallbacksEnd {
    fn drop(&mut self) {
        // Does nothing unless callbacks end by themselves.
        self.driver.abort();
        let Self { running, runtime, .. } = self;
        runtime.block_on(async { while running.changed().await.is_ok() {} });
        self.driver.lifecycle.callbacks_have_ended();
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
