//! Nobody takes, reads or has deleted what another wrote by registering it: whatever a peer names, only directories that
//! executors make, below the roots, of the right owner, are anybody's.

mod support;

use std::path::{Path, PathBuf};

use bellows_transport::rpc::{ExecutorInfo, Rpc};
use support::{Bench, Client, TestExecutor, eventually, exists};

fn named(app: &str, id: &str, dirs: &[&Path]) -> TestExecutor {
    TestExecutor {
        app: app.to_owned(),
        id: id.to_owned(),
        dirs: dirs.iter().map(|dir| dir.to_path_buf()).collect(),
    }
}

fn make(bench: &Bench, name: &str) -> PathBuf {
    let dir = bench.disk().join(name);
    std::fs::create_dir_all(&dir).expect("directory");
    dir
}

fn write(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    std::fs::write(&path, "12345").expect("file");
    path
}

const STRANGER: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn give(path: &Path, user: u32) {
    std::os::unix::fs::chown(path, Some(user), None).expect("root may");
}

/// Its driver promises a heartbeat and goes.
async fn falls_silent(service: &bellows_shuffle::Running, app: &str) {
    let promise = Rpc::RegisterDriver { app: app.into(), heartbeat_timeout_ms: 1 };
    assert_eq!(Client::connect(service).await.call(&promise).await, Ok(None));
    eventually("it is forgotten", async || (!service.status().applications.contains_key(app)).then_some(()))
        .await;
}

#[tokio::test]
async fn a_parent_of_others_directories_is_nobodys_and_keeps_nobody_out() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let good = bench.executor("app", "1");
    let (root, parent) = (bench.disk(), good.dirs[0].parent().expect("parent").to_owned());
    for dir in [Path::new("/"), &root, &parent, root.parent().expect("parent"), &good.dirs[0].join("00")] {
        let refused = client.call(&named("evil", "1", &[dir]).register()).await.expect_err("no executor's");
        assert!(refused.starts_with("java.lang.SecurityException"), "{refused}");
    }
    client.register(&good).await;
    service.stop().await;
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    client.register(&bench.executor("app", "2")).await;
    assert_eq!(service.status().applications.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn what_a_stranger_wrote_is_not_deleted_for_whoever_registers_it() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let strangers = make(&bench, "spark-1/executor-1/blockmgr-1");
    let files = ["00/temp_shuffle_1", "0a/rdd_1_1", "shuffle_0_0_0.data"].map(|name| write(&strangers, name));
    let own = make(&bench, "evil/blockmgr-1");
    let evil = named("evil", "1", &[&strangers, &own]);
    client.register(&evil).await;
    write(&own, "00/shuffle_0_1_0.data");
    let blocks = (0..200).map(|split| format!("rdd_1_{split}")).collect::<Vec<_>>();
    blocks.iter().for_each(|block| drop(evil.write(block, b"12345")));
    let there = blocks.iter().filter(|block| evil.path(block).starts_with(&strangers)).count();
    let remove = Rpc::RemoveBlocks { app: "evil".into(), executor: "1".into(), blocks };
    let removed = client.call(&remove).await;
    assert_eq!(removed, Ok(Some(Rpc::BlocksRemoved { count: 200 - there as i32 })));
    bench.admin().executor_departed("evil", "1").await.expect("noted");
    falls_silent(&service, "evil").await;
    eventually("its own directory goes", async || (!exists(&own)).then_some(())).await;
    assert!(files.iter().all(|file| exists(file)));

    // Nor after a restart that comes between.
    client.register(&evil_again(&strangers)).await;
    service.stop().await;
    let service = bench.start().await;
    let removal = bench.admin().remove_app("evil").await.expect("removed");
    assert_eq!((removal.executors, removal.files, removal.kept.len()), (1, 0, 1), "{removal:?}");
    assert!(removal.kept[0].contains("held files before it was registered"), "{removal:?}");
    assert!(files.iter().all(|file| exists(file)));
    service.stop().await;
}

fn evil_again(dir: &Path) -> TestExecutor {
    named("evil", "2", &[dir])
}

