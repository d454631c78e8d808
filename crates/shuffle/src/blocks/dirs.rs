//! An executor's local directories, and which of them holds a file of a given name (`ExecutorDiskUtils.java`).
//!
//! A directory is resolved once, when it is registered. From then on it is opened without following any symbolic
//! link on the way, so that what is read lies where it was registered whatever happens to the path meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bellows_syscall::open_without_symlinks;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::{BlockError, Look, Source};
use crate::config::KEEPER_DIR;
use crate::disks::{RUN_AS, is_refusal};
use crate::keeper::{self, Keeping};
use crate::tidy;

/// An executor has one on each disk.
const MAX_DIRS: usize = 128;
/// Each is looked up on disk; what Spark and its cluster managers make is not ten deep.
const MAX_COMPONENTS: usize = 64;
/// Spark's default is 64 (`spark.diskStore.subDirectories`).
const MAX_SUB_DIRS: i32 = 10_000;

/// Why an executor's directories are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DirError {
    #[error("{0} is not an absolute path without '..' and control characters")]
    NotAbsolute(String),
    #[error("{0} has more than {MAX_COMPONENTS} components")]
    TooDeep(String),
    #[error("{0} is not a directory of blocks as executors make them (blockmgr-*)")]
    NotOfBlocks(String),
    #[error("{0} is not below a directory that this service may read")]
    OutsideRoots(String),
    #[error("{0} is not there, or is no directory")]
    NotThere(String),
    #[error(
        "{0} lies where the agent keeps the directories of frameworks, and not in that of this application"
    )]
    OthersFramework(String),
    #[error("{0} may not be looked at by this service's user: {1}; {run_as}", run_as = RUN_AS)]
    NoAccess(String, String),
    #[error("{dir} belongs to user {owner}, where user {expected} is the one who writes")]
    Owner { dir: String, owner: u32, expected: u32 },
    #[error("{0} local directories; 1 to {MAX_DIRS} are taken")]
    Count(usize),
    #[error("{0} sub-directories per local directory; 1 to {MAX_SUB_DIRS} are taken")]
    SubDirs(i32),
}

/// Why a directory that an executor names is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error(transparent)]
    Refused(#[from] DirError),
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
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
    /// Whether it held files when it was found.
    held_files: bool,
    /// Its user, where it was looked for.
    owner: Option<u32>,
}

