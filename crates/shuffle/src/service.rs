//! What the service knows and does, apart from sockets: registers executors and finds blocks. What it forgets and
//! deletes is in [`removal`].
//! Everything that may wait for a disk is async here and runs on the blocking threads.

mod removal;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bellows_transport::frame::MAX_FRAME_BYTES;
use bellows_transport::rpc::{CorruptionCause, ExecutorInfo};
use parking_lot::Mutex;
use rustix::process::geteuid;
use tokio::sync::{Notify, Semaphore};

use crate::blocks::{
    BlockError, BlockFiles, BlockName, DirError, FindError, LocalDir, LocalDirs, Look, MAX_KEPT_INDEX_BYTES,
    MapOutput, Moment, OutputKey, Segment, Source, checksum_file, data_file, index_file, is_plain_file_name,
    map_of_file, rdd_file,
};
use crate::checksum;
use crate::disks::{Disk, Disks, For, WaitError, is_refusal};
use crate::metrics::{ErrorKind, Metrics};
use crate::registry::{App, DriverConnection, Executor, Refusal, Registry};
use crate::security::Security;
use crate::store::{Recovered, Store, StoreError};
use crate::tidy::{self, Doomed};
use crate::{AppStatus, Config, Status, told};

/// A driver that is told to be heard every few milliseconds is not served better by it.
const MIN_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);
/// Spark's drivers promise minutes. For as long as this one is not taken for dead, and its connection keeps its place.
const MAX_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A map output may be written anew while it is opened.
const OPEN_ATTEMPTS: u32 = 3;

/// Why a call fails; the text is what the client's exception says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("java.lang.RuntimeException: Executor is not registered (appId={app}, execId={executor})")]
    NotRegistered { app: String, executor: String },
    #[error("java.lang.IllegalArgumentException: {0}")]
    BadCall(String),
    #[error("java.lang.SecurityException: {0}")]
    Forbidden(String),
    #[error("java.lang.UnsupportedOperationException: {0}")]
    Unsupported(String),
    #[error("java.lang.RuntimeException: {0}")]
    Block(#[from] BlockError),
    #[error("java.io.IOException: {0}")]
    Hangs(String),
    #[error("java.io.IOException: {0}")]
    Store(String),
    /// A bound that is answered, and with that final: a retry would not help.
    #[error("java.lang.IllegalStateException: {0}")]
    OverLimit(String),
    #[error("java.lang.IllegalStateException: the service is stopping")]
    Stopping,
    /// A fault of this service.
    #[error("java.lang.IllegalStateException: {0}")]
    Internal(String),
    /// A bound that others fill at the moment. Told by closing the connection: Spark then tries again, where it takes
    /// any answer for final.
    #[error("{0}")]
    RetryLater(String),
}

impl CallError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            CallError::NotRegistered { .. } => ErrorKind::NotRegistered,
            CallError::BadCall(_) => ErrorKind::BadMessage,
            CallError::Forbidden(_) => ErrorKind::Forbidden,
            CallError::Unsupported(_) => ErrorKind::Unsupported,
            CallError::Block(BlockError::Missing(_) | BlockError::OutOfRange { .. }) => {
                ErrorKind::BlockMissing
            }
            CallError::Block(BlockError::AnothersFile { .. }) => ErrorKind::Forbidden,
            CallError::Block(BlockError::BadIndex { .. }) => ErrorKind::BadIndex,
            CallError::Block(BlockError::Disk { .. }) | CallError::Hangs(_) => ErrorKind::Disk,
            CallError::Store(_) => ErrorKind::Store,
            CallError::Stopping => ErrorKind::Stopping,
            CallError::Internal(_) => ErrorKind::Internal,
            CallError::OverLimit(_) | CallError::RetryLater(_) => ErrorKind::Limit,
        }
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> CallError {
        match error {
            StoreError::Refused(full @ Refusal::Full(_)) => CallError::OverLimit(full.to_string()),
            StoreError::Refused(refusal) => CallError::Forbidden(refusal.to_string()),
            StoreError::Failed(_) => CallError::Store(error.to_string()),
            StoreError::Stopped => CallError::Stopping,
        }
    }
}