#[tokio::test]
async fn a_frameworks_directory_is_its_own_before_it_has_registered() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    make(&bench, "agent/.bellows/frameworks");
    for id in ["F-1", "F-2"] {
        write(&bench.disk(), &format!("agent/.bellows/frameworks/{id}"));
        std::fs::write(bench.disk().join("agent/.bellows/frameworks").join(id), "").expect("file");
    }
    let [first, second] = ["F-1", "F-2"].map(|id| make(&bench, &format!("agent/{id}/blockmgr-1")));
    let keeper = make(&bench, "agent/.bellows/blockmgr-1");
    for (app, dir) in [("F-1", &second), ("evil", &first), ("F-1", &keeper)] {
        client.call(&named(app, "1", &[dir]).register()).await.map(drop).expect_err("another's");
    }
    client.register(&named("F-1", "1", &[&first])).await;
    client.register(&named("F-2", "1", &[&second])).await;
    service.stop().await;
}

/// A task's user may make anything in its framework's directory.
#[tokio::test]
async fn nobody_but_the_agent_says_whose_a_directory_is() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let ledger = make(&bench, ".bellows/frameworks");
    let user = rustix::process::geteuid().as_raw();
    for (directory, framework) in [("bellows-F", "F"), ("bellows-G", "G")] {
        let entry = format!(r#"{{"framework":"{framework}","uid":{user},"made":{{"Inode":7}}}}"#);
        std::fs::write(ledger.join(directory), entry).expect("entry");
    }
    make(&bench, "bellows-F/.bellows/frameworks");
    std::fs::write(bench.disk().join("bellows-F/.bellows/frameworks/z"), r#"{"framework":"G","uid":0}"#)
        .expect("entry");
    let planted = make(&bench, "bellows-F/z/blockmgr-1");
    let refused = client.call(&named("G", "x", &[&planted]).register()).await.map(drop);
    assert!(refused.expect_err("planted").contains("the agent keeps"));
    client.register(&named("G", "1", &[&make(&bench, "bellows-G/blockmgr-1")])).await;
    service.stop().await;
}

/// Whoever moves or links another user's file into their own directory can neither read it nor have it deleted.
#[tokio::test]
async fn what_another_user_wrote_is_neither_served_nor_deleted() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let dir = make(&bench, "evil/blockmgr-1");
    let evil = named("evil", "1", &[&dir]);
    client.register(&evil).await;
    let secret = evil.write("rdd_1_1", b"secret");
    evil.map_output(0, 0, &[6]);
    give(&secret, STRANGER);
    give(&evil.path("shuffle_0_0_0.data"), STRANGER);
    let refused = client.fetch(&evil.open(&["rdd_1_1"])).await.expect_err("another's");
    assert!(refused.contains("belongs to user 65534"), "{refused}");
    let refused = client.fetch(&evil.fetch(0, &[(0, &[0])], false)).await.expect_err("another's");
    assert!(refused.contains("belongs to user 65534"), "{refused}");
    let remove = Rpc::RemoveBlocks {
        app: "evil".into(),
        executor: "1".into(),
        blocks: vec!["rdd_1_1".to_owned(), "shuffle_0_0_0.index".to_owned()],
    };
    assert_eq!(client.call(&remove).await, Ok(Some(Rpc::BlocksRemoved { count: 1 })));

    // A whole directory in place of the one that was registered, also where a restart comes between.
    let strangers = make(&bench, "strangers");
    let theirs = write(&strangers, "00/precious");
    [&strangers, &strangers.join("00"), &theirs].into_iter().for_each(|path| give(path, STRANGER));
    std::fs::rename(&dir, bench.disk().join("old")).expect("moved");
    std::fs::rename(&strangers, &dir).expect("moved");
    bench.admin().executor_departed("evil", "1").await.expect("noted");
    service.stop().await;
    let service = bench.start().await;
    let removal = bench.admin().remove_app("evil").await.expect("removed");
    assert_eq!((removal.directories, removal.files, removal.kept.len()), (0, 0, 1), "{removal:?}");
    assert!(removal.kept[0].contains("another user"), "{removal:?}");
    assert!(exists(&dir.join("00/precious")));
    assert!(service.status().disk_errors.is_empty());
    service.stop().await;
}

