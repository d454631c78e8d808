//! What is forgotten and deleted, and on whose word: an application that ended, an executor that ended, what nobody
//! remembers. How files are deleted is [`crate::tidy`]'s business.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use super::{CallError, Service, blocking};
use crate::registry::App;
use crate::store::Removed;
use crate::{ExecutorRemoval, Removal, tidy};

/// An application whose directories are all gone is forgotten when it has been silent for so long.
const GONE_AFTER: Duration = Duration::from_secs(3600);

impl Service {
    /// Forgets the application, durably, then deletes its directories. May be repeated.
    pub(crate) async fn remove_app(self: &Arc<Self>, id: &str) -> Result<Removal, CallError> {
        let removed = self.store.remove(id.to_owned()).await?;
        self.delete(id, removed).await
    }

    /// The same for an application that still is what it was when it was picked.
    pub(crate) async fn remove_app_if(
        self: &Arc<Self>,
        id: &str,
        still: impl FnOnce(&App) -> bool + Send + 'static,
    ) -> Result<Removal, CallError> {
        let removed = self.store.remove_if(id.to_owned(), |app| app.is_some_and(still)).await?;
        self.delete(id, removed).await
    }

    async fn delete(self: &Arc<Self>, id: &str, removed: Removed) -> Result<Removal, CallError> {
        let executors = removed.app.as_ref().map(|app| app.executors()).unwrap_or_default();
        let serials: HashSet<u64> = executors.iter().map(|e| e.serial).collect();
        self.files.forget(|serial| serials.contains(&serial));
        let mut removal = self.delete_dirs_of(id, removed.dirs).await?;
        removal.executors = executors.len() as u64;
        if removal != Removal::default() {
            tracing::info!(app = id, ?removal, "application removed");
        }
        Ok(removal)
    }

    /// Takes up the removals that a stop of the service interrupted, or that a disk did not let come to an end.
    pub(crate) async fn finish_removals(self: &Arc<Self>) {
        for (app, dirs) in self.unfinished_removals() {
            match self.delete_dirs_of(&app, dirs).await {
                Ok(removal) => tracing::info!(app, ?removal, "removal taken up again"),
                Err(error) => tracing::error!(app, %error, "removal stays unfinished"),
            }
        }
    }

    pub(crate) fn unfinished_removals(&self) -> BTreeMap<String, BTreeSet<PathBuf>> {
        self.unfinished.lock().clone()
    }

    /// The duty ends when nothing is left that could still go, and that is stored.
    async fn delete_dirs_of(
        self: &Arc<Self>,
        app: &str,
        dirs: BTreeSet<PathBuf>,
    ) -> Result<Removal, CallError> {
        if dirs.is_empty() {
            return Ok(Removal::default());
        }
        self.unfinished.lock().entry(app.to_owned()).or_default().extend(dirs.iter().cloned());
        let (removal, done) = self.delete_dirs(dirs).await?;
        self.store.deleted(app.to_owned(), done.clone()).await?;
        // Only what is done: another removal of the same application may be under way.
        let mut unfinished = self.unfinished.lock();
        if let Some(left) = unfinished.get_mut(app) {
            left.retain(|dir| !done.contains(dir));
            if left.is_empty() {
                unfinished.remove(app);
            }
        }
        Ok(removal)
    }

    /// Also returns those with which there is nothing more to be done.
    async fn delete_dirs(
        self: &Arc<Self>,
        dirs: BTreeSet<PathBuf>,
    ) -> Result<(Removal, BTreeSet<PathBuf>), CallError> {
        let service = self.clone();
        blocking(move || {
            let (mut removal, mut done) = (Removal::default(), BTreeSet::new());
            for dir in dirs {
                // An executor may have registered it since.
                if service.registry.is_owned(&dir) {
                    removal.kept.push(format!("{}: registered", dir.display()));
                    done.insert(dir);
                    continue;
                }
                match tidy::remove_block_dir(&dir, &service.roots) {
                    Ok(freed) => {
                        removal.directories += 1;
                        removal.files += freed.files;
                        removal.bytes += freed.bytes;
                        done.insert(dir);
                    }
                    Err(error) => {
                        removal.kept.push(format!("{}: {error}", dir.display()));
                        if !tidy::is_block_dir(&dir) {
                            done.insert(dir);
                        } else if error.kind() != io::ErrorKind::DirectoryNotEmpty {
                            service.disk_error(&dir, &error);
                        }
                    }
                }
            }
            (removal, done)
        })
        .await
    }

