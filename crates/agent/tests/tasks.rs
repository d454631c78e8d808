//! Tasks from the master's word to their acknowledged end, with real processes.
mod fake;

use bellows_wire::v1::TaskState::*;
use fake::*;

#[tokio::test]
async fn a_task_runs_and_its_end_is_told() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut agent = start(&master, dir.path()).await;
    let (mut link, register) = master.register().await;
    assert_eq!(register.agent_info.id, None);
    assert_eq!(register.agent_info.port(), i32::from(agent.local_addr().port()));
    assert_eq!(agent.registered().await, Some(AGENT_ID.into()));
    for (command, end, message) in [
        ("echo hello; exit 0", TaskFinished, "Command exited with status 0"),
        ("exit 3", TaskFailed, "Command exited with status 3"),
        ("kill -9 $$", TaskFailed, "Command terminated with signal Killed"),
    ] {
        link.launch("F", shell("t", command)).await;
        let statuses = link.until_end("F").await;
        assert_eq!(states(&statuses), [TaskStarting, TaskRunning, end]);
        assert_eq!(statuses[2].message(), message);
        let stdout = sandbox(dir.path(), "F", &statuses[2]).join("stdout");
        let hello = if end == TaskFinished { "hello\n" } else { "" };
        assert_eq!(std::fs::read_to_string(stdout).expect("stdout"), hello);
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_failed_says_what_it_wrote_last_and_nothing_else_is_read() {
    let dir = tempfile::tempdir().expect("temporary");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "of somebody else").expect("written");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    let failed = |what: &str| format!("Command exited with status 7. Its stderr ends with: {what}");
    let nothing = "Command exited with status 7".to_owned();
    let foreign = format!("rm stderr; ln -s {} stderr; exit 7", secret.display());
    for (command, message) in [
        (
            "echo one >&2; printf 'b\\033[2Jd\\r\\ttwo\\n\\377' >&2; exit 7",
            failed(r"one\nb\u{1b}[2Jd\r\ttwo\n�"),
        ),
        ("yes line | head -n 9999 >&2; echo last >&2; exit 7", failed(&(r"line\n".repeat(170) + "last"))),
        (foreign.as_str(), nothing.clone()),
        ("rm stderr; mkfifo stderr; exit 7", nothing.clone()),
        ("rm stderr; exit 7", nothing),
        ("echo fine >&2", "Command exited with status 0".to_owned()),
    ] {
        link.launch("F", shell("t", command)).await;
        let statuses = link.until_end("F").await;
        let end = statuses.last().expect("told");
        assert!(end.message().len() < 1_100, "{command}");
        match message.strip_suffix("last") {
            None => assert_eq!(end.message(), message, "{command}"),
            Some(_) => {
                let lines = end.message().split_once("with: ").expect("lines").1;
                assert!(
                    lines.len() > 1_000 && lines.starts_with(r"line\nline") && lines.ends_with(r"line\nlast")
                );
            }
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_is_killed_says_so_and_takes_its_children_along() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "sleep 1000 & echo $! > child; wait")).await;
    let running = link.until_running("F").await;
    let child = sandbox(dir.path(), "F", &running).join("child");
    until(|| std::fs::read_to_string(&child).is_ok_and(|pid| pid.ends_with('\n'))).await;
    let pid = std::fs::read_to_string(&child).expect("written");
    link.kill("F", "t").await;
    let statuses = link.until_end("F").await;
    assert_eq!(states(&statuses), [TaskKilling, TaskKilled]);
    assert_eq!(statuses[1].message(), "Command terminated with signal Terminated");
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
    agent.stop().await;
}

