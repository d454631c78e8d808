//! How many files and connections this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A server that has more connections is no use to anybody; what a process may open is for other things, too.
const MOST: usize = 20_000;

/// Raises the limit as far as it goes without privileges: the usual 1,024 are from another time. Says what it is now.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::debug!(%error, "the limit of open files stays");
    }
    descriptor_limit()
}

fn descriptor_limit() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |current| usize::try_from(current).unwrap_or(usize::MAX))
}

/// The connections of one of `servers` in this process: half of what it may open is for their peers.
pub(crate) fn connections(servers: usize) -> usize {
    (raise_descriptor_limit() / 2 / servers.max(1)).clamp(8, MOST)
}
