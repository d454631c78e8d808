//! The registrations on disk. One thread is the only one that changes the set of registered executors, so that memory
//! follows the disk in one order. It hands each change to the kernel, in the journal, before it is answered, so that a
//! kill loses none; another thread syncs them, which a registration does not wait for: a machine that loses its power
//! has lost its executors too. A removal is durable before it is answered, for what is then deleted cannot come back.

#[cfg(test)]
mod crash;
mod database;
mod journal;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::blocks::{LocalDir, LocalDirs};
use crate::registry::{App, Inserted, Refusal, Registry};
use crate::tidy::Doomed;
use database::Open;
use journal::{Journal, Media, Record};
use sync::{AfterSync, Shared};

const FILE: &str = "registrations.redb";
const FRESH_FILE: &str = "registrations.redb.new";
/// Calls that may wait for the database; more make their connections wait.
const QUEUE: usize = 1024;
const MAX_BATCH: usize = 256;
/// Whoever waits for longer is told that the disk does not answer. It may do what it was asked for yet: every call may be
/// repeated, and what was removed and is not deleted comes up again with the next removal or start.
const ANSWERS_WITHIN: Duration = Duration::from_secs(100);

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("cannot store the registration: {0}")]
    Failed(String),
    #[error("the service is stopping")]
    Stopped,
}

/// An application that is no longer registered, and what is to be deleted of it, also of what was removed before.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) app: Option<Arc<App>>,
    pub(crate) dirs: Doomed,
}

/// Called when the journal has been written, or could not be.
type AfterWrite = Box<dyn FnOnce(Result<(), String>) -> Option<AfterSync>>;

/// Whether an application is to be removed, from what is known of it when it is its turn.
type Condition = Box<dyn FnOnce(Option<&App>) -> bool + Send>;

