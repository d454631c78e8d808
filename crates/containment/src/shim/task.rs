//! Forks the task's main process and takes it to its `execve`, or says why it did not get there.
#![allow(unsafe_code, reason = "fork and _exit have no safe wrapper")]
use super::{Failure, Instruction, Started, record::Slot, signal};
use crate::process::Identity;
use bellows_syscall::close_on_exec_from;
use rustix::process::{Pid, WaitOptions, getppid, setsid, waitpid};
use std::{
    fs::{File, OpenOptions},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    process::Command,
};

pub(super) enum Outcome {
    /// The command was executed.
    Running(Pid, Started),
    Failed(Failure),
}

/// Returns when the outcome is certain. `Started` is published before the command can do anything.
pub(super) fn start(instruction: &Instruction, slot: &Slot) -> io::Result<Outcome> {
    // Closed by a successful execve; what comes through it otherwise is the reason of the failure.
    let (reader, writer) = io::pipe()?;
    // SAFETY: the shim has one thread, so the child is a whole copy of it and may do whatever the shim may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => run_child(instruction, slot, writer),
        pid => {
            drop(writer);
            let pid = Pid::from_raw(pid).expect("invariant: fork returned a child");
            await_exec(pid, reader, slot)
        }
    }
}

fn await_exec(pid: Pid, mut reader: PipeReader, slot: &Slot) -> io::Result<Outcome> {
    let mut told = Vec::new();
    reader.read_to_end(&mut told)?;
    match slot.started() {
        Some(started) if told.is_empty() => Ok(Outcome::Running(pid, started)),
        _ => {
            let _ = waitpid(Some(pid), WaitOptions::empty());
            let died = |_| Failure::of_shim("the process ended before it executed its command");
            Ok(Outcome::Failed(serde_json::from_slice(&told).unwrap_or_else(died)))
        }
    }
}

fn run_child(instruction: &Instruction, slot: &Slot, mut writer: PipeWriter) -> ! {
    let Err(failure) = execute(instruction, slot);
    let _ = serde_json::to_vec(&failure).map(|told| writer.write_all(&told));
    // SAFETY: ends the process without running what the shim may have registered for its own exit.
    unsafe { libc::_exit(127) }
}

fn execute(instruction: &Instruction, slot: &Slot) -> Result<std::convert::Infallible, Failure> {
    let sandbox = instruction.sandbox.display();
    let _ = setsid();
    publish(instruction, slot).map_err(|why| Failure::of_shim(format!("cannot record the start: {why}")))?;
    if let Some(user) = &instruction.user {
        // One thread: what holds for the thread holds for the process.
        user.assume_on_this_thread().map_err(|why| Failure {
            why: format!("cannot become user {}: {why}", user.uid),
            of_task: true,
        })?;
    }
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    rustix::process::chdir(&instruction.sandbox)
        .map_err(|why| Failure::of_shim(format!("{sandbox}: {why}")))?;
    let output = |name: &str| {
        // A file of this name may have been fetched into the sandbox.
        let failed =
            |why: io::Error| Failure { why: format!("{sandbox}/{name}: {why}"), of_task: !is_of_disk(&why) };
        open_output(name).map_err(failed)
    };
    let stdout = output("stdout")?;
    let stderr = output("stderr")?;
    signal::unblock_all().map_err(|why| Failure::of_shim(format!("cannot unblock signals: {why}")))?;
    close_on_exec_from(3).map_err(|why| Failure::of_shim(format!("cannot close files: {why}")))?;

    let mut command = if instruction.shell {
        let mut command = Command::new("/bin/sh");
        command.arg0("sh").arg("-c").arg(&instruction.value);
        command
    } else {
        let mut command = Command::new(&instruction.value);
        if let Some((name, rest)) = instruction.arguments.split_first() {
            command.arg0(name).args(rest);
        }
        command
    };
    command.env_clear().envs(instruction.environment.iter().map(|(name, value)| (name, value)));
    let why = command.stdin(std::process::Stdio::null()).stdout(stdout).stderr(stderr).exec();
    let program = if instruction.shell { "/bin/sh" } else { &instruction.value };
    Err(Failure { why: format!("cannot execute '{program}': {why}"), of_task: true })
}

/// A quota that is used up is the task's user's.
fn is_of_disk(why: &io::Error) -> bool {
    use io::ErrorKind::{ReadOnlyFilesystem, StorageFull};
    [ReadOnlyFilesystem, StorageFull].contains(&why.kind()) || why.raw_os_error() == Some(libc::EIO)
}

fn publish(instruction: &Instruction, slot: &Slot) -> io::Result<()> {
    let shim = getppid().ok_or(io::ErrorKind::NotFound)?.as_raw_pid() as u32;
    let (shim, task) = (Identity::of(shim)?, Identity::of(std::process::id())?);
    match slot.start(Started { boot_id: instruction.boot_id.clone(), shim, task })? {
        true => Ok(()),
        false => Err(io::Error::other("the agent has given the container up")),
    }
}

/// Appended to, so that several writers keep their lines; never through a link that lies there.
fn open_output(name: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(name)
}
