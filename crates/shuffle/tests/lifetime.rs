//! Files go when their application goes and not before; registrations survive what kills the service.

mod support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bellows_transport::message::{ChunkId, Message};
use bellows_transport::rpc::Rpc;
use support::{Bench, Client, TestExecutor, eventually, exists};

#[tokio::test]
async fn an_application_goes_with_all_that_is_its_own_and_nothing_else() {
    let bench = Bench::new();
    let service = bench.start().await;
    let (gone, stays) = (bench.executor("app", "1"), bench.executor("other", "1"));
    let mut client = Client::connect(&service).await;
    client.register(&gone).await;
    client.register(&stays).await;
    gone.map_output(0, 1, &[100, 50]);
    stays.map_output(0, 1, &[100]);
    assert!(client.fetch(&gone.fetch(0, &[(1, &[0])], false)).await.is_ok());

    let removal = bench.admin().remove_app("app").await.expect("removed");
    assert!(removal.known);
    assert_eq!((removal.executors, removal.directories, removal.files), (1, 2, 2));
    assert_eq!((removal.bytes, removal.kept), (150 + 24, vec![]));
    assert!(!exists(&bench.disk().join("app-x")) && !exists(&bench.disk().join("app-y")));
    assert!(exists(&bench.disk()));
    assert!(client.call(&gone.fetch(0, &[(1, &[0])], false)).await.is_err());
    assert!(client.fetch(&stays.fetch(0, &[(1, &[0])], false)).await.is_ok());

    let again = bench.admin().remove_app("app").await.expect("removing twice is no error");
    assert_eq!(again, bellows_shuffle::Removal::default());
    assert_eq!(bench.admin().remove_app("never/../heard of").await.expect("nor what never was"), again);

    let driver = Rpc::RegisterDriver { app: "driver only".into(), heartbeat_timeout_ms: 60_000 };
    assert_eq!(client.call(&driver).await, Ok(None));
    let removal = bench.admin().remove_app("driver only").await.expect("removed");
    assert_eq!(removal, bellows_shuffle::Removal { known: true, ..again });
    assert!(!service.status().applications.contains_key("driver only"));
    service.stop().await;
}

#[tokio::test]
async fn a_departed_executor_leaves_only_what_is_served() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    let blocks = executor.map_output(0, 1, &[100]);
    let private = ["temp_shuffle_8f", "rdd_1_1", "broadcast_7"].map(|file| executor.write(file, b"12345"));
    let fetch = executor.fetch(0, &[(1, &[0])], false);
    client.fetch(&fetch).await.expect("block");

    let departed = bench.admin().executor_departed("app", "1").await.expect("noted");
    assert_eq!((departed.known, departed.files, departed.bytes), (true, 3, 15));
    assert!(!private.iter().any(|path| exists(path)));
    assert!(client.fetch(&fetch).await.expect("block")[0] == blocks[0]);
    let app = &bench.admin().status().await.expect("status").applications["app"];
    assert_eq!((app.executors, app.departed_executors), (0, 1));
    assert_eq!((app.bytes_served, app.departed_bytes_served, app.departed_blocks_served), (200, 100, 1));
    let unknown = bench.admin().executor_departed("app", "2").await.expect("no error");
    assert!(!unknown.known);
    service.stop().await;
}

#[tokio::test]
async fn registrations_are_refused_outside_the_roots_and_in_others_directories() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let mine = bench.executor("app", "1");
    client.register(&mine).await;
    let secret = tempfile::tempdir().expect("directory");
    let mut thief = bench.executor("thief", "1");
    std::os::unix::fs::symlink(secret.path(), bench.disk().join("link")).expect("link");
    for dir in [
        secret.path().to_owned(),
        bench.disk().join("link"),
        bench.disk().join("thief-x/../../secret"),
        mine.dirs[0].clone(),
        mine.dirs[0].parent().expect("parent").to_owned(),
    ] {
        thief.dirs = vec![dir];
        let refused = client.call(&thief.register()).await.expect_err("refused");
        assert!(refused.starts_with("java.lang.SecurityException"), "{refused}");
    }
    assert_eq!(service.status().registered_executors, 1);
    service.stop().await;
}

