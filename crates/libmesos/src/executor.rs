//! What Mesos' executor driver does between an executor's calls and its callbacks. It knows nothing of Java.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bellows_client::{ExecutorClient, ExecutorEvent, ExecutorOptions};
use bellows_wire::v1::executor::{Call, Event, call, event};
use bellows_wire::v1::{
    AgentId, AgentInfo, ExecutorId, ExecutorInfo, FrameworkId, FrameworkInfo, TaskId, TaskInfo, TaskStatus,
    task_status,
};
use bytes::Bytes;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::lifecycle::{Lifecycle, Status};
use crate::network::Network;
use crate::scheduler::CallbackFailed;

const DEFAULT_RECOVERY_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(2);
const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(5);

/// What an abort may take on the agent's account.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// One method of `org.apache.mesos.Executor`, with its arguments.
#[derive(Debug)]
pub(crate) enum Callback {
    Registered(Box<(ExecutorInfo, FrameworkInfo, AgentInfo)>),
    Reregistered(AgentInfo),
    Disconnected,
    LaunchTask(Box<TaskInfo>),
    KillTask(TaskId),
    FrameworkMessage(Bytes),
    Shutdown,
    Error(String),
}

/// What an agent tells its executor through the environment.
#[derive(Debug, Clone)]
struct Settings {
    agent_id: AgentId,
    client: ExecutorOptions,
    grace_period: Duration,
}

