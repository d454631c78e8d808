//! The block names that clients of the old protocol send, and the file names that executors give them
//! (`BlockId.scala`).

/// A block that a shuffle service serves, by its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockName {
    Shuffle { shuffle: i32, map: i64, reduce: i32 },
    Rdd { rdd: i32, split: i32 },
}

impl BlockName {
    pub(crate) fn parse(name: &str) -> Option<BlockName> {
        let mut parts = name.split('_');
        let block = match parts.next()? {
            "shuffle" => BlockName::Shuffle {
                shuffle: id(parts.next()?)?,
                map: id(parts.next()?)?,
                reduce: id(parts.next()?)?,
            },
            "rdd" => BlockName::Rdd { rdd: id(parts.next()?)?, split: id(parts.next()?)? },
            _ => return None,
        };
        parts.next().is_none().then_some(block)
    }
}

fn id<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

pub(crate) fn index_file(shuffle: i32, map: i64) -> String {
    format!("shuffle_{shuffle}_{map}_0.index")
}

pub(crate) fn data_file(shuffle: i32, map: i64) -> String {
    format!("shuffle_{shuffle}_{map}_0.data")
}

pub(crate) fn checksum_file(shuffle: i32, map: i64, algorithm: &str) -> String {
    format!("shuffle_{shuffle}_{map}_0.checksum.{algorithm}")
}

pub(crate) fn rdd_file(rdd: i32, split: i32) -> String {
    format!("rdd_{rdd}_{split}")
}

/// Shuffle and map of a map output's data or index file.
pub(crate) fn map_of_file(name: &str) -> Option<(i32, i64)> {
    let stem = name.strip_suffix(".data").or_else(|| name.strip_suffix(".index"))?;
    match BlockName::parse(stem)? {
        BlockName::Shuffle { shuffle, map, .. } => Some((shuffle, map)),
        BlockName::Rdd { .. } => None,
    }
}

/// Whether `name` names a file in the directory it is put behind, and nothing else.
pub(crate) fn is_plain_file_name(name: &str) -> bool {
    let sound = |c: char| c != '/' && !c.is_control();
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && name.chars().all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            BlockName::parse("shuffle_1_2_3"),
            Some(BlockName::Shuffle { shuffle: 1, map: 2, reduce: 3 })
        );
        assert_eq!(
            BlockName::parse("shuffle_1_9223372036854775807_3"),
            Some(BlockName::Shuffle { shuffle: 1, map: i64::MAX, reduce: 3 })
        );
        assert_eq!(BlockName::parse("rdd_4_5"), Some(BlockName::Rdd { rdd: 4, split: 5 }));
        for other in [
            "",
            "shuffle",
            "shuffle_1_2",
            "shuffle_1_2_3_4",
            "shuffle_-1_2_3",
            "shuffle_1_2_x",
            "shuffle_1__3",
            "rdd_1",
            "shuffleChunk_1_2_3_4",
            "broadcast_1",
            "../rdd_1_2",
            "rdd_+1_2",
            "shuffle_99999999999_1_1",
        ] {
            assert_eq!(BlockName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn files_of_map_outputs() {
        assert_eq!(map_of_file(&data_file(3, 77)), Some((3, 77)));
        assert_eq!(map_of_file(&index_file(3, 77)), Some((3, 77)));
        assert_eq!(map_of_file(&checksum_file(3, 77, "ADLER32")), None);
        assert_eq!(map_of_file("rdd_1_2.data"), None);
    }

    #[test]
    fn plain_file_names() {
        assert!(is_plain_file_name("rdd_1_2"));
        for other in ["", ".", "..", "a/b", "/a", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(!is_plain_file_name(other), "{other}");
        }
    }
}
