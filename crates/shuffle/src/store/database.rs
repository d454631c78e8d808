//! The registrations in their database, where they are durable.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::StoredExecutor;
use super::journal::{self, Media, Record};
use crate::registry::Registry;
use crate::tidy::Doomed;

pub(super) const EXECUTORS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("executors");
/// Heartbeat timeout in milliseconds of each application whose driver registered.
const DRIVERS: TableDefinition<'_, &str, u64> = TableDefinition::new("drivers");
/// Directories of applications that were removed and may not be deleted to the end yet.
const REMOVALS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("removals");
/// How far the journal was followed.
const JOURNAL: TableDefinition<'_, &str, u64> = TableDefinition::new("journal");
const EPOCH: &str = "epoch";
const APPLIED: &str = "applied";

const CACHE_BYTES: usize = 1 << 20;

/// How the database is opened, at first and after its disk has failed it.
pub(super) type Open = Box<dyn Fn() -> Result<Database, redb::Error> + Send>;

pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes the database if there is none, under another name first: who is killed meanwhile leaves no half of one.
pub(super) fn make(path: &Path, fresh: &Path) -> Result<(), redb::Error> {
    let private = std::fs::Permissions::from_mode(0o600);
    if path.try_exists()? {
        // A release before made it readable for all.
        return Ok(std::fs::set_permissions(path, private)?);
    }
    match std::fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(fresh)?
        .set_permissions(private)?;
    drop(builder().create(fresh)?);
    std::fs::rename(fresh, path)?;
    let dir = path.parent().expect("invariant: a file in the work directory");
    Ok(std::fs::File::open(dir)?.sync_all()?)
}

/// The result of a start's reading, apart from what went into the registry.
pub(super) struct Loaded {
    pub(super) removals: BTreeMap<String, Doomed>,
    /// The epoch of what is written from now on.
    pub(super) epoch: u64,
}

/// Makes up for what the journal is ahead, begins a new epoch, and fills the registry.
pub(super) fn load(database: &Database, media: &Media, registry: &Registry) -> Result<Loaded, redb::Error> {
    let transaction = database.begin_write()?;
    let (epoch, applied) = {
        let table = transaction.open_table(JOURNAL)?;
        let number = |key: &str| Ok::<_, redb::Error>(table.get(key)?.map_or(0, |value| value.value()));
        (number(EPOCH)?, number(APPLIED)?)
    };
    for record in journal::records_after(media, epoch, applied)? {
        apply(&transaction, &record)?;
    }
    let epoch = epoch + 1;
    transaction.open_table(JOURNAL)?.insert(EPOCH, epoch)?;
    transaction.open_table(JOURNAL)?.insert(APPLIED, 0)?;
    load_executors(&transaction, registry)?;
    transaction.open_table(DRIVERS)?;
    transaction.open_table(REMOVALS)?;
    transaction.commit()?;

    let transaction = database.begin_read()?;
    for entry in transaction.open_table(DRIVERS)?.iter()? {
        let (app, timeout_ms) = entry?;
        registry.remember_driver(app.value(), Duration::from_millis(timeout_ms.value()));
    }
    let mut removals = BTreeMap::new();
    for entry in transaction.open_table(REMOVALS)?.iter()? {
        let (app, dirs) = entry?;
        let dirs = journal::read_doomed(&mut serde_json::Deserializer::from_slice(dirs.value()));
        removals.insert(app.value().to_owned(), dirs.unwrap_or_default());
    }
    Ok(Loaded { removals, epoch })
}

fn load_executors(transaction: &WriteTransaction, registry: &Registry) -> Result<(), redb::Error> {
    let mut executors = transaction.open_table(EXECUTORS)?;
    let mut unusable = Vec::new();
    for entry in executors.iter()? {
        let (key, value) = entry?;
        let (app, executor) = key.value();
        let stored = serde_json::from_slice::<StoredExecutor>(value.value()).map_err(|e| e.to_string());
        let restored = stored.and_then(|stored| {
            let departed = stored.departed;
            registry.restore(app, executor, stored.dirs()?, departed).map_err(|e| e.to_string())
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
    Ok(())
}

/// Makes all changes, durably. `last` is the number of the last of them.
pub(super) fn commit(database: &Database, records: &[Record], last: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for record in records {
        apply(&transaction, record)?;
    }
    transaction.open_table(JOURNAL)?.insert(APPLIED, last)?;
    Ok(transaction.commit()?)
}

fn apply(transaction: &WriteTransaction, record: &Record) -> Result<(), redb::Error> {
    let to_json_failed = |error: serde_json::Error| redb::Error::Io(error.into());
    match record {
        Record::Executor { app, executor, stored } => {
            let value = serde_json::to_vec(stored).map_err(to_json_failed)?;
            transaction.open_table(EXECUTORS)?.insert((app.as_str(), executor.as_str()), &value[..])?;
        }
        Record::Driver { app, timeout_ms } => {
            transaction.open_table(DRIVERS)?.insert(app.as_str(), timeout_ms)?;
        }
        Record::Removal { app, forget, left } => {
            if *forget {
                // Every executor of one application: no id is empty, and none has a control character.
                let after = format!("{app}\0");
                let all = (app.as_str(), "")..(&*after, "");
                transaction.open_table(EXECUTORS)?.retain_in(all, |_, _| false)?;
                transaction.open_table(DRIVERS)?.remove(app.as_str())?;
            }
            let mut removals = transaction.open_table(REMOVALS)?;
            if left.is_empty() {
                removals.remove(app.as_str())?;
            } else {
                let value = serde_json::to_vec(left).map_err(to_json_failed)?;
                removals.insert(app.as_str(), &value[..])?;
            }
        }
    }
    Ok(())
}
