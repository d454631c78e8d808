//! An executor's local directories, and which of them holds a file of a given name (`ExecutorDiskUtils.java`).
//!
//! A directory is resolved once, when it is registered. From then on it is opened without following any symbolic
//! link on the way, so that what is read lies where it was registered whatever happens to the path meanwhile.

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bellows_syscall::open_without_symlinks;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{BlockError, Look, Source};

/// An executor has one on each disk.
const MAX_DIRS: usize = 128;
/// Each is looked up on disk; what Spark and its cluster managers make is not ten deep.
const MAX_COMPONENTS: usize = 64;
const MAX_SUB_DIRS: i32 = 1 << 16;

/// Why an executor's directories are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DirError {
    #[error("{0} is not an absolute path without '..' and control characters")]
    NotAbsolute(String),
    #[error("{0} has more than {MAX_COMPONENTS} components")]
    TooDeep(String),
    #[error("{0} is not below a directory that this service may read")]
    OutsideRoots(String),
    #[error("{0} local directories; 1 to {MAX_DIRS} are taken")]
    Count(usize),
    #[error("{0} sub-directories per local directory; 1 to {MAX_SUB_DIRS} are taken")]
    SubDirs(i32),
}

/// A directory as the executor named it, and as it is reached without symbolic links.
#[derive(Debug)]
pub(crate) struct LocalDir {
    /// Shared with whoever keeps account of directories: there is one for each of many thousand executors.
    real: Arc<Path>,
    /// Where it differs.
    told: Option<Box<str>>,
    /// See [`Source::is_local`]; nothing is taken for local before a file was opened there.
    local: AtomicBool,
}

impl Clone for LocalDir {
    fn clone(&self) -> LocalDir {
        let local = AtomicBool::new(self.is_local());
        LocalDir { real: self.real.clone(), told: self.told.clone(), local }
    }
}

impl PartialEq for LocalDir {
    fn eq(&self, other: &LocalDir) -> bool {
        (&self.real, &self.told) == (&other.real, &other.told)
    }
}

impl LocalDir {
    pub(crate) fn real(&self) -> &Arc<Path> {
        &self.real
    }

    pub(crate) fn told(&self) -> &str {
        self.told.as_deref().or(self.real.to_str()).expect("what was told is UTF-8")
    }

    /// From what was stored; it was checked when it was registered.
    pub(crate) fn stored(told: String, real: PathBuf) -> LocalDir {
        let told = (real.as_os_str() != told.as_str()).then(|| told.into());
        LocalDir { real: real.into(), told, local: AtomicBool::new(false) }
    }

    /// Whether its files may be looked for in memory by the threads that serve.
    pub(crate) fn is_local(&self) -> bool {
        self.local.load(Relaxed)
    }

    /// What a file that was opened there says of all.
    pub(crate) fn learn(&self, file: &Source) {
        self.local.store(file.is_local(), Relaxed);
    }

    fn check(told: &str) -> Result<(), DirError> {
        let path = Path::new(told);
        let sound = path.is_absolute()
            && told.len() < 4096
            && !told.contains(char::is_control)
            && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !sound {
            return Err(DirError::NotAbsolute(told.to_owned()));
        }
        if path.components().count() > MAX_COMPONENTS {
            return Err(DirError::TooDeep(told.to_owned()));
        }
        Ok(())
    }

    /// Of a path that was checked. Looks at the file system: not for the threads that serve.
    pub(crate) fn resolve(told: &str, roots: &[PathBuf]) -> Result<LocalDir, DirError> {
        let real = real_path(Path::new(told));
        if !roots.is_empty() && !roots.iter().any(|root| real != *root && real.starts_with(root)) {
            return Err(DirError::OutsideRoots(told.to_owned()));
        }
        Ok(LocalDir::stored(told.to_owned(), real))
    }
}

