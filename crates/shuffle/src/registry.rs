//! Who is registered: applications and their executors, in memory. What is durable is [`crate::store`]'s business,
//! which is also the only caller of whatever changes the set of executors.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::blocks::LocalDirs;
use crate::metrics::Served;

/// A registered executor. A registration under the same name with other directories makes a new one.
#[derive(Debug)]
pub(crate) struct Executor {
    /// Unique among all executors of this process.
    pub(crate) serial: u64,
    pub(crate) dirs: LocalDirs,
    /// The agent said that it has ended.
    pub(crate) departed: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: Arc<str>,
    executors: RwLock<HashMap<Arc<str>, Arc<Executor>>>,
    pub(crate) served: Served,
    pub(crate) served_departed: Served,
    /// Bytes in its directories; `u64::MAX` before the first count.
    disk_bytes: AtomicU64,
    driver: Mutex<Option<Driver>>,
}

#[derive(Debug, Clone, Copy)]
struct Driver {
    timeout: Duration,
    heard: Instant,
}

impl App {
    fn new(id: Arc<str>) -> App {
        App {
            id,
            executors: RwLock::default(),
            served: Served::default(),
            served_departed: Served::default(),
            disk_bytes: AtomicU64::new(u64::MAX),
            driver: Mutex::default(),
        }
    }

    pub(crate) fn executor(&self, id: &str) -> Option<Arc<Executor>> {
        self.executors.read().get(id).cloned()
    }

    pub(crate) fn executors(&self) -> Vec<Arc<Executor>> {
        self.executors.read().values().cloned().collect()
    }

    pub(crate) fn disk_bytes(&self) -> Option<u64> {
        Some(self.disk_bytes.load(Relaxed)).filter(|&bytes| bytes != u64::MAX)
    }

    pub(crate) fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Relaxed);
    }

    /// The driver is there: it said so, or an executor of its application did something.
    pub(crate) fn heard(&self, now: Instant) {
        if let Some(driver) = self.driver.lock().as_mut() {
            driver.heard = now;
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.driver.lock().is_some_and(|d| now.saturating_duration_since(d.heard) > d.timeout)
    }
}

/// Why a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("application and executor ids have 1 to {MAX_ID_BYTES} bytes")]
    Id,
    #[error("{0} belongs to another application")]
    Taken(String),
    #[error("{0} are registered already, the most that this service takes")]
    Full(&'static str),
}

const MAX_ID_BYTES: usize = 512;

/// What an insertion replaced; handed back to [`Registry::undo`] when the insertion could not be made durable.
#[derive(Debug)]
pub(crate) struct Inserted {
    app: Arc<str>,
    executor: Arc<str>,
    previous: Option<Arc<Executor>>,
}

#[derive(Debug)]
pub(crate) struct Registry {
    inner: RwLock<Inner>,
    next_serial: AtomicU64,
    max_apps: usize,
    max_executors: usize,
}

#[derive(Debug, Default)]
struct Inner {
    apps: HashMap<Arc<str>, Arc<App>>,
    /// Which application each registered directory belongs to.
    owners: BTreeMap<Arc<Path>, Arc<str>>,
    executors: usize,
}

impl Registry {
    pub(crate) fn new(max_apps: usize, max_executors: usize) -> Registry {
        Registry { inner: RwLock::default(), next_serial: AtomicU64::new(1), max_apps, max_executors }
    }

    pub(crate) fn app(&self, id: &str) -> Option<Arc<App>> {
        self.inner.read().apps.get(id).cloned()
    }

    pub(crate) fn apps(&self) -> Vec<Arc<App>> {
        self.inner.read().apps.values().cloned().collect()
    }

    pub(crate) fn executor_count(&self) -> usize {
        self.inner.read().executors
    }

    /// Applications whose driver promised heartbeats and has been silent for longer than it said.
    pub(crate) fn silent_apps(&self, now: Instant) -> Vec<Arc<str>> {
        let inner = self.inner.read();
        inner.apps.values().filter(|app| app.is_silent(now)).map(|app| app.id.clone()).collect()
    }

