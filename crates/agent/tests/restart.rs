//! Agents that are killed, refused, or started twice.
mod fake;
#[path = "../../containment/tests/root/mod.rs"]
mod root;

use bellows_agent::Error;
use bellows_wire::{
    link::{self, agent_message::Message as AgentSays, master_message::Message},
    v1::{self, TaskState::*},
};
use fake::*;
use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Child, Command, Stdio},
};

/// An agent in a process of its own.
struct Agent(Child);

impl Agent {
    fn spawn(master: &Master, work_dir: &std::path::Path) -> Self {
        let mut command = Command::new(SHIM);
        command.arg("agent").arg(work_dir).arg(master.addr.to_string()).stdin(Stdio::null());
        Self(command.spawn().expect("started"))
    }

    /// As a service or a shell with this umask starts it.
    fn spawn_under(umask: &str, master: &Master, work_dir: &std::path::Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"umask {umask}; exec "$0" "$@""#), SHIM, "agent"]);
        command.arg(work_dir).arg(master.addr.to_string()).stdin(Stdio::null());
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

fn with_secret(mut task: v1::TaskInfo, secret: &str) -> v1::TaskInfo {
    let variable = v1::environment::Variable {
        name: "_SPARK_AUTH_SECRET".into(),
        value: Some(secret.into()),
        ..Default::default()
    };
    let command = task.command.as_mut().expect("a command");
    command.environment = Some(v1::Environment { variables: vec![variable] });
    task.data = Some(secret.as_bytes().to_vec().into());
    task
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("listed") {
        let path = entry.expect("entry").path();
        match path.symlink_metadata().expect("there").is_dir() {
            true => found.extend(files_below(&path)),
            // Not what links lead to.
            false if path.is_file() => found.push(path),
            false => {}
        }
    }
    found
}

#[tokio::test]
async fn secrets_never_reach_the_disk_and_what_had_not_started_is_lost() {
    let secret = "swordfish-4711";
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut agent = Agent::spawn_under("000", &master, dir.path());
    let (mut link, _) = master.register().await;
    let waits =
        format!("test $_SPARK_AUTH_SECRET = {secret} && touch seen; while [ ! -e go ]; do sleep 0.01; done");
    link.launch("F", with_secret(shell("long", &waits), secret)).await;
    let running = link.until_running("F").await;
    let sandbox = sandbox(dir.path(), "F", &running);
    until(|| sandbox.join("seen").exists()).await;
    // Its file never arrives: nobody answers there.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut waiting = with_secret(shell("waiting", "true"), secret);
    waiting.command.as_mut().expect("a command").uris = vec![v1::command_info::Uri {
        value: format!("http://bob:{secret}@{}/file?token={secret}", silent.local_addr().expect("bound")),
        ..Default::default()
    }];
    link.launch("F", waiting).await;
    let connection = in_time(silent.accept()).await.expect("its file is fetched");
    agent.kill();
    for path in files_below(dir.path()) {
        let content = std::fs::read(&path).expect("readable");
        let held = content.windows(secret.len()).any(|at| at == secret.as_bytes());
        assert!(!held, "{} holds the secret", path.display());
    }
    for path in files_below(&dir.path().join("meta")) {
        let mode = path.metadata().expect("there").mode();
        assert_eq!(mode & 0o77, 0, "{} is {mode:o}", path.display());
    }
    drop(connection);

    let agent = start(&master, dir.path()).await;
    let (mut link, register) = master.register().await;
    assert_eq!(register.tasks.len(), 2);
    let (_, _, state) = get(agent.local_addr(), "/state", None).await;
    assert!(state.contains("Command Executor (Task: long) (Command: NO COMMAND)"), "{state}");
    std::fs::write(sandbox.join("go"), "").expect("written");
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < 2 {
        let status = link.status().await;
        link.acknowledge("F", &status).await;
        if bellows_model::TaskState::from(status.state()).is_terminal() {
            ends.insert(status.task_id.value.clone(), (status.state(), status.reason()));
        }
    }
    assert_eq!(ends["long"].0, TaskFinished);
    assert_eq!(ends["waiting"], (TaskLost, v1::task_status::Reason::AgentRestarted));
    agent.stop().await;
}

#[tokio::test]
async fn tasks_of_other_users_run_whatever_the_umask_and_a_directory_that_blocks_them_is_named() {
    if !root::may_switch_users(
        "tasks_of_other_users_run_whatever_the_umask_and_a_directory_that_blocks_them_is_named",
    ) {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary");
    let closed = dir.path().canonicalize().expect("there").join("closed");
    std::fs::create_dir(&closed).expect("made");
    let set = |mode: u32| {
        for path in [dir.path(), &closed] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
        }
    };
    let task = |id: &str| {
        let mut task = shell(id, "id -un; touch file");
        task.command.as_mut().expect("a command").user = Some("nobody".into());
        task
    };
    for umask in ["000", "022", "027", "077"] {
        set(0o755);
        let work_dir = closed.join(format!("deep/{umask}"));
        let mut master = Master::start().await;
        let _agent = Agent::spawn_under(umask, &master, &work_dir);
        let (mut link, _) = master.register().await;
        link.launch("F", task("t")).await;
        let end = link.until_end("F").await.pop().expect("an end");
        assert_eq!(end.state(), TaskFinished, "umask {umask}: {}", end.message());
        let sandbox = sandbox(&work_dir, "F", &end);
        assert_eq!(std::fs::read_to_string(sandbox.join("stdout")).expect("stdout"), "nobody\n");
        let mode = |path: &Path| path.metadata().expect("there").mode() & 0o7777;
        let modes =
            [&work_dir, &closed.join("deep"), &work_dir.join("meta"), &work_dir.join("slaves"), &sandbox];
        assert_eq!(modes.map(|path| mode(path)), [0o711, 0o711, 0o700, 0o755, 0o750], "umask {umask}");

        std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("chmod");
        link.launch("F", task("u")).await;
        let end = link.until_end("F").await.pop().expect("an end");
        assert_eq!(end.state(), TaskFailed);
        let command = format!("chmod o+x {}", closed.display());
        assert!(end.message().contains(&command), "{}", end.message());
    }
    assert_eq!(closed.metadata().expect("there").mode() & 0o7777, 0o700, "it is not the agent's to open");
}

/// The checkpoint and other secrets of the agent's are among the files that it has open.
#[tokio::test]
async fn no_task_gets_what_the_agent_has_open() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut agent = Agent::spawn(&master, dir.path());
    let (mut link, _) = master.register().await;
    let checkpoint = dir.path().canonicalize().expect("there").join("meta/checkpoint.redb");
    let descriptors = format!("/proc/{}/fd", agent.0.id());
    let number = std::fs::read_dir(&descriptors).expect("ours").map(|entry| entry.expect("entry").path());
    let number = number.into_iter().find(|path| std::fs::read_link(path).is_ok_and(|at| at == checkpoint));
    let number =
        number.expect("it is open").file_name().expect("a number").to_str().expect("plain").to_owned();
    let pid = agent.0.id();
    let link_to = dir.path().join("link");
    std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), &link_to).expect("link");
    for (index, value) in [
        format!("file:///proc/self/fd/{number}"),
        format!("/proc/thread-self/fd/{number}"),
        format!("/proc/{pid}/fd/{number}"),
        format!("/dev/fd/{number}"),
        format!("/proc/self/root{}", checkpoint.display()),
        "/proc/self/environ".into(),
        format!("/proc/{pid}/maps"),
        link_to.display().to_string(),
    ]
    .into_iter()
    .enumerate()
    {
        for cache in [false, true] {
            let mut task = shell(&format!("t{index}{cache}"), "cat stolen");
            task.command.as_mut().expect("a command").uris = vec![v1::command_info::Uri {
                value: value.clone(),
                output_file: Some("stolen".into()),
                cache: Some(cache),
                ..Default::default()
            }];
            link.launch("F", task).await;
            let end = link.until_end("F").await.pop().expect("an end");
            assert_eq!(end.state(), TaskFailed, "{value}");
            assert!(end.message().contains(&value), "{}", end.message());
        }
    }
    agent.kill();
}
