//! Tells which application a directory was made for, from the ledger that an agent keeps in a root.
//!
//! Anybody may make a directory named like the agent's below their own directories: only one that nobody but the
//! agent can have made counts, and the outermost of these decides.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, openat, stat};
use rustix::io::Errno;
use serde::Deserialize;

use bellows_syscall::open_without_symlinks;

use crate::config::{KEEPER_DIR, LEDGER_DIR, LEDGER_ENTRY_LIMIT_BYTES};

const OPEN_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ_FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The part of the agent's entry that says for whom a directory was made.
#[derive(Deserialize)]
struct Entry {
    framework: String,
    uid: u32,
}

/// Says whether an agent keeps account of the place where a directory lies, and whose the directory is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    NoAgent,
    /// The agent made it for nobody, or for another application.
    NotOfApplication,
    /// It lies in a directory that was made for the application, and given to this user where the entry says so.
    OfApplication(Option<u32>),
}

/// Looks for the application's directory between `top` and `dir` (`ROOT/DIRECTORY/blockmgr-*`). Waits for a disk.
/// `service_user` runs this service.
pub(crate) fn keeps(dir: &Path, top: Option<&Path>, app: &str, service_user: u32) -> io::Result<Keeping> {
    let within = dir.ancestors().skip(1).take_while(|above| top.is_none_or(|top| above.starts_with(top)));
    let outermost_first: Vec<&Path> = within.collect();
    for above in outermost_first.into_iter().rev() {
        let Some(keeper) = open_keeper(above, service_user)? else { continue };
        let made = dir.parent().filter(|made| made.parent() == Some(above));
        let Some(name) = made.and_then(|made| made.file_name()?.to_str()) else {
            return Ok(Keeping::NotOfApplication);
        };
        return Ok(match read_entry(&keeper, name)? {
            Some((framework, uid)) if framework == app => Keeping::OfApplication(uid),
            _ => Keeping::NotOfApplication,
        });
    }
    Ok(Keeping::NoAgent)
}

/// Fails where this user may not read the ledger that an agent keeps in `root`. Waits for a disk.
pub(crate) fn check_access(root: &Path, service_user: u32) -> io::Result<()> {
    let Some(keeper) = open_keeper(root, service_user)? else { return Ok(()) };
    openat(&keeper, LEDGER_DIR, OPEN_DIR, Mode::empty()).map(drop).or_else(|why| match why {
        Errno::NOENT => Ok(()),
        why => Err(why.into()),
    })
}

/// Opens the agent's directory in `above`. It counts if it is this user's, root's or the user's who owns `above`, and
/// nobody else may write to it.
fn open_keeper(above: &Path, service_user: u32) -> io::Result<Option<OwnedFd>> {
    let keeper = match open_without_symlinks(&above.join(KEEPER_DIR), OPEN_DIR, false) {
        Ok(keeper) => keeper,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(why) => return Err(why.into()),
    };
    let found = fstat(&keeper)?;
    let trusted = [service_user, 0].contains(&found.st_uid) || stat(above)?.st_uid == found.st_uid;
    Ok((trusted && found.st_mode & 0o022 == 0).then_some(keeper))
}