/// Which of its directories are not to be deleted.
type Spares = Box<dyn Fn(&Path) -> bool + Send>;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Command {
    Register { app: String, executor: String, dirs: LocalDirs, answer: Answer<()> },
    Departed { app: String, executor: String, answer: Answer<()> },
    Driver { app: String, timeout: Duration, answer: Answer<()> },
    Remove { app: String, condition: Condition, spares: Spares, answer: Answer<Removed> },
    Deleted { app: String, dirs: BTreeSet<PathBuf>, answer: Answer<()> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredExecutor {
    dirs: Vec<StoredDir>,
    sub_dirs: u32,
    departed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredDir {
    told: String,
    real: PathBuf,
    #[serde(default)]
    owner: Option<u32>,
    #[serde(default)]
    held_files: bool,
}

impl StoredExecutor {
    fn new(app: Option<&App>, dirs: &LocalDirs, departed: bool) -> StoredExecutor {
        let stored = |dir: &LocalDir| StoredDir {
            told: dir.told().to_owned(),
            real: dir.real().to_path_buf(),
            owner: dir.owner(),
            held_files: app.is_some_and(|app| app.spares(dir.real())),
        };
        StoredExecutor { dirs: dirs.iter().map(stored).collect(), sub_dirs: dirs.sub_dirs(), departed }
    }

    /// Refuses what an older release took and this one would not.
    fn dirs(self) -> Result<LocalDirs, String> {
        for dir in &self.dirs {
            LocalDir::check(&dir.told).map_err(|e| e.to_string())?;
            LocalDir::check(&dir.real.to_string_lossy()).map_err(|e| e.to_string())?;
        }
        let dirs = self.dirs.into_iter().map(|d| LocalDir::stored(d.told, d.real, d.owner, d.held_files));
        LocalDirs::new(dirs.collect(), self.sub_dirs).ok_or_else(|| "no directories".to_owned())
    }
}

/// The way to the thread that owns the database; the thread ends with the last of these.
#[derive(Clone)]
pub(crate) struct Store {
    path: Arc<Path>,
    commands: mpsc::Sender<Command>,
    /// Cancelled when the thread that syncs has ended.
    sync_ended: CancellationToken,
    answers_within: Duration,
}

/// What was found on disk at the start, apart from what went into the registry.
pub(crate) struct Recovered {
    pub(crate) unfinished_removals: BTreeMap<String, Doomed>,
}

impl Store {
    /// Opens or makes the database in `work_dir` and fills the registry from it. Waits for the disk.
    pub(crate) fn open(
        work_dir: &Path,
        registry: Arc<Registry>,
    ) -> Result<(Store, Recovered, std::thread::JoinHandle<()>), Error> {
        let path = work_dir.join(FILE);
        let failed = |reason: String| Error::Store { path: path.display().to_string(), reason };
        std::fs::create_dir_all(work_dir)
            .map_err(|source| Error::Io { what: work_dir.display().to_string(), source })?;
        let fresh = work_dir.join(FRESH_FILE);
        database::make(&path, &fresh).map_err(|e| failed(e.to_string()))?;
        let media = journal::open(work_dir).map_err(|e| failed(e.to_string()))?;
        let at = path.clone();
        let open = Box::new(move || Ok(database::builder().open(&at)?));
        Store::with(path.as_path().into(), open, media, registry).map_err(|error| match error {
            redb::Error::DatabaseAlreadyOpen => Error::InUse {
                work_dir: work_dir.display().to_string(),
                holder: bellows_runtime::lock_holder(&path),
            },
            other => failed(other.to_string()),
        })
    }

    fn with(
        path: Arc<Path>,
        open: Open,
        media: Media,
        registry: Arc<Registry>,
    ) -> Result<(Store, Recovered, std::thread::JoinHandle<()>), redb::Error> {
        let database = open()?;
        let loaded = database::load(&database, &media, &registry)?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::new(Journal::new(media, loaded.epoch)));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(redb::Error::Io)
        };
        let (to_sync, at) = (shared.clone(), path.clone());
        let sync_ended = CancellationToken::new();
        let ends = sync_ended.clone().drop_guard();
        let sync = move || {
            let _ends = ends;
            sync::run(&to_sync, &at, database, &open);
        };
        let syncing = spawn("sync", Box::new(sync))?;
        let removals = loaded.removals.clone();
        let writer = Writer { path: path.clone(), shared, syncing, registry, removals };
        let thread = spawn("registrations", Box::new(move || writer.run(inbox)))?;
        let recovered = Recovered { unfinished_removals: loaded.removals };
        Ok((Store { path, commands, sync_ended, answers_within: ANSWERS_WITHIN }, recovered, thread))
    }

    /// One whose thread has ended: it does nothing that it is asked for.
    #[cfg(test)]
    pub(crate) fn stopped() -> Store {
        let path = Path::new("stopped").into();
        let sync_ended = CancellationToken::new();
        Store { path, commands: mpsc::channel(1).0, sync_ended, answers_within: ANSWERS_WITHIN }
    }

    /// Waits for the end of one of its threads.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.commands.closed() => {}
            () = self.sync_ended.cancelled() => {}
        }
    }

    /// The database's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn register(
        &self,
        app: String,
        executor: String,
        dirs: LocalDirs,
    ) -> Result<(), StoreError> {
        self.ask(|answer| Command::Register { app, executor, dirs, answer }).await
    }

    pub(crate) async fn departed(&self, app: String, executor: String) -> Result<(), StoreError> {
        self.ask(|answer| Command::Departed { app, executor, answer }).await
    }

    pub(crate) async fn driver(&self, app: String, timeout: Duration) -> Result<(), StoreError> {
        self.ask(|answer| Command::Driver { app, timeout, answer }).await
    }

    /// The application is unknown from here on; its directories are remembered until [`Store::deleted`].
    pub(crate) async fn remove(&self, app: String) -> Result<Removed, StoreError> {
        self.remove_if(app, |_| true, |_| false).await
    }

    /// What has changed since the caller looked is seen by `condition`; where it does not hold, nothing is removed. What
    /// `spares` picks is forgotten and not deleted.
    pub(crate) async fn remove_if(
        &self,
        app: String,
        condition: impl FnOnce(Option<&App>) -> bool + Send + 'static,
        spares: impl Fn(&Path) -> bool + Send + 'static,
    ) -> Result<Removed, StoreError> {
        let (condition, spares) = (Box::new(condition), Box::new(spares));
        self.ask(|answer| Command::Remove { app, condition, spares, answer }).await
    }

    pub(crate) async fn deleted(&self, app: String, dirs: BTreeSet<PathBuf>) -> Result<(), StoreError> {
        self.ask(|answer| Command::Deleted { app, dirs, answer }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.commands.send(command(answer)).await.map_err(|_| StoreError::Stopped)?;
            answered.await.map_err(|_| StoreError::Stopped)?
        };
        let silent = |_| StoreError::Failed(format!("{}: the disk does not answer", self.path.display()));
        timeout(self.answers_within, asked).await.map_err(silent)?
    }
}

