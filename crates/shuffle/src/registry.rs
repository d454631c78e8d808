//! Who is registered: applications and their executors, in memory. What is durable is [`crate::store`]'s business,
//! which is also the only caller of whatever changes the set of executors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::blocks::{LocalDir, LocalDirs};
use crate::disks::Disk;
use crate::metrics::Served;
use crate::tidy::{self, Doomed};

/// A registered executor. A registration under the same name with other directories makes a new one.
#[derive(Debug)]
pub(crate) struct Executor {
    /// Unique among all executors of this process.
    pub(crate) serial: u64,
    pub(crate) dirs: LocalDirs,
    /// The agent said that it has ended.
    pub(crate) departed: AtomicBool,
    /// Its process, where it was seen (see [`crate::processes`]); 0 before.
    pub(crate) pid: AtomicI32,
    /// Written; before, its registration must not be taken for answered.
    stored: AtomicBool,
}

impl Executor {
    /// Whether a standalone worker made its directories.
    pub(crate) fn is_standalone(&self) -> bool {
        let mut parents = self.dirs.iter().filter_map(|dir| dir.real().parent());
        parents.any(tidy::is_executors_dir)
    }
}

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: Arc<str>,
    executors: RwLock<HashMap<Arc<str>, Arc<Executor>>>,
    /// Every directory that was ever registered for it: what it owns.
    dirs: Mutex<BTreeSet<Arc<Path>>>,
    /// Directories that held files before they were registered: somebody else's, which are never deleted.
    spared: Mutex<BTreeSet<Arc<Path>>>,
    pub(crate) served: Served,
    pub(crate) served_departed: Served,
    /// Bytes in its directories on each disk, where they were counted.
    disk_bytes: Mutex<BTreeMap<Disk, u64>>,
    life: Mutex<Life>,
}

/// What is known of whether an application still runs.
#[derive(Debug)]
struct Life {
    /// When its driver or an executor last did something, or this service started.
    heard: Instant,
    driver: Option<Driver>,
    /// Those that its driver registered over and that are open.
    driver_connections: usize,
}

/// A connection that an application's driver registered over, until it is dropped: as long as it is open, the driver
/// is there, however late its heartbeats are, and once it is closed none comes over it any more.
#[derive(Debug)]
pub(crate) struct DriverConnection(Arc<App>);

impl DriverConnection {
    pub(crate) fn of(app: Arc<App>) -> DriverConnection {
        app.life.lock().driver_connections += 1;
        DriverConnection(app)
    }
}

impl Drop for DriverConnection {
    fn drop(&mut self) {
        let mut life = self.0.life.lock();
        life.driver_connections -= 1;
        life.heard = Instant::now();
    }
}

#[derive(Debug, Clone, Copy)]
struct Driver {
    timeout: Duration,
    /// Since this service started. A driver sends its heartbeats over the connection that it registered with, and
    /// over no other: after a restart of this service its silence says nothing.
    heard: bool,
}

impl App {
    fn new(id: Arc<str>) -> App {
        App {
            id,
            executors: RwLock::default(),
            dirs: Mutex::default(),
            spared: Mutex::default(),
            served: Served::default(),
            served_departed: Served::default(),
            disk_bytes: Mutex::default(),
            life: Mutex::new(Life { heard: Instant::now(), driver: None, driver_connections: 0 }),
        }
    }

    pub(crate) fn executor(&self, id: &str) -> Option<Arc<Executor>> {
        self.executors.read().get(id).cloned()
    }

    /// Lists the live executors of standalone workers.
    pub(crate) fn standalone_executors(&self) -> Vec<(Arc<str>, Arc<Executor>)> {
        let there = |executor: &Executor| executor.is_standalone() && !executor.departed.load(Relaxed);
        let executors = self.executors.read();
        executors.iter().filter(|(_, e)| there(e)).map(|(id, e)| (id.clone(), e.clone())).collect()
    }

