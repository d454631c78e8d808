//! The directories that executors shuffle through: `<root>/<framework>` on each disk, owned by the tasks' user.
//!
//! A root may hold anything else: only what the ledger in `<root>/.bellows` names was made here and is ever deleted.
//! It lies beside the directories and not in the checkpoint, so that it outlives a lost work directory.
use crate::{
    Error,
    work_dir::{lock, private_dir},
};
use bellows_containment::{Owner, remove_tree};
use bellows_model::FrameworkId;
use bellows_shuffle::KEEPER_DIR;
use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
};

pub(crate) struct ShuffleDirs {
    roots: Vec<Root>,
}

struct Root {
    path: PathBuf,
    ledger: PathBuf,
    _lock: File,
}

impl ShuffleDirs {
    pub(crate) fn open(roots: &[PathBuf]) -> Result<Self, Error> {
        Ok(Self { roots: roots.iter().map(|root| Root::open(root)).collect::<Result<_, _>>()? })
    }

    /// The directories of a framework, joined for `SPARK_EXECUTOR_DIRS`; `None` when there are no roots.
    pub(crate) fn joined(&self, framework_id: &FrameworkId) -> Option<String> {
        let paths = self.roots.iter().map(|root| root.of(framework_id).display().to_string());
        Some(paths.collect::<Vec<_>>().join(":")).filter(|joined| !joined.is_empty())
    }

    pub(crate) fn create(&self, framework_id: &FrameworkId, owner: Option<&Owner>) -> Result<(), Error> {
        self.roots.iter().try_for_each(|root| root.create(framework_id, owner))
    }

    pub(crate) fn found(&self) -> Result<Vec<FrameworkId>, Error> {
        let mut found = Vec::new();
        for root in &self.roots {
            let entries = root.ledger.read_dir().map_err(Error::io(&root.ledger))?;
            for entry in entries {
                let name = entry.map_err(Error::io(&root.ledger))?.file_name();
                let id = name.to_str().map(FrameworkId::from).filter(|id| id.validate().is_ok());
                found.extend(id.filter(|id| !found.contains(id)));
            }
        }
        Ok(found)
    }

    pub(crate) fn remove(&self, framework_id: &FrameworkId) -> Result<(), Error> {
        self.roots.iter().try_for_each(|root| root.remove(framework_id))
    }
}

impl Root {
    fn open(path: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        let path = path.canonicalize().map_err(Error::io(path))?;
        let own = path.join(KEEPER_DIR);
        let ledger = own.join("frameworks");
        private_dir(&ledger)?;
        let lock = lock(&own.join("lock"), &path)?;
        Ok(Self { path, ledger, _lock: lock })
    }

    fn of(&self, framework_id: &FrameworkId) -> PathBuf {
        self.path.join(framework_id.as_str())
    }

    fn create(&self, framework_id: &FrameworkId, owner: Option<&Owner>) -> Result<(), Error> {
        let path = self.of(framework_id);
        let entry = self.ledger.join(framework_id.as_str());
        if entry.exists() && path.exists() {
            return Ok(());
        }
        // The other way round a crash in between would leave a directory that nobody deletes.
        File::create(&entry).map_err(Error::io(&entry))?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Io { path, source: error });
            }
            _ => {}
        }
        if let Some(owner) = owner {
            chown(&path, Some(owner.uid), Some(owner.gid)).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    fn remove(&self, framework_id: &FrameworkId) -> Result<(), Error> {
        let entry = self.ledger.join(framework_id.as_str());
        if !entry.exists() {
            return Ok(());
        }
        let path = self.of(framework_id);
        remove_tree(&path).map_err(Error::io(&path))?;
        std::fs::remove_file(&entry).map_err(Error::io(&entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_here_is_found_and_removed() {
        let dir = tempfile::tempdir().expect("temporary");
        let roots = [dir.path().join("disk1"), dir.path().join("disk2")];
        std::fs::create_dir_all(roots[0].join("cassandra")).expect("made");
        let dirs = ShuffleDirs::open(&roots).expect("opened");
        let (framework, other): (FrameworkId, FrameworkId) = ("F-1".into(), "cassandra".into());
        dirs.create(&framework, None).expect("created");
        dirs.create(&framework, None).expect("created again");
        let joined = dirs.joined(&framework).expect("roots");
        assert!(joined.ends_with("/disk2/F-1") && joined.split(':').count() == 2, "{joined}");
        assert_eq!(dirs.found().expect("read"), std::slice::from_ref(&framework));
        dirs.remove(&other).expect("nothing to do");
        assert!(roots[0].join("cassandra").exists());
        assert!(matches!(ShuffleDirs::open(&roots), Err(Error::Locked { .. })));
        drop(dirs);
        // Whoever comes after, with an empty work directory, knows what is left.
        let dirs = ShuffleDirs::open(&roots).expect("opened");
        assert_eq!(dirs.found().expect("read"), std::slice::from_ref(&framework));
        dirs.remove(&framework).expect("removed");
        assert!(!roots[0].join("F-1").exists() && !roots[1].join("F-1").exists());
        assert!(dirs.found().expect("read").is_empty());
    }
}