impl From<WaitError> for CallError {
    fn from(error: WaitError) -> CallError {
        match error {
            WaitError::Hangs(_) => CallError::Hangs(error.to_string()),
            WaitError::Ended(fault) if fault.is_panic() => CallError::Internal(fault.to_string()),
            // Nothing here is ever cancelled but by the end of the runtime.
            WaitError::Ended(_) => CallError::Stopping,
        }
    }
}

impl From<DirError> for CallError {
    fn from(error: DirError) -> CallError {
        CallError::Forbidden(error.to_string())
    }
}

impl From<FindError> for CallError {
    fn from(error: FindError) -> CallError {
        match error {
            FindError::Refused(refused) => refused.into(),
            FindError::Disk { path, source } => CallError::Block(BlockError::Disk { path, source }),
        }
    }
}

pub(crate) struct Service {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    pub(crate) security: Security,
    store: Store,
    files: Arc<BlockFiles>,
    /// In KiB; see [`crate::Limits`].
    pub(crate) unsent: Arc<Semaphore>,
    pub(crate) disks: Arc<Disks>,
    /// Applications that were removed, and of their directories those that are not deleted yet, as the store has them.
    unfinished: Mutex<BTreeMap<String, Doomed>>,
    /// Applications that were forgotten, where that could not be made durable: nothing of them is deleted before.
    not_durable: Mutex<BTreeSet<String>>,
    roots: Arc<[PathBuf]>,
    /// Told when a standalone worker's executor registers: its process is to be noticed before it ends.
    pub(crate) standalone_registered: Notify,
}

impl Service {
    /// Of roots without symbolic links.
    pub(crate) fn new(
        config: Config,
        security: Security,
        registry: Arc<Registry>,
        (store, recovered): (Store, Recovered),
    ) -> Service {
        let files = Arc::new(BlockFiles::new(config.limits.index_cache_bytes, config.limits.open_files));
        let roots: Arc<[PathBuf]> = config.allowed_roots.clone().into();
        let unsent_kib = (config.limits.unsent_bytes / 1024).min(Semaphore::MAX_PERMITS);
        let unsent = Arc::new(Semaphore::new(unsent_kib));
        let work_dir = config.work_dir.canonicalize().unwrap_or_else(|_| config.work_dir.clone());
        let named = roots.iter().cloned().chain([work_dir]).collect();
        let disks = Arc::new(Disks::new(named, config.limits.disk_answers_within));
        let metrics = Metrics::default();
        let unfinished = Mutex::new(recovered.unfinished_removals);
        Service {
            config,
            registry,
            metrics,
            security,
            store,
            files,
            unsent,
            disks,
            unfinished,
            not_durable: Mutex::default(),
            roots,
            standalone_registered: Notify::new(),
        }
    }

    /// Waits for the end of one of the threads that store registrations.
    pub(crate) async fn store_ended(&self) {
        self.store.ended().await;
    }

    /// Counts and tells a failure of the disk that `path` is on, if it is one: what whoever names or writes the path can
    /// bring about raises no alarm.
    pub(crate) fn disk_error(&self, path: &Path, error: &io::Error) {
        if is_refusal(error) {
            self.metrics.error(ErrorKind::Forbidden);
            tracing::warn!(path = %path.display(), %error, "not done: the path or this user's rights do not allow it");
            return;
        }
        self.metrics.error(ErrorKind::Disk);
        if error.get_ref().is_some_and(|inner| inner.is::<WaitError>()) {
            return; // Counted and told where it was noticed.
        }
        let disk = self.disks.failed(path);
        tracing::error!(disk, path = %path.display(), %error, "disk error");
    }

