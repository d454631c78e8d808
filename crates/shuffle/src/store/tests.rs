//! What is stored is there after a restart, and memory follows it.

use super::*;

fn open(dir: &Path) -> (Store, Arc<Registry>, Recovered, std::thread::JoinHandle<()>) {
    let registry = Arc::new(Registry::new(100, 100));
    let (store, recovered, thread) = Store::open(dir, registry.clone()).expect("opens");
    (store, registry, recovered, thread)
}

fn dirs(path: &str) -> LocalDirs {
    LocalDirs::unseen(&[path.to_owned()], 64)
}

fn executors(registry: &Registry, app: &str) -> usize {
    registry.app(app).map_or(0, |app| app.executors().len())
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let work = tempfile::tempdir().expect("directory");
    let (store, _, _, thread) = open(work.path());
    for (app, executor) in [("a", "1"), ("a", "2"), ("ab", "1"), ("b", "1")] {
        let dir = dirs(&format!("/nonexistent/{app}/blockmgr-{executor}"));
        store.register(app.into(), executor.into(), dir).await.expect("stored");
    }
    store.departed("a".into(), "2".into()).await.expect("stored");
    store.driver("a".into(), Duration::from_secs(7)).await.expect("stored");
    drop(store);
    thread.join().expect("ends");

    let (store, registry, _, thread) = open(work.path());
    assert_eq!((executors(&registry, "a"), executors(&registry, "ab"), executors(&registry, "b")), (2, 1, 1));
    assert!(registry.has("a", "1", &dirs("/nonexistent/a/blockmgr-1")));
    assert!(!registry.has("a", "2", &dirs("/nonexistent/a/blockmgr-2")), "departed");
    let later = Instant::now() + Duration::from_secs(8);
    assert!(registry.silent_apps(later).is_empty(), "its heartbeats went to the service before");
    registry.app("a").expect("known").driver_heard(Instant::now());
    assert_eq!(registry.silent_apps(later), ["a".into()]);

    let removed = store.remove("a".into()).await.expect("removed");
    assert_eq!(removed.dirs.len(), 2);
    assert!(registry.app("a").is_none());
    drop(store);
    thread.join().expect("ends");

    let (store, registry, recovered, thread) = open(work.path());
    assert_eq!((executors(&registry, "a"), executors(&registry, "ab"), executors(&registry, "b")), (0, 1, 1));
    assert_eq!(recovered.unfinished_removals, [("a".to_owned(), removed.dirs.clone())].into());
    let mut dirs = removed.dirs.clone();
    let (first, _) = dirs.pop_first().expect("two");
    store.deleted("a".into(), [first].into()).await.expect("noted");
    let again = store.remove("a".into()).await.expect("removed");
    assert_eq!(again.dirs, dirs, "what is not deleted yet");
    store.deleted("a".into(), again.dirs.into_keys().collect()).await.expect("noted");
    drop(store);
    thread.join().expect("ends");
    let (_, _, recovered, _) = open(work.path());
    assert!(recovered.unfinished_removals.is_empty());
}

#[tokio::test]
async fn a_refused_registration_is_not_stored() {
    let work = tempfile::tempdir().expect("directory");
    let (store, registry, _, _) = open(work.path());
    store.register("a".into(), "1".into(), dirs("/nonexistent/1")).await.expect("stored");
    let refused = store.register("b".into(), "1".into(), dirs("/nonexistent/1")).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::Taken(_)))), "{refused:?}");
    assert_eq!(executors(&registry, "b"), 0);
}

#[tokio::test]
async fn what_registers_behind_a_removal_stays() {
    let work = tempfile::tempdir().expect("directory");
    let (store, registry, _, thread) = open(work.path());
    for round in 0..50 {
        let executor = round.to_string();
        let dir = dirs(&format!("/nonexistent/blockmgr-{round}"));
        // Sent one behind the other, so that most rounds have both in one batch.
        let (removed, registered) =
            tokio::join!(store.remove("a".into()), store.register("a".into(), executor.clone(), dir.clone()));
        let removed = removed.expect("removed").dirs;
        registered.expect("stored");
        assert!(registry.has("a", &executor, &dir) && !removed.keys().any(|gone| registry.is_owned(gone)));
        assert_eq!(executors(&registry, "a"), 1);
    }
    drop(store);
    thread.join().expect("ends");
    assert_eq!(executors(&open(work.path()).1, "a"), 1);
}

