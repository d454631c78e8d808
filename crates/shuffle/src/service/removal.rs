//! What is forgotten and deleted, and on whose word: an application that ended, an executor that ended, what nobody
//! remembers. How files are deleted is [`crate::tidy`]'s business.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;

use super::{CallError, Service};
use crate::disks::{Disk, For, WaitError};
use crate::processes::{self, Name, Presence, Seen};
use crate::registry::{App, Executor};
use crate::store::{Removed, StoreError};
use crate::tidy::{self, Doomed};
use crate::{ExecutorRemoval, Removal};

/// An application whose directories are all gone is forgotten when it has been silent for so long.
const GONE_AFTER: Duration = Duration::from_secs(3600);

/// Whether an executor whose process was seen before is that no more. Remembers a process that is seen now.
fn has_ended(running: &HashMap<Name, Vec<Seen>>, name: &Name, executor: &Executor) -> bool {
    let candidates = running.get(name).map_or(&[][..], Vec::as_slice);
    let mut presences =
        executor.dirs.iter().map(|dir| processes::presence(candidates, Path::new(dir.told())));
    match presences.find(|presence| *presence != Presence::No).unwrap_or(Presence::No) {
        Presence::Process(pid) => executor.pid.store(pid, Relaxed),
        Presence::Maybe => {}
        Presence::No => {
            let pid = executor.pid.load(Relaxed);
            return pid != 0 && processes::has_ended(pid, name);
        }
    }
    false
}

fn is_directly_below(dir: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| dir.parent() == Some(root))
}

/// The application's directories that are not to be deleted, and why.
fn kept_of(app: &App, doomed: &Doomed) -> Vec<String> {
    let held = app.spared().into_iter().map(|dir| (dir, "held files before it was registered"));
    let left = app.own_dirs().into_keys().filter(|dir| !doomed.contains_key(dir));
    let shared = left.map(|dir| (dir, "lies directly below a root, where drivers have theirs"));
    held.chain(shared).map(|(dir, why)| format!("{}: {why}", dir.display())).collect()
}

impl Service {
    /// Forgets the application, durably, then deletes its directories. May be repeated.
    pub(crate) async fn remove_app(&self, id: &str) -> Result<Removal, CallError> {
        let removed = self.durable(id, self.store.remove(id.to_owned()).await)?;
        self.delete(id, removed).await
    }

    /// Forgets an application that still is what it was when it was picked; what is returned is then to be deleted. That
    /// nothing was heard of an application says nothing of a directory directly below a root, which may be a driver's,
    /// whoever registered it: those stay.
    pub(crate) async fn forget_app_if(
        &self,
        id: &str,
        still: impl FnOnce(&App) -> bool + Send + 'static,
    ) -> Result<Removed, CallError> {
        let roots = self.roots.clone();
        let spares = move |dir: &Path| is_directly_below(dir, &roots);
        let removed = self.store.remove_if(id.to_owned(), |app| app.is_some_and(still), spares).await;
        self.durable(id, removed)
    }

    /// Remembers an application that is forgotten in memory only.
    fn durable(&self, id: &str, removed: Result<Removed, StoreError>) -> Result<Removed, CallError> {
        if matches!(removed, Err(StoreError::Failed(_))) && self.registry.app(id).is_none() {
            self.not_durable.lock().insert(id.to_owned());
        }
        Ok(removed?)
    }

    /// Brings removals to their end that the disk of the registrations did not let become durable.
    pub(crate) async fn retry_removals(&self) {
        let ids = std::mem::take(&mut *self.not_durable.lock());
        for id in ids {
            // Where it registered again meanwhile, what is left goes with its next removal.
            let removed = self.store.remove_if(id.clone(), |app| app.is_none(), |_| false).await;
            let deleted = async { self.delete(&id, self.durable(&id, removed)?).await };
            if let Err(error) = deleted.await {
                tracing::error!(app = id, %error, "removal stays unfinished");
            }
        }
    }

