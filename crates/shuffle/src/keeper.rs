//! Whose directory it is below a root that an agent keeps account of, from what the agent leaves there. Only this file
//! knows how that looks.

use std::io::{self, Read};
use std::path::Path;

use crate::blocks::is_plain_file_name;
use crate::config::KEEPER_DIR;

/// One entry for each framework, by its id.
const LEDGER: &str = "frameworks";
const MAX_ENTRY_BYTES: u64 = 4096;

/// Whether `dir` lies in the directory that the agent made for the application (`ROOT/DIRECTORY/blockmgr-*`); nothing
/// where no agent keeps account of any directory between `dir` and `top`. Looks at a disk.
pub(crate) fn keeps(dir: &Path, top: Option<&Path>, app: &str) -> io::Result<Option<bool>> {
    let within = dir.ancestors().skip(1).take_while(|above| top.is_none_or(|top| above.starts_with(top)));
    for above in within {
        let keeper = above.join(KEEPER_DIR);
        if !keeper.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            continue;
        }
        let framework = dir.parent().filter(|framework| framework.parent() == Some(above));
        let Some(name) = framework.and_then(|framework| framework.file_name()?.to_str()) else {
            return Ok(Some(false));
        };
        return Ok(Some(directory_of(&keeper, app)?.is_some_and(|directory| directory == name)));
    }
    Ok(None)
}

/// The name of the directory that was made for a framework: what its entry says, or its id where that says nothing.
fn directory_of(keeper: &Path, app: &str) -> io::Result<Option<String>> {
    if !is_plain_file_name(app) {
        return Ok(None);
    }
    let mut text = String::new();
    match std::fs::File::open(keeper.join(LEDGER).join(app)) {
        Ok(entry) => entry.take(MAX_ENTRY_BYTES).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = text.trim();
    Ok(Some(if name.is_empty() { app.to_owned() } else { name.to_owned() }))
}
