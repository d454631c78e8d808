//! The registrations on disk. One thread owns the database and is the only one that changes the set of registered
//! executors, so that memory follows the disk in one order. Registrations that arrive together are committed
//! together. Nothing is answered before it is durable.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::Error;
use crate::blocks::{LocalDir, LocalDirs};
use crate::registry::{App, Inserted, Refusal, Registry};

const EXECUTORS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("executors");
/// Heartbeat timeout in milliseconds of each application whose driver registered.
const DRIVERS: TableDefinition<'_, &str, u64> = TableDefinition::new("drivers");
/// Directories of applications that were removed and may not be deleted to the end yet.
const REMOVALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("removals");

const FILE: &str = "registrations.redb";
const FRESH_FILE: &str = "registrations.redb.new";
const CACHE_BYTES: usize = 1 << 20;
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
    pub(crate) dirs: BTreeSet<PathBuf>,
}

/// What remains to be done when a commit has succeeded or failed.
type AfterCommit = Box<dyn FnOnce(Result<(), String>)>;

/// Whether an application is to be removed, from what is known of it when it is its turn.
type Condition = Box<dyn FnOnce(Option<&App>) -> bool + Send>;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Command {
    Register { app: String, executor: String, dirs: LocalDirs, answer: Answer<()> },
    Departed { app: String, executor: String, answer: Answer<()> },
    Driver { app: String, timeout: Duration, answer: Answer<()> },
    Remove { app: String, condition: Condition, answer: Answer<Removed> },
    Deleted { app: String, dirs: BTreeSet<PathBuf>, answer: Answer<()> },
}

