//! A disk that fails or hangs names itself and holds up nothing of the others, and all goes on when it is back: on a
//! real one, as far as the service can tell.

#[path = "support/faulty.rs"]
mod faulty;
#[path = "../../containment/tests/root/mod.rs"]
mod root;
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bellows_shuffle::Running;
use bellows_transport::message::{ChunkId, Message};
use bellows_transport::rpc::Rpc;
use faulty::{FaultyDisk, State};
use support::{Bench, Client, TestExecutor, eventually, exists};
use tokio::task::JoinSet;

/// Threads that one disk may hold: 16 that read and 4 that delete, count or look through it.
const HELD: u64 = 20;

/// Not a test of its own: the disk of the others.
#[test]
fn disk_process() {
    faulty::serve_if_asked();
}

/// A service with two disks, one of which does as it is told.
struct Scene {
    // Before the directory that it is in.
    disk: FaultyDisk,
    bench: Bench,
    good: PathBuf,
}

impl Scene {
    fn new(test: &str) -> Option<Scene> {
        if !faulty::is_possible() || !root::may_mount(test) {
            return None;
        }
        // Which error it was that a disk is said to have.
        let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
        let mut bench = Bench::new();
        let dir = bench.dir.path().canonicalize().expect("exists");
        let disk = FaultyDisk::mount(&dir, "faulty");
        let good = bench.disk();
        bench.config.allowed_roots.insert(0, disk.path.clone());
        bench.config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
        Some(Scene { disk, bench, good })
    }

    fn executor(&self, app: &str, id: &str, roots: &[&Path]) -> TestExecutor {
        let dirs = roots.iter().map(|root| root.join(app).join(format!("blockmgr-{id}")));
        TestExecutor { app: app.to_owned(), id: id.to_owned(), dirs: dirs.collect() }
    }

    fn on_good(&self, app: &str, id: &str) -> TestExecutor {
        let executor = self.executor(app, id, &[&self.good]);
        std::fs::create_dir_all(&executor.dirs[0]).expect("directory");
        executor
    }

    /// As it is told to the service, and as it writes: without the disk's knowledge, so that nothing is in memory.
    fn on_faulty(&self, app: &str, id: &str) -> (TestExecutor, TestExecutor) {
        let writes = self.executor(app, id, &[&self.disk.shown]);
        std::fs::create_dir_all(&writes.dirs[0]).expect("directory");
        (self.executor(app, id, &[&self.disk.path]), writes)
    }

    fn name(&self) -> String {
        self.disk.path.display().to_string()
    }