    pub(crate) async fn delete(&self, id: &str, removed: Removed) -> Result<Removal, CallError> {
        let executors = removed.app.as_ref().map(|app| app.executors()).unwrap_or_default();
        let serials: HashSet<u64> = executors.iter().map(|e| e.serial).collect();
        self.files.forget(|serial| serials.contains(&serial));
        let kept = removed.app.as_deref().map(|app| kept_of(app, &removed.dirs)).unwrap_or_default();
        let mut removal = self.delete_all_dirs_of(id, removed.dirs).await?;
        removal.known = removed.app.is_some();
        removal.executors = executors.len() as u64;
        removal.kept.extend(kept);
        if removal != Removal::default() {
            tracing::info!(app = id, ?removal, "application removed");
        }
        Ok(removal)
    }

    /// Takes up the removals that a stop of the service interrupted, or that this disk did not let come to an end.
    pub(crate) async fn finish_removals(&self, disk: Disk) {
        for (app, mut dirs) in self.unfinished_removals() {
            dirs.retain(|dir, _| self.disks.of(dir) == disk);
            if dirs.is_empty() {
                continue;
            }
            match self.delete_dirs_of(&app, disk, dirs).await {
                Ok(removal) => tracing::info!(app, ?removal, "removal taken up again"),
                Err(error) => tracing::error!(app, %error, "removal stays unfinished"),
            }
        }
    }

    pub(crate) fn unfinished_removals(&self) -> BTreeMap<String, Doomed> {
        self.unfinished.lock().clone()
    }

    /// On all disks side by side, so that none that hangs keeps what lies on the others.
    async fn delete_all_dirs_of(&self, app: &str, dirs: Doomed) -> Result<Removal, CallError> {
        if dirs.is_empty() {
            return Ok(Removal::default());
        }
        self.unfinished.lock().entry(app.to_owned()).or_default().extend(dirs.clone());
        let mut by_disk: BTreeMap<Disk, Doomed> = BTreeMap::new();
        for (dir, owner) in dirs {
            by_disk.entry(self.disks.of(&dir)).or_default().insert(dir, owner);
        }
        let parts = by_disk.into_iter().map(|(disk, dirs)| self.delete_dirs_of(app, disk, dirs));
        let mut removal = Removal::default();
        for part in join_all(parts).await {
            let part = part?;
            removal.directories += part.directories;
            removal.files += part.files;
            removal.bytes += part.bytes;
            removal.kept.extend(part.kept);
        }
        Ok(removal)
    }

    /// The duty ends when nothing is left that could still go, and that is stored.
    async fn delete_dirs_of(&self, app: &str, disk: Disk, dirs: Doomed) -> Result<Removal, CallError> {
        let (removal, done) = self.delete_dirs(disk, dirs).await?;
        self.store.deleted(app.to_owned(), done.clone()).await?;
        // Only what is done: another removal of the same application may be under way.
        let mut unfinished = self.unfinished.lock();
        if let Some(left) = unfinished.get_mut(app) {
            left.retain(|dir, _| !done.contains(dir));
            if left.is_empty() {
                unfinished.remove(app);
            }
        }
        Ok(removal)
    }

