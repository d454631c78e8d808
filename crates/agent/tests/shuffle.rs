//! The directories that executors shuffle through: who makes them, who deletes them, and when not.
mod fake;

use fake::*;
use std::{os::unix::fs::PermissionsExt, path::Path};

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
    let mut service = bellows_shuffle::Config::new(dir.path().join("service"));
    service.listen = ([127, 0, 0, 1], 0).into();
    service.admin_socket = Some(socket.clone());
    let service = bellows_shuffle::start(service).await.expect("started");
    let agent = bellows_agent::start(with_service(&master)).await.expect("started");
    let gone = |disk: &str| !dir.path().join(disk).join("bellows-F").exists();
    until(|| gone("disk1") && gone("disk2")).await;
    agent.stop().await;
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
