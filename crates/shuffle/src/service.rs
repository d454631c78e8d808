//! What the service knows and does, apart from sockets: registers executors, finds blocks, removes applications.
//! Everything that may wait for a disk is async here and runs on the blocking threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use bellows_transport::rpc::{CorruptionCause, ExecutorInfo};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blocks::{
    BlockError, BlockFiles, BlockName, DirError, LocalDir, LocalDirs, MapOutput, OutputKey, Segment, Source,
    checksum_file, is_plain_file_name, map_of_file, rdd_file,
};
use crate::checksum;
use crate::disks::Disks;
use crate::metrics::{ErrorKind, Metrics};
use crate::registry::{App, Executor, Registry};
use crate::security::Security;
use crate::store::{Recovered, Store, StoreError};
use crate::{AppStatus, Config, ExecutorRemoval, Removal, Status, tidy};

/// A driver that is told to be heard every few milliseconds is not served better by it.
const MIN_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);
/// An application whose directories are all gone is forgotten when it has been silent for so long.
const GONE_AFTER: Duration = Duration::from_secs(3600);

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
    Store(String),
    #[error("java.lang.IllegalStateException: {0}")]
    Limit(String),
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
            CallError::Block(BlockError::BadIndex { .. }) => ErrorKind::BadIndex,
            CallError::Block(BlockError::Disk { .. }) => ErrorKind::Disk,
            CallError::Store(_) => ErrorKind::Store,
            CallError::Limit(_) => ErrorKind::Limit,
        }
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> CallError {
        match error {
            StoreError::Refused(refusal) => CallError::Forbidden(refusal.to_string()),
            other => CallError::Store(other.to_string()),
        }
    }
}

impl From<DirError> for CallError {
    fn from(error: DirError) -> CallError {
        CallError::Forbidden(error.to_string())
    }
}

pub(crate) struct Service {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    pub(crate) security: Security,
    store: Store,
    files: BlockFiles,
    /// In KiB; see `Limits::large_requests_bytes`.
    large_requests: Arc<Semaphore>,
    disks: Disks,
    /// Applications that were removed, and of their directories those that could not be deleted yet.
    unfinished: Mutex<Vec<(String, Vec<PathBuf>)>>,
    /// The allowed roots without symbolic links.
    roots: Vec<PathBuf>,
}

impl Service {
    pub(crate) fn new(
        config: Config,
        security: Security,
        registry: Arc<Registry>,
        (store, recovered): (Store, Recovered),
    ) -> Service {
        let files = BlockFiles::new(config.limits.index_cache_bytes, config.limits.open_files);
        let roots: Vec<PathBuf> = config
            .allowed_roots
            .iter()
            .map(|root| root.canonicalize().unwrap_or_else(|_| root.clone()))
            .collect();
        let large_requests = Arc::new(Semaphore::new(config.limits.large_requests_bytes / 1024));
        let work_dir = config.work_dir.canonicalize().unwrap_or_else(|_| config.work_dir.clone());
        let disks = Disks::new(roots.iter().cloned().chain([work_dir]).collect());
        let metrics = Metrics::default();
        let unfinished = Mutex::new(recovered.unfinished_removals);
        Service {
            config,
            registry,
            metrics,
            security,
            store,
            files,
            large_requests,
            disks,
            unfinished,
            roots,
        }
    }

    /// Room for a request of this size, until what is returned is dropped; nothing when there is none left.
    pub(crate) fn room_for(&self, request_bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(request_bytes.div_ceil(1024)).ok()?;
        self.large_requests.clone().try_acquire_many_owned(kib).ok()
    }

    /// Counts and tells a failure of the disk that `path` is on.
    pub(crate) fn disk_error(&self, path: &Path, error: &io::Error) {
        self.metrics.error(ErrorKind::Disk);
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
        tracing::warn!(%error, "request failed");
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
        let roots = self.roots.clone();
        let dirs =
            blocking(move || LocalDirs::resolve(&info.local_dirs, info.sub_dirs_per_local_dir, &roots))
                .await??;
        if let Some(known) = self.registry.app(&app) {
            known.heard(Instant::now());
        }
        if self.registry.has(&app, &executor, &dirs) {
            return Ok(());
        }
        tracing::info!(app, executor, dirs = ?dirs.iter().map(LocalDir::told).collect::<Vec<_>>(), "executor registered");
        Ok(self.store.register(app, executor, dirs).await?)
    }

