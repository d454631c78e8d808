//! The map outputs that are open. Bounded twice at once, in bytes of index and in open files: each entry weighs its
//! index plus its share of the open-file bound, expressed in bytes.

use std::path::Path;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustix::process::Resource;

use super::MapOutput;

/// A map output of one registration of an executor; a serial number is never used twice, so an entry cannot be
/// mistaken for one of an executor that registered later under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct OutputKey {
    pub(crate) executor: u64,
    pub(crate) shuffle: i32,
    pub(crate) map: i64,
}

#[derive(Clone)]
struct Weight {
    per_entry: u64,
}

impl Weighter<OutputKey, Arc<MapOutput>> for Weight {
    fn weight(&self, _: &OutputKey, output: &Arc<MapOutput>) -> u64 {
        self.per_entry + output.kept_bytes()
    }
}

pub(crate) struct BlockFiles {
    outputs: Cache<OutputKey, Arc<MapOutput>, Weight>,
}

impl BlockFiles {
    pub(crate) fn new(index_bytes: u64, open_files: usize) -> BlockFiles {
        let open_files = open_files.min(spare_descriptors()).max(8) as u64;
        // Twice the bytes: an entry with an index of average size uses up both bounds evenly.
        let capacity = 2 * index_bytes.max(1 << 20);
        let weight = Weight { per_entry: (capacity / open_files).max(1) };
        BlockFiles { outputs: Cache::with_weighter(open_files as usize, capacity, weight) }
    }

    /// Without touching a disk.
    pub(crate) fn get(&self, key: &OutputKey) -> Option<Arc<MapOutput>> {
        self.outputs.get(key).filter(|output| !output.is_stale())
    }

    /// In place of one that is stale, which may wait for the disk that it was on.
    pub(crate) fn keep(&self, key: OutputKey, output: Arc<MapOutput>) {
        self.outputs.insert(key, output);
    }

    pub(crate) fn forget_output(&self, key: &OutputKey) {
        self.outputs.remove(key);
    }

    /// Those whose data lies where `picked` says.
    pub(crate) fn with_data(&self, picked: impl Fn(&Path) -> bool) -> Vec<(OutputKey, Arc<MapOutput>)> {
        self.outputs.iter().filter(|(_, output)| output.data_path().is_some_and(&picked)).collect()
    }

    /// Closes what somebody else deleted; an open file keeps its space. That is freed now, and may take the disk a while.
    pub(crate) fn close_stale(&self, outputs: Vec<(OutputKey, Arc<MapOutput>)>) {
        for (key, output) in outputs.into_iter().filter(|(_, output)| output.is_stale()) {
            self.outputs.remove_if(&key, |kept| Arc::ptr_eq(kept, &output));
        }
    }

    /// Closes what is open of these executors, so that their deleted files free their space.
    pub(crate) fn forget(&self, is_gone: impl Fn(u64) -> bool) {
        self.outputs.retain(|key, _| !is_gone(key.executor));
    }
}

/// Half of what the process may open; the other half is for connections.
fn spare_descriptors() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 2).unwrap_or(usize::MAX)
}
