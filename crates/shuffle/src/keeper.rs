//! Whose directory it is below a root that an agent keeps account of, from what the agent leaves there. Only this file
//! knows how that looks.

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use crate::config::KEEPER_DIR;

/// One entry for each directory, by its name.
const LEDGER: &str = "frameworks";
const MAX_ENTRY_BYTES: u64 = 4096;

/// What an entry says. One of an earlier release is empty: the directory was named by the framework's id.
#[derive(Deserialize)]
struct Entry {
    framework: String,
}

/// Whether `dir` lies in a directory that the agent made for the application (`ROOT/DIRECTORY/blockmgr-*`); nothing
/// where no agent keeps account of any directory between `dir` and `top`. Looks at a disk.
pub(crate) fn keeps(dir: &Path, top: Option<&Path>, app: &str) -> io::Result<Option<bool>> {
    let within = dir.ancestors().skip(1).take_while(|above| top.is_none_or(|top| above.starts_with(top)));
    for above in within {
        let keeper = above.join(KEEPER_DIR);
        if !keeper.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            continue;
        }
        let made = dir.parent().filter(|made| made.parent() == Some(above));
        let Some(name) = made.and_then(|made| made.file_name()?.to_str()) else { return Ok(Some(false)) };
        let framework = framework_of(&keeper.join(LEDGER).join(name), name)?;
        return Ok(Some(framework.is_some_and(|framework| framework == app)));
    }
    Ok(None)
}

/// The framework that a directory was made for.
fn framework_of(entry: &Path, directory: &str) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(CWD, entry, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = String::new();
    file.take(MAX_ENTRY_BYTES).read_to_string(&mut text)?;
    if text.is_empty() {
        return Ok(Some(directory.to_owned()));
    }
    Ok(serde_json::from_str::<Entry>(&text).ok().map(|entry| entry.framework))
}
