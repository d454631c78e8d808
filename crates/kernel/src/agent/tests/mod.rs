//! One behaviour a test, then all of them at once in random order.
mod health;
mod random;
mod shuffle_service;
mod world;

use super::*;
use bellows_model::*;
use std::time::Duration;
use world::{World, task};

fn key(framework_id: &str, task_id: &str) -> (FrameworkId, TaskId) {
    (framework_id.into(), task_id.into())
}

fn only<T: Clone + Ord>(set: &std::collections::BTreeSet<T>) -> T {
    assert_eq!(set.len(), 1);
    set.first().cloned().expect("one")
}

/// A task whose process runs.
fn run(world: &mut World, framework_id: &str, task_id: &str) -> ContainerId {
    world.launch(framework_id, task(task_id));
    world.write_all();
    let container_id = only(&world.fetching);
    world.end_fetch(container_id.clone(), true);
    world.end_launch(container_id.clone(), true);
    world.write_all();
    container_id
}

fn states(world: &World, framework_id: &str, task_id: &str) -> Vec<TaskState> {
    let seen = world.seen.get(&key(framework_id, task_id));
    seen.map(|seen| seen.iter().map(|status| status.state).collect()).unwrap_or_default()
}

fn last(world: &World, framework_id: &str, task_id: &str) -> TaskStatus {
    world.seen[&key(framework_id, task_id)].last().expect("a status").clone()
}

#[test]
fn a_task_runs_and_each_status_waits_for_the_acknowledgement_of_the_one_before() {
    let mut world = World::registered();
    let container_id = run(&mut world, "F", "t");
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting]);
    world.exit(container_id.clone(), Exit::Exited(3));
    world.write_all();
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting]);
    for expected in [TaskState::Starting, TaskState::Running, TaskState::Failed] {
        let status = last(&world, "F", "t");
        assert_eq!(status.state, expected);
        assert_eq!(status.source, Source::Executor);
        assert_eq!(status.executor_id, Some("t".into()));
        assert_eq!(status.container.as_ref().map(|c| c.container_id.clone()), Some(container_id.clone()));
        assert_eq!(status.container.and_then(|c| c.executor_pid), Some(7));
        world.acknowledge(&key("F", "t"), status.uuid.expect("to be acknowledged"));
    }
    assert_eq!(
        last(&world, "F", "t").message.as_deref(),
        Some("Command exited with status 3. Its stderr ends with: /bin/x: not found")
    );
    assert_eq!(world.state.tasks().count(), 0);
    world.write_all();
    assert!(world.disk.tasks.is_empty());
    assert!(world.state.frameworks.contains_key("F"), "a framework without tasks stays");
    assert!(world.removing.is_empty());
}

#[test]
fn every_update_says_the_newest_state_that_is_durable() {
    let mut world = World::registered();
    let container_id = run(&mut world, "F", "t");
    let said = |world: &mut World| {
        let status = last(world, "F", "t");
        let from = world.log.len();
        world.acknowledge(&key("F", "t"), status.uuid.expect("to be acknowledged"));
        world.log[from..].iter().find_map(|action| match action {
            Action::Send { message: AgentMessage::StatusUpdate { status, latest_state, .. }, .. } => {
                Some((status.state, *latest_state))
            }
            _ => None,
        })
    };
    world.exit(container_id, Exit::Exited(0));
    assert_eq!(said(&mut world), Some((TaskState::Running, TaskState::Running)), "the end is not stored yet");
    world.write_all();
    world.now = world.state.next_deadline().expect("a resend");
    let resent = world.step(Event::Tick);
    let [Action::Send { message: AgentMessage::StatusUpdate { status, latest_state, .. }, .. }] = &resent[..]
    else {
        panic!("{resent:?}")
    };
    assert_eq!((status.state, *latest_state), (TaskState::Running, TaskState::Finished));
    assert_eq!(said(&mut world), Some((TaskState::Finished, TaskState::Finished)));
}