impl Clone for LocalDir {
    fn clone(&self) -> LocalDir {
        let local = AtomicBool::new(self.is_local());
        LocalDir { real: self.real.clone(), told: self.told.clone(), local, ..*self }
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

    /// Restores a directory that was looked at when it was registered.
    pub(crate) fn stored(told: String, real: PathBuf, owner: Option<u32>, held_files: bool) -> LocalDir {
        let told = (real.as_os_str() != told.as_str()).then(|| told.into());
        LocalDir { real: real.into(), told, local: AtomicBool::new(false), held_files, owner }
    }

    pub(crate) fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// Whether it held files when its executor named it. An executor registers before it writes: they are not its own.
    pub(crate) fn held_files(&self) -> bool {
        self.held_files
    }

    /// Whether its files may be looked for in memory by the threads that serve.
    pub(crate) fn is_local(&self) -> bool {
        self.local.load(Relaxed)
    }

    /// What a file that was opened there says of all.
    pub(crate) fn learn(&self, file: &Source) {
        self.local.store(file.is_local(), Relaxed);
    }

    /// Checks the path alone, without a look at a disk.
    pub(crate) fn check(told: &str) -> Result<(), DirError> {
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
        let of_blocks = path.ancestors().filter(|path| tidy::is_block_dir(path)).count();
        if of_blocks != 1 || !tidy::is_block_dir(path) || path.iter().any(|name| name == KEEPER_DIR) {
            return Err(DirError::NotOfBlocks(told.to_owned()));
        }
        Ok(())
    }

    /// Looks at a path that was checked: not for the threads that serve. `service_user` runs this service.
    pub(crate) fn find(
        told: &str,
        app: &str,
        roots: &[PathBuf],
        service_user: u32,
    ) -> Result<LocalDir, FindError> {
        let (path, refused) = (Path::new(told), |of: fn(String) -> DirError| of(told.to_owned()).into());
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => refused(DirError::NotThere),
            io::ErrorKind::PermissionDenied => DirError::NoAccess(told.to_owned(), source.to_string()).into(),
            // Its length and its links are the doing of whoever names it.
            _ if is_refusal(&source) => refused(DirError::NotThere),
            _ => FindError::Disk { path: path.to_owned(), source },
        };
        // The last component is not resolved: what Spark makes is no link.
        let above = path.parent().expect("invariant: it was checked").canonicalize().map_err(failed)?;
        let real = above.join(path.file_name().expect("invariant: it was checked"));
        LocalDir::check(&real.to_string_lossy())?;
        let root = roots.iter().find(|root| real.starts_with(root));
        if root.is_none() && !roots.is_empty() {
            return Err(refused(DirError::OutsideRoots));
        }
        let metadata = real.symlink_metadata().map_err(failed)?;
        if !metadata.is_dir() {
            return Err(refused(DirError::NotThere));
        }
        let keeping = keeper::keeps(&real, root.map(PathBuf::as_path), app, service_user).map_err(failed)?;
        let given_to = match keeping {
            Keeping::NotOfApplication => return Err(refused(DirError::OthersFramework)),
            Keeping::OfApplication(user) => user,
            Keeping::NoAgent => None,
        };
        let owner = metadata.uid();
        let mut expected = (service_user != 0).then_some(service_user).or(given_to);
        if keeping != Keeping::NoAgent || tidy::is_executors_dir(&above) {
            expected = expected.or(Some(above.symlink_metadata().map_err(failed)?.uid()));
        }
        if let Some(expected) = expected.filter(|expected| *expected != owner) {
            return Err(DirError::Owner { dir: told.to_owned(), owner, expected }.into());
        }
        let held_files = tidy::holds_files(&real).map_err(failed)?;
        Ok(LocalDir::stored(told.to_owned(), real, Some(owner), held_files))
    }
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

    /// Takes directories unseen (tests, fuzzing).
    pub(crate) fn unseen(told: &[String], sub_dirs: u32) -> LocalDirs {
        let dirs = told.iter().map(|dir| LocalDir::stored(dir.clone(), dir.into(), None, false)).collect();
        LocalDirs { dirs, sub_dirs }
    }

    /// Takes directories that were looked at; `None` when there are none.
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

