//! Which executors of a standalone cluster have ended: nobody says so to a service that is not the worker's own.
//!
//! An executor is known by its process: its command line names application and executor, and its environment the
//! directory that the worker made for it. One that was never seen so is never taken for ended; nor is one whose process
//! cannot be looked at any more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

const MAX_READ_BYTES: u64 = 4 << 20;
const DIRS_VARIABLE: &[u8] = b"SPARK_EXECUTOR_DIRS=";

/// An executor, as `CoarseGrainedExecutorBackend` is told who it is.
pub(crate) type Name = (String, String);

/// A process that is an executor.
#[derive(Debug)]
pub(crate) struct Seen {
    pid: i32,
    /// Its directories; `None` where this user may not know.
    dirs: Option<Vec<PathBuf>>,
}

/// The executors that run on this machine now. Reads `/proc`: not for the threads that serve.
pub(crate) fn running() -> io::Result<HashMap<Name, Vec<Seen>>> {
    let mut found: HashMap<Name, Vec<Seen>> = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(executor) = read(pid, "cmdline").ok().and_then(|line| name_in(&line)) {
            let dirs = read(pid, "environ").ok().map(|environment| dirs_in(&environment));
            found.entry(executor).or_default().push(Seen { pid, dirs });
        }
    }
    Ok(found)
}

/// How an executor that is registered with `dir` is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is this process.
    Process(i32),
    /// A process may be it.
    Maybe,
    No,
}

pub(crate) fn presence(running: &[Seen], dir: &Path) -> Presence {
    let made_for_it =
        |dirs: &[PathBuf]| dir.parent().is_some_and(|parent| dirs.iter().any(|own| own == parent));
    let is_it = |seen: &&Seen| seen.dirs.as_deref().is_some_and(made_for_it);
    match running.iter().find(is_it) {
        Some(seen) => Presence::Process(seen.pid),
        None if running.iter().any(|seen| seen.dirs.is_none()) => Presence::Maybe,
        None => Presence::No,
    }
}

/// Whether the process that an executor was is that no more.
pub(crate) fn has_ended(pid: i32, name: &Name) -> bool {
    let Some(process) = Pid::from_raw(pid) else { return false };
    match test_kill_process(process) {
        Err(Errno::SRCH) => true,
        // Its number may be another's by now.
        _ => read(pid, "cmdline").is_ok_and(|line| name_in(&line).as_ref() != Some(name)),
    }
}

fn read(pid: i32, what: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{what}"))?.take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn name_in(command_line: &[u8]) -> Option<Name> {
    let words = || command_line.split(|byte| *byte == 0);
    let after = |flag: &str| {
        let word = words().skip_while(|word| *word != flag.as_bytes()).nth(1)?;
        Some(std::str::from_utf8(word).ok()?.to_owned())
    };
    Some((after("--app-id")?, after("--executor-id")?))
}

fn dirs_in(environment: &[u8]) -> Vec<PathBuf> {
    let mut variables = environment.split(|byte| *byte == 0);
    let dirs = variables.find_map(|variable| variable.strip_prefix(DIRS_VARIABLE)).unwrap_or_default();
    let dirs = String::from_utf8_lossy(dirs);
    dirs.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_is_known_by_its_command_line_and_its_directories() {
        let line = b"java\0-cp\0x\0CoarseGrainedExecutorBackend\0--executor-id\x007\0--app-id\0app-1\0";
        assert_eq!(name_in(line), Some(("app-1".to_owned(), "7".to_owned())));
        for other in [&b""[..], b"java\0--executor-id\x007\0", b"--app-id\0a\0--executor-id"] {
            assert_eq!(name_in(other), None);
        }
        let dirs = dirs_in(b"A=1\0SPARK_EXECUTOR_DIRS=/d/executor-1:/e/executor-2\0B=2");
        assert_eq!(dirs, [Path::new("/d/executor-1"), Path::new("/e/executor-2")]);
        let (it, another) = (Seen { pid: 7, dirs: Some(dirs) }, Seen { pid: 8, dirs: Some(Vec::new()) });
        let dir = Path::new("/e/executor-2/blockmgr-1");
        assert_eq!(presence(&[another, it], dir), Presence::Process(7));
        assert_eq!(presence(&[Seen { pid: 9, dirs: None }], dir), Presence::Maybe);
        assert_eq!(presence(&[Seen { pid: 8, dirs: Some(Vec::new()) }], dir), Presence::No);
    }

    #[test]
    fn a_process_that_lives_and_is_no_executor_has_ended_as_one() {
        let own = std::process::id() as i32;
        assert!(has_ended(own, &("app".to_owned(), "1".to_owned())));
        assert!(running().is_ok());
    }
}
