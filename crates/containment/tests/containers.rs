//! Containers from launch to forgetting, with real shims and real processes.
mod root;

use bellows_containment::{
    Config, Containerizer, Exit, ExitEvent, ExitStatus, LaunchError, LaunchSpec, Owner, Recovered,
    RecoveredState, Run, Sandboxes,
};
use bellows_model::{ContainerId, EnvironmentVariable};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead, BufReader, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::sync::mpsc::Receiver;

const EXE: &str = env!("CARGO_BIN_EXE_containment-test");
/// Longer than any test takes: where it is given, something else must end the task.
const FOR_EVER: Duration = Duration::from_secs(3600);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("temporary directory") };
        fs::create_dir(place.sandbox()).expect("sandbox");
        place
    }

    fn meta_root(&self) -> PathBuf {
        self.dir.path().join("meta")
    }

    fn register(&self) -> String {
        fs::read_to_string(self.meta_root().join("containers")).expect("register")
    }

    fn sandbox(&self) -> PathBuf {
        self.dir.path().join("sandbox")
    }

    /// No other test's: processes without a shim are found by it.
    fn survivor(&self) -> ContainerId {
        self.dir
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .expect("plain")
            .trim_start_matches('.')
            .into()
    }

    fn agent(&self) -> (Containerizer, Receiver<ExitEvent>) {
        let config = Config { shim_exe: EXE.into(), ..Config::new(self.meta_root()) };
        Containerizer::new(config).expect("meta root")
    }

    fn shell(&self, id: &str, command: &str) -> LaunchSpec {
        LaunchSpec {
            container_id: ContainerId::from(id),
            sandbox: self.sandbox(),
            shell: true,
            value: command.into(),
            arguments: Vec::new(),
            environment: vec![variable("PATH", "/usr/bin:/bin")],
            user: None,
        }
    }

    fn output(&self) -> String {
        fs::read_to_string(self.sandbox().join("stdout")).expect("stdout")
    }

    /// Waits until the task has written a whole first line that holds a pid.
    async fn reported_pid(&self, file: &str) -> u32 {
        let path = self.sandbox().join(file);
        loop {
            if let Ok(text) = fs::read_to_string(&path)
                && text.ends_with('\n')
            {
                return text.trim().parse().expect("a pid");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn variable(name: &str, value: &str) -> EnvironmentVariable {
    EnvironmentVariable { name: name.into(), value: value.into() }
}

fn exited(code: i32) -> Exit {
    Exit { status: ExitStatus::Exited(code), reason: None }
}

fn signaled(signal: i32) -> Exit {
    Exit { status: ExitStatus::Signaled(signal), reason: None }
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn shim_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
    let (_, rest) = stat.rsplit_once(')').expect("well formed");
    rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).expect("parent")
}

/// The zygote that was started from this very file.
fn zygote_of(exe: &Path) -> u32 {
    let pids = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        name_of(*pid) == "bellows-zygote"
            && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == exe)
    };
    pids.into_iter().find(is_it).expect("there is one")
}

/// As `ps` shows it.
fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn kill_dash_nine(pid: u32) {
    send(pid, Signal::KILL);
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).expect("pid"), signal).expect("it lives");
}

async fn next_exit(exits: &mut Receiver<ExitEvent>) -> Exit {
    exits.recv().await.expect("the containerizer lives").exit
}

#[tokio::test]
async fn exit_statuses_and_output() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let launched =
        agent.launch(place.shell("a", "echo $$; echo $PWD; echo no >&2; exit 7")).await.expect("launched");
    let event = exits.recv().await.expect("event");
    assert_eq!(event, ExitEvent { container_id: "a".into(), exit: exited(7) });
    let sandbox = place.sandbox().canonicalize().expect("exists");
    assert_eq!(place.output(), format!("{}\n{}\n", launched.pid, sandbox.display()));
    assert_eq!(fs::read_to_string(sandbox.join("stderr")).expect("stderr"), "no\n");

    agent.launch(place.shell("b", "kill -SEGV $$")).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, signaled(11));

    // The ids are taken until they are forgotten.
    let again = agent.launch(place.shell("a", "true")).await;
    assert!(matches!(again, Err(LaunchError::Exists(_))), "{again:?}");
    agent.forget(&"a".into()).await.expect("forgotten");
    agent.launch(place.shell("a", "echo more")).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(0));
    assert!(place.output().ends_with("\nmore\n"), "appended: {}", place.output());
}