struct Writer {
    path: Arc<Path>,
    shared: Arc<Shared>,
    syncing: std::thread::JoinHandle<()>,
    registry: Arc<Registry>,
    /// Directories of removed applications that are not deleted yet.
    removals: BTreeMap<String, Doomed>,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while let Some(first) = inbox.blocking_recv() {
            batch.push(first);
            // What changes memory only after the write ends its batch: what comes after must find it done.
            while batch.len() < MAX_BATCH
                && !matches!(batch.last(), Some(Command::Driver { .. } | Command::Remove { .. }))
                && let Ok(next) = inbox.try_recv()
            {
                batch.push(next);
            }
            if self.syncing.is_finished() {
                tracing::error!("the thread that syncs registrations has ended");
                return;
            }
            self.write(&mut batch);
        }
        self.shared.close();
        drop(self.syncing.join());
    }

    /// Applies the commands in their order, writes once, then answers.
    fn write(&mut self, batch: &mut Vec<Command>) {
        let mut records = Vec::with_capacity(batch.len());
        let mut answers: Vec<AfterWrite> = Vec::with_capacity(batch.len());
        for command in batch.drain(..) {
            answers.push(self.apply(command, &mut records));
        }
        let mut settle_all = |outcome: &Result<(), String>| -> Vec<AfterSync> {
            answers.drain(..).filter_map(|answer| answer(outcome.clone())).collect()
        };
        let written = self.shared.write(records, || settle_all(&Ok(())));
        if let Err(reason) = written {
            tracing::error!(path = %self.path.display(), %reason, "cannot store registrations");
            // What was inserted last is undone first.
            answers.reverse();
            answers.drain(..).for_each(|answer| drop(answer(Err(reason.clone()))));
        }
    }

    /// Adds what is to be written; returns what is to be done when the outcome of that is known.
    fn apply(&mut self, command: Command, records: &mut Vec<Record>) -> AfterWrite {
        match command {
            Command::Register { app, executor, dirs, answer } => {
                self.make_room_for(&app, records);
                let registry = self.registry.clone();
                match registry.insert(&app, &executor, dirs.clone()) {
                    Err(refusal) => settle(answer, Err(refusal.into())),
                    Ok(inserted) => {
                        let stored = StoredExecutor::new(registry.app(&app).as_deref(), &dirs, false);
                        records.push(Record::Executor { app, executor, stored });
                        Box::new(move |written| {
                            finish_registration(&registry, inserted, answer, written);
                            None
                        })
                    }
                }
            }
            Command::Departed { app, executor, answer } => {
                let known = self.registry.app(&app);
                let Some(entry) = known.as_ref().and_then(|app| app.executor(&executor)) else {
                    return settle(answer, Ok(()));
                };
                let stored = StoredExecutor::new(known.as_deref(), &entry.dirs, true);
                records.push(Record::Executor { app, executor, stored });
                after_write(answer, move || entry.departed.store(true, Relaxed))
            }
            Command::Driver { app, timeout, answer } => {
                self.make_room_for(&app, records);
                if let Err(refusal) = self.registry.admits(&app) {
                    return settle(answer, Err(refusal.into()));
                }
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                records.push(Record::Driver { app: app.clone(), timeout_ms });
                let registry = self.registry.clone();
                // Not before: a driver whose registration failed never sends a heartbeat, and must not count as silent.
                after_write(answer, move || registry.set_driver(&app, timeout, Instant::now()))
            }
            Command::Remove { app, condition, spares, answer } => {
                let known = self.registry.app(&app);
                if !condition(known.as_deref()) {
                    return settle(answer, Ok(Removed::default()));
                }
                let mut left = self.removals.get(&app).cloned().unwrap_or_default();
                left.extend(known.iter().flat_map(|app| app.own_dirs()).filter(|(dir, _)| !spares(dir)));
                self.remember(&app, &left);
                records.push(Record::Removal { app: app.clone(), forget: true, left: left.clone() });
                let registry = self.registry.clone();
                Box::new(move |written| {
                    // Where it was not written, the directories stay what is left, and the application is known.
                    let removed = written.map(|()| Removed { app: registry.remove(&app), dirs: left });
                    let answer_it = |removed: Result<Removed, String>| {
                        drop(answer.send(removed.map_err(StoreError::Failed)));
                    };
                    match removed {
                        Ok(removed) => Some(Box::new(move |synced: Result<(), String>| {
                            answer_it(synced.map(|()| removed));
                        })),
                        Err(reason) => {
                            answer_it(Err(reason));
                            None
                        }
                    }
                })
            }
            Command::Deleted { app, dirs, answer } => {
                let mut left = self.removals.get(&app).cloned().unwrap_or_default();
                left.retain(|dir, _| !dirs.contains(dir));
                self.remember(&app, &left);
                records.push(Record::Removal { app, forget: false, left });
                after_write(answer, || ())
            }
        }
    }

    fn remember(&mut self, app: &str, left: &Doomed) {
        match left.is_empty() {
            true => self.removals.remove(app),
            false => self.removals.insert(app.to_owned(), left.clone()),
        };
    }

    fn make_room_for(&self, app: &str, records: &mut Vec<Record>) {
        let Some(evicted) = self.registry.make_room_for(app) else { return };
        tracing::info!(app = %evicted, "forgotten: it has no executors, and another needs its place");
        let left = self.removals.get(&*evicted).cloned().unwrap_or_default();
        records.push(Record::Removal { app: evicted.to_string(), forget: true, left });
    }
}

fn settle<T: 'static>(answer: Answer<T>, result: Result<T, StoreError>) -> AfterWrite {
    Box::new(move |_| {
        drop(answer.send(result));
        None
    })
}

fn after_write(answer: Answer<()>, then: impl FnOnce() + 'static) -> AfterWrite {
    Box::new(move |written| {
        drop(answer.send(written.map(|()| then()).map_err(StoreError::Failed)));
        None
    })
}

fn finish_registration(
    registry: &Registry,
    inserted: Inserted,
    answer: Answer<()>,
    written: Result<(), String>,
) {
    let result = match written {
        Ok(()) => {
            inserted.stored();
            Ok(())
        }
        Err(reason) => {
            registry.undo(inserted);
            Err(StoreError::Failed(reason))
        }
    };
    drop(answer.send(result));
}
