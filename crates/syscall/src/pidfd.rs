//! `pidfd_open` (Linux 5.3).
use crate::is_refused;
use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::io;

/// Opens a descriptor that becomes readable when the process ends; `None` where there is no such call, and the process
/// has to be looked at from time to time.
pub fn open_pidfd(pid: Pid) -> io::Result<Option<OwnedFd>> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(why) if is_refused(why) => Ok(None),
        Err(why) => Err(why.into()),
    }
}
