//! Copies files of this machine in a process of the task's user.
//!
//! A thread with the user's rights would not do: what `/proc/self` leads to are the descriptors of the whole process,
//! the agent's checkpoint among them. The process here has nothing open but what it copies to, and follows no such link.
#![allow(unsafe_code, reason = "descriptors of others are closed")]
use super::FetchFailure;
use crate::Owner;
use bellows_syscall::open_without_magic_links;
use rustix::{
    fs::{FileType, Mode, OFlags, fstat, fstatfs, open},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

/// Second argument (after `shim`) of the process.
pub(crate) const READER: &str = "read";
const ANSWER_LIMIT_BYTES: usize = 16 * 1024;
/// The process says after each such part that it has got on. The file's size would not do: it is the user's to change.
const PART_BYTES: u64 = 1 << 20;
/// What it says then: JSON may begin with it.
const PROGRESS: u8 = b'\n';
/// File systems that the kernel makes up: what is read there are no files, and may be somebody's secrets.
/// (`include/uapi/linux/magic.h`)
const OF_THE_KERNEL: [u32; 10] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x4249_4e4d, // binfmt_misc
    0xcafe_4a11, // bpf
];

#[derive(Serialize, Deserialize)]
struct Request {
    path: PathBuf,
    limit_bytes: u64,
    user: Option<Owner>,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Copied,
    TooLarge,
    CannotRead(Failure),
    CannotCopy(Failure),
}

/// An [`io::Error`] on its way to another process.
#[derive(Serialize, Deserialize)]
struct Failure {
    code: Option<i32>,
    text: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { code: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        failure.code.map_or_else(|| Self::other(failure.text), Self::from_raw_os_error)
    }
}

/// One file's way.
pub(super) struct Copy<'a> {
    pub(super) exe: &'a Path,
    pub(super) from: &'a Path,
    /// `file` lies there.
    pub(super) to: &'a Path,
    pub(super) file: File,
    /// `None`: the agent's own user.
    pub(super) user: Option<&'a Owner>,
    pub(super) limit_bytes: u64,
    /// The copy is given up when nothing arrived for so long.
    pub(super) patience: Duration,
}

impl Copy<'_> {
    /// Ends the process when it is dropped.
    pub(super) async fn run(self) -> Result<(), FetchFailure> {
        let started = |why: io::Error| {
            FetchFailure::io(
                self.exe,
                io::Error::other(format!("cannot start the process that reads: {why}")),
            )
        };
        let (conversation, theirs) = UnixStream::pair().map_err(started)?;
        let mut reader = Command::new(self.exe)
            .arg0("bellows")
            .args(["shim", READER])
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(self.file)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(started)?;
        let request =
            Request { path: self.from.into(), limit_bytes: self.limit_bytes, user: self.user.cloned() };
        conversation.set_nonblocking(true).map_err(started)?;
        let mut conversation = tokio::net::UnixStream::from_std(conversation).map_err(started)?;
        let request = serde_json::to_vec(&request).map_err(|why| started(why.into()))?;
        conversation.write_all(&request).await.map_err(started)?;
        conversation.shutdown().await.map_err(started)?;
        let mut answer = Vec::new();
        while answer.len() < ANSWER_LIMIT_BYTES {
            let said = timeout(self.patience, conversation.read_buf(&mut answer)).await.map_err(|_| {
                let why = format!("nothing could be read of it for {} s", self.patience.as_secs_f64());
                FetchFailure::io(self.from, io::Error::new(io::ErrorKind::TimedOut, why))
            })?;
            if !said.is_ok_and(|count| count > 0) {
                break;
            }
            if answer.iter().all(|byte| *byte == PROGRESS) {
                answer.clear();
            }
        }
        // It has said its last word.
        let _ = reader.wait().await;
        match serde_json::from_slice(&answer) {
            Ok(Answer::Copied) => Ok(()),
            Ok(Answer::TooLarge) => Err(FetchFailure::TooLarge),
            Ok(Answer::CannotRead(why)) => Err(FetchFailure::io(self.from, why)),
            Ok(Answer::CannotCopy(why)) => Err(FetchFailure::io(self.to, why)),
            Err(_) => {
                Err(FetchFailure::io(self.from, io::Error::other("the process that reads it has died")))
            }
        }
    }
}

/// Entry point of the process: request and answer pass through its standard input, a socket; the file's content goes
/// to its standard output. Returns the exit code.
pub(crate) fn main() -> i32 {
    // SAFETY: nothing in this process has opened anything yet; its three standard streams stay.
    if unsafe { bellows_syscall::close_from(3) }.is_err() {
        return 1;
    }
    let _ = rustix::thread::set_name(c"bellows-fetch");
    match converse() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn converse() -> io::Result<()> {
    let mut conversation = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut request = Vec::new();
    conversation.read_to_end(&mut request)?;
    let request: Request = serde_json::from_slice(&request)?;
    let mut to = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let answer = answer(&request, &mut to, || conversation.write_all(&[PROGRESS]));
    conversation.write_all(&serde_json::to_vec(&answer)?)?;
    conversation.shutdown(Shutdown::Both)
}

fn answer(request: &Request, to: &mut File, mut progress: impl FnMut() -> io::Result<()>) -> Answer {
    if let Some(user) = &request.user
        // One thread: what holds for the thread holds for the process.
        && let Err(why) = user.assume_on_this_thread()
    {
        let why = io::Error::other(format!("cannot become user {}: {why}", user.uid));
        return Answer::CannotRead(why.into());
    }
    let source = match open_source(&request.path) {
        Ok((_, size)) if size > request.limit_bytes => return Answer::TooLarge,
        Ok((source, _)) => source,
        Err(why) => return Answer::CannotRead(why.into()),
    };
    // It may grow meanwhile.
    let mut left = request.limit_bytes.saturating_add(1);
    let mut copy_all = || -> io::Result<()> {
        loop {
            // File to file: the kernel copies, and shares the blocks where it can.
            let copied = io::copy(&mut (&source).take(left.min(PART_BYTES)), to)?;
            left -= copied;
            if copied == 0 || left == 0 {
                return Ok(());
            }
            progress()?;
        }
    };
    match copy_all() {
        Ok(()) if left == 0 => Answer::TooLarge,
        Ok(()) => Answer::Copied,
        Err(why) => Answer::CannotCopy(why.into()),
    }
}

/// A regular file of a real file system, and its size. It is looked at before it is opened: to open a device or a FIFO
/// has effects.
fn open_source(path: &Path) -> io::Result<(File, u64)> {
    let found = open_without_magic_links(path, OFlags::PATH).map_err(|why| match why {
        Errno::LOOP => io::Error::other("too many links, or one of /proc's to an open file"),
        why => why.into(),
    })?;
    if u32::try_from(fstatfs(&found)?.f_type).is_ok_and(|magic| OF_THE_KERNEL.contains(&magic)) {
        return Err(io::Error::other(
            "it lies in a file system of the kernel's (/proc, /sys), which is not fetched",
        ));
    }
    let stat = fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    // The very file that was looked at; without waiting for whoever holds a lease on it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = open(format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty())?;
    Ok((opened.into(), u64::try_from(stat.st_size).unwrap_or(0)))
}
