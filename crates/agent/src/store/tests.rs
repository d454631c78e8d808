use super::*;
use bellows_model::*;
use std::{sync::Arc, time::Duration};

fn framework(id: &str) -> FrameworkInfo {
    FrameworkInfo {
        id: Some(id.into()),
        name: "n".into(),
        user: "u".into(),
        principal: None,
        roles: vec!["a".into(), "b".into()],
        hostname: "h".into(),
        webui_url: Some("http://h:4040".into()),
        failover_timeout: Duration::from_secs(3),
        checkpoint: true,
        capabilities: vec![Capability::MultiRole],
        labels: vec![Label { key: "k".into(), value: None }],
    }
}

fn task(id: &str) -> TaskInfo {
    TaskInfo {
        name: id.into(),
        task_id: id.into(),
        agent_id: "S0".into(),
        resources: Resources::parse("cpus:0.1;mem:32;ports:[1-2]").expect("valid"),
        command: Some(CommandInfo {
            shell: false,
            value: Some("/bin/x".into()),
            arguments: vec!["x".into(), "y".into()],
            environment: vec![EnvironmentVariable { name: "A".into(), value: "1".into() }],
            uris: vec![Uri {
                value: "http://h/f".into(),
                executable: true,
                extract: false,
                cache: true,
                output_file: None,
            }],
            user: Some("bob".into()),
        }),
        executor: None,
        data: Some(vec![1, 2]),
        labels: vec![],
        kill_grace: Some(Duration::from_millis(1_500)),
        container: Some("MESOS".into()),
        unsupported: None,
    }
}

fn status(task_id: &str, state: TaskState, number: u8) -> TaskStatus {
    TaskStatus {
        task_id: task_id.into(),
        state,
        source: Source::Executor,
        reason: Some(Reason::ContainerLaunchFailed),
        message: Some("m".into()),
        agent_id: Some("S0".into()),
        executor_id: Some(task_id.into()),
        timestamp: 1.5,
        uuid: Some(StatusUuid([number; 16])),
        container: Some(ContainerStatus {
            container_id: "c".into(),
            executor_pid: Some(7),
            ip_address: Some("127.0.0.1".into()),
        }),
        data: None,
        healthy: None,
        labels: vec![],
    }
}

fn write(store: &Store, records: Vec<Record>) {
    for (index, record) in records.into_iter().enumerate() {
        store.push(WriteId(index as u64 + 1), record).expect("room");
    }
}

fn key(task_id: &str) -> (FrameworkId, TaskId) {
    ("F".into(), task_id.into())
}

fn open(path: &Path) -> Result<(Store, Checkpoint), Error> {
    Store::open(path, bellows_runtime::Vital::new().guard("the checkpoint's thread"))
}

#[test]
fn what_was_pushed_is_read_again() {
    let dir = tempfile::tempdir().expect("temporary");
    let path = dir.path().join("checkpoint");
    let (store, empty) = open(&path).expect("created");
    assert_eq!(empty, Checkpoint::default());
    let launch = |task_id: &str| Record::Task {
        framework_id: "F".into(),
        info: Arc::new(task(task_id)),
        container_id: "c".into(),
    };
    let add = |task_id: &str, index: usize, state| Record::Status {
        framework_id: "F".into(),
        index,
        status: status(task_id, state, index as u8),
    };
    let (framework_id, task_id) = key("t");
    write(
        &store,
        vec![
            Record::AgentId("S0".into()),
            Record::Framework(Arc::new(framework("F"))),
            Record::Framework(Arc::new(framework("G"))),
            Record::ForgetFramework("G".into()),
            launch("t"),
            add("t", 0, TaskState::Starting),
            add("t", 1, TaskState::Running),
            Record::Acknowledged { framework_id: framework_id.clone(), task_id: task_id.clone(), count: 1 },
            Record::Killed { framework_id, task_id },
            launch("u"),
            add("u", 0, TaskState::Failed),
            Record::ForgetTask { framework_id: key("u").0, task_id: key("u").1 },
            Record::Removal("old".into()),
            Record::Removal("older".into()),
            Record::ForgetRemoval("older".into()),
        ],
    );
    drop(store);
    let (_store, read) = open(&path).expect("opened");
    assert_eq!(read.agent_id, Some("S0".into()));
    assert_eq!(read.frameworks, [framework("F")]);
    assert_eq!(read.removals, [FrameworkId::from("old")]);
    let [stored] = &read.tasks[..] else { panic!("{:?}", read.tasks) };
    assert_eq!(stored.info, task("t").without_secrets());
    assert_eq!((stored.killed, stored.acknowledged, stored.container_id.as_str()), (true, 1, "c"));
    assert_eq!(stored.statuses, [status("t", TaskState::Starting, 0), status("t", TaskState::Running, 1)]);
}

