//! `close_range` (Linux 5.9; its flag CLOSE_RANGE_CLOEXEC 5.11), else `/proc/self/fd`.
#![allow(unsafe_code, reason = "close_range has no safe wrapper, nor have descriptors of others")]
use rustix::io::Errno;
use std::{fs, io};

/// Marks every open descriptor from `first` on to be closed by the next `execve` of this process. Only for processes
/// with one thread: another could open one meanwhile.
pub fn close_on_exec_from(first: i32) -> io::Result<()> {
    // SAFETY: only marks descriptors; none is closed before an execve, which ends the program that owns them.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return Ok(());
    }
    for number in open_from(first)? {
        // SAFETY: as above.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            match io::Error::last_os_error() {
                why if why.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {}
                why => return Err(why),
            }
        }
    }
    Ok(())
}

/// Closes every open descriptor from `first` on.
///
/// # Safety
/// Nothing in this process may use one of them afterwards.
pub unsafe fn close_from(first: i32) -> io::Result<()> {
    // SAFETY: the caller's.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } == 0 {
        return Ok(());
    }
    for number in open_from(first)? {
        // SAFETY: the caller's. The one that listed them is closed already.
        unsafe { libc::close(number) };
    }
    Ok(())
}

fn open_from(first: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    found.retain(|number| *number >= first);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        fd::{AsRawFd, OwnedFd},
        fs::{Mode, OFlags, open},
        io::{FdFlags, fcntl_getfd},
    };

    fn all_are_marked() {
        // Low ones are other tests'.
        let open = || open("/", OFlags::PATH, Mode::empty()).expect("open");
        let inherited: Vec<OwnedFd> = (0..50).map(|_| open()).collect();
        let first = &inherited[25];
        close_on_exec_from(first.as_raw_fd()).expect("marked");
        for file in &inherited {
            let is_marked = fcntl_getfd(file).expect("open").contains(FdFlags::CLOEXEC);
            assert_eq!(is_marked, file.as_raw_fd() >= first.as_raw_fd());
        }
    }

    #[test]
    fn descriptors_are_closed_by_execve() {
        all_are_marked();
        bellows_testkit::on_older_machines(all_are_marked);
    }
}
