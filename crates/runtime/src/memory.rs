//! How this process' memory is allocated.
#![allow(unsafe_code, reason = "mallopt has no safe wrapper")]

/// A server's threads allocate little and in turn. With an arena for each of them, glibc's way, what is free in one is of
/// no use to another.
const ARENAS: i32 = 2;

/// To be called before the process starts threads.
pub fn few_arenas() {
    // SAFETY: sets one number of the allocator, under its own lock.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    debug_assert_eq!(done, 1, "glibc has had the option since 2.10");
}