#[tokio::test]
async fn arguments_and_environment_are_exactly_those_given() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let spec = LaunchSpec {
        shell: false,
        value: "env".into(),
        arguments: vec!["env".into()],
        environment: vec![
            variable("A", "1"),
            variable("PATH", "/bin:/usr/bin"),
            variable("A", "two words\n\u{1F40E}"),
        ],
        ..place.shell("env", "")
    };
    agent.launch(spec).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(0));
    let expected = "A=two words\n\u{1F40E}\nBELLOWS_CONTAINER_ID=env\nPATH=/bin:/usr/bin\n";
    assert_eq!(place.output(), expected);

    // argv[0] is the caller's; the mask, the dispositions and the open files are a fresh program's.
    // (The last seven digits are signals 1 to 28; the C library keeps 32 and 33 to itself.)
    let status = "grep SigBlk /proc/self/status; grep SigIgn /proc/self/status | tail -c 8";
    let command = format!("{status}; ls /proc/self/fd; readlink /proc/self/fd/0");
    let spec = LaunchSpec {
        shell: false,
        value: "/bin/sh".into(),
        arguments: vec!["called".into(), "-c".into(), format!("echo $0; {command}")],
        sandbox: place.dir.path().join("two"),
        ..place.shell("argv", "")
    };
    fs::create_dir(&spec.sandbox).expect("sandbox");
    let stdout = spec.sandbox.join("stdout");
    agent.launch(spec).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(0));
    let output = fs::read_to_string(stdout).expect("stdout");
    let none = "0000000000000000";
    // 3 is the directory that ls itself reads.
    let expected = format!("called\nSigBlk:\t{none}\n0000000\n0\n1\n2\n3\n/dev/null\n");
    assert_eq!(output, expected);
}

#[tokio::test]
async fn a_large_environment_arrives_whole() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let mut spec = place.shell("large", "echo ${#V9}");
    spec.environment.extend((0..10).map(|i| variable(&format!("V{i}"), &"x".repeat(100_000))));
    agent.launch(spec).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(0));
    assert_eq!(place.output(), "100000\n");
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let place = Place::new();
    let (agent, _exits) = place.agent();
    let missing = LaunchSpec { shell: false, value: "/no/such/program".into(), ..place.shell("x", "") };
    let why = agent.launch(missing).await.expect_err("no such program").to_string();
    assert!(why.contains("/no/such/program") && why.contains("No such file"), "{why}");

    let elsewhere = LaunchSpec { sandbox: place.dir.path().join("gone"), ..place.shell("x", "true") };
    let why = agent.launch(elsewhere).await.expect_err("no sandbox").to_string();
    assert!(why.contains("gone") && why.contains("No such file"), "{why}");

    // A link that would lead the output elsewhere.
    let trap = place.dir.path().join("trap");
    fs::create_dir(&trap).expect("create");
    std::os::unix::fs::symlink(place.dir.path().join("elsewhere"), trap.join("stdout")).expect("link");
    let why =
        agent.launch(LaunchSpec { sandbox: trap, ..place.shell("x", "true") }).await.expect_err("a link");
    assert!(why.to_string().contains("stdout"), "{why}");
    assert!(!place.dir.path().join("elsewhere").exists());

    let escaping = place.shell("../x", "true");
    assert!(agent.launch(escaping).await.is_err());
    assert!(agent.recover().await.expect("readable").is_empty());

    let config = Config { shim_exe: "/no/such/shim".into(), ..Config::new(place.meta_root()) };
    let (agent, _exits) = Containerizer::new(config).expect("meta root");
    let why = agent.launch(place.shell("x", "true")).await.expect_err("no shim").to_string();
    assert!(why.contains("/no/such/shim"), "{why}");
    assert!(agent.recover().await.expect("readable").is_empty());
}

#[tokio::test]
async fn a_kill_reaches_the_whole_tree_and_leaves_it_time() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    // The grandchild is in a session of its own, and takes its time for a goodbye.
    let grandchild = r#"setsid sh -c 'trap "echo bye >> farewell; exit" TERM; echo $$ > grandchild; while :; do sleep 0.01; done' & "#;
    agent.launch(place.shell("tree", &format!("{grandchild} wait"))).await.expect("launched");
    let grandchild = place.reported_pid("grandchild").await;
    assert!(agent.usage(&"tree".into()).await.expect("runs").processes >= 2);
    assert!(agent.kill(&"tree".into(), FOR_EVER));
    assert_eq!(next_exit(&mut exits).await, signaled(15));
    assert!(!lives(grandchild));
    assert_eq!(fs::read_to_string(place.sandbox().join("farewell")).expect("it said goodbye"), "bye\n");
    assert!(!agent.kill(&"tree".into(), FOR_EVER), "nothing runs any more");
    assert!(agent.usage(&"tree".into()).await.is_none());
}