#[tokio::test]
async fn a_status_is_told_again_on_every_connection_until_it_is_acknowledged() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "true")).await;
    let first = link.status().await;
    drop(link);
    let (mut link, register) = master.register().await;
    assert_eq!(register.agent_info.id.expect("remembered").value, AGENT_ID);
    assert_eq!(register.frameworks[0].id.as_ref().expect("set").value, "F");
    assert_eq!(register.tasks.len(), 1);
    let statuses = link.until_end("F").await;
    assert_eq!(statuses[0].uuid, first.uuid);
    assert_eq!(states(&statuses), [TaskStarting, TaskRunning, TaskFinished]);
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_start_fails_with_what_is_wrong() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    // Also of who is not root, and could not switch to a user that there is.
    let config = bellows_agent::Config { switch_user: true, ..config(&master, dir.path()) };
    let agent = bellows_agent::start(config).await.expect("started");
    let (mut link, _) = master.register().await;
    let mut no_uri = shell("no-such-uri", "true");
    let uri = bellows_wire::v1::command_info::Uri { value: "/no/such/file.tgz".into(), ..Default::default() };
    no_uri.command.as_mut().expect("set").uris.push(uri);
    let mut no_program = shell("no-such-program", "/no/such/program");
    no_program.command.as_mut().expect("set").shell = Some(false);
    let mut no_user = shell("no-such-user", "true");
    no_user.command.as_mut().expect("set").user = Some("nobody-knows-me".into());
    for (task, words) in [
        (no_uri, "/no/such/file.tgz"),
        (no_program, "/no/such/program"),
        (no_user, "no user 'nobody-knows-me'"),
    ] {
        link.launch("F", task).await;
        let statuses = link.until_end("F").await;
        assert_eq!(states(&statuses), [TaskFailed]);
        let end = &statuses[0];
        assert_eq!(end.reason(), bellows_wire::v1::task_status::Reason::ContainerLaunchFailed);
        assert_eq!(end.source(), bellows_wire::v1::task_status::Source::Agent);
        assert!(end.message().starts_with("Failed to launch container: "), "{}", end.message());
        assert!(end.message().contains(words), "{}", end.message());
        let names_the_way_out =
            end.message().contains("HADOOP_USER_NAME") && end.message().contains("--no-switch-user");
        assert_eq!(names_the_way_out, words.contains("no user"), "{}", end.message());
    }
    agent.stop().await;
}

#[tokio::test]
async fn the_environment_is_that_of_mesos_and_the_tasks_own_wins() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut config = config(&master, dir.path());
    config.native_library = Some("/usr/lib/libmesos.so".into());
    config.shuffle_dirs = vec![dir.path().join("s1"), dir.path().join("s2")];
    let agent = bellows_agent::start(config).await.expect("started");
    let (mut link, _) = master.register().await;
    let mut task = shell("t", "env");
    let own = [("MESOS_TASK_ID", "mine"), ("OWN", "x=y z")].map(|(name, value)| {
        bellows_wire::v1::environment::Variable {
            name: name.into(),
            value: Some(value.into()),
            ..Default::default()
        }
    });
    let environment = bellows_wire::v1::Environment { variables: own.to_vec() };
    task.command.as_mut().expect("set").environment = Some(environment);
    link.launch("F", task).await;
    let statuses = link.until_end("F").await;
    let sandbox = sandbox(dir.path(), "F", &statuses[2]);
    let text = std::fs::read_to_string(sandbox.join("stdout")).expect("stdout");
    let root = dir.path().canonicalize().expect("there");
    let endpoint = agent.local_addr().to_string();
    for (name, value) in [
        (
            "MESOS_SANDBOX",
            sandbox
                .display()
                .to_string()
                .replace(&dir.path().display().to_string(), &root.display().to_string()),
        ),
        ("MESOS_EXECUTOR_ID", "t".into()),
        ("MESOS_FRAMEWORK_ID", "F".into()),
        ("MESOS_SLAVE_ID", AGENT_ID.into()),
        ("MESOS_AGENT_ENDPOINT", endpoint.clone()),
        ("MESOS_SLAVE_PID", format!("slave(1)@{endpoint}")),
        ("MESOS_NATIVE_JAVA_LIBRARY", "/usr/lib/libmesos.so".into()),
        ("LIBPROCESS_IP", "127.0.0.1".into()),
        ("SPARK_EXECUTOR_DIRS", format!("{0}/s1/bellows-F:{0}/s2/bellows-F", root.display())),
        ("MESOS_TASK_ID", "mine".into()),
        ("OWN", "x=y z".into()),
    ] {
        assert!(text.lines().any(|line| line == format!("{name}={value}")), "{name}={value} in\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("PATH=/")));
    agent.stop().await;
}

#[tokio::test]
async fn a_burst_of_tasks_all_end_in_order() {
    const TASKS: usize = 150;
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    for number in 0..TASKS {
        link.launch("F", shell(&format!("t{number}"), "true")).await;
    }
    let mut seen = std::collections::BTreeMap::<String, Vec<_>>::new();
    let mut ended = 0;
    while ended < TASKS {
        let status = link.status().await;
        link.acknowledge("F", &status).await;
        ended += usize::from(status.state() == TaskFinished);
        seen.entry(status.task_id.value.clone()).or_default().push(status.state());
    }
    assert_eq!(seen.len(), TASKS);
    for (task, states) in seen {
        assert_eq!(states, [TaskStarting, TaskRunning, TaskFinished], "{task}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_operator_sets_the_environment_home_included() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut config = config(&master, dir.path());
    let variable = |name: &str, value: &str| bellows_agent::EnvironmentVariable {
        name: name.into(),
        value: value.into(),
    };
    config.executor_environment = Some(vec![variable("HOME", "/srv/spark"), variable("OWN", "1")]);
    let agent = bellows_agent::start(config).await.expect("started");
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "env")).await;
    let statuses = link.until_end("F").await;
    let text =
        std::fs::read_to_string(sandbox(dir.path(), "F", &statuses[2]).join("stdout")).expect("stdout");
    for line in ["HOME=/srv/spark", "OWN=1", "MESOS_TASK_ID=t"] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("PATH=/")), "it would find no program");
    assert!(!text.contains("JAVA_HOME=") && !text.contains("LANG="), "{text}");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_does_not_switch_runs_every_task_as_its_own_user() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let config = bellows_agent::Config { switch_user: false, ..config(&master, dir.path()) };
    let agent = bellows_agent::start(config).await.expect("started");
    let (mut link, _) = master.register().await;
    let mut task = shell("t", "id -u; echo HOME=$HOME");
    task.command.as_mut().expect("set").user = Some("nobody-knows-me".into());
    link.launch("F", task).await;
    let statuses = link.until_end("F").await;
    assert_eq!(states(&statuses), [TaskStarting, TaskRunning, TaskFinished]);
    let text =
        std::fs::read_to_string(sandbox(dir.path(), "F", &statuses[2]).join("stdout")).expect("stdout");
    let uid = rustix::process::geteuid().as_raw();
    // A task of the agent's own user has the agent's home.
    let home = std::env::var("HOME").unwrap_or_default();
    assert_eq!(text, format!("{uid}\nHOME={home}\n"));
    agent.stop().await;
}

