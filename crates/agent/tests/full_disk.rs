//! A work directory without room: tasks fail with a clear message, and the agent recovers when there is room again.
mod fake;
#[path = "../../containment/tests/root/mod.rs"]
mod root;

use bellows_wire::v1::TaskState::*;
use fake::*;
use std::{io::Write, path::Path, process::Command};

/// Of a few MB, gone when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(path).output();
        assert!(mounted.as_ref().is_ok_and(|outcome| outcome.status.success()), "{mounted:?}");
        Self(path)
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("ballast")).expect("created");
        let block = [0; 4096];
        while file.write_all(&block).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[tokio::test]
async fn tasks_fail_clearly_on_a_full_disk_and_run_again_after_it() {
    if !root::may_mount("tasks_fail_clearly_on_a_full_disk_and_run_again_after_it") {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary");
    let disk = SmallDisk::mount(dir.path());
    let mut master = Master::start().await;
    let agent = start(&master, &dir.path().join("work")).await;
    let (mut link, _) = master.register().await;
    link.launch("F", shell("before", "true")).await;
    assert_eq!(link.until_end("F").await.last().expect("an end").state(), TaskFinished);
    disk.fill();
    // The checkpoint may have room inside of its file for a while.
    let mut failed = None;
    for number in 0..2_000 {
        link.launch("F", shell(&format!("t{number}"), "true")).await;
        let end = link.until_end("F").await.pop().expect("an end");
        if end.state() == TaskFailed {
            failed = Some(end);
            break;
        }
    }
    let failed = failed.expect("no room");
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
