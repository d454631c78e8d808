//! Deletes what applications leave behind: whole block directories, or one executor's private files. Waits for
//! disks: never called on a thread that serves. Symbolic links are removed, never followed. Only what belongs to the
//! user of a block directory goes with it: anything else was moved or linked there by somebody who may not delete it.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::config::KEEPER_DIR;

/// The name that Spark's `DiskBlockManager` gives the directories it makes. Nothing else is ever deleted whole.
const BLOCK_DIR_PREFIX: &str = "blockmgr-";
/// The name that Spark's `Worker` gives an application's directory.
const EXECUTOR_DIR_PREFIX: &str = "executor-";
/// Block directories are two deep; this leaves room and still ends.
const MAX_DEPTH: usize = 16;
/// A new executor's directory has at most its sub-directories in it.
const MAX_LOOKED_THROUGH: usize = 16 * 1024;

/// Directories that are to be deleted, each with the user whose files may go: where an earlier release did not note it,
/// the one whom the directory belongs to.
pub(crate) type Doomed = BTreeMap<PathBuf, Option<u32>>;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files and directories that stay because they are another user's, or lie too deep.
    pub(crate) left: u64,
}

/// Deletes a block directory and, when it was the last one in there, the application's directory above it, which
/// must itself lie below a root. What is not there is no error; that it is there still, is: an executor that has not
/// ended yet may write into it ([`io::ErrorKind::DirectoryNotEmpty`]).
///
/// Only files and directories of the user `owner` go. What is another's stays, and all above it.
pub(crate) fn remove_block_dir(dir: &Path, owner: Option<u32>, roots: &[PathBuf]) -> io::Result<Freed> {
    let name = dir.file_name().and_then(|name| name.to_str());
    let (Some(name), Some(parent)) = (name, dir.parent()) else { return Err(not_ours()) };
    let outside = !roots.is_empty() && !roots.iter().any(|root| dir.starts_with(root));
    if !is_block_dir(dir) || outside {
        return Err(not_ours());
    }
    let Some(parent_fd) = open_dir(parent)? else { return Ok(Freed::default()) };
    let mut freed = Freed::default();
    let mut owner = owner;
    if let Some(fd) = open_child(&parent_fd, name)? {
        let of = *owner.get_or_insert(rustix::fs::fstat(&fd)?.st_uid);
        clear(fd, of, &mut freed, 0, &|_| true)?;
        if freed.left > 0 {
            return Ok(freed);
        }
        match rustix::fs::unlinkat(&parent_fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let is_owners = owner == Some(rustix::fs::fstat(&parent_fd)?.st_uid);
    if is_owners && roots.iter().any(|root| parent != root && parent.starts_with(root)) {
        remove_if_empty(parent);
    }
    Ok(freed)
}

/// Finds block directories of applications that nobody remembers, and what could not be looked at:
/// `root/APPLICATION/blockmgr-*`, and a standalone worker's `root/WORKER/executor-*/blockmgr-*`, where no directory of
/// the application is registered and nothing below was written for `age`.
///
/// What lies directly below a root is left alone: a driver, which never registers, may have it. So is what has a keeper:
/// executors that use no shuffle service do not register either, and may run for weeks. So is what belongs to another
/// user than the directory that it lies in: that user may have moved it there.
pub(crate) fn orphans(
    root: &Path,
    age: Duration,
    now: SystemTime,
    is_registered: impl Fn(&Path) -> bool,
) -> (Doomed, Vec<(PathBuf, io::Error)>) {
    let (mut orphans, mut failed) = (Doomed::new(), Vec::new());
    let look_into = |dir: &Path, failed: &mut Vec<_>| {
        // What cannot be looked into keeps nobody from looking into the others.
        let found = sub_dirs(dir).unwrap_or_else(|error| {
            failed.push((dir.to_owned(), error));
            Vec::new()
        });
        if found.iter().any(|dir| dir.ends_with(KEEPER_DIR)) { Vec::new() } else { found }
    };
    let mut app_dirs = look_into(root, &mut failed);
    while let Some(app_dir) = app_dirs.pop() {
        let (block_dirs, others): (Vec<_>, Vec<_>) =
            look_into(&app_dir, &mut failed).into_iter().partition(|dir| is_block_dir(dir));
        if app_dir.parent() == Some(root) {
            app_dirs.extend(others.into_iter().filter(|dir| is_executors_dir(dir)));
        }
        if block_dirs.is_empty() || block_dirs.iter().any(|dir| is_registered(dir)) {
            continue;
        }
        match newest_change(&block_dirs) {
            Ok(newest) if is_older(newest, age, now) => match app_dir.symlink_metadata() {
                Ok(above) => orphans.extend(block_dirs.into_iter().map(|dir| (dir, Some(above.uid())))),
                Err(error) => failed.push((app_dir, error)),
            },
            Ok(_) => {}
            Err(error) => failed.push((app_dir, error)),
        }
    }
    (orphans, failed)
}

fn newest_change(dirs: &[PathBuf]) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for dir in dirs {
        newest = last_change(dir)?.map_or(newest, |change| newest.max(change));
    }
    Ok(newest)
}

pub(crate) fn is_block_dir(dir: &Path) -> bool {
    has_prefix(dir, BLOCK_DIR_PREFIX)
}

/// Whether the name is that of a directory that a standalone worker makes for the executors of one application.
pub(crate) fn is_executors_dir(dir: &Path) -> bool {
    has_prefix(dir, EXECUTOR_DIR_PREFIX)
}

fn has_prefix(dir: &Path, prefix: &str) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.len() > prefix.len() && name.starts_with(prefix))
}