    pub(crate) fn set_driver(&self, app: &str, timeout: Duration, now: Instant) -> Result<(), Refusal> {
        let app = self.inner.write().app(app, self.max_apps)?;
        *app.driver.lock() = Some(Driver { timeout, heard: now });
        Ok(())
    }

    /// Whether exactly this is registered already.
    pub(crate) fn has(&self, app: &str, executor: &str, dirs: &LocalDirs) -> bool {
        let found = self.app(app).and_then(|app| app.executor(executor));
        found.is_some_and(|e| e.dirs == *dirs && !e.departed.load(Relaxed))
    }

    pub(crate) fn insert(
        &self,
        app: &str,
        executor: &str,
        dirs: LocalDirs,
        departed: bool,
    ) -> Result<Inserted, Refusal> {
        let mut inner = self.inner.write();
        if executor.is_empty() || executor.len() > MAX_ID_BYTES {
            return Err(Refusal::Id);
        }
        if let Some(taken) = dirs.iter().find(|dir| inner.is_taken(dir.real(), app)) {
            return Err(Refusal::Taken(taken.told().to_owned()));
        }
        let known = inner.apps.get(app).is_some_and(|app| app.executor(executor).is_some());
        if !known && inner.executors >= self.max_executors {
            return Err(Refusal::Full("executors"));
        }
        let app = inner.app(app, self.max_apps)?;
        for dir in dirs.iter() {
            inner.owners.insert(dir.real().clone(), app.id.clone());
        }
        let serial = self.next_serial.fetch_add(1, Relaxed);
        let entry = Arc::new(Executor { serial, dirs, departed: departed.into() });
        let executor: Arc<str> = executor.into();
        let previous = app.executors.write().insert(executor.clone(), entry);
        inner.executors += usize::from(previous.is_none());
        Ok(Inserted { app: app.id.clone(), executor, previous })
    }

    /// Puts back what an insertion replaced. Its directories stay the application's: it may hold others there.
    pub(crate) fn undo(&self, inserted: Inserted) {
        let mut inner = self.inner.write();
        let Some(app) = inner.apps.get(&inserted.app).cloned() else { return };
        match inserted.previous {
            Some(previous) => {
                app.executors.write().insert(inserted.executor, previous);
            }
            None if app.executors.write().remove(&inserted.executor).is_some() => inner.executors -= 1,
            None => {}
        }
    }

    /// Forgets the application; returns it and every directory that was ever registered for it.
    pub(crate) fn remove(&self, id: &str) -> Option<(Arc<App>, Vec<PathBuf>)> {
        let mut inner = self.inner.write();
        let app = inner.apps.remove(id)?;
        inner.executors -= app.executors.read().len();
        let mut dirs = Vec::new();
        inner.owners.retain(|dir, owner| {
            let its_own = *owner == app.id;
            if its_own {
                dirs.push(dir.to_path_buf());
            }
            !its_own
        });
        Some((app, dirs))
    }

    pub(crate) fn is_owned(&self, dir: &Path) -> bool {
        self.inner.read().owners.contains_key(dir)
    }

    /// What [`Registry::remove`] would return.
    pub(crate) fn dirs(&self, id: &str) -> Vec<PathBuf> {
        let inner = self.inner.read();
        inner.owners.iter().filter(|(_, owner)| ***owner == *id).map(|(dir, _)| dir.to_path_buf()).collect()
    }
}

