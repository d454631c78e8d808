//! Takes glibc's name service out of the binary: these functions stand in its place and know nothing.
//!
//! `bellows-names` looks names up. In a static binary glibc would load NSS modules, and crash, for whoever still asks it: a
//! library, or the standard library on behalf of one. Such a question fails instead, and what it would have needed is not
//! linked at all.
#![allow(unsafe_code, reason = "symbols of the C library are replaced, and called by whoever links to them")]

use std::ffi::{c_char, c_int};

/// Instead of `getaddrinfo`: fails for good, and changes nothing.
// SAFETY: the signature is that of POSIX; no pointer is read or written, as POSIX allows for a failure.
#[unsafe(no_mangle)]
extern "C" fn getaddrinfo(
    _node: *const c_char,
    _service: *const c_char,
    _hints: *const libc::addrinfo,
    _result: *mut *mut libc::addrinfo,
) -> c_int {
    libc::EAI_FAIL
}

/// Instead of `freeaddrinfo`: there is never anything to free.
// SAFETY: the signature is that of POSIX; the only list there can be is an empty one.
#[unsafe(no_mangle)]
extern "C" fn freeaddrinfo(_list: *mut libc::addrinfo) {}

/// Instead of `getpwuid_r`, which the standard library asks for a home directory: nobody is known.
// SAFETY: the signature is that of POSIX; `result` is valid for a write by its contract, and null says "not found".
#[unsafe(no_mangle)]
unsafe extern "C" fn getpwuid_r(
    _uid: libc::uid_t,
    _entry: *mut libc::passwd,
    _buffer: *mut c_char,
    _length: libc::size_t,
    result: *mut *mut libc::passwd,
) -> c_int {
    // SAFETY: see above.
    unsafe { *result = std::ptr::null_mut() };
    0
}
