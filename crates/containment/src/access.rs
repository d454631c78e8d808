//! Finds the directory that keeps a task's user from its files, and says how to open it.
use crate::{Owner, owner::run_as};
use rustix::{
    fs::{Access, access},
    io::Errno,
};
use std::{
    fmt,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A user may not pass `dir` on the way to `path`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Blocked {
    pub path: PathBuf,
    pub dir: PathBuf,
    uid: u32,
    /// Whose right is missing, as chmod(1) names it: `u`, `g` or `o`.
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
        let find =
            || Ok(all.iter().find(|dir| access(**dir, Access::EXEC_OK) == Err(Errno::ACCESS)).copied());
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