impl Inner {
    /// The application, made known if it is not yet.
    fn app(&mut self, id: &str, max_apps: usize) -> Result<Arc<App>, Refusal> {
        if let Some(app) = self.apps.get(id) {
            return Ok(app.clone());
        }
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(Refusal::Id);
        }
        if self.apps.len() >= max_apps {
            return Err(Refusal::Full("applications"));
        }
        let app = Arc::new(App::new(id.into()));
        self.apps.insert(app.id.clone(), app.clone());
        Ok(app)
    }

    /// Whether the directory, one above it or one below it is another application's. Otherwise an application could
    /// read, or have deleted, what is not its own by registering it.
    fn is_taken(&self, dir: &Path, app: &str) -> bool {
        let above = dir.ancestors().filter_map(|ancestor| self.owners.get(ancestor));
        let from = (Bound::Included(dir), Bound::Unbounded);
        let below = self.owners.range::<Path, _>(from).take_while(|(path, _)| path.starts_with(dir));
        above.chain(below.map(|(_, owner)| owner)).any(|owner| **owner != *app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(paths: &[&str]) -> LocalDirs {
        let told: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        LocalDirs::resolve(&told, 64, &[]).expect("sound")
    }

    #[test]
    fn a_directory_has_one_owner() {
        let registry = Registry::new(10, 10);
        registry.insert("a", "1", dirs(&["/nonexistent/x/blockmgr-1"]), false).expect("free");
        registry.insert("a", "2", dirs(&["/nonexistent/x/blockmgr-1"]), false).expect("its own");
        for taken in ["/nonexistent/x/blockmgr-1", "/nonexistent/x", "/nonexistent/x/blockmgr-1/00", "/"] {
            let refused = registry.insert("b", "1", dirs(&[taken]), false).map(|_| ());
            assert_eq!(refused, Err(Refusal::Taken(taken.to_owned())));
        }
        registry.insert("b", "1", dirs(&["/nonexistent/x/blockmgr-10"]), false).expect("only looks alike");
        registry.remove("a");
        registry.insert("b", "2", dirs(&["/nonexistent/x/blockmgr-1"]), false).expect("free again");
        assert_eq!(registry.executor_count(), 2);
    }

    #[test]
    fn an_undone_insertion_leaves_what_was_there() {
        let registry = Registry::new(10, 10);
        registry.insert("a", "1", dirs(&["/nonexistent/1"]), false).expect("free");
        let before = registry.app("a").and_then(|a| a.executor("1")).expect("registered");
        let again = registry.insert("a", "1", dirs(&["/nonexistent/2"]), false).expect("free");
        let other = registry.insert("a", "2", dirs(&["/nonexistent/3"]), false).expect("free");
        registry.undo(other);
        registry.undo(again);
        let app = registry.app("a").expect("known");
        assert_eq!(app.executor("1").map(|e| e.serial), Some(before.serial));
        assert!(app.executor("2").is_none());
        assert_eq!(registry.executor_count(), 1);
    }

    #[test]
    fn bounds_hold() {
        let registry = Registry::new(1, 2);
        registry.insert("a", "1", dirs(&["/nonexistent/1"]), false).expect("free");
        assert_eq!(
            registry.insert("b", "1", dirs(&["/nonexistent/2"]), false).map(|_| ()),
            Err(Refusal::Full("applications"))
        );
        registry.insert("a", "2", dirs(&["/nonexistent/2"]), false).expect("free");
        assert_eq!(
            registry.insert("a", "3", dirs(&["/nonexistent/3"]), false).map(|_| ()),
            Err(Refusal::Full("executors"))
        );
        registry.insert("a", "2", dirs(&["/nonexistent/4"]), false).expect("replaces");
        assert_eq!(registry.insert("a", "", dirs(&["/nonexistent/5"]), false).map(|_| ()), Err(Refusal::Id));
    }

    #[test]
    fn only_a_driver_that_promised_heartbeats_can_fall_silent() {
        let (registry, start) = (Registry::new(10, 10), Instant::now());
        registry.insert("a", "1", dirs(&["/nonexistent/1"]), false).expect("free");
        registry.set_driver("b", Duration::from_secs(10), start).expect("room");
        let silent = |after| registry.silent_apps(start + Duration::from_secs(after));
        assert!(silent(10).is_empty());
        assert_eq!(silent(11), ["b".into()]);
        registry.app("b").expect("known").heard(start + Duration::from_secs(5));
        assert!(silent(15).is_empty());
        assert_eq!(silent(16), ["b".into()]);
    }
}