#[tokio::test]
async fn what_is_heard_between_the_look_and_the_removal_counts() {
    let work = tempfile::tempdir().expect("directory");
    let (store, registry, ..) = open(work.path());
    let timeout = Duration::from_secs(1);
    store.driver("a".into(), timeout).await.expect("stored");
    let later = Instant::now() + 2 * timeout;
    assert_eq!(registry.silent_apps(later), ["a".into()]);
    registry.app("a").expect("known").driver_heard(later);
    let still = move |app: Option<&App>| app.is_some_and(|app| app.is_silent(later));
    let removed = store.remove_if("a".into(), still, |_| false).await.expect("answered");
    assert!(removed.app.is_none() && registry.app("a").is_some());
    for round in 0..50 {
        // Sent one behind the other, so that most rounds have both in one batch.
        let (driver, removed) = tokio::join!(
            store.driver(format!("b-{round}"), timeout),
            store.remove_if(format!("b-{round}"), |app| app.is_none(), |_| false)
        );
        driver.expect("stored");
        removed.expect("answered");
        assert!(registry.app(&format!("b-{round}")).is_some(), "noted when it is the removal's turn");
    }
    let removed = store.remove_if("a".into(), |app| app.is_some(), |_| false).await.expect("answered");
    assert!(removed.app.is_some() && registry.app("a").is_none());
}

#[tokio::test]
async fn who_asks_while_the_disk_hangs_is_told_so() {
    let (commands, _nobody_reads) = mpsc::channel(1);
    let path = Path::new("/hangs/registrations").into();
    let store = Store {
        path,
        commands,
        sync_ended: CancellationToken::new(),
        answers_within: Duration::from_millis(1),
    };
    // The first is in the queue, the second finds no room there.
    for app in ["a", "b"] {
        let error = store.driver(app.into(), Duration::ZERO).await.expect_err("no answer").to_string();
        assert!(error.contains("/hangs/registrations: the disk does not answer"), "{error}");
    }
}

#[test]
fn a_database_that_was_never_finished_is_made_anew() {
    let work = tempfile::tempdir().expect("directory");
    std::fs::write(work.path().join(FRESH_FILE), [0; 5000]).expect("written");
    open(work.path());
}

#[test]
fn a_file_that_is_no_database_is_named_in_the_error() {
    let work = tempfile::tempdir().expect("directory");
    std::fs::write(work.path().join(FILE), "half a file").expect("write");
    let opened = Store::open(work.path(), Arc::new(Registry::new(1, 1))).map(|_| ());
    let message = opened.expect_err("is refused").to_string();
    assert!(message.contains(FILE), "{message}");
}

/// Written by the release before this one, which took any directory.
#[tokio::test]
async fn what_an_older_release_took_and_this_one_would_not_is_dropped() {
    let work = tempfile::tempdir().expect("directory");
    let (store, _, _, thread) = open(work.path());
    store.register("good".into(), "1".into(), dirs("/nonexistent/blockmgr-1")).await.expect("stored");
    drop(store);
    thread.join().expect("ends");
    let database = database::builder().open(work.path().join(FILE)).expect("there");
    let transaction = database.begin_write().expect("begins");
    let older = |real: &str| {
        format!(r#"{{"dirs":[{{"told":"{real}","real":"{real}"}}],"sub_dirs":64,"departed":false}}"#)
    };
    for (app, real) in [("evil", "/"), ("evil too", "/nonexistent"), ("older", "/nonexistent/blockmgr-2")] {
        let mut executors = transaction.open_table(database::EXECUTORS).expect("there");
        executors.insert((app, "1"), older(real).as_bytes()).expect("inserted");
    }
    transaction.commit().expect("stored");
    drop(database);

    let (store, registry, _, thread) = open(work.path());
    let known = ["good", "older", "evil", "evil too"].map(|app| executors(&registry, app));
    assert_eq!(known, [1, 1, 0, 0]);
    store.register("new".into(), "1".into(), dirs("/nonexistent/blockmgr-3")).await.expect("nobody's");
    drop(store);
    thread.join().expect("ends");
}
