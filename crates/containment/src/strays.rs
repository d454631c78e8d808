//! Shims that run though no register knows them: theirs was deleted while no agent ran. Whatever they hold would be
//! offered a second time.
//!
//! A shim keeps its register open until it ends. It is an agent's own if it is this user's and what it has open is, or
//! was before it was deleted, the file at the agent's register's path, on the same file system: another agent's path may
//! read the same inside of a container.
use crate::{
    process::{self, Handle, Identity},
    shim,
};
use rustix::process::{Signal, geteuid};
use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a shim may take to end with its task, before both are killed from here.
const PATIENCE: Duration = Duration::from_secs(5);
const KILLS: usize = 200;
const KILL_AGAIN: Duration = Duration::from_millis(10);

/// A shim that nobody remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub shim: u32,
    /// The processes that it had below it.
    pub processes: Vec<u32>,
    /// Whether all of it is gone.
    pub gone: bool,
}

/// Those that have the register at `path` open, or had it before it was deleted. Blocks.
pub(crate) fn shims(path: &Path, register: &Metadata) -> io::Result<impl Iterator<Item = Identity>> {
    let path = path.canonicalize()?;
    let deleted = PathBuf::from(format!("{} (deleted)", path.display()));
    let register = (register.dev(), register.ino());
    let is_ours = move |link: &Path| {
        let Ok(open) = fs::metadata(link) else { return false };
        (open.dev(), open.ino()) == register
            || open.dev() == register.0
                && open.nlink() == 0
                && fs::read_link(link).is_ok_and(|at| at == deleted)
    };
    let user = geteuid().as_raw();
    let shims = process::all().into_iter().filter(|stat| !stat.is_zombie()).map(|stat| stat.identity);
    Ok(shims.filter(move |shim| {
        let proc = PathBuf::from(format!("/proc/{}", shim.pid));
        fs::metadata(&proc).is_ok_and(|proc| proc.uid() == user)
            && fs::read(proc.join("comm")).is_ok_and(|name| name.starts_with(shim::NAME.as_bytes()))
            && fs::read_dir(proc.join("fd"))
                .is_ok_and(|open| open.flatten().any(|file| is_ours(&file.path())))
    }))
}

pub(crate) async fn end(shim: Identity) -> io::Result<Stray> {
    let below = || process::descendants(&process::all(), [shim.pid]);
    let processes = below().iter().map(|process| process.identity.pid).collect();
    let mut gone = match Handle::of_stranger(shim)? {
        None => true,
        Some(handle) => {
            let _ = shim::send_kill(&handle, Duration::ZERO);
            tokio::time::timeout(PATIENCE, handle.ended()).await.is_ok()
        }
    };
    for _ in 0..KILLS {
        if gone {
            break;
        }
        // The processes first: without their shim nobody could tell whose they are.
        let left: Vec<_> = below().into_iter().filter(|process| !process.is_zombie()).collect();
        left.iter().for_each(|process| drop(process.identity.signal(Signal::KILL)));
        if left.is_empty() {
            let _ = shim.signal(Signal::KILL);
        }
        tokio::time::sleep(KILL_AGAIN).await;
        gone = !shim.lives();
    }
    Ok(Stray { shim: shim.pid, processes, gone })
}