/// Drivers do not register, and have nothing in their directory at first.
#[tokio::test]
async fn a_drivers_fresh_directory_is_not_deleted_for_whoever_registers_it() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let drivers = make(&bench, "blockmgr-1");
    let own = make(&bench, "evil/blockmgr-2");
    let evil = named("evil", "1", &[&drivers]);
    client.register(&evil).await;
    client.register(&named("evil", "2", &[&own])).await;
    let broadcast = evil.write("broadcast_0_piece0", b"12345");
    let private = evil.write("temp_local_1", b"12345");
    let blocks = vec!["broadcast_0_piece0".to_owned()];
    let remove = Rpc::RemoveBlocks { app: "evil".into(), executor: "1".into(), blocks };
    assert_eq!(client.call(&remove).await, Ok(Some(Rpc::BlocksRemoved { count: 0 })));
    bench.admin().executor_departed("evil", "1").await.expect("noted");
    falls_silent(&service, "evil").await;
    eventually("its own directory goes", async || (!exists(&own)).then_some(())).await;
    assert!(exists(&broadcast) && exists(&private));
    service.stop().await;
    // Nor is it a duty that the next start takes up.
    let service = bench.start().await;
    assert_eq!(
        bench.admin().remove_app("evil").await.expect("answered"),
        bellows_shuffle::Removal::default()
    );
    assert!(exists(&broadcast) && exists(&private));
    service.stop().await;
}

#[tokio::test]
async fn who_names_an_unusable_path_raises_no_alarm() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let app = make(&bench, "app");
    std::os::unix::fs::symlink("loop", app.join("loop")).expect("link");
    for path in [app.join("loop/blockmgr-1"), app.join(format!("blockmgr-{}", "x".repeat(300)))] {
        let refused = client.call(&named("app", "1", &[&path]).register()).await.map(drop);
        let refused = refused.expect_err("is not there");
        assert!(refused.starts_with("java.lang.SecurityException"), "{refused}");
    }
    let status = service.status();
    assert_eq!((status.errors.get("disk"), status.disk_errors.len()), (None, 0), "{status:?}");
    service.stop().await;
}

#[tokio::test]
async fn no_number_of_directories_leads_out_of_them() {
    let bench = Bench::new();
    let service = bench.start().await;
    let mut client = Client::connect(&service).await;
    let dir = make(&bench, "app/blockmgr-1");
    let register = |sub_dirs, dirs: Vec<String>| {
        let info = ExecutorInfo {
            local_dirs: dirs,
            sub_dirs_per_local_dir: sub_dirs,
            shuffle_manager: "sort".to_owned(),
        };
        Rpc::RegisterExecutor { app: "app".into(), executor: "1".into(), info }
    };
    let told = dir.to_str().expect("UTF-8").to_owned();
    for sub_dirs in [i32::MIN, -1, 0, 10_001, i32::MAX] {
        client.call(&register(sub_dirs, vec![told.clone()])).await.map(drop).expect_err("out of bounds");
    }
    client.call(&register(1, vec![told.clone(); 129])).await.map(drop).expect_err("too many");
    assert_eq!(client.call(&register(1, vec![told])).await, Ok(None));
    // A block's name cannot leave its directory, and neither a link nor a directory is a block.
    let outside = write(&bench.disk(), "app/outside");
    std::os::unix::fs::symlink(&outside, write(&dir, "00/x").with_file_name("link")).expect("link");
    make(&bench, "app/blockmgr-1/00/rdd_1_1");
    let blocks = ["../../outside", "../x", "/etc/passwd", ".", "..", "", "link", "rdd_1_1", "a\0b"];
    let blocks = blocks.map(str::to_owned).to_vec();
    let remove = Rpc::RemoveBlocks { app: "app".into(), executor: "1".into(), blocks };
    assert_eq!(client.call(&remove).await, Ok(Some(Rpc::BlocksRemoved { count: 0 })));
    assert!(exists(&outside) && exists(&dir.join("00/link")) && exists(&dir.join("00/rdd_1_1")));
    service.stop().await;
}

#[tokio::test]
async fn who_listens_to_others_must_say_which_directories_are_theirs() {
    let mut bench = Bench::new();
    bench.config.allowed_roots.clear();
    bench.start().await.stop().await;
    bench.config.listen = ([0, 0, 0, 0], 0).into();
    let refused = bellows_shuffle::start(bench.config.clone()).await.map(drop).expect_err("any directory");
    assert!(matches!(refused, bellows_shuffle::Error::NoRoots { .. }), "{refused}");
}