#[tokio::test]
async fn who_ignores_term_is_killed_after_the_grace() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let stubborn = r#"trap "" TERM; setsid sh -c 'echo $$ > grandchild; while :; do sleep 1; done' & echo $$ > main; while :; do sleep 1; done"#;
    agent.launch(place.shell("stubborn", stubborn)).await.expect("launched");
    let (main, grandchild) = (place.reported_pid("main").await, place.reported_pid("grandchild").await);
    assert!(agent.kill(&"stubborn".into(), Duration::from_millis(30)));
    assert_eq!(next_exit(&mut exits).await, signaled(9));
    assert!(!lives(main) && !lives(grandchild));
}

#[tokio::test]
async fn a_second_kill_shortens_the_grace() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    agent
        .launch(place.shell("s", r#"trap "" TERM; echo $$ > main; while :; do sleep 1; done"#))
        .await
        .expect("launched");
    place.reported_pid("main").await;
    assert!(agent.kill(&"s".into(), FOR_EVER));
    assert!(agent.kill(&"s".into(), Duration::ZERO));
    assert_eq!(next_exit(&mut exits).await, signaled(9));
}

#[tokio::test]
async fn what_the_main_process_leaves_behind_goes_with_it() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let command = "setsid sh -c 'trap \"\" TERM HUP; echo $$ > daemon; while :; do sleep 1; done' & while ! [ -s daemon ]; do sleep 0.01; done; exit 3";
    agent.launch(place.shell("leaves", command)).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(3));
    assert!(!lives(place.reported_pid("daemon").await));
}

/// Starts another process that launches the container, waits until it runs, and kills that process.
fn agent_that_died(place: &Place, command: &str) -> u32 {
    let mut agent = Command::new(EXE)
        .args(["agent".as_ref(), place.meta_root().as_os_str(), place.sandbox().as_os_str()])
        .args([place.survivor().as_str(), command])
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawned");
    let mut line = String::new();
    BufReader::new(agent.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
    agent.kill().expect("killed");
    agent.wait().expect("waited");
    line.trim().parse().expect("a pid")
}

#[tokio::test]
async fn a_task_outlives_its_agent_and_is_found_again() {
    let place = Place::new();
    let pid = agent_that_died(&place, "while ! [ -e go ]; do sleep 0.01; done; exit 5");
    assert!(lives(pid));
    let (agent, mut exits) = place.agent();
    let recovered = agent.recover().await.expect("readable");
    let running = Recovered { container_id: place.survivor(), state: RecoveredState::Running { pid } };
    assert_eq!(recovered, [running]);
    assert!(agent.forget(&place.survivor()).await.is_err(), "it runs");
    fs::write(place.sandbox().join("go"), "").expect("written");
    assert_eq!(next_exit(&mut exits).await, exited(5));
    agent.forget(&place.survivor()).await.expect("forgotten");
    assert!(agent.recover().await.expect("readable").is_empty());
}

#[tokio::test]
async fn a_recovered_task_can_be_killed() {
    let place = Place::new();
    agent_that_died(&place, "exec sleep 1000");
    let (agent, mut exits) = place.agent();
    agent.recover().await.expect("readable");
    assert!(agent.kill(&place.survivor(), FOR_EVER));
    assert_eq!(next_exit(&mut exits).await, signaled(15));
}

#[tokio::test]
async fn an_exit_while_no_agent_ran_is_found() {
    let place = Place::new();
    agent_that_died(&place, "exit 9");
    while !place.register().contains("Exited") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (agent, _exits) = place.agent();
    let recovered = agent.recover().await.expect("readable");
    assert_eq!(
        recovered,
        [Recovered { container_id: place.survivor(), state: RecoveredState::Ended(exited(9)) }]
    );
}

const FAMILY: &str = r#"setsid sh -c 'echo $$ > grandchild; while :; do sleep 1; done' & echo $$ > main; while :; do sleep 1; done"#;

#[tokio::test]
async fn a_killed_shim_takes_its_tree_with_it() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let pid = agent.launch(place.shell("orphan", FAMILY)).await.expect("launched").pid;
    let grandchild = place.reported_pid("grandchild").await;
    kill_dash_nine(shim_of(pid));
    let exit = next_exit(&mut exits).await;
    assert_eq!(exit.status, ExitStatus::Lost);
    assert!(exit.reason.is_some_and(|reason| reason.contains("shim")));
    assert!(!lives(pid) && !lives(grandchild));
}