fn sub_dirs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(fd) = open_dir(dir)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries(&fd)? {
        let entry = entry?;
        if entry.file_type() == FileType::Directory && !is_dot(entry.file_name()) {
            found.push(dir.join(OsStr::from_bytes(entry.file_name().to_bytes())));
        }
    }
    Ok(found)
}

/// Lists an open directory. One that was deleted since it was opened has no entries: others delete, too.
fn entries(dir: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<DirEntry>> + use<>> {
    let listed = match Dir::read_from(dir) {
        Err(Errno::NOENT) => None,
        opened => Some(opened?),
    };
    let deleted = |entry: &Result<_, Errno>| matches!(entry, Err(Errno::NOENT));
    let entries = listed.into_iter().flatten().take_while(move |entry| !deleted(entry));
    Ok(entries.map(|entry| entry.map_err(io::Error::from)))
}

/// When the directory or anything in it was last written; nothing when it is gone.
pub(crate) fn last_change(dir: &Path) -> io::Result<Option<SystemTime>> {
    open_dir(dir)?.map(|fd| last_change_in(fd, 0)).transpose()
}

/// When the directory itself was last written; nothing when it is gone.
pub(crate) fn own_change(dir: &Path) -> io::Result<Option<SystemTime>> {
    open_dir(dir)?.map(|fd| Ok(modified(&rustix::fs::fstat(fd)?))).transpose()
}

pub(crate) fn is_older(change: SystemTime, age: Duration, now: SystemTime) -> bool {
    now.duration_since(change).is_ok_and(|since| since > age)
}

fn last_change_in(dir: OwnedFd, depth: usize) -> io::Result<SystemTime> {
    let mut newest = modified(&rustix::fs::fstat(&dir)?);
    for entry in entries(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) || depth > MAX_DEPTH {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            if let Some(child) = open_child(&dir, name)? {
                newest = newest.max(last_change_in(child, depth + 1)?);
            }
        } else if let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            newest = newest.max(modified(&stat));
        }
    }
    Ok(newest)
}

fn modified(stat: &rustix::fs::Stat) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0))
}

