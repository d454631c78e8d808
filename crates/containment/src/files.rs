//! Read-only access to the files below one directory, for the agent's `/files` endpoints.
//!
//! Every look-up stays beneath the directory ([`open_beneath`]), whatever the path or the links in it say. And what lies
//! in a sandbox is only read if it is the sandbox' owner's: a task can move, or link, another user's file into its own.
use crate::sandbox::SANDBOX_DEPTH;
use bellows_syscall::open_beneath;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

/// The most that one [`FileRoot::read`] returns.
pub const READ_LIMIT_BYTES: usize = 1 << 20;
/// The most that one [`FileRoot::browse`] returns.
const ENTRIES_LIMIT: usize = 100_000;

/// One line of a directory's listing, with the fields of Mesos' `FileInfo`.
#[derive(Debug, Clone, PartialEq)]
pub struct FileEntry {
    /// The name within the directory.
    pub name: String,
    pub size: u64,
    /// Seconds since the Unix epoch.
    pub mtime: i64,
    pub nlink: u64,
    /// Type and permissions as in `st_mode`; [`FileEntry::mode_text`] for people.
    pub mode: u32,
    /// The user's name, or its number.
    pub uid: String,
    pub gid: String,
}

impl FileEntry {
    /// As `ls` and Mesos print it: `-rw-r--r--`.
    pub fn mode_text(&self) -> String {
        let kind = match FileType::from_raw_mode(self.mode) {
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::Fifo => 'p',
            FileType::Socket => 's',
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            _ => '-',
        };
        let right =
            |bit: u32| if self.mode >> bit & 1 == 1 { ["x", "w", "r"][bit as usize % 3] } else { "-" };
        std::iter::once(kind.to_string()).chain((0..9).rev().map(|bit| right(bit).to_owned())).collect()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Missing, outside of the root, or a link that leads out: not told apart.
    #[error("no such file or directory")]
    NotFound,
    #[error("is a directory")]
    IsDirectory,
    #[error("is not a directory")]
    NotADirectory,
    #[error("is neither a file nor a directory")]
    Special,
    #[error("belongs to another user than the sandbox that it lies in")]
    Foreign,
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A directory that nothing is read outside of. Calls may block.
#[derive(Debug)]
pub struct FileRoot {
    path: PathBuf,
    root: OwnedFd,
    /// How many directories below the root the sandboxes are; 0: it is one itself.
    sandbox_depth: usize,
}

impl FileRoot {
    /// Opens one sandbox. `path` itself is trusted: links in it are followed.
    pub fn of_sandbox(path: &Path) -> Result<Self, FilesError> {
        Self::open(path, 0)
    }

    /// Opens the directory of all [`crate::Sandboxes`].
    pub fn of_sandboxes(path: &Path) -> Result<Self, FilesError> {
        Self::open(path, SANDBOX_DEPTH)
    }

    fn open(path: &Path, sandbox_depth: usize) -> Result<Self, FilesError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(|why| failure(path, why))?;
        Ok(Self { path: path.into(), root, sandbox_depth })
    }

    /// A directory's entries by name. `path` is relative to the root; leading slashes are ignored.
    pub fn browse(&self, path: &str) -> Result<Vec<FileEntry>, FilesError> {
        let failed = |why| failure(&self.path.join(relative(path)), why);
        let directory = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut stats = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed)?.take(ENTRIES_LIMIT) {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // One that was deleted meanwhile is left out.
            if let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                stats.push((name.to_string_lossy().into_owned(), stat));
            }
        }
        // All at once: names that are in no file may cost a process.
        let users = bellows_names::user_names(&stats.iter().map(|(_, stat)| stat.st_uid).collect());
        let groups = bellows_names::group_names(&stats.iter().map(|(_, stat)| stat.st_gid).collect());
        let named = |names: &BTreeMap<u32, String>, id: u32| match names.get(&id) {
            Some(name) => name.clone(),
            None => id.to_string(),
        };
        let entry = |(name, stat): (String, Stat)| FileEntry {
            name,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: stat.st_mtime,
            nlink: stat.st_nlink,
            mode: stat.st_mode,
            uid: named(&users, stat.st_uid),
            gid: named(&groups, stat.st_gid),
        };
        let mut entries: Vec<_> = stats.into_iter().map(entry).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Up to `length` bytes (at most [`READ_LIMIT_BYTES`]) from `offset`; past the end: none.
    pub fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, FilesError> {
        let (file, stat) = self.regular(path)?;
        let left = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset);
        // Sized by what is there: `length` is the caller's word.
        let mut data = vec![0; length.min(READ_LIMIT_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX))];
        let mut filled = 0;
        while filled < data.len() {
            match file.read_at(&mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FilesError::Io { path: self.path.join(relative(path)), source }),
            }
        }
        data.truncate(filled);
        Ok(data)
    }

    /// A file's size in bytes.
    pub fn size(&self, path: &str) -> Result<u64, FilesError> {
        Ok(u64::try_from(self.regular(path)?.1.st_size).unwrap_or(0))
    }

    /// A regular file, opened for reading.
    pub fn download(&self, path: &str) -> Result<File, FilesError> {
        Ok(self.regular(path)?.0)
    }

    fn regular(&self, path: &str) -> Result<(File, Stat), FilesError> {
        // A FIFO without a writer would block for ever.
        let file = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = fstat(&file).map_err(|why| failure(&self.path.join(relative(path)), why))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((file.into(), stat)),
            FileType::Directory => Err(FilesError::IsDirectory),
            _ => Err(FilesError::Special),
        }
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, FilesError> {
        let path = relative(path);
        let failed = |why| failure(&self.path.join(path), why);
        let parts: Vec<&str> = path.split('/').filter(|part| !["", "."].contains(part)).collect();
        // One sandbox' path could lead to what lies in another.
        if parts.contains(&"..") {
            return Err(FilesError::NotFound);
        }
        let found = open_beneath(self.root.as_fd(), path.as_ref(), flags).map_err(failed)?;
        let sandbox = match parts[..parts.len().min(self.sandbox_depth)].join("/") {
            whole if parts.len() <= self.sandbox_depth && !whole.is_empty() => return Ok(found),
            sandbox if sandbox.is_empty() => ".".to_owned(),
            sandbox => sandbox,
        };
        let sandbox = open_beneath(self.root.as_fd(), sandbox.as_ref(), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed)?;
        match fstat(&found).map_err(failed)?.st_uid == fstat(&sandbox).map_err(failed)?.st_uid {
            true => Ok(found),
            false => Err(FilesError::Foreign),
        }
    }
}

fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    }
}

fn failure(path: &Path, why: Errno) -> FilesError {
    match why {
        Errno::NOENT | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL => FilesError::NotFound,
        Errno::NOTDIR => FilesError::NotADirectory,
        Errno::NXIO => FilesError::Special,
        why => FilesError::Io { path: path.into(), source: why.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn root() -> (tempfile::TempDir, FileRoot) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("runs/c1")).expect("create");
        fs::write(root.join("runs/c1/stdout"), "0123456789").expect("write");
        fs::write(dir.path().join("secret"), "secret").expect("write");
        symlink("c1", root.join("runs/latest")).expect("link");
        symlink("../../../secret", root.join("runs/c1/climbs")).expect("link");
        symlink(dir.path().join("secret"), root.join("runs/c1/absolute")).expect("link");
        symlink("/proc/self/root/etc/passwd", root.join("runs/c1/magic")).expect("link");
        symlink("loop", root.join("runs/c1/loop")).expect("link");
        let files = FileRoot::of_sandbox(&root).expect("open");
        (dir, files)
    }

    #[test]
    fn reads_within_bounds() {
        let (_dir, files) = root();
        for (offset, length, expected) in [
            (0, 4, "0123"),
            (8, 100, "89"),
            (10, 1, ""),
            (u64::MAX, 1, ""),
            (3, 0, ""),
            (0, usize::MAX, "0123456789"),
        ] {
            let data = files.read("/runs/latest/stdout", offset, length).expect("readable");
            assert_eq!(data, expected.as_bytes(), "{offset} {length}");
        }
        assert_eq!(files.size("runs/c1/stdout").expect("there"), 10);
        let big = fs::File::create(files.path.join("big")).expect("create");
        big.set_len(1 << 32).expect("sparse");
        assert_eq!(files.read("big", 1 << 31, usize::MAX).expect("readable").len(), READ_LIMIT_BYTES);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let (_dir, files) = root();
        for path in [
            "../secret",
            "/../secret",
            "runs/../../secret",
            "runs/c1/climbs",
            "runs/c1/absolute",
            "runs/c1/magic",
            "runs/c1/loop",
            "runs/c1/\0",
            "missing",
            &"x/".repeat(5000),
        ] {
            assert!(matches!(files.download(path), Err(FilesError::NotFound)), "{path:?}");
            assert!(files.browse(path).is_err() && files.read(path, 0, 1).is_err(), "{path:?}");
        }
        assert!(matches!(files.browse("runs/c1/stdout"), Err(FilesError::NotADirectory)));
        assert!(matches!(files.download("runs/c1"), Err(FilesError::IsDirectory)));
        let fifo = files.path.join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).expect("mkfifo");
        assert!(matches!(files.download("fifo"), Err(FilesError::Special)), "and does not block");
    }

    #[test]
    fn what_another_user_owns_is_not_read() {
        // Only root gives files away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let executor = "S/frameworks/F/executors/E";
        let runs = dir.path().join(executor).join("runs");
        let give = |path: &Path, uid: u32| std::os::unix::fs::chown(path, Some(uid), None).expect("chown");
        for (sandbox, uid) in [("c1", 1001), ("c2", 1002)] {
            fs::create_dir_all(runs.join(sandbox).join("dir")).expect("made");
            for file in ["own", "dir/other", "root"] {
                fs::write(runs.join(sandbox).join(file), file).expect("written");
            }
            for path in ["", "own", "dir"] {
                give(&runs.join(sandbox).join(path), uid);
            }
            give(&runs.join(sandbox).join("dir/other"), 1003);
        }
        fs::create_dir(runs.join("c1/anothers")).expect("made");
        give(&runs.join("c1/anothers"), 1003);
        fs::write(runs.join("c1/moved"), "moved").expect("written");
        give(&runs.join("c1/moved"), 1002);
        symlink("../c2/own", runs.join("c1/link")).expect("link");
        symlink("c1", runs.join("latest")).expect("link");

        let all = FileRoot::of_sandboxes(dir.path()).expect("opened");
        let one = FileRoot::of_sandbox(&runs.join("c1")).expect("opened");
        let read = |path: &str| all.read(&format!("/{executor}/./runs//{path}"), 0, 9);
        for path in ["c1/own", "latest/own", "c2/own"] {
            assert_eq!(read(path).expect("readable"), b"own", "{path}");
        }
        assert_eq!(one.read("own", 0, 9).expect("readable"), b"own");
        for path in ["root", "dir/other", "moved", "link"] {
            assert!(matches!(read(&format!("c1/{path}")), Err(FilesError::Foreign)), "{path}");
            assert!(one.read(path, 0, 9).is_err(), "{path}");
        }
        assert!(matches!(read("c2/../c1/moved"), Err(FilesError::NotFound)));
        for (path, listed) in [
            ("", true),
            (executor, true),
            ("runs/c1", true),
            ("runs/latest/dir", true),
            ("runs/c1/anothers", false),
        ] {
            let path = if path.starts_with("runs") { format!("{executor}/{path}") } else { path.to_owned() };
            assert_eq!(all.browse(&path).is_ok(), listed, "{path}");
        }
    }

    #[test]
    fn the_same_where_newer_system_calls_are_refused() {
        bellows_testkit::on_older_machines(|| {
            reads_within_bounds();
            nothing_outside_is_reached();
            lists_what_a_directory_holds();
            no_path_panics_or_leads_out();
        });
    }

    #[test]
    fn lists_what_a_directory_holds() {
        let (_dir, files) = root();
        rustix::fs::chmod(files.path.join("runs/c1/stdout"), Mode::from_raw_mode(0o640)).expect("chmod");
        let entries = files.browse("runs/c1/").expect("listed");
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["absolute", "climbs", "loop", "magic", "stdout"]);
        let stdout = &entries[4];
        assert_eq!((stdout.size, stdout.nlink, stdout.mode_text().as_str()), (10, 1, "-rw-r-----"));
        assert_eq!(entries[0].mode_text(), "lrwxrwxrwx");
        assert_eq!(stdout.uid, crate::Owner::own_name());
        assert!(files.browse("/").is_ok_and(|entries| entries.len() == 1));
    }

    #[test]
    fn no_path_panics_or_leads_out() {
        let (_dir, files) = root();
        proptest::proptest!(|(path in "[a./\\\\]{0,12}|(\\.\\./){0,3}(secret|runs|c1|climbs|/){0,3}|.{0,20}")| {
            if let Ok(data) = files.read(&path, 0, 100) {
                assert_ne!(data, b"secret", "{path:?}");
            }
        });
    }
}
