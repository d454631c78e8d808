//! Tasks that wait for the shuffle service of their machine.
use super::*;

/// Of an agent that knows where the service is.
fn watching() -> World {
    let mut world = World::registered();
    world.state.config.shuffle_service = true;
    world
}

fn launch(world: &mut World) {
    world.launch_with_service("F", task("t"));
    world.write_all();
}

/// Its process runs.
fn start(world: &mut World) -> ContainerId {
    launch(world);
    let container_id = only(&world.fetching);
    world.end_fetch(container_id.clone(), true);
    world.end_launch(container_id.clone(), true);
    world.write_all();
    container_id
}

/// Acknowledges whatever comes; then these were its states.
#[track_caller]
fn assert_states(world: &mut World, expected: &[TaskState]) {
    let mut acknowledged = 0;
    loop {
        world.write_all();
        let seen = world.seen.get(&key("F", "t")).cloned().unwrap_or_default();
        let Some(status) = seen.get(acknowledged) else { break };
        world.acknowledge(&key("F", "t"), status.uuid.expect("to be acknowledged"));
        acknowledged += 1;
    }
    assert_eq!(states(world, "F", "t"), expected);
}

#[test]
fn a_task_that_needs_the_shuffle_service_waits_for_it() {
    let mut world = World::registered();
    let said = world.step(Event::ShuffleService { down: true });
    assert!(
        matches!(&said[..], [Action::Send { message: AgentMessage::ShuffleService { down: true }, .. }]),
        "{said:?}"
    );
    launch(&mut world);
    assert!(world.fetching.is_empty());
    world.step(Event::ShuffleService { down: false });
    let container_id = only(&world.fetching);
    world.end_fetch(container_id.clone(), true);
    world.end_launch(container_id, true);
    world.write_all();
    assert_eq!(states(&world, "F", "t"), [TaskState::Starting]);
    world.step(Event::ShuffleService { down: true });
    run_other(&mut world);
}

/// It does not use the service, and does not wait.
fn run_other(world: &mut World) {
    world.launch("G", task("other"));
    world.write_all();
    assert_eq!(world.fetching.len(), 1);
}

#[test]
fn a_task_that_waits_for_the_shuffle_service_in_vain_fails_and_says_so() {
    let mut world = World::registered();
    world.step(Event::ShuffleService { down: true });
    launch(&mut world);
    world.now = world.now + world.state.config.shuffle_service_wait;
    world.step(Event::Tick);
    world.write_all();
    let status = last(&world, "F", "t");
    assert_eq!((status.state, status.reason), (TaskState::Failed, Some(Reason::ContainerLaunchFailed)));
    assert!(status.message.is_some_and(|message| message.contains("shuffle service")));
}

#[test]
fn a_task_that_waits_for_the_shuffle_service_can_be_killed() {
    let mut world = World::registered();
    world.step(Event::ShuffleService { down: true });
    launch(&mut world);
    let (framework_id, task_id) = key("F", "t");
    world.command(AgentCommand::Kill { framework_id, task_id, grace: None });
    world.write_all();
    assert_eq!(last(&world, "F", "t").state, TaskState::Killed);
    world.step(Event::ShuffleService { down: false });
    assert!(world.fetching.is_empty());
}

#[test]
fn a_task_is_said_to_run_only_when_the_service_has_answered_since_its_start() {
    for down_first in [false, true] {
        let mut world = watching();
        world.step(Event::ShuffleService { down: false });
        start(&mut world);
        assert_eq!(world.log.iter().filter(|action| **action == Action::AskShuffleService).count(), 1);
        assert_states(&mut world, &[TaskState::Starting]);
        if down_first {
            let said = world.step(Event::ShuffleService { down: true });
            assert_eq!(said.len(), 1, "the master hears of it: {said:?}");
            assert_states(&mut world, &[TaskState::Starting]);
        }
        world.step(Event::ShuffleService { down: false });
        assert_states(&mut world, &[TaskState::Starting, TaskState::Running]);
        world.now = world.now + world.state.config.shuffle_service_wait;
        world.step(Event::Tick);
        assert_eq!(world.running().len(), 1);
        assert!(!world.log.iter().any(|action| matches!(action, Action::Kill { .. })));
    }
}

#[test]
fn a_task_whose_service_has_gone_since_its_start_fails_after_a_while_and_says_so() {
    let mut world = watching();
    let container_id = start(&mut world);
    world.step(Event::ShuffleService { down: true });
    world.now = world.now + world.state.config.shuffle_service_wait;
    let actions = world.step(Event::Tick);
    let grace = world.state.config.kill_grace;
    assert!(actions.contains(&Action::Kill { container_id: container_id.clone(), grace }), "{actions:?}");
    // Too late: its process is on its way out.
    world.step(Event::ShuffleService { down: false });
    world.exit(container_id, Exit::Signaled(15));
    assert_states(&mut world, &[TaskState::Starting, TaskState::Failed]);
    let status = last(&world, "F", "t");
    assert_eq!(status.reason, Some(Reason::ContainerLaunchFailed));
    assert!(status.message.is_some_and(|message| message.contains("has not answered for 60 s")));
}

#[test]
fn a_task_that_ends_before_the_service_answers_never_ran_for_its_framework() {
    let mut world = watching();
    let container_id = start(&mut world);
    world.exit(container_id, Exit::Exited(0));
    world.step(Event::ShuffleService { down: false });
    assert_states(&mut world, &[TaskState::Starting, TaskState::Finished]);
}

#[test]
fn an_agent_that_was_restarted_asks_again_before_it_says_that_a_task_runs() {
    let mut world = watching();
    start(&mut world);
    world.crash();
    world.connect();
    assert_eq!(world.log.iter().filter(|action| **action == Action::AskShuffleService).count(), 2);
    assert_states(&mut world, &[TaskState::Starting]);
    world.step(Event::ShuffleService { down: false });
    assert_states(&mut world, &[TaskState::Starting, TaskState::Running]);
}

#[test]
fn who_uses_no_service_and_where_none_is_known_nobody_asks() {
    let mut world = watching();
    run(&mut world, "F", "t");
    assert_states(&mut world, &[TaskState::Starting, TaskState::Running]);
    let mut world = World::registered();
    start(&mut world);
    assert_states(&mut world, &[TaskState::Starting, TaskState::Running]);
    assert!(!world.log.contains(&Action::AskShuffleService));
}