/// The path with the links of its existing part resolved.
fn real_path(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = path.strip_prefix(ancestor).expect("an ancestor is a prefix");
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LocalDirs {
    dirs: Box<[LocalDir]>,
    sub_dirs: u32,
}

impl LocalDirs {
    /// What can be said of an executor's directories without a look at a disk; the sub-directories of each.
    pub(crate) fn check(told: &[String], sub_dirs: i32) -> Result<u32, DirError> {
        if told.is_empty() || told.len() > MAX_DIRS {
            return Err(DirError::Count(told.len()));
        }
        let sub_dirs = u32::try_from(sub_dirs)
            .ok()
            .filter(|n| (1..=MAX_SUB_DIRS as u32).contains(n))
            .ok_or(DirError::SubDirs(sub_dirs))?;
        told.iter().try_for_each(|dir| LocalDir::check(dir))?;
        Ok(sub_dirs)
    }

    /// Where they lie on one disk, all at once.
    pub(crate) fn resolve(told: &[String], sub_dirs: i32, roots: &[PathBuf]) -> Result<LocalDirs, DirError> {
        let sub_dirs = LocalDirs::check(told, sub_dirs)?;
        let dirs = told.iter().map(|dir| LocalDir::resolve(dir, roots)).collect::<Result<_, _>>()?;
        Ok(LocalDirs { dirs, sub_dirs })
    }

    /// Of directories that were resolved now or when they were stored; nothing when there are none.
    pub(crate) fn new(dirs: Vec<LocalDir>, sub_dirs: u32) -> Option<LocalDirs> {
        (!dirs.is_empty() && sub_dirs > 0).then(|| LocalDirs { dirs: dirs.into(), sub_dirs })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LocalDir> {
        self.dirs.iter()
    }

    /// Bytes of their names.
    pub(crate) fn bytes(&self) -> usize {
        self.dirs
            .iter()
            .map(|dir| dir.real.as_os_str().len() + dir.told.as_ref().map_or(0, |told| told.len()))
            .sum()
    }

    pub(crate) fn sub_dirs(&self) -> u32 {
        self.sub_dirs
    }

    /// Where the executor puts a file of this name.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.place(file).1
    }

    /// The same, and in which of the directories that is.
    pub(crate) fn place(&self, file: &str) -> (&LocalDir, PathBuf) {
        let hash = java_hash(file) as usize;
        let dir = &self.dirs[hash % self.dirs.len()];
        let sub = (hash / self.dirs.len()) % self.sub_dirs as usize;
        (dir, dir.real().join(format!("{sub:02x}")).join(file))
    }
}

/// `JavaUtils.nonNegativeHash` of a string.
fn java_hash(text: &str) -> u32 {
    let hash =
        text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) as u32
}

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) bytes: u64,
    /// That it is read is not written down in its time of access, which may make a reader wait for the disk.
    pub(super) untouched: bool,
}

