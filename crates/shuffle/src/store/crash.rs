//! Database and journal when the process is killed, and on a disk that loses power: of what was not synced, any part
//! may be missing or half there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;
use redb::{Database, StorageBackend};

use super::Store;
use super::journal::{Media, Medium};
use crate::blocks::LocalDirs;
use crate::registry::Registry;

/// The database, and the files of the journal.
const FILES: usize = 3;

#[derive(Debug, Clone)]
enum Event {
    Write(usize, u64, Vec<u8>),
    SetLen(usize, u64),
    Sync,
    Created,
    /// The store answered that this application's executor is registered, or that the application is gone.
    Registered(&'static str, usize),
    Removed(&'static str),
}

type Content = [Vec<u8>; FILES];

/// Remembers everything that happened to it, in order.
#[derive(Debug, Clone, Default)]
struct Disk {
    content: Arc<Mutex<Content>>,
    log: Arc<Mutex<Vec<Event>>>,
    full: Arc<AtomicBool>,
    sync_fails: Arc<AtomicBool>,
    sync_panics: Arc<AtomicBool>,
    /// Whether a sync waits.
    slow: Arc<(Mutex<bool>, Condvar)>,
}

/// A file of the journal.
struct JournalFile(Disk, usize);

impl Medium for JournalFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.0.content.lock()[self.1].clone())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_to(self.1, offset, bytes)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.note(Event::SetLen(self.1, length));
        Ok(())
    }
}

impl Disk {
    fn note(&self, event: Event) {
        let mut log = self.log.lock();
        apply(&mut self.content.lock(), &event, None);
        log.push(event);
    }

    fn write_to(&self, file: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.full.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.note(Event::Write(file, offset, data.to_vec()));
        Ok(())
    }
}

