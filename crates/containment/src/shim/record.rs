//! What a shim is told, and the record by which it tells any agent process, now or later, how its task goes.
//!
//! All records of an agent lie in one file, the register, in slots of one block each. No file is made or deleted for
//! a task: ext4 takes the inode of a file deleted in the last minute only after searching past all such (`fs/ext4/
//! ialloc.c`, `recently_deleted`), which at hundreds of tasks a second costs more than all the rest.
//!
//! A slot is written whole, in one call, under a lock on its bytes, so a process killed at any moment leaves the old
//! or the new record. Nothing is synced: a machine that crashes takes the tasks with it. The block is there from the
//! start: a full disk cannot swallow an exit status.
#![allow(unsafe_code, reason = "locks on a range of a file have no safe wrapper")]
use crate::{Owner, process::Identity};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Reaches the shim through a socket: an environment with secrets never reaches a disk.
#[derive(Serialize, Deserialize)]
pub(crate) struct Instruction {
    pub(crate) boot_id: String,
    pub(crate) register: PathBuf,
    pub(crate) slot: u32,
    pub(crate) container_id: String,
    pub(crate) sandbox: PathBuf,
    pub(crate) shell: bool,
    pub(crate) value: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) user: Option<Owner>,
}

/// Goes back through the same socket, to the agent process that started it.
#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    Started(Started),
    Failed(Failure),
}

/// Why a command was not executed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// The command itself, its user or its files are the reason; another task's might be fine.
    pub(crate) of_task: bool,
}

impl Failure {
    pub(crate) fn of_shim(why: impl Into<String>) -> Self {
        Self { why: why.into(), of_task: false }
    }
}

/// One container, from before its shim is started until it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) container_id: String,
    pub(crate) state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// The shim has not come to its task yet.
    Starting,
    Running(Started),
    /// Also what an agent writes that finds `Starting` after a restart: the shim, should there be one, gives up then.
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) boot_id: String,
    pub(crate) shim: Identity,
    pub(crate) task: Identity,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    Exited(i32),
    Signaled(i32),
    Failed(String),
}

/// One block of most file systems, one page of memory.
const SLOT_BYTES: usize = 4096;
/// Of [`Ended::Failed`], so that a record fits its slot.
const REASON_LIMIT_CHARS: usize = 500;

/// The file of all slots. An empty slot is all spaces or beyond the file's end.
#[derive(Debug)]
pub(crate) struct Register(File);

impl Register {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW);
        Ok(Self(options.open(path)?))
    }

    /// Whether it is the file at `path`, which somebody may have deleted.
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = self.0.metadata()?;
        match path.symlink_metadata() {
            Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(why),
        }
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// How many slots there are, empty ones among them.
    pub(crate) fn slots(&self) -> io::Result<u32> {
        Ok((self.0.metadata()?.len() / SLOT_BYTES as u64).try_into().unwrap_or(u32::MAX))
    }

    /// `None`: the slot is empty, or not readable after a crash of the machine.
    pub(crate) fn read(&self, slot: u32) -> io::Result<Option<Record>> {
        let _lock = self.lock(slot)?;
        self.read_locked(slot)
    }

    /// Writes what `change` makes of the slot's record; nothing when it makes `None` of it. Returns whether it wrote.
    pub(crate) fn update(
        &self,
        slot: u32,
        change: impl FnOnce(Option<Record>) -> Option<Record>,
    ) -> io::Result<bool> {
        let _lock = self.lock(slot)?;
        match change(self.read_locked(slot)?) {
            Some(record) => self.write(slot, &serde_json::to_vec(&record)?).map(|()| true),
            None => Ok(false),
        }
    }

    pub(crate) fn clear(&self, slot: u32) -> io::Result<()> {
        let _lock = self.lock(slot)?;
        self.write(slot, b"")
    }

    fn read_locked(&self, slot: u32) -> io::Result<Option<Record>> {
        let mut bytes = [b' '; SLOT_BYTES];
        match self.0.read_exact_at(&mut bytes, offset(slot)) {
            Err(why) if why.kind() != io::ErrorKind::UnexpectedEof => Err(why),
            _ => Ok(serde_json::from_slice(&bytes).ok()),
        }
    }

    fn write(&self, slot: u32, text: &[u8]) -> io::Result<()> {
        let mut bytes = [b' '; SLOT_BYTES];
        bytes.get_mut(..text.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(text);
        self.0.write_all_at(&bytes, offset(slot))
    }

    fn lock(&self, slot: u32) -> io::Result<Lock<'_>> {
        self.set_lock(slot, libc::F_WRLCK)?;
        Ok(Lock { register: self, slot })
    }

    /// Locks of this kind belong to the open file: they hold between processes, and the kernel drops a dead one's.
    /// (Within one process, which has one open register, slots are told apart by who owns the container.)
    fn set_lock(&self, slot: u32, kind: i32) -> io::Result<()> {
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: offset(slot) as libc::off_t,
            l_len: SLOT_BYTES as libc::off_t,
            l_pid: 0,
        };
        loop {
            // SAFETY: `lock` is a whole `flock` that outlives the call, and the descriptor is open.
            if unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_OFD_SETLKW, &raw const lock) } == 0 {
                return Ok(());
            }
            let why = io::Error::last_os_error();
            if why.kind() != io::ErrorKind::Interrupted {
                return Err(why);
            }
        }
    }
}

