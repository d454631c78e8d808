//! Containers whose agent, shim or zygote is killed.
use super::*;
use bellows_containment::{Recovered, RecoveredState};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

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
pub(super) async fn a_task_outlives_its_agent_and_is_found_again() {
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
pub(super) async fn a_recovered_task_can_be_killed() {
    let place = Place::new();
    agent_that_died(&place, "exec sleep 1000");
    let (agent, mut exits) = place.agent();
    agent.recover().await.expect("readable");
    assert!(agent.kill(&place.survivor(), FOR_EVER));
    assert_eq!(next_exit(&mut exits).await, signaled(15));
}

#[tokio::test]
pub(super) async fn an_exit_while_no_agent_ran_is_found() {
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
pub(super) async fn a_killed_shim_takes_its_tree_with_it() {
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
pub(super) async fn a_shim_killed_while_no_agent_ran_is_noticed() {
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