/// Deletes what only the executor itself could have read from its directory: everything but shuffle files, and
/// cached blocks where they are served. Only files of the user `owner` go.
pub(crate) fn remove_private_files(
    dir: &Path,
    owner: Option<u32>,
    keep_rdd_blocks: bool,
) -> io::Result<Freed> {
    let mut freed = Freed::default();
    if let Some(fd) = open_dir(dir)? {
        let owner = owner.map_or_else(|| rustix::fs::fstat(&fd).map(|stat| stat.st_uid), Ok)?;
        clear(fd, owner, &mut freed, 0, &|name| !is_served(name, keep_rdd_blocks))?;
    }
    Ok(freed)
}

/// Whether there is any file in a directory or those in it. What is too large to be looked through has some.
pub(crate) fn holds_files(dir: &Path) -> io::Result<bool> {
    let Some(fd) = open_dir(dir)? else { return Ok(false) };
    let mut left = MAX_LOOKED_THROUGH;
    holds_files_in(fd, 0, &mut left)
}

fn holds_files_in(dir: OwnedFd, depth: usize, left: &mut usize) -> io::Result<bool> {
    for entry in entries(&dir)? {
        let entry = entry?;
        if is_dot(entry.file_name()) {
            continue;
        }
        let Some(one_less) = left.checked_sub(1).filter(|_| depth < MAX_DEPTH) else { return Ok(true) };
        *left = one_less;
        if entry.file_type() != FileType::Directory {
            return Ok(true);
        }
        if let Some(child) = open_child(&dir, entry.file_name())?
            && holds_files_in(child, depth + 1, left)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes one regular file if it and its directory are the user `owner`'s; false when there was none.
pub(crate) fn remove_file(path: &Path, owner: Option<u32>) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    let Some(parent) = open_dir(parent)? else { return Ok(false) };
    let is_owners = |stat: &rustix::fs::Stat| owner.is_none_or(|owner| owner == stat.st_uid);
    if !is_owners(&rustix::fs::fstat(&parent)?) {
        return Ok(false);
    }
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && is_owners(&stat) => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Bytes of all files below.
pub(crate) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    match open_dir(dir)? {
        Some(fd) => count(fd, 0),
        None => Ok(0),
    }
}

/// A finished shuffle file (not one that was being written), or a cached block.
fn is_served(name: &[u8], keep_rdd_blocks: bool) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    if let Some(rest) = name.strip_prefix("shuffle_") {
        let suffix = rest.split_once('.').map_or("", |(_, suffix)| suffix);
        return match suffix.strip_prefix("checksum.") {
            Some(algorithm) => !algorithm.contains('.'),
            None => suffix == "data" || suffix == "index",
        };
    }
    keep_rdd_blocks && name.starts_with("rdd_")
}

/// Deletes the files of `dir` that `doomed` picks by name, and the directories that this leaves empty, as far as they
/// are the user `owner`'s. Whether `dir` itself is.
fn clear(
    dir: OwnedFd,
    owner: u32,
    freed: &mut Freed,
    depth: usize,
    doomed: &dyn Fn(&[u8]) -> bool,
) -> io::Result<bool> {
    if depth > MAX_DEPTH || rustix::fs::fstat(&dir)?.st_uid != owner {
        freed.left += 1;
        return Ok(false);
    }
    for entry in entries(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            if let Some(child) = open_child(&dir, name)?
                && clear(child, owner, freed, depth + 1, doomed)?
            {
                remove_empty(&dir, name)?;
            }
        } else if doomed(name.to_bytes()) {
            clear_file(&dir, name, owner, freed)?;
        }
    }
    Ok(true)
}

fn clear_file(dir: &OwnedFd, name: &CStr, owner: u32, freed: &mut Freed) -> io::Result<()> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    if stat.st_uid != owner {
        freed.left += 1;
        return Ok(());
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => {
            freed.files += 1;
            freed.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn count(dir: OwnedFd, depth: usize) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in entries(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) || depth > MAX_DEPTH {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            if let Some(child) = open_child(&dir, name)? {
                bytes += count(child, depth + 1)?;
            }
        } else {
            bytes += size(&dir, name)?;
        }
    }
    Ok(bytes)
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn size(dir: &OwnedFd, name: &CStr) -> io::Result<u64> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(u64::try_from(stat.st_size).unwrap_or(0)),
        Err(Errno::NOENT) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// An executor may still be writing into it; then it stays.
fn remove_empty(dir: &OwnedFd, name: impl rustix::path::Arg) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn remove_if_empty(dir: &Path) {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return };
    if let Ok(Some(parent)) = open_dir(parent)
        && let Err(error) = remove_empty(&parent, name)
    {
        tracing::warn!(dir = %dir.display(), %error, "emptied directory stays");
    }
}

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_dir(path: &Path) -> io::Result<Option<OwnedFd>> {
    found(bellows_syscall::open_without_symlinks(path, OPEN_DIR, false))
}