#[tokio::test]
async fn output_is_rotated_while_a_task_runs_and_a_failure_is_remembered() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut config = config(&master, dir.path());
    let rotation = bellows_agent::Rotation { max_bytes: 20_000, old_files: 1 };
    config.rotation = Some((rotation, std::time::Duration::from_millis(10)));
    let agent = bellows_agent::start(config).await.expect("started");
    let (mut link, _) = master.register().await;
    let print = "head -c 30000 /dev/zero; until [ -e stdout.1 ] && ! [ -s stdout ]; do sleep 0.01; done; echo after; exit 1";
    link.launch("F", shell("t", print)).await;
    let statuses = link.until_end("F").await;
    assert_eq!(states(&statuses), [TaskStarting, TaskRunning, TaskFailed]);
    let sandbox = sandbox(dir.path(), "F", &statuses[2]);
    let addr = agent.local_addr();
    let path = format!("/slaves{}", sandbox.display().to_string().split_once("/slaves").expect("below").1);
    let (status, _, text) = get(addr, &format!("/files/read?path={path}/stdout.1&offset=-1"), None).await;
    assert_eq!((status, text.contains("30000")), (200, true), "{text}");
    let (_, _, text) = get(addr, &format!("/files/read?path={path}/stdout&offset=0"), None).await;
    assert!(text.contains("after"), "{text}");
    let container = sandbox.file_name().expect("named").display().to_string();
    until(|| sandbox.with_file_name(format!(".failed.{container}")).exists()).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_tasks_of_an_agent_can_be_taken_down_with_it() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = start(&master, dir.path()).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("t", "sleep 1000")).await;
    let running = link.until_running("F").await;
    let pid = running.container_status.and_then(|status| status.executor_pid).expect("it runs");
    agent.stop_and_kill_tasks(std::time::Duration::from_secs(20), &Default::default()).await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