impl Command {
    fn fail(self, reason: &str) {
        let failed = StoreError::Failed(reason.to_owned());
        match self {
            Command::Register { answer, .. }
            | Command::Departed { answer, .. }
            | Command::Driver { answer, .. }
            | Command::Deleted { answer, .. } => drop(answer.send(Err(failed))),
            Command::Remove { answer, .. } => drop(answer.send(Err(failed))),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredExecutor {
    dirs: Vec<StoredDir>,
    sub_dirs: u32,
    departed: bool,
}

#[derive(Serialize, Deserialize)]
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

    /// What an older release took and this one would not is refused.
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
    answers_within: Duration,
}

/// What was found on disk at the start, apart from what went into the registry.
pub(crate) struct Recovered {
    pub(crate) unfinished_removals: BTreeMap<String, BTreeSet<PathBuf>>,
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
        make_database(&path, &fresh).map_err(|e| failed(e.to_string()))?;
        let at = path.clone();
        Store::with(path.as_path().into(), Box::new(move || Ok(builder().open(&at)?)), registry)
            .map_err(failed)
    }

    fn with(
        path: Arc<Path>,
        open: Open,
        registry: Arc<Registry>,
    ) -> Result<(Store, Recovered, std::thread::JoinHandle<()>), String> {
        let database = open().map_err(|e| e.to_string())?;
        let recovered = load(&database, &registry).map_err(|e| e.to_string())?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let writer = Writer { path: path.clone(), database: Some(database), open, registry };
        let thread = std::thread::Builder::new()
            .name("registrations".into())
            .spawn(move || writer.run(inbox))
            .map_err(|e| e.to_string())?;
        Ok((Store { path, commands, answers_within: ANSWERS_WITHIN }, recovered, thread))
    }

    /// One whose thread has ended: it does nothing that it is asked for.
    #[cfg(test)]
    pub(crate) fn stopped() -> Store {
        let path = Path::new("stopped").into();
        Store { path, commands: mpsc::channel(1).0, answers_within: ANSWERS_WITHIN }
    }

    /// Waits for the end of the thread.
    pub(crate) async fn ended(&self) {
        self.commands.closed().await;
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
        self.remove_if(app, |_| true).await
    }

    /// What has changed since the caller looked is seen by `condition`; where it does not hold, nothing is removed.
    pub(crate) async fn remove_if(
        &self,
        app: String,
        condition: impl FnOnce(Option<&App>) -> bool + Send + 'static,
    ) -> Result<Removed, StoreError> {
        let condition = Box::new(condition);
        self.ask(|answer| Command::Remove { app, condition, answer }).await
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

/// How the database is opened, at first and after its disk has failed it.
type Open = Box<dyn Fn() -> Result<Database, redb::Error> + Send>;

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes the database if there is none, under another name first: who is killed meanwhile leaves no half of one.
fn make_database(path: &Path, fresh: &Path) -> Result<(), redb::Error> {
    if path.try_exists()? {
        return Ok(());
    }
    match std::fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    drop(builder().create(fresh)?);
    std::fs::rename(fresh, path)?;
    let dir = path.parent().expect("invariant: a file in the work directory");
    Ok(std::fs::File::open(dir)?.sync_all()?)
}

struct Writer {
    path: Arc<Path>,
    /// Nothing after a failure: the database takes no more until it is opened anew.
    database: Option<Database>,
    open: Open,
    registry: Arc<Registry>,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while let Some(first) = inbox.blocking_recv() {
            batch.push(first);
            // What changes memory only after the commit ends its batch: what comes after must find it done.
            while batch.len() < MAX_BATCH
                && !matches!(batch.last(), Some(Command::Driver { .. } | Command::Remove { .. }))
                && let Ok(next) = inbox.try_recv()
            {
                batch.push(next);
            }
            self.commit(&mut batch);
        }
    }

    /// Applies the commands in their order, commits once, then answers.
    fn commit(&mut self, batch: &mut Vec<Command>) {
        let mut answers: Vec<AfterCommit> = Vec::with_capacity(batch.len());
        let committed = self.begin().and_then(|transaction| {
            for command in batch.drain(..) {
                answers.push(self.apply(&transaction, command));
            }
            Ok(transaction.commit()?)
        });
        let committed = committed.map_err(|e| e.to_string());
        if let Err(reason) = &committed {
            tracing::error!(path = %self.path.display(), %reason, "cannot store registrations");
            self.database = None;
            // Left when the transaction could not even begin.
            batch.drain(..).for_each(|command| command.fail(reason));
            // What was inserted last is undone first.
            answers.reverse();
        }
        for answer in answers {
            answer(committed.clone());
        }
    }

    fn begin(&mut self) -> Result<WriteTransaction, redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        Ok(self.database.insert(database).begin_write()?)
    }

    fn make_room_for(&self, transaction: &WriteTransaction, app: &str) {
        let Some(evicted) = self.registry.make_room_for(app) else { return };
        tracing::info!(app = %evicted, "forgotten: it has no executors, and another needs its place");
        if let Err(error) = put_removal(transaction, &evicted, Vec::new()) {
            tracing::warn!(app = %evicted, %error, "a restart will know it again");
        }
    }

    /// Returns what is to be done when the outcome of the commit is known.
    fn apply(&self, transaction: &WriteTransaction, command: Command) -> AfterCommit {
        match command {
            Command::Register { app, executor, dirs, answer } => {
                self.make_room_for(transaction, &app);
                let registry = self.registry.clone();
                let written = self.registry.insert(&app, &executor, dirs.clone()).map(|inserted| {
                    let stored = StoredExecutor::new(registry.app(&app).as_deref(), &dirs, false);
                    (inserted, put_executor(transaction, &app, &executor, &stored))
                });
                match written {
                    Err(refusal) => settle(answer, Err(refusal.into())),
                    Ok((inserted, Err(error))) => {
                        registry.undo(inserted);
                        settle(answer, Err(StoreError::Failed(error.to_string())))
                    }
                    Ok((inserted, Ok(()))) => Box::new(move |committed| {
                        finish_registration(&registry, inserted, answer, committed);
                    }),
                }
            }
            Command::Departed { app, executor, answer } => {
                let known = self.registry.app(&app);
                let Some(entry) = known.as_ref().and_then(|app| app.executor(&executor)) else {
                    return settle(answer, Ok(()));
                };
                let stored = StoredExecutor::new(known.as_deref(), &entry.dirs, true);
                let written = put_executor(transaction, &app, &executor, &stored);
                after_commit(answer, written, move |()| entry.departed.store(true, Relaxed))
            }
            Command::Driver { app, timeout, answer } => {
                self.make_room_for(transaction, &app);
                if let Err(refusal) = self.registry.admits(&app) {
                    return settle(answer, Err(refusal.into()));
                }
                let written = put_driver(transaction, &app, timeout);
                let registry = self.registry.clone();
                // Not before: a driver whose registration failed never sends a heartbeat, and must not count as silent.
                after_commit(answer, written, move |()| registry.set_driver(&app, timeout, Instant::now()))
            }
            Command::Remove { app, condition, answer } => {
                let known = self.registry.app(&app);
                if !condition(known.as_deref()) {
                    return settle(answer, Ok(Removed::default()));
                }
                let written =
                    put_removal(transaction, &app, known.map(|app| app.own_dirs()).unwrap_or_default());
                let registry = self.registry.clone();
                after_commit(answer, written, move |dirs| Removed { app: registry.remove(&app), dirs })
            }
            Command::Deleted { app, dirs, answer } => {
                after_commit(answer, drop_removal(transaction, &app, &dirs), |()| ())
            }
        }
    }
}

fn settle<T: 'static>(answer: Answer<T>, result: Result<T, StoreError>) -> AfterCommit {
    Box::new(move |_| drop(answer.send(result)))
}

