//! The directories that executors shuffle through: `<root>/bellows-<framework>` on each disk, owned by the tasks' user.
//!
//! A root may hold anything else, and others may write to it: only what was made here is ever given away or deleted. The
//! ledger in `<root>/.bellows` says what that is. It lies beside the directories and not in the checkpoint, so that it
//! outlives a lost work directory.
//!
//! A disk that fails is left out until it is well again. Nothing of it stays open, so that it can be unmounted,
//! unless it is only full: what fills it must be deleted.
mod known;
mod ledger;
mod root;

use crate::Error;
use bellows_containment::Owner;
use bellows_model::FrameworkId;
use futures::future::join_all;
use known::KnownDisks;
use root::{Root, is_full};
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

/// A disk that takes longer for a look is left out.
const LOOK_WITHIN: Duration = Duration::from_secs(20);
/// The same for a directory, which is synced: a disk may be slow.
const MAKE_WITHIN: Duration = Duration::from_secs(60);
const SILENT: &str = "it does not answer";

pub(crate) struct ShuffleDirs {
    disks: Vec<Arc<Disk>>,
    known: Arc<KnownDisks>,
    /// Held by who writes `known`, for as long as the work directory takes.
    keeping: Arc<Semaphore>,
    /// Told when a disk is left out between two looks.
    pub(crate) left_out: Notify,
}

struct Disk {
    /// As the operator names it.
    path: PathBuf,
    /// Nobody holds this while it waits for the disk.
    standing: Mutex<Standing>,
    /// Held by who looks at it, for as long as the disk takes: one that hangs holds one thread.
    looking: Arc<Semaphore>,
}

/// Whether a disk is used, or why not.
#[derive(Clone)]
enum Standing {
    In(Arc<Root>),
    /// Nothing new is made there, and what is there can be deleted.
    Full(Arc<Root>, String),
    /// Nothing of it is open.
    Out(String),
}

impl Standing {
    fn root(&self) -> Option<&Arc<Root>> {
        match self {
            Self::In(root) | Self::Full(root, _) => Some(root),
            Self::Out(_) => None,
        }
    }

    fn complaint(&self) -> Option<&String> {
        match self {
            Self::In(_) => None,
            Self::Full(_, why) | Self::Out(why) => Some(why),
        }
    }
}

impl ShuffleDirs {
    /// Opens what can be opened; only a directory that another agent uses is an error. `known` is the file in which the
    /// disks are remembered.
    pub(crate) async fn open(roots: &[PathBuf], known: PathBuf) -> Result<Self, Error> {
        let known = Arc::new(KnownDisks::read(known));
        let disks = roots.iter().map(|path| {
            let standing = Mutex::new(Standing::Out("it was not looked at yet".to_owned()));
            Arc::new(Disk { path: path.clone(), standing, looking: Arc::new(Semaphore::new(1)) })
        });
        let dirs = Self {
            disks: disks.collect(),
            known,
            keeping: Arc::new(Semaphore::new(1)),
            left_out: Notify::new(),
        };
        let opened = join_all(dirs.disks.iter().map(|disk| disk.take_in(&dirs.known))).await;
        opened.into_iter().find(|opened| matches!(opened, Err(Error::Locked { .. }))).transpose()?;
        dirs.keep_known().await;
        Ok(dirs)
    }

    /// The directories of the disks that are in use.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        self.in_use().map(|(_, root)| root.path.clone()).collect()
    }

    fn in_use(&self) -> impl Iterator<Item = (&Arc<Disk>, Arc<Root>)> {
        self.disks.iter().filter_map(|disk| match disk.standing() {
            Standing::In(root) => Some((disk, root)),
            _ => None,
        })
    }

    /// Of full disks, too.
    fn open_roots(&self) -> impl Iterator<Item = Arc<Root>> {
        self.disks.iter().filter_map(|disk| disk.standing().root().cloned())
    }

    /// The directories that were made for a framework's tasks of one user, joined for `SPARK_EXECUTOR_DIRS`; `None` when
    /// there are none.
    pub(crate) fn joined(&self, framework_id: &FrameworkId, owner: Option<&Owner>) -> Option<String> {
        let paths = self.in_use().filter_map(|(_, root)| root.of(framework_id, owner));
        let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
        Some(paths.join(":")).filter(|joined| !joined.is_empty())
    }

    /// Makes a framework's directory on every disk that lets it, of which there must be one, unless there are to be none.
    pub(crate) async fn create(
        &self,
        framework_id: &FrameworkId,
        owner: Option<&Owner>,
    ) -> Result<(), Error> {
        let made = join_all(self.in_use().map(async |(disk, root)| {
            let (of, framework_id, owner) = (root.clone(), framework_id.clone(), owner.cloned());
            let made = answer(MAKE_WITHIN, move || of.create(&framework_id, owner.as_ref())).await;
            match made {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => disk.fails(&root, &error),
                Err(silent) => disk.leave_out(&root, silent),
            }
            self.left_out.notify_one();
            false
        }))
        .await;
        match self.disks.is_empty() || made.contains(&true) {
            true => Ok(()),
            false => Err(Error::NoDisk(self.complaints())),
        }
    }

    fn complaints(&self) -> String {
        let out = self.disks.iter().filter_map(|disk| Some((disk, disk.standing().complaint()?.clone())));
        out.map(|(disk, why)| format!("{}: {why}", disk.path.display())).collect::<Vec<_>>().join("; ")
    }

    /// Frameworks that have directories here.
    pub(crate) fn found(&self) -> Vec<FrameworkId> {
        let mut found: Vec<FrameworkId> = self.open_roots().flat_map(|root| root.frameworks()).collect();
        found.sort();
        found.dedup();
        found
    }

    /// Removes what it can on every disk; then the first failure counts. What lies on a disk that is left out is found
    /// when that is back.
    pub(crate) fn remove(&self, framework_id: &FrameworkId) -> Result<(), Error> {
        let removed = self.open_roots().map(|root| root.remove(framework_id).map_err(Error::io(&root.path)));
        removed.fold(Ok(()), Result::and)
    }

    /// Looks at every disk; returns whether one is back.
    pub(crate) async fn look(&self) -> bool {
        let looks = join_all(self.disks.iter().map(|disk| disk.look(&self.known))).await;
        looks.contains(&true)
    }

    /// Remembers the disks in the work directory, for which nobody waits for ever: one that hangs holds one thread.
    pub(crate) async fn keep_known(&self) {
        let Ok(keeping) = self.keeping.clone().try_acquire_owned() else { return };
        let known = Arc::clone(&self.known);
        let kept = answer(LOOK_WITHIN, move || {
            let _keeping = keeping;
            known.keep();
        });
        if let Err(error) = kept.await {
            tracing::warn!(error, "cannot remember which disks are used");
        }
    }

    /// Why a disk is left out, by its name.
    pub(crate) fn conditions(&self) -> BTreeMap<String, Option<String>> {
        let of = |disk: &Arc<Disk>| (disk.path.display().to_string(), disk.standing().complaint().cloned());
        self.disks.iter().map(of).collect()
    }
}