    /// Counts and tells a failed request.
    pub(crate) fn note(&self, error: &CallError) {
        match error {
            CallError::Block(BlockError::Disk { path, source }) => return self.disk_error(path, source),
            CallError::Store(_) => drop(self.disks.failed(self.store.path())),
            _ => {}
        }
        self.metrics.error(error.kind());
        tracing::warn!(error = %told::to_log(error), "request failed");
    }

    pub(crate) fn find(&self, app: &str, executor: &str) -> Result<(Arc<App>, Arc<Executor>), CallError> {
        let found = self.registry.app(app).and_then(|app| {
            let executor = app.executor(executor)?;
            Some((app, executor))
        });
        if let Some((app, _)) = &found {
            app.heard(Instant::now());
        }
        found.ok_or_else(|| CallError::NotRegistered { app: app.to_owned(), executor: executor.to_owned() })
    }

    /// Returns when the registration is on disk.
    pub(crate) async fn register(
        &self,
        app: String,
        executor: String,
        info: ExecutorInfo,
    ) -> Result<(), CallError> {
        let sub_dirs = LocalDirs::check(&info.local_dirs, info.sub_dirs_per_local_dir)?;
        let (roots, of) = (self.roots.clone(), app.clone());
        let find = move |told: &Path| {
            let told = told.to_str().expect("invariant: it was told as UTF-8");
            LocalDir::find(told, &of, &roots, geteuid().as_raw())
        };
        let told = info.local_dirs.into_iter().map(PathBuf::from);
        let dirs = self.disks.wait_for_each(For::Reading, told, find).await?;
        let dirs = LocalDirs::new(dirs.into_iter().collect::<Result<_, _>>()?, sub_dirs)
            .expect("invariant: none and 0 were refused");
        if let Some(known) = self.registry.app(&app) {
            known.heard(Instant::now());
        }
        if self.registry.has(&app, &executor, &dirs) {
            return Ok(());
        }
        let told: Vec<String> = dirs.iter().map(|dir| dir.told().to_owned()).collect();
        self.store.register(app.clone(), executor.clone(), dirs).await?;
        let entry = self.registry.app(&app).and_then(|app| app.executor(&executor));
        if entry.is_some_and(|executor| executor.is_standalone()) {
            self.standalone_registered.notify_one();
        }
        tracing::info!(app, executor, dirs = ?told, "executor registered");
        let spared = self.registry.app(&app).map(|app| app.spared()).unwrap_or_default();
        if !spared.is_empty() {
            tracing::warn!(app, dirs = ?spared, "these held files before an executor registered them: nothing in them will be deleted");
        }
        Ok(())
    }

    /// Returns how long the driver may be silent from now on, and what is to be kept as long as its connection is open.
    pub(crate) async fn register_driver(
        &self,
        app: String,
        timeout_ms: i64,
    ) -> Result<(Duration, Option<DriverConnection>), CallError> {
        let timeout = promised(timeout_ms);
        tracing::info!(app, ?timeout, "driver registered");
        self.store.driver(app.clone(), timeout).await?;
        Ok((timeout, self.registry.app(&app).map(DriverConnection::of)))
    }

    pub(crate) fn heartbeat(&self, app: &str) {
        match self.registry.app(app) {
            Some(app) => app.driver_heard(Instant::now()),
            None => tracing::debug!(app, "heartbeat of an application that is not registered"),
        }
    }

    pub(crate) fn local_dirs(
        &self,
        app: &str,
        executors: BTreeSet<String>,
    ) -> Result<Vec<(String, Vec<String>)>, CallError> {
        let found = executors.into_iter().map(|id| {
            let (_, executor) = self.find(app, &id)?;
            Ok((id, executor))
        });
        let found = found.collect::<Result<Vec<_>, CallError>>()?;
        let in_memory = |told: &str| size_of::<String>() + told.len();
        let bytes = found.iter().map(|(id, executor)| {
            in_memory(id) + executor.dirs.iter().map(|dir| in_memory(dir.told())).sum::<usize>()
        });
        // Checked before any of it is built: an answer is no longer than a request.
        if bytes.sum::<usize>() > self.config.limits.request_bytes.min(MAX_FRAME_BYTES) {
            return Err(CallError::BadCall(format!("{} executors are too many at once", found.len())));
        }
        let dirs = |executor: &Executor| executor.dirs.iter().map(|dir| dir.told().to_owned()).collect();
        Ok(found.into_iter().map(|(id, executor)| (id, dirs(&executor))).collect())
    }

