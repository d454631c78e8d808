//! The directories that executors shuffle through: who makes them, who deletes them, and when not.
mod fake;

use bellows_wire::{link::agent_message::Message, v1};
use fake::*;
use std::{os::unix::fs::PermissionsExt, path::Path};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

fn shuffle_config(master: &Master, dir: &Path) -> bellows_agent::Config {
    let mut config = config(master, &dir.join("work"));
    config.shuffle_dirs = vec![dir.join("disk1"), dir.join("disk2")];
    config
}

async fn run(link: &mut Link, framework: &str) {
    let command = "for d in $(echo $SPARK_EXECUTOR_DIRS | tr : ' '); do echo block > $d/shuffle; done";
    link.launch(framework, shell("t", command)).await;
    assert_eq!(link.until_end(framework).await.len(), 3);
}

#[tokio::test]
async fn shuffle_files_stay_as_long_as_their_framework() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let agent = bellows_agent::start(shuffle_config(&master, dir.path())).await.expect("started");
    let (mut link, _) = master.register().await;
    run(&mut link, "F").await;
    run(&mut link, "G").await;
    let of = |framework: &str| {
        ["disk1", "disk2"].map(|disk| dir.path().join(disk).join(format!("bellows-{framework}")))
    };
    let mode = of("F")[0].metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    agent.stop().await;
    // No executor is left, and the agent is another process: the files are still there.
    let agent = bellows_agent::start(shuffle_config(&master, dir.path())).await.expect("started");
    let (link, register) = master.register().await;
    assert_eq!(register.frameworks.len(), 2);
    link.shut_down("F").await;
    until(|| of("F").iter().all(|path| !path.exists())).await;
    assert!(of("G").iter().all(|path| path.join("shuffle").exists()));
    agent.stop().await;
    // All that the agent knew is lost: what is left on the disks is nobody's, once the master has registered it.
    std::fs::remove_dir_all(dir.path().join("work")).expect("removed");
    std::fs::create_dir(dir.path().join("disk1/cassandra")).expect("made");
    let agent = bellows_agent::start(shuffle_config(&master, dir.path())).await.expect("started");
    let (link, _) = master.accept().await;
    assert!(of("G").iter().all(|path| path.exists()));
    drop(link);
    let (_link, _) = master.register().await;
    until(|| of("G").iter().all(|path| !path.exists())).await;
    assert!(dir.path().join("disk1/cassandra").exists());
    agent.stop().await;
}

