//! Map outputs to be served, as an executor would have written them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use bellows_transport::rpc::{ExecutorInfo, FetchShuffleBlocks, Rpc};

pub const SUB_DIRS: i32 = 64;
/// Data of one map output, and of all; each holds as many blocks as fit, from 4 to 64.
const OUTPUT_BYTES: usize = 4 << 20;
const ALL_BYTES: usize = 256 << 20;

#[derive(Clone)]
pub struct DataSet {
    pub app: String,
    pub maps: usize,
    pub block_bytes: usize,
    /// What every map output holds, block after block.
    pub content: Arc<[u8]>,
    dir: PathBuf,
}

impl DataSet {
    pub fn create(scratch: &Path, app: &str, block_bytes: usize, maps: usize) -> Result<DataSet> {
        let dir = scratch.join(app).join("blockmgr-1");
        let blocks = (OUTPUT_BYTES.min(ALL_BYTES / maps) / block_bytes).clamp(4, 64);
        let content = noise(blocks * block_bytes);
        let index: Vec<u8> =
            (0..=blocks as u64).flat_map(|i| (i * block_bytes as u64).to_be_bytes()).collect();
        for map in 0..maps {
            write(&dir, &format!("shuffle_0_{map}_0.data"), &content)?;
            write(&dir, &format!("shuffle_0_{map}_0.index"), &index)?;
        }
        Ok(DataSet { app: app.to_owned(), maps, block_bytes, content: content.into(), dir })
    }

    pub fn remove(self) -> Result<()> {
        Ok(fs::remove_dir_all(self.dir)?)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One map output's data.
    pub fn file(&self) -> PathBuf {
        path(&self.dir, "shuffle_0_0_0.data")
    }

    /// Has the kernel forget the files, so that the next read of each waits for a disk (if they lie on one).
    pub fn evict(&self) -> Result<()> {
        for map in 0..self.maps {
            for suffix in ["data", "index"] {
                let file = fs::File::open(path(&self.dir, &format!("shuffle_0_{map}_0.{suffix}")))?;
                file.sync_all()?;
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
        Ok(())
    }

    pub fn blocks(&self) -> usize {
        self.content.len() / self.block_bytes
    }

    pub fn block(&self, reduce: usize) -> &[u8] {
        &self.content[reduce * self.block_bytes..][..self.block_bytes]
    }

    pub fn register(&self) -> Rpc {
        let info = ExecutorInfo {
            local_dirs: vec![self.dir.to_str().expect("UTF-8").to_owned()],
            sub_dirs_per_local_dir: SUB_DIRS,
            shuffle_manager: "org.apache.spark.shuffle.sort.SortShuffleManager".to_owned(),
        };
        Rpc::RegisterExecutor { app: self.app.clone(), executor: "1".to_owned(), info }
    }

    /// Asks for blocks from `first` on, going round, of as many map outputs as `per_fetch` says.
    pub fn fetch(&self, round: usize, first: usize, per_fetch: PerFetch) -> Rpc {
        let PerFetch { maps, blocks } = per_fetch;
        Rpc::FetchShuffleBlocks(FetchShuffleBlocks {
            app: self.app.clone(),
            executor: "1".to_owned(),
            shuffle: 0,
            maps: (round * maps..(round + 1) * maps).map(|map| (map % self.maps) as i64).collect(),
            reduces: (0..maps * blocks).map(|at| self.reduce(first, at, per_fetch) as i32).collect(),
            reduce_ends: (1..=maps).map(|maps| (maps * blocks) as u32).collect(),
            batch: false,
        })
    }

    /// Which block of its map output the fetch's block number `at` is.
    pub fn reduce(&self, first: usize, at: usize, per_fetch: PerFetch) -> usize {
        (first + at % per_fetch.blocks) % self.blocks()
    }
}

/// What one request asks for.
#[derive(Debug, Clone, Copy)]
pub struct PerFetch {
    pub maps: usize,
    /// Of each.
    pub blocks: usize,
}

impl PerFetch {
    pub fn total(self) -> usize {
        self.maps * self.blocks
    }
}

fn write(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = path(dir, name);
    fs::create_dir_all(path.parent().expect("a directory"))?;
    Ok(fs::write(path, content)?)
}

/// Where Spark puts a file of this name.
pub fn path(dir: &Path, name: &str) -> PathBuf {
    let hash = name.bytes().fold(0i32, |h, b| h.wrapping_mul(31).wrapping_add(i32::from(b))).unsigned_abs();
    dir.join(format!("{:02x}", hash % SUB_DIRS as u32)).join(name)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}
