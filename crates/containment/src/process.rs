//! What `/proc` tells of processes: who they are, whose children, what they use; and signals that hit no stranger.
//!
//! A pid alone is never trusted: it may have been given to another process meanwhile.
use bellows_syscall::{is_refused, open_pidfd};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, pidfd_send_signal, waitid},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process that ran or runs since the machine started: pids come again, start times do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub(crate) start: u64,
}

impl Identity {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start: Stat::read(pid)?.identity.start })
    }

    pub(crate) fn lives(self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.identity == self && !stat.is_zombie())
    }

    /// An error once the process has ended.
    pub(crate) fn signal(self, signal: Signal) -> io::Result<()> {
        let pidfd = open_pidfd(self.raw()?)?;
        // With the pidfd open, the pid cannot come to mean another process unnoticed.
        if !self.lives() {
            return Err(io::ErrorKind::NotFound.into());
        }
        match pidfd.map(|pidfd| pidfd_send_signal(pidfd, signal)) {
            Some(Err(why)) if !is_refused(why) => Err(why.into()),
            Some(Ok(())) => Ok(()),
            // Without a pidfd a stranger would be hit only if all pids were given out once since the look at it.
            None | Some(Err(_)) => Ok(kill_process(self.raw()?, signal)?),
        }
    }

    fn raw(self) -> io::Result<Pid> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// How often a process is looked at that cannot be watched.
const POLL: Duration = Duration::from_millis(100);

/// One process whose end can be waited for. Where there are no pidfds, it is looked at from time to time. Must be made
/// within a Tokio runtime.
pub(crate) struct Handle {
    identity: Identity,
    /// A child that nobody has waited for keeps its pid.
    is_child: bool,
    pidfd: Option<AsyncFd<OwnedFd>>,
}

impl Handle {
    /// To a child of this process that nobody has waited for yet, nor will: [`Handle::reap`] does.
    pub(crate) fn of_child(pid: Pid) -> io::Result<Self> {
        let identity = Identity::of(pid.as_raw_pid() as u32)?;
        let pidfd = open_pidfd(pid)?.map(watchable).transpose()?;
        Ok(Self { identity, is_child: true, pidfd })
    }

    /// To a process that is no child of this one; `None` when it has ended.
    pub(crate) fn of_stranger(identity: Identity) -> io::Result<Option<Self>> {
        let pidfd = match open_pidfd(identity.raw()?) {
            Err(why) if why.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(None),
            pidfd => pidfd?.map(watchable).transpose()?,
        };
        Ok(identity.lives().then_some(Self { identity, is_child: false, pidfd }))
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|pidfd| pidfd.get_ref().as_fd())
    }

    /// Returns when the process has ended; an error means that the runtime shuts down.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        let Some(pidfd) = &self.pidfd else {
            while self.identity.lives() {
                tokio::time::sleep(POLL).await;
            }
            return Ok(());
        };
        pidfd.readable().await.map(drop)
    }

    /// Waits for a child that has ended or is about to, so that it leaves no zombie. Call once.
    pub(crate) fn reap(&self) {
        if self.is_child
            && let Ok(pid) = self.identity.raw()
        {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
        }
    }
}

/// The fields of `/proc/PID/stat` that matter here (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) identity: Identity,
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// Its own and that of the children it has waited for, in clock ticks.
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
    pub(crate) rss_pages: u64,
}

impl Stat {
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(pid, &text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(pid: u32, text: &[u8]) -> Option<Self> {
        // The second field is the program's name in parentheses, with whatever it contains.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let fields: Vec<&str> = std::str::from_utf8(text.get(end + 2..)?).ok()?.split_whitespace().collect();
        // Numbered from 1 in the manual; the third is the first here.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            identity: Identity { pid, start: number(22)? },
            state: *fields.first()?.as_bytes().first()?,
            parent: number(4)? as u32,
            group: number(5)? as u32,
            session: number(6)? as u32,
            user_ticks: number(14)? + number(16)?,
            system_ticks: number(15)? + number(17)?,
            rss_pages: number(24)?,
        })
    }

    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Wraps a process handle, which becomes readable when its process has ended.
#[allow(unsafe_code, reason = "Tokio cannot see that the descriptor stays the same")]
fn watchable(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and keeps its number as long as the `AsyncFd` owns it; nothing takes it out.
    unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }.map_err(io::Error::from)
}

/// All processes, as they were while this looked. Those that end meanwhile are left out.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Stat::read(pid).ok())
        .collect()
}

/// The members of `processes` whose ancestry leads to one of `roots`, without the roots, parents first.
pub(crate) fn descendants(processes: &[Stat], roots: impl IntoIterator<Item = u32>) -> Vec<Stat> {
    let mut children: HashMap<u32, Vec<&Stat>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let mut seen: HashSet<u32> = roots.into_iter().collect();
    let mut queue: Vec<u32> = seen.iter().copied().collect();
    let mut found = Vec::new();
    while let Some(parent) = queue.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if seen.insert(child.identity.pid) {
                queue.push(child.identity.pid);
                found.push(**child);
            }
        }
    }
    found
}

/// The machine's current boot: start times of another boot mean nothing.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_that_contain_parentheses() {
        let line = b"77 (a) R (b)) S 5 6 7 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 999 1000 12 0\n";
        let stat = Stat::parse(77, line).expect("well formed");
        assert_eq!((stat.parent, stat.group, stat.session, stat.state), (5, 6, 7, b'S'));
        assert_eq!((stat.user_ticks, stat.system_ticks), (40, 60));
        assert_eq!((stat.identity.start, stat.rss_pages), (999, 12));
        assert!(Stat::parse(1, b"1 (x").is_none());
        assert!(Stat::parse(1, b"1 (x) S 1").is_none());
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_signalled() {
        let mine = Identity::of(std::process::id()).expect("own stat");
        assert!(mine.lives());
        let stranger = Identity { start: mine.start + 1, ..mine };
        assert!(stranger.signal(Signal::KILL).is_err());
    }

    #[test]
    fn a_cycle_or_a_stranger_is_no_descendant() {
        let process = |pid, parent| Stat {
            identity: Identity { pid, start: 1 },
            state: b'S',
            parent,
            group: 0,
            session: 0,
            user_ticks: 0,
            system_ticks: 0,
            rss_pages: 0,
        };
        let processes = [process(2, 1), process(3, 2), process(4, 9), process(5, 5), process(6, 3)];
        let mut pids: Vec<u32> = descendants(&processes, [2]).iter().map(|p| p.identity.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [3, 6]);
    }
}