#[tokio::test]
async fn outcomes_come_in_order_and_cover_all() {
    let dir = tempfile::tempdir().expect("temporary");
    let (store, _) = open(&dir.path().join("checkpoint")).expect("created");
    write(&store, (0..500).map(|n| Record::Removal(format!("F{n}").into())).collect());
    let mut last = WriteId(0);
    while last < WriteId(500) {
        store.settled().await;
        for outcome in store.take_outcomes() {
            assert_eq!(outcome.failure, None);
            assert!(outcome.upto > last);
            last = outcome.upto;
        }
    }
}

#[test]
fn a_file_that_is_no_checkpoint_is_named() {
    let dir = tempfile::tempdir().expect("temporary");
    let path = dir.path().join("checkpoint");
    std::fs::write(&path, vec![7; 10_000]).expect("written");
    let error = open(&path).err().expect("refused");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert_eq!(std::fs::read(&path).expect("still there").len(), 10_000, "nothing is thrown away");
}

#[test]
fn secrets_that_an_earlier_release_has_written_are_gone_after_a_start() {
    let dir = tempfile::tempdir().expect("temporary");
    let path = dir.path().join("checkpoint");
    let secret = "swordfish";
    let mut kept_whole = task("t");
    let command = kept_whole.command.as_mut().expect("there");
    command.environment =
        vec![EnvironmentVariable { name: "_SPARK_AUTH_SECRET".into(), value: secret.into() }];
    let (store, _) = open(&path).expect("created");
    let launch =
        Record::Task { framework_id: "F".into(), info: Arc::new(kept_whole), container_id: "c".into() };
    let (framework_id, task_id) = key("t");
    let all = vec![
        Record::AgentId("S0".into()),
        Record::Framework(Arc::new(framework("F"))),
        launch,
        Record::Status { framework_id: "F".into(), index: 0, status: status("t", TaskState::Starting, 0) },
        Record::Acknowledged { framework_id: framework_id.clone(), task_id: task_id.clone(), count: 1 },
        Record::Killed { framework_id, task_id },
        Record::Removal("old".into()),
    ];
    write(&store, all);
    drop(store);
    let holds_it = || {
        let files = std::fs::read_dir(dir.path()).expect("listed").map(|file| file.expect("entry").path());
        let holds =
            |path| std::fs::read(path).expect("read").windows(secret.len()).any(|at| at == secret.as_bytes());
        files.into_iter().any(holds)
    };
    assert!(holds_it(), "otherwise this proves nothing");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let (store, read) = open(&path).expect("opened");
    assert!(!holds_it());
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    drop(store);
    let (_store, again) = open(&path).expect("opened");
    assert_eq!(read, again);
    assert_eq!((read.agent_id, read.removals), (Some("S0".into()), vec!["old".into()]));
    let [stored] = &read.tasks[..] else { panic!("{:?}", read.tasks) };
    assert_eq!((stored.killed, stored.acknowledged, stored.statuses.len()), (true, 1, 1));
    assert_eq!(stored.info, task("t").without_secrets());
}

#[test]
fn secrets_that_cannot_be_removed_keep_no_agent_down() {
    let dir = tempfile::tempdir().expect("temporary");
    let path = dir.path().join("checkpoint");
    let (store, _) = open(&path).expect("created");
    let info = Arc::new(task("t"));
    write(
        &store,
        vec![
            Record::Framework(Arc::new(framework("F"))),
            Record::Task { framework_id: "F".into(), info, container_id: "c".into() },
        ],
    );
    drop(store);
    // No new file can be written.
    let new = dir.path().join("checkpoint.new");
    std::fs::create_dir(&new).expect("made");
    let (store, read) = open(&path).expect("opened all the same");
    assert_eq!(read.tasks[0].info, task("t").without_secrets());
    write(&store, vec![Record::AgentId("S0".into())]);
    drop(store);
    std::fs::remove_dir(&new).expect("removed");
    let (_store, read) = open(&path).expect("opened");
    assert_eq!((read.agent_id, read.tasks.len()), (Some("S0".into()), 1));
    assert!(!new.exists());
}

#[tokio::test]
async fn a_thread_that_panics_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let vital = bellows_runtime::Vital::new();
    let (store, _) =
        Store::open(&dir.path().join("checkpoint"), vital.guard("the checkpoint's thread")).expect("created");
    // Who panics while it holds the lock does not hide it.
    store.shared.lock().pending.push_back((WriteId(0), Record::ForgetFramework("f".into())));
    store.shared.lock().panics = true;
    store.shared.filled.notify_one();
    let ended = vital.ended().await;
    assert_eq!(ended.what, "the checkpoint's thread");
    assert!(ended.reason.contains("injected"), "{ended}");
}
