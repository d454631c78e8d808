//! What Spark's own classes computed (`tests/java/AuthVectors.java`): one `NAME HEX` a line.

use bytes::Bytes;

pub(super) fn bytes(name: &str) -> Bytes {
    let hex = include_str!("../../tests/data/auth-spark.txt")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .unwrap_or_else(|| panic!("no vector {name}"));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

/// The plain bytes that were encrypted.
pub(super) fn plain(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 251) as u8).collect()
}
