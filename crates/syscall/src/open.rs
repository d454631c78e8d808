//! `openat2` (Linux 5.6), else a walk along the path, one component at a time.
use crate::is_refused;
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat, openat2,
        readlinkat, statat,
    },
    io::{Errno, Result},
};
use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path},
};

/// The kernel's own bounds, `MAXSYMLINKS` and `PATH_MAX`.
const MAX_LINKS: u32 = 40;
const PATH_MAX: usize = 4096;
const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// Opens `path` without ever leaving `root`, neither by `..` nor by a link ([`Errno::XDEV`]); links within are followed.
/// `flags` create nothing.
pub fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // The kernel gives up when something was renamed while it looked at a `..`; a bounded number of times we do not.
    for _try in 0..16 {
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            Err(why) if is_refused(why) => return walk(root.as_fd(), path, flags, Scope::Beneath),
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the absolute `path` and follows links as everybody does, but not those of `/proc` that lead to what a process
/// has open ([`Errno::LOOP`]).
pub fn open_without_magic_links(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    match openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Err(why) if is_refused(why) => {
            let top = openat(CWD, "/", STEP | OFlags::CLOEXEC, Mode::empty())?;
            walk(top.as_fd(), path, flags, Scope::NoMagicLinks)
        }
        result => result,
    }
}

/// Opens the absolute `path`, on which there may be no symbolic link, not even as the last component ([`Errno::LOOP`]).
/// `cached`: only when the kernel has all of it in memory (Linux 5.12), else [`Errno::AGAIN`] or another error.
pub fn open_without_symlinks(path: &Path, flags: OFlags, cached: bool) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let resolve = if cached { resolve | ResolveFlags::CACHED } else { resolve };
    match openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(why) if is_refused(why) && cached => Err(Errno::AGAIN),
        Err(why) if is_refused(why) => walk_without_symlinks(path, flags),
        result => result,
    }
}

fn walk_without_symlinks(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let mut names = path.components().peekable();
    if names.next() != Some(Component::RootDir) || path.as_os_str().len() >= PATH_MAX {
        return Err(Errno::INVAL);
    }
    let mut at = openat(CWD, "/", STEP | OFlags::CLOEXEC, Mode::empty())?;
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(Errno::INVAL) };
        if names.peek().is_none() {
            return open_component(at.as_fd(), name, flags);
        }
        at = open_component(at.as_fd(), name, STEP)?;
    }
    openat(CWD, "/", flags | OFlags::CLOEXEC, Mode::empty())
}

/// [`Errno::LOOP`] when `name` is a symbolic link, whatever `flags` say.
fn open_component(directory: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    match openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOTDIR) if is_symlink(directory, name) => Err(Errno::LOOP),
        // With O_PATH, that is the link itself.
        Ok(opened) if flags.contains(OFlags::PATH) && is_symlink(&opened, c"") => Err(Errno::LOOP),
        opened => opened,
    }
}

fn is_symlink(at: impl AsFd, name: impl rustix::path::Arg) -> bool {
    let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    /// Nothing leads out of the root.
    Beneath,
    /// The root is `/`, where absolute links begin, and from which `..` leads to itself. No link of `/proc` is
    /// followed: which of them are magic cannot be told.
    NoMagicLinks,
}

/// Holds every directory on the way open, so that `..` leads back to where this came from, whatever is renamed
/// meanwhile.
fn walk(root: BorrowedFd<'_>, path: &Path, flags: OFlags, scope: Scope) -> Result<OwnedFd> {
    let mut way: Vec<OwnedFd> = Vec::new();
    let mut left = reversed(path, scope)?;
    let mut links = 0;
    while let Some(name) = left.pop() {
        let directory = way.last().map_or(root, AsFd::as_fd);
        if name == "/" {
            way.clear();
            continue;
        }
        if name == ".." {
            if way.pop().is_none() && scope == Scope::Beneath {
                return Err(Errno::XDEV);
            }
            continue;
        }
        let is_last = left.is_empty();
        match open_component(directory, &name, if is_last { flags } else { STEP }) {
            Ok(opened) if is_last => return Ok(opened),
            Ok(opened) => way.push(opened),
            Err(Errno::LOOP) => {
                links += 1;
                let is_magic = || fstatfs(directory).map(|of| of.f_type == PROC_SUPER_MAGIC);
                if links > MAX_LINKS || (scope == Scope::NoMagicLinks && is_magic()?) {
                    return Err(Errno::LOOP);
                }
                let target = readlinkat(directory, name.as_os_str(), Vec::new())?;
                let target = OsString::from_vec(target.into_bytes());
                left.extend(reversed(target.as_ref(), scope)?);
            }
            Err(why) => return Err(why),
        }
        if left.len() > PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
    }
    // The path ended with `.` or `..`, or was only that.
    let directory = way.last().map_or(root, AsFd::as_fd);
    openat(directory, ".", flags | OFlags::CLOEXEC, Mode::empty())
}

