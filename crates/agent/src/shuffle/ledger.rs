//! The account of the directories that were made in a root: one file each, on disk before its directory is.
//!
//! Whoever is not this user cannot write to it; what it names is checked all the same before anything is deleted.
use bellows_model::FrameworkId;
use bellows_shuffle::LEDGER_ENTRY_LIMIT_BYTES;
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, StatxTimestamp, fstat, openat, renameat, statx,
        unlinkat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Prefix of every directory that is made here.
pub(super) const PREFIX: &str = "bellows-";
/// Where an entry is written before it takes its place.
const UNFINISHED: &str = ".new";

/// One directory of one framework, for the tasks of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    framework: String,
    pub(super) uid: u32,
    /// The directory's name, and that of the entry's file.
    #[serde(skip)]
    pub(super) directory: String,
    pub(super) made: Made,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Made {
    /// It may be there, empty.
    NotYet,
    Inode(u64),
    /// Made by an earlier release, which named directories by the bare id, wrote nothing into entries, and took what was
    /// there already for its own. With the time at which the entry was made, if the file system knows it: what is older
    /// was not made here.
    #[serde(skip)]
    Earlier(Option<(i64, u32)>),
}

impl Entry {
    pub(super) fn new(framework: &FrameworkId, uid: u32, directory: String) -> Self {
        Self { framework: framework.to_string(), uid, directory, made: Made::NotYet }
    }

    pub(super) fn made_as(self, inode: u64) -> Self {
        Self { made: Made::Inode(inode), ..self }
    }

    pub(super) fn is_of(&self, framework: &FrameworkId) -> bool {
        self.framework == framework.as_str()
    }

    pub(super) fn framework(&self) -> FrameworkId {
        self.framework.as_str().into()
    }
}

pub(super) struct Ledger {
    dir: OwnedFd,
    /// Nobody who holds this waits for the disk.
    entries: Mutex<Vec<Entry>>,
    writing: Mutex<()>,
}

/// Lets its holder change a ledger, one at a time.
pub(super) struct Pen<'a>(&'a Ledger, #[expect(dead_code, reason = "held")] MutexGuard<'a, ()>);

impl Ledger {
    /// Entries that cannot be read are left alone, with what they may name.
    pub(super) fn read(dir: OwnedFd) -> io::Result<Self> {
        let mut entries = Vec::new();
        for file in Dir::read_from(&dir)? {
            let file = file?;
            let name = file.file_name();
            if [c".", c".."].contains(&name) || name.to_bytes() == UNFINISHED.as_bytes() {
                continue;
            }
            match read_entry(&dir, name) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    tracing::warn!(entry = ?name, %error, "an entry of the ledger of shuffle directories is ignored");
                }
            }
        }
        Ok(Self { dir, entries: Mutex::new(entries), writing: Mutex::new(()) })
    }

    fn known(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.known().clone()
    }

    /// Waits for whoever changes it now, and with that for the disk.
    pub(super) fn pen(&self) -> Pen<'_> {
        Pen(self, self.writing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finds the current entry; an earlier release's is not given to new tasks.
    pub(super) fn find(&self, framework: &FrameworkId, uid: u32) -> Option<Entry> {
        let current = |entry: &&Entry| !matches!(entry.made, Made::Earlier(_));
        let known = self.known();
        known.iter().filter(current).find(|entry| entry.is_of(framework) && entry.uid == uid).cloned()
    }

    pub(super) fn knows(&self, directory: &str) -> bool {
        self.known().iter().any(|entry| entry.directory == directory)
    }
}

impl Pen<'_> {
    /// Durable when it returns. Replaces what is known of the same directory.
    pub(super) fn write(&self, entry: Entry) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0.dir, UNFINISHED, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&serde_json::to_vec(&entry)?)?;
        file.sync_all()?;
        renameat(&self.0.dir, UNFINISHED, &self.0.dir, &entry.directory)?;
        rustix::fs::fsync(&self.0.dir)?;
        let mut entries = self.0.known();
        entries.retain(|known| known.directory != entry.directory);
        entries.push(entry);
        Ok(())
    }

    pub(super) fn forget(&self, directory: &str) -> io::Result<()> {
        match unlinkat(&self.0.dir, directory, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(why) => return Err(why.into()),
        }
        self.0.known().retain(|entry| entry.directory != directory);
        Ok(())
    }
}

fn read_entry(dir: &OwnedFd, name: &CStr) -> io::Result<Entry> {
    let directory = name.to_str().map_err(io::Error::other)?.to_owned();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(dir, name, flags, Mode::empty())?);
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no file"));
    }
    let born = birth(&file, c"", AtFlags::EMPTY_PATH)?;
    let mut text = Vec::new();
    file.take(LEDGER_ENTRY_LIMIT_BYTES).read_to_end(&mut text)?;
    let entry = if text.is_empty() {
        Entry { framework: directory.clone(), uid: 0, directory, made: Made::Earlier(born) }
    } else {
        let entry = Entry { directory, ..serde_json::from_slice(&text)? };
        if !entry.directory.starts_with(PREFIX) {
            return Err(io::Error::other("it names a directory that was not made here"));
        }
        entry
    };
    entry.framework().validate().map_err(io::Error::other)?;
    Ok(entry)
}

/// When a file was made, where its file system knows: seconds and nanoseconds.
pub(super) fn birth(at: impl AsFd, name: &CStr, flags: AtFlags) -> rustix::io::Result<Option<(i64, u32)>> {
    let found = statx(at, name, flags | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME)?;
    let StatxTimestamp { tv_sec, tv_nsec, .. } = found.stx_btime;
    Ok((found.stx_mask & StatxFlags::BTIME.bits() != 0).then_some((tv_sec, tv_nsec)))
}
