//! A work directory without room: tasks fail with a clear message, and the agent recovers when there is room again.
mod fake;
#[path = "../../containment/tests/root/mod.rs"]
mod root;

use bellows_wire::v1::{self, TaskState::*};
use fake::*;

#[tokio::test]
async fn tasks_fail_clearly_on_a_full_disk_and_run_again_after_it() {
    if !root::may_mount("tasks_fail_clearly_on_a_full_disk_and_run_again_after_it") {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary");
    let disk = root::SmallDisk::mount(dir.path(), "6m");
    let mut master = Master::start().await;
    let agent = start(&master, &dir.path().join("work")).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("before", "true")).await;
    assert_eq!(link.until_end("F").await.last().expect("an end").state(), TaskFinished);
    disk.fill();
    // A few find room inside of the checkpoint's file, for a while or for ever.
    for number in 0..LARGE_TASKS {
        link.launch("F", large(&format!("large{number}"))).await;
    }
    let mut ends = Vec::new();
    while ends.len() < LARGE_TASKS {
        ends.push(link.until_end("F").await.pop().expect("an end"));
    }
    let failed = ends.iter().find(|end| end.state() == TaskFailed).expect("one finds no room");
    let message = failed.message();
    assert!(message.contains("No space left on device"), "{message}");
    assert!(message.contains(&dir.path().display().to_string()), "names what is full: {message}");
    disk.free();
    in_time(async {
        for number in 0.. {
            link.launch("F", shell(&format!("after{number}"), "true")).await;
            if link.until_end("F").await.last().expect("an end").state() == TaskFinished {
                break;
            }
        }
    })
    .await;
    agent.stop().await;
    // The checkpoint is whole again.
    let agent = start(&master, &dir.path().join("work")).await;
    let (_link, register) = master.register().await;
    assert_eq!(register.frameworks.len(), 1);
    agent.stop().await;
}

/// More than the checkpoint's file has room for.
const LARGE_TASKS: usize = 64;

/// A task whose record in the checkpoint takes as much as labels may.
fn large(id: &str) -> v1::TaskInfo {
    let mut task = shell(id, "true");
    let label = v1::Label { key: "LARGE".into(), value: Some("x".repeat(60 << 10)) };
    task.labels = Some(v1::Labels { labels: vec![label] });
    task
}