impl Disk {
    fn standing(&self) -> Standing {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is only full stays open, so that what fills it can be deleted.
    fn fails(&self, root: &Arc<Root>, error: &io::Error) {
        match is_full(error) {
            true => self.change(root, Standing::Full(root.clone(), error.to_string())),
            false => self.leave_out(root, error.to_string()),
        }
    }

    fn leave_out(&self, failed: &Arc<Root>, why: String) {
        self.change(failed, Standing::Out(why));
    }

    fn change(&self, of: &Arc<Root>, now: Standing) {
        let mut standing = self.lock();
        // Somebody may have left it out already, and taken it in again.
        if standing.root().is_some_and(|root| Arc::ptr_eq(root, of)) {
            *standing = now;
        }
    }

    async fn take_in(self: &Arc<Self>, known: &Arc<KnownDisks>) -> Result<(), Error> {
        let (path, known) = (self.path.clone(), Arc::clone(known));
        let Ok(looking) = self.looking.clone().try_acquire_owned() else {
            return Err(Error::io(&self.path)(io::Error::other(SILENT)));
        };
        let opened = answer(LOOK_WITHIN, move || {
            let _looking = looking;
            Root::open(&path, &known)
        });
        let opened = opened.await;
        let opened = opened.unwrap_or_else(|silent| Err(Error::io(&self.path)(io::Error::other(silent))));
        let (now, outcome) = match opened {
            Ok((root, None)) => (Standing::In(Arc::new(root)), Ok(())),
            Ok((root, Some(full))) => {
                let outcome = Err(Error::io(&self.path)(io::ErrorKind::StorageFull.into()));
                (Standing::Full(Arc::new(root), full), outcome)
            }
            Err(error) => {
                let (why, at) = (error.to_string(), format!("{}: ", self.path.display()));
                (Standing::Out(why.strip_prefix(&at).unwrap_or(&why).to_owned()), Err(error))
            }
        };
        *self.lock() = now;
        outcome
    }

    /// Returns whether it is back.
    async fn look(self: &Arc<Self>, known: &Arc<KnownDisks>) -> bool {
        let (now, was_full) = match self.standing() {
            Standing::In(root) => (Some(root), false),
            Standing::Full(root, _) => (Some(root), true),
            Standing::Out(_) => (None, false),
        };
        if let Some(root) = now {
            let Ok(looking) = self.looking.clone().try_acquire_owned() else { return false };
            let looked = root.clone();
            let looked = answer(LOOK_WITHIN, move || {
                let _looking = looking;
                looked.look()
            });
            match looked.await {
                Ok(Ok(())) => {
                    self.change(&root, Standing::In(root.clone()));
                    return was_full;
                }
                Ok(Err(error)) if is_full(&error) => {
                    self.fails(&root, &error);
                    return false;
                }
                Ok(Err(error)) => self.leave_out(&root, error.to_string()),
                Err(silent) => {
                    self.leave_out(&root, silent);
                    return false;
                }
            }
        }
        // Also at once: it may only have been emptied.
        self.take_in(known).await.is_ok()
    }
}

/// Does what may wait for a disk, and does not wait for ever.
async fn answer<T: Send + 'static>(
    within: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match timeout(within, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.map_err(|panic| panic.to_string()),
        Err(_) => Err(SILENT.into()),
    }
}

#[cfg(test)]
mod tests;