    /// From now on what is asked for is what is there now, or later.
    pub(crate) fn asked(&self) -> Moment {
        self.files.now()
    }

    /// The map output, if to open it and to find a block in it waits for nothing.
    pub(crate) fn output_at_hand(
        &self,
        executor: &Executor,
        (shuffle, map): (i32, i64),
        asked: Moment,
    ) -> Option<Arc<MapOutput>> {
        let key = OutputKey { executor: executor.serial, shuffle, map };
        let output = self.files.get(&key, asked).or_else(|| self.open_in_memory(key, executor))?;
        (!output.reads_disk()).then_some(output)
    }

    /// Of a map output that is not at hand.
    pub(crate) async fn load_partitions(
        &self,
        executor: &Executor,
        (shuffle, map): (i32, i64),
        (start, end): (i32, i32),
        asked: Moment,
    ) -> Result<Option<Segment>, CallError> {
        let key = OutputKey { executor: executor.serial, shuffle, map };
        let output = match self.files.get(&key, asked) {
            Some(output) => output,
            None => self.open_on_disk(key, executor).await?,
        };
        if !output.reads_disk() {
            return Ok(output.partitions(start, end)?);
        }
        let index = executor.dirs.path(&index_file(shuffle, map));
        Ok(self.disks.wait(&index, move || output.partitions(start, end)).await??)
    }

    fn open_in_memory(&self, key: OutputKey, executor: &Executor) -> Option<Arc<MapOutput>> {
        let (index_dir, index) = executor.dirs.place(&index_file(key.shuffle, key.map));
        let (data_dir, data) = executor.dirs.place(&data_file(key.shuffle, key.map));
        if !(index_dir.is_local() && data_dir.is_local()) {
            return None;
        }
        let began = self.files.now();
        let data = MapOutput::open_data(data, data_dir.owner(), Look::Memory).ok()?;
        let output = MapOutput::open(index, data, MAX_KEPT_INDEX_BYTES, index_dir.owner(), Look::Memory);
        self.keep(key, output.ok()?, began)
    }

    async fn open_on_disk(&self, key: OutputKey, executor: &Executor) -> Result<Arc<MapOutput>, CallError> {
        for _ in 0..OPEN_ATTEMPTS {
            let (index_dir, index) = executor.dirs.place(&index_file(key.shuffle, key.map));
            let (data_dir, data) = executor.dirs.place(&data_file(key.shuffle, key.map));
            let (at_index, at_data, began) = (index.clone(), data.clone(), self.files.now());
            let (of_index, of_data) = (index_dir.owner(), data_dir.owner());
            let data = move || MapOutput::open_data(data, of_data, Look::Disk);
            let open = move |data| MapOutput::open(index, data, MAX_KEPT_INDEX_BYTES, of_index, Look::Disk);
            let output = if self.disks.of(&at_index) == self.disks.of(&at_data) {
                self.disks.wait(&at_index, move || open(data()?)).await??
            } else {
                let data = self.disks.wait(&at_data, data).await??;
                self.disks.wait(&at_index, move || open(data)).await??
            };
            if let Some(output) = self.keep(key, output, began) {
                output.data().inspect(|data| data_dir.learn(data));
                return Ok(output);
            }
        }
        let OutputKey { shuffle, map, .. } = key;
        Err(CallError::RetryLater(format!("output of map {map} of shuffle {shuffle} is being written")))
    }