#[test]
fn nothing_is_launched_or_sent_before_it_is_durable() {
    let mut world = World::registered();
    world.launch("F", task("t"));
    assert!(world.fetching.is_empty());
    world.write_all();
    let container_id = only(&world.fetching);
    world.end_fetch(container_id.clone(), true);
    world.end_launch(container_id, true);
    assert!(states(&world, "F", "t").is_empty());
    world.write_all();
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting]);
}

#[test]
fn a_status_is_sent_again_until_it_is_acknowledged() {
    let mut world = World::registered();
    run(&mut world, "F", "t");
    let mut intervals = vec![];
    for _ in 0..9 {
        let due = world.state.next_deadline().expect("a resend");
        intervals.push(due.since(world.now).as_secs());
        world.now = due;
        let actions = world.step(Event::Tick);
        assert!(matches!(&actions[..], [Action::Send { .. }]), "{actions:?}");
    }
    assert_eq!(intervals, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    let status = last(&world, "F", "t");
    world.acknowledge(&key("F", "t"), StatusUuid([9; 16]));
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting], "another uuid acknowledges nothing");
    world.acknowledge(&key("F", "t"), status.uuid.expect("set"));
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting, TaskState::Running]);
}

#[test]
fn on_a_new_connection_everything_is_told_again() {
    let mut world = World::registered();
    run(&mut world, "F", "t");
    world.step(Event::LinkClosed { link: LinkId(world.links) });
    assert_eq!(world.state.next_deadline(), None, "nobody to send to");
    world.log.clear();
    world.connect();
    let registration = world.log.iter().find_map(|action| match action {
        Action::Register { registration, .. } => Some(registration),
        _ => None,
    });
    let registration = registration.expect("registered");
    assert_eq!(registration.info.id, Some("M-S0".into()));
    assert_eq!(registration.tasks[0].latest_state, TaskState::Running);
    assert!(world.log.iter().any(|action| matches!(action, Action::Send { .. })));
}

#[test]
fn what_is_killed_says_killed_in_every_phase() {
    for phase in 0..5 {
        let mut world = World::registered();
        world.launch("F", task("t"));
        if phase > 0 {
            world.write_all();
        }
        if phase > 1 {
            let container_id = only(&world.fetching);
            world.end_fetch(container_id, true);
        }
        if phase > 2 {
            let container_id = only(&world.launching);
            world.end_launch(container_id, phase != 3);
        }
        let kill = AgentCommand::Kill { framework_id: "F".into(), task_id: "t".into(), grace: None };
        let actions = world.command(kill);
        match phase {
            1 => assert!(actions.iter().any(|a| matches!(a, Action::CancelFetch { .. }))),
            // The launch failed by itself before the kill came.
            3 => {
                world.drain();
                assert_eq!(last(&world, "F", "t").state, TaskState::Failed);
                continue;
            }
            4 => {
                let grace = Duration::from_secs(5);
                assert!(actions.iter().any(|a| matches!(a, Action::Kill { grace: g, .. } if *g == grace)));
            }
            _ => {}
        }
        world.drain();
        let end = last(&world, "F", "t");
        assert_eq!(end.state, TaskState::Killed, "phase {phase}");
        let killing = states(&world, "F", "t").contains(&TaskState::Killing);
        assert_eq!(killing, phase == 4);
    }
}

#[test]
fn a_kill_is_remembered_over_a_restart() {
    let mut world = World::registered();
    let container_id = run(&mut world, "F", "t");
    world.command(AgentCommand::Kill { framework_id: "F".into(), task_id: "t".into(), grace: None });
    world.write_all();
    world.log.clear();
    world.crash();
    assert!(world.log.iter().any(|action| matches!(action, Action::Kill { .. })));
    world.exit(container_id, Exit::Signaled(9));
    world.drain();
    let end = last(&world, "F", "t");
    assert_eq!(end.state, TaskState::Killed);
    assert_eq!(end.message.as_deref(), Some("Command terminated with signal Killed"));
}