#[tokio::test]
async fn a_link_in_place_of_a_block_is_not_followed() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let secret = bench.dir.path().join("secret");
    std::fs::write(&secret, "secret").expect("file");
    let path = executor.write("rdd_1_1", b"");
    std::fs::remove_file(&path).expect("there");
    std::os::unix::fs::symlink(&secret, &path).expect("link");
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    assert!(client.fetch(&executor.open(&["rdd_1_1"])).await.is_err());
    // Nor is a directory that became a link after it was registered.
    let moved = bench.dir.path().join("moved");
    executor.write("rdd_2_2", b"secret too");
    for (at, dir) in executor.dirs.iter().enumerate() {
        std::fs::rename(dir, moved.with_extension(at.to_string())).expect("moved");
        std::os::unix::fs::symlink(moved.with_extension(at.to_string()), dir).expect("link");
    }
    assert!(client.fetch(&executor.open(&["rdd_2_2"])).await.is_err());
    service.stop().await;
}

#[tokio::test]
async fn a_driver_that_falls_silent_takes_its_application_along() {
    let bench = Bench::new();
    let service = bench.start().await;
    let (silent, quiet) = (bench.executor("silent", "1"), bench.executor("quiet", "1"));
    let mut client = Client::connect(&service).await;
    client.register(&silent).await;
    client.register(&quiet).await;
    silent.map_output(0, 1, &[10]);
    quiet.map_output(0, 1, &[10]);
    let promise = |app: &str| Rpc::RegisterDriver { app: app.into(), heartbeat_timeout_ms: 1 };
    let (mut driver, mut other) = (Client::connect(&service).await, Client::connect(&service).await);
    assert_eq!(driver.call(&promise("silent")).await, Ok(None));
    assert_eq!(driver.call(&Rpc::Heartbeat { app: "silent".into() }).await, Ok(None));
    // Late as well, but its connection is open, so that it is there.
    assert_eq!(other.call(&promise("late")).await, Ok(None));
    drop(driver);
    eventually("the silent application is removed", async || {
        (!service.status().applications.contains_key("silent") && !exists(&silent.dirs[0])).then_some(())
    })
    .await;
    // One whose driver promised nothing stays.
    assert!(client.fetch(&quiet.fetch(0, &[(1, &[0])], false)).await.is_ok());
    assert!(service.status().applications.contains_key("late"));
    drop(other);
    eventually("its driver is gone", async || {
        (!service.status().applications.contains_key("late")).then_some(())
    })
    .await;
    service.stop().await;
}