    /// Nothing if it was written anew since `began`: the index then may be of other data.
    fn keep(&self, key: OutputKey, output: MapOutput, began: Moment) -> Option<Arc<MapOutput>> {
        if output.is_stale() {
            return None;
        }
        output.see(began);
        let output = Arc::new(output);
        for evicted in self.files.keep(key, output.clone()) {
            self.close(evicted);
        }
        Some(output)
    }

    /// Where it may wait for its disk, elsewhere.
    fn close(&self, output: Arc<MapOutput>) {
        if output.closes_slowly() {
            let (disks, path) = (self.disks.clone(), output.any_path().expect("invariant: a file is open"));
            let disk = disks.of(path);
            tokio::spawn(async move { disks.tend(disk, move || drop(output)).await });
        }
    }

    /// A cached partition of an RDD, if to open it waits for nothing.
    pub(crate) fn rdd_block_at_hand(&self, executor: &Executor, rdd: i32, split: i32) -> Option<Segment> {
        let (dir, path) = executor.dirs.place(&rdd_file(rdd, split));
        let source = dir.is_local().then(|| Source::open(path, dir.owner(), Look::Memory))?;
        source.ok().map(Segment::whole)
    }

    pub(crate) async fn load_rdd_block(
        &self,
        executor: &Executor,
        rdd: i32,
        split: i32,
    ) -> Result<Segment, CallError> {
        let (dir, path) = executor.dirs.place(&rdd_file(rdd, split));
        let (at, owner) = (path.clone(), dir.owner());
        let source = self.disks.wait(&at, move || Source::open(path, owner, Look::Disk)).await??;
        dir.learn(&source);
        Ok(Segment::whole(source))
    }

    /// Returns how many of the blocks were there and are gone. Nothing but shuffle files and cached blocks is deleted by
    /// name: Spark asks for no other, and a driver's directory holds none.
    pub(crate) async fn remove_blocks(
        &self,
        app: &str,
        executor: &str,
        blocks: Vec<String>,
    ) -> Result<i32, CallError> {
        let (app, executor) = self.find(app, executor)?;
        let is_removable = |block: &str| {
            is_plain_file_name(block) && ["shuffle", "rdd_"].iter().any(|of| block.starts_with(of))
        };
        let blocks: Vec<&String> = blocks.iter().filter(|block| is_removable(block)).collect();
        for (shuffle, map) in blocks.iter().filter_map(|block| map_of_file(block)) {
            self.files.forget_output(&OutputKey { executor: executor.serial, shuffle, map });
        }
        let places = blocks.into_iter().map(|block| executor.dirs.place(block));
        let paths = places.filter(|(dir, _)| !app.spares(dir.real())).map(|(_, path)| path);
        let owner = app.owner();
        let remove =
            move |path: &Path| tidy::remove_file(path, owner).map_err(|error| (path.to_owned(), error));
        let mut count = 0;
        for removed in self.disks.wait_for_each(For::Deleting, paths, remove).await? {
            match removed {
                Ok(gone) => count += i32::from(gone),
                Err((path, error)) => self.disk_error(&path, &error),
            }
        }
        Ok(count)
    }

    pub(crate) async fn diagnose(
        &self,
        (app, executor): (&str, &str),
        (shuffle, map, reduce): (i32, i64, i32),
        checksum_by_reader: i64,
        algorithm: String,
    ) -> CorruptionCause {
        let Ok((_, executor)) = self.find(app, executor) else { return CorruptionCause::UnknownIssue };
        let partition = (reduce, reduce.saturating_add(1));
        let block = self.load_partitions(&executor, (shuffle, map), partition, self.asked()).await;
        let Ok(Some(block)) = block else { return CorruptionCause::UnknownIssue };
        if !is_plain_file_name(&algorithm) {
            return CorruptionCause::UnsupportedChecksumAlgorithm;
        }
        // The checksum may lie on another disk than the block.
        let (dir, file) = executor.dirs.place(&checksum_file(shuffle, map, &algorithm));
        let (at, owner, data) = (file.clone(), dir.owner(), block.source.path().to_owned());
        let Ok(written) = self.disks.wait(&at, move || checksum::written(&file, owner, reduce)).await else {
            return CorruptionCause::UnknownIssue;
        };
        let diagnose = move || checksum::diagnose(&algorithm, written, &block, checksum_by_reader);
        self.disks.wait(&data, diagnose).await.unwrap_or(CorruptionCause::UnknownIssue)
    }

