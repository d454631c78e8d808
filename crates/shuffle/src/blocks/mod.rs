//! From a block's name to the bytes of a file: names, where an executor puts them, what is open. Reads only; what
//! deletes is in [`crate::tidy`].

mod cache;
mod dirs;
mod name;
mod output;

pub(crate) use cache::{BlockFiles, OutputKey};
pub(crate) use dirs::{DirError, FindError, LocalDir, LocalDirs};
pub(crate) use name::{
    BlockName, checksum_file, data_file, index_file, is_plain_file_name, map_of_file, rdd_file,
};
pub(crate) use output::{Look, MAX_KEPT_INDEX_BYTES, MapOutput, Moment, Source, parse_offsets};

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a block cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("{} belongs to user {owner}, not to the user of its directory", path.display())]
    AnothersFile { path: PathBuf, owner: u32 },
    #[error("{path} is not a sound index: {reason}", path = path.display())]
    BadIndex { path: PathBuf, reason: String },
    #[error("reduce ids {start}..{end} of an index with {partitions} partitions")]
    OutOfRange { start: i32, end: i32, partitions: u64 },
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

/// A part of an open file.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) source: Arc<Source>,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Segment {
    pub(crate) fn whole(source: Source) -> Segment {
        let bytes = source.bytes();
        Segment { source: Arc::new(source), offset: 0, bytes }
    }
}

/// A directory on a disk, where `/tmp` may be none: what a disk is waited for there is known not to be in memory.
#[cfg(test)]
pub(crate) fn dir_on_disk() -> tempfile::TempDir {
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tmp");
    std::fs::create_dir_all(&target).expect("the build's own");
    tempfile::tempdir_in(target.canonicalize().expect("exists")).expect("directory")
}

/// Has the kernel forget the file, as if it had been written long ago.
#[cfg(test)]
pub(crate) fn evict(path: &std::path::Path) {
    let file = std::fs::File::open(path).expect("there");
    file.sync_all().expect("synced");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
}
