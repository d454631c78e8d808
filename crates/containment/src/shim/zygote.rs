//! The zygote: executed once for an agent, and forked for each task. An `execve` of the whole binary, with the
//! relocation of a large executable, would cost more processor time than everything else that a shim does.
//!
//! It reads no instruction and knows no task. It ends with the agent process that started it; shims do not.
#![allow(unsafe_code, reason = "a fork whose child belongs to this process' parent has no safe wrapper")]
use super::signal;
use crate::process::Handle;
use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send,
        sendmsg, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, WaitOptions, setsid, waitpid},
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The agent's side.
pub(crate) struct Zygote {
    process: Child,
    channel: OwnedFd,
}

impl Zygote {
    /// `exe` answers `shim` as its first argument with [`super::main`], and each fork within `patience`.
    pub(crate) fn start(exe: &Path, patience: Duration) -> io::Result<Self> {
        let (channel, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&channel, Timeout::Recv, Some(patience))?;
        let process = Command::new(exe)
            .arg0("bellows")
            .arg("shim")
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, channel })
    }

    /// A new shim, a child of this process, and the socket on which it waits for its instruction. It ends when that is
    /// closed before. Only one call at a time, and none after one that failed: its answer may still come.
    pub(crate) fn fork(&self) -> io::Result<(Handle, UnixStream)> {
        let (conversation, theirs) = UnixStream::pair()?;
        let theirs = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&theirs));
        sendmsg(&self.channel, &[IoSlice::new(&[0])], &mut rights, SendFlags::NOSIGNAL)?;
        let mut answer = [0; 4];
        let (length, _) = recv(&self.channel, &mut answer, RecvFlags::empty())?;
        if length != answer.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended"));
        }
        let answer = i32::from_le_bytes(answer);
        let pid = Pid::from_raw(answer).filter(|_| answer > 0);
        let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(-answer))?;
        // Not reaped yet, so the pid is its own.
        match Handle::of_child(pid) {
            Ok(handle) => Ok((handle, conversation)),
            Err(why) => {
                drop(conversation);
                let _ = waitpid(Some(pid), WaitOptions::empty());
                Err(why)
            }
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Killed between its fork and its answer, it leaves a shim that nobody knows. That one ends at once, its socket
        // being closed, and is a zombie until this process ends: too rare to be worth a search for it.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Returns in every shim, with its socket to the agent; and, `None`, in the zygote itself when the agent is gone. All
/// signals are blocked then and have their default effect.
pub(super) fn serve() -> io::Result<Option<UnixStream>> {
    signal::block_all()?;
    signal::default_all();
    // Out of the agent's session: what is typed at or done to its terminal is no concern of the task's.
    let _ = setsid();
    let _ = rustix::thread::set_name(c"bellows-zygote");
    rustix::process::chdir("/")?;
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    while let Some(conversation) = receive(&channel)? {
        let answer = match fork_sibling() {
            Ok(None) => return Ok(Some(conversation.into())),
            Ok(Some(pid)) => pid,
            Err(why) => -why.raw_os_error().unwrap_or(libc::EIO),
        };
        send(&channel, &answer.to_le_bytes(), SendFlags::NOSIGNAL)?;
    }
    Ok(None)
}

/// The next shim's socket; `None` when the agent is gone.
fn receive(channel: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let sent = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match sent {
        Some(descriptor) if !received.flags.contains(ReturnFlags::CTRUNC) => Ok(Some(descriptor)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A fork whose child is the agent's, which so waits for its shims itself; `None` in the child.
fn fork_sibling() -> io::Result<Option<i32>> {
    // SAFETY: the zygote has one thread, so the child is a whole copy of it, with no lock held. That the C library's
    // handlers of forks do not run is harmless: none is registered, and what they would reset concerns threads.
    // Each argument has the width that the kernel reads.
    match unsafe {
        libc::syscall(libc::SYS_clone, libc::CLONE_PARENT as usize, 0_usize, 0_usize, 0_usize, 0_usize)
    } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(i32::try_from(pid).expect("invariant: a pid"))),
    }
}