/// Opens a regular file for reading; a symbolic link anywhere on the way is refused.
pub(super) fn open_file(path: &Path, look: Look) -> Result<Opened, BlockError> {
    // O_NONBLOCK: a named pipe in place of a block must not hold the opening thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = |flags| open_without_symlinks(path, flags, look == Look::Memory);
    let untouched = flags | OFlags::NOATIME;
    let opened = match look {
        Look::Memory => open(untouched).map(|file| (file, true)),
        Look::Disk => match open(untouched) {
            // Only its owner may leave the time alone.
            Err(Errno::PERM) => open(flags).map(|file| (file, false)),
            opened => opened.map(|file| (file, true)),
        },
    };
    let failed = |error: Errno| BlockError::Disk { path: path.to_owned(), source: error.into() };
    let (file, untouched) = opened.map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => BlockError::Missing(path.to_owned()),
        error => failed(error),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(BlockError::Missing(path.to_owned()));
    }
    Ok(Opened { file: file.into(), bytes: stat.st_size as u64, untouched })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Placed by `ExecutorDiskUtils.getFilePath` of Spark 3.5.9.
    #[test]
    fn files_lie_where_spark_puts_them() {
        let dirs = |n: usize, subs| {
            let told: Vec<String> = (0..n).map(|i| format!("/nonexistent/d{i}")).collect();
            LocalDirs::resolve(&told, subs, &[]).expect("sound")
        };
        for line in include_str!("../../tests/data/paths-3.5.9.txt").lines() {
            let [n, subs, file, path] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("four words: {line}")
            };
            let dirs = dirs(n.parse().expect("count"), subs.parse().expect("count"));
            assert_eq!(dirs.path(file), Path::new(path), "{line}");
        }
    }

    #[test]
    fn directories_outside_the_roots_are_refused() {
        let root = tempfile::tempdir().expect("directory");
        let inside = root.path().canonicalize().expect("exists").join("in");
        std::fs::create_dir_all(inside.join("blockmgr-1")).expect("directory");
        std::os::unix::fs::symlink("/etc", inside.join("link")).expect("link");
        let roots = [inside.clone()];
        let resolve = |dir: &Path| {
            LocalDirs::resolve(&[dir.to_str().expect("UTF-8").to_owned()], 64, &roots).map(|_| ())
        };
        assert_eq!(resolve(&inside.join("blockmgr-1")), Ok(()));
        for outside in [Path::new("/etc"), &inside, &inside.join("link"), &inside.join("link/x")] {
            assert!(matches!(resolve(outside), Err(DirError::OutsideRoots(_))), "{}", outside.display());
        }
        for unsound in [inside.join("../in/blockmgr-1"), PathBuf::from("relative"), PathBuf::new()] {
            assert!(matches!(resolve(&unsound), Err(DirError::NotAbsolute(_))), "{}", unsound.display());
        }
    }

    #[test]
    fn what_a_registration_may_make_the_disk_do_is_bounded() {
        // What does not exist is refused for its shape all the same, ahead of what the disk would say.
        let roots = [PathBuf::from("/nonexistent/root")];
        let resolve = |told: &[String]| LocalDirs::resolve(told, 64, &roots).map(|_| ());
        let inside = |i: usize| format!("/nonexistent/root/blockmgr-{i}");
        let deep = |components: usize| format!("/nonexistent/root{}", "/d".repeat(components - 3));
        assert_eq!(resolve(&(0..128).map(inside).collect::<Vec<_>>()), Ok(()));
        assert_eq!(resolve(&(0..129).map(inside).collect::<Vec<_>>()), Err(DirError::Count(129)));
        assert_eq!(resolve(&[deep(64)]), Ok(()));
        let outside = "/nonexistent/elsewhere".to_owned();
        assert_eq!(resolve(&[outside, deep(65)]), Err(DirError::TooDeep(deep(65))));
    }

    #[test]
    fn no_link_is_followed() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path().canonicalize().expect("exists");
        std::fs::write(root.join("real"), "x").expect("write");
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("link");
        std::os::unix::fs::symlink(&root, root.join("dir")).expect("link");
        let open = |name: &str, look| open_file(&root.join(name), look).map(|opened| opened.bytes);
        for look in [Look::Disk, Look::Memory] {
            assert!(matches!(open("real", look), Ok(1)));
            assert!(open("link", look).is_err());
            assert!(open("dir/real", look).is_err());
            assert!(matches!(open("", look), Err(BlockError::Missing(_))));
        }
    }

    #[test]
    fn no_link_is_followed_where_newer_system_calls_are_refused() {
        bellows_testkit::on_older_machines(|| {
            let root = tempfile::tempdir().expect("directory");
            let root = root.path().canonicalize().expect("exists");
            std::fs::write(root.join("real"), "x").expect("write");
            std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("link");
            std::os::unix::fs::symlink(&root, root.join("dir")).expect("link");
            let open = |name: &str| open_file(&root.join(name), Look::Disk).map(|opened| opened.bytes);
            assert!(matches!(open("real"), Ok(1)));
            for linked in ["link", "dir/real"] {
                assert!(matches!(open(linked), Err(BlockError::Disk { .. })), "{linked}");
            }
            for missing in ["", "none", "none/real", "real/real"] {
                assert!(matches!(open(missing), Err(BlockError::Missing(_))), "{missing:?}");
            }
        });
    }
}
