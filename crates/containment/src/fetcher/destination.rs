//! Writes files below one directory and nowhere else, whatever their names and the links that lie there say.
use super::FetchFailure;
use bellows_syscall::open_beneath;
use rustix::{
    fs::{AtFlags, Mode, OFlags, fchmod, linkat, mkdirat, open, openat, symlinkat, unlinkat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

/// A directory, and how much may still be put into it.
pub(super) struct Destination {
    path: PathBuf,
    root: OwnedFd,
    left_bytes: u64,
    left_files: u64,
}

impl Destination {
    pub(super) fn open(path: &Path, limit_bytes: u64, limit_files: u64) -> Result<Self, FetchFailure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty()).map_err(|why| FetchFailure::io(path, why))?;
        Ok(Self { path: path.into(), root, left_bytes: limit_bytes, left_files: limit_files })
    }

    /// A new, empty file that replaces what bears its name; the directories above it are made.
    pub(super) fn create(&mut self, name: &Path, executable: bool) -> Result<File, FetchFailure> {
        let (parent, last) = self.place(name)?;
        let at = |why: Errno| FetchFailure::io(&self.path.join(name), why);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, &last, flags, Mode::RUSR | Mode::WUSR).map_err(at)?;
        // Not left to the umask of whoever started the agent.
        fchmod(&file, Mode::from_raw_mode(if executable { 0o755 } else { 0o644 })).map_err(at)?;
        Ok(file.into())
    }

    /// A regular file that lies here, for reading.
    pub(super) fn open_file(&self, name: &Path) -> Result<File, FetchFailure> {
        let at = |why: io::Error| FetchFailure::io(&self.path.join(name), why);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open_beneath(&self.root, name, flags).map_err(|why| at(why.into()))?);
        match file.metadata().map_err(at)?.is_file() {
            true => Ok(file),
            false => Err(at(io::Error::other("not a regular file"))),
        }
    }

    pub(super) fn write(
        &mut self,
        name: &Path,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), FetchFailure> {
        let mut file = self.create(name, executable)?;
        let written = io::copy(&mut content.take(self.left_bytes.saturating_add(1)), &mut file)
            .map_err(|why| FetchFailure::io(&self.path.join(name), why))?;
        self.left_bytes = self.left_bytes.checked_sub(written).ok_or(FetchFailure::TooLarge)?;
        Ok(())
    }

    pub(super) fn directory(&mut self, name: &Path) -> Result<(), FetchFailure> {
        self.count()?;
        self.make_directories(&plain(name)?).map(drop)
    }

    /// A link, wherever it leads: a virtual environment's go to the machine's own Python. Nothing is ever written through
    /// one that leaves the directory: see [`open_beneath`].
    pub(super) fn symlink(&mut self, name: &Path, target: &Path) -> Result<(), FetchFailure> {
        let (parent, last) = self.place(name)?;
        symlinkat(target, &parent, &last).map_err(|why| FetchFailure::io(&self.path.join(name), why))
    }

    pub(super) fn hard_link(&mut self, name: &Path, existing: &Path) -> Result<(), FetchFailure> {
        let source = plain(existing)?;
        let source_last = source.file_name().ok_or_else(|| hostile(existing))?;
        let source_parent = self.make_directories(source.parent().unwrap_or(Path::new("")))?;
        let (parent, last) = self.place(name)?;
        // Without following: a link to a link is one more such link.
        linkat(&source_parent, source_last, &parent, &last, AtFlags::empty())
            .map_err(|why| FetchFailure::io(&self.path.join(name), why))
    }

    /// The directory that `name` goes to and the name in it, which is free then.
    fn place(&mut self, name: &Path) -> Result<(OwnedFd, PathBuf), FetchFailure> {
        self.count()?;
        let name = plain(name)?;
        let last = PathBuf::from(name.file_name().ok_or_else(|| hostile(&name))?);
        let parent = self.make_directories(name.parent().unwrap_or(Path::new("")))?;
        match unlinkat(&parent, &last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((parent, last)),
            Err(why) => Err(FetchFailure::io(&self.path.join(name), why)),
        }
    }

    fn count(&mut self) -> Result<(), FetchFailure> {
        self.left_files = self.left_files.checked_sub(1).ok_or(FetchFailure::TooLarge)?;
        Ok(())
    }

    fn make_directories(&self, path: &Path) -> Result<OwnedFd, FetchFailure> {
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            open_beneath(&self.root, path, OFlags::PATH | OFlags::DIRECTORY)
        };
        let at = |why: Errno| FetchFailure::io(&self.path.join(path), why);
        match open(path) {
            Err(Errno::NOENT) => {}
            result => return result.map_err(at),
        }
        let mut so_far = PathBuf::new();
        let mut directory = open(&so_far).map_err(at)?;
        for component in path.components() {
            so_far.push(component);
            directory = match open(&so_far) {
                Err(Errno::NOENT) => {
                    mkdirat(&directory, component.as_os_str(), Mode::RWXU).map_err(at)?;
                    // Not left to the umask either.
                    let made = open_beneath(&self.root, &so_far, OFlags::RDONLY | OFlags::DIRECTORY);
                    fchmod(made.map_err(at)?, Mode::from_raw_mode(0o755)).map_err(at)?;
                    open(&so_far)
                }
                result => result,
            }
            .map_err(at)?;
        }
        Ok(directory)
    }
}

/// Without `.` and with nothing but names in it.
fn plain(name: &Path) -> Result<PathBuf, FetchFailure> {
    name.components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| match component {
            Component::Normal(name) => Ok(name),
            _ => Err(hostile(name)),
        })
        .collect()
}

fn hostile(name: &Path) -> FetchFailure {
    FetchFailure::Archive(format!("'{}' is not the name of a file inside of the sandbox", name.display()))
}
