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