    /// Drops what is open of files that are gone, so that their space is free.
    pub(crate) async fn close_stale_files(&self, disk: Disk) {
        let outputs = self.files.with_data(|path| self.disks.of(path) == disk);
        let files = self.files.clone();
        if let Err(error) = self.disks.tend(disk, move || files.close_stale(outputs)).await {
            self.note(&error.into());
        }
    }

    pub(crate) async fn count_disk_use(&self, disk: Disk) {
        for app in self.registry.apps() {
            let mut dirs = app.dirs();
            dirs.retain(|dir| self.disks.of(dir) == disk);
            if dirs.is_empty() {
                continue;
            }
            let count = move || {
                let count = |dir: &PathBuf| tidy::disk_bytes(dir).map_err(|error| (dir.clone(), error));
                dirs.iter().map(count).sum::<Result<u64, _>>()
            };
            match self.disks.tend(disk, count).await {
                Ok(Ok(bytes)) => app.set_disk_bytes(disk, bytes),
                // A disk that cannot be read leaves the figure as it was.
                Ok(Err((dir, error))) => self.disk_error(&dir, &error),
                Err(error) => self.note(&error.into()),
            }
        }
    }

    pub(crate) fn served(&self, app: &App, executor: &Executor, blocks: u64, bytes: u64) {
        self.metrics.blocks_served.fetch_add(blocks, Relaxed);
        self.metrics.bytes_served.fetch_add(bytes, Relaxed);
        app.served.add(blocks, bytes);
        if executor.departed.load(Relaxed) {
            app.served_departed.add(blocks, bytes);
        }
    }

    pub(crate) fn status(&self) -> Status {
        let applications = self.registry.apps().into_iter().map(|app| (app.id.to_string(), app_status(&app)));
        Status {
            applications: applications.collect(),
            open_connections: self.metrics.open_connections.get(),
            registered_executors: self.registry.executor_count() as u64,
            chunks_in_flight: self.metrics.chunks_in_flight.get(),
            blocks_served: self.metrics.blocks_served.load(Relaxed),
            bytes_served: self.metrics.bytes_served.load(Relaxed),
            errors: self
                .metrics
                .errors()
                .filter(|(_, n)| *n > 0)
                .map(|(kind, n)| (kind.to_owned(), n))
                .collect(),
            disk_errors: self.disks.errors(),
            disk_waiting: self.disks.waiting(),
            disks_left_out: self.disks.left_out(),
            latency: self.metrics.latency.status(),
        }
    }
}

fn promised(timeout_ms: i64) -> Duration {
    let asked = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    asked.clamp(MIN_HEARTBEAT_TIMEOUT, MAX_HEARTBEAT_TIMEOUT)
}

fn app_status(app: &App) -> AppStatus {
    let executors = app.executors();
    let departed = executors.iter().filter(|e| e.departed.load(Relaxed)).count() as u64;
    AppStatus {
        executors: executors.len() as u64 - departed,
        departed_executors: departed,
        blocks_served: app.served.blocks.load(Relaxed),
        bytes_served: app.served.bytes.load(Relaxed),
        departed_blocks_served: app.served_departed.blocks.load(Relaxed),
        departed_bytes_served: app.served_departed.bytes.load(Relaxed),
        disk_bytes: app.disk_bytes(),
    }
}