    /// Returns where the executor puts a file of this name, and in which of the directories that is.
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

/// Opens a regular file of the user `owner`, where known, for reading; a symbolic link anywhere on the way is refused.
/// Another user's file was moved or linked there by somebody who may not read it.
pub(super) fn open_file(path: &Path, owner: Option<u32>, look: Look) -> Result<Opened, BlockError> {
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
    if owner.is_some_and(|owner| owner != stat.st_uid) {
        return Err(BlockError::AnothersFile { path: path.to_owned(), owner: stat.st_uid });
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
            LocalDirs::unseen(&told, subs)
        };
        for line in include_str!("../../tests/data/paths-3.5.9.txt").lines() {
            let [n, subs, file, path] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("four words: {line}")
            };
            let dirs = dirs(n.parse().expect("count"), subs.parse().expect("count"));
            assert_eq!(dirs.path(file), Path::new(path), "{line}");
        }
    }

    struct Scene {
        _dir: tempfile::TempDir,
        root: PathBuf,
        user: u32,
    }

    impl Scene {
        fn new() -> Scene {
            let dir = tempfile::tempdir().expect("directory");
            let root = dir.path().canonicalize().expect("exists").join("root");
            let user = rustix::process::geteuid().as_raw();
            Scene { _dir: dir, root, user }
        }

        fn make(&self, name: &str) -> PathBuf {
            let path = self.root.join(name);
            std::fs::create_dir_all(&path).expect("directory");
            path
        }

        fn find(&self, dir: &Path, app: &str) -> Result<LocalDir, String> {
            let told = dir.to_str().expect("UTF-8");
            LocalDirs::check(&[told.to_owned()], 64).map_err(|e| e.to_string())?;
            LocalDir::find(told, app, std::slice::from_ref(&self.root), self.user).map_err(|e| e.to_string())
        }

        fn refused(&self, name: &str, app: &str) -> String {
            self.find(&self.root.join(name), app).map(|_| ()).expect_err(name)
        }
    }

    #[test]
    fn only_leaves_that_executors_make_below_the_roots_are_taken() {
        let scene = Scene::new();
        let inside = scene.make("app/blockmgr-1");
        scene.make("app/blockmgr-1/00/blockmgr-2");
        scene.make("../elsewhere/blockmgr-3");
        std::fs::write(scene.root.join("app/blockmgr-4"), "").expect("file");
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(scene.root.join(to), scene.root.join(name)).expect("link");
        };
        link("../elsewhere", "link");
        link("app", "alias");
        link("app/blockmgr-1", "app/blockmgr-5");
        let found = scene.find(&inside, "a").expect("an executor's");
        assert_eq!((&**found.real(), found.owner(), found.held_files()), (&*inside, Some(scene.user), false));
        let alias = scene.find(&scene.root.join("alias/blockmgr-1"), "a").expect("the same");
        assert_eq!(
            (&**alias.real(), alias.told()),
            (&*inside, scene.root.join("alias/blockmgr-1").to_str().expect("UTF-8"))
        );
        for (name, why) in [
            ("", "blockmgr-*"),
            ("app", "blockmgr-*"),
            ("app/blockmgr-", "blockmgr-*"),
            ("app/blockmgr-1/00", "blockmgr-*"),
            ("app/blockmgr-1/00/blockmgr-2", "blockmgr-*"),
            (".bellows/blockmgr-6", "blockmgr-*"),
            ("app/../app/blockmgr-1", "absolute path"),
            ("app/blockmgr-4", "no directory"),
            ("app/blockmgr-5", "no directory"),
            ("app/blockmgr-7", "is not there"),
            ("link/blockmgr-3", "is not below"),
            ("link/blockmgr-8", "is not below"),
        ] {
            let refused = scene.refused(name, "a");
            assert!(refused.contains(why), "{name}: {refused}");
        }
        for unsound in ["/", "", "relative/blockmgr-1", "/etc/blockmgr-\n1"] {
            scene.find(Path::new(unsound), "a").map(|_| ()).expect_err(unsound);
        }
    }

    #[test]
    fn below_an_agents_root_only_the_applications_own_directory_is_taken() {
        let scene = Scene::new();
        for name in
            [".bellows/frameworks", "F-1/blockmgr-1", "F-2/blockmgr-1", "F-1/deeper/blockmgr-1", "blockmgr-1"]
        {
            scene.make(name);
        }
        for id in ["F-1", "F-2"] {
            std::fs::write(scene.root.join(".bellows/frameworks").join(id), "").expect("file");
        }
        scene.make("bellows-x/blockmgr-1");
        let ledger = scene.root.join(".bellows/frameworks");
        let entry = |uid| format!(r#"{{"framework":"F-4","uid":{uid},"made":{{"Inode":7}}}}"#);
        std::fs::write(ledger.join("bellows-x"), entry(scene.user)).expect("file");
        std::fs::write(ledger.join("bellows-y"), entry(scene.user + 1)).expect("file");
        scene.make("bellows-y/blockmgr-1");
        scene.find(&scene.root.join("F-1/blockmgr-1"), "F-1").expect("its own");
        scene.find(&scene.root.join("bellows-x/blockmgr-1"), "F-4").expect("its own");
        if scene.user == 0 {
            let refused = scene.refused("bellows-y/blockmgr-1", "F-4");
            assert!(refused.contains("belongs to user 0"), "it was given to another user: {refused}");
        }
        for (name, app) in [
            ("F-2/blockmgr-1", "F-1"),
            ("bellows-x/blockmgr-1", "bellows-x"),
            ("bellows-x/blockmgr-1", "F-1"),
            ("F-1/blockmgr-1", "F-3"),
            ("F-1/blockmgr-1", "../frameworks/F-1"),
            ("F-1/deeper/blockmgr-1", "F-1"),
            ("blockmgr-1", "F-1"),
        ] {
            let refused = scene.refused(name, app);
            assert!(refused.contains("the agent keeps"), "{name} of {app}: {refused}");
        }
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let mut scene = Scene::new();
        let standalone = scene.make("spark-1/executor-1/blockmgr-1");
        scene.find(&standalone, "a").expect("of the user whom all above is of");
        if scene.user == 0 {
            let another = rustix::fs::Uid::from_raw(65_534);
            rustix::fs::chown(&standalone, Some(another), None).expect("root may");
            assert!(scene.refused("spark-1/executor-1/blockmgr-1", "a").contains("belongs to user 65534"));
            rustix::fs::chown(&standalone, Some(rustix::fs::Uid::ROOT), None).expect("root may");
        }
        // As if this service were another's.
        scene.user += 1;
        assert!(scene.refused("spark-1/executor-1/blockmgr-1", "a").contains("belongs to user"));
    }

    #[test]
    fn a_path_that_its_registrant_made_unusable_is_no_fault_of_a_disk() {
        let scene = Scene::new();
        scene.make("app");
        std::os::unix::fs::symlink("loop", scene.root.join("app/loop")).expect("link");
        for name in ["app/loop/blockmgr-1".to_owned(), format!("app/blockmgr-{}", "x".repeat(300))] {
            let told = scene.root.join(&name);
            let told = told.to_str().expect("UTF-8");
            let found = LocalDir::find(told, "a", std::slice::from_ref(&scene.root), scene.user);
            assert!(matches!(found, Err(FindError::Refused(DirError::NotThere(_)))), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_not_served() {
        let scene = Scene::new();
        let file = scene.make("app").join("file");
        std::fs::write(&file, "secret").expect("file");
        for look in [Look::Disk, Look::Memory] {
            assert!(open_file(&file, Some(scene.user), look).is_ok());
            let refused = open_file(&file, Some(scene.user + 1), look);
            assert!(matches!(refused, Err(BlockError::AnothersFile { .. })), "{refused:?}");
        }
    }

    #[test]
    fn what_is_there_before_its_registrant_is_noticed() {
        let scene = Scene::new();
        let dir = scene.make("app/blockmgr-1");
        scene.make("app/blockmgr-1/00");
        assert!(!scene.find(&dir, "a").expect("there").held_files());
        std::fs::write(dir.join("00/shuffle_0_0_0.data"), "1").expect("file");
        assert!(scene.find(&dir, "a").expect("there").held_files());
    }

    #[test]
    fn what_a_registration_may_make_the_disk_do_is_bounded() {
        let check = |told: &[String], sub_dirs| LocalDirs::check(told, sub_dirs).map(drop);
        let inside = |i: usize| format!("/nonexistent/root/blockmgr-{i}");
        let deep = |components: usize| format!("/nonexistent{}/blockmgr-1", "/d".repeat(components - 3));
        assert_eq!(check(&(0..128).map(inside).collect::<Vec<_>>(), 64), Ok(()));
        assert_eq!(check(&(0..129).map(inside).collect::<Vec<_>>(), 64), Err(DirError::Count(129)));
        assert_eq!(check(&[deep(64)], 10_000), Ok(()));
        assert_eq!(check(&[inside(1), deep(65)], 64), Err(DirError::TooDeep(deep(65))));
        for sub_dirs in [i32::MIN, 0, 10_001] {
            assert_eq!(check(&[inside(1)], sub_dirs), Err(DirError::SubDirs(sub_dirs)));
        }
    }

    #[test]
    fn no_link_is_followed() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path().canonicalize().expect("exists");
        std::fs::write(root.join("real"), "x").expect("write");
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("link");
        std::os::unix::fs::symlink(&root, root.join("dir")).expect("link");
        let open = |name: &str, look| open_file(&root.join(name), None, look).map(|opened| opened.bytes);
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
            let open = |name: &str| open_file(&root.join(name), None, Look::Disk).map(|opened| opened.bytes);
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
