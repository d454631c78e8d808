//! Brings what was written to the journal into the database, on a thread of its own: what a disk takes for a sync keeps
//! nobody waiting but who asked for a removal.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use redb::Database;

use super::database::{self, Open};
use super::journal::{Journal, Record};

/// Bytes that may wait for the database; with more the disk counts as one that does not answer.
pub(super) const MAX_PENDING_BYTES: usize = 64 << 20;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Called when a record is durable, or was not made so at once.
pub(super) type AfterSync = Box<dyn FnOnce(Result<(), String>) + Send>;

#[derive(Default)]
struct Pending {
    records: Vec<Record>,
    bytes: usize,
    then: Vec<AfterSync>,
}

struct Written {
    journal: Journal,
    pending: Pending,
    closing: bool,
}

/// The journal, shared by who writes and who syncs.
pub(super) struct Shared {
    written: Mutex<Written>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn new(journal: Journal) -> Shared {
        let written = Written { journal, pending: Pending::default(), closing: false };
        Shared { written: Mutex::new(written), changed: Condvar::new() }
    }

    /// Writes the records; what `done` does when they are written may have to wait for the sync.
    pub(super) fn write(
        &self,
        records: Vec<Record>,
        done: impl FnOnce() -> Vec<AfterSync>,
    ) -> Result<(), String> {
        let mut written = self.written.lock();
        if written.pending.bytes > MAX_PENDING_BYTES {
            return Err("the disk does not answer".to_owned());
        }
        written.pending.bytes += written.journal.append(&records).map_err(|e| e.to_string())?;
        written.pending.records.extend(records);
        // Under the lock: the sync of these must not come to its end before.
        written.pending.then.extend(done());
        self.changed.notify_one();
        Ok(())
    }

    /// Ends the thread after a last sync, which is tried once.
    pub(super) fn close(&self) {
        self.written.lock().closing = true;
        self.changed.notify_one();
    }

    /// The next records, and the number of the last; nothing at the end.
    fn take(&self) -> Option<(Pending, u64)> {
        let mut written = self.written.lock();
        self.changed
            .wait_while(&mut written, |written| written.pending.records.is_empty() && !written.closing);
        if written.pending.records.is_empty() {
            return None;
        }
        let pending = std::mem::take(&mut written.pending);
        Some((pending, written.journal.switch()))
    }

    /// Whether to try again, after a while.
    fn pause(&self) -> bool {
        let mut written = self.written.lock();
        if !written.closing {
            self.changed.wait_while_for(&mut written, |written| !written.closing, TRY_AGAIN_AFTER);
        }
        !written.closing
    }
}

/// Syncs until [`Shared::close`].
pub(super) fn run(shared: &Shared, path: &Arc<Path>, database: Database, open: &Open) {
    let mut database = Some(database);
    while let Some((pending, last)) = shared.take() {
        let mut then = pending.then;
        loop {
            let outcome = commit(&mut database, open, &pending.records, last);
            then.drain(..).for_each(|then| then(outcome.clone()));
            let Err(reason) = outcome else { break };
            tracing::error!(path = %path.display(), reason, "cannot sync registrations: a power cut would lose them");
            if !shared.pause() {
                return; // The journal has them.
            }
        }
    }
}

/// A database takes no more after a failure until it is opened anew.
fn commit(database: &mut Option<Database>, open: &Open, records: &[Record], last: u64) -> Result<(), String> {
    let opened = match database.take() {
        Some(database) => database,
        None => open().map_err(|e| e.to_string())?,
    };
    database::commit(&opened, records, last).map_err(|e| e.to_string())?;
    *database = Some(opened);
    Ok(())
}
