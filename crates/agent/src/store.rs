//! The checkpoint: records made durable in order, many of them by one fsync, on a thread of its own.
//!
//! It does not judge what it keeps. What cannot be written is said so, kept, and tried again.
mod tables;

use crate::Error;
use bellows_kernel::agent::{Checkpoint, Record, WriteId};
use bellows_runtime::Guard;
use redb::{Database, backends::FileBackend};
use rustix::fs::OFlags;
use std::{
    collections::VecDeque,
    fs::{File, Permissions},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Records that may wait for the disk. Far more than a burst of launches makes; reached only when a disk is gone.
const MAX_PENDING: usize = 1 << 18;
/// What only spares repetition after a crash may wait so long for company: half of all fsyncs would be for it.
const PATIENCE: Duration = Duration::from_millis(50);
/// From the beginning of one commit to that of the next: under load they carry more records, and cost less in all.
const PACE: Duration = Duration::from_millis(3);
/// Of a store that could not write, until it tries again.
const RETRY: Duration = Duration::from_secs(1);

/// What became of all records up to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) upto: WriteId,
    pub(crate) failure: Option<String>,
}

pub(crate) struct Store {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    settled: Notify,
}

#[derive(Default)]
struct Queue {
    pending: VecDeque<(WriteId, Record)>,
    /// Some of `pending` should not wait.
    urgent: bool,
    outcomes: VecDeque<Outcome>,
    failure: Option<String>,
    /// All that a new checkpoint is to hold, for the old one is gone.
    anew: Option<Vec<Record>>,
    /// The device and inode of the checkpoint's file.
    file: (u64, u64),
    closed: bool,
    /// The thread is to panic at its next turn.
    #[cfg(test)]
    panics: bool,
}

/// So much waits for a disk that does not take it that going on makes no sense; the last failure.
#[derive(Debug)]
pub(crate) struct Overflow(pub(crate) String);

impl Store {
    /// Opens or creates the checkpoint, and reads it.
    pub(crate) fn open(path: &Path, guard: Guard) -> Result<(Self, Checkpoint), Error> {
        let failed = |source: redb::Error| Error::Checkpoint { path: path.to_owned(), source: source.into() };
        let judged = |source| Error::Checkpoint { path: path.to_owned(), source };
        let (mut database, mut file) = open(path, true).map_err(failed)?;
        let mut checkpoint = tables::read(&database).map_err(judged)?;
        if forget_secrets(&mut checkpoint) {
            drop(database);
            if let Err(error) = replace(path, &tables::records(&checkpoint)) {
                tracing::warn!(
                    path = %path.display(), %error,
                    "an earlier release has written tasks' secrets to the checkpoint, which cannot be written anew \
                     without them: free some space on this disk; it is tried again at the next start"
                );
            }
            (database, file) = open(path, true).map_err(failed)?;
        }
        let shared = Arc::new(Shared::default());
        shared.lock().file = file;
        let writer = Writer { path: path.to_owned(), database: Some(database), shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                let _guard = guard;
                writer.run();
            })
            .map_err(Error::io(path))?;
        Ok((Self { shared, thread: Some(thread) }, checkpoint))
    }

    /// Never waits.
    pub(crate) fn push(&self, write: WriteId, record: Record) -> Result<(), Overflow> {
        let mut queue = self.shared.lock();
        if queue.pending.len() >= MAX_PENDING {
            return Err(Overflow(queue.failure.clone().unwrap_or_else(|| "the disk is too slow".into())));
        }
        queue.urgent |= is_urgent(&record);
        queue.pending.push_back((write, record));
        if queue.urgent || queue.pending.len() == 1 {
            self.shared.filled.notify_one();
        }
        Ok(())
    }

    /// Puts a new checkpoint in the place of the one that somebody has deleted.
    pub(crate) fn replace(&self, checkpoint: &Checkpoint) {
        self.shared.lock().anew = Some(tables::records(checkpoint));
        self.shared.filled.notify_one();
    }

    /// Looks whether the checkpoint is still where it was, which blocks.
    pub(crate) fn watch(&self, path: &Path) -> impl Fn() -> bool + Send + Sync + use<> {
        let (shared, path) = (Arc::clone(&self.shared), path.to_owned());
        move || {
            let there = path.symlink_metadata().ok().map(|there| (there.dev(), there.ino()));
            let queue = shared.lock();
            there == Some(queue.file) || queue.anew.is_some()
        }
    }

    /// Returns when there may be outcomes.
    pub(crate) async fn settled(&self) {
        self.shared.settled.notified().await;
    }

    pub(crate) fn take_outcomes(&self) -> VecDeque<Outcome> {
        std::mem::take(&mut self.shared.lock().outcomes)
    }

    /// Writes what was pushed, and closes the file. Blocks.
    pub(crate) fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint's thread panicked");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether anything waits for it, or would be wrong without it after a crash.
fn is_urgent(record: &Record) -> bool {
    !matches!(
        record,
        Record::Acknowledged { .. }
            | Record::ForgetTask { .. }
            | Record::ForgetFramework(_)
            | Record::ForgetRemoval(_)
    )
}

