//! Keeps what tasks print from filling the disk: `stdout` is moved to `stdout.1`, that to `stdout.2`, and so on.
//!
//! A task appends through its own descriptor, so the file stays and is emptied once it is copied. What is written in the
//! microseconds between the last read and the emptying is lost. A process that reads a pipe, as Mesos' module starts one
//! for each output, would lose nothing; but its end would be the task's.
use crate::{Owner, owner::run_as};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstat, ftruncate, open, openat, renameat, statat, unlinkat},
    io::Errno,
    process::geteuid,
};
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
};

const OUTPUTS: [&str; 2] = ["stdout", "stderr"];
const BLOCK_BYTES: u64 = 512;

/// How much of a task's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// A file that has grown beyond this is rotated.
    pub max_bytes: u64,
    /// How many old ones are kept of each.
    pub old_files: u32,
}

impl Rotation {
    /// Looks at a sandbox's `stdout` and `stderr`, and rotates what is too large, with the rights of the sandbox's owner:
    /// what a task puts in their place leads to nothing that it could not write itself. May block.
    pub fn rotate(&self, sandbox: &Path) -> io::Result<()> {
        let directory = open(
            sandbox,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let is_large = |name: &&str| {
            statat(&directory, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| self.is_exceeded_by(&stat))
        };
        let large: Vec<_> = OUTPUTS.into_iter().filter(|name| is_large(name)).collect();
        if large.is_empty() {
            return Ok(());
        }
        let metadata = File::from(directory.try_clone()?).metadata()?;
        let owner = Owner { uid: metadata.uid(), gid: metadata.gid(), groups: vec![metadata.gid()] };
        let owner = Some(&owner).filter(|owner| owner.uid != geteuid().as_raw());
        run_as(owner, || large.iter().try_for_each(|name| self.rotate_one(&directory, name)))
    }

    /// By what it takes on the disk: a task that does not append goes on behind a hole.
    fn is_exceeded_by(&self, stat: &rustix::fs::Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_size as u64 > self.max_bytes
            && stat.st_blocks as u64 * BLOCK_BYTES > self.max_bytes
    }

    fn rotate_one(&self, directory: &OwnedFd, name: &str) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(directory, name, flags, Mode::empty())?;
        if !self.is_exceeded_by(&fstat(&file)?) {
            return Ok(());
        }
        let mut file = File::from(file);
        if self.old_files > 0 {
            let copy = format!(".{name}.rotating");
            absent(unlinkat(directory, &copy, AtFlags::empty()))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
            let mut old = File::from(openat(directory, &copy, flags, mode)?);
            let moved = io::copy(&mut file, &mut old).and_then(|_| Ok(self.shift(directory, name, &copy)?));
            if moved.is_err() {
                let _ = unlinkat(directory, &copy, AtFlags::empty());
                return moved;
            }
            // What came meanwhile.
            while io::copy(&mut file, &mut old)? > 0 {}
        }
        Ok(ftruncate(&file, 0)?)
    }

    fn shift(&self, directory: &OwnedFd, name: &str, newest: &str) -> rustix::io::Result<()> {
        let numbered = |number: u32| format!("{name}.{number}");
        let rename = |from: &str, to: &str| renameat(directory, from, directory, to);
        for number in (1..self.old_files).rev() {
            absent(rename(&numbered(number), &numbered(number + 1)))?;
        }
        rename(newest, &numbered(1))
    }
}

fn absent(outcome: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write, os::unix::fs::symlink};

    fn read(sandbox: &Path, name: &str) -> Option<String> {
        fs::read_to_string(sandbox.join(name)).ok()
    }

    #[test]
    fn a_writer_goes_on_while_its_output_is_rotated() {
        let dir = tempfile::tempdir().expect("directory");
        let sandbox = dir.path();
        let mut stdout =
            File::options().append(true).create(true).open(sandbox.join("stdout")).expect("created");
        fs::write(sandbox.join("stderr"), "short").expect("written");
        let rotation = Rotation { max_bytes: 10_000, old_files: 2 };
        for generation in 1..=4 {
            stdout.write_all(format!("{generation}").repeat(10_000).as_bytes()).expect("written");
            rotation.rotate(sandbox).expect("looked at");
            assert_eq!(
                fs::metadata(sandbox.join("stdout")).expect("there").len(),
                10_000,
                "not more than it may"
            );
            stdout.write_all(b"!").expect("written");
            rotation.rotate(sandbox).expect("rotated");
            assert_eq!(read(sandbox, "stdout").as_deref(), Some(""));
            let newest = read(sandbox, "stdout.1").expect("kept");
            assert!(newest.len() == 10_001 && newest.starts_with(&generation.to_string()), "{generation}");
        }
        assert!(read(sandbox, "stdout.2").expect("kept").starts_with('3'));
        assert_eq!(fs::read_dir(sandbox).expect("readable").count(), 4, "stdout, two old ones, stderr");
        assert_eq!(read(sandbox, "stderr").as_deref(), Some("short"));
        stdout.write_all(b"on").expect("written");
        assert_eq!(read(sandbox, "stdout").as_deref(), Some("on"));
    }

    #[test]
    fn without_old_files_it_is_emptied() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("stderr"), [b'x'; 20_000]).expect("written");
        Rotation { max_bytes: 10_000, old_files: 0 }.rotate(dir.path()).expect("rotated");
        assert_eq!(read(dir.path(), "stderr").as_deref(), Some(""));
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn what_a_task_puts_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let (sandbox, outside) = (dir.path().join("sandbox"), dir.path().join("outside"));
        fs::create_dir(&sandbox).expect("created");
        fs::write(&outside, [b'x'; 20_000]).expect("written");
        symlink(&outside, sandbox.join("stdout")).expect("link");
        fs::create_dir(sandbox.join("stderr")).expect("created");
        let rotation = Rotation { max_bytes: 10_000, old_files: 2 };
        rotation.rotate(&sandbox).expect("nothing to do");
        assert_eq!(fs::metadata(&outside).expect("there").len(), 20_000);
        // A link in place of the old ones is replaced, not written through.
        fs::remove_file(sandbox.join("stdout")).expect("removed");
        fs::write(sandbox.join("stdout"), [b'y'; 20_000]).expect("written");
        for name in ["stdout.1", ".stdout.rotating"] {
            symlink(&outside, sandbox.join(name)).expect("link");
        }
        rotation.rotate(&sandbox).expect("rotated");
        assert!(read(&sandbox, "stdout.1").expect("kept").starts_with('y'));
        assert_eq!(fs::read(&outside).expect("there"), [b'x'; 20_000]);
    }
}
