//! One of the disks: a directory in which frameworks get directories of their own.
use super::{
    known::{Known, KnownDisks, write_private},
    ledger::{Entry, Ledger, Made, PREFIX, birth},
};
use crate::{
    Error,
    work_dir::{Lock, lock, look, probe},
};
use bellows_containment::{OPEN_DIR, Owner, PRIVATE_DIR, make_dirs, own_dir, remove_tree_at};
use bellows_model::FrameworkId;
use bellows_shuffle::{KEEPER_DIR, LEDGER_DIR, mount_point};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fchmod, fchown, fstat, mkdirat, openat, stat,
        statat, unlinkat,
    },
    io::Errno,
    process::{Gid, Uid, geteuid},
};
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Length of the framework's id within a directory's name.
const ID_CHARS: usize = 64;
/// Names that are tried for one directory, should others be taken.
const NAMES_LIMIT: usize = 8;
/// Prefixes of the directories that Spark makes in its local directories (`DiskBlockManager`, `Utils.createTempDir`);
/// a UUID follows.
const MADE_BY_SPARK: [&str; 2] = ["blockmgr-", "spark-"];
/// Length of a UUID as Java writes it, with hyphens.
const UUID_CHARS: usize = 36;
const DIR_FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Whether the error says that there is no room, and nothing else.
pub(super) fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

pub(super) struct Root {
    /// Without symbolic links.
    pub(super) path: PathBuf,
    /// Stays the same directory, whatever becomes of the path.
    dir: OwnedFd,
    pub(super) ledger: Ledger,
    _lock: Lock,
}

impl Root {
    /// Opens the directory, or makes it, if that is certainly on the disk that it was on before. Also says why nothing can
    /// be written there, if the disk is full: what lies there can be deleted.
    pub(super) fn open(path: &Path, known: &KnownDisks) -> Result<(Self, Option<String>), Error> {
        let given = path;
        let before = known.of(given);
        let refused = |why: String| Error::io(given)(io::Error::other(why));
        if let Some(before) = before.as_ref().filter(|before| !before.is_mounted()) {
            // Beneath where it was mounted there may be an empty directory, which is on another disk.
            let moved = path.canonicalize().ok().and_then(|path| read_id(&path));
            if moved.as_ref() != Some(&before.id) {
                return Err(refused(before.not_mounted(known)));
            }
        }
        make_dirs(path, OPEN_DIR).map_err(Error::io(path))?;
        let path = path.canonicalize().map_err(Error::io(path))?;
        let dir = openat(CWD, &path, OFlags::RDONLY | DIR_FLAGS, Mode::empty());
        let dir = dir.map_err(|why| Error::io(&path)(why.into()))?;
        let own = path.join(KEEPER_DIR);
        own_dir(&own, PRIVATE_DIR).map_err(Error::io(&own))?;
        let frameworks = own.join(LEDGER_DIR);
        let ledger = own_dir(&frameworks, PRIVATE_DIR).map_err(Error::io(&frameworks))?;
        let lock = lock(&own.join("lock"), &path)?;
        let ledger = Ledger::read(ledger).map_err(Error::io(&frameworks))?;
        let root = Self { path, dir, ledger, _lock: lock };
        let full = match probe(&own) {
            Err(error) if is_full(&error) => Some(error.to_string()),
            probed => probed.map(|()| None).map_err(Error::io(&root.path))?,
        };
        let id = match read_id(&root.path) {
            None if full.is_some() => return Ok((root, full)),
            None => write_id(&root.path).map_err(Error::io(&own))?,
            Some(id) => id,
        };
        if before.is_some_and(|before| before.id != id) {
            tracing::warn!(root = %given.display(), "another disk lies here than before: it is taken as a new one");
        }
        known.remember(given, Known { id, mount: mount_point(&root.path) });
        Ok((root, full))
    }

    /// Fails if tasks would not find, or could not write to, what is made here.
    pub(super) fn look(&self) -> io::Result<()> {
        self.is_in_place()?;
        look(&self.path.join(KEEPER_DIR))
    }

