//! The database on a disk that loses power: of what was not synced, any part may be missing or half there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proptest::prelude::*;
use redb::{Database, StorageBackend};

use super::Store;
use crate::blocks::LocalDirs;
use crate::registry::Registry;

#[derive(Debug, Clone)]
enum Event {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
    Created,
    /// The store answered that this application's executor is registered, or that the application is gone.
    Registered(&'static str, usize),
    Removed(&'static str),
}

/// Remembers everything that happened to it, in order.
#[derive(Debug, Clone, Default)]
struct Disk {
    content: Arc<Mutex<Vec<u8>>>,
    log: Arc<Mutex<Vec<Event>>>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn note(&self, event: Event) {
        apply(&mut self.content.lock(), &event, None);
        self.log.lock().push(event);
    }
}

fn apply(content: &mut Vec<u8>, event: &Event, torn_after: Option<usize>) {
    match event {
        Event::Write(offset, data) => {
            let data = &data[..torn_after.unwrap_or(data.len()).min(data.len())];
            let at = *offset as usize;
            if content.len() < at + data.len() {
                content.resize(at + data.len(), 0);
            }
            content[at..at + data.len()].copy_from_slice(data);
        }
        Event::SetLen(length) => content.resize(*length as usize, 0),
        _ => {}
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content.lock();
        let part = content.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Event::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note(Event::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.full.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.note(Event::Write(offset, data.to_vec()));
        Ok(())
    }
}

fn dirs(app: &str, executor: usize) -> LocalDirs {
    LocalDirs::unseen(&[format!("/nonexistent/{app}/blockmgr-{executor}")], 64)
}

fn open(
    disk: &Disk,
    registry: Arc<Registry>,
) -> Result<(Store, super::Recovered, std::thread::JoinHandle<()>), String> {
    let disk = disk.clone();
    let open = move || Ok(Database::builder().create_with_backend(disk.clone())?);
    Store::with(std::path::Path::new("disk").into(), Box::new(open), registry)
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

/// What is on the disk when power goes after `log`: all up to the last sync, and of the rest what `keep` picks.
fn left_on_disk(log: &[Event], keep: &[Option<usize>]) -> Vec<u8> {
    let synced = log.iter().rposition(|e| matches!(e, Event::Sync)).map_or(0, |at| at + 1);
    let mut content = Vec::new();
    log[..synced].iter().for_each(|event| apply(&mut content, event, None));
    for (event, keep) in log[synced..].iter().zip(keep.iter().cycle()) {
        match (event, keep) {
            // A file's length may or may not have reached the disk; redb syncs after it grows a file.
            (Event::SetLen(_), _) => apply(&mut content, event, None),
            (_, Some(torn_after)) => apply(&mut content, event, Some(*torn_after)),
            (_, None) => {}
        }
    }
    content
}

/// Starts from what is left on the disk and compares with what was answered before the end of `log`.
fn assert_survives(log: &[Event], keep: &[Option<usize>]) {
    let disk = Disk::default();
    *disk.content.lock() = left_on_disk(log, keep);
    let registry = Arc::new(Registry::new(9, 99));
    let (store, _, thread) = open(&disk, registry.clone()).expect("opens and loads after the cut");
    drop(store);
    thread.join().expect("ends");

    let removed = log.iter().any(|e| matches!(e, Event::Removed(_)));
    for event in log {
        match *event {
            Event::Registered("stays", executor) => {
                assert!(registry.has("stays", &executor.to_string(), &dirs("stays", executor)));
            }
            Event::Removed(app) => assert!(registry.app(app).is_none()),
            Event::Registered(app, executor) if !removed => {
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

/// Everything written reaches the disk in order, and the last write only in part: a kill, or a full disk.
#[test]
fn what_was_answered_survives_a_cut_in_every_write() {
    let (log, created) = after_creation();
    for end in created..=log.len() {
        let log = &log[..end];
        let Some(Event::Write(_, data)) = log.last() else {
            assert_survives(log, &[Some(usize::MAX)]);
            continue;
        };
        let since_sync = log.iter().rev().take_while(|e| !matches!(e, Event::Sync)).count();
        for torn_after in [0, 1, data.len() / 2, data.len() - 1, data.len()] {
            let mut keep = vec![Some(usize::MAX); since_sync];
            keep[since_sync - 1] = Some(torn_after);
            assert_survives(log, &keep);
        }
        // Only the last of what was not synced.
        let mut keep = vec![None; since_sync];
        keep[since_sync - 1] = Some(data.len());
        assert_survives(log, &keep);
        assert_survives(log, &[None]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_answered_survives_a_power_cut(
        cut in any::<prop::sample::Index>(),
        keep in prop::collection::vec(prop::option::of(prop_oneof![Just(usize::MAX), 0usize..4096]), 1..20),
    ) {
        let (log, created) = after_creation();
        assert_survives(&log[..created + cut.index(log.len() - created)], &keep);
    }
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