/// Reads the framework that a directory was made for, and the user whom it was given to. An entry of an earlier release
/// is empty: it named the directory by the framework's id.
fn read_entry(keeper: &OwnedFd, directory: &str) -> io::Result<Option<(String, Option<u32>)>> {
    let opened = openat(keeper, LEDGER_DIR, OPEN_DIR, Mode::empty())
        .and_then(|ledger| openat(ledger, directory, READ_FILE, Mode::empty()));
    let file = match opened {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(why) => return Err(why.into()),
    };
    let mut text = String::new();
    file.take(LEDGER_ENTRY_LIMIT_BYTES).read_to_string(&mut text)?;
    if text.is_empty() {
        return Ok(Some((directory.to_owned(), None)));
    }
    let entry = serde_json::from_str::<Entry>(&text).ok();
    Ok(entry.map(|entry| (entry.framework, Some(entry.uid))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;

    const STRANGER: u32 = 65_534;

    fn make_keeper(in_dir: &Path, directory: &str, framework: &str) -> PathBuf {
        let ledger = in_dir.join(KEEPER_DIR).join(LEDGER_DIR);
        std::fs::create_dir_all(&ledger).expect("directory");
        let entry = format!(r#"{{"framework":"{framework}","uid":7,"made":{{"Inode":7}}}}"#);
        std::fs::write(ledger.join(directory), entry).expect("entry");
        std::fs::create_dir_all(in_dir.join(directory).join("blockmgr-1")).expect("directory");
        in_dir.join(KEEPER_DIR)
    }

    fn scene() -> (tempfile::TempDir, PathBuf, u32) {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().canonicalize().expect("exists").join("root");
        std::fs::create_dir(&root).expect("directory");
        (dir, root, rustix::process::geteuid().as_raw())
    }

    #[test]
    fn the_outermost_keeper_decides() {
        let (_dir, root, user) = scene();
        make_keeper(&root, "bellows-F", "F");
        make_keeper(&root.join("bellows-F"), "z", "G");
        let keeps = |name: &str, app| keeps(&root.join(name), Some(&root), app, user).expect("read");
        assert_eq!(keeps("bellows-F/blockmgr-1", "F"), Keeping::OfApplication(Some(7)));
        assert_eq!(keeps("bellows-F/z/blockmgr-1", "G"), Keeping::NotOfApplication);
    }

    #[test]
    fn a_keeper_that_others_may_write_to_or_that_is_a_link_or_a_strangers_counts_for_nothing() {
        let (_dir, root, user) = scene();
        let keeper = make_keeper(&root, "x", "G");
        let keeps = || keeps(&root.join("x/blockmgr-1"), Some(&root), "G", user).expect("read");
        assert_eq!(keeps(), Keeping::OfApplication(Some(7)));
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&keeper, mode(0o770)).expect("its own");
        assert_eq!(keeps(), Keeping::NoAgent);
        std::fs::set_permissions(&keeper, mode(0o700)).expect("its own");
        if user == 0 {
            chown(&keeper, Some(STRANGER), None).expect("root may");
            assert_eq!(keeps(), Keeping::NoAgent);
            chown(&keeper, Some(0), None).expect("root may");
        }
        assert_eq!(keeps(), Keeping::OfApplication(Some(7)));
        std::fs::rename(&keeper, root.join("elsewhere")).expect("renamed");
        std::os::unix::fs::symlink(root.join("elsewhere"), &keeper).expect("link");
        assert_eq!(keeps(), Keeping::NoAgent);
    }

    #[test]
    fn a_ledger_that_this_user_may_not_read_is_noticed_at_the_start() {
        const ROOT: &str = "KEEPER_TEST_ROOT";
        if let Some(root) = std::env::var_os(ROOT) {
            let root = Path::new(&root);
            let why = check_access(root, STRANGER).expect_err("not its own");
            assert_eq!(why.kind(), io::ErrorKind::PermissionDenied);
            keeps(&root.join("x/blockmgr-1"), Some(root), "G", STRANGER).expect_err("not its own");
            return;
        }
        let (dir, root, user) = scene();
        let keeper = make_keeper(&root, "x", "G");
        check_access(&root, user).expect("its own");
        if user != 0 {
            return;
        }
        for (path, mode) in [(dir.path(), 0o755), (&keeper, 0o700)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its own");
        }
        // The program itself may lie where only root may go.
        let program = dir.path().join("test");
        std::fs::copy(std::env::current_exe().expect("this one"), &program).expect("copied");
        let mut child = std::process::Command::new(program);
        child
            .args(["--exact", "keeper::tests::a_ledger_that_this_user_may_not_read_is_noticed_at_the_start"]);
        let output = child.env(ROOT, &root).current_dir("/").uid(STRANGER).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