struct Lock<'a> {
    register: &'a Register,
    slot: u32,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = self.register.set_lock(self.slot, libc::F_UNLCK);
    }
}

fn offset(slot: u32) -> u64 {
    u64::from(slot) * SLOT_BYTES as u64
}

impl Ended {
    pub(crate) fn failed(why: &str) -> Self {
        Self::Failed(why.chars().take(REASON_LIMIT_CHARS).collect())
    }
}

/// A shim's own slot in the register.
pub(super) struct Slot {
    register: Register,
    index: u32,
    container_id: String,
}

impl Slot {
    pub(super) fn of(instruction: &Instruction) -> io::Result<Self> {
        let register = Register::open(&instruction.register)?;
        Ok(Self { register, index: instruction.slot, container_id: instruction.container_id.clone() })
    }

    /// `false`: an agent that came later has given this container up, and the slot may be another's.
    pub(super) fn start(&self, started: Started) -> io::Result<bool> {
        self.register.update(self.index, |record| {
            let expected = Record { container_id: self.container_id.clone(), state: State::Starting };
            (record.as_ref() == Some(&expected)).then(|| self.record(State::Running(started)))
        })
    }

    pub(super) fn started(&self) -> Option<Started> {
        match self.register.read(self.index) {
            Ok(Some(Record { container_id, state: State::Running(started) }))
                if container_id == self.container_id =>
            {
                Some(started)
            }
            _ => None,
        }
    }

    pub(super) fn end(&self, ended: Ended) -> io::Result<()> {
        let own =
            |record: Option<Record>| record.is_some_and(|record| record.container_id == self.container_id);
        let written = self
            .register
            .update(self.index, |record| own(record).then(|| self.record(State::Ended(ended))))?;
        if written { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn record(&self, state: State) -> Record {
        Record { container_id: self.container_id.clone(), state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_records_apart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let register = Register::open(&dir.path().join("register")).expect("created");
        let record = |id: &str, state| Record { container_id: id.into(), state };
        // The longest there can be: every character takes six bytes.
        let reason = Ended::failed(&"\u{1}".repeat(10_000));
        let long = record(&"\\".repeat(255), State::Ended(reason));
        assert!(register.update(0, |_| Some(record("a", State::Starting))).expect("written"));
        assert!(register.update(2, |_| Some(long.clone())).expect("written"));
        assert_eq!(register.read(0).expect("readable"), Some(record("a", State::Starting)));
        assert_eq!(register.read(1).expect("readable"), None);
        assert_eq!(register.read(2).expect("readable"), Some(long));
        assert_eq!(register.read(3).expect("readable"), None);
        assert_eq!(register.slots().expect("readable"), 3);
        assert!(!register.update(0, |_| None).expect("readable"), "left as it is");
        register.clear(0).expect("written");
        assert_eq!(register.read(0).expect("readable"), None);
    }

    #[test]
    fn a_slot_that_has_become_anothers_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("register");
        let register = Register::open(&path).expect("created");
        let other = Record { container_id: "other".into(), state: State::Starting };
        register.update(0, |_| Some(other.clone())).expect("written");
        let late =
            Slot { register: Register::open(&path).expect("open"), index: 0, container_id: "late".into() };
        let identity = Identity { pid: 1, start: 1 };
        let started = Started { boot_id: "b".into(), shim: identity, task: identity };
        assert!(!late.start(started).expect("readable"));
        assert!(late.end(Ended::Exited(0)).is_err());
        assert_eq!(register.read(0).expect("readable"), Some(other));
    }
}
