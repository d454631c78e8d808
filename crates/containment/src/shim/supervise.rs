//! Lives with a task until the last of its processes is gone, and kills what must not stay.
use super::{
    Ended,
    signal::{self, Wakeup},
};
use crate::process::{self, Identity};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// For those who send the shim a plain SIGTERM by hand.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
/// How often KILL is repeated: at first fast, for processes that were just forked; then seldom, for stuck ones.
const KILL_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Every descendant of the shim, in whatever session, comes back to it as a child (it is their subreaper): when it has
/// no child left, the container is empty.
pub(super) fn until_gone(main: Pid) -> Ended {
    let mut ended = None;
    let mut kill_at: Option<Instant> = None;
    let mut kill_again = KILL_AGAIN.0;
    loop {
        let children_left = reap(main, &mut ended);
        match (&ended, children_left) {
            (Some(_), false) => return ended.expect("invariant: just matched"),
            // Nobody asked for an end with grace: what the main process left behind goes at once.
            (Some(_), true) if kill_at.is_none() => kill_at = Some(Instant::now()),
            _ => {}
        }
        let timeout = kill_at.map(|kill_at| {
            let left = kill_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                signal_descendants(Signal::KILL, &mut HashSet::new());
                kill_again = (kill_again * 2).min(KILL_AGAIN.1);
                kill_again
            } else {
                left
            }
        });
        if let Wakeup::Kill(grace) = signal::wait(timeout) {
            let grace = grace.unwrap_or(DEFAULT_GRACE);
            if kill_at.is_none() && !grace.is_zero() {
                terminate();
            }
            let at = Instant::now() + grace;
            kill_at = Some(kill_at.map_or(at, |earlier| earlier.min(at)));
        }
    }
}

/// Takes in all that have ended; `false` when there is no child any more.
fn reap(main: Pid, ended: &mut Option<Ended>) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == main => *ended = Some(ending(status)),
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn ending(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, Some(signal)) => Ended::Signaled(signal),
        (None, None) => Ended::Failed("ended in a way that the kernel did not tell".into()),
    }
}

/// TERM to each descendant once, also to those forked while this goes on; a bounded number of rounds, because those
/// that fork for ever are KILLed after the grace anyway.
fn terminate() {
    let mut told = HashSet::new();
    for _round in 0..8 {
        if !signal_descendants(Signal::TERM, &mut told) {
            return;
        }
    }
}

/// To all that are not in `told` yet; `false` when there was none.
fn signal_descendants(signal: Signal, told: &mut HashSet<Identity>) -> bool {
    let mut found = false;
    for process in process::descendants(&process::all(), [std::process::id()]) {
        if !process.is_zombie() && told.insert(process.identity) {
            found = true;
            // One that ended meanwhile needs no signal.
            let _ = process.identity.signal(signal);
        }
    }
    found
}