#[tokio::test]
async fn a_shim_killed_while_no_agent_ran_is_noticed() {
    let place = Place::new();
    let pid = agent_that_died(&place, FAMILY);
    let grandchild = place.reported_pid("grandchild").await;
    let shim = shim_of(pid);
    kill_dash_nine(shim);
    while lives(shim) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (agent, _exits) = place.agent();
    let recovered = agent.recover().await.expect("readable");
    let [Recovered { state: RecoveredState::Ended(exit), .. }] = &recovered[..] else {
        panic!("{recovered:?}")
    };
    assert_eq!(exit.status, ExitStatus::Lost);
    assert!(!lives(pid) && !lives(grandchild));
}

#[tokio::test]
async fn a_zygote_that_is_killed_or_hangs_is_replaced_and_harms_no_task() {
    for signal in [Signal::KILL, Signal::STOP] {
        let place = Place::new();
        // Beside the binary, where a link can be: a copy could still be open for writing in a child of another test.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
        let exe = dir.path().canonicalize().expect("exists").join("shim");
        fs::hard_link(EXE, &exe).expect("linked");
        let (shim_exe, zygote_patience) = (exe.clone(), Duration::from_secs(2));
        let config = Config { shim_exe, zygote_patience, ..Config::new(place.meta_root()) };
        let (agent, mut exits) = Containerizer::new(config).expect("meta root");
        agent.launch(place.shell("first", "while ! [ -e go ]; do sleep 0.01; done")).await.expect("launched");
        let zygote = zygote_of(&exe);
        send(zygote, signal);
        agent.launch(place.shell("second", "touch go; exit 3")).await.expect("launched");
        assert!(!lives(zygote));
        let ended = [exits.recv().await.expect("event"), exits.recv().await.expect("event")];
        let of = |id: &str| {
            ended.iter().find(|event| event.container_id == id.into()).map(|event| event.exit.clone())
        };
        assert_eq!((of("first"), of("second")), (Some(exited(0)), Some(exited(3))));
    }
}

#[tokio::test]
async fn a_shim_is_named_after_its_container() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    for (id, name) in [("t", "shim-t"), ("00000000-0000-0001-c7", "shim-00-0001-c7")] {
        let launched = agent.launch(place.shell(id, "exec sleep 3600")).await.expect("launched");
        assert_eq!(name_of(shim_of(launched.pid)), name);
        agent.kill(&id.into(), Duration::ZERO);
        assert_eq!(next_exit(&mut exits).await, signaled(9));
    }
}