#[test]
fn an_end_that_overtakes_the_start_is_told_after_it() {
    let mut world = World::registered();
    world.launch("F", task("t"));
    world.write_all();
    let container_id = only(&world.fetching);
    world.end_fetch(container_id.clone(), true);
    world.exit(container_id.clone(), Exit::Exited(0));
    world.end_launch(container_id, true);
    world.drain();
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting, TaskState::Running, TaskState::Finished]);
}

#[test]
fn failures_before_the_start_say_what_failed() {
    let mut world = World::registered();
    world.launch("F", task("fetch"));
    world.write_all();
    let container_id = only(&world.fetching);
    world.end_fetch(container_id, false);
    world.launch("F", task("launch"));
    world.write_all();
    let container_id = only(&world.fetching);
    world.end_fetch(container_id.clone(), true);
    world.end_launch(container_id, false);
    world.launch("F", task("store"));
    world.fail_writes();
    world.drain();
    for (task_id, message) in [
        ("fetch", "Failed to launch container: no such file"),
        ("launch", "Failed to launch container: no such program"),
        ("store", "The agent could not checkpoint the task: disk full"),
    ] {
        let status = last(&world, "F", task_id);
        assert_eq!((status.state, status.source), (TaskState::Failed, Source::Agent));
        assert_eq!(status.reason, Some(Reason::ContainerLaunchFailed));
        assert_eq!(status.message.as_deref(), Some(message));
    }
}

#[test]
fn tasks_that_cannot_run_here_are_errors() {
    let mut world = World::registered();
    let mut docker = task("docker");
    docker.container = Some("DOCKER".into());
    let mut nothing = task("nothing");
    nothing.command = None;
    let mut mesos = task("mesos");
    mesos.container = Some("MESOS".into());
    for info in [docker, nothing, task("a/../b"), mesos] {
        world.launch("F", info);
    }
    world.drain();
    for task_id in ["docker", "nothing", "a/../b"] {
        assert_eq!(last(&world, "F", task_id).state, TaskState::Error, "{task_id}");
    }
    assert_eq!(last(&world, "F", "mesos").state, TaskState::Finished);
}

#[test]
fn a_frameworks_files_go_when_its_last_process_is_gone() {
    let mut world = World::registered();
    let container_id = run(&mut world, "F", "t");
    world.log.clear();
    world.shut_down("F");
    assert!(world.log.iter().any(|action| matches!(action, Action::Kill { .. })));
    assert!(world.removing.is_empty(), "under a living process");
    world.write_all();
    world.crash();
    world.connect();
    assert!(world.removing.is_empty());
    world.exit(container_id, Exit::Signaled(15));
    assert!(world.removing.contains("F"));
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting], "no word after the framework's end");
    for expected in [5, 10, 20] {
        world.removing.clear();
        world.step(Event::ShuffleRemovalFailed { framework_id: "F".into() });
        let due = world.state.next_deadline().expect("a retry");
        assert_eq!(due.since(world.now).as_secs(), expected);
        world.now = due;
        world.step(Event::Tick);
        assert!(world.removing.contains("F"));
    }
    world.write_all();
    world.crash();
    assert!(world.removing.contains("F"), "the duty is remembered");
    world.step(Event::ShuffleRemoved { framework_id: "F".into() });
    world.write_all();
    assert!(
        world.disk.removals.is_empty() && world.disk.frameworks.is_empty() && world.disk.tasks.is_empty()
    );
}

#[test]
fn directories_of_the_unknown_go_after_the_registration_and_those_of_the_known_stay() {
    let mut world = World::registered();
    assert!(world.log.contains(&Action::FindShuffle));
    world.launch("F", task("t"));
    world.step(Event::ShuffleFound { frameworks: vec!["F".into(), "old".into()] });
    assert_eq!(world.removing.iter().map(FrameworkId::as_str).collect::<Vec<_>>(), ["old"]);
    // A task of the framework whose files are just being deleted waits until that is over.
    world.launch("old", task("u"));
    world.write_all();
    assert_eq!(world.fetching.len(), 1);
    world.step(Event::ShuffleRemoved { framework_id: "old".into() });
    assert_eq!(world.fetching.len(), 2);
}