/// Spark's driver sends its heartbeats over the connection that it registered with, and does not notice when nobody is
/// at the other end any more.
#[tokio::test]
async fn a_driver_that_only_the_service_before_heard_is_not_taken_for_dead() {
    let bench = Bench::new();
    let promise = |app: &str| Rpc::RegisterDriver { app: app.into(), heartbeat_timeout_ms: 1 };
    let (before, after) = (bench.executor("before", "1"), bench.executor("after", "1"));
    let blocks = before.map_output(0, 1, &[100]);
    let mut config = bench.config.clone();
    config.heartbeat_cleanup = false;
    let service = bellows_shuffle::start(config).await.expect("starts");
    let mut client = Client::connect(&service).await;
    client.register(&before).await;
    assert_eq!(client.call(&promise("before")).await, Ok(None));
    service.stop().await;

    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    client.register(&after).await;
    assert_eq!(Client::connect(&service).await.call(&promise("after")).await, Ok(None));
    eventually("the other is silent for long enough", async || (!exists(&after.dirs[0])).then_some(())).await;
    assert!(client.fetch(&before.fetch(0, &[(1, &[0])], false)).await.expect("block")[0] == blocks[0]);
    // Heard again, its silence means something again.
    assert_eq!(client.call(&Rpc::Heartbeat { app: "before".into() }).await, Ok(None));
    eventually("it is silent", async || (!exists(&before.dirs[0])).then_some(())).await;
    service.stop().await;
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_finishes_what_was_begun() {
    let bench = Bench::new();
    let service = bench.start().await;
    let executor = bench.executor("app", "1");
    let blocks = executor.map_output(0, 1, &[100]);
    Client::connect(&service).await.register(&executor).await;
    bench.admin().executor_departed("app", "1").await.expect("noted");
    service.stop().await;

    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let fetch = executor.fetch(0, &[(1, &[0])], false);
    assert!(client.fetch(&fetch).await.expect("still registered")[0] == blocks[0]);
    assert_eq!(service.status().applications["app"].departed_bytes_served, 100);
    bench.admin().remove_app("app").await.expect("removed");
    service.stop().await;

    let service = bench.start().await;
    assert_eq!(service.status().registered_executors, 0);
    service.stop().await;
}

/// Not a test of its own: the service that the next test kills. Prints its port, then runs until it is killed.
#[tokio::test]
async fn service_process() {
    let Ok(dir) = std::env::var("BELLOWS_TEST_SERVICE_DIR") else { return };
    let mut config = bellows_shuffle::Config::new(dir);
    config.listen = ([127, 0, 0, 1], 0).into();
    let service = bellows_shuffle::start(config).await.expect("starts");
    let mut out = std::io::stdout();
    std::io::Write::write_all(&mut out, format!("\nlistening {}\n", service.local_addr()).as_bytes())
        .expect("writes");
    std::future::pending::<()>().await;
}

struct Process(std::process::Child);

impl Process {
    fn start(dir: &std::path::Path) -> (Process, std::net::SocketAddr) {
        use std::io::BufRead;
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "service_process", "--nocapture"])
            .env("BELLOWS_TEST_SERVICE_DIR", dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            line.strip_prefix("listening ").map(|address| address.parse().expect("an address"))
        });
        (Process(child), address.expect("the service says where it listens"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL, at whatever moment this is.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Registers and fetches until the service is gone, and returns what was answered.
async fn work_until_cut(
    bench: Arc<Bench>,
    address: std::net::SocketAddr,
    name: String,
    count: Arc<AtomicU64>,
) -> Vec<TestExecutor> {
    let (mut client, mut answered) = (Client::connect_to(address).await, Vec::new());
    for i in 0.. {
        let executor = bench.executor(&format!("app-{}", i % 3), &format!("{name}-{i}"));
        let block = executor.map_output(0, 1, &[LENGTH]).remove(0);
        match client.try_call(&executor.register()).await {
            None => break,
            Some(answer) => assert_eq!(answer, Ok(None)),
        }
        let fetch = executor.fetch(0, &[(1, &[0])], false);
        answered.push(executor);
        count.fetch_add(1, Relaxed);
        // Fetches that the kill cuts short are no errors: the client gets a whole block or none.
        let Some(opened) = client.try_call(&fetch).await else { break };
        let Ok(Some(Rpc::StreamHandle { stream, .. })) = opened else { panic!("{opened:?}") };
        let id = ChunkId { stream, chunk: 0 };
        if client.try_send(&Message::ChunkFetchRequest(id)).await.is_none() {
            break;
        }
        match client.receive().await {
            None => break,
            Some(Message::ChunkFetchSuccess { body, .. }) => assert!(body == block),
            Some(other) => panic!("{other:?}"),
        }
    }
    answered
}

/// Goes by `sendfile`.
const LENGTH: usize = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_kill_9_at_any_moment() {
    let bench = Arc::new(Bench::new());
    let work = bench.dir.path().join("killed");
    let mut answered: Vec<TestExecutor> = Vec::new();
    for round in 0..8 {
        let (process, address) = Process::start(&work);
        let mut client = Client::connect_to(address).await;
        for executor in &answered {
            let block = support::block_bytes(&executor.id, 0, 1, 0, LENGTH);
            let fetched = client.fetch(&executor.fetch(0, &[(1, &[0])], false)).await;
            assert!(fetched.expect("registered before") == [block]);
        }
        let count = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let name = format!("{round}-{worker}");
                tokio::spawn(work_until_cut(bench.clone(), address, name, count.clone()))
            })
            .collect();
        // In the first round at once, then later and later, each time a little after some answer.
        let enough = if round == 0 { 0 } else { 3 * round + rand::random_range(0..5) };
        eventually("some were answered", async || (count.load(Relaxed) >= enough).then_some(())).await;
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..3000))).await;
        drop(process);
        for worker in workers {
            answered.extend(worker.await.expect("ends with the service"));
        }
    }
    assert!(answered.len() > 50);
}

#[tokio::test]
async fn the_admin_socket_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let service = bench.start().await;
    let socket = bench.config.admin_socket.clone().expect("set");
    let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = bellows_shuffle::start(bench.config.clone()).await.map(|_| ());
    let error = second.expect_err("the directory is in use").to_string();
    let (work_dir, pid) = (bench.config.work_dir.display(), std::process::id());
    assert_eq!(error, format!("{work_dir} is in use by another shuffle service (process {pid})"));
    service.stop().await;
    assert!(!exists(&socket));
    // One that another service has put in its place meanwhile stays.
    let first = bench.start().await;
    std::fs::remove_file(&socket).expect("there");
    let mut other = bench.config.clone();
    other.work_dir = bench.dir.path().join("other");
    let second = bellows_shuffle::start(other).await.expect("starts");
    first.stop().await;
    assert!(bench.admin().status().await.is_ok());
    second.stop().await;
    // One that a kill left behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
    let service = bench.start().await;
    assert!(bench.admin().status().await.is_ok());
    service.stop().await;
}

