//! How much memory this process takes.
#![allow(unsafe_code, reason = "neither mallopt nor madvise has a safe wrapper")]

use std::ffi::c_void;

/// A server's threads allocate little and in turn. With an arena for each of them, glibc's way, what is free in one is of
/// no use to another.
const ARENAS: i32 = 2;

/// To be called before the process starts threads.
pub fn few_arenas() {
    // SAFETY: sets one number of the allocator, under its own lock.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    debug_assert_eq!(done, 1, "glibc has had the option since 2.10");
}

/// Gives back the code that only the start needed. What is needed again is mapped again, from the page cache; most of it
/// never is, and the kernel maps sixteen pages where one was asked for.
pub fn forget_code() {
    // Placed by the linker: all that is read-only and not relocated lies between them.
    unsafe extern "C" {
        static __executable_start: c_void;
        static etext: c_void;
    }
    let start = &raw const __executable_start;
    // SAFETY: the addresses are only compared.
    let bytes = (&raw const etext).addr() - start.addr();
    // SAFETY: the pages are the program file's, never written to, and so are the same when they are read again.
    let done = unsafe { libc::madvise(start.cast_mut(), bytes, libc::MADV_DONTNEED) };
    debug_assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_file_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("there");
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("since Linux 4.5");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[test]
    fn code_is_given_back_and_runs_on() {
        let before = resident_file_kib();
        forget_code();
        let after = resident_file_kib();
        assert!(after < before, "{after} of {before} KiB");
        few_arenas();
        assert_eq!(format!("{:?}", "a\n".to_owned()), r#""a\n""#);
    }
}