#[test]
fn a_restart_forgets_nothing() {
    let mut world = World::registered();
    let running = run(&mut world, "F", "running");
    let ended = run(&mut world, "F", "ended");
    world.launch("F", task("fetching"));
    world.write_all();
    world.containers.insert(ended, RecoveredContainer::Ended(Exit::Exited(0)));
    world.crash();
    assert!(world.fetching.is_empty(), "what it was to run is not kept");
    assert!(world.containers.contains_key(&running));
    world.drain();
    for task_id in ["running", "ended"] {
        assert_eq!(states(&world, "F", task_id).len(), 3, "{task_id}");
        assert_eq!(last(&world, "F", task_id).state, TaskState::Finished, "{task_id}");
    }
    assert_eq!(states(&world, "F", "fetching"), [TaskState::Lost]);
    assert_eq!(last(&world, "F", "fetching").reason, Some(Reason::AgentRestarted));
    assert!(world.lost.is_empty());
}

#[test]
fn a_task_whose_process_never_began_is_lost_or_dropped_after_a_restart() {
    for aware in [false, true] {
        let mut world = World::registered();
        let mut info = world::framework("F");
        if aware {
            info.capabilities.push(Capability::PartitionAware);
        }
        world.command(AgentCommand::Launch { framework: info.into(), task: task("t") });
        world.write_all();
        let container_id = only(&world.fetching);
        // Its shim was found before it had come to the command.
        world.containers.insert(container_id, RecoveredContainer::NotStarted);
        world.crash();
        world.drain();
        let expected = if aware { TaskState::Dropped } else { TaskState::Lost };
        assert_eq!(states(&world, "F", "t"), [expected]);
        assert!(world.containers.is_empty(), "it is forgotten");
    }
}

#[test]
fn secrets_never_reach_the_disk() {
    let mut world = World::registered();
    let mut secretive = task("t");
    let secret = "swordfish";
    let command = CommandInfo {
        shell: true,
        value: Some(format!("run --key={secret}")),
        arguments: vec![secret.into()],
        environment: vec![EnvironmentVariable { name: "_SPARK_AUTH_SECRET".into(), value: secret.into() }],
        uris: vec![Uri {
            value: format!("http://bob:{secret}@host/file?token={secret}"),
            executable: false,
            extract: true,
            cache: false,
            output_file: None,
        }],
        user: Some("bob".into()),
    };
    secretive.command = Some(command.clone());
    secretive.data = Some(secret.into());
    secretive.executor = Some(ExecutorInfo {
        executor_id: "e".into(),
        name: None,
        source: None,
        command,
        resources: Resources::new(),
        data: Some(secret.into()),
        shutdown_grace: None,
    });
    world.launch("F", secretive);
    world.write_all();
    let [stored] = &world.disk.tasks[..] else { panic!("one task") };
    let CommandInfo { shell, value, arguments, environment, uris, user } =
        stored.info.command.clone().expect("reduced");
    assert!(value.is_none() && arguments.is_empty() && environment.is_empty() && uris.is_empty());
    assert_eq!((shell, user.as_deref()), (true, Some("bob")));
    let executor = stored.info.executor.clone().expect("reduced");
    assert_eq!((stored.info.data.clone(), executor.data), (None, None));
    assert_eq!(executor.command, CommandInfo { shell: true, user: Some("bob".into()), ..Default::default() });
}

#[test]
fn a_registration_that_is_refused_costs_no_task() {
    let mut world = World::registered();
    let container_id = run(&mut world, "F", "t");
    world.step(Event::LinkClosed { link: LinkId(world.links) });
    world.links += 1;
    world.step(Event::LinkOpened { link: LinkId(world.links) });
    world.log.clear();
    world.command(AgentCommand::Refused { reason: "too few resources".into() });
    assert_eq!(world.log, [Action::Stop { reason: "too few resources".into() }]);
    world.crash();
    assert!(world.containers.contains_key(&container_id));
    world.drain();
    assert_eq!(last(&world, "F", "t").state, TaskState::Finished);
}