    async fn assert_named(&self, service: &Running) {
        let status = self.bench.admin().status().await.expect("status");
        assert!(status.errors["disk"] > 0, "{status:?}");
        assert_eq!(status.disk_errors.keys().collect::<Vec<_>>(), [&self.name()], "{status:?}");
        let metrics = support::get(service.metrics_addr().expect("asked for"), "/metrics").await;
        let line = format!("bellows_shuffle_disk_errors_total{{root=\"{}\"}} ", self.name());
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

fn block(of: &TestExecutor, map: i64) -> Rpc {
    of.fetch(0, &[(map, &[0])], false)
}

async fn read(client: &mut Client, executor: &TestExecutor, map: i64) -> Result<(), String> {
    let fetched = client.fetch(&block(executor, map)).await?;
    let written = support::block_bytes(&executor.id, 0, map, 0, fetched[0].len());
    assert!(!written.is_empty() && fetched[0] == written, "not what was written");
    Ok(())
}

#[tokio::test]
async fn a_disk_that_fails_names_itself_and_recovers() {
    let Some(mut scene) = Scene::new("a_disk_that_fails_names_itself_and_recovers") else { return };
    let service = scene.bench.start().await;
    let mut client = Client::connect(&service).await;
    let (bad, writes) = scene.on_faulty("app", "1");
    let good = scene.on_good("app", "2");
    client.register(&bad).await;
    client.register(&good).await;
    for map in 0..10 {
        writes.map_output(0, map, &[1000]);
        good.map_output(0, map, &[1000]);
    }
    let leftover = writes.write("temp_shuffle_1", b"12345");
    read(&mut client, &bad, 0).await.expect("it works");

    scene.disk.become_(State::Fails);
    let error = read(&mut client, &bad, 1).await.expect_err("fails");
    assert!(error.contains("Input/output error") && error.contains(&scene.name()), "{error}");
    read(&mut client, &good, 1).await.expect("another disk");
    let blocks = vec!["shuffle_0_2_0.data".to_owned()];
    let remove = Rpc::RemoveBlocks { app: "app".into(), executor: "1".into(), blocks };
    assert_eq!(client.call(&remove).await, Ok(Some(Rpc::BlocksRemoved { count: 0 })));
    let departed = scene.bench.admin().executor_departed("app", "1").await.expect("noted");
    assert_eq!((departed.files, exists(&leftover)), (0, true));
    scene.assert_named(&service).await;

    scene.disk.become_(State::Works);
    for map in 1..10 {
        read(&mut client, &bad, map).await.expect("it works again");
    }
    let departed = scene.bench.admin().executor_departed("app", "1").await.expect("noted");
    assert_eq!((departed.files, exists(&leftover)), (1, false));

    scene.disk.become_(State::ReadOnly);
    read(&mut client, &bad, 1).await.expect("what can be read is served");
    let removal = scene.bench.admin().remove_app("app").await.expect("answered");
    assert_eq!((removal.executors, removal.directories, removal.kept.len()), (2, 1, 1), "{removal:?}");
    assert!(removal.kept[0].contains("Read-only file system") && removal.kept[0].contains(&scene.name()));
    assert!(!exists(&good.dirs[0]) && exists(&writes.dirs[0]));
    scene.assert_named(&service).await;

    scene.disk.become_(State::Works);
    service.stop().await;
    let service = scene.bench.start().await;
    eventually("what was left is removed", async || (!exists(&writes.dirs[0])).then_some(())).await;
    service.stop().await;
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

fn make_old(dir: &Path) {
    let old = SystemTime::now() - Duration::from_secs(3600);
    let dir = std::fs::File::open(dir).expect("there");
    dir.set_times(std::fs::FileTimes::new().set_modified(old)).expect("its own");
}

/// Everything that can be asked of a disk, many times more often than it may hold threads.
fn ask_for_everything(scene: &Scene, service: &Running, bad: &TestExecutor) -> JoinSet<()> {
    let (address, admin, mut asked) = (service.local_addr(), scene.bench.admin(), JoinSet::new());
    for number in 0..100i64 {
        let (app, id) = (bad.app.clone(), bad.id.clone());
        let reads = scene.executor(&app, &id, &[&scene.disk.path]);
        asked.spawn(async move {
            read(&mut Client::connect_to(address).await, &reads, number).await.expect("a block, at last");
        });
        if number % 5 > 0 {
            continue;
        }
        let also = scene.executor("both", &format!("new-{number}"), &[&scene.disk.path, &scene.good]);
        asked.spawn(async move { Client::connect_to(address).await.register(&also).await });
        let remove = Rpc::RemoveBlocks { app, executor: id, blocks: vec![format!("rdd_1_{number}")] };
        asked.spawn(async move {
            let removed = Client::connect_to(address).await.call(&remove).await;
            assert_eq!(removed, Ok(Some(Rpc::BlocksRemoved { count: 1 })));
        });
        let admin = admin.clone();
        asked.spawn(async move {
            let app = format!("removed-{number}");
            let departed = admin.executor_departed(&app, "1").await.expect("noted");
            assert!(departed.known);
            let removal = admin.remove_app(&app).await.expect("removed");
            assert_eq!((removal.directories, removal.kept), (1, vec![]));
        });
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_holds_up_nothing_of_the_others() {
    let Some(mut scene) = Scene::new("a_disk_that_hangs_holds_up_nothing_of_the_others") else { return };
    // Who waits for it waits until it is back.
    scene.bench.config.limits.disk_answers_within = Duration::from_secs(3600);
    scene.bench.config.orphan_age = Some(Duration::from_secs(600));
    let (bad, writes) = scene.on_faulty("bad", "1");
    let [good, gone, silent] = ["good", "gone", "silent"].map(|app| scene.on_good(app, "1"));
    let (_, writes_both) = scene.on_faulty("both", "1");
    let both = scene.executor("both", "1", &[&scene.disk.path, &scene.good]);
    scene.on_good("both", "1");
    let service = scene.bench.start().await;
    let mut client = Client::connect(&service).await;
    for executor in [&bad, &good, &gone, &silent, &both] {
        client.register(executor).await;
    }
    for number in (0..100).step_by(5) {
        client.register(&scene.on_faulty(&format!("removed-{number}"), "1").0).await;
    }
    drop(client);
    service.stop().await;
    // The service that counts disk use would keep the size of a file that is being written.
    for number in 0..100 {
        scene.on_faulty("both", &format!("new-{number}"));
        scene.on_good("both", &format!("new-{number}"));
        writes.map_output(0, number, &[1000]);
        writes.write(&format!("rdd_1_{number}"), b"12345");
        good.map_output(0, number, &[1000]);
    }
    let [orphan, orphan_there] = [scene.on_good("old", "1"), scene.on_faulty("old", "1").1];
    make_old(&orphan.dirs[0]);
    make_old(&orphan_there.dirs[0]);

    // From its start on, so that what upkeep does at once it does beside a disk that hangs.
    scene.disk.become_(State::Hangs);
    let service = scene.bench.start().await;
    let mut client = Client::connect(&service).await;
    eventually("an orphan on the other disk goes", async || (!exists(&orphan.dirs[0])).then_some(())).await;
    let counted = eventually("disk use on the other disk is counted", async || {
        service.status().applications["good"].disk_bytes
    });
    assert_eq!(counted.await, 100 * (1000 + 16));
    let before = threads();
    let mut asked = ask_for_everything(&scene, &service, &bad);
    eventually("it holds all that it may", async || {
        (service.status().disk_waiting.get(&scene.name()) == Some(&HELD)).then_some(())
    })
    .await;

    let promise = Rpc::RegisterDriver { app: "silent".into(), heartbeat_timeout_ms: 1 };
    assert_eq!(Client::connect(&service).await.call(&promise).await, Ok(None));
    for map in 0..100 {
        read(&mut client, &good, map).await.expect("the other disk");
    }
    client.register(&scene.on_good("good", "2")).await;
    let removal = scene.bench.admin().remove_app("gone").await.expect("removed");
    assert_eq!((removal.directories, removal.kept), (1, vec![]));
    eventually("a silent driver is noticed", async || (!exists(&silent.dirs[0])).then_some(())).await;
    let admin = scene.bench.admin();
    let both_removed = tokio::spawn(async move { admin.remove_app("both").await.expect("removed") });
    eventually("its part on the other disk goes", async || (!exists(&both.dirs[1])).then_some(())).await;
    assert!(!both_removed.is_finished() && exists(&orphan_there.dirs[0]) && exists(&writes_both.dirs[0]));
    assert_eq!(service.status().disk_waiting[&scene.name()], HELD);
    assert!(threads() < before + 60, "{before}, then {}", threads());
    assert!(asked.try_join_next().is_none(), "nothing was answered for a disk that hangs");

    scene.disk.become_(State::Works);
    while let Some(answered) = asked.join_next().await {
        answered.expect("was answered");
    }
    assert_eq!(both_removed.await.expect("was answered").kept, Vec::<String>::new());
    assert!(!exists(&writes_both.dirs[0]));
    eventually("an orphan goes", async || (!exists(&orphan_there.dirs[0])).then_some(())).await;
    eventually("no thread waits", async || service.status().disk_waiting.is_empty().then_some(())).await;
    let errors = service.status().disk_errors;
    assert!(errors.is_empty(), "{errors:?}");
    service.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_disk_that_hangs_is_told_and_the_service_can_stop() {
    let test = "who_waits_for_a_disk_that_hangs_is_told_and_the_service_can_stop";
    let Some(mut scene) = Scene::new(test) else { return };
    scene.bench.config.limits.disk_answers_within = Duration::from_millis(200);
    let (bad, writes) = scene.on_faulty("app", "1");
    let good = scene.on_good("app", "2");
    let large = 1 << 20;
    for executor in [&writes, &good] {
        executor.map_output(0, 0, &[1000]);
        executor.map_output(0, 1, &[1000, large]);
    }
    let service = scene.bench.start().await;
    let mut client = Client::connect(&service).await;
    client.register(&bad).await;
    client.register(&good).await;
    read(&mut client, &bad, 1).await.expect("it works");
    eventually("upkeep has looked at it", async || service.status().disk_waiting.is_empty().then_some(()))
        .await;

    scene.disk.become_(State::Hangs);
    let new = scene.on_faulty("app", "3").0;
    for refused in [read(&mut client, &bad, 0).await, client.call(&new.register()).await.map(drop)] {
        let error = refused.expect_err("hangs");
        assert!(error.contains("does not answer") && error.contains(&scene.name()), "{error}");
    }
    // Of a large block that was found the answer had begun.
    let (stream, _) = client.open(&bad.fetch(0, &[(1, &[1])], false)).await;
    client.send(&[Message::ChunkFetchRequest(ChunkId { stream, chunk: 0 })]).await;
    assert_eq!(client.receive().await, None);
    scene.assert_named(&service).await;
    let status = service.status();
    assert!(status.disk_errors[&scene.name()] >= 3 && status.errors["disk"] >= 3, "{status:?}");
    service.stop().await;

    // What waits still holds nothing that another would need; nor does the start, though it looks for this root.
    scene.bench.config.allowed_roots.push(scene.disk.path.join("root"));
    let service = scene.bench.start().await;
    let mut client = Client::connect(&service).await;
    read(&mut client, &good, 0).await.expect("the other disk");
    read(&mut client, &bad, 0).await.expect_err("hangs");
    scene.disk.become_(State::Works);
    read(&mut client, &bad, 0).await.expect("it works again");
    client.register(&new).await;
    service.stop().await;
}

/// Spark's executors give up when they are not answered three times within 5 s.
#[tokio::test]
async fn executors_start_while_the_registrations_disk_takes_its_time_to_sync() {
    let test = "executors_start_while_the_registrations_disk_takes_its_time_to_sync";
    let Some(mut scene) = Scene::new(test) else { return };
    scene.bench.config.work_dir = scene.disk.path.clone();
    let socket = scene.bench.dir.path().join("admin.sock");
    scene.bench.config.admin_socket = Some(socket);
    let service = scene.bench.start().await;
    let mut client = Client::connect(&service).await;
    scene.disk.become_(State::SyncHangs);
    for id in 0..100 {
        client.register(&scene.on_good("app", &id.to_string())).await;
    }
    let admin = scene.bench.admin();
    let removal = tokio::spawn(async move { admin.remove_app("app").await });
    eventually("it is forgotten", async || service.status().applications.is_empty().then_some(())).await;
    client.register(&scene.on_good("other", "1")).await;
    let kept = scene.good.join("app/blockmgr-0");
    assert!(!removal.is_finished() && exists(&kept), "what is deleted is forgotten for good");

    scene.disk.become_(State::Works);
    let removal = removal.await.expect("no panic").expect("answered");
    assert_eq!((removal.executors, exists(&kept)), (100, false));
    drop(client);
    service.stop().await;
    let service = scene.bench.start().await;
    assert_eq!(service.status().registered_executors, 1);
    service.stop().await;
}
