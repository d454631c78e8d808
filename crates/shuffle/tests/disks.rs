//! A disk that fails or fills names itself, and the others go on.

#[path = "../../containment/tests/root/mod.rs"]
mod root;
mod support;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use bellows_transport::message::{ChunkId, Message};
use support::{Bench, Client, eventually};

/// The smaller block is copied into the answer, the larger goes by `sendfile`.
const LENGTHS: [usize; 2] = [1000, 3 << 20];

/// A file that ends before its index says is what a failing disk looks like without one at hand.
#[tokio::test]
async fn a_disk_that_fails_is_named_and_others_go_on() {
    let mut bench = Bench::new();
    bench.config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    let (bad, good) = (bench.executor_on("disk1", "app", "1"), bench.executor_on("disk2", "app", "2"));
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    for executor in [&bad, &good] {
        executor.map_output(0, 1, &LENGTHS);
        client.register(executor).await;
        client.fetch(&executor.fetch(0, &[(1, &[0, 1])], false)).await.expect("blocks");
    }
    let data = std::fs::File::options().write(true).open(bad.path("shuffle_0_1_0.data")).expect("there");
    data.set_len(500).expect("truncated");

    // Final for the small one: nothing of its answer had left.
    let error = client.fetch(&bad.fetch(0, &[(1, &[0])], false)).await.expect_err("half is gone");
    assert!(error.contains("disk1"), "{error}");
    // The large one's answer had begun.
    let (stream, _) = client.open(&bad.fetch(0, &[(1, &[1])], false)).await;
    client.send(&[Message::ChunkFetchRequest(ChunkId { stream, chunk: 0 })]).await;
    assert_eq!(client.receive().await, None);

    let mut client = Client::connect(&service).await;
    assert!(client.fetch(&good.fetch(0, &[(1, &[0, 1])], false)).await.is_ok());
    let status = bench.admin().status().await.expect("status");
    let disk = bench.dir.path().canonicalize().expect("exists").join("disk1").display().to_string();
    assert_eq!((status.errors["disk"], status.disk_errors.len()), (2, 1), "{status:?}");
    assert_eq!(status.disk_errors[&disk], 2, "{status:?}");
    let metrics = support::get(service.metrics_addr().expect("asked for"), "/metrics").await;
    let line = format!("bellows_shuffle_disk_errors_total{{root=\"{disk}\"}} 2");
    assert!(metrics.contains(&line), "{line} is not in {metrics}");
    service.stop().await;
}

struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> SmallDisk<'a> {
        std::fs::create_dir_all(path).expect("directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(path).output();
        assert!(mounted.as_ref().is_ok_and(|outcome| outcome.status.success()), "{mounted:?}");
        SmallDisk(path)
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("ballast")).expect("created");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0).output());
    }
}