    pub(super) fn frameworks(&self) -> Vec<FrameworkId> {
        self.ledger.entries().iter().map(Entry::framework).collect()
    }

    pub(super) fn of(&self, framework_id: &FrameworkId, owner: Option<&Owner>) -> Option<PathBuf> {
        self.ledger.find(framework_id, uid_of(owner)).map(|entry| self.path.join(&entry.directory))
    }

    pub(super) fn create(&self, framework_id: &FrameworkId, owner: Option<&Owner>) -> io::Result<()> {
        // Not held while a directory is deleted: that can take long.
        let pen = self.ledger.pen();
        self.is_in_place()?;
        let uid = uid_of(owner);
        if let Some(entry) = self.ledger.find(framework_id, uid) {
            if self.is_there(&entry)? {
                return Ok(());
            }
            // Deleted by somebody, never made, or replaced by what is not ours.
            self.remove_unmade(&entry)?;
            pen.forget(&entry.directory)?;
        }
        for attempt in 0..NAMES_LIMIT {
            let name = directory_name(framework_id, attempt);
            if self.ledger.knows(&name) {
                continue;
            }
            let entry = Entry::new(framework_id, uid, name);
            // The other way round a crash in between would leave a directory that nobody deletes.
            pen.write(entry.clone())?;
            match mkdirat(&self.dir, &entry.directory, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    pen.forget(&entry.directory)?;
                    continue;
                }
                Err(why) => return Err(why.into()),
            }
            let inode = self.give(&entry.directory, owner)?;
            return pen.write(entry.made_as(inode));
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "all names for a framework's directory are taken"))
    }

    /// Gives the directory that was just made to the tasks' user; returns its inode.
    fn give(&self, name: &str, owner: Option<&Owner>) -> io::Result<u64> {
        let made = openat(&self.dir, name, OFlags::RDONLY | DIR_FLAGS, Mode::empty())?;
        let found = fstat(&made)?;
        let ours = found.st_uid == geteuid().as_raw() && found.st_dev == fstat(&self.dir)?.st_dev;
        if !ours || !is_empty(&made)? {
            return Err(io::Error::other(format!("{name} was replaced as soon as it had been made")));
        }
        fchmod(&made, Mode::RWXU)?;
        if let Some(owner) = owner {
            fchown(&made, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        }
        Ok(found.st_ino)
    }

    /// Tasks find their directories by path.
    fn is_in_place(&self) -> io::Result<()> {
        let opened = fstat(&self.dir)?;
        match stat(&self.path) {
            Ok(there) if (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino) => Ok(()),
            Ok(_) => Err(io::Error::other("another directory lies there than before")),
            Err(why) => Err(why.into()),
        }
    }

    fn is_there(&self, entry: &Entry) -> io::Result<bool> {
        match statat(&self.dir, &entry.directory, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(self.is_ours(entry, &found)?),
            Err(Errno::NOENT) => Ok(false),
            Err(why) => Err(why.into()),
        }
    }

    fn is_ours(&self, entry: &Entry, found: &Stat) -> io::Result<bool> {
        Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory
            && entry.made == Made::Inode(found.st_ino)
            && entry.uid == found.st_uid
            && found.st_dev == fstat(&self.dir)?.st_dev)
    }

    pub(super) fn remove(&self, framework_id: &FrameworkId) -> io::Result<()> {
        let entries: Vec<Entry> =
            self.ledger.entries().into_iter().filter(|entry| entry.is_of(framework_id)).collect();
        entries.iter().map(|entry| self.remove_entry(entry)).fold(Ok(()), Result::and)
    }

    fn remove_entry(&self, entry: &Entry) -> io::Result<()> {
        match &entry.made {
            Made::NotYet => self.remove_unmade(entry)?,
            Made::Inode(_) => {
                let name = CString::new(entry.directory.as_str())?;
                let ours = |found: &Stat| self.is_ours(entry, found).unwrap_or(false);
                remove_tree_at(self.dir.as_fd(), &name, ours)?;
            }
            Made::Earlier(recorded) => self.remove_earlier(&entry.directory, *recorded)?,
        }
        if self.exists(&entry.directory)? {
            let path = self.path.join(&entry.directory);
            tracing::warn!(path = %path.display(), "what lies there was not made by this agent: it is left alone");
        }
        self.ledger.pen().forget(&entry.directory)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        match statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(why) => Err(why.into()),
        }
    }

    /// A directory that was being made when the agent died: no task has ever had it.
    fn remove_unmade(&self, entry: &Entry) -> io::Result<()> {
        if entry.made != Made::NotYet {
            return Ok(());
        }
        let found = match statat(&self.dir, &entry.directory, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            found => found?,
        };
        if [geteuid().as_raw(), entry.uid].contains(&found.st_uid) {
            remove_if_empty(self.dir.as_fd(), &entry.directory)?;
        }
        Ok(())
    }

    /// A directory of an earlier release goes whole if it is certain that it was made for the framework; otherwise only
    /// what the framework's executors have put there. Both are younger than the entry: where the file system does not
    /// know how old they are, nothing goes.
    fn remove_earlier(&self, name: &str, recorded: Option<(i64, u32)>) -> io::Result<()> {
        let Some(recorded) = recorded else { return Ok(()) };
        let c_name = CString::new(name)?;
        let here = fstat(&self.dir)?.st_dev;
        let made_since = |parent: BorrowedFd<'_>, name: &CStr| match birth(parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(false),
            born => born.map(|born| born.is_some_and(|born| born >= recorded)),
        };
        let young = made_since(self.dir.as_fd(), &c_name)?;
        let whole = |found: &Stat| young && found.st_mode & 0o777 == 0o700 && found.st_dev == here;
        if remove_tree_at(self.dir.as_fd(), &c_name, whole)? {
            return Ok(());
        }
        let dir = match openat(&self.dir, &c_name, OFlags::RDONLY | DIR_FLAGS, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            dir => dir?,
        };
        // The release gave the directory to the tasks' user, whether it had made it or not.
        let user = fstat(&dir)?.st_uid;
        for child in Dir::read_from(&dir)? {
            let child = child?;
            let name = child.file_name();
            if is_sparks(name) && made_since(dir.as_fd(), name)? {
                remove_tree_at(dir.as_fd(), name, |found| found.st_dev == here && found.st_uid == user)?;
            }
        }
        remove_if_empty(self.dir.as_fd(), name)
    }
}