#[test]
fn an_agent_that_is_removed_ends_everything_and_itself() {
    let mut world = World::registered();
    let container_id = run(&mut world, "F", "t");
    world.command(AgentCommand::Refused { reason: "removed".into() });
    assert!(!world.log.iter().any(|action| matches!(action, Action::Stop { .. })));
    world.exit(container_id, Exit::Signaled(15));
    assert_eq!(world.log.last(), Some(&Action::Stop { reason: "removed".into() }));
    world.write_all();
    assert_eq!(world.disk.agent_id, None);
    assert!(world.removing.contains("F"));
}

#[test]
fn the_address_that_reaches_the_master_is_registered() {
    let mut world = World::registered();
    world.step(Event::AddressChanged { ip: "10.0.0.5".into(), hostname: "node5".into() });
    let actions = world.step(Event::LinkOpened { link: LinkId(9) });
    let [Action::Register { registration, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&*registration.info.ip, &*registration.info.hostname), ("10.0.0.5", "node5"));
}

#[test]
fn a_retiring_agent_waits_for_its_master_and_then_ends_everything() {
    let goes: [fn(&mut World); 3] = [
        |world| drop(world.command(AgentCommand::Refused { reason: "the agent unregistered".into() })),
        |world| drop(world.step(Event::LinkClosed { link: LinkId(world.links) })),
        |world| drop(world.step(Event::Retire)),
    ];
    for let_go in goes {
        let mut world = World::registered();
        let container_id = run(&mut world, "F", "t");
        let link = LinkId(world.links);
        let actions = world.step(Event::Retire);
        assert_eq!(actions, [Action::Send { link, message: AgentMessage::Unregister }]);
        let_go(&mut world);
        let killed =
            |action: &Action| matches!(action, Action::Kill { container_id: id, .. } if *id == container_id);
        assert!(world.log.iter().any(killed));
        let hurried = world.step(Event::KillAll { grace: Some(Duration::ZERO) });
        assert_eq!(hurried, [Action::Kill { container_id: container_id.clone(), grace: Duration::ZERO }]);
        world.exit(container_id, Exit::Signaled(9));
        assert!(matches!(world.log.last(), Some(Action::Stop { .. })));
        world.write_all();
        assert_eq!(world.disk.agent_id, None);
    }
}

#[test]
fn an_agent_without_a_master_retires_alone() {
    let mut world = World::new();
    let actions = world.step(Event::Retire);
    assert!(matches!(&actions[..], [Action::Stop { .. }]), "{actions:?}");
}

#[test]
fn a_status_is_short_however_long_its_reason_is() {
    let mut world = World::registered();
    world.launch("F", task("t"));
    world.write_all();
    let container_id = only(&world.fetching);
    let message = format!("Failed to fetch '{}'", "ü".repeat(40_000));
    world.step(Event::FetchFailed { container_id, fault: Fault::Task, message });
    world.write_all();
    let message = last(&world, "F", "t").message.expect("a reason");
    assert!(message.starts_with("Failed to launch container: Failed to fetch 'ü"), "{message}");
    assert!((4_000..=4_096).contains(&message.len()), "{} bytes", message.len());
}

#[test]
fn frameworks_that_say_too_much_of_themselves_do_not_make_a_registration_too_long() {
    let mut world = World::registered();
    for number in 0..400 {
        let id = format!("large{number:03}");
        let label = Label { key: "k".repeat(60_000), value: None };
        let framework = FrameworkInfo { labels: vec![label], ..world::framework(&id) };
        world.command(AgentCommand::Launch { framework: framework.into(), task: task("t") });
    }
    world.launch("small", task("t"));
    world.log.clear();
    world.connect();
    let registration = world.log.iter().find_map(|action| match action {
        Action::Register { registration, .. } => Some(registration),
        _ => None,
    });
    let registration = registration.expect("registered");
    let bytes: usize = registration.frameworks.iter().map(|info| info.bytes()).sum();
    assert!((8 << 20..=16 << 20).contains(&bytes), "{bytes} bytes");
    assert!(registration.frameworks.iter().any(|info| info.name == world::framework("small").name));
    assert_eq!(registration.tasks.len(), 401);
}