    /// Also returns those with which there is nothing more to be done.
    async fn delete_dirs(&self, disk: Disk, dirs: Doomed) -> Result<(Removal, BTreeSet<PathBuf>), CallError> {
        let (registry, roots) = (self.registry.clone(), self.roots.clone());
        let delete = move |(dir, owner): (PathBuf, Option<u32>)| {
            // An executor may have registered it since.
            let freed = (!registry.is_owned(&dir)).then(|| tidy::remove_block_dir(&dir, owner, &roots));
            (dir, freed)
        };
        let look = self.disks.looks(disk);
        // Of a disk that is out of reach all seems to be gone: it stays a duty.
        let work = move || match look() {
            Ok(()) => Ok(dirs.into_iter().map(delete).collect::<Vec<_>>()),
            Err(why) => Err(dirs.into_keys().map(|dir| format!("{}: {why}", dir.display())).collect()),
        };
        let (mut removal, mut done) = (Removal::default(), BTreeSet::new());
        let deleted = match self.disks.tend(disk, work).await? {
            Ok(deleted) => deleted,
            Err(kept) => return Ok((Removal { kept, ..removal }, done)),
        };
        for (dir, freed) in deleted {
            match freed {
                None => removal.kept.push(format!("{}: registered", dir.display())),
                Some(Ok(freed)) => {
                    if freed.left > 0 {
                        let left = "is another user's, or holds what is";
                        removal.kept.push(format!("{}: {left} ({} entries)", dir.display(), freed.left));
                    }
                    removal.directories += u64::from(freed.left == 0);
                    removal.files += freed.files;
                    removal.bytes += freed.bytes;
                }
                Some(Err(error)) => {
                    removal.kept.push(format!("{}: {error}", dir.display()));
                    if tidy::is_block_dir(&dir) {
                        if error.kind() != io::ErrorKind::DirectoryNotEmpty {
                            self.disk_error(&dir, &error);
                        }
                        continue;
                    }
                }
            }
            done.insert(dir);
        }
        Ok((removal, done))
    }

    /// Notes that the executor has ended and deletes what nobody can ask for any more.
    pub(crate) async fn executor_departed(
        &self,
        app: &str,
        executor: &str,
    ) -> Result<ExecutorRemoval, CallError> {
        Ok(self.depart(app, executor).await?.0)
    }

    /// Also returns whether every disk did what it was asked for.
    pub(crate) async fn depart(
        &self,
        app: &str,
        executor: &str,
    ) -> Result<(ExecutorRemoval, bool), CallError> {
        let known = self.registry.app(app).and_then(|app| Some((app.executor(executor)?, app)));
        let Some((entry, of)) = known else { return Ok((ExecutorRemoval::default(), true)) };
        if !entry.departed.load(Relaxed) {
            self.store.departed(app.to_owned(), executor.to_owned()).await?;
        }
        let (owner, keep_rdd_blocks) = (of.owner(), self.config.keep_rdd_blocks);
        let clear = move |dir: &Path| {
            tidy::remove_private_files(dir, owner, keep_rdd_blocks).map_err(|error| (dir.to_owned(), error))
        };
        let is_spared = |dir: &Path| of.spares(dir) || is_directly_below(dir, &self.roots);
        let own = entry.dirs.iter().filter(|dir| !is_spared(dir.real()));
        let dirs = own.map(|dir| dir.real().to_path_buf());
        let (mut removal, mut all) = (ExecutorRemoval { known: true, files: 0, bytes: 0 }, true);
        for cleared in self.disks.wait_for_each(For::Deleting, dirs, clear).await? {
            match cleared {
                Ok(freed) => {
                    removal.files += freed.files;
                    removal.bytes += freed.bytes;
                }
                Err((dir, error)) => {
                    self.disk_error(&dir, &error);
                    all = false;
                }
            }
        }
        tracing::info!(app, executor, ?removal, "executor departed");
        Ok((removal, all))
    }

