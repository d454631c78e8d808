//! The journal: changes that were answered and are not in the database yet. Two files that records are appended to in turn. A record is handed
//! to the kernel before its answer, so that a kill of this process loses none. Nothing here is synced: what a power cut
//! leaves of it, in whatever order, is told by the checksums, the epoch (a new one with each start) and the numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::StoredExecutor;
use crate::tidy::Doomed;

const FILES: [&str; 2] = ["registrations.journal.0", "registrations.journal.1"];
/// Length, checksum, epoch, number.
const HEAD_BYTES: usize = 4 + 4 + 8 + 8;
/// Bytes that are read of a file at most; more does not come into being: see [`super::sync::MAX_PENDING_BYTES`].
const MAX_READ_BYTES: u64 = 256 << 20;

/// A change of what is stored. To make it twice is to make it once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Record {
    Executor {
        app: String,
        executor: String,
        stored: StoredExecutor,
    },
    Driver {
        app: String,
        timeout_ms: u64,
    },
    /// A removal, with the directories that are left to be deleted of an application, which is itself forgotten or was
    /// before.
    Removal {
        app: String,
        forget: bool,
        #[serde(deserialize_with = "read_doomed")]
        left: Doomed,
    },
}

/// Reads a list of paths, as earlier releases wrote it, too.
pub(super) fn read_doomed<'de, D: Deserializer<'de>>(from: D) -> Result<Doomed, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        WithOwners(Doomed),
        Paths(BTreeSet<PathBuf>),
    }
    Ok(match Written::deserialize(from)? {
        Written::WithOwners(dirs) => dirs,
        Written::Paths(dirs) => dirs.into_iter().map(|dir| (dir, None)).collect(),
    })
}

/// A file of the journal, or what stands for one.
pub(super) trait Medium: Send {
    fn read(&self) -> io::Result<Vec<u8>>;
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn truncate(&self, length: u64) -> io::Result<()>;
}

impl Medium for File {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.metadata()?.len().min(MAX_READ_BYTES) as usize];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

pub(super) type Media = [Box<dyn Medium>; 2];

/// Opens or makes both files.
pub(super) fn open(dir: &Path) -> io::Result<Media> {
    let open = |name: &str| -> io::Result<Box<dyn Medium>> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Ok(Box::new(options.open(dir.join(name))?))
    };
    Ok([open(FILES[0])?, open(FILES[1])?])
}

pub(super) struct Journal {
    media: Media,
    epoch: u64,
    current: usize,
    offset: u64,
    /// The number of the last record.
    last: u64,
}

impl Journal {
    /// An empty one. What the files hold is of another epoch, and is written over.
    pub(super) fn new(media: Media, epoch: u64) -> Journal {
        Journal { media, epoch, current: 0, offset: 0, last: 0 }
    }

    /// Hands all to the kernel, or none that would be read again unless the disk fails twice.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let mut last = self.last;
        for record in records {
            last += 1;
            encode(record, self.epoch, last, &mut bytes)?;
        }
        let medium = &self.media[self.current];
        if let Err(error) = medium.write(&bytes, self.offset) {
            // What a write that failed half way left was refused, and must not be read again.
            if let Err(why) = medium.truncate(self.offset) {
                tracing::warn!(error = %why, "registrations that were refused may come back with the next start");
            }
            return Err(error);
        }
        (self.offset, self.last) = (self.offset + bytes.len() as u64, last);
        Ok(bytes.len())
    }

    /// Switches to the other file, in which all is in the database; returns the last number.
    pub(super) fn switch(&mut self) -> u64 {
        (self.current, self.offset) = (1 - self.current, 0);
        self.last
    }
}

fn encode(record: &Record, epoch: u64, number: u64, out: &mut Vec<u8>) -> io::Result<()> {
    let body = serde_json::to_vec(record)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&checksum(epoch, number, &body).to_be_bytes());
    out.extend_from_slice(&epoch.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

fn checksum(epoch: u64, number: u64, body: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&epoch.to_be_bytes()), &number.to_be_bytes());
    crc32c::crc32c_append(head, body)
}

/// The records of an epoch that follow the one with the number `applied`, without a gap.
pub(super) fn records_after(media: &Media, epoch: u64, applied: u64) -> io::Result<Vec<Record>> {
    let mut found = BTreeMap::new();
    for medium in media {
        decode(&medium.read()?, epoch, &mut found);
    }
    let numbered = found.into_iter().skip_while(|(number, _)| *number <= applied);
    let without_gap = numbered.zip(applied + 1..).take_while(|((number, _), next)| number == next);
    Ok(without_gap.map(|((_, record), _)| record).collect())
}

/// Ends at the first that is not whole, or does not follow the one before it.
fn decode(mut bytes: &[u8], epoch: u64, found: &mut BTreeMap<u64, Record>) {
    let mut before = None;
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let four = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let eight = |at: usize| u64::from(four(at)) << 32 | u64::from(four(at + 4));
        let (length, sum, of_epoch, number) = (four(0) as usize, four(4), eight(8), eight(16));
        let follows = before.is_none_or(|before: u64| before.checked_add(1) == Some(number));
        let Some((body, next)) = rest.split_at_checked(length).filter(|_| follows && of_epoch == epoch)
        else {
            return;
        };
        if checksum(of_epoch, number, body) != sum {
            return;
        }
        let Ok(record) = serde_json::from_slice(body) else { return };
        found.insert(number, record);
        (before, bytes) = (Some(number), next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use parking_lot::Mutex;

    /// Writes all that it is given; says that it failed when it is told to.
    #[derive(Clone, Default)]
    struct Fails(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Medium for Fails {
        fn read(&self) -> io::Result<Vec<u8>> {
            Ok(self.0.lock().0.clone())
        }

        fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let (content, fails) = &mut *self.0.lock();
            content.resize(content.len().max(offset as usize + bytes.len()), 0);
            content[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            if *fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn truncate(&self, length: u64) -> io::Result<()> {
            self.0.lock().0.truncate(length as usize);
            Ok(())
        }
    }

    #[test]
    fn what_was_refused_for_a_write_that_failed_half_way_does_not_come_back() {
        let file = Fails::default();
        let media = || -> Media { [Box::new(file.clone()), Box::new(Fails::default())] };
        let driver = |app: &str| Record::Driver { app: app.to_owned(), timeout_ms: 1 };
        let mut journal = Journal::new(media(), 1);
        journal.append(&[driver("a")]).expect("written");
        file.0.lock().1 = true;
        journal.append(&[driver("b"), driver("c")]).expect_err("full");
        let read = || records_after(&media(), 1, 0).expect("read");
        assert_eq!(read(), [driver("a")]);
        file.0.lock().1 = false;
        journal.append(&[driver("d")]).expect("written");
        assert_eq!(read(), [driver("a"), driver("d")]);
    }

    #[test]
    fn a_removal_as_an_earlier_release_wrote_it_is_read() {
        let written = r#"{"Removal":{"app":"a","forget":true,"left":["/d/blockmgr-1"]}}"#;
        let left: Doomed = [("/d/blockmgr-1".into(), None)].into();
        let record: Record = serde_json::from_str(written).expect("read");
        assert_eq!(record, Record::Removal { app: "a".into(), forget: true, left: left.clone() });
        let left = left.into_keys().map(|dir| (dir, Some(7))).collect();
        let record = Record::Removal { app: "a".into(), forget: true, left };
        let again = serde_json::from_slice(&serde_json::to_vec(&record).expect("written"));
        assert_eq!(record, again.expect("read"));
    }
}
