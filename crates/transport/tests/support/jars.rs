//! Where Spark's jars are; a test that needs them says that it was skipped when there are none.

use std::path::{Path, PathBuf};

/// `BELLOWS_SPARK_JARS`, `SPARK_HOME/jars`, or what is somewhere below `.cache` of the workspace.
pub(crate) fn jars() -> Option<PathBuf> {
    let given = std::env::var_os("BELLOWS_SPARK_JARS").map(PathBuf::from);
    let home = std::env::var_os("SPARK_HOME").map(|home| PathBuf::from(home).join("jars"));
    let found = given.or(home).or_else(cached).filter(|dir| dir.is_dir());
    if found.is_none() {
        eprintln!("SKIPPED: no Spark jars; set SPARK_HOME or BELLOWS_SPARK_JARS");
    }
    found
}

fn cached() -> Option<PathBuf> {
    let mut dirs = vec![(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        if dir.ends_with("pyspark/jars") {
            return Some(dir);
        }
        if depth < 8 {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            dirs.extend(entries.map(|e| e.path()).filter(|p| p.is_dir()).map(|p| (p, depth + 1)));
        }
    }
    None
}
