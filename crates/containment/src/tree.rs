//! Deletes a directory with all that is in it, whatever a task has put there.
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fchmod, fstat, open, openat, renameat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Deletes `path`, a file or a whole directory. Symbolic links are deleted, never followed; depth, missing
/// permissions and names do not matter. A missing one is no error. Blocks.
///
/// A directory's subdirectories are moved up into the top directory before it is deleted, so that a task which nests
/// a million directories costs no stack and no more than two open files.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = match (path.parent(), path.file_name()) {
        (Some(_), Some(name)) => CString::new(name.as_bytes())?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = match open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        parent => parent?,
    };
    match unlinkat(&parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX would have EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(why) => return Err(why.into()),
    }
    let top = open_writable(&parent, &name)?;
    remove_open(parent.as_fd(), &name, &top)
}

/// Deletes the directory `name` of `parent` with all that is in it, if `is_ours` says so of what it finds there; returns
/// whether it did. A link, a file, a missing one are not ours. Blocks.
pub fn remove_tree_at(
    parent: BorrowedFd<'_>,
    name: &CStr,
    is_ours: impl FnOnce(&Stat) -> bool,
) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Looked at before anything is done to it.
    let found = match openat(parent, name, flags | OFlags::PATH, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        found => found?,
    };
    let stat = fstat(&found)?;
    if !is_ours(&stat) {
        return Ok(false);
    }
    let top = open_writable(parent, name)?;
    let opened = fstat(&top)?;
    if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
        return Ok(false);
    }
    remove_open(parent, name, &top).map(|()| true)
}

/// Empties `top`, which is the directory `name` of `parent`, and deletes it.
fn remove_open(parent: BorrowedFd<'_>, name: &CStr, top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let directories = remove_files(top)?;
        if directories.is_empty() {
            break;
        }
        for directory in directories {
            remove_one_level(top, &directory, &mut moved)?;
        }
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// Deletes the directory `name` in `top`; its subdirectories are in `top` afterwards.
fn remove_one_level(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    if unlinkat(top, name, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    let directory = match open_writable(top, name) {
        Err(Errno::NOENT) => return Ok(()),
        directory => directory?,
    };
    for inner in remove_files(&directory)? {
        // To move a directory one must be allowed to write to it: its ".." changes.
        drop(open_writable(&directory, &inner)?);
        loop {
            let target = format!(".removed-{moved}");
            *moved += 1;
            match renameat(&directory, &inner, top, &target) {
                Ok(()) | Err(Errno::NOENT) => break,
                // The name is taken, by an earlier run that was cut short or by the task.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => {}
                Err(why) => return Err(why.into()),
            }
        }
    }
    match unlinkat(top, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// Deletes all but directories; returns the names of those.
fn remove_files(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            directories.push(name.to_owned());
            continue;
        }
        match unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A file system that tells no types.
            Err(Errno::ISDIR) => directories.push(name.to_owned()),
            Err(why) => return Err(why.into()),
        }
    }
    Ok(directories)
}

/// Opens a directory and gives its owner the rights that it takes to empty it.
fn open_writable(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Not readable. By its descriptor: by its name a link could be in its place by now.
            let found = openat(&parent, name, flags | OFlags::PATH, Mode::empty())?;
            rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
            openat(&parent, name, flags, Mode::empty())?
        }
        directory => directory?,
    };
    match fchmod(&directory, Mode::RWXU) {
        // Another user's, and we may not be root: whether it can be emptied will show.
        Ok(()) | Err(Errno::PERM) => Ok(directory),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn links_are_deleted_and_not_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir_all(outside.join("kept")).expect("create");
        fs::create_dir_all(tree.join("a/b")).expect("create");
        symlink(&outside, tree.join("a/link")).expect("link");
        symlink("/nowhere", tree.join("dangling")).expect("link");
        fs::write(tree.join(".removed-0"), "a name that is taken").expect("write");
        fs::create_dir_all(tree.join(".removed-1/x")).expect("create");
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists() && outside.join("kept").exists());

        symlink(&outside, &tree).expect("link");
        remove_tree(&tree).expect("the link itself");
        assert!(tree.symlink_metadata().is_err() && outside.join("kept").exists());
        remove_tree(&tree).expect("a missing one is no error");
        remove_tree(&tree.join("below/missing")).expect("a missing one is no error");
    }

    #[test]
    fn depth_and_permissions_do_not_matter() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).expect("create");
        let mut at: OwnedFd = fs::File::open(&tree).expect("open").into();
        // Deeper than a path may be long, and than files may be open.
        for _ in 0..2100 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("mkdir");
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            let below = openat(&at, "d", flags, Mode::empty()).expect("open");
            drop(openat(&below, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("file"));
            at = below;
        }
        fchmod(&at, Mode::empty()).expect("chmod");
        drop(at);
        fs::create_dir_all(tree.join("closed/in")).expect("create");
        rustix::fs::chmod(tree.join("closed"), Mode::empty()).expect("chmod");
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
    }
}
