//! What a launched task gets: its environment, its output, its exit status; and what is said when it cannot start.
use super::*;
use bellows_containment::LaunchError;

#[tokio::test]
pub(super) async fn exit_statuses_and_output() {
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
pub(super) async fn what_cannot_start_says_why_and_leaves_nothing() {
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
