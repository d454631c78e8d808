//! The directory that an agent keeps itself in. One agent each: a second one is turned away.
use crate::Error;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

pub(crate) struct WorkDir {
    pub(crate) path: PathBuf,
    pub(crate) meta: PathBuf,
    _lock: File,
}

impl WorkDir {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        let path = path.canonicalize().map_err(Error::io(path))?;
        // Tasks of other users pass through to their sandboxes; nobody else lists what is there.
        std::fs::set_permissions(&path, Permissions::from_mode(0o711)).map_err(Error::io(&path))?;
        let meta = path.join("meta");
        private_dir(&meta)?;
        let lock = lock(&meta.join("lock"), &path)?;
        Ok(Self { path, meta, _lock: lock })
    }
}

/// Only for the agent itself.
pub(crate) fn private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io(path))
}

/// Held until the file is closed, also by the death of this process; processes started from here do not inherit it.
pub(crate) fn lock(path: &Path, whole: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io(path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path: whole.to_owned() }),
        Err(error) => Err(Error::Io { path: path.to_owned(), source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_turned_away_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("temporary");
        let path = dir.path().join("a/b");
        let first = WorkDir::open(&path).expect("free");
        assert!(matches!(WorkDir::open(&path), Err(Error::Locked { .. })));
        drop(first);
        let again = WorkDir::open(&path).expect("free again");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&again.path), mode(&again.meta)), (0o711, 0o700));
    }
}
