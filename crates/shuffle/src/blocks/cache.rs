//! The map outputs that are open. Bounded twice at once, in bytes of index and in open files: each entry weighs its
//! index, and no less than its share of the open-file bound, expressed in bytes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};
use rustix::process::Resource;

use super::{MapOutput, Moment};

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
    per_file: u64,
}

impl Weighter<OutputKey, Arc<MapOutput>> for Weight {
    fn weight(&self, _: &OutputKey, output: &Arc<MapOutput>) -> u64 {
        (self.per_file * output.open_files()).max(output.kept_bytes())
    }
}

/// What has to go is handed back.
#[derive(Clone)]
struct HandBack;

impl Lifecycle<OutputKey, Arc<MapOutput>> for HandBack {
    type RequestState = Vec<Arc<MapOutput>>;

    fn on_evict(&self, evicted: &mut Vec<Arc<MapOutput>>, _: OutputKey, output: Arc<MapOutput>) {
        evicted.push(output);
    }
}

pub(crate) struct BlockFiles {
    outputs: Cache<OutputKey, Arc<MapOutput>, Weight, DefaultHashBuilder, HandBack>,
    clock: AtomicU64,
}

impl BlockFiles {
    pub(crate) fn new(index_bytes: u64, open_files: usize) -> BlockFiles {
        let open_files = open_files.min(spare_descriptors()).max(8) as u64;
        let capacity = index_bytes.max(1 << 20);
        let weight = Weight { per_file: (capacity / open_files).max(1) };
        let outputs =
            Cache::with(open_files as usize, capacity, weight, DefaultHashBuilder::default(), HandBack);
        BlockFiles { outputs, clock: AtomicU64::new(1) }
    }

    /// A request that comes now asks for what the files hold from now on.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.clock.fetch_add(1, SeqCst) + 1)
    }

    /// Without touching a disk. An output that was looked at since the request came is not looked at again.
    pub(crate) fn get(&self, key: &OutputKey, asked: Moment) -> Option<Arc<MapOutput>> {
        let output = self.outputs.get(key)?;
        let there = output.seen() >= asked || {
            let now = Moment(self.clock.load(SeqCst));
            let there = !output.is_stale();
            if there {
                output.see(now);
            }
            there
        };
        there.then_some(output)
    }

    /// Returns what has to go for it.
    #[must_use = "to close a file may take its time"]
    pub(crate) fn keep(&self, key: OutputKey, output: Arc<MapOutput>) -> Vec<Arc<MapOutput>> {
        let mut evicted = Vec::new();
        self.outputs.insert_with_lifecycle(key, output, &mut evicted);
        evicted
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{Look, dir_on_disk, evict};
    use std::path::PathBuf;

    struct Scene {
        _dir: tempfile::TempDir,
        paths: [PathBuf; 2],
        files: BlockFiles,
    }

    const KEY: OutputKey = OutputKey { executor: 1, shuffle: 0, map: 0 };

    impl Scene {
        fn new() -> Scene {
            let dir = dir_on_disk();
            let paths = ["index", "data"].map(|name| dir.path().join(name));
            Scene { _dir: dir, paths, files: BlockFiles::new(0, 8) }
        }

        fn write(&self, bytes: u64) {
            let [index, data] = &self.paths;
            drop(std::fs::remove_file(data));
            std::fs::write(index, [0, bytes].map(u64::to_be_bytes).concat()).expect("written");
            std::fs::write(data, vec![0; bytes as usize]).expect("written");
        }

        fn open(&self, look: Look) -> Option<Arc<MapOutput>> {
            let [index, data] = self.paths.clone();
            let data = MapOutput::open_data(data, None, look).ok()?;
            MapOutput::open(index, data, 1 << 20, None, look).ok().map(Arc::new)
        }

        fn bytes(&self, asked: Moment) -> Option<u64> {
            let output = self.files.get(&KEY, asked)?;
            output.partitions(0, 1).expect("in range").map(|segment| segment.bytes)
        }
    }

    #[test]
    fn who_asks_after_an_output_was_written_anew_gets_nothing_older() {
        let scene = Scene::new();
        scene.write(10);
        let first = scene.open(Look::Disk).expect("opens");
        assert!(scene.files.keep(KEY, first.clone()).is_empty());
        let before = scene.files.now();
        assert_eq!(scene.bytes(before), Some(10));
        scene.write(20);
        assert_eq!(scene.bytes(before), Some(10), "it was there when that was asked for");
        let after = scene.files.now();
        assert_eq!(scene.bytes(after), None);
        let evicted = scene.files.keep(KEY, scene.open(Look::Disk).expect("opens"));
        assert!(matches!(&evicted[..], [old] if Arc::ptr_eq(old, &first)), "to be closed elsewhere");
        assert_eq!(scene.bytes(after), Some(20));
        assert_eq!(scene.bytes(before), Some(20));
    }

    #[test]
    fn both_bounds_hold() {
        let scene = Scene::new();
        let [index, data] = &scene.paths;
        std::fs::write(data, [0; 8]).expect("written");
        // An index that stays on disk is a second file.
        for (partitions, max_kept_bytes, index_bytes, kept) in
            [(1, 1 << 20, 1 << 20, 60..=64), (1, 0, 1 << 20, 28..=32), (4096, 1 << 20, 1 << 20, 28..=32)]
        {
            let offsets = vec![0; 8 * (partitions + 1)];
            std::fs::write(index, offsets).expect("written");
            let files = BlockFiles::new(index_bytes, 64);
            for map in 0..1000 {
                let data = MapOutput::open_data(data.clone(), None, Look::Disk).expect("opens");
                let output =
                    MapOutput::open(index.clone(), data, max_kept_bytes, None, Look::Disk).expect("sound");
                drop(files.keep(OutputKey { map, ..KEY }, Arc::new(output)));
            }
            let count = files.outputs.len();
            assert!(kept.contains(&count), "{count} of {partitions} partitions, {max_kept_bytes}");
        }
    }

    #[test]
    fn what_is_not_in_memory_is_not_waited_for() {
        let scene = Scene::new();
        scene.write(100_000);
        let in_memory = scene.open(Look::Memory).expect("it was just written");
        assert_eq!(in_memory.partitions(0, 1).expect("in range").map(|s| s.bytes), Some(100_000));
        evict(&scene.paths[0]);
        assert!(scene.open(Look::Memory).is_none());
        assert!(scene.open(Look::Disk).is_some());
        assert!(scene.open(Look::Memory).is_some());
    }
}