/// The names in `path`, last first; an absolute one has `/` as its first.
fn reversed(path: &Path, scope: Scope) -> Result<Vec<OsString>> {
    if path.as_os_str().is_empty() {
        return Err(Errno::NOENT);
    }
    if path.as_os_str().len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Errno::INVAL);
    }
    let names = path.components().rev().filter(|component| *component != Component::CurDir);
    names
        .map(|component| match component {
            Component::Normal(_) | Component::ParentDir => Ok(component.as_os_str().to_owned()),
            Component::RootDir if scope == Scope::NoMagicLinks => Ok(component.as_os_str().to_owned()),
            _ => Err(Errno::XDEV),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{open, symlinkat};
    use std::{fs, io::Read};

    /// What the kernel answers, and what the walks answer, must be the same.
    fn links_and_parents() {
        let dir = tempfile::tempdir().expect("directory");
        let top = dir.path().canonicalize().expect("exists");
        fs::create_dir_all(top.join("root/a/b")).expect("directories");
        fs::write(top.join("root/a/b/file"), "inside").expect("file");
        fs::write(top.join("outside"), "outside").expect("file");
        let root = open(top.join("root"), STEP, Mode::empty()).expect("open");
        let links = [
            ("a/b", "within"),
            ("within/../b/file", "through"),
            ("../outside", "climbs"),
            ("/etc", "absolute"),
            ("loop", "loop"),
            ("none", "dangling"),
        ];
        for (target, name) in links {
            symlinkat(target, &root, name).expect("link");
        }
        let read = |path: &str| {
            let mut text = String::new();
            let file: fs::File = open_beneath(&root, path.as_ref(), OFlags::RDONLY)?.into();
            (&file).read_to_string(&mut text).map(|_| text).map_err(|_| Errno::ISDIR)
        };
        for path in ["a/b/file", "within/file", "through", "./a/../a/./b/../b/file", "within/../b/file"] {
            assert_eq!(read(path).as_deref(), Ok("inside"), "{path}");
        }
        let refused = [
            ("../outside", Errno::XDEV),
            ("a/../../outside", Errno::XDEV),
            ("climbs", Errno::XDEV),
            ("absolute/passwd", Errno::XDEV),
            ("/etc/passwd", Errno::XDEV),
            ("loop", Errno::LOOP),
            ("dangling", Errno::NOENT),
            ("", Errno::NOENT),
            ("none/..", Errno::NOENT),
            ("a/b/file/..", Errno::NOTDIR),
            ("a/b/file/x", Errno::NOTDIR),
            (".", Errno::ISDIR),
            ("a/..", Errno::ISDIR),
            ("within", Errno::ISDIR),
        ];
        for (path, why) in refused {
            assert_eq!(read(path), Err(why), "{path}");
        }

        let open = |path: &str| open_without_symlinks(&top.join(path), OFlags::RDONLY, false).map(drop);
        assert_eq!((open("root/a/b/file"), open("root/a")), (Ok(()), Ok(())));
        assert_eq!([open("root/through"), open("root/within/file")], [Err(Errno::LOOP); 2]);
        assert_eq!([open("root/none"), open("root/none/x")], [Err(Errno::NOENT); 2]);
        assert_eq!(open("root/a/b/file/x"), Err(Errno::NOTDIR));
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        let link = open_without_symlinks(&top.join("root/within"), directory, false).map(drop);
        assert!(matches!(link, Err(Errno::LOOP | Errno::NOTDIR)), "{link:?}");
    }

    /// Ordinary links lead anywhere, and none of `/proc` to what is open.
    fn magic_links() {
        let dir = tempfile::tempdir().expect("directory");
        let top = dir.path().canonicalize().expect("exists");
        fs::create_dir(top.join("a")).expect("directory");
        fs::write(top.join("a/file"), "").expect("file");
        let file = top.join("a/file");
        let links = [
            (top.join("a/../a/file"), "absolute"),
            ("absolute".into(), "relative"),
            (top.join("loop"), "loop"),
            ("none".into(), "dangling"),
            ("/proc/self/fd/0".into(), "magic"),
            ("/proc/self/root/etc".into(), "root"),
        ];
        for (target, name) in links {
            symlinkat(&target, CWD, top.join(name)).expect("link");
        }
        let open = |path: &str| open_without_magic_links(&top.join(path), OFlags::PATH);
        let is_it = |path: &str| {
            let stat = rustix::fs::fstat(open(path)?)?;
            Ok::<_, Errno>(stat.st_ino == rustix::fs::stat(&file)?.st_ino)
        };
        for path in ["a/file", "absolute", "relative", "a/../../../../../../../../..", "./a/../relative"] {
            assert_eq!(is_it(path), Ok(!path.ends_with("..")), "{path}");
        }
        for path in ["loop", "magic", "root/passwd", "/proc/self/fd/0", "/proc/self/exe"] {
            assert_eq!(is_it(path), Err(Errno::LOOP), "{path}");
        }
        assert_eq!(is_it("dangling"), Err(Errno::NOENT));
        assert_eq!(is_it("a/file/x"), Err(Errno::NOTDIR));
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        assert!(open_without_magic_links(&top, directory).is_ok());
    }

    #[test]
    fn links_of_processes_are_followed_neither_with_nor_without_openat2() {
        magic_links();
        bellows_testkit::on_older_machines(magic_links);
    }

    #[test]
    fn paths_are_resolved_alike_with_and_without_openat2() {
        links_and_parents();
        bellows_testkit::on_older_machines(links_and_parents);
    }
}
