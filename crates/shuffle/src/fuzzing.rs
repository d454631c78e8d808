//! What the fuzz targets reach of this crate: how an index file is read. Not for anyone else.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::blocks::{LocalDirs, Look, MapOutput, parse_offsets};

/// The offsets of an index file over `data_bytes` of data, when it is sound.
pub fn index_offsets(raw: &[u8], data_bytes: u64) -> Option<Box<[u64]>> {
    parse_offsets(raw, data_bytes).ok()
}

/// Where an executor with this one directory puts a file.
pub fn path(dir: &Path, file: &str) -> PathBuf {
    dirs(dir).path(file)
}

/// The output of map 0 of shuffle 0.
pub struct Output(MapOutput);

impl Output {
    /// Its index is kept in memory if it is no longer than `max_kept_bytes`.
    pub fn open(dir: &Path, max_kept_bytes: u64) -> Option<Output> {
        let data = MapOutput::open_data(path(dir, "shuffle_0_0_0.data"), None, Look::Disk).ok()?;
        MapOutput::open(path(dir, "shuffle_0_0_0.index"), data, max_kept_bytes, None, Look::Disk)
            .ok()
            .map(Output)
    }

    /// Which part of the data file the partitions are.
    pub fn partitions(&self, start: i32, end: i32) -> Option<Range<u64>> {
        let segment = self.0.partitions(start, end).ok()?.expect("invariant: there is a data file");
        Some(segment.offset..segment.offset + segment.bytes)
    }
}

fn dirs(dir: &Path) -> LocalDirs {
    let told = dir.to_str().expect("invariant: UTF-8").to_owned();
    LocalDirs::unseen(&[told], 64)
}
