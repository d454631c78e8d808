//! Files that several tasks fetch: brought once, kept while there is room, the longest unused dropped first.
use super::FetchFailure;
use crate::dirs::{PRIVATE_DIR, make_dirs};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::OnceCell;

/// A URI, and for whom it was fetched: what one user may read another may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) uri: String,
    pub(super) uid: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// Counts uses, for want of a clock.
    now: u64,
}

#[derive(Debug)]
struct Slot {
    last_used: u64,
    /// Empty while the file is being fetched; who asks meanwhile waits for it.
    file: Arc<OnceCell<Cached>>,
}

#[derive(Debug)]
struct Cached {
    /// Deleted when this is dropped. Files opened from it stay readable.
    path: TempPath,
    size_bytes: u64,
}

impl Cache {
    /// Empties `dir`: what an earlier process cached is not known any more.
    pub(super) fn new(dir: &Path, limit_bytes: u64) -> io::Result<Self> {
        crate::remove_tree(dir)?;
        make_dirs(dir, PRIVATE_DIR)?;
        Ok(Self { dir: dir.into(), limit_bytes, state: Mutex::default() })
    }

    /// The cached file, opened; `fill` writes it first when there is none. Of several at once only one fills; if it
    /// fails, the next one tries.
    pub(super) async fn get<F>(&self, key: Key, fill: impl FnOnce(File) -> F) -> Result<File, FetchFailure>
    where
        F: Future<Output = Result<(), FetchFailure>>,
    {
        let cell = {
            let mut state = self.state.lock();
            // Somebody may have deleted what was cached.
            let is_gone = |slot: &Slot| slot.file.get().is_some_and(|cached| !cached.path.exists());
            if state.slots.get(&key).is_some_and(is_gone) {
                state.slots.remove(&key);
            }
            state.now += 1;
            let now = state.now;
            let slot =
                state.slots.entry(key.clone()).or_insert_with(|| Slot { last_used: 0, file: Arc::default() });
            slot.last_used = now;
            slot.file.clone()
        };
        let filled = cell.get_or_try_init(|| self.fill(fill)).await;
        let file = filled
            .and_then(|cached| File::open(&cached.path).map_err(|why| FetchFailure::io(&cached.path, why)));
        drop(cell);
        self.state.lock().evict(self.limit_bytes);
        file
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    async fn fill<F>(&self, fill: impl FnOnce(File) -> F) -> Result<Cached, FetchFailure>
    where
        F: Future<Output = Result<(), FetchFailure>>,
    {
        let at = |why| FetchFailure::io(&self.dir, why);
        make_dirs(&self.dir, PRIVATE_DIR).map_err(at)?;
        let (file, path) = NamedTempFile::new_in(&self.dir).map_err(at)?.into_parts();
        fill(file).await?;
        let size_bytes = fs::metadata(&path).map_err(at)?.len();
        Ok(Cached { path, size_bytes })
    }
}

impl Slot {
    fn size_bytes(&self) -> Option<u64> {
        self.file.get().map(|cached| cached.size_bytes)
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.slots.values().filter_map(Slot::size_bytes).sum()
    }

    fn evict(&mut self, limit_bytes: u64) {
        // Whose fetching failed or was given up, with nobody waiting to try again.
        self.slots.retain(|_, slot| slot.file.initialized() || Arc::strong_count(&slot.file) > 1);
        let mut used = self.used_bytes();
        while used > limit_bytes {
            let filled =
                self.slots.iter().filter_map(|(key, slot)| Some((slot.last_used, key, slot.size_bytes()?)));
            let Some((_, key, size_bytes)) = filled.min_by_key(|(last_used, ..)| *last_used) else { return };
            let key = key.clone();
            self.slots.remove(&key);
            used -= size_bytes;
        }
    }
}
