//! Random sequences of everything that can happen, restarts included.
use super::super::*;
use super::world::{World, task};
use bellows_model::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Launch(u8),
    Kill(usize),
    Acknowledge(usize),
    Write(usize),
    FailWrites,
    EndFetch(usize, bool),
    EndLaunch(usize, bool),
    Exit(usize, bool),
    Disconnect,
    Connect,
    Tick,
    ShutDown(u8),
    EndRemoval(usize, bool),
    ShuffleService(bool),
    FailHere(usize),
    FindDisks(bool),
    LoseCheckpoint,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..3u8).prop_map(Op::Launch),
        2 => any::<usize>().prop_map(Op::Kill),
        6 => any::<usize>().prop_map(Op::Acknowledge),
        8 => (1..6usize).prop_map(Op::Write),
        1 => Just(Op::FailWrites),
        5 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(n, good)| Op::EndFetch(n, good)),
        5 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(n, good)| Op::EndLaunch(n, good)),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(n, good)| Op::Exit(n, good)),
        1 => Just(Op::Disconnect),
        2 => Just(Op::Connect),
        2 => Just(Op::Tick),
        1 => (0..3u8).prop_map(Op::ShutDown),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(n, good)| Op::EndRemoval(n, good)),
        2 => any::<bool>().prop_map(Op::ShuffleService),
        2 => any::<usize>().prop_map(Op::FailHere),
        1 => any::<bool>().prop_map(Op::FindDisks),
        1 => Just(Op::LoseCheckpoint),
        1 => Just(Op::Crash),
    ]
}

fn pick<T: Clone>(items: impl IntoIterator<Item = T>, n: usize) -> Option<T> {
    let items: Vec<T> = items.into_iter().collect();
    (!items.is_empty()).then(|| items[n % items.len()].clone())
}

fn perform(world: &mut World, op: Op, tasks: &mut u32) {
    match op {
        Op::Launch(number) => {
            let framework = format!("F{number}");
            if !world.ended_frameworks.contains(framework.as_str()) {
                *tasks += 1;
                let task = task(&format!("t{tasks}"));
                match number {
                    0 => world.launch_with_service(&framework, task),
                    _ => world.launch(&framework, task),
                }
            }
        }
        Op::Kill(n) => {
            if let Some((framework_id, task_id)) = pick(world.launched_tasks.clone(), n) {
                world.command(AgentCommand::Kill { framework_id, task_id, grace: None });
            }
        }
        Op::Acknowledge(n) => {
            if let Some((key, statuses)) = pick(world.seen.clone(), n) {
                let status = statuses.last().expect("seen");
                world.acknowledge(&key, status.uuid.expect("set"));
            }
        }
        Op::Write(count) => world.write(count),
        Op::FailWrites => world.fail_writes(),
        Op::EndFetch(n, good) => {
            if let Some(container_id) = pick(world.fetching.clone(), n) {
                world.end_fetch(container_id, good);
            }
        }
        Op::EndLaunch(n, good) => {
            if let Some(container_id) = pick(world.launching.clone(), n) {
                world.end_launch(container_id, good);
            }
        }
        Op::Exit(n, good) => {
            if let Some(container_id) = pick(world.running(), n) {
                world.exit(container_id, if good { Exit::Exited(0) } else { Exit::Signaled(9) });
            }
        }
        Op::Disconnect => {
            world.step(Event::LinkClosed { link: LinkId(world.links) });
        }
        Op::Connect => world.connect(),
        Op::Tick => {
            if let Some(due) = world.state.next_deadline() {
                world.now = world.now.max(due);
                world.step(Event::Tick);
            }
        }
        Op::ShutDown(framework) => world.shut_down(&format!("F{framework}")),
        Op::EndRemoval(n, good) => {
            if let Some(framework_id) = pick(world.removing.clone(), n) {
                world.removing.remove(&framework_id);
                world.step(match good {
                    true => Event::ShuffleRemoved { framework_id },
                    false => Event::ShuffleRemovalFailed { framework_id },
                });
            }
        }
        Op::ShuffleService(down) => {
            world.step(Event::ShuffleService { down });
        }
        Op::FailHere(n) => {
            if let Some(container_id) = pick(world.fetching.clone(), n) {
                world.fetching.remove(&container_id);
                let message = "Input/output error".into();
                world.step(Event::FetchFailed { container_id, fault: Fault::Agent, message });
            }
        }
        Op::FindDisks(bad) => {
            let work_dir = bad.then(|| "Input/output error".to_owned());
            world.step(Event::DisksFound(Disks { work_dir, ..Disks::default() }));
        }
        // What waits to be written comes after it, and says the same once more.
        Op::LoseCheckpoint => {
            world.disk = Checkpoint::default();
            world.step(Event::CheckpointGone);
            world.write_all();
        }
        Op::Crash => world.crash(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_task_vanishes_and_what_is_told_is_in_order(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = World::registered();
        world.state.config.shuffle_service = true;
        let mut tasks = 0;
        for op in ops {
            perform(&mut world, op, &mut tasks);
            if world.unwritten.is_empty() {
                prop_assert_eq!(sorted(world.state.checkpoint(), &world.state), sorted(world.disk.clone(), &world.state));
            }
        }
        // A master that was not connected when a framework ended says so when the agent registers.
        world.drain();
        for key in &world.launched_tasks {
            let seen = world.seen.get(key).cloned().unwrap_or_default();
            let terminal = seen.iter().position(|status| status.state.is_terminal());
            if let Some(at) = terminal {
                prop_assert_eq!(at + 1, seen.len(), "terminal is final: {:?}", seen);
            }
            let excused = world.lost.contains(key) || world.ended_frameworks.contains(&key.0);
            prop_assert!(terminal.is_some() || excused, "{:?} vanished: {:?}", key, seen);
            let order: Vec<u8> = seen.iter().map(|status| rank(status.state)).collect();
            prop_assert!(order.is_sorted_by(|a, b| a < b), "{:?}: {:?}", key, seen);
        }
        prop_assert_eq!(world.state.tasks().count(), 0);
        prop_assert!(world.state.removals.is_empty());
        prop_assert_eq!(world.running().len(), 0);
        for framework_id in &world.ended_frameworks {
            prop_assert!(!world.state.frameworks.contains_key(framework_id));
        }
    }
}

/// In an order of its own. A framework that ends takes its tasks along, whether they are marked as killed or not.
fn sorted(mut checkpoint: Checkpoint, state: &State) -> Checkpoint {
    checkpoint.frameworks.sort_by(|a, b| a.id.cmp(&b.id));
    checkpoint.tasks.sort_by(|a, b| a.container_id.cmp(&b.container_id));
    checkpoint.removals.sort();
    for task in &mut checkpoint.tasks {
        task.killed |= state.frameworks.get(&task.framework_id).is_some_and(|framework| framework.ending);
    }
    checkpoint
}

fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Staging => 0,
        TaskState::Starting => 1,
        TaskState::Running => 2,
        TaskState::Killing => 3,
        _ => 4,
    }
}