/// Nobody but this user has access, whatever the umask is and however an earlier release made the file. Also returns its
/// device and inode.
fn open(path: &Path, create: bool) -> Result<(Database, (u64, u64)), redb::Error> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let metadata = file.metadata()?;
    let database =
        Database::builder().set_cache_size(4 << 20).create_with_backend(FileBackend::new(file)?)?;
    Ok((database, (metadata.dev(), metadata.ino())))
}

/// Earlier releases kept tasks whole. Returns whether there was anything to forget.
fn forget_secrets(checkpoint: &mut Checkpoint) -> bool {
    let mut found = false;
    for task in &mut checkpoint.tasks {
        let without = task.info.without_secrets();
        found |= without != task.info;
        task.info = without;
    }
    found
}

/// Puts a new file in the place of the checkpoint: in the old one, what was overwritten would still be there.
/// When it fails the old one is still there, and nothing beside it.
fn replace(path: &Path, records: &[Record]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let written = (|| {
        tables::write(&open(&new, true)?.0, records.iter())?;
        std::fs::rename(&new, path)?;
        Ok(())
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
        return written;
    }
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

struct Writer {
    path: PathBuf,
    /// `None` after a failure: the file is opened anew, which repairs it.
    database: Option<Database>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        // Handed over already, but not on the disk.
        let mut batch: Vec<(WriteId, Record)> = Vec::new();
        let mut told = WriteId(0);
        while let Some(stopping) = self.fill(&mut batch) {
            self.renew();
            let Some((upto, _)) = batch.last() else { continue };
            let (upto, begin) = (*upto, Instant::now());
            match self.write(&batch) {
                Ok(()) => {
                    batch.clear();
                    self.tell(upto, None);
                }
                Err(reason) => {
                    if upto > told {
                        tracing::error!(path = %self.path.display(), reason, "cannot write the checkpoint");
                        self.tell(upto, Some(format!("{}: {reason}", self.path.display())));
                    }
                    if stopping {
                        return;
                    }
                }
            }
            told = told.max(upto);
            if !stopping {
                std::thread::sleep(PACE.saturating_sub(begin.elapsed()));
            }
        }
    }

    /// Waits for something to write. `None`: nothing will come; `Some(true)`: this is the last.
    fn fill(&self, batch: &mut Vec<(WriteId, Record)>) -> Option<bool> {
        let mut queue = self.shared.lock();
        let idle = |queue: &mut Queue| queue.pending.is_empty() && queue.anew.is_none() && !queue.closed;
        if batch.is_empty() {
            queue = self.shared.filled.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
            let patient = |queue: &mut Queue| !queue.urgent && queue.anew.is_none() && !queue.closed;
            let waited = self.shared.filled.wait_timeout_while(queue, PATIENCE, patient);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            let waited = self.shared.filled.wait_timeout_while(queue, RETRY, |queue| !queue.closed);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        #[cfg(test)]
        assert!(!queue.panics, "injected");
        // What could not be written counts against the bound as long as it is kept.
        let room = MAX_PENDING - batch.len().min(MAX_PENDING);
        let taken = queue.pending.len().min(room);
        batch.extend(queue.pending.drain(..taken));
        queue.urgent = false;
        if batch.is_empty() && queue.anew.is_none() { None } else { Some(queue.closed) }
    }

    fn write(&mut self, batch: &[(WriteId, Record)]) -> Result<(), String> {
        let attempt = |writer: &mut Self| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            let database = match writer.database.take() {
                Some(database) => database,
                None => writer.reopen()?,
            };
            tables::write(&database, batch.iter().map(|(_, record)| record))?;
            writer.database = Some(database);
            Ok(())
        };
        attempt(self).map_err(|error| error.to_string())
    }

    /// A file that somebody has put in the place of the checkpoint holds nothing of what is known.
    fn reopen(&self) -> Result<Database, Box<dyn std::error::Error + Send + Sync>> {
        let (database, file) = open(&self.path, false)?;
        match self.shared.lock().file == file {
            true => Ok(database),
            false => Err("another file lies there".into()),
        }
    }

    /// Writes a new checkpoint where that was asked for. When it fails it is asked for again.
    fn renew(&mut self) {
        let Some(records) = self.shared.lock().anew.take() else { return };
        let renewed = replace(&self.path, &records).and_then(|()| Ok(open(&self.path, false)?));
        match renewed {
            Ok((database, file)) => {
                self.database = Some(database);
                self.shared.lock().file = file;
                tracing::info!(path = %self.path.display(), "the checkpoint was written anew");
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot write the checkpoint anew")
            }
        }
    }

    fn tell(&self, upto: WriteId, failure: Option<String>) {
        let mut queue = self.shared.lock();
        queue.failure = failure.clone();
        queue.outcomes.push_back(Outcome { upto, failure });
        self.shared.settled.notify_one();
    }
}

#[cfg(test)]
mod tests;