#[tokio::test]
async fn registrations_are_refused_while_their_disk_is_full_and_blocks_are_served() {
    if !root::may_mount("registrations_are_refused_while_their_disk_is_full_and_blocks_are_served") {
        return;
    }
    let bench = Bench::new();
    let work = bench.config.work_dir.clone();
    let disk = SmallDisk::mount(&work);
    let service = bench.start().await;
    let before = bench.executor("app", "before");
    before.map_output(0, 1, &[1000]);
    let mut client = Client::connect(&service).await;
    client.register(&before).await;

    disk.fill();
    let (mut taken, mut refusals) = (0, Vec::new());
    // The service must get over the first: its database takes nothing more once a write has failed.
    while refusals.len() < 2 {
        // Long names, so that what the file has room for is soon used up.
        let app = format!("app-{taken}-{}-{}", refusals.len(), "x".repeat(200));
        match client.call(&bench.executor(&app, "1").register()).await {
            Ok(_) => taken += 1,
            Err(refused) => refusals.push(refused),
        }
        assert!(taken < 20_000, "there is always room");
    }
    for refused in refusals {
        assert!(refused.starts_with("java.io.IOException") && refused.contains("No space left"), "{refused}");
    }
    assert!(client.fetch(&before.fetch(0, &[(1, &[0])], false)).await.is_ok());
    let status = service.status();
    let name = work.canonicalize().expect("exists").display().to_string();
    assert!(status.errors["store"] >= 2 && status.disk_errors[&name] >= 2, "{status:?}");
    assert_eq!(status.registered_executors, 1 + taken, "what was refused is not registered");

    disk.free();
    client.register(&bench.executor("after", "1")).await;
    drop(client);
    service.stop().await;
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    assert_eq!(service.status().registered_executors, 2 + taken);
    assert!(client.fetch(&before.fetch(0, &[(1, &[0])], false)).await.is_ok());
    service.stop().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_deleted_is_named_and_the_duty_stays() {
    if !root::may_mount("a_directory_that_cannot_be_deleted_is_named_and_the_duty_stays") {
        return;
    }
    let mut bench = Bench::new();
    let (stuck, free) = (bench.executor_on("disk1", "app", "1"), bench.executor_on("disk2", "app", "2"));
    let pinned = stuck.dirs[0].join("00");
    let mount = SmallDisk::mount(&pinned);
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    client.register(&stuck).await;
    client.register(&free).await;
    // A mount point cannot be removed, and who asks again is told so again.
    for directories in [1, 0] {
        let removal = bench.admin().remove_app("app").await.expect("answered");
        assert_eq!((removal.kept.len(), removal.directories), (1, directories), "{removal:?}");
        assert!(removal.kept[0].contains("disk1") && !support::exists(&free.dirs[0]), "{removal:?}");
    }
    assert_eq!(service.status().disk_errors.len(), 1);
    drop(mount);
    service.stop().await;
    let service = bench.start().await;
    eventually("the rest goes after a restart", async || (!support::exists(&stuck.dirs[0])).then_some(()))
        .await;
    service.stop().await;
}

fn mount_kept(kept: &Path, at: &Path) {
    let mounted = Command::new("mount").arg("--bind").args([kept, at]).output();
    assert!(mounted.as_ref().is_ok_and(|outcome| outcome.status.success()), "{mounted:?}");
}

#[tokio::test]
async fn a_disk_that_is_unmounted_is_told_and_what_lies_there_is_not_taken_for_gone() {
    if !root::may_mount("a_disk_that_is_unmounted_is_told_and_what_lies_there_is_not_taken_for_gone") {
        return;
    }
    let mut bench = Bench::new();
    bench.config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    bench.config.disk_check_interval = std::time::Duration::from_millis(20);
    let kept = bench.dir.path().canonicalize().expect("exists").join("kept");
    let _kept = SmallDisk::mount(&kept);
    let root = bench.dir.path().canonicalize().expect("exists").join("disk1");
    std::fs::create_dir(&root).expect("directory");
    mount_kept(&kept, &root);
    let mounted = SmallDisk(&root);
    let (away, good) = (bench.executor_on("disk1", "app", "1"), bench.executor_on("disk2", "app", "2"));
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    client.register(&away).await;
    client.register(&good).await;
    away.map_output(0, 1, &LENGTHS);
    let name = root.display().to_string();
    let left_out = || service.status().disks_left_out.get(&name).cloned();
    client.fetch(&away.fetch(0, &[(1, &[0])], false)).await.expect("a block");

    drop(mounted);
    let why = eventually("it is told", async || left_out()).await;
    assert!(why.contains("nothing is mounted") && service.status().disks_left_out.len() == 1, "{why}");
    let metrics = support::get(service.metrics_addr().expect("asked for"), "/metrics").await;
    assert!(metrics.contains(&format!("bellows_shuffle_disk_left_out{{root=\"{name}\"}} 1")), "{metrics}");
    let removal = bench.admin().remove_app("app").await.expect("answered");
    assert!(removal.kept.iter().any(|kept| kept.contains("nothing is mounted")), "{removal:?}");
    assert!(!support::exists(&good.dirs[0]), "the other one's went");
    assert_eq!(std::fs::read_dir(&root).expect("there").count(), 0, "nothing is written beneath");

    mount_kept(&kept, &root);
    let _mounted = SmallDisk(&root);
    assert!(support::exists(&away.dirs[0]));
    eventually("it is taken back", async || left_out().is_none().then_some(())).await;
    eventually("the rest goes", async || (!support::exists(&away.dirs[0])).then_some(())).await;
    service.stop().await;
}
