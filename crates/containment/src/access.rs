//! A thread's rights to files; and which directory keeps a task's user from its files, with what opens it.
#![allow(unsafe_code, reason = "setfsuid and setfsgid have no safe wrapper")]
use crate::{Owner, owner::run_as};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    process::Gid,
    thread::set_thread_groups,
};
use std::{
    fmt, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Gives the calling thread the user's rights to files, for good, and no more of that user: if the thread were the
/// user's, the user's processes could send it a signal, which would kill the agent.
pub(crate) fn access_files_as(owner: &Owner) -> io::Result<()> {
    let groups: Vec<Gid> = owner.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)?;
    let set = |uid: u32, gid: u32| {
        // SAFETY: both take a plain number, change the calling thread alone, and return what was set before.
        unsafe {
            (libc::syscall(libc::SYS_setfsuid, uid) as u32, libc::syscall(libc::SYS_setfsgid, gid) as u32)
        }
    };
    set(owner.uid, owner.gid);
    // They do not say whether they succeeded; a number that is no user's changes nothing.
    match set(u32::MAX, u32::MAX) == (owner.uid, owner.gid) {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// A user may not pass `dir` on the way to `path`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Blocked {
    pub path: PathBuf,
    pub dir: PathBuf,
    uid: u32,
    /// The class of users whose right is missing, as chmod(1) names it: `u`, `g` or `o`.
    class: char,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, dir) = (self.path.display(), self.dir.display());
        write!(
            f,
            "user {} may not pass the directory {dir} on the way to {path}: run `chmod {}+x {}`",
            self.uid,
            self.class,
            quoted(&self.dir)
        )
    }
}

impl Owner {
    /// Checks as this user that it can get to `path`, an absolute directory: itself and all above it can be passed.
    /// Blocks. `Ok` also where that cannot be found out.
    pub fn may_reach(&self, path: &Path) -> Result<(), Blocked> {
        let mut all: Vec<&Path> = path.ancestors().collect();
        all.reverse();
        let passes = |dir: &Path| {
            // Looked up in it, so that it is the directory itself that lets through or does not.
            let opened = open(dir.join("."), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            !matches!(opened, Err(Errno::ACCESS))
        };
        let find = || Ok(all.iter().find(|dir| !passes(dir)).copied());
        match run_as(Some(self), find) {
            Ok(Some(dir)) => Err(Blocked {
                path: path.to_owned(),
                dir: dir.to_owned(),
                uid: self.uid,
                class: self.class_at(dir),
            }),
            _ => Ok(()),
        }
    }

    /// Checks the same for any user: one who owns nothing and is in no group.
    pub fn anybody_may_reach(path: &Path) -> Result<(), Blocked> {
        const NOBODY: u32 = 65_534;
        Self { uid: NOBODY, gid: NOBODY, groups: vec![NOBODY] }.may_reach(path)
    }

    fn class_at(&self, dir: &Path) -> char {
        match dir.metadata() {
            Ok(metadata) if metadata.uid() == self.uid => 'u',
            Ok(metadata) if self.groups.contains(&metadata.gid()) || metadata.gid() == self.gid => 'g',
            _ => 'o',
        }
    }
}

/// Fit to be pasted into a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted() {
        assert_eq!(quoted(Path::new("/srv/data-1")), "/srv/data-1");
        assert_eq!(quoted(Path::new("/a b/$(x)'")), r"'/a b/$(x)'\'''");
    }
}
