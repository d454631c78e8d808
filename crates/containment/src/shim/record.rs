//! What a shim is told, and the two files by which it tells any agent process, now or later.
//!
//! Files appear whole or not at all. They are not synced: a machine that crashes takes the task with it.
use crate::{Owner, process::Identity};
use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, renameat};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

/// Comes in on the shim's stdin, an anonymous file: an environment with secrets never reaches a disk.
#[derive(Serialize, Deserialize)]
pub(crate) struct Instruction {
    pub(crate) boot_id: String,
    pub(crate) sandbox: PathBuf,
    pub(crate) shell: bool,
    pub(crate) value: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) user: Option<Owner>,
}

/// Goes out on the shim's stdout, to the agent process that started it.
#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    Started(Started),
    Failed(String),
}

/// The file `started`. Exactly one is ever published in a meta directory.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum Started {
    Running {
        boot_id: String,
        shim: Identity,
        task: Identity,
    },
    /// Written by an agent that found a shim which had not come to its task yet: it never will.
    Abandoned,
}

/// The file `ended`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signaled(i32),
    Failed(String),
}

/// One container's directory. Held open: a directory that was deleted and made again is another one.
pub(crate) struct Meta(OwnedFd);

/// One block of most file systems, taken at the start, so that a full disk cannot swallow an exit status.
const RESERVED_BYTES: usize = 4096;

impl Meta {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// `None`: not there (yet), or not whole after a crash of the machine.
    pub(crate) fn started(&self) -> Option<Started> {
        self.read("started")
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.read("ended")
    }

    /// `AlreadyExists` when shim and agent wanted it at once, and the other one was first.
    pub(crate) fn publish_started(&self, started: &Started) -> io::Result<()> {
        let temporary = format!("started.{}", std::process::id());
        self.create(&temporary)?.write_all(&serde_json::to_vec(started)?)?;
        Ok(linkat(&self.0, &temporary, &self.0, "started", AtFlags::empty())?)
    }

    /// The place that [`Meta::publish_ended`] needs later.
    pub(crate) fn reserve_ended(&self) -> io::Result<File> {
        let mut file = self.create("ended.reserved")?;
        file.write_all(&[b' '; RESERVED_BYTES])?;
        Ok(file)
    }

    pub(crate) fn publish_ended(&self, reserved: &File, ended: &Ended) -> io::Result<()> {
        let text = serde_json::to_vec(ended)?;
        reserved.write_all_at(&text, 0)?;
        reserved.set_len(text.len() as u64)?;
        Ok(renameat(&self.0, "ended.reserved", &self.0, "ended")?)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Option<T> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(openat(self.0.as_fd(), name, flags, Mode::empty()).ok()?);
        let mut text = Vec::new();
        file.take(64 * 1024).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}
