//! Agents that are killed, refused, or started twice.
mod fake;

use bellows_agent::Error;
use bellows_wire::{
    link::{self, agent_message::Message as AgentSays, master_message::Message},
    v1::TaskState::*,
};
use fake::*;
use std::process::{Child, Command, Stdio};

/// An agent in a process of its own.
struct Agent(Child);

impl Agent {
    fn spawn(master: &Master, work_dir: &std::path::Path) -> Self {
        let mut command = Command::new(SHIM);
        command.arg("agent").arg(work_dir).arg(master.addr.to_string()).stdin(Stdio::null());
        Self(command.spawn().expect("started"))
    }

    /// -9
    fn kill(&mut self) {
        self.0.kill().expect("alive");
        self.0.wait().expect("reaped");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Usually dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn tasks_and_statuses_outlive_an_agent_that_is_killed() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut agent = Agent::spawn(&master, dir.path());
    let (mut link, _) = master.register().await;
    link.launch("F", shell("long", "while [ ! -e go ]; do sleep 0.01; done; exit 5")).await;
    let running = link.until_running("F").await;
    link.launch("F", shell("short", "exit 4")).await;
    let unacknowledged = link.status().await;
    agent.kill();
    link.closed().await;
    // It ends while nobody watches.
    let go = sandbox(dir.path(), "F", &running).join("go");
    std::fs::write(go, "").expect("written");
    let pid = running.container_status.and_then(|status| status.executor_pid).expect("it runs");
    until(|| !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;

    let _agent = Agent::spawn(&master, dir.path());
    let (mut link, register) = master.register().await;
    assert_eq!(register.agent_info.id.expect("remembered").value, AGENT_ID);
    assert_eq!(register.tasks.len(), 2);
    let mut seen = std::collections::BTreeMap::<String, Vec<_>>::new();
    let over = |seen: &std::collections::BTreeMap<String, Vec<(_, String)>>| {
        seen.values().filter(|told| told.last().is_some_and(|(state, _)| *state == TaskFailed)).count()
    };
    while over(&seen) < 2 {
        let status = link.status().await;
        link.acknowledge("F", &status).await;
        if status.task_id.value == "short" && status.state() == TaskStarting {
            assert_eq!(status.uuid, unacknowledged.uuid);
        }
        seen.entry(status.task_id.value.clone())
            .or_default()
            .push((status.state(), status.message().to_owned()));
    }
    let ended = |code| (TaskFailed, format!("Command exited with status {code}"));
    let nothing = String::new;
    assert_eq!(seen["long"], [ended(5)]);
    // It may have ended before the agent that was killed could say that it runs.
    let mut short = seen["short"].clone();
    short.retain(|told| *told != (TaskRunning, nothing()));
    assert_eq!(short, [(TaskStarting, nothing()), ended(4)]);
}

#[tokio::test]
async fn a_task_goes_on_over_a_restart_and_can_be_killed_after_it() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "sleep 1000")).await;
    let before = link.until_running("F").await;
    agent.stop().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, register) = master.register().await;
    assert_eq!(register.tasks[0].latest_state(), TaskRunning);
    link.kill("F", "t").await;
    let statuses = link.until_end("F").await;
    // Whether the last acknowledgement was read before the stop is open.
    assert!(states(&statuses).ends_with(&[TaskKilling, TaskKilled]), "{statuses:?}");
    let end = statuses.last().expect("an end");
    assert_eq!(end.container_status, before.container_status);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_removed_ends_its_tasks_and_itself_and_starts_as_a_new_one() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "sleep 1000")).await;
    let running = link.until_running("F").await;
    let pid = running.container_status.and_then(|status| status.executor_pid).expect("it runs");
    link.say(Message::Refused(link::Refused { reason: "it was removed".into() })).await;
    let error = in_time(agent.ended()).await;
    assert!(matches!(&error, Error::Refused(reason) if reason == "it was removed"), "{error}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    agent.stop().await;
    let agent = start(&master, dir.path()).await;
    let (_link, register) = master.register().await;
    assert_eq!(register.agent_info.id, None);
    assert!(register.tasks.is_empty() && register.frameworks.is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_retires_tells_its_master_and_starts_as_a_new_one() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "trap '' TERM; while :; do sleep 0.1; done")).await;
    let running = link.until_running("F").await;
    let pid = running.container_status.and_then(|status| status.executor_pid).expect("it runs");
    agent.retire().await;
    while !matches!(link.next().await, AgentSays::Unregister(_)) {}
    link.say(Message::Refused(link::Refused { reason: "it unregistered".into() })).await;
    agent.kill_tasks_now().await;
    let error = in_time(agent.ended()).await;
    assert!(matches!(&error, Error::Refused(_)), "{error}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    agent.stop().await;
    let agent = start(&master, dir.path()).await;
    let (_link, register) = master.register().await;
    assert_eq!(register.agent_info.id, None);
    agent.stop().await;
}

#[tokio::test]
async fn a_task_that_outlasts_the_agents_patience_is_killed() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "trap '' TERM; while :; do sleep 0.1; done")).await;
    let running = link.until_running("F").await;
    let pid = running.container_status.and_then(|status| status.executor_pid).expect("it runs");
    agent.stop_and_kill_tasks(std::time::Duration::ZERO, &Default::default()).await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn two_agents_do_not_share_a_directory() {
    let dir = tempfile::tempdir().expect("temporary");
    let master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let second = bellows_agent::start(config(&master, dir.path())).await;
    assert!(matches!(second, Err(Error::Locked { .. })));
    agent.stop().await;
}
