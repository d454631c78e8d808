//! Makes directories with the modes that they are to have, whatever the umask says; and tells those that are ours from
//! those that somebody else put there.
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat},
    io::Errno,
    process::geteuid,
};
use std::{io, os::fd::OwnedFd, path::Path};

/// Passed through and listed by everybody.
pub const OPEN_DIR: u32 = 0o755;
/// Passed through by everybody, listed by its owner.
pub const PASSAGE_DIR: u32 = 0o711;
/// Its owner's alone.
pub const PRIVATE_DIR: u32 = 0o700;

/// Makes `path` and what is missing above it, each with `mode`. A directory that is there already is left as it is.
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
        .take_while(|ancestor| !ancestor.is_dir())
        .collect();
    missing.into_iter().rev().try_for_each(|path| match make(path, mode) {
        // Another process was faster, or it is no directory.
        Err(Errno::EXIST) if path.is_dir() => Ok(()),
        Err(why) => {
            Err(io::Error::new(io::Error::from(why).kind(), format!("cannot make {}: {why}", path.display())))
        }
        Ok(()) => Ok(()),
    })
}

/// Makes `path`, or takes the directory that is there if it is certainly ours: no link, this user's, and not everybody may
/// write to it. Its parent must exist. Returns the directory.
pub fn own_dir(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    match make(path, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(why) => return Err(why.into()),
    }
    let opened = open(path).map_err(|why| match why {
        Errno::LOOP | Errno::NOTDIR => io::Error::other(
            "it is no directory of this program's own: move it away, or choose another place",
        ),
        why => why.into(),
    })?;
    let stat = fstat(&opened)?;
    let everybody_writes = Mode::from_raw_mode(stat.st_mode).contains(Mode::WOTH);
    if stat.st_uid != geteuid().as_raw() || everybody_writes {
        return Err(io::Error::other(
            "the directory is another user's, or everybody may write to it: move it away, or choose another place",
        ));
    }
    Ok(opened)
}

fn make(path: &Path, mode: u32) -> rustix::io::Result<()> {
    // Nobody else gets in before the mode is set.
    mkdirat(CWD, path, Mode::RWXU)?;
    let made = open(path)?;
    let stat = fstat(&made)?;
    if stat.st_uid != geteuid().as_raw() || FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::EXIST);
    }
    fchmod(&made, Mode::from_raw_mode(mode))
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn all_that_is_made_gets_the_mode_and_what_was_there_keeps_its_own() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let there = dir.path().join("there");
        fs::create_dir(&there).expect("made");
        fs::set_permissions(&there, fs::Permissions::from_mode(0o1777)).expect("chmod");
        // No umask leaves these bits.
        make_dirs(&there.join("a/b"), 0o773).expect("made");
        make_dirs(&there.join("a/b"), 0o700).expect("there");
        assert_eq!(
            [&there, &there.join("a"), &there.join("a/b")].map(|path| mode(path)),
            [0o1777, 0o773, 0o773]
        );
        fs::write(there.join("file"), "").expect("written");
        assert!(make_dirs(&there.join("file"), 0o700).is_err());
        assert!(make_dirs(&there.join("file/x"), 0o700).is_err());
    }

    #[test]
    fn what_others_may_have_put_there_is_not_taken() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (own, link, open) = (dir.path().join("own"), dir.path().join("link"), dir.path().join("open"));
        own_dir(&own, PRIVATE_DIR).expect("made");
        own_dir(&own, OPEN_DIR).expect("taken");
        assert_eq!(mode(&own), PRIVATE_DIR, "and left as it is");
        symlink(&own, &link).expect("link");
        own_dir(&link, PRIVATE_DIR).expect_err("a link");
        fs::create_dir(&open).expect("made");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("chmod");
        own_dir(&open, PRIVATE_DIR).expect_err("anybody writes there");
    }
}
