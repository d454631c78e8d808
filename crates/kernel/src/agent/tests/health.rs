//! An agent that cannot run tasks, and what it says of that.
use super::super::*;
use super::world::{World, task};
use crate::Time;
use std::time::Duration;

const HERE: Fault = Fault::Agent;

/// Launches one task, whose sandbox cannot be made.
fn fail(world: &mut World, number: usize, fault: Fault) {
    world.launch("F", task(&format!("t{number}")));
    world.write_all();
    let container_id = world.fetching.pop_first().expect("it is fetched");
    world.step(Event::FetchFailed { container_id, fault, message: "/disk: Input/output error".into() });
    world.write_all();
}

fn succeed(world: &mut World, id: &str) {
    world.launch("F", task(id));
    world.write_all();
    let container_id = world.fetching.first().expect("it is fetched").clone();
    world.end_fetch(container_id.clone(), true);
    world.end_launch(container_id, true);
    world.write_all();
}

/// What the master was told last.
fn condition(world: &World) -> AgentCondition {
    let told = world.log.iter().rev().find_map(|action| match action {
        Action::Send { message: AgentMessage::Condition(condition), .. } => Some(condition.clone()),
        Action::Register { registration, .. } => Some(registration.condition.clone()),
        _ => None,
    });
    told.expect("it has registered")
}

fn wait(world: &mut World) -> Duration {
    let due = world.state.health.pause.expect("it pauses");
    let waited = Duration::from_nanos(due.0 - world.now.0);
    world.now = due;
    world.step(Event::Tick);
    waited
}

#[test]
fn an_agent_that_fails_every_task_stops_offering_says_why_and_tries_again() {
    let mut world = World::registered();
    (0..2).for_each(|number| fail(&mut world, number, HERE));
    assert!(!condition(&world).paused);
    fail(&mut world, 2, HERE);
    let told = condition(&world);
    assert!(told.paused && told.troubles[0].contains("/disk: Input/output error"), "{told:?}");
    let complaint = |over| {
        let of = move |action: &&Action| matches!(action, Action::Trouble { over: is, .. } if *is == over);
        move |world: &World| world.log.iter().filter(of).count()
    };
    assert_eq!((complaint(false)(&world), complaint(true)(&world)), (1, 0));
    // A task that was under way to it already changes nothing.
    fail(&mut world, 3, HERE);
    assert_eq!(wait(&mut world), world.state.config.pause_min);
    assert!(!condition(&world).paused);
    assert_eq!(complaint(true)(&world), 1);
    for (number, doubled) in [20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        fail(&mut world, 100 + number, HERE);
        assert!(condition(&world).paused, "one is enough now");
        assert_eq!(wait(&mut world), Duration::from_secs(doubled));
    }
    succeed(&mut world, "works");
    fail(&mut world, 1_000_000, HERE);
    assert!(!condition(&world).paused, "it has begun to count anew");
}

#[test]
fn what_is_the_tasks_own_doing_says_nothing_of_the_agent() {
    let mut world = World::registered();
    for number in 0..20 {
        fail(&mut world, number, Fault::Task);
    }
    assert_eq!(condition(&world), AgentCondition::default());
    // Between failures here it changes nothing either; a success does.
    fail(&mut world, 20, HERE);
    fail(&mut world, 21, HERE);
    succeed(&mut world, "works");
    fail(&mut world, 22, HERE);
    fail(&mut world, 23, Fault::Task);
    fail(&mut world, 24, HERE);
    assert!(!condition(&world).paused);
    fail(&mut world, 25, HERE);
    assert!(condition(&world).paused);
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_the_agents_own_fault() {
    let mut world = World::registered();
    for number in 0..3 {
        world.launch("F", task(&format!("t{number}")));
        world.fail_writes();
    }
    assert!(condition(&world).paused);
}

fn disks(work_dir: Option<&str>, shuffle: &[(&str, Option<&str>)]) -> Event {
    let text = |why: &str| why.to_owned();
    Event::DisksFound(Disks {
        work_dir: work_dir.map(text),
        shuffle: shuffle.iter().map(|(disk, out)| (text(disk), out.map(text))).collect(),
    })
}

#[test]
fn one_bad_disk_is_told_and_only_without_any_nothing_is_offered() {
    let mut world = World::registered();
    world.step(disks(None, &[("/a", None), ("/b", None)]));
    assert_eq!(condition(&world), AgentCondition::default());
    world.step(disks(None, &[("/a", None), ("/b", Some("Read-only file system"))]));
    let told = condition(&world);
    assert!(!told.paused);
    assert_eq!(told.troubles, ["the shuffle directory /b is left out: Read-only file system"]);
    let again = world.step(disks(None, &[("/a", None), ("/b", Some("Read-only file system"))]));
    assert_eq!(again, [], "nothing has changed");
    world.step(disks(None, &[("/a", Some("gone")), ("/b", Some("Read-only file system"))]));
    assert!(condition(&world).paused);
    // Another master hears of it with the registration.
    world.connect();
    assert_eq!(condition(&world).troubles.len(), 2);
    world.step(disks(None, &[("/a", None), ("/b", None)]));
    assert_eq!(condition(&world), AgentCondition::default());
    world.step(disks(Some("Input/output error"), &[]));
    assert!(condition(&world).paused);
    world.step(disks(None, &[]));
    assert_eq!(condition(&world), AgentCondition::default());
}

#[test]
fn a_disk_that_is_well_again_ends_the_pause_that_it_was_the_reason_for() {
    let mut world = World::registered();
    (0..3).for_each(|number| fail(&mut world, number, HERE));
    world.step(disks(Some("Input/output error"), &[]));
    world.step(disks(None, &[]));
    assert_eq!(condition(&world), AgentCondition::default());
    assert_eq!(
        world.state.next_deadline().filter(|due| *due <= world.now + Duration::from_secs(9)),
        None::<Time>
    );
}

#[test]
fn what_a_disk_holds_of_frameworks_that_have_ended_goes_when_it_is_back() {
    let mut world = World::registered();
    assert_eq!(world.step(Event::DiskBack), [Action::FindShuffle]);
    // Before a master has said who is wanted here, nothing is deleted.
    let mut world = World::new();
    assert_eq!(world.step(Event::DiskBack), []);
}

#[test]
fn a_registration_waits_for_the_end_of_what_nobody_remembers() {
    let stray = || {
        let mut world = World::registered();
        world.containers.insert("stray".into(), RecoveredContainer::Running { pid: 7 });
        world.crash();
        let killed = Action::Kill { container_id: "stray".into(), grace: Duration::ZERO };
        assert!(
            world.log.contains(&killed) && matches!(world.log[world.log.len() - 2], Action::Trouble { .. })
        );
        world.log.clear();
        world.connect();
        assert_eq!(world.log, [], "its CPUs would be sold twice");
        world
    };
    let registers = |world: &World| matches!(world.log[..], [.., Action::Register { .. }]);
    let mut world = stray();
    world.exit("stray".into(), Exit::Signaled(9));
    assert!(registers(&world) && world.log.contains(&Action::Forget { container_id: "stray".into() }));
    // One that cannot be killed keeps the machine out of use no longer than that.
    let mut world = stray();
    world.now = world.now + world.state.config.strays_wait;
    world.step(Event::Tick);
    assert!(registers(&world));
    // The connection may end meanwhile.
    let mut world = stray();
    world.step(Event::LinkClosed { link: LinkId(world.links) });
    world.exit("stray".into(), Exit::Signaled(9));
    assert!(!registers(&world));
    world.connect();
    assert!(matches!(world.state.master, Master::Registered(_)));
}