/// The file that tells one disk from another, and from an empty directory where it was mounted.
const ID: &str = "id";

fn read_id(root: &Path) -> Option<String> {
    let id = std::fs::read_to_string(root.join(KEEPER_DIR).join(ID)).ok()?;
    uuid::Uuid::try_parse(id.trim()).ok().map(|id| id.to_string())
}

fn write_id(root: &Path) -> io::Result<String> {
    let (id, path) = (uuid::Uuid::new_v4().to_string(), root.join(KEEPER_DIR).join(ID));
    write_private(&path, id.as_bytes())?;
    Ok(id)
}

/// Whether Spark gives such names to directories: `blockmgr-UUID`, `spark-UUID`.
fn is_sparks(name: &CStr) -> bool {
    let Ok(name) = name.to_str() else { return false };
    let ids = MADE_BY_SPARK.iter().filter_map(|prefix| name.strip_prefix(prefix));
    ids.filter(|id| id.len() == UUID_CHARS).any(|id| uuid::Uuid::try_parse(id).is_ok())
}

fn uid_of(owner: Option<&Owner>) -> u32 {
    owner.map_or_else(|| geteuid().as_raw(), |owner| owner.uid)
}

/// The framework's id for people, within the length that a name may have; and from the second attempt on something that
/// nobody else has thought of.
fn directory_name(framework_id: &FrameworkId, attempt: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let id: String = framework_id.as_str().chars().take(ID_CHARS).map(plain).collect();
    match attempt {
        0 => format!("{PREFIX}{id}"),
        _ => format!("{PREFIX}{id}-{:08x}", uuid::Uuid::new_v4().as_fields().0),
    }
}

fn is_empty(dir: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        if ![c".", c".."].contains(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove_if_empty(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
        Err(why) => Err(why.into()),
    }
}