    /// The executor has ended, says the agent.
    pub(crate) async fn executor_departed(
        self: &Arc<Self>,
        app: &str,
        executor: &str,
    ) -> Result<ExecutorRemoval, CallError> {
        let entry = self.registry.app(app).and_then(|app| app.executor(executor));
        let Some(entry) = entry else { return Ok(ExecutorRemoval::default()) };
        if !entry.departed.load(Relaxed) {
            self.store.departed(app.to_owned(), executor.to_owned()).await?;
        }
        let keep_rdd_blocks = self.config.keep_rdd_blocks;
        let service = self.clone();
        let freed = blocking(move || {
            let (mut files, mut bytes) = (0, 0);
            for dir in entry.dirs.iter().map(|dir| dir.real()) {
                match tidy::remove_private_files(dir, keep_rdd_blocks) {
                    Ok(freed) => (files, bytes) = (files + freed.files, bytes + freed.bytes),
                    Err(error) => service.disk_error(dir, &error),
                }
            }
            (files, bytes)
        });
        let (files, bytes) = freed.await?;
        tracing::info!(app, executor, files, bytes, "executor departed");
        Ok(ExecutorRemoval { known: true, files, bytes })
    }

    /// Forgets applications of which nothing is left: whoever manages the cluster deleted their directories and said
    /// nothing, or an executor registered when its application had been removed already. With `heartbeat_cleanup`,
    /// where nobody says when applications end, also removes those of which nothing was heard, and in whose
    /// directories nothing was written, for the age of orphans.
    pub(crate) async fn remove_abandoned(self: &Arc<Self>, now: Instant) -> Result<(), CallError> {
        for app in self.registry.apps() {
            let Some(silence) = app.unheard_for(now).filter(|silence| *silence > GONE_AFTER) else {
                continue;
            };
            let (service, dirs) = (self.clone(), app.dirs());
            let age = self.config.orphan_age.filter(|age| self.config.heartbeat_cleanup && silence > *age);
            let over = blocking(move || {
                let look = |dir: &PathBuf| {
                    tidy::last_change(dir).inspect_err(|error| service.disk_error(dir, error))
                };
                let Ok(changes) = dirs.iter().map(look).collect::<io::Result<Vec<_>>>() else { return false };
                match (changes.into_iter().flatten().max(), age) {
                    (None, _) => !dirs.is_empty() || age.is_some(),
                    (Some(newest), Some(age)) => tidy::is_older(newest, age, SystemTime::now()),
                    (Some(_), None) => false,
                }
            });
            if over.await? {
                tracing::info!(app = %app.id, ?silence, "nothing is left of the application, or it was abandoned");
                // Whoever registers or fetches meanwhile is heard, whatever the directories looked like.
                self.remove_app_if(&app.id, move |app| app.unheard_for(now) == Some(silence)).await?;
            }
        }
        Ok(())
    }

    /// Deletes what applications left that nobody remembers.
    pub(crate) async fn remove_orphans(self: &Arc<Self>) -> Result<(), CallError> {
        let Some(age) = self.config.orphan_age else { return Ok(()) };
        let service = self.clone();
        let found = blocking(move || {
            let registered = |dir: &Path| service.registry.is_owned(dir);
            let failed = |dir: &Path, error: &io::Error| match error.kind() {
                // `lost+found` is nobody's orphan.
                io::ErrorKind::PermissionDenied => {
                    tracing::debug!(dir = %dir.display(), %error, "not looked into for orphans");
                }
                _ => service.disk_error(dir, error),
            };
            let roots = service.roots.iter();
            roots.flat_map(|root| tidy::orphans(root, age, SystemTime::now(), registered, failed)).collect()
        });
        let found: BTreeSet<PathBuf> = found.await?;
        if !found.is_empty() {
            let (removal, _) = self.delete_dirs(found).await?;
            tracing::info!(?removal, "orphans removed");
        }
        Ok(())
    }
}