    pub(crate) async fn register_driver(&self, app: String, timeout_ms: i64) -> Result<(), CallError> {
        let timeout =
            Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).max(MIN_HEARTBEAT_TIMEOUT);
        tracing::info!(app, ?timeout, "driver registered");
        Ok(self.store.driver(app, timeout).await?)
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
        executors: Vec<String>,
    ) -> Result<Vec<(String, Vec<String>)>, CallError> {
        executors
            .into_iter()
            .map(|id| {
                let (_, executor) = self.find(app, &id)?;
                Ok((id, executor.dirs.iter().map(|dir| dir.told().to_owned()).collect()))
            })
            .collect()
    }

    /// The map output if it is open and finding a block in it waits for nothing.
    pub(crate) fn output_at_hand(
        &self,
        executor: &Executor,
        shuffle: i32,
        map: i64,
    ) -> Option<Arc<MapOutput>> {
        let key = OutputKey { executor: executor.serial, shuffle, map };
        self.files.get(&key).filter(|output| !output.reads_disk())
    }

    /// The same partitions from disk.
    pub(crate) async fn load_partitions(
        self: &Arc<Self>,
        executor: &Arc<Executor>,
        (shuffle, map): (i32, i64),
        (start, end): (i32, i32),
    ) -> Result<Option<Segment>, CallError> {
        let (service, executor) = (self.clone(), executor.clone());
        let key = OutputKey { executor: executor.serial, shuffle, map };
        blocking(move || {
            let output = match service.files.get(&key) {
                Some(output) => output,
                None => service.files.open(key, &executor.dirs)?,
            };
            Ok(output.partitions(start, end)?)
        })
        .await?
    }

    pub(crate) async fn load_rdd_block(
        &self,
        executor: &Arc<Executor>,
        rdd: i32,
        split: i32,
    ) -> Result<Option<Segment>, CallError> {
        let path = executor.dirs.path(&rdd_file(rdd, split));
        blocking(move || {
            let source = Arc::new(Source::open(path)?);
            let bytes = source.bytes();
            Ok(Some(Segment { source, offset: 0, bytes }))
        })
        .await?
    }

    /// How many of the blocks were there and are gone.
    pub(crate) async fn remove_blocks(
        self: &Arc<Self>,
        app: &str,
        executor: &str,
        blocks: Vec<String>,
    ) -> Result<i32, CallError> {
        let (_, executor) = self.find(app, executor)?;
        let service = self.clone();
        blocking(move || {
            let mut removed = 0;
            for block in blocks.iter().filter(|block| is_plain_file_name(block)) {
                if let Some((shuffle, map)) = map_of_file(block) {
                    service.files.forget_output(&OutputKey { executor: executor.serial, shuffle, map });
                }
                let path = executor.dirs.path(block);
                match tidy::remove_file(&path) {
                    Ok(gone) => removed += i32::from(gone),
                    Err(error) => {
                        service.disk_error(&path, &error);
                    }
                }
            }
            removed
        })
        .await
    }

    pub(crate) async fn diagnose(
        self: &Arc<Self>,
        (app, executor): (&str, &str),
        (shuffle, map, reduce): (i32, i64, i32),
        checksum_by_reader: i64,
        algorithm: String,
    ) -> CorruptionCause {
        let Ok((_, executor)) = self.find(app, executor) else { return CorruptionCause::UnknownIssue };
        let block = self.load_partitions(&executor, (shuffle, map), (reduce, reduce.saturating_add(1))).await;
        let Ok(Some(block)) = block else { return CorruptionCause::UnknownIssue };
        let diagnosis = blocking(move || {
            if !is_plain_file_name(&algorithm) {
                return CorruptionCause::UnsupportedChecksumAlgorithm;
            }
            let written = executor.dirs.path(&checksum_file(shuffle, map, &algorithm));
            checksum::diagnose(&algorithm, &written, reduce, &block, checksum_by_reader)
        });
        diagnosis.await.unwrap_or(CorruptionCause::UnknownIssue)
    }

    /// Forgets the application, durably, then deletes its directories. May be repeated.
    pub(crate) async fn remove_app(self: &Arc<Self>, id: &str) -> Result<Removal, CallError> {
        let removed = self.store.remove(id.to_owned()).await?;
        let executors = removed.app.as_ref().map(|app| app.executors()).unwrap_or_default();
        let serials: std::collections::HashSet<u64> = executors.iter().map(|e| e.serial).collect();
        self.files.forget(|serial| serials.contains(&serial));
        let mut removal = self.delete_dirs_of(id, removed.dirs).await?;
        removal.executors = executors.len() as u64;
        tracing::info!(app = id, ?removal, "application removed");
        Ok(removal)
    }

    /// Takes up the removals that a stop of the service interrupted, or that a disk did not let come to an end.
    pub(crate) async fn finish_removals(self: &Arc<Self>) -> Result<(), CallError> {
        let unfinished = std::mem::take(&mut *self.unfinished.lock());
        for (app, dirs) in unfinished {
            let removal = self.delete_dirs_of(&app, dirs).await?;
            tracing::info!(app, ?removal, "removal taken up again");
        }
        Ok(())
    }

    /// The duty ends when nothing is left that could still go.
    async fn delete_dirs_of(self: &Arc<Self>, app: &str, dirs: Vec<PathBuf>) -> Result<Removal, CallError> {
        let (removal, failed) = self.delete_dirs(dirs).await?;
        if failed.is_empty() {
            self.store.deleted(app.to_owned()).await?;
        } else {
            self.unfinished.lock().push((app.to_owned(), failed));
        }
        Ok(removal)
    }

    /// Also returns what a disk failed at.
    async fn delete_dirs(self: &Arc<Self>, dirs: Vec<PathBuf>) -> Result<(Removal, Vec<PathBuf>), CallError> {
        let service = self.clone();
        blocking(move || {
            let (mut removal, mut failed) = (Removal::default(), Vec::new());
            for dir in dirs {
                // An executor may have registered it since.
                if service.registry.is_owned(&dir) {
                    removal.kept.push(format!("{}: registered", dir.display()));
                    continue;
                }
                match tidy::remove_block_dir(&dir, &service.roots) {
                    Ok(freed) => {
                        removal.directories += 1;
                        removal.files += freed.files;
                        removal.bytes += freed.bytes;
                    }
                    Err(error) => {
                        removal.kept.push(format!("{}: {error}", dir.display()));
                        if tidy::is_block_dir(&dir) {
                            service.disk_error(&dir, &error);
                            failed.push(dir);
                        }
                    }
                }
            }
            (removal, failed)
        })
        .await
    }

    /// The executor has ended, says the agent.
    pub(crate) async fn executor_departed(
        self: &Arc<Self>,
        app: &str,
        executor: &str,
    ) -> Result<ExecutorRemoval, CallError> {
        let entry = self.registry.app(app).and_then(|app| app.executor(executor));
        let Some(entry) = entry else { return Ok(ExecutorRemoval::default()) };
        if !entry.departed.load(Relaxed) {
            self.store.departed(app.to_owned(), executor.to_owned()).await?;
        }
        let keep_rdd_blocks = self.config.keep_rdd_blocks;
        let service = self.clone();
        let freed = blocking(move || {
            let (mut files, mut bytes) = (0, 0);
            for dir in entry.dirs.iter().map(|dir| dir.real()) {
                match tidy::remove_private_files(dir, keep_rdd_blocks) {
                    Ok(freed) => (files, bytes) = (files + freed.files, bytes + freed.bytes),
                    Err(error) => service.disk_error(dir, &error),
                }
            }
            (files, bytes)
        });
        let (files, bytes) = freed.await?;
        tracing::info!(app, executor, files, bytes, "executor departed");
        Ok(ExecutorRemoval { known: true, files, bytes })
    }

    /// Forgets applications of which nothing is left: whoever manages the cluster deleted their directories and said
    /// nothing, or an executor registered when its application had been removed already. With `heartbeat_cleanup`,
    /// where nobody says when applications end, also removes those of which nothing was heard, and in whose
    /// directories nothing was written, for the age of orphans.
    pub(crate) async fn remove_abandoned(self: &Arc<Self>, now: Instant) -> Result<(), CallError> {
        for app in self.registry.apps() {
            let Some(silence) = app.unheard_for(now).filter(|silence| *silence > GONE_AFTER) else {
                continue;
            };
            let (service, dirs) = (self.clone(), self.registry.dirs(&app.id));
            let age = self.config.orphan_age.filter(|age| self.config.heartbeat_cleanup && silence > *age);
            let over = blocking(move || {
                let look = |dir: &PathBuf| {
                    tidy::last_change(dir).inspect_err(|error| service.disk_error(dir, error))
                };
                let Ok(changes) = dirs.iter().map(look).collect::<io::Result<Vec<_>>>() else { return false };
                match (changes.into_iter().flatten().max(), age) {
                    (None, _) => !dirs.is_empty() || age.is_some(),
                    (Some(newest), Some(age)) => tidy::is_older(newest, age, SystemTime::now()),
                    (Some(_), None) => false,
                }
            });
            if over.await? {
                tracing::info!(app = %app.id, ?silence, "nothing is left of the application, or it was abandoned");
                self.remove_app(&app.id).await?;
            }
        }
        Ok(())
    }

    /// Deletes what applications left that nobody remembers.
    pub(crate) async fn remove_orphans(self: &Arc<Self>) -> Result<(), CallError> {
        let Some(age) = self.config.orphan_age else { return Ok(()) };
        let service = self.clone();
        let found = blocking(move || {
            let registered = |dir: &Path| service.registry.is_owned(dir);
            let mut found = Vec::new();
            for root in &service.roots {
                match tidy::orphans(root, age, SystemTime::now(), registered) {
                    Ok(mut orphans) => found.append(&mut orphans),
                    Err(error) => {
                        service.disk_error(root, &error);
                    }
                }
            }
            found
        });
        let found = found.await?;
        if !found.is_empty() {
            let (removal, _) = self.delete_dirs(found).await?;
            tracing::info!(?removal, "orphans removed");
        }
        Ok(())
    }

    /// Drops what is open of files that are gone, so that their space is free.
    pub(crate) fn close_stale_files(&self) {
        self.files.close_stale();
    }

    pub(crate) async fn count_disk_use(self: &Arc<Self>) {
        for app in self.registry.apps() {
            let (service, dirs) = (self.clone(), self.registry.dirs(&app.id));
            let counted = blocking(move || {
                let count =
                    |dir: &PathBuf| tidy::disk_bytes(dir).inspect_err(|error| service.disk_error(dir, error));
                // A disk that cannot be read leaves the figure as it was.
                let bytes: io::Result<u64> = dirs.iter().map(count).sum();
                if let Ok(bytes) = bytes {
                    app.set_disk_bytes(bytes);
                }
            });
            drop(counted.await);
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
            errors: self.metrics.errors(),
            disk_errors: self.disks.errors(),
            latency: self.metrics.latency.status(),
        }
    }
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

/// Runs `work` where waiting for a disk holds nobody else.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CallError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        let source = io::Error::other(error);
        CallError::Block(BlockError::Disk { path: PathBuf::new(), source })
    })
}

/// The block that a name of the old protocol asks for.
pub(crate) fn parse_block(name: &str) -> Result<BlockName, CallError> {
    BlockName::parse(name).ok_or_else(|| CallError::BadCall(format!("Unexpected block id format: {name}")))
}