fn after_commit<W: 'static, T: 'static>(
    answer: Answer<T>,
    written: Result<W, redb::Error>,
    then: impl FnOnce(W) -> T + 'static,
) -> AfterCommit {
    Box::new(move |committed| {
        let outcome = written.map_err(|e| e.to_string()).and_then(|written| committed.map(|()| written));
        drop(answer.send(outcome.map(then).map_err(StoreError::Failed)));
    })
}

fn finish_registration(
    registry: &Registry,
    inserted: Inserted,
    answer: Answer<()>,
    committed: Result<(), String>,
) {
    let result = match committed {
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

fn put_executor(
    transaction: &WriteTransaction,
    app: &str,
    executor: &str,
    stored: &StoredExecutor,
) -> Result<(), redb::Error> {
    let value = serde_json::to_vec(stored).map_err(|e| redb::Error::Io(e.into()))?;
    transaction.open_table(EXECUTORS)?.insert((app, executor), &value[..])?;
    Ok(())
}

fn put_driver(transaction: &WriteTransaction, app: &str, timeout: Duration) -> Result<(), redb::Error> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    transaction.open_table(DRIVERS)?.insert(app, timeout_ms)?;
    Ok(())
}

/// Returns all that is to be deleted: asked again before the first removal was finished, what is left of that too.
fn put_removal(
    transaction: &WriteTransaction,
    app: &str,
    dirs: Vec<PathBuf>,
) -> Result<BTreeSet<PathBuf>, redb::Error> {
    // Every executor of one application: no id is empty, and none has a control character.
    let after = format!("{app}\0");
    transaction.open_table(EXECUTORS)?.retain_in((app, "")..(&*after, ""), |_, _| false)?;
    transaction.open_table(DRIVERS)?.remove(app)?;
    change_removal(transaction, app, |left| left.extend(dirs))
}

fn drop_removal(
    transaction: &WriteTransaction,
    app: &str,
    deleted: &BTreeSet<PathBuf>,
) -> Result<(), redb::Error> {
    change_removal(transaction, app, |left| left.retain(|dir| !deleted.contains(dir))).map(drop)
}

fn change_removal(
    transaction: &WriteTransaction,
    app: &str,
    change: impl FnOnce(&mut BTreeSet<PathBuf>),
) -> Result<BTreeSet<PathBuf>, redb::Error> {
    let mut removals = transaction.open_table(REMOVALS)?;
    let mut left: BTreeSet<PathBuf> =
        removals.get(app)?.and_then(|v| serde_json::from_slice(v.value()).ok()).unwrap_or_default();
    change(&mut left);
    if left.is_empty() {
        removals.remove(app)?;
    } else {
        let value = serde_json::to_vec(&left).map_err(|e| redb::Error::Io(e.into()))?;
        removals.insert(app, &value[..])?;
    }
    Ok(left)
}

fn load(database: &Database, registry: &Registry) -> Result<Recovered, redb::Error> {
    // Makes the tables, so that they can be read.
    let transaction = database.begin_write()?;
    {
        let mut executors = transaction.open_table(EXECUTORS)?;
        let mut unusable = Vec::new();
        for entry in executors.iter()? {
            let (key, value) = entry?;
            let (app, executor) = key.value();
            let stored = serde_json::from_slice::<StoredExecutor>(value.value()).map_err(|e| e.to_string());
            let restored = stored.and_then(|stored| {
                let departed = stored.departed;
                let dirs = stored.dirs()?;
                registry.restore(app, executor, dirs, departed).map_err(|e| e.to_string())
            });
            if let Err(reason) = restored {
                tracing::warn!(
                    app,
                    executor,
                    reason,
                    "dropped: a stored registration that would not be taken now"
                );
                unusable.push((app.to_owned(), executor.to_owned()));
            }
        }
        for (app, executor) in &unusable {
            executors.remove((app.as_str(), executor.as_str()))?;
        }
    }
    transaction.open_table(DRIVERS)?;
    transaction.open_table(REMOVALS)?;
    transaction.commit()?;

    let transaction = database.begin_read()?;
    for entry in transaction.open_table(DRIVERS)?.iter()? {
        let (app, timeout_ms) = entry?;
        registry.remember_driver(app.value(), Duration::from_millis(timeout_ms.value()));
    }
    let mut unfinished_removals = BTreeMap::new();
    for entry in transaction.open_table(REMOVALS)?.iter()? {
        let (app, dirs) = entry?;
        let dirs = serde_json::from_slice(dirs.value()).unwrap_or_default();
        unfinished_removals.insert(app.value().to_owned(), dirs);
    }
    Ok(Recovered { unfinished_removals })
}
