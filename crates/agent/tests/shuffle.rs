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
    let of = |framework: &str| ["disk1", "disk2"].map(|disk| dir.path().join(disk).join(framework));
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
    assert!(dir.path().join("disk1/F/shuffle").exists(), "the service may still be serving them");
    agent.stop().await;
    let mut service = bellows_shuffle::Config::new(dir.path().join("service"));
    service.listen = ([127, 0, 0, 1], 0).into();
    service.admin_socket = Some(socket.clone());
    let service = bellows_shuffle::start(service).await.expect("started");
    let agent = bellows_agent::start(with_service(&master)).await.expect("started");
    until(|| !dir.path().join("disk1/F").exists() && !dir.path().join("disk2/F").exists()).await;
    agent.stop().await;
    service.stop().await;
}