fn apply(content: &mut Content, event: &Event, torn_after: Option<usize>) {
    match event {
        Event::Write(file, offset, data) => {
            let content = &mut content[*file];
            let data = &data[..torn_after.unwrap_or(data.len()).min(data.len())];
            let at = *offset as usize;
            if content.len() < at + data.len() {
                content.resize(at + data.len(), 0);
            }
            content[at..at + data.len()].copy_from_slice(data);
        }
        Event::SetLen(file, length) => content[*file].resize(*length as usize, 0),
        _ => {}
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock()[0].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content.lock();
        let part = content[0].get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Event::SetLen(0, len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let (slow, changed) = &*self.slow;
        changed.wait_while(&mut slow.lock(), |slow| *slow);
        assert!(!self.sync_panics.load(Relaxed), "on purpose");
        if self.sync_fails.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.note(Event::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_to(0, offset, data)
    }
}

fn dirs(app: &str, executor: usize) -> LocalDirs {
    LocalDirs::unseen(&[format!("/nonexistent/{app}/blockmgr-{executor}")], 64)
}

fn open(
    disk: &Disk,
    registry: Arc<Registry>,
) -> Result<(Store, super::Recovered, std::thread::JoinHandle<()>), redb::Error> {
    let media: Media = [1, 2].map(|file| Box::new(JournalFile(disk.clone(), file)) as Box<dyn Medium>);
    let disk = disk.clone();
    let open = move || Ok(Database::builder().create_with_backend(disk.clone())?);
    Store::with(std::path::Path::new("disk").into(), Box::new(open), media, registry)
}

/// A life of the service: two applications register, one is removed, the other goes on.
fn lived() -> Vec<Event> {
    let disk = Disk::default();
    let (store, _, thread) = open(&disk, Arc::new(Registry::new(9, 99))).expect("opens");
    disk.note(Event::Created);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    runtime.block_on(async {
        for executor in 0..6 {
            for app in ["stays", "goes"] {
                if (app, executor / 4) == ("goes", 1) {
                    continue;
                }
                let registered = store.register(app.into(), executor.to_string(), dirs(app, executor));
                registered.await.expect("stored");
                disk.note(Event::Registered(app, executor));
            }
            if executor == 3 {
                store.remove("goes".into()).await.expect("stored");
                disk.note(Event::Removed("goes"));
            }
        }
    });
    drop(store);
    thread.join().expect("ends");
    std::mem::take(&mut *disk.log.lock())
}

/// Computes what is on the disk when power goes after `log`: of the database all up to the last sync, and of the rest, and of the
/// journal, which is never synced, what `keep` picks.
fn left_on_disk(log: &[Event], keep: &[Option<usize>]) -> Content {
    let synced = log.iter().rposition(|e| matches!(e, Event::Sync)).map_or(0, |at| at + 1);
    let mut content = Content::default();
    let mut keep = keep.iter().cycle();
    for (at, event) in log.iter().enumerate() {
        match event {
            // A file's length may or may not have reached the disk; redb syncs after it grows a file.
            Event::SetLen(..) => apply(&mut content, event, None),
            Event::Write(0, ..) if at < synced => apply(&mut content, event, None),
            Event::Write(..) => {
                if let Some(torn_after) = keep.next().expect("never ends") {
                    apply(&mut content, event, Some(*torn_after));
                }
            }
            _ => {}
        }
    }
    content
}

/// Computes what is on the disk when the process is killed at the end of `log`: all, but of the last write only a part.
fn left_by_a_kill(log: &[Event], torn_after: usize) -> Content {
    let mut content = Content::default();
    for (at, event) in log.iter().enumerate() {
        apply(&mut content, event, (at + 1 == log.len()).then_some(torn_after));
    }
    content
}

/// Starts from what is left on the disk and compares with what was answered before the end of `log`. A power cut may
/// take registrations along.
fn assert_survives(log: &[Event], left: Content, killed: bool) {
    let disk = Disk::default();
    *disk.content.lock() = left;
    let registry = Arc::new(Registry::new(9, 99));
    let (store, _, thread) = open(&disk, registry.clone()).expect("opens and loads after the cut");
    drop(store);
    thread.join().expect("ends");

    let removed = log.iter().any(|e| matches!(e, Event::Removed(_)));
    for event in log {
        match *event {
            Event::Registered("stays", executor) if killed => {
                assert!(registry.has("stays", &executor.to_string(), &dirs("stays", executor)));
            }
            Event::Removed(app) => assert!(registry.app(app).is_none()),
            Event::Registered(app, executor) if !removed && killed => {
                // Its removal may have been under way.
                let known = registry.app(app).map(|a| a.executor(&executor.to_string()).is_some());
                assert!(known != Some(false));
            }
            _ => {}
        }
    }
}

/// From when the database exists; that it comes into being at once is for the file system.
fn after_creation() -> (&'static [Event], usize) {
    static LIVED: std::sync::OnceLock<Vec<Event>> = std::sync::OnceLock::new();
    let log = LIVED.get_or_init(lived);
    (log, log.iter().position(|e| matches!(e, Event::Created)).expect("is made"))
}

#[test]
fn what_was_answered_survives_a_kill_in_every_write() {
    let (log, created) = after_creation();
    for end in created..=log.len() {
        let log = &log[..end];
        let length = if let Some(Event::Write(_, _, data)) = log.last() { data.len() } else { 0 };
        for torn_after in [0, 1, length / 2, length.saturating_sub(1), length] {
            assert_survives(log, left_by_a_kill(log, torn_after), true);
        }
    }
}

#[test]
fn a_removal_survives_a_power_cut_at_every_write() {
    let (log, created) = after_creation();
    for end in created..=log.len() {
        let log = &log[..end];
        for keep in [None, Some(usize::MAX), Some(100)] {
            assert_survives(log, left_on_disk(log, &[keep]), false);
            // Only every second of what was not synced.
            assert_survives(log, left_on_disk(log, &[keep, None]), false);
            assert_survives(log, left_on_disk(log, &[None, keep]), false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_a_power_cut_leaves_is_read_and_nothing_that_was_removed_comes_back(
        cut in any::<prop::sample::Index>(),
        keep in prop::collection::vec(prop::option::of(prop_oneof![Just(usize::MAX), 0usize..4096]), 1..20),
    ) {
        let (log, created) = after_creation();
        let log = &log[..created + cut.index(log.len() - created)];
        assert_survives(log, left_on_disk(log, &keep), false);
    }
}

/// Nothing waits for a sync that does not come to its end but a removal, and the next start knows all that was answered.
#[tokio::test]
async fn a_registration_does_not_wait_for_a_sync() {
    let (disk, registry) = (Disk::default(), Arc::new(Registry::new(9, 99)));
    let (store, _, thread) = open(&disk, registry).expect("opens");
    *disk.slow.0.lock() = true;
    for executor in 0..9 {
        store
            .register("stays".into(), executor.to_string(), dirs("stays", executor))
            .await
            .expect("answered");
    }
    store.driver("stays".into(), Duration::from_secs(1)).await.expect("answered");
    let asked = store.clone();
    let mut removal = Box::pin(asked.remove("goes".into()));
    assert!(futures::poll!(&mut removal).is_pending());
    let killed = Disk::default();
    *killed.content.lock() = disk.content.lock().clone();
    let registry = Arc::new(Registry::new(9, 99));
    let (_, _, other) = open(&killed, registry.clone()).expect("opens");
    other.join().expect("ends");
    assert!((0..9).all(|executor| registry.has("stays", &executor.to_string(), &dirs("stays", executor))));
    *disk.slow.0.lock() = false;
    disk.slow.1.notify_all();
    removal.await.expect("answered");
    drop((store, asked));
    thread.join().expect("ends");
}

/// It sends no heartbeat, for it starts to do so when it is told that it is registered.
#[tokio::test]
async fn a_driver_that_was_refused_is_not_taken_for_silent() {
    let (disk, registry) = (Disk::default(), Arc::new(Registry::new(9, 99)));
    let (store, _, thread) = open(&disk, registry.clone()).expect("opens");
    store.register("a".into(), "1".into(), dirs("a", 1)).await.expect("stored");
    disk.full.store(true, Relaxed);
    for app in ["a", "new"] {
        store.driver(app.into(), Duration::from_secs(1)).await.expect_err("the disk is full");
    }
    assert!(registry.silent_apps(Instant::now() + Duration::from_secs(60)).is_empty());
    assert!(registry.app("a").is_some() && registry.app("new").is_none());
    disk.full.store(false, Relaxed);
    store.driver("a".into(), Duration::from_secs(1)).await.expect("stored");
    assert_eq!(registry.silent_apps(Instant::now() + Duration::from_secs(60)), ["a".into()]);
    drop(store);
    thread.join().expect("ends");
}

#[tokio::test]
async fn the_end_of_the_thread_that_syncs_is_noticed_without_another_call() {
    let (disk, registry) = (Disk::default(), Arc::new(Registry::new(9, 99)));
    let (store, _, _) = open(&disk, registry).expect("opens");
    disk.sync_panics.store(true, Relaxed);
    store.register("a".into(), "1".into(), dirs("a", 1)).await.expect("answered");
    store.ended().await;
}

#[tokio::test]
async fn a_removal_whose_sync_fails_at_first_comes_to_its_end() {
    let (disk, registry) = (Disk::default(), Arc::new(Registry::new(9, 99)));
    let (store, recovered, _) = open(&disk, registry.clone()).expect("opens");
    let dir = tempfile::tempdir().expect("directory");
    let block_dir = dir.path().canonicalize().expect("exists").join("app/blockmgr-1");
    std::fs::create_dir_all(&block_dir).expect("directory");
    let config = crate::Config::new(dir.path().join("work"));
    let security = crate::security::Security::load(&config).expect("none");
    let told = LocalDirs::unseen(&[block_dir.to_str().expect("UTF-8").to_owned()], 64);
    store.register("app".into(), "1".into(), told).await.expect("stored");
    let service = crate::service::Service::new(config, security, registry, (store, recovered));
    service.remove_app("another").await.expect("all before it is synced, too");
    disk.sync_fails.store(true, Relaxed);
    service.forget_app_if("app", |_| true).await.expect_err("not durable");
    assert!(block_dir.exists(), "not durable yet");
    disk.sync_fails.store(false, Relaxed);
    service.retry_removals().await;
    assert!(!block_dir.exists(), "it waited until the removal was durable");
}
