//! One map task's output: a data file, and the offsets of its partitions. Opened once, then shared by all readers.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bellows_syscall::is_refused;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::dirs::{Opened, open_file};
use super::{BlockError, Segment};

const OFFSET_BYTES: u64 = 8;
/// Of a longer index the two offsets that a block needs are read from the file.
pub(crate) const MAX_KEPT_INDEX_BYTES: u64 = 256 << 10;

/// Where a file may be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Waits for the disk if it must: not for the threads that serve.
    Disk,
    /// Waits for nothing, where [`Source::is_local`]: what is not in memory is an error, of no meaning beyond that.
    Memory,
}

/// An open file that blocks are read from.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// See [`is_on_local_disk`].
    local: bool,
    /// See [`Opened::untouched`].
    untouched: bool,
}

impl Source {
    /// Opens a file of the user `owner`, where known.
    pub(crate) fn open(path: PathBuf, owner: Option<u32>, look: Look) -> Result<Source, BlockError> {
        let Opened { file, bytes, untouched } = open_file(&path, owner, look)?;
        let local = look == Look::Memory || is_on_local_disk(&file);
        Ok(Source { file, path, bytes, local, untouched })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills `buffer` from memory, or says how much of it was there: never waits for a disk.
    pub(crate) fn read_resident(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let mut slices = [IoSliceMut::new(&mut buffer[done..])];
            let at = offset + done as u64;
            match rustix::io::preadv2(&self.file, &mut slices, at, ReadWriteFlags::NOWAIT) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                // A file system or kernel that cannot say: treated as if nothing were in memory.
                Err(why) if why == Errno::OPNOTSUPP || why == Errno::INVAL || is_refused(why) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Fills `buffer`, waiting for the disk if it must.
    pub(crate) fn read_exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read(&self, buffer: &mut [u8], offset: u64, look: Look) -> io::Result<()> {
        match look {
            Look::Disk => self.read_exact(buffer, offset),
            Look::Memory if self.read_resident(buffer, offset)? == buffer.len() => Ok(()),
            Look::Memory => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Whether all that is in memory of it and its like is had without waiting for a disk, a process or a machine.
    pub(crate) fn is_local(&self) -> bool {
        self.local && self.untouched
    }

    /// Returns when this part was in memory, without a copy of it: what goes to /dev/null is read and passed on by
    /// reference.
    pub(crate) fn read_in(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let nowhere = File::options().write(true).open("/dev/null")?;
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let left = (end - at) as usize;
            if rustix::fs::sendfile(&nowhere, &self.file, Some(&mut at), left)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Whether the file is gone or was put there anew under the same name since it was opened. From memory, even where
    /// the file system would ask its disk or another machine.
    pub(crate) fn is_unlinked(&self) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let links = match rustix::fs::statx(&self.file, c"", flags, StatxFlags::NLINK) {
            Err(why) if is_refused(why) => rustix::fs::fstat(&self.file).map(|stat| stat.st_nlink),
            stat => stat.map(|stat| stat.stx_nlink.into()),
        };
        links == Ok(0)
    }
}

/// Whether its file system asks no other process or machine, and can say what is in memory (`RWF_NOWAIT`). May itself
/// wait.
fn is_on_local_disk(file: &File) -> bool {
    // Of linux/magic.h and the file systems' own headers: ext2 to ext4, XFS, Btrfs, F2FS.
    const LOCAL: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];
    rustix::fs::fstatfs(file).is_ok_and(|fs| LOCAL.contains(&(fs.f_type as u64)))
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// When a request came, or a look at a file began: later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(super) u64);

#[derive(Debug)]
enum Index {
    /// Start of each partition, and the end of the last.
    Kept(Box<[u64]>),
    OnDisk {
        file: Source,
    },
}

#[derive(Debug)]
pub(crate) struct MapOutput {
    index: Index,
    /// Absent when all partitions are empty and the executor wrote no file.
    data: Option<Arc<Source>>,
    /// The last [`Moment`] at which it was known not to be stale.
    seen: AtomicU64,
}

impl MapOutput {
    /// The data file, nothing when the executor wrote none.
    pub(crate) fn open_data(
        path: PathBuf,
        owner: Option<u32>,
        look: Look,
    ) -> Result<Option<Arc<Source>>, BlockError> {
        match Source::open(path, owner, look) {
            Ok(data) => Ok(Some(Arc::new(data))),
            Err(BlockError::Missing(path)) => {
                tracing::debug!(path = %path.display(), "map output without data");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the index, which may lie on another disk than the data. One that is longer than `max_kept_bytes` stays
    /// there. `owner` is the user whom the application's directories belong to.
    pub(crate) fn open(
        index: PathBuf,
        data: Option<Arc<Source>>,
        max_kept_bytes: u64,
        owner: Option<u32>,
        look: Look,
    ) -> Result<MapOutput, BlockError> {
        let index = Source::open(index, owner, look)?;
        let data_bytes = data.as_ref().map_or(0, |d| d.bytes());
        let bad = |reason: String| BlockError::BadIndex { path: index.path().to_owned(), reason };
        if index.bytes() % OFFSET_BYTES != 0 || index.bytes() < 2 * OFFSET_BYTES {
            return Err(bad(format!("{} bytes are no list of offsets", index.bytes())));
        }
        if index.bytes() > max_kept_bytes {
            return Ok(MapOutput { index: Index::OnDisk { file: index }, data, seen: AtomicU64::new(0) });
        }
        let mut raw = vec![0; index.bytes() as usize];
        index
            .read(&mut raw, 0, look)
            .map_err(|source| BlockError::Disk { path: index.path().to_owned(), source })?;
        let offsets = parse_offsets(&raw, data_bytes).map_err(bad)?;
        Ok(MapOutput { index: Index::Kept(offsets), data, seen: AtomicU64::new(0) })
    }

    /// Memory that the cache accounts for.
    pub(crate) fn kept_bytes(&self) -> u64 {
        match &self.index {
            Index::Kept(offsets) => offsets.len() as u64 * OFFSET_BYTES,
            Index::OnDisk { .. } => 0,
        }
    }

    /// Files that it keeps open, for which one without data counts, too.
    pub(crate) fn open_files(&self) -> u64 {
        if self.reads_disk() { 2 } else { 1 }
    }

    /// Whether to close it may wait: for another process or machine, or for what a disk deletes with it.
    pub(crate) fn closes_slowly(&self) -> bool {
        let slow = |file: &Source| !file.local || file.is_unlinked();
        let of_index = matches!(&self.index, Index::OnDisk { file } if slow(file));
        of_index || self.data().is_some_and(slow)
    }

    /// Whether finding a block in the index may wait for a disk.
    pub(crate) fn reads_disk(&self) -> bool {
        matches!(self.index, Index::OnDisk { .. })
    }

    pub(crate) fn data(&self) -> Option<&Source> {
        self.data.as_deref()
    }

    pub(crate) fn data_path(&self) -> Option<&Path> {
        self.data().map(Source::path)
    }

    /// Where something of it is open.
    pub(crate) fn any_path(&self) -> Option<&Path> {
        match &self.index {
            Index::OnDisk { file } => Some(file.path()),
            Index::Kept(_) => self.data_path(),
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.data.as_ref().is_some_and(|data| data.is_unlinked())
    }

    pub(super) fn seen(&self) -> Moment {
        Moment(self.seen.load(Relaxed))
    }

    pub(crate) fn see(&self, now: Moment) {
        self.seen.fetch_max(now.0, Relaxed);
    }

    /// The partitions from `start` up to, not including, `end`.
    pub(crate) fn partitions(&self, start: i32, end: i32) -> Result<Option<Segment>, BlockError> {
        let partitions = match &self.index {
            Index::Kept(offsets) => offsets.len() as u64 - 1,
            Index::OnDisk { file } => file.bytes() / OFFSET_BYTES - 1,
        };
        let out_of_range = || BlockError::OutOfRange { start, end, partitions };
        let first = u64::try_from(start).map_err(|_| out_of_range())?;
        let last = u64::try_from(end).ok().filter(|&last| first <= last && last <= partitions);
        let last = last.ok_or_else(out_of_range)?;
        let (from, to) = match &self.index {
            // Checked as a whole when it was read.
            Index::Kept(offsets) => (offsets[first as usize], offsets[last as usize]),
            Index::OnDisk { file } => {
                let (from, to) = (read_offset(file, first)?, read_offset(file, last)?);
                if from > to || to > self.data.as_ref().map_or(0, |data| data.bytes()) {
                    let reason = format!("partition from {from} to {to}");
                    return Err(BlockError::BadIndex { path: file.path().to_owned(), reason });
                }
                (from, to)
            }
        };
        Ok(self.data.as_ref().map(|data| Segment { source: data.clone(), offset: from, bytes: to - from }))
    }
}

fn read_offset(index: &Source, at: u64) -> Result<u64, BlockError> {
    let mut raw = [0; OFFSET_BYTES as usize];
    index
        .read_exact(&mut raw, at * OFFSET_BYTES)
        .map_err(|source| BlockError::Disk { path: index.path().to_owned(), source })?;
    Ok(u64::from_be_bytes(raw))
}

/// Offsets start at 0, never fall, and end within the data.
pub(crate) fn parse_offsets(raw: &[u8], data_bytes: u64) -> Result<Box<[u64]>, String> {
    let (offsets, rest) = raw.as_chunks::<{ OFFSET_BYTES as usize }>();
    let offsets: Box<[u64]> = offsets.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
    if !rest.is_empty() || offsets.len() < 2 {
        return Err(format!("{} bytes are no list of offsets", raw.len()));
    }
    if offsets[0] != 0 {
        return Err(format!("the first partition starts at {}", offsets[0]));
    }
    if let Some(at) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        return Err(format!("partition {at} ends before it starts"));
    }
    match offsets.last() {
        Some(&end) if end <= data_bytes => Ok(offsets),
        end => Err(format!("the last partition ends at {end:?}, the data at {data_bytes}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{dir_on_disk, evict};
    use proptest::prelude::*;

    #[test]
    fn what_was_read_in_is_resident() {
        let dir = dir_on_disk();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 1 << 20]).expect("written");
        evict(&path);
        let source = Source::open(path, None, Look::Disk).expect("opens");
        source.read_in(500_000, 300_000).expect("read");
        let mut part = vec![0; 300_000];
        assert_eq!(source.read_resident(&mut part, 500_000).expect("read"), part.len());
        let short = source.read_in(1 << 19, 1 << 20).expect_err("it is shorter");
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_bad_index_is_named_also_where_it_stays_on_disk() {
        let dir = tempfile::tempdir().expect("directory");
        let dir = dir.path().canonicalize().expect("exists");
        let (index, data) = (dir.join("index"), dir.join("data"));
        std::fs::write(&data, [0; 9]).expect("written");
        let offsets = [0u64, 5, 3, 10].map(u64::to_be_bytes).concat();
        std::fs::write(&index, offsets).expect("written");
        let open = |max_kept_bytes| {
            let data = MapOutput::open_data(data.clone(), None, Look::Disk)?;
            MapOutput::open(index.clone(), data, max_kept_bytes, None, Look::Disk)
        };
        let path_of = |error| match error {
            BlockError::BadIndex { path, .. } => path,
            other => panic!("{other}"),
        };
        assert_eq!(path_of(open(1024).expect_err("falls")), index);
        let on_disk = open(0).expect("not looked at yet");
        let segment = on_disk.partitions(0, 1).expect("sound").expect("data");
        assert_eq!((segment.offset, segment.bytes), (0, 5));
        for (start, end) in [(1, 2), (2, 3)] {
            assert_eq!(path_of(on_disk.partitions(start, end).expect_err("not sound")), index);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_offsets_within_the_data_or_refused(
            raw in proptest::collection::vec(any::<u8>(), 0..80),
            data_bytes in any::<u64>(),
        ) {
            if let Ok(offsets) = parse_offsets(&raw, data_bytes) {
                prop_assert!(offsets.is_sorted() && offsets[0] == 0 && *offsets.last().expect("two") <= data_bytes);
            }
        }

        #[test]
        fn what_spark_writes_is_taken(lengths in proptest::collection::vec(0u64..1 << 40, 1..40)) {
            let mut offsets = vec![0u64];
            for length in &lengths {
                offsets.push(offsets.last().expect("one") + length);
            }
            let raw: Vec<u8> = offsets.iter().flat_map(|o| o.to_be_bytes()).collect();
            let end = *offsets.last().expect("one");
            prop_assert_eq!(parse_offsets(&raw, end), Ok(offsets.into_boxed_slice()));
            if end > 0 {
                prop_assert!(parse_offsets(&raw, end - 1).is_err());
            }
        }
    }
}