/// What `recover` says of a container with this state in the register.
async fn recover_state(state: &str) -> Exit {
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    let record = format!(r#"{{"container_id":"c","state":{state}}}"#);
    fs::write(place.meta_root().join("containers"), format!("{:4096}{record:4096}", "")).expect("write");
    let (agent, _exits) = place.agent();
    match &agent.recover().await.expect("readable")[..] {
        [Recovered { state: RecoveredState::Ended(exit), .. }] => exit.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn records_of_strangers_and_of_other_boots_are_lost_tasks() {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id");
    let me = std::process::id();
    // This very process's pid with another start time: the shim's pid was given away. It must survive this test.
    let identity = format!(r#"{{"pid":{me},"start":1}}"#);
    let running = |boot_id: &str| {
        format!(r#"{{"Running":{{"boot_id":"{}","shim":{identity},"task":{identity}}}}}"#, boot_id.trim())
    };
    for state in [running(&boot_id), running("another boot"), r#""Starting""#.into()] {
        let exit = recover_state(&state).await;
        assert_eq!(exit.status, ExitStatus::Lost, "{state}");
        assert!(exit.reason.is_some(), "{state}");
    }
    assert_eq!(recover_state(r#"{"Ended":{"Exited":4}}"#).await, exited(4));
}

#[tokio::test]
async fn rubbish_in_the_register_is_an_empty_slot() {
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    fs::write(place.meta_root().join("containers"), format!("{:4096}{:5000}", "{\"container_id\":\"c", "\0"))
        .expect("write");
    let (agent, mut exits) = place.agent();
    assert!(agent.recover().await.expect("readable").is_empty());
    for id in ["a", "b", "c"] {
        agent.launch(place.shell(id, "exit 1")).await.expect("launched");
        assert_eq!(next_exit(&mut exits).await, exited(1));
    }
    assert_eq!(agent.recover().await.expect("readable").len(), 3);
}

#[tokio::test]
async fn a_shim_that_comes_too_late_starts_nothing() {
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    let register = place.meta_root().join("containers");
    let record = r#"{"container_id":"late","state":"Starting"}"#;
    fs::write(&register, format!("{record:4096}")).expect("write");
    let (agent, _exits) = place.agent();
    agent.recover().await.expect("abandons it");
    let instruction = format!(
        r#"{{"boot_id":"b","register":"{}","slot":0,"container_id":"late","sandbox":"{}","shell":true,
            "value":"touch ran","arguments":[],"environment":[],"user":null}}"#,
        register.display(),
        place.sandbox().display()
    );
    let (channel, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("sockets");
    let mut zygote = Command::new(EXE).arg("shim").stdin(theirs).spawn().expect("spawned");
    let (mut conversation, shims_end) = UnixStream::pair().expect("sockets");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let descriptors = [shims_end.as_fd()];
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&channel, &[IoSlice::new(b"!")], &mut rights, SendFlags::empty()).expect("sent");
    drop(shims_end);
    let (length, _) = recv(&channel, &mut [0; 8], RecvFlags::empty()).expect("answered");
    assert_eq!(length, 4, "its pid");
    conversation.write_all(instruction.as_bytes()).expect("written");
    conversation.shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut report = String::new();
    conversation.read_to_string(&mut report).expect("text");
    assert!(report.contains("given the container up"), "{report}");
    drop(channel);
    assert!(zygote.wait().expect("waited").success(), "it ends with its agent");
    assert!(!place.sandbox().join("ran").exists());
}

#[tokio::test]
async fn a_slot_is_used_again_once_it_is_forgotten() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    for round in 0..5 {
        let id = format!("round-{round}");
        agent.launch(place.shell(&id, "true")).await.expect("launched");
        assert_eq!(next_exit(&mut exits).await, exited(0));
        agent.forget(&id.into()).await.expect("forgotten");
    }
    assert_eq!(place.register().trim(), "");
    assert_eq!(place.register().len(), 4096);
}

#[tokio::test]
async fn another_user_owns_its_files_and_has_no_more_rights() {
    if !root::may_switch_users("another_user_owns_its_files_and_has_no_more_rights") {
        return;
    }
    let nobody = Owner::resolve("nobody").expect("exists").expect("somebody else");
    let place = Place::new();
    for path in [place.dir.path(), &place.sandbox()] {
        rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o755)).expect("chmod");
    }
    std::os::unix::fs::chown(place.sandbox(), Some(nobody.uid), Some(nobody.gid)).expect("chown");
    let (agent, mut exits) = place.agent();
    let spec =
        LaunchSpec { user: Some(nobody.clone()), ..place.shell("user", "id -u; id -G; ! cat /etc/shadow") };
    agent.launch(spec).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(0));
    let groups: Vec<String> = nobody.groups.iter().map(u32::to_string).collect();
    assert_eq!(place.output(), format!("{}\n{}\n", nobody.uid, groups.join(" ")));
    assert_eq!(owner_of(&place.sandbox().join("stdout")), nobody.uid);
}

#[test]
fn a_sandbox_is_given_to_the_user() {
    if !root::may_switch_users("a_sandbox_is_given_to_the_user") {
        return;
    }
    let nobody = Owner::resolve("nobody").expect("exists").expect("somebody else");
    let dir = tempfile::tempdir().expect("temporary directory");
    let run = Run {
        agent_id: "S0".into(),
        framework_id: "F-0000".into(),
        executor_id: "0".into(),
        container_id: "c".into(),
    };
    let sandbox = Sandboxes::new(dir.path()).create(&run, Some(&nobody)).expect("created");
    assert_eq!(owner_of(&sandbox), nobody.uid);
}

fn owner_of(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).expect("exists"))
}

#[tokio::test]
async fn a_full_disk_swallows_no_exit_status() {
    if !root::may_mount("a_full_disk_swallows_no_exit_status") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    let meta_root = place.meta_root();
    let disk = root::SmallDisk::mount(&meta_root, "64k");
    let (agent, mut exits) = place.agent();
    let waits = "while ! [ -e go ]; do sleep 0.01; done; exit 6";
    agent.launch(place.shell("a", waits)).await.expect("launched");
    disk.fill();
    fs::write(place.sandbox().join("go"), "").expect("written");
    assert_eq!(next_exit(&mut exits).await, exited(6));
    let why = agent.launch(place.shell("b", "true")).await.expect_err("no place for a record").to_string();
    assert!(why.contains("containers") && why.contains("No space left"), "{why}");
}