/// The program was not started by an agent.
#[derive(Debug, PartialEq, Eq, Error)]
enum EnvironmentError {
    #[error("Expecting '{0}' to be set in the environment")]
    Missing(&'static str),
    #[error("Failed to parse value '{value}' of '{name}'")]
    Invalid { name: &'static str, value: String },
}

pub(crate) struct ExecutorDriver {
    lifecycle: Lifecycle,
    connection: Mutex<Option<Connection>>,
}

/// Exists from `start` to `stop`; without a client once aborted.
struct Connection {
    network: Network,
    client: Option<ExecutorClient>,
    settings: Settings,
    /// Dropped when nothing is left to be sent: until then the callbacks' thread keeps the subscription open.
    running: Option<watch::Sender<()>>,
}

/// What the thread for callbacks needs.
pub(crate) struct Work {
    driver: Arc<ExecutorDriver>,
    runtime: Handle,
    events: mpsc::Receiver<ExecutorEvent>,
    running: watch::Receiver<()>,
    grace_period: Duration,
}

impl ExecutorDriver {
    pub(crate) fn new() -> Self {
        Self { lifecycle: Lifecycle::new(), connection: Mutex::new(None) }
    }

    /// Connects to the agent that the environment names, and hands what the callbacks' thread has to do to `spawn`.
    /// An error has aborted the driver; its text is for the `error` callback.
    pub(crate) fn start(
        self: &Arc<Self>,
        spawn: impl FnOnce(Work) -> std::io::Result<()>,
    ) -> Result<Status, String> {
        self.lifecycle.start(|| {
            let settings = Settings::read(&std::env::vars().collect()).map_err(|error| error.to_string())?;
            let options = settings.client.clone();
            let failed = |error: std::io::Error| format!("cannot start a thread: {error}");
            let (network, (client, events)) =
                Network::start("mesos-executor", move || ExecutorClient::start(options)).map_err(failed)?;
            let (running, running_receiver) = watch::channel(());
            let work = Work {
                driver: Arc::clone(self),
                runtime: network.handle.clone(),
                events,
                running: running_receiver,
                grace_period: settings.grace_period,
            };
            *self.lock() =
                Some(Connection { network, client: Some(client), settings, running: Some(running) });
            spawn(work).map_err(failed)
        })
    }

    /// Ends the connection when the agent has heard what was sent before.
    pub(crate) fn stop(&self) -> Status {
        let (answer, _) = self.lifecycle.stop();
        let connection = if answer == Status::NotStarted { None } else { self.lock().take() };
        if let Some(connection) = connection
            && connection.close().join().is_err()
        {
            warn!("the network thread panicked");
        }
        answer
    }

    /// Ends the callbacks and the connection.
    pub(crate) fn abort(&self) -> Status {
        if self.lifecycle.abort()
            && let Some(connection) = self.lock().as_mut()
        {
            let (client, running) = (connection.client.take(), connection.running.take());
            // What was asked before the abort is still sent.
            connection.network.handle.spawn(async move {
                if let Some(client) = client
                    && timeout(FLUSH_TIMEOUT, client.flush()).await.is_err()
                {
                    warn!("the agent does not hear what was asked before the abort");
                }
                drop(running);
            });
        }
        self.lifecycle.status()
    }

    /// As if the process had ended.
    pub(crate) fn discard(&self) {
        self.lifecycle.stop();
        self.lock().take();
    }

    /// Blocks until the driver is stopped or aborted and no callback runs any more.
    pub(crate) fn join(&self) -> Status {
        self.lifecycle.join()
    }

    /// Told to the agent now or with the next subscription, until the agent acknowledges it.
    pub(crate) fn send_status_update(&self, mut status: TaskStatus) -> Status {
        let Some((client, settings)) = self.reach() else { return self.lifecycle.status() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        status.uuid = Some(Bytes::copy_from_slice(uuid::Uuid::new_v4().as_bytes()));
        status.source = Some(task_status::Source::Executor.into());
        status.timestamp = Some(now);
        status.executor_id = Some(settings.client.executor_id);
        status.agent_id = Some(settings.agent_id);
        self.post(
            &client,
            Call {
                r#type: Some(call::Type::Update.into()),
                update: Some(call::Update { status }),
                ..Call::default()
            },
        )
    }

    pub(crate) fn send_framework_message(&self, data: Bytes) -> Status {
        let Some((client, _)) = self.reach() else { return self.lifecycle.status() };
        self.post(
            &client,
            Call {
                r#type: Some(call::Type::Message.into()),
                message: Some(call::Message { data }),
                ..Call::default()
            },
        )
    }

    fn post(&self, client: &ExecutorClient, call: Call) -> Status {
        if client.post(call).is_err() {
            info!("dropped: the client has stopped");
        }
        self.lifecycle.status()
    }

    /// Not under the lock while sending, which may wait.
    fn reach(&self) -> Option<(ExecutorClient, Settings)> {
        if !self.lifecycle.is_running() {
            return None;
        }
        let connection = self.lock();
        let connection = connection.as_ref()?;
        Some((connection.client.clone()?, connection.settings.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn close(self) -> JoinHandle<()> {
        let Self { network, client, running, .. } = self;
        network.close(async move {
            if let Some(client) = client {
                client.flush().await;
            }
            drop(running);
        })
    }
}

impl Work {
    /// Runs callbacks one after the other until the driver is stopped or aborted. After `Shutdown` there are none,
    /// but the driver runs on, so that the executor can tell how its tasks ended.
    pub(crate) fn run(mut self, mut callback: impl FnMut(Callback) -> Result<(), CallbackFailed>) {
        let _end = CallbacksEnd {
            driver: Arc::clone(&self.driver),
            runtime: self.runtime.clone(),
            running: self.running.clone(),
        };
        let mut registered = false;
        let mut shut_down = false;
        while let Some(event) = self.next() {
            if shut_down {
                continue;
            }
            let result = match event {
                ExecutorEvent::Connected => Ok(()),
                ExecutorEvent::Disconnected { .. } => callback(Callback::Disconnected),
                ExecutorEvent::Received(event) if event.r#type() == event::Type::Shutdown => {
                    shut_down = true;
                    self.shut_down(&mut callback)
                }
                ExecutorEvent::AgentLost(reason) => {
                    warn!(%reason, "the agent is lost; shutting down");
                    shut_down = true;
                    self.shut_down(&mut callback)
                }
                ExecutorEvent::Received(event) => received(*event, &mut registered, &mut callback),
                ExecutorEvent::Fatal(message) => {
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

    /// `None` when callbacks end. The client's own end is not theirs: the executor still has to stop.
    fn next(&mut self) -> Option<ExecutorEvent> {
        if !self.driver.lifecycle.is_running() {
            return None;
        }
        let Self { events, running, runtime, driver, .. } = self;
        let next = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = running.changed() => None,
                Some(event) = events.recv() => Some(event),
                else => None,
            }
        });
        next.filter(|_| driver.lifecycle.is_running())
    }

    /// An executor that does not end by itself is ended, as by Mesos: nobody may be left to do it.
    fn shut_down(
        &self,
        callback: &mut impl FnMut(Callback) -> Result<(), CallbackFailed>,
    ) -> Result<(), CallbackFailed> {
        let grace_period = self.grace_period;
        let killer = std::thread::Builder::new().name("mesos-shutdown".to_owned()).spawn(move || {
            std::thread::sleep(grace_period);
            warn!("the executor did not end in its grace period; killing it");
            // An error cannot be: every process may signal itself.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        });
        if let Err(error) = killer {
            warn!(%error, "the end of the grace period is not watched");
        }
        callback(Callback::Shutdown)
    }
}

/// The end of the callbacks, also by a panic.
struct CallbacksEnd {
    driver: Arc<ExecutorDriver>,
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

fn received(
    event: Event,
    registered: &mut bool,
    callback: &mut impl FnMut(Callback) -> Result<(), CallbackFailed>,
) -> Result<(), CallbackFailed> {
    if let Some(subscribed) = event.subscribed {
        return if std::mem::replace(registered, true) {
            callback(Callback::Reregistered(subscribed.agent_info))
        } else {
            let told = (subscribed.executor_info, subscribed.framework_info, subscribed.agent_info);
            callback(Callback::Registered(Box::new(told)))
        };
    }
    if let Some(launch) = event.launch {
        return callback(Callback::LaunchTask(Box::new(launch.task)));
    }
    if event.launch_group.is_some() {
        warn!("a task group was sent to an executor that cannot launch one");
    }
    if let Some(kill) = event.kill {
        return callback(Callback::KillTask(kill.task_id));
    }
    if let Some(message) = event.message {
        return callback(Callback::FrameworkMessage(message.data));
    }
    Ok(())
}

impl Settings {
    fn read(environment: &HashMap<String, String>) -> Result<Self, EnvironmentError> {
        let required = |name| environment.get(name).cloned().ok_or(EnvironmentError::Missing(name));
        let duration = |name: &'static str, default| match environment.get(name) {
            None => Ok(default),
            Some(value) => {
                parse_duration(value).ok_or_else(|| EnvironmentError::Invalid { name, value: value.clone() })
            }
        };
        // Without checkpointing a lost agent is the executor's end.
        let recovers = environment.get("MESOS_CHECKPOINT").is_some_and(|value| value == "1");
        let recovery_timeout = duration("MESOS_RECOVERY_TIMEOUT", DEFAULT_RECOVERY_TIMEOUT)?;
        let client = ExecutorOptions {
            agent: agent_endpoint(environment)?,
            framework_id: FrameworkId { value: required("MESOS_FRAMEWORK_ID")? },
            executor_id: ExecutorId { value: required("MESOS_EXECUTOR_ID")? },
            recovery_timeout: if recovers { recovery_timeout } else { Duration::ZERO },
            max_backoff: duration("MESOS_SUBSCRIPTION_BACKOFF_MAX", DEFAULT_MAX_BACKOFF)?,
        };
        Ok(Self {
            agent_id: AgentId { value: required("MESOS_SLAVE_ID")? },
            client,
            grace_period: duration("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", DEFAULT_GRACE_PERIOD)?,
        })
    }
}

/// Older agents only give their libprocess address: `slave(1)@host:port`.
fn agent_endpoint(environment: &HashMap<String, String>) -> Result<String, EnvironmentError> {
    if let Some(endpoint) = environment.get("MESOS_AGENT_ENDPOINT") {
        return Ok(endpoint.clone());
    }
    let pid = environment.get("MESOS_SLAVE_PID").ok_or(EnvironmentError::Missing("MESOS_AGENT_ENDPOINT"))?;
    let invalid = || EnvironmentError::Invalid { name: "MESOS_SLAVE_PID", value: pid.clone() };
    pid.split_once('@').map(|(_, endpoint)| endpoint.to_owned()).ok_or_else(invalid)
}

/// As Mesos writes durations: a number and its unit, `15mins`, `1.5secs`.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "secs" => 1.0,
        "mins" => 60.0,
        "hrs" => 3600.0,
        "days" => 86_400.0,
        "weeks" => 604_800.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(changes: &[(&str, Option<&str>)]) -> HashMap<String, String> {
        let mut environment: HashMap<String, String> = [
            ("MESOS_AGENT_ENDPOINT", "127.0.0.1:5051"),
            ("MESOS_SLAVE_PID", "slave(1)@127.0.0.2:5052"),
            ("MESOS_SLAVE_ID", "S0"),
            ("MESOS_FRAMEWORK_ID", "F"),
            ("MESOS_EXECUTOR_ID", "E"),
            ("MESOS_CHECKPOINT", "1"),
            ("MESOS_RECOVERY_TIMEOUT", "15mins"),
            ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in changes {
            match value {
                Some(value) => environment.insert((*name).to_owned(), (*value).to_owned()),
                None => environment.remove(*name),
            };
        }
        environment
    }

    #[test]
    fn reads_what_an_agent_sets() {
        let settings = Settings::read(&environment(&[])).expect("complete");
        assert_eq!(settings.client.agent, "127.0.0.1:5051");
        assert_eq!(settings.client.recovery_timeout, Duration::from_secs(900));
        assert_eq!(settings.grace_period, Duration::from_secs(5));
        let changes = [("MESOS_CHECKPOINT", Some("0")), ("MESOS_AGENT_ENDPOINT", None)];
        let settings = Settings::read(&environment(&changes)).expect("complete");
        assert_eq!(settings.client.recovery_timeout, Duration::ZERO);
        assert_eq!(settings.client.agent, "127.0.0.2:5052");
    }

    #[test]
    fn names_what_is_missing_or_wrong() {
        for name in ["MESOS_SLAVE_ID", "MESOS_FRAMEWORK_ID", "MESOS_EXECUTOR_ID"] {
            let error = Settings::read(&environment(&[(name, None)])).expect_err("missing");
            assert_eq!(error, EnvironmentError::Missing(name));
        }
        let error =
            Settings::read(&environment(&[("MESOS_RECOVERY_TIMEOUT", Some("soon"))])).expect_err("bad");
        assert!(error.to_string().contains("soon"));
    }

    #[test]
    fn durations_as_mesos_writes_them() {
        assert_eq!(parse_duration("1.5secs"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("2hrs"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("15"), None);
        assert_eq!(parse_duration("-1secs"), None);
        assert_eq!(parse_duration("1e999secs"), None);
    }
}
