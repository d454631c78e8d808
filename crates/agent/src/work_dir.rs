//! The directory that an agent keeps itself in. One agent each: a second one is turned away.
use crate::Error;
use bellows_containment::{OPEN_DIR, PASSAGE_DIR, PRIVATE_DIR, make_dirs, own_dir};
use bellows_shuffle::mount_point;
use rustix::{
    fs::{
        Access, AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, access, flock, fstat, openat,
        statat, statvfs, unlinkat,
    },
    process::geteuid,
};
use std::{
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Holds the sandboxes, as Mesos names it.
pub(crate) const SANDBOXES: &str = "slaves";

pub(crate) struct WorkDir {
    pub(crate) path: PathBuf,
    pub(crate) meta: PathBuf,
    /// Where its disk is mounted, and the device that is there.
    mount: PathBuf,
    device: u64,
    lock: Mutex<Lock>,
}

impl WorkDir {
    /// Opens the directory. What is missing is made so that tasks of other users pass through to their sandboxes, and nobody else lists what
    /// is there. A directory that exists keeps its mode.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        make_dirs(path, PASSAGE_DIR).map_err(Error::io(path))?;
        let path = path.canonicalize().map_err(Error::io(path))?;
        let meta = path.join("meta");
        make_own(&path, &meta)?;
        let lock = Mutex::new(lock(&meta.join("lock"), &path)?);
        let mount = mount_point(&path);
        let device = mount.metadata().map_err(Error::io(&mount))?.dev();
        Ok(Self { mount, device, path, meta, lock })
    }

    /// Looks whether the directory can still be used, and makes again what of it somebody has deleted. `was_out`: it could
    /// not when it was last looked at. Blocks.
    pub(crate) fn look(&self, was_out: bool) -> Result<(), String> {
        let mount = mount_point(&self.path);
        if mount != self.mount {
            return Err(match self.mount.starts_with(&mount) {
                true => format!("nothing is mounted at {} any more", self.mount.display()),
                false => format!(
                    "another disk is mounted at {} since the agent was started: restart the agent",
                    mount.display()
                ),
            });
        }
        let there = mount.metadata().map_err(|error| format!("{}: {error}", mount.display()))?;
        if there.dev() != self.device {
            let mount = mount.display();
            return Err(format!(
                "another disk is mounted at {mount} since the agent was started: restart the agent"
            ));
        }
        self.restore().map_err(|error| error.to_string())?;
        let looked = if was_out { probe(&self.meta) } else { look(&self.meta) };
        looked.map_err(|error| format!("{}: {error}", self.meta.display()))
    }

    fn restore(&self) -> Result<(), Error> {
        make_dirs(&self.path, PASSAGE_DIR).map_err(Error::io(&self.path))?;
        make_own(&self.path, &self.meta)?;
        let path = self.meta.join("lock");
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.0.metadata().map_err(Error::io(&path))?;
        if path.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
            return Ok(());
        }
        tracing::warn!(path = %self.path.display(), "the work directory was emptied: what can be is made again");
        *held = lock(&path, &self.path)?;
        Ok(())
    }

    /// Where the fetcher keeps its cache: nobody else has access.
    pub(crate) fn fetch_cache(&self) -> PathBuf {
        self.meta.join("fetch")
    }

    /// Deletes what an earlier release's fetcher has cached beside the sandboxes, and nothing else that is there.
    pub(crate) fn discard_earlier_cache(&self) {
        let path = self.path.join("fetch");
        let ours = geteuid().as_raw();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(dir) = openat(CWD, &path, flags, Mode::empty()) else { return };
        if !fstat(&dir).is_ok_and(|stat| stat.st_uid == ours) {
            return;
        }
        let cached = |name: &CStr| {
            let name_fits = name.to_bytes().len() == 10 && name.to_bytes().starts_with(b".tmp");
            name_fits
                && statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                        && stat.st_uid == ours
                        && stat.st_mode & 0o77 == 0
                })
        };
        for entry in Dir::read_from(&dir).into_iter().flatten().flatten() {
            if cached(entry.file_name()) {
                let _ = unlinkat(&dir, entry.file_name(), AtFlags::empty());
            }
        }
        // Only when nothing is left in it.
        let _ = fs::remove_dir(path);
    }
}

fn make_own(path: &Path, meta: &Path) -> Result<(), Error> {
    own_dir(meta, PRIVATE_DIR).map_err(Error::io(meta))?;
    let sandboxes = path.join(SANDBOXES);
    own_dir(&sandboxes, OPEN_DIR).map(drop).map_err(Error::io(&sandboxes))
}

