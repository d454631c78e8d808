//! What Mesos' executor driver does between an executor's calls and its callbacks. It knows nothing of Java.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bellows_client::{ExecutorClient, ExecutorEvent, ExecutorOptions};
use bellows_wire::v1::executor::{Call, Event, call, event};
use bellows_wire::v1::{
    AgentId, AgentInfo, ExecutorId, ExecutorInfo, FrameworkId, FrameworkInfo, TaskId, TaskInfo, TaskStatus,
    task_status,
};
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::driver::{Driver, Over, Role};
use crate::lifecycle::Status;

const DEFAULT_RECOVERY_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(2);
const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(5);

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

pub(crate) type ExecutorDriver = Driver<Executor>;

pub(crate) struct Executor;

/// The way to the agent, and what is filled into updates.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ExecutorClient,
    executor_id: ExecutorId,
    agent_id: AgentId,
}

pub(crate) struct Events {
    agent: mpsc::Receiver<ExecutorEvent>,
    grace_period: Duration,
    registered: bool,
    shut_down: bool,
}

impl Role for Executor {
    const THREAD: &'static str = "mesos-executor";
    type Client = Client;
    type Event = ExecutorEvent;
    type Events = Events;
    type Callback = Callback;

    /// To the agent that the environment names.
    fn connect(&self) -> Result<(Client, Events), String> {
        let Settings { agent_id, client, grace_period } =
            Settings::read(&std::env::vars().collect()).map_err(|error| error.to_string())?;
        let executor_id = client.executor_id.clone();
        let (agent, events) = ExecutorClient::start(client);
        let events = Events { agent: events, grace_period, registered: false, shut_down: false };
        Ok((Client { agent, executor_id, agent_id }, events))
    }

    async fn flush(client: &Client) {
        client.agent.flush().await;
    }

    async fn next(events: &mut Events) -> Option<ExecutorEvent> {
        match events.agent.recv().await {
            // Not the end: the executor still has to stop.
            None if events.shut_down => std::future::pending().await,
            event => event,
        }
    }

    /// After `Shutdown` there are no callbacks, but the driver runs on, so that the executor can tell how its tasks
    /// ended.
    fn heard(
        _: &ExecutorDriver,
        events: &mut Events,
        event: ExecutorEvent,
        callback: &mut impl FnMut(Callback) -> Result<(), Over>,
    ) -> Result<(), Over> {
        if events.shut_down {
            return Ok(());
        }
        match event {
            ExecutorEvent::Connected => Ok(()),
            ExecutorEvent::Disconnected { .. } => callback(Callback::Disconnected),
            ExecutorEvent::Received(event) if event.r#type() != event::Type::Shutdown => {
                received(*event, &mut events.registered, callback)
            }
            ExecutorEvent::Received(_) | ExecutorEvent::AgentLost(_) => {
                if let ExecutorEvent::AgentLost(reason) = event {
                    warn!(%reason, "the agent is lost; shutting down");
                }
                events.shut_down = true;
                kill_after(events.grace_period);
                callback(Callback::Shutdown)
            }
            ExecutorEvent::Fatal(message) => Err(Over::because(message)),
        }
    }

    fn error(reason: String) -> Callback {
        Callback::Error(reason)
    }
}

impl ExecutorDriver {
    /// Ends the connection when the agent has heard what was sent before.
    pub(crate) fn stop(&self) -> Status {
        self.stop_after(async |client| {
            if let Some(client) = client {
                client.agent.flush().await;
            }
        })
    }

    /// Told to the agent now or with the next subscription, until the agent acknowledges it.
    pub(crate) fn send_status_update(&self, mut status: TaskStatus) -> Status {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        status.uuid = Some(Bytes::copy_from_slice(uuid::Uuid::new_v4().as_bytes()));
        status.source = Some(task_status::Source::Executor.into());
        status.timestamp = Some(now);
        self.post(|client| {
            status.executor_id = Some(client.executor_id.clone());
            status.agent_id = Some(client.agent_id.clone());
            let update = Some(call::Update { status });
            Call { r#type: Some(call::Type::Update.into()), update, ..Call::default() }
        })
    }

    pub(crate) fn send_framework_message(&self, data: Bytes) -> Status {
        let message = Some(call::Message { data });
        self.post(|_| Call { r#type: Some(call::Type::Message.into()), message, ..Call::default() })
    }

    fn post(&self, call: impl FnOnce(&Client) -> Call) -> Status {
        if let Some((client, _)) = self.reach()
            && client.agent.post(call(&client)).is_err()
        {
            info!("dropped: the client has stopped");
        }
        self.status()
    }
}

/// An executor that does not end by itself is ended, as by Mesos: nobody may be left to do it.
fn kill_after(grace_period: Duration) {
    let killer = std::thread::Builder::new().name("mesos-shutdown".to_owned()).spawn(move || {
        std::thread::sleep(grace_period);
        warn!("the executor did not end in its grace period; killing it");
        // An error cannot be: every process may signal itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    if let Err(error) = killer {
        warn!(%error, "the end of the grace period is not watched");
    }
}

fn received(
    event: Event,
    registered: &mut bool,
    callback: &mut impl FnMut(Callback) -> Result<(), Over>,
) -> Result<(), Over> {
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
