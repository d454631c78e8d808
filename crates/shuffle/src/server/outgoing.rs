//! What one connection is about to send: bytes, and between them parts of files, which stay in their files until they
//! leave.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};

use crate::blocks::{Segment, Source};

/// An idle connection keeps no more than this.
const KEPT_BYTES: usize = 16 << 10;

/// A part of a file that could not be read.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) source: Arc<Source>,
    pub(super) error: io::Error,
}

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) bytes: BytesMut,
    parts: VecDeque<Part>,
    /// Of `bytes`, those that some part is to follow.
    before_parts: usize,
    /// Of all parts.
    file_bytes: u64,
}

/// A part of a file among what is to be sent next.
pub(super) struct Ahead<'a> {
    pub(super) source: &'a Arc<Source>,
    /// Where it begins in the file, and how long it is.
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// Where it ends among what is to be sent.
    pub(super) end: u64,
}

#[derive(Debug)]
struct Part {
    /// How many bytes there are between the part before and this one.
    after: usize,
    segment: Segment,
}

impl Outgoing {
    /// Of all, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64 + self.file_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.parts.is_empty()
    }

    /// Each keeps a file open.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Behind all that is there; not empty.
    pub(super) fn push(&mut self, segment: Segment) {
        debug_assert!(segment.bytes > 0);
        let after = self.bytes.len() - self.before_parts;
        self.before_parts += after;
        self.file_bytes += segment.bytes;
        self.parts.push_back(Part { after, segment });
    }

    /// The bytes before the next part, or all.
    pub(super) fn head(&self) -> &[u8] {
        &self.bytes[..self.head_bytes()]
    }

    pub(super) fn next_part(&self) -> Option<&Segment> {
        self.parts.front().map(|part| &part.segment)
    }

    /// Takes off the head and what comes next.
    pub(super) fn take_part(&mut self) -> Option<Segment> {
        self.bytes.advance(self.head_bytes());
        let Part { after, segment } = self.parts.pop_front()?;
        self.before_parts -= after;
        self.file_bytes -= segment.bytes;
        Some(segment)
    }

    /// Which parts of files the next `bytes` are made of.
    pub(super) fn files_within(&self, bytes: u64) -> impl Iterator<Item = Ahead<'_>> {
        let mut end = 0;
        self.parts.iter().map_while(move |Part { after, segment }| {
            end += *after as u64;
            let taken = segment.bytes.min(bytes.checked_sub(end).filter(|&left| left > 0)?);
            end += taken;
            Some(Ahead { source: &segment.source, at: segment.offset, bytes: taken, end })
        })
    }

    /// Takes off as much as `out` is long, which is no more than there is. After an error the rest means nothing.
    pub(super) fn read(&mut self, mut out: &mut [u8]) -> Result<(), Unread> {
        while !out.is_empty() {
            let head_bytes = self.head_bytes();
            let part = self.parts.front_mut();
            if head_bytes > 0 {
                let taken = head_bytes.min(out.len());
                self.bytes.copy_to_slice(&mut out[..taken]);
                out = &mut out[taken..];
                if let Some(part) = part {
                    part.after -= taken;
                    self.before_parts -= taken;
                }
                continue;
            }
            let Segment { source, offset, bytes } =
                &mut part.expect("invariant: no more is asked for than there is").segment;
            let taken = (out.len() as u64).min(*bytes);
            let (now, later) = out.split_at_mut(taken as usize);
            let read = source.read_exact(now, *offset);
            read.map_err(|error| Unread { source: source.clone(), error })?;
            out = later;
            *offset += taken;
            *bytes -= taken;
            let is_whole = *bytes == 0;
            self.file_bytes -= taken;
            if is_whole {
                self.parts.pop_front();
            }
        }
        Ok(())
    }

    /// Of what was taken off, keeps no more memory than an idle connection should.
    pub(super) fn shrink(&mut self) {
        // The capacity alone says nothing of what lies before it.
        if self.is_empty() && self.bytes.try_reclaim(KEPT_BYTES + 1) {
            self.bytes = BytesMut::new();
        }
    }

    fn head_bytes(&self) -> usize {
        self.parts.front().map_or(self.bytes.len(), |part| part.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Look;
    use proptest::prelude::*;
    use std::io::Write as _;

    const FILE_BYTES: usize = 1000;

    fn file() -> (tempfile::NamedTempFile, Arc<Source>) {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        let content: Vec<u8> = (0..FILE_BYTES).map(|at| (at ^ at >> 8) as u8).collect();
        file.write_all(&content).expect("writes");
        let path = file.path().canonicalize().expect("exists");
        (file, Arc::new(Source::open(path, None, Look::Disk).expect("opens")))
    }

    #[derive(Debug, Clone)]
    enum Put {
        Bytes(Vec<u8>),
        Part(usize, usize),
    }

    fn put() -> impl Strategy<Value = Put> {
        let part = (0..FILE_BYTES).prop_flat_map(|at| (Just(at), 1..=FILE_BYTES - at));
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..50).prop_map(Put::Bytes),
            part.prop_map(|(at, bytes)| Put::Part(at, bytes)),
        ]
    }

    fn filled(puts: &[Put], source: &Arc<Source>) -> (Outgoing, Vec<u8>) {
        let (mut out, mut all) = (Outgoing::default(), Vec::new());
        for put in puts {
            match put {
                Put::Bytes(bytes) => {
                    out.bytes.extend_from_slice(bytes);
                    all.extend_from_slice(bytes);
                }
                Put::Part(at, bytes) => {
                    let (offset, before) = (*at as u64, all.len());
                    out.push(Segment { source: source.clone(), offset, bytes: *bytes as u64 });
                    all.resize(before + bytes, 0);
                    source.read_exact(&mut all[before..], offset).expect("reads");
                }
            }
        }
        (out, all)
    }

    proptest! {
        #[test]
        fn all_comes_out_in_order_however_much_is_taken_at_a_time(
            puts in proptest::collection::vec(put(), 0..12),
            steps in proptest::collection::vec(1usize..700, 1..8),
        ) {
            let (_file, source) = file();
            let (mut out, all) = filled(&puts, &source);
            let mut read = Vec::new();
            for step in steps.iter().cycle() {
                prop_assert_eq!(out.len() as usize, all.len() - read.len());
                if out.is_empty() {
                    break;
                }
                let step = (*step).min(out.len() as usize);
                let before = read.len();
                read.resize(before + step, 0);
                // What is said of files is what they are then read for.
                let ahead: Vec<(Vec<u8>, usize)> = out.files_within(step as u64).map(|ahead| {
                    let mut part = vec![0; ahead.bytes as usize];
                    ahead.source.read_exact(&mut part, ahead.at).expect("reads");
                    (part, before + ahead.end as usize)
                }).collect();
                out.read(&mut read[before..]).expect("reads");
                for (part, end) in ahead {
                    prop_assert!(read[..end].ends_with(&part));
                }
            }
            prop_assert!(read == all && out.parts() == 0 && out.bytes.is_empty());
            out.shrink();
            prop_assert!(!out.bytes.try_reclaim(KEPT_BYTES + 1));
        }

        #[test]
        fn parts_are_taken_one_after_the_other_with_what_goes_before(
            puts in proptest::collection::vec(put(), 0..12),
        ) {
            let (_file, source) = file();
            let (mut out, all) = filled(&puts, &source);
            let mut taken = Vec::new();
            loop {
                taken.extend_from_slice(out.head());
                let Some(segment) = out.take_part() else { break };
                let before = taken.len();
                taken.resize(before + segment.bytes as usize, 0);
                source.read_exact(&mut taken[before..], segment.offset).expect("reads");
                prop_assert_eq!(out.len() as usize, all.len() - taken.len());
            }
            prop_assert!(taken == all && out.is_empty());
        }
    }

    #[test]
    fn an_answer_of_any_length_leaves_no_buffer_behind() {
        for bytes in [100, KEPT_BYTES, KEPT_BYTES + 1, 65_872, 123_510, 1 << 20] {
            let mut out = Outgoing::default();
            for _ in 0..bytes {
                out.bytes.extend_from_slice(b"x");
            }
            out.read(&mut vec![0; bytes]).expect("in memory");
            out.shrink();
            assert!(!out.bytes.try_reclaim(KEPT_BYTES + 1), "{bytes}");
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_named() {
        let (file, source) = file();
        let mut out = Outgoing::default();
        out.bytes.extend_from_slice(b"head");
        out.push(Segment { source: source.clone(), offset: 0, bytes: FILE_BYTES as u64 });
        file.as_file().set_len(10).expect("its own");
        let unread = out.read(&mut [0; 100]).expect_err("it ends before");
        assert_eq!(unread.error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(unread.source.path(), source.path());
    }
}