/// The block that a name of the old protocol asks for.
pub(crate) fn parse_block(name: &str) -> Result<BlockName, CallError> {
    BlockName::parse(name).ok_or_else(|| CallError::BadCall(format!("Unexpected block id format: {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> (tempfile::TempDir, Service) {
        let dir = tempfile::tempdir().expect("directory");
        let config = Config::new(dir.path());
        let security = Security::load(&config).expect("none");
        let stored = (Store::stopped(), Recovered { unfinished_removals: BTreeMap::new() });
        let service = Service::new(config, security, Arc::new(Registry::new(1, 1)), stored);
        (dir, service)
    }

    #[tokio::test]
    async fn neither_a_stop_nor_a_fault_of_its_own_is_an_error_of_a_disk() {
        let (dir, service) = scene();
        service.note(&service.register_driver("app".into(), 1000).await.expect_err("it is stopping"));
        let fault = service.disks.wait::<()>(dir.path(), || panic!("on purpose")).await;
        service.note(&fault.expect_err("a panic").into());
        let status = service.status();
        assert!(status.disk_errors.is_empty(), "{status:?}");
        assert_eq!(status.errors, [("internal".to_owned(), 1), ("stopping".to_owned(), 1)].into());
    }

    #[tokio::test]
    async fn what_peers_can_bring_about_is_no_error_of_a_disk() {
        let (dir, service) = scene();
        let link = dir.path().canonicalize().expect("exists").join("link");
        std::os::unix::fs::symlink("link", &link).expect("link");
        let linked = Source::open(link.clone(), None, Look::Disk).expect_err("a link");
        service.note(&CallError::Block(linked));
        for why in [rustix::io::Errno::ACCESS, rustix::io::Errno::NAMETOOLONG] {
            service.disk_error(&link, &why.into());
        }
        assert_eq!(service.status().errors, [("forbidden".to_owned(), 3)].into());
        assert!(service.status().disk_errors.is_empty());
        service.disk_error(&link, &rustix::io::Errno::IO.into());
        assert_eq!(service.status().errors["disk"], 1);
    }

    #[test]
    fn an_output_that_was_written_anew_while_it_was_opened_is_not_kept() {
        let (dir, service) = scene();
        let [index, data] = ["index", "data"].map(|name| dir.path().join(name));
        let write = |content: &[u8]| {
            drop(std::fs::remove_file(&data));
            std::fs::write(&data, content).expect("written");
            std::fs::write(&index, [0, content.len() as u64].map(u64::to_be_bytes).concat())
                .expect("written");
        };
        let (key, began) = (OutputKey { executor: 1, shuffle: 0, map: 0 }, service.asked());
        let open_data = || MapOutput::open_data(data.clone(), None, Look::Disk).expect("opens");
        let with_index =
            |data| MapOutput::open(index.clone(), data, 1 << 10, None, Look::Disk).expect("sound");
        write(b"older and longer");
        let older = open_data();
        write(b"newer");
        assert!(service.keep(key, with_index(older), began).is_none());
        assert!(service.keep(key, with_index(open_data()), began).is_some());
    }

    #[test]
    fn what_a_driver_promises_has_bounds() {
        for (asked, taken) in [(i64::MIN, 1), (0, 1), (120_000, 120), (i64::MAX, 24 * 3600)] {
            assert_eq!(promised(asked), Duration::from_secs(taken), "{asked}");
        }
    }

    #[tokio::test]
    async fn a_failed_request_is_one_short_line_of_the_log() {
        let (_dir, service) = scene();
        let (mut written, log) = io::pipe().expect("a pipe");
        let lines =
            tracing_subscriber::fmt().with_ansi(false).with_writer(std::sync::Mutex::new(log)).finish();
        tracing::subscriber::with_default(lines, || {
            let app = format!("app\n2026-01-01 INFO forged{}", "x".repeat(20_000));
            service.note(&CallError::NotRegistered { app, executor: "1".into() });
        });
        drop(service);
        let mut text = String::new();
        io::Read::read_to_string(&mut written, &mut text).expect("reads");
        assert!(text.contains("app\\n2026") && text.lines().count() == 1 && text.len() < 2000, "{text}");
    }
}
