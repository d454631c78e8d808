//! How much memory this process takes.
#![allow(unsafe_code, reason = "mallopt, dl_iterate_phdr and madvise have no safe wrappers")]

use std::ffi::{c_int, c_void};

use libc::dl_phdr_info;
use rustix::mm::Advice;

/// A server's threads allocate little and in turn. With an arena for each of them, glibc's way, what is free in one is of
/// no use to another.
const ARENAS: i32 = 2;

/// To be called before the process starts threads.
pub fn few_arenas() {
    // SAFETY: sets one number of the allocator, under its own lock.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    debug_assert_eq!(done, 1, "glibc has had the option since 2.10");
}

/// Gives back the code and constants that only the start needed. What is needed again is mapped again, from the page
/// cache; most of it never is, and the kernel maps sixteen pages where one was asked for.
pub fn forget_startup() {
    // SAFETY: the callback keeps nothing of what it is shown.
    unsafe { libc::dl_iterate_phdr(Some(forget_read_only), std::ptr::null_mut()) };
}

/// The segments of the first object, the program, that the linker made for reading only: the pages are the file's.
unsafe extern "C" fn forget_read_only(program: *mut dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: valid for the length of this call.
    let program = unsafe { &*program };
    // SAFETY: as above; the program has as many headers.
    let headers = unsafe { std::slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into()) };
    let page = rustix::param::page_size();
    for segment in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        // Whole pages only: what lies beside it may have been written to.
        let start = program.dlpi_addr.wrapping_add(segment.p_vaddr) as usize;
        let end = start.wrapping_add(segment.p_memsz as usize) & !(page - 1);
        let start = start.checked_next_multiple_of(page).unwrap_or(end);
        let (first, bytes) = (std::ptr::with_exposed_provenance_mut(start), end.saturating_sub(start));
        // SAFETY: nothing writes to this segment, so that its pages are the same when they are read again.
        let done = unsafe { rustix::mm::madvise(first, bytes, Advice::LinuxDontNeed) };
        if let Err(error) = done {
            tracing::debug!(%error, "what only the start needed stays in memory");
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this program's read-only mappings.
    fn resident_kib() -> u64 {
        let program = std::env::current_exe().expect("Linux").display().to_string();
        let (mut counts, mut kib) = (false, 0);
        for line in std::fs::read_to_string("/proc/self/smaps").expect("Linux").lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("Rss:") if counts => {
                    kib += words.next().expect("a number").parse::<u64>().expect("a number");
                }
                Some(range) if !range.ends_with(':') => {
                    counts = line.ends_with(&program) && words.next().is_some_and(|may| !may.contains('w'));
                }
                _ => {}
            }
        }
        kib
    }

    #[test]
    fn code_is_given_back_and_runs_on() {
        let before = resident_kib();
        forget_startup();
        let after = resident_kib();
        assert!(after < before, "{after} of {before} KiB");
        few_arenas();
        assert_eq!(format!("{:?}", "a\n".to_owned()), r#""a\n""#);
    }
}
