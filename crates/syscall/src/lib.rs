//! System calls newer than the oldest kernel that Bellows runs on (Linux 4.18), each with what replaces it.
//!
//! A kernel that lacks a call says ENOSYS; an old seccomp profile says EPERM to every call that it does not know. EPERM
//! has other meanings, too: then the replacement runs into the same refusal and gives the same answer. So nothing is
//! probed or remembered.
mod descriptors;
mod open;
mod pidfd;

pub use descriptors::{close_from, close_on_exec_from};
pub use open::{open_beneath, open_without_magic_links, open_without_symlinks};
pub use pidfd::open_pidfd;

use rustix::io::Errno;

/// Whether `why` may mean that the call is not there at all.
pub fn is_refused(why: Errno) -> bool {
    matches!(why, Errno::NOSYS | Errno::PERM)
}
