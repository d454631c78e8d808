//! The disks that were used before, so that an empty directory where one was mounted is not taken for it. They are
//! remembered in the work directory.
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A disk, as it was when it was used last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) id: String,
    /// The mount point that the directory was on.
    pub(super) mount: PathBuf,
}

pub(super) struct KnownDisks {
    path: PathBuf,
    disks: Mutex<BTreeMap<PathBuf, Known>>,
}

impl Known {
    pub(super) fn is_mounted(&self) -> bool {
        bellows_shuffle::mount_point(&self.mount) == self.mount
    }

    pub(super) fn not_mounted(&self, known: &KnownDisks) -> String {
        format!(
            "nothing is mounted at {}, where its disk was (to use what lies there now, stop the agent and delete {})",
            self.mount.display(),
            known.path.display()
        )
    }
}

impl KnownDisks {
    pub(super) fn read(path: PathBuf) -> Self {
        let disks = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            read => read.and_then(|text| Ok(serde_json::from_slice(&text)?)).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot read which disks were used: all are taken as new");
                BTreeMap::new()
            }),
        };
        Self { path, disks: Mutex::new(disks) }
    }

    pub(super) fn of(&self, root: &Path) -> Option<Known> {
        self.disks().get(root).cloned()
    }

    /// Only in memory, since the work directory may hang; see [`Self::keep`].
    pub(super) fn remember(&self, root: &Path, now: Known) {
        self.disks().insert(root.to_owned(), now);
    }

    /// Writes all of them, should the file say something else or be gone. Waits for the work directory, and holds up nobody.
    pub(super) fn keep(&self) {
        let disks = self.disks().clone();
        let written = || serde_json::from_slice(&fs::read(&self.path).ok()?).ok();
        if !disks.is_empty() && written().as_ref() != Some(&disks) {
            self.write(&disks);
        }
    }

    fn write(&self, disks: &BTreeMap<PathBuf, Known>) {
        let written = serde_json::to_vec_pretty(disks).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| write_private(&self.path, &text)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remember which disks are used");
        }
    }

    fn disks(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Known>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Durable and whole when it returns; nobody else may read it.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = OpenOptions::new();
    let mut file =
        options.create(true).truncate(true).write(true).mode(0o600).custom_flags(no_link).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(new, path)
}