    pub(crate) fn executors(&self) -> Vec<Arc<Executor>> {
        self.executors.read().values().cloned().collect()
    }

    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        self.dirs.lock().iter().map(|dir| dir.to_path_buf()).collect()
    }

    /// Whether nothing in this directory may be deleted.
    pub(crate) fn spares(&self, dir: &Path) -> bool {
        self.spared.lock().contains(dir)
    }

    /// All of its directories but those, with the user whom they belong to.
    pub(crate) fn own_dirs(&self) -> Doomed {
        let owner = self.owner();
        let spared = self.spared.lock();
        self.dirs.lock().difference(&spared).map(|dir| (dir.to_path_buf(), owner)).collect()
    }

    pub(crate) fn spared(&self) -> Vec<PathBuf> {
        self.spared.lock().iter().map(|dir| dir.to_path_buf()).collect()
    }

    /// The user whom its directories belong to, where one of its executors said so.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.executors.read().values().flat_map(|executor| executor.dirs.iter()).find_map(LocalDir::owner)
    }

    pub(crate) fn disk_bytes(&self) -> Option<u64> {
        let counted = self.disk_bytes.lock();
        (!counted.is_empty()).then(|| counted.values().sum())
    }

    pub(crate) fn set_disk_bytes(&self, disk: Disk, bytes: u64) {
        self.disk_bytes.lock().insert(disk, bytes);
    }

    /// An executor of the application did something, so that its driver is there.
    pub(crate) fn heard(&self, now: Instant) {
        self.life.lock().heard = now;
    }

    pub(crate) fn driver_heard(&self, now: Instant) {
        let mut life = self.life.lock();
        life.heard = now;
        if let Some(driver) = life.driver.as_mut() {
            driver.heard = true;
        }
    }

    /// Its driver registered, with this service or before it was restarted.
    pub(crate) fn has_driver(&self) -> bool {
        self.life.lock().driver.is_some()
    }

    fn set_driver(&self, driver: Driver) {
        self.life.lock().driver = Some(driver);
    }

    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        let life = self.life.lock();
        let since = now.saturating_duration_since(life.heard);
        let late = life.driver.is_some_and(|driver| driver.heard && since > driver.timeout);
        late && life.driver_connections == 0
    }

    /// Whether nothing would be lost with it.
    fn is_idle(&self) -> bool {
        let none = self.executors.read().is_empty() && self.dirs.lock().is_empty();
        none && self.life.lock().driver_connections == 0
    }

    /// For how long nothing was heard of it; nothing while its driver keeps a promise to be heard.
    pub(crate) fn unheard_for(&self, now: Instant) -> Option<Duration> {
        let life = self.life.lock();
        let promised = life.driver.is_some_and(|driver| driver.heard);
        (!promised).then(|| now.saturating_duration_since(life.heard))
    }
}

/// Why a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("application and executor ids have 1 to {MAX_ID_BYTES} bytes and no control characters")]
    Id,
    #[error("{0} belongs to another application")]
    Taken(String),
    #[error("{0} belongs to another user than the application's other directories")]
    Owner(String),
    #[error("{0} are registered already, the most that this service takes")]
    Full(&'static str),
}

const MAX_ID_BYTES: usize = 512;

/// Whether it may be the id of an application or an executor: those are told on in logs and answers.
pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ID_BYTES && !text.contains(char::is_control)
}

/// What the names of an executor's directories may take, on average over as many executors as may be registered.
const DIR_BYTES_PER_EXECUTOR: usize = 1024;

/// What an insertion changed; handed back to [`Registry::undo`] when the insertion could not be made durable.
#[derive(Debug)]
pub(crate) struct Inserted {
    app: Arc<str>,
    executor: Arc<str>,
    entry: Arc<Executor>,
    previous: Option<Arc<Executor>>,
    /// Directories that were nobody's.
    taken: Vec<Arc<Path>>,
}