    /// Looks for executors of standalone clusters that have ended, and notices the processes of the others: one look at
    /// the machine's processes serves all who registered before it.
    pub(crate) async fn ended_executors(&self) -> Vec<Name> {
        let known = |app: Arc<App>| {
            let executors = app.standalone_executors();
            executors.into_iter().map(move |(id, executor)| ((app.id.to_string(), id.to_string()), executor))
        };
        let executors: Vec<_> = self.registry.apps().into_iter().flat_map(known).collect();
        if executors.is_empty() {
            return Vec::new();
        }
        let look = move || -> io::Result<Vec<Name>> {
            let running = processes::running()?;
            let ended = executors.into_iter().filter(|(name, executor)| has_ended(&running, name, executor));
            Ok(ended.map(|(name, _)| name).collect())
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(ended)) => return ended,
            Ok(Err(error)) => tracing::warn!(%error, "cannot look at the machine's processes"),
            Err(fault) => self.note(&WaitError::from(fault).into()),
        }
        Vec::new()
    }

    /// Forgets applications of which nothing is left: whoever manages the cluster deleted their directories and said
    /// nothing, or an executor registered when its application had been removed already. With `heartbeat_cleanup`
    /// also removes those whose driver promised heartbeats to this service before it was restarted, when nothing was
    /// heard, and nothing written in their directories, for the age of orphans: such a driver never registers again.
    pub(crate) async fn remove_abandoned(&self, now: Instant) {
        // Side by side: one with a directory on a disk that hangs waits for that alone.
        let looks = self.registry.apps().into_iter().map(async |app| {
            if let Err(error) = self.remove_if_abandoned(&app, now).await {
                tracing::error!(app = %app.id, %error, "an abandoned application may stay");
            }
        });
        join_all(looks).await;
    }

    async fn remove_if_abandoned(&self, app: &App, now: Instant) -> Result<(), CallError> {
        let Some(silence) = app.unheard_for(now).filter(|silence| *silence > GONE_AFTER) else {
            return Ok(());
        };
        let promised = self.config.heartbeat_cleanup && app.has_driver();
        let age = self.config.orphan_age.filter(|age| promised && silence > *age);
        let dirs = app.dirs();
        let none = dirs.is_empty();
        if dirs.iter().any(|dir| self.disks.is_left_out(dir)) {
            return Ok(());
        }
        let look = move |dir: &Path| {
            // Without an age it only matters whether anything is there.
            let changed = if age.is_some() { tidy::last_change(dir) } else { tidy::own_change(dir) };
            changed.map_err(|error| (dir.to_owned(), error))
        };
        let mut newest = None;
        for change in self.disks.wait_for_each(For::Upkeep, dirs, look).await? {
            match change {
                Ok(change) => newest = newest.max(change),
                Err((dir, error)) => {
                    self.disk_error(&dir, &error);
                    return Ok(());
                }
            }
        }
        let over = match (newest, age) {
            (None, _) => !none || age.is_some(),
            (Some(newest), Some(age)) => tidy::is_older(newest, age, SystemTime::now()),
            (Some(_), None) => false,
        };
        if over {
            tracing::info!(app = %app.id, ?silence, "nothing is left of the application, or it was abandoned");
            // Whoever registers or fetches meanwhile is heard, whatever the directories looked like.
            let forgotten = self.forget_app_if(&app.id, move |app| app.unheard_for(now) == Some(silence));
            self.delete(&app.id, forgotten.await?).await?;
        }
        Ok(())
    }

    /// Deletes what applications that nobody remembers left on a disk.
    pub(crate) async fn remove_orphans(&self, disk: Disk) -> Result<(), CallError> {
        let Some(age) = self.config.orphan_age else { return Ok(()) };
        let mut roots = self.roots.to_vec();
        roots.retain(|root| self.disks.of(root) == disk);
        let registry = self.registry.clone();
        let look = move || {
            let look =
                |root: &PathBuf| tidy::orphans(root, age, SystemTime::now(), |dir| registry.is_owned(dir));
            let (found, failed): (Vec<_>, Vec<_>) = roots.iter().map(look).unzip();
            (found.into_iter().flatten().collect(), failed.into_iter().flatten().collect())
        };
        let (found, failed): (Doomed, Vec<_>) = self.disks.tend(disk, look).await?;
        for (dir, error) in failed {
            match error.kind() {
                // `lost+found` is nobody's orphan.
                io::ErrorKind::PermissionDenied => {
                    tracing::debug!(dir = %dir.display(), %error, "not looked into for orphans");
                }
                _ => self.disk_error(&dir, &error),
            }
        }
        if !found.is_empty() {
            let (removal, _) = self.delete_dirs(disk, found).await?;
            tracing::info!(?removal, "orphans removed");
        }
        Ok(())
    }
}
