//! Why a reader found a block corrupt (`ShuffleChecksumHelper.java`): compares the checksum that the writer left,
//! that of the block as it lies on disk, and the reader's. Reads the whole block; never on a serving thread.

use std::io;
use std::path::Path;

use bellows_transport::rpc::CorruptionCause;

use crate::blocks::{Look, Segment, Source};

const STEP_BYTES: u64 = 256 << 10;

/// Compares the block as it lies on disk with what the writer and the reader found.
pub(crate) fn diagnose(
    algorithm: &str,
    written: io::Result<i64>,
    block: &Segment,
    checksum_by_reader: i64,
) -> CorruptionCause {
    let Some(mut checksum) = Checksum::of(algorithm) else {
        return CorruptionCause::UnsupportedChecksumAlgorithm;
    };
    let compared = written.and_then(|written| {
        let mut buffer = Vec::new();
        let (mut at, end) = (block.offset, block.offset + block.bytes);
        while at < end {
            buffer.resize(STEP_BYTES.min(end - at) as usize, 0);
            block.source.read_exact(&mut buffer, at)?;
            checksum.update(&buffer);
            at += buffer.len() as u64;
        }
        Ok((written, i64::from(checksum.value())))
    });
    match compared {
        Err(error) => {
            tracing::warn!(block = %block.source.path().display(), %error, "cannot diagnose a corrupt block");
            CorruptionCause::UnknownIssue
        }
        Ok((written, now)) if written != now => CorruptionCause::DiskIssue,
        Ok((written, _)) if written != checksum_by_reader => CorruptionCause::NetworkIssue,
        Ok(_) => CorruptionCause::ChecksumVerifyPass,
    }
}

/// What the writer found, from the file that it left.
pub(crate) fn written(file: &Path, owner: Option<u32>, reduce: i32) -> io::Result<i64> {
    let source = Source::open(file.to_owned(), owner, Look::Disk).map_err(io::Error::other)?;
    let at = u64::try_from(reduce).map_err(io::Error::other)? * 8;
    let mut raw = [0; 8];
    source.read_exact(&mut raw, at)?;
    Ok(i64::from_be_bytes(raw))
}

enum Checksum {
    Adler32(simd_adler32::Adler32),
    Crc32(crc32fast::Hasher),
    /// Since Spark 4.
    Crc32c(u32),
}

impl Checksum {
    fn of(algorithm: &str) -> Option<Checksum> {
        match algorithm {
            "ADLER32" => Some(Checksum::Adler32(simd_adler32::Adler32::new())),
            "CRC32" => Some(Checksum::Crc32(crc32fast::Hasher::new())),
            "CRC32C" => Some(Checksum::Crc32c(0)),
            _ => None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Checksum::Adler32(state) => state.write(bytes),
            Checksum::Crc32(state) => state.update(bytes),
            Checksum::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
        }
    }

    fn value(self) -> u32 {
        match self {
            Checksum::Adler32(state) => state.finish(),
            Checksum::Crc32(state) => state.finalize(),
            Checksum::Crc32c(sum) => sum,
        }
    }
}