impl Inserted {
    pub(crate) fn stored(&self) {
        self.entry.stored.store(true, Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Registry {
    inner: RwLock<Inner>,
    next_serial: AtomicU64,
    bounds: Bounds,
}

/// How much may be registered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) apps: usize,
    pub(crate) executors: usize,
    pub(crate) executors_of_app: usize,
}

impl Bounds {
    /// No bounds: for what was stored and so was taken once.
    const NONE: Bounds = Bounds { apps: usize::MAX, executors: usize::MAX, executors_of_app: usize::MAX };
}

#[derive(Debug, Default)]
struct Inner {
    apps: HashMap<Arc<str>, Arc<App>>,
    /// Which application each registered directory belongs to.
    owners: BTreeMap<Arc<Path>, Arc<str>>,
    executors: usize,
    /// Bytes of the names of all directories above, and of those that executors hold.
    dir_bytes: usize,
}

impl Registry {
    /// With one bound for the executors of one and of all.
    #[cfg(test)]
    pub(crate) fn new(apps: usize, executors: usize) -> Registry {
        Registry::with(Bounds { apps, executors, executors_of_app: executors })
    }

    pub(crate) fn with(bounds: Bounds) -> Registry {
        Registry { inner: RwLock::default(), next_serial: AtomicU64::new(1), bounds }
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

    /// Applications whose driver promised heartbeats, has been silent for longer than it said, and is not connected.
    pub(crate) fn silent_apps(&self, now: Instant) -> Vec<Arc<str>> {
        let inner = self.inner.read();
        inner.apps.values().filter(|app| app.is_silent(now)).map(|app| app.id.clone()).collect()
    }

    /// Whether the application is known, or there is room for it.
    pub(crate) fn admits(&self, app: &str) -> Result<(), Refusal> {
        self.inner.read().admits(app, self.bounds.apps)
    }

    /// Where no application more is taken, forgets for `app` the one that was heard of longest ago of those that have
    /// no executor and whose driver is not connected. Returns which.
    pub(crate) fn make_room_for(&self, app: &str) -> Option<Arc<str>> {
        let mut inner = self.inner.write();
        if inner.apps.len() < self.bounds.apps || inner.apps.contains_key(app) {
            return None;
        }
        let idle = inner.apps.values().filter(|app| app.is_idle());
        let oldest = idle.min_by_key(|app| app.life.lock().heard)?.id.clone();
        inner.apps.remove(&oldest);
        Some(oldest)
    }

    /// Of an application that was admitted.
    pub(crate) fn set_driver(&self, app: &str, timeout: Duration, now: Instant) {
        let app = self.inner.write().app(app);
        app.set_driver(Driver { timeout, heard: true });
        app.heard(now);
    }

    /// The driver registered before this service was restarted.
    pub(crate) fn remember_driver(&self, app: &str, timeout: Duration) {
        self.inner.write().app(app).set_driver(Driver { timeout, heard: false });
    }

    /// Whether exactly this is registered already, and durable.
    pub(crate) fn has(&self, app: &str, executor: &str, dirs: &LocalDirs) -> bool {
        let found = self.app(app).and_then(|app| app.executor(executor));
        found.is_some_and(|e| e.dirs == *dirs && e.stored.load(Relaxed) && !e.departed.load(Relaxed))
    }

    pub(crate) fn insert(&self, app: &str, executor: &str, dirs: LocalDirs) -> Result<Inserted, Refusal> {
        self.put((app, executor), dirs, false, self.bounds)
    }

    /// Restores a stored registration.
    pub(crate) fn restore(
        &self,
        app: &str,
        executor: &str,
        dirs: LocalDirs,
        departed: bool,
    ) -> Result<(), Refusal> {
        self.put((app, executor), dirs, departed, Bounds::NONE)?.stored();
        Ok(())
    }

    fn put(
        &self,
        (app, executor): (&str, &str),
        dirs: LocalDirs,
        departed: bool,
        bounds: Bounds,
    ) -> Result<Inserted, Refusal> {
        let mut inner = self.inner.write();
        if executor.is_empty() || executor.len() > MAX_ID_BYTES {
            return Err(Refusal::Id);
        }
        if let Some(taken) = dirs.iter().find(|dir| inner.is_taken(dir.real(), app)) {
            return Err(Refusal::Taken(taken.told().to_owned()));
        }
        let known_app = inner.apps.get(app);
        let mut owner = known_app.and_then(|app| app.owner());
        for dir in dirs.iter() {
            owner = owner.or(dir.owner());
            if dir.owner().is_some() && dir.owner() != owner {
                return Err(Refusal::Owner(dir.told().to_owned()));
            }
        }
        let known = known_app.is_some_and(|app| app.executor(executor).is_some());
        if !known && inner.executors >= bounds.executors {
            return Err(Refusal::Full("executors"));
        }
        if !known && known_app.is_some_and(|app| app.executors.read().len() >= bounds.executors_of_app) {
            return Err(Refusal::Full("executors of this application"));
        }
        let bytes = 2 * dirs.bytes();
        if inner.dir_bytes + bytes > bounds.executors.saturating_mul(DIR_BYTES_PER_EXECUTOR) {
            return Err(Refusal::Full("directories"));
        }
        inner.admits(app, bounds.apps)?;
        let app = inner.app(app);
        let is_free = |dir: &&LocalDir| !inner.owners.contains_key(&**dir.real());
        let free: Vec<&LocalDir> = dirs.iter().filter(is_free).collect();
        // What was the application's already may hold what it wrote.
        let spared = free.iter().filter(|dir| dir.held_files());
        app.spared.lock().extend(spared.map(|dir| dir.real().clone()));
        let taken: Vec<Arc<Path>> = free.iter().map(|dir| dir.real().clone()).collect();
        for dir in &taken {
            inner.dir_bytes += dir.as_os_str().len();
            inner.owners.insert(dir.clone(), app.id.clone());
        }
        app.dirs.lock().extend(taken.iter().cloned());
        let serial = self.next_serial.fetch_add(1, Relaxed);
        inner.dir_bytes += dirs.bytes();
        let (departed, stored, pid) = (departed.into(), AtomicBool::new(false), AtomicI32::new(0));
        let entry = Arc::new(Executor { serial, dirs, departed, pid, stored });
        let executor: Arc<str> = executor.into();
        let previous = app.executors.write().insert(executor.clone(), entry.clone());
        match &previous {
            Some(previous) => inner.dir_bytes -= previous.dirs.bytes(),
            None => inner.executors += 1,
        }
        Ok(Inserted { app: app.id.clone(), executor, entry, previous, taken })
    }

    /// Takes back an insertion and all that came of it. Several are undone in the reverse of their order.
    pub(crate) fn undo(&self, inserted: Inserted) {
        let mut inner = self.inner.write();
        let Some(app) = inner.apps.get(&inserted.app).cloned() else { return };
        let mut executors = app.executors.write();
        let undone = match inserted.previous {
            Some(previous) => {
                inner.dir_bytes += previous.dirs.bytes();
                executors.insert(inserted.executor, previous)
            }
            None => {
                let undone = executors.remove(&inserted.executor);
                inner.executors -= usize::from(undone.is_some());
                undone
            }
        };
        inner.dir_bytes -= undone.map_or(0, |undone| undone.dirs.bytes());
        for dir in inserted.taken {
            inner.dir_bytes -= dir.as_os_str().len();
            inner.owners.remove(&dir);
            app.dirs.lock().remove(&dir);
            app.spared.lock().remove(&dir);
        }
        if executors.is_empty() && app.life.lock().driver.is_none() {
            inner.apps.remove(&app.id);
        }
    }

    pub(crate) fn remove(&self, id: &str) -> Option<Arc<App>> {
        let mut inner = self.inner.write();
        let app = inner.apps.remove(id)?;
        inner.executors -= app.executors.read().len();
        inner.dir_bytes -= app.executors.read().values().map(|executor| executor.dirs.bytes()).sum::<usize>();
        for dir in app.dirs.lock().iter() {
            inner.dir_bytes -= dir.as_os_str().len();
            inner.owners.remove(dir);
        }
        Some(app)
    }

    pub(crate) fn is_owned(&self, dir: &Path) -> bool {
        self.inner.read().owners.contains_key(dir)
    }
}

impl Inner {
    fn admits(&self, id: &str, max_apps: usize) -> Result<(), Refusal> {
        if self.apps.contains_key(id) {
            return Ok(());
        }
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(Refusal::Id);
        }
        if self.apps.len() >= max_apps {
            return Err(Refusal::Full("applications"));
        }
        Ok(())
    }

    /// The application, made known if it is not yet.
    fn app(&mut self, id: &str) -> Arc<App> {
        if let Some(app) = self.apps.get(id) {
            return app.clone();
        }
        let app = Arc::new(App::new(id.into()));
        self.apps.insert(app.id.clone(), app.clone());
        app
    }

    /// Whether the directory is another application's, or one that a standalone worker made for another one's
    /// executors. Otherwise an application could read, or have deleted, what is not its own by registering it.
    fn is_taken(&self, dir: &Path, app: &str) -> bool {
        let above = dir.parent().filter(|parent| tidy::is_executors_dir(parent)).unwrap_or(dir);
        let from = (Bound::Included(above), Bound::Unbounded);
        let mut below = self.owners.range::<Path, _>(from).take_while(|(path, _)| path.starts_with(above));
        below.any(|(_, owner)| **owner != *app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(paths: &[&str]) -> LocalDirs {
        let told: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        LocalDirs::unseen(&told, 64)
    }

    fn found(path: &str, owner: u32, held_files: bool) -> LocalDirs {
        let dir = LocalDir::stored(path.to_owned(), path.into(), Some(owner), held_files);
        LocalDirs::new(vec![dir], 64).expect("one")
    }

    #[test]
    fn a_directory_has_one_owner() {
        let registry = Registry::new(10, 10);
        registry.insert("a", "1", dirs(&["/nonexistent/x/blockmgr-1"])).expect("free");
        registry.insert("a", "2", dirs(&["/nonexistent/x/blockmgr-1"])).expect("its own");
        let taken = "/nonexistent/x/blockmgr-1";
        let refused = registry.insert("b", "1", dirs(&[taken])).map(|_| ());
        assert_eq!(refused, Err(Refusal::Taken(taken.to_owned())));
        registry.insert("b", "1", dirs(&["/nonexistent/x/blockmgr-10"])).expect("only looks alike");
        registry.remove("a");
        registry.insert("b", "2", dirs(&["/nonexistent/x/blockmgr-1"])).expect("free again");
        assert_eq!(registry.executor_count(), 2);
    }

    #[test]
    fn what_a_worker_made_for_an_applications_executors_is_that_applications() {
        let registry = Registry::new(10, 10);
        registry.insert("a", "1", dirs(&["/d/spark-1/executor-1/blockmgr-1"])).expect("free");
        registry.insert("a", "2", dirs(&["/d/spark-1/executor-1/blockmgr-2"])).expect("its own");
        registry.insert("b", "1", dirs(&["/d/spark-1/executor-10/blockmgr-3"])).expect("only looks alike");
        let beside = "/d/spark-1/executor-1/blockmgr-4";
        let refused = registry.insert("b", "2", dirs(&[beside])).map(|_| ());
        assert_eq!(refused, Err(Refusal::Taken(beside.to_owned())));
    }

    #[test]
    fn the_directories_of_an_application_belong_to_one_user() {
        let registry = Registry::new(10, 10);
        registry.insert("a", "1", found("/d/blockmgr-1", 1000, false)).expect("free");
        let refused = registry.insert("a", "2", found("/d/blockmgr-2", 1001, false)).map(|_| ());
        assert_eq!(refused, Err(Refusal::Owner("/d/blockmgr-2".to_owned())));
        registry.insert("a", "2", found("/d/blockmgr-2", 1000, false)).expect("of the same");
        registry.insert("b", "1", found("/d/blockmgr-3", 1001, false)).expect("another application");
    }

    #[test]
    fn what_was_there_before_its_registrant_is_spared() {
        let registry = Registry::new(10, 10);
        registry.insert("a", "1", found("/d/blockmgr-1", 0, false)).expect("free");
        registry.insert("a", "2", found("/d/blockmgr-1", 0, true)).expect("its own");
        registry.insert("a", "3", found("/d/blockmgr-2", 0, true)).expect("free");
        let app = registry.app("a").expect("known");
        assert_eq!(app.spared(), [PathBuf::from("/d/blockmgr-2")]);
        assert!(app.spares(Path::new("/d/blockmgr-2")) && !app.spares(Path::new("/d/blockmgr-1")));
        let again = registry.insert("a", "4", found("/d/blockmgr-3", 0, true)).expect("free");
        registry.undo(again);
        assert_eq!(app.spared().len(), 1);
    }

    #[test]
    fn an_undone_insertion_leaves_what_was_there() {
        let registry = Registry::new(10, 10);
        registry.insert("a", "1", dirs(&["/nonexistent/1"])).expect("free");
        let before = registry.app("a").and_then(|a| a.executor("1")).expect("registered");
        let again = registry.insert("a", "1", dirs(&["/nonexistent/2"])).expect("free");
        assert!(!registry.has("a", "1", &dirs(&["/nonexistent/2"])), "not stored yet");
        let other = registry.insert("a", "2", dirs(&["/nonexistent/3"])).expect("free");
        registry.undo(other);
        registry.undo(again);
        let app = registry.app("a").expect("known");
        assert_eq!(app.executor("1").map(|e| e.serial), Some(before.serial));
        assert!(app.executor("2").is_none());
        assert_eq!(registry.executor_count(), 1);
        assert_eq!(app.dirs(), [PathBuf::from("/nonexistent/1")]);

        let first = registry.insert("b", "1", dirs(&["/nonexistent/4"])).expect("free");
        let second = registry.insert("b", "1", dirs(&["/nonexistent/4", "/nonexistent/5"])).expect("own");
        registry.undo(second);
        registry.undo(first);
        assert!(registry.app("b").is_none(), "nothing of it was stored");
        registry.insert("c", "1", dirs(&["/nonexistent/4"])).expect("free again");
        registry.remove("a");
        registry.remove("c");
        assert_eq!((registry.inner.read().dir_bytes, registry.executor_count()), (0, 0));
    }

    #[test]
    fn one_executor_that_registers_again_and_again_takes_no_more_than_its_share() {
        let registry = Registry::new(1, 2);
        let register = |i: usize| registry.insert("a", "1", dirs(&[&format!("/nonexistent/{i:0100}")]));
        let refused = (0..100).find_map(|i| register(i).err());
        assert_eq!(refused, Some(Refusal::Full("directories")));
        registry.remove("a");
        register(100).expect("room again");
    }

    #[test]
    fn bounds_hold() {
        let registry = Registry::new(1, 2);
        registry.insert("a", "1", dirs(&["/nonexistent/1"])).expect("free");
        assert_eq!(
            registry.insert("b", "1", dirs(&["/nonexistent/2"])).map(|_| ()),
            Err(Refusal::Full("applications"))
        );
        registry.insert("a", "2", dirs(&["/nonexistent/2"])).expect("free");
        assert_eq!(
            registry.insert("a", "3", dirs(&["/nonexistent/3"])).map(|_| ()),
            Err(Refusal::Full("executors"))
        );
        registry.insert("a", "2", dirs(&["/nonexistent/4"])).expect("replaces");
        assert_eq!(registry.insert("a", "", dirs(&["/nonexistent/5"])).map(|_| ()), Err(Refusal::Id));
    }

    #[test]
    fn one_application_does_not_take_the_room_of_all() {
        let registry = Registry::with(Bounds { apps: 9, executors: 9, executors_of_app: 2 });
        let register = |app: &str, at: usize| {
            registry
                .insert(app, &at.to_string(), dirs(&[&format!("/nonexistent/{app}/blockmgr-{at}")]))
                .map(drop)
        };
        assert_eq!([0, 1].map(|at| register("flood", at)), [Ok(()), Ok(())]);
        assert_eq!(register("flood", 2), Err(Refusal::Full("executors of this application")));
        assert_eq!(register("other", 0), Ok(()));
        assert_eq!(register("flood", 1), Ok(()), "it is known");
    }

    #[test]
    fn drivers_that_promised_and_went_make_room() {
        let (registry, now) = (Registry::new(3, 10), Instant::now());
        registry.insert("a", "1", dirs(&["/nonexistent/1"])).expect("free");
        registry.set_driver("gone", Duration::from_secs(1), now);
        registry.set_driver("connected", Duration::from_secs(1), now - Duration::from_secs(9));
        let connection = DriverConnection::of(registry.app("connected").expect("known"));
        assert_eq!(registry.make_room_for("a"), None, "it is known");
        assert_eq!(registry.make_room_for("new").as_deref(), Some("gone"));
        assert_eq!(registry.make_room_for("new"), None, "there is room");
        registry.set_driver("new", Duration::from_secs(1), now + Duration::from_secs(9));
        drop(connection);
        assert_eq!(registry.make_room_for("newer").as_deref(), Some("connected"));
    }

    #[test]
    fn only_a_driver_that_promised_heartbeats_can_fall_silent() {
        let (registry, start) = (Registry::new(10, 10), Instant::now());
        registry.insert("a", "1", dirs(&["/nonexistent/1"])).expect("free");
        registry.set_driver("b", Duration::from_secs(10), start);
        let silent = |after| registry.silent_apps(start + Duration::from_secs(after));
        assert!(silent(10).is_empty());
        assert_eq!(silent(11), ["b".into()]);
        registry.app("b").expect("known").heard(start + Duration::from_secs(5));
        assert!(silent(15).is_empty());
        assert_eq!(silent(16), ["b".into()]);
        registry.remember_driver("c", Duration::from_secs(1));
        assert_eq!(silent(16), ["b".into()], "not since the restart");
        registry.app("c").expect("known").driver_heard(start + Duration::from_secs(16));
        assert_eq!(silent(18).len(), 2);
    }

    #[test]
    fn a_driver_that_is_connected_is_not_silent() {
        let (registry, timeout) = (Registry::new(10, 10), Duration::from_secs(10));
        registry.set_driver("a", timeout, Instant::now() - 2 * timeout);
        let silent = |after| registry.silent_apps(Instant::now() + after);
        assert_eq!(silent(Duration::ZERO), ["a".into()]);
        let app = registry.app("a").expect("known");
        let connections = [(); 2].map(|()| DriverConnection::of(app.clone()));
        for connection in connections {
            assert!(silent(timeout * 1000).is_empty());
            drop(connection);
        }
        assert!(silent(Duration::ZERO).is_empty(), "its time begins when it is gone");
        assert_eq!(silent(2 * timeout), ["a".into()]);
    }
}