#[tokio::test]
async fn metrics_are_told_over_tcp() {
    let mut bench = Bench::new();
    bench.config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    let service = bench.start().await;
    let executor = bench.executor("app-\"1\"", "1");
    executor.map_output(0, 1, &[100]);
    let mut client = Client::connect(&service).await;
    client.register(&executor).await;
    client.fetch(&executor.fetch(0, &[(1, &[0])], false)).await.expect("block");
    bench.admin().executor_departed(&executor.app, "1").await.expect("noted");
    let address = service.metrics_addr().expect("asked for");
    let ask = async |path: &str, method: &str| support::request(address, method, path).await;
    let text = ask("/metrics", "GET").await;
    for line in [
        "bellows_shuffle_registered_executors 1",
        "bellows_shuffle_bytes_total 100",
        "bellows_shuffle_app_bytes_total{app=\"app-\\\"1\\\"\"} 100",
        "bellows_shuffle_app_departed_executors{app=\"app-\\\"1\\\"\"} 1",
        "bellows_shuffle_request_seconds_count",
        "bellows_shuffle_errors_total{kind=\"stalled\"} 0",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(ask("/v1/status", "GET").await.contains("\"bytes_served\":100"));
    bench.admin().remove_app(&executor.app).await.expect("removed");
    let text = ask("/metrics", "GET").await;
    assert!(!text.contains("app="), "an application's figures go with it: {text}");
    assert!(text.contains("bellows_shuffle_bytes_total 100"), "{text}");
    let refused = ask("/v1/apps/app", "DELETE").await;
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    tokio::time::timeout(Duration::from_secs(30), service.stop()).await.expect("stops");
}

/// A process as Spark's standalone worker starts an executor: it is known by its arguments and its environment.
fn standalone_process(executor: &TestExecutor) -> Process {
    let above = executor.dirs[0].parent().expect("parent");
    let child = Command::new("bash")
        .args(["-c", "read line", "CoarseGrainedExecutorBackend", "--executor-id", &executor.id])
        .args(["--app-id", &executor.app])
        .env("SPARK_EXECUTOR_DIRS", above)
        .stdin(Stdio::piped())
        .spawn();
    Process(child.expect("starts"))
}

#[tokio::test]
async fn a_standalone_executor_that_ended_leaves_only_what_is_served() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let executor = |id: &str| {
        let dir = bench.disk().join(format!("spark-1/executor-1/blockmgr-{id}"));
        std::fs::create_dir_all(&dir).expect("directory");
        TestExecutor { app: "app-1".to_owned(), id: id.to_owned(), dirs: vec![dir] }
    };
    let executors = ["1", "2", "3", "unseen"].map(executor);
    // The same of another cluster: another worker made its directory.
    let mut namesake = executor("unseen");
    namesake.dirs = vec![bench.disk().join("spark-2/executor-2/blockmgr-1")];
    let mut processes: Vec<_> = executors[..3].iter().map(standalone_process).collect();
    let other = standalone_process(&namesake);
    let mut private = Vec::new();
    for executor in &executors {
        client.register(executor).await;
        executor.map_output(0, 1, &[100]);
        private
            .push(["temp_local_1", "temp_shuffle_1", "rdd_1_1"].map(|name| executor.write(name, b"12345")));
    }
    drop(other);
    let departed =
        |service: &bellows_shuffle::Running| service.status().applications["app-1"].departed_executors;
    // Once one is noticed all have been looked at.
    for (at, ends) in [0, 1].into_iter().enumerate() {
        drop(processes.remove(0));
        eventually("it is noticed", async || (departed(&service) == at as u64 + 1).then_some(())).await;
        eventually("its files go", async || (!private[ends].iter().any(|file| exists(file))).then_some(()))
            .await;
        assert!(private[ends + 1..].iter().flatten().all(|file| exists(file)));
    }
    for executor in &executors {
        client.fetch(&executor.fetch(0, &[(1, &[0])], false)).await.expect("block");
    }
    // One that lives on while the service is another is seen by that.
    service.stop().await;
    let service = bench.start().await;
    eventually("it was looked at", async || service.status().applications["app-1"].disk_bytes).await;
    assert!(private[2..].iter().flatten().all(|file| exists(file)));
    service.stop().await;
}

#[tokio::test]
async fn an_admin_socket_that_is_deleted_is_made_again() {
    let mut bench = Bench::new();
    bench.config.disk_check_interval = Duration::from_millis(20);
    let service = bench.start().await;
    let socket = bench.config.admin_socket.clone().expect("set");
    assert!(bench.admin().answers().await);
    std::fs::remove_dir_all(socket.parent().expect("a directory")).expect("removed");
    eventually("it answers again", async || bench.admin().answers().await.then_some(())).await;
    bench.admin().status().await.expect("of the same service");
    service.stop().await;
    assert!(!socket.exists());
}