/// Fails if the disk says that nothing can be written in a directory. Writes nothing itself: an idle disk may sleep.
pub(crate) fn look(dir: &Path) -> io::Result<()> {
    access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?;
    fs::read_dir(dir)?.next().transpose()?;
    let disk = statvfs(dir)?;
    let free = if geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
    // Some file systems do not tell their size.
    if disk.f_blocks > 0 && free == 0 {
        return Err(rustix::io::Errno::NOSPC.into());
    }
    Ok(())
}

/// Fails if nothing can be written in a directory, where that is doubtful.
pub(crate) fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe");
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut options = OpenOptions::new();
    let mut file =
        options.create(true).truncate(true).write(true).mode(0o600).custom_flags(flags).open(&path)?;
    let written = file.write_all(&[0; 4096]);
    fs::remove_file(&path).and(written)
}

/// A lock on a file, held until this is dropped, or the process dies.
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough while another thread starts a process, which has it open for a moment.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Makes the file if it is missing. Only one agent has the lock on it; `whole` names what it stands for.
pub(crate) fn lock(path: &Path, whole: &Path) -> Result<Lock, Error> {
    // Not for writing: a disk on which nobody writes can be remounted read-only.
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        openat(CWD, path, flags, Mode::RUSR | Mode::WUSR).map_err(|why| Error::io(path)(why.into()))?;
    let file = File::from(file);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::Locked { path: whole.to_owned(), holder: bellows_runtime::lock_holder(path) })
        }
        Err(error) => Err(Error::Io { path: path.to_owned(), source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_second_agent_is_turned_away_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("temporary");
        let path = dir.path().join("a/b");
        let first = WorkDir::open(&path).expect("free");
        let error = WorkDir::open(&path).err().expect("in use").to_string();
        let (whole, pid) = (path.canonicalize().expect("there"), std::process::id());
        assert!(
            error.starts_with(&format!("{} is in use by another agent (process {pid}): ", whole.display()))
        );
        assert!(error.contains("--work-dir"), "{error}");
        drop(first);
        let again = WorkDir::open(&path).expect("free again");
        assert_eq!((mode(&again.path), mode(&again.meta)), (0o711, 0o700));
        assert_eq!(mode(&dir.path().join("a")), 0o711, "what was made above it, too");
    }

    #[test]
    fn a_directory_that_was_there_keeps_its_mode_and_what_is_in_it() {
        let dir = tempfile::tempdir().expect("temporary");
        for given in [0o1777, 0o755, 0o700] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(given)).expect("chmod");
            drop(WorkDir::open(dir.path()).expect("free"));
            assert_eq!(mode(dir.path()), given);
        }
        for (name, cached) in [(".tmpAbC123", true), ("data", false), (".tmpfile-of-mine", false)] {
            fs::create_dir_all(dir.path().join("fetch")).expect("made");
            let path = dir.path().join("fetch").join(name);
            fs::write(&path, "x").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            WorkDir::open(dir.path()).expect("free").discard_earlier_cache();
            assert_eq!(path.exists(), !cached, "{name}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_an_earlier_cache_leads_to_nothing() {
        let dir = tempfile::tempdir().expect("temporary");
        let (path, elsewhere) = (dir.path().join("work"), dir.path().join("elsewhere"));
        fs::create_dir(&elsewhere).expect("made");
        let file = elsewhere.join(".tmpAbC123");
        fs::write(&file, "x").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
        let work_dir = WorkDir::open(&path).expect("free");
        std::os::unix::fs::symlink(&elsewhere, path.join("fetch")).expect("link");
        work_dir.discard_earlier_cache();
        assert!(file.exists());
    }

    #[test]
    fn what_somebody_else_may_have_put_there_is_refused() {
        for name in ["meta", SANDBOXES] {
            let dir = tempfile::tempdir().expect("temporary");
            let (path, elsewhere) = (dir.path().join("work"), dir.path().join("elsewhere"));
            fs::create_dir_all(&path).expect("made");
            fs::create_dir(&elsewhere).expect("made");
            std::os::unix::fs::symlink(&elsewhere, path.join(name)).expect("link");
            let error = WorkDir::open(&path).err().expect("refused").to_string();
            assert!(error.contains(&path.join(name).display().to_string()), "{error}");
            assert_eq!(fs::read_dir(&elsewhere).expect("there").count(), 0);
        }
    }
}
