//! Where a container's resources are measured, and its processes found when no shim is left to do it.
//!
//! The seam for cgroups: today there is only [`Posix`], which enforces nothing.
use crate::process::{self, Identity, Stat};
use bellows_model::ContainerId;
use rustix::process::Signal;
use std::{fs, time::Duration};

/// In the environment of every process of a container, unless it was dropped on purpose.
pub(crate) const MARKER: &str = "BELLOWS_CONTAINER_ID";

/// What the processes of one container use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// How many live.
    pub processes: u32,
    /// Of live processes and of those that they have waited for.
    pub cpu_user_seconds: f64,
    pub cpu_system_seconds: f64,
    pub rss_bytes: u64,
}

/// All calls may block.
pub trait Isolator: Send + Sync {
    /// `shim`: the parent of all the container's processes, itself not counted.
    fn usage(&self, container_id: &ContainerId, shim: u32) -> Usage;

    /// Kills what is left of a container that lost its shim. `leader`: its main process and that one's start time in
    /// clock ticks since boot. `false`: some process could not be killed in time.
    fn destroy(&self, container_id: &ContainerId, leader: (u32, u64)) -> bool;
}

/// Processes, their ancestry and environment, as `/proc` shows them.
pub struct Posix;

impl Isolator for Posix {
    fn usage(&self, _container_id: &ContainerId, shim: u32) -> Usage {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page_bytes = rustix::param::page_size() as u64;
        let mut usage = Usage::default();
        for process in process::descendants(&process::all(), [shim]) {
            usage.processes += u32::from(!process.is_zombie());
            usage.cpu_user_seconds += process.user_ticks as f64 / ticks;
            usage.cpu_system_seconds += process.system_ticks as f64 / ticks;
            usage.rss_bytes += process.rss_pages * page_bytes;
        }
        usage
    }

    fn destroy(&self, container_id: &ContainerId, (pid, start): (u32, u64)) -> bool {
        let leader = Identity { pid, start };
        // KILL takes effect when a process next runs: look again until nothing is left.
        for _try in 0..100 {
            let left = members(container_id, leader);
            if left.is_empty() {
                return true;
            }
            for process in left {
                let _ = process.identity.signal(Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

/// The live processes that carry the marker, or stand in the leader's session or group while the leader lives (once it
/// is gone its number may be another's), and all their descendants.
fn members(container_id: &ContainerId, leader: Identity) -> Vec<Stat> {
    let all = process::all();
    let leader_lives = all.iter().any(|process| process.identity == leader);
    let belongs = |process: &&Stat| {
        leader_lives && (process.session == leader.pid || process.group == leader.pid)
            || carries_marker(process.identity.pid, container_id)
    };
    let mut members: Vec<Stat> = all.iter().filter(belongs).copied().collect();
    let roots: Vec<u32> = members.iter().map(|process| process.identity.pid).collect();
    members.extend(process::descendants(&all, roots));
    members.retain(|process| !process.is_zombie());
    members
}

fn carries_marker(pid: u32, container_id: &ContainerId) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{MARKER}={container_id}");
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}