#[tokio::test]
async fn the_duty_to_remove_waits_for_the_service_and_outlives_the_agent() {
    let dir = tempfile::tempdir().expect("temporary");
    let socket = dir.path().join("admin.sock");
    let mut master = Master::start().await;
    let with_service = |master: &Master| {
        let mut config = shuffle_config(master, dir.path());
        config.shuffle_socket = Some(socket.clone());
        config
    };
    let agent = bellows_agent::start(with_service(&master)).await.expect("started");
    let (mut link, _) = master.register().await;
    run(&mut link, "F").await;
    link.shut_down("F").await;
    let addr = agent.local_addr();
    // The attempt has failed when it is counted.
    in_time(async {
        loop {
            let (_, _, metrics) = get(addr, "/metrics/snapshot", None).await;
            let metrics: serde_json::Value = serde_json::from_str(&metrics).expect("JSON");
            if metrics["slave/shuffle_removal_errors"].as_f64() > Some(0.0) {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(dir.path().join("disk1/bellows-F/shuffle").exists(), "the service may still be serving them");
    agent.stop().await;
    let service = start_service(dir.path()).await;
    let agent = bellows_agent::start(with_service(&master)).await.expect("started");
    let gone = |disk: &str| !dir.path().join(disk).join("bellows-F").exists();
    until(|| gone("disk1") && gone("disk2")).await;
    agent.stop().await;
    service.stop().await;
}

async fn start_service(dir: &Path) -> bellows_shuffle::Running {
    let mut service = bellows_shuffle::Config::new(dir.join("service"));
    service.listen = ([127, 0, 0, 1], 0).into();
    service.admin_socket = Some(dir.join("admin.sock"));
    bellows_shuffle::start(service).await.expect("started")
}

/// Acknowledges what comes until there was news of the service, and of `state` where one is given. Gives all states.
async fn until_heard(link: &mut Link, down: bool, state: Option<v1::TaskState>) -> Vec<v1::TaskState> {
    let (mut states, mut heard) = (Vec::new(), false);
    while !heard || state.is_some_and(|state| !states.contains(&state)) {
        match link.next().await {
            Message::ShuffleService(news) => heard |= news.down == down,
            Message::StatusUpdate(update) => {
                link.acknowledge("F", &update.status).await;
                states.push(update.status.state());
            }
            other => panic!("{other:?}"),
        }
    }
    states
}

#[tokio::test]
async fn executors_that_need_the_service_wait_for_it_and_others_do_not() {
    let dir = tempfile::tempdir().expect("temporary");
    let mut master = Master::start().await;
    let mut config = shuffle_config(&master, dir.path());
    config.shuffle_socket = Some(dir.path().join("admin.sock"));
    let agent = bellows_agent::start(config).await.expect("started");
    let (mut link, register) = master.register().await;
    if !register.shuffle_service_down() {
        assert!(until_heard(&mut link, true, None).await.is_empty());
    }
    let starts = |name: &str| shell(name, &format!("touch {}/{name}; sleep 1000", dir.path().display()));
    link.launch_with_service("F", starts("first")).await;
    run(&mut link, "G").await;
    assert!(!dir.path().join("first").exists(), "it was started without the service");
    let service = start_service(dir.path()).await;
    assert!(until_heard(&mut link, false, None).await.is_empty());
    link.until_running("F").await;

    // The service goes when the next task has passed that gate: its files are being fetched.
    let files = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut late = starts("late");
    late.command.as_mut().expect("a command").uris = vec![v1::command_info::Uri {
        value: format!("http://{}/file", files.local_addr().expect("bound")),
        ..Default::default()
    }];
    link.launch_with_service("F", late).await;
    let (mut fetch, _) = in_time(files.accept()).await.expect("the fetcher");
    service.stop().await;
    fetch.read_exact(&mut [0; "GET /file".len()]).await.expect("a request");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    fetch.write_all(answer).await.expect("an answer");
    let states = until_heard(&mut link, true, Some(v1::TaskState::TaskStarting)).await;
    assert_eq!(states, [v1::TaskState::TaskStarting]);
    until(|| dir.path().join("late").exists()).await;
    run(&mut link, "H").await;
    let service = start_service(dir.path()).await;
    assert!(until_heard(&mut link, false, None).await.is_empty(), "Spark's driver would have failed");
    link.until_running("F").await;
    agent.stop_and_kill_tasks(std::time::Duration::from_secs(30), &Default::default()).await;
    service.stop().await;
}

/// Ids that are names of what lies in a root already.
#[tokio::test]
async fn a_chosen_framework_id_takes_nothing_that_was_there() {
    let dir = tempfile::tempdir().expect("temporary");
    let disk = dir.path().join("disk1");
    for name in ["cassandra", "app-20260101000000-0000", "bellows-taken"] {
        std::fs::create_dir_all(disk.join(name)).expect("made");
        std::fs::write(disk.join(name).join("data"), "kept").expect("written");
    }
    std::fs::create_dir(dir.path().join("target")).expect("made");
    std::os::unix::fs::symlink(dir.path().join("target"), disk.join("bellows-link")).expect("link");
    let mut master = Master::start().await;
    let agent = bellows_agent::start(shuffle_config(&master, dir.path())).await.expect("started");
    let (mut link, _) = master.register().await;
    let ids = ["cassandra", "app-20260101000000-0000", "taken", "link", ".bellows"];
    for id in ids {
        run(&mut link, id).await;
        link.shut_down(id).await;
    }
    let entries = disk.join(".bellows/frameworks");
    until(|| std::fs::read_dir(&entries).expect("there").count() == 0).await;
    let mut left: Vec<String> = std::fs::read_dir(&disk)
        .expect("there")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("plain"))
        .collect();
    left.sort();
    let expected = [".bellows", "app-20260101000000-0000", "bellows-link", "bellows-taken", "cassandra"];
    assert_eq!(left, expected);
    for name in ["cassandra", "app-20260101000000-0000", "bellows-taken"] {
        assert_eq!(std::fs::read(disk.join(name).join("data")).expect("untouched"), b"kept");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("target")).expect("there").count(), 0);
    agent.stop().await;
}
