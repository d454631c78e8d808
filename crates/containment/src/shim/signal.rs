//! The one message an agent sends to a running shim: "kill the task, with this grace", as a queued signal.
//!
//! A signal needs no socket, no file and no disk space, and a handle makes it reach the right process.
#![allow(unsafe_code, reason = "queued signals and signal masks have no safe wrapper")]
use crate::process::Handle;
use rustix::io::Errno;
use std::{io, mem, os::fd::AsRawFd, time::Duration};

/// The kernel's `siginfo_t` for queued signals on 64-bit Linux (`include/uapi/asm-generic/siginfo.h`, `_rt`).
#[repr(C, align(8))]
struct SignalInfo {
    number: i32,
    errno: i32,
    code: i32,
    padding: i32,
    pid: i32,
    uid: u32,
    /// `sival_int`, the start of a union as large as a pointer.
    value: i32,
    rest: [i32; 25],
}
const _: () = assert!(mem::size_of::<SignalInfo>() == mem::size_of::<libc::siginfo_t>());
const _: () = assert!(mem::align_of::<SignalInfo>() >= mem::align_of::<libc::siginfo_t>());

impl SignalInfo {
    fn new(number: i32, code: i32, value: i32) -> Self {
        Self {
            number,
            errno: 0,
            code,
            padding: 0,
            pid: std::process::id() as i32,
            uid: rustix::process::getuid().as_raw(),
            value,
            rest: [0; 25],
        }
    }
}

/// A real-time signal: unlike a second SIGTERM, a second one of these is not merged with one that still waits.
const KILL_TASK: i32 = 40;

/// What made [`wait`] return.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wakeup {
    Child,
    /// `None`: a plain SIGTERM, which says nothing of a grace.
    Kill(Option<Duration>),
    Timeout,
}

/// Asks a shim to kill its task.
pub(crate) fn send_kill(shim: &Handle, grace: Duration) -> io::Result<()> {
    let grace_ms = i32::try_from(grace.as_millis()).unwrap_or(i32::MAX);
    let info = SignalInfo::new(KILL_TASK, libc::SI_QUEUE, grace_ms);
    if let Some(pidfd) = shim.pidfd() {
        // SAFETY: `info` is a whole `siginfo_t` (size asserted above) that outlives the call; the call only reads it.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), KILL_TASK, &raw const info, 0)
        };
        match Errno::from_io_error(&io::Error::last_os_error()) {
            _ if result == 0 => return Ok(()),
            Some(why) if !bellows_syscall::is_refused(why) => return Err(why.into()),
            _ => {}
        }
    }
    // As in `Identity::signal`.
    if !shim.identity().lives() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: as above.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, shim.identity().pid, KILL_TASK, &raw const info) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Blocks every signal, so that only KILL ends the shim and [`wait`] sees the rest.
pub(super) fn block_all() -> io::Result<()> {
    set_mask(true)
}

/// As a program expects to find it.
pub(super) fn unblock_all() -> io::Result<()> {
    set_mask(false)
}

/// No signal is ignored from here on, whoever started the agent.
pub(super) fn default_all() {
    for number in 1..=64 {
        // SAFETY: restores a default disposition; numbers that cannot be changed are refused, which is harmless.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

fn set_mask(full: bool) -> io::Result<()> {
    // SAFETY: `set` is initialised by sigfillset or sigemptyset before it is read.
    let result = unsafe {
        let mut set = mem::zeroed();
        if full {
            libc::sigfillset(&mut set)
        } else {
            libc::sigemptyset(&mut set)
        };
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for a child's end or a kill, whose signals must be blocked; `None` waits for ever.
pub(super) fn wait(timeout: Option<Duration>) -> Wakeup {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut info = SignalInfo::new(0, 0, 0);
    // SAFETY: `set` is initialised before use; `info` is a whole, writable `siginfo_t`; `timeout` is null or lives on.
    let signal = unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, KILL_TASK);
        libc::sigtimedwait(&set, (&raw mut info).cast(), timeout)
    };
    match signal {
        libc::SIGCHLD => Wakeup::Child,
        KILL_TASK => Wakeup::Kill(Some(Duration::from_millis(info.value.max(0) as u64))),
        libc::SIGTERM => Wakeup::Kill(None),
        _ => Wakeup::Timeout,
    }
}