fn open_child(dir: &OwnedFd, name: impl rustix::path::Arg) -> io::Result<Option<OwnedFd>> {
    let dir: BorrowedFd<'_> = rustix::fd::AsFd::as_fd(dir);
    found(rustix::fs::openat(dir, name, OPEN_DIR | OFlags::NOFOLLOW, Mode::empty()))
}

fn found(opened: Result<OwnedFd, Errno>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn not_ours() -> io::Error {
    io::Error::other(format!("not named {BLOCK_DIR_PREFIX}*, or outside of the roots, so it is not deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Tree {
        root: tempfile::TempDir,
    }

    impl Tree {
        fn new(files: &[&str]) -> Tree {
            let tree = Tree { root: tempfile::tempdir().expect("directory") };
            for file in files {
                let path = tree.path().join(file);
                fs::create_dir_all(path.parent().expect("parent")).expect("directory");
                fs::write(path, "12345").expect("file");
            }
            tree
        }

        fn path(&self) -> PathBuf {
            self.root.path().canonicalize().expect("exists")
        }

        fn has(&self, file: &str) -> bool {
            self.path().join(file).symlink_metadata().is_ok()
        }
    }

    #[test]
    fn a_block_directory_goes_with_the_emptied_directory_above_but_not_the_root() {
        let tree = Tree::new(&["app/blockmgr-1/00/shuffle_0_0_0.data", "app/blockmgr-2/x", "blockmgr-3/y"]);
        let roots = [tree.path()];
        let freed = remove_block_dir(&tree.path().join("app/blockmgr-1"), None, &roots).expect("removed");
        assert_eq!(freed, Freed { files: 1, bytes: 5, left: 0 });
        assert!(tree.has("app/blockmgr-2/x"));
        remove_block_dir(&tree.path().join("app/blockmgr-2"), None, &roots).expect("removed");
        assert!(!tree.has("app"));
        remove_block_dir(&tree.path().join("blockmgr-3"), None, &roots).expect("removed");
        assert!(tree.path().exists());
        assert_eq!(
            remove_block_dir(&tree.path().join("blockmgr-3"), None, &roots).expect("idempotent"),
            Freed::default()
        );
    }

    #[test]
    fn a_directory_that_is_still_written_to_is_not_taken_for_deleted() {
        for _ in 0..20 {
            let tree = Tree::new(&["app/blockmgr-1/00/x"]);
            let dir = tree.path().join("app/blockmgr-1");
            let files = dir.join("00");
            let writes = move || (0..500).try_for_each(|i| fs::write(files.join(i.to_string()), "12345"));
            let writer = std::thread::spawn(writes);
            loop {
                match remove_block_dir(&dir, None, &[]) {
                    Ok(_) => break assert!(!dir.exists()),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty),
                }
            }
            drop(writer.join().expect("ends"));
        }
    }

    #[test]
    fn orphans_are_old_forgotten_and_in_an_applications_directory() {
        let tree = Tree::new(&[
            "old/blockmgr-1/00/x",
            "old/other/y",
            "known/blockmgr-2/x",
            "known/blockmgr-3/x",
            "blockmgr-4/x",
            "spark-1/executor-1/blockmgr-5/x",
            "spark-1/executor-2/blockmgr-6/x",
            "spark-1/work/blockmgr-7/x",
            "kept/.bellows/lock",
            "kept/blockmgr-8/x",
            "kept/executor-1/blockmgr-9/x",
        ]);
        let (root, age) = (tree.path(), Duration::from_secs(3600));
        let known = ["known/blockmgr-2", "spark-1/executor-2/blockmgr-6"].map(|dir| root.join(dir));
        let find = |after: u64| {
            let now = SystemTime::now() + Duration::from_secs(after);
            let (found, failed) = orphans(&root, age, now, |dir| known.iter().any(|known| dir == known));
            assert!(failed.is_empty(), "{failed:?}");
            found.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(find(1800), Vec::<PathBuf>::new());
        let old = ["old/blockmgr-1", "spark-1/executor-1/blockmgr-5"].map(|dir| root.join(dir));
        assert_eq!(find(7200), old);
        fs::create_dir(root.join(KEEPER_DIR)).expect("directory");
        assert_eq!(find(7200), Vec::<PathBuf>::new());
    }

    #[test]
    fn one_directory_that_cannot_be_read_hides_no_orphan() {
        let tree = Tree::new(&[]);
        // So deep that the path of a child with a long name is too long, which stops root too.
        let mut root = tree.path();
        while root.as_os_str().len() < 3990 {
            root.push("d".repeat(200.min(3998 - root.as_os_str().len())));
        }
        for app in ["a", "c"] {
            fs::create_dir_all(root.join(app).join("blockmgr-1")).expect("directory");
        }
        let bad = "b".repeat(200);
        let bad_dir = open_dir(&root).expect("opens").expect("there");
        rustix::fs::mkdirat(&bad_dir, bad.as_str(), Mode::RWXU).expect("made");
        let later = SystemTime::now() + Duration::from_secs(7200);
        let (found, failed) = orphans(&root, Duration::from_secs(3600), later, |_| false);
        assert_eq!(found.len(), 2);
        assert!(matches!(&failed[..], [(dir, _)] if *dir == root.join(bad)), "{failed:?}");
    }

    #[test]
    fn only_block_directories_are_deleted() {
        let tree = Tree::new(&["home/file"]);
        assert!(remove_block_dir(&tree.path().join("home"), None, &[]).is_err());
        assert!(remove_block_dir(Path::new("/"), None, &[]).is_err());
        assert!(tree.has("home/file"));
    }

    #[test]
    fn links_are_removed_not_followed() {
        let tree = Tree::new(&["app/blockmgr-1/00/x", "precious/file", "other/blockmgr-9/file"]);
        let link = |to: &str, from: &str| {
            std::os::unix::fs::symlink(tree.path().join(to), tree.path().join(from)).expect("link");
        };
        link("precious", "app/blockmgr-1/00/dir");
        link("precious/file", "app/blockmgr-1/00/file");
        link("other", "way");
        link("other/blockmgr-9", "app/blockmgr-2");
        remove_block_dir(&tree.path().join("app/blockmgr-1"), None, &[]).expect("removed");
        assert!(!tree.has("app/blockmgr-1") && tree.has("precious/file"));
        assert!(remove_block_dir(&tree.path().join("way/blockmgr-9"), None, &[]).is_err());
        let _ = remove_block_dir(&tree.path().join("app/blockmgr-2"), None, &[]);
        assert!(tree.has("other/blockmgr-9/file"));
    }

    /// Whoever was renamed or linked into a block directory may not lose anything by it.
    #[test]
    fn what_is_another_users_stays() {
        let tree = Tree::new(&["app/blockmgr-1/00/own", "app/blockmgr-2/00/x", "app/blockmgr-2/y"]);
        let [own, moved] = ["app/blockmgr-1", "app/blockmgr-2"].map(|dir| tree.path().join(dir));
        let user = rustix::process::geteuid().as_raw();
        // As if it had been another user's directory that was registered, and this one moved into its place.
        let freed = remove_block_dir(&moved, Some(user + 1), &[]).expect("looked at");
        assert_eq!(freed, Freed { left: 1, ..Freed::default() });
        assert_eq!(remove_private_files(&moved, Some(user + 1), false).expect("looked at").files, 0);
        assert!(!remove_file(&moved.join("y"), Some(user + 1)).expect("looked at"));
        assert!(tree.has("app/blockmgr-2/00/x") && tree.has("app/blockmgr-2/y"));
        if user != 0 {
            return;
        }
        let give = |path: &str| {
            std::os::unix::fs::chown(tree.path().join(path), Some(65_534), None).expect("root may");
        };
        fs::create_dir_all(own.join("01")).expect("directory");
        fs::write(own.join("01/theirs"), "12345").expect("file");
        fs::create_dir_all(own.join("02")).expect("directory");
        give("app/blockmgr-1/01/theirs");
        give("app/blockmgr-1/02");
        assert!(!remove_file(&own.join("01/theirs"), Some(0)).expect("looked at"));
        let freed = remove_block_dir(&own, Some(0), &[]).expect("looked at");
        assert_eq!(freed, Freed { files: 1, bytes: 5, left: 2 });
        assert!(tree.has("app/blockmgr-1/01/theirs") && tree.has("app/blockmgr-1/02"));
        assert!(!tree.has("app/blockmgr-1/00"));
        give("app/blockmgr-2");
        let later = SystemTime::now() + Duration::from_secs(7200);
        let (found, _) = orphans(&tree.path(), Duration::from_secs(3600), later, |_| false);
        for (dir, owner) in found {
            drop(remove_block_dir(&dir, owner, &[]));
        }
        assert!(tree.has("app/blockmgr-2/y"));
    }

    #[test]
    fn an_executors_private_files_go_and_what_is_served_stays() {
        let served = ["shuffle_0_1_0.data", "shuffle_0_1_0.index", "shuffle_0_1_0.checksum.ADLER32"];
        let private = [
            "temp_shuffle_8b1c",
            "temp_local_77",
            "broadcast_3",
            "shuffle_0_2_0.data.5f2a",
            "shuffle_0_2_0.index.77",
            "shuffle_0_2_0.checksum.ADLER32.9a",
            "rdd_1_2",
            "taskresult_4",
        ];
        let files: Vec<String> = served
            .iter()
            .chain(&private)
            .enumerate()
            .map(|(i, f)| format!("blockmgr-1/{i:02x}/{f}"))
            .collect();
        let tree = Tree::new(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let freed = remove_private_files(&tree.path().join("blockmgr-1"), None, false).expect("removed");
        assert_eq!(freed.files, private.len() as u64);
        for file in &files {
            assert_eq!(tree.has(file), served.iter().any(|s| file.ends_with(s)), "{file}");
        }
        assert_eq!(disk_bytes(&tree.path().join("blockmgr-1")).expect("counted"), 15);
    }

    #[test]
    fn a_directory_that_others_delete_meanwhile_is_no_error() {
        let tree = Tree::new(&["app/blockmgr-1/x"]);
        let dir = tree.path().join("app/blockmgr-1");
        let open = || open_dir(&dir).expect("opened").expect("there");
        let (counted, looked_at, listed) = (open(), open(), open());
        std::fs::remove_dir_all(tree.path().join("app")).expect("deleted");
        assert_eq!(count(counted, 0).expect("counted"), 0);
        last_change_in(looked_at, 0).expect("looked at");
        assert_eq!(entries(&listed).expect("listed").count(), 0);
    }

    #[test]
    fn cached_blocks_stay_where_they_are_served() {
        let tree = Tree::new(&["blockmgr-1/00/rdd_1_2", "blockmgr-1/00/temp_local_1"]);
        remove_private_files(&tree.path().join("blockmgr-1"), None, true).expect("removed");
        assert!(tree.has("blockmgr-1/00/rdd_1_2") && !tree.has("blockmgr-1/00/temp_local_1"));
    }

    #[test]
    fn the_same_where_newer_system_calls_are_refused() {
        bellows_testkit::on_older_machines(|| {
            a_block_directory_goes_with_the_emptied_directory_above_but_not_the_root();
            links_are_removed_not_followed();
            an_executors_private_files_go_and_what_is_served_stays();
        });
    }
}
