//! Brings a command's files into its sandbox before it starts.
//!
//! Runs in the agent; what is written is written on threads of the task's user, what is read of this machine in a
//! process of that user.
mod cache;
mod destination;
pub(crate) mod local;
mod source;
mod unpack;

use crate::{Owner, owner::run_as};
use bellows_model::Uri;
use cache::{Cache, Key};
use destination::Destination;
use source::Source;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use unpack::{Kind, unpack};

#[derive(Debug, Clone)]
pub struct FetcherConfig {
    /// Emptied at start, and this agent's alone; holds files of URIs that ask for `cache`.
    pub cache_dir: PathBuf,
    /// The binary that answers `shim` as its first argument: it reads the files of this machine.
    pub shim_exe: PathBuf,
    /// Without what is being fetched at the moment.
    pub cache_limit_bytes: u64,
    pub connect_timeout: Duration,
    /// The longest silence of a server, or a disk, in mid-transfer.
    pub read_timeout: Duration,
    /// The most that one URI may bring, packed or unpacked.
    pub limit_bytes: u64,
    /// The most files that one archive may bring.
    pub limit_files: u64,
}

impl FetcherConfig {
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            cache_limit_bytes: 2 << 30,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            limit_bytes: 64 << 30,
            limit_files: 1_000_000,
        }
    }
}

/// Which URI (without the secrets in it) could not be fetched, and why; fit for a TASK_FAILED message.
#[derive(Debug, thiserror::Error)]
#[error("Failed to fetch '{uri}': {failure}")]
pub struct FetchError {
    pub uri: String,
    pub failure: FetchFailure,
}

impl FetchError {
    /// Whether this machine's disk is the reason, so that another task's files would fare no better. A quota that is used
    /// up is the task's user's.
    pub fn is_of_this_disk(&self) -> bool {
        use io::ErrorKind::{ReadOnlyFilesystem, StorageFull};
        let FetchFailure::Io { source, .. } = &self.failure else { return false };
        [ReadOnlyFilesystem, StorageFull].contains(&source.kind())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FetchFailure {
    #[error("{0}")]
    InvalidUri(String),
    #[error("the server answered {0}")]
    Status(u16),
    #[error("{0}")]
    Http(String),
    #[error("it is larger, or has more files, than the agent accepts of one URI")]
    TooLarge,
    #[error("cannot unpack it: {0}")]
    Archive(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl FetchFailure {
    fn io(path: &Path, why: impl Into<io::Error>) -> Self {
        Self::Io { path: path.into(), source: why.into() }
    }
}

/// Cheap to clone; all clones share one cache.
#[derive(Debug, Clone)]
pub struct Fetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: FetcherConfig,
    cache: Cache,
    sources: source::Sources,
}

impl Fetcher {
    /// Empties the cache's directory. Blocks for that.
    pub fn new(config: FetcherConfig) -> io::Result<Self> {
        let cache = Cache::new(&config.cache_dir, config.cache_limit_bytes)?;
        let sources = source::Sources::new(&config);
        Ok(Self(Arc::new(Inner { config, cache, sources })))
    }

    /// Bytes in the cache, and how many it may take.
    pub fn cache_bytes(&self) -> (u64, u64) {
        (self.0.cache.used_bytes(), self.0.cache.limit_bytes())
    }

    /// All of `uris`, in order, into `sandbox`; ends at the first failure. Files belong to `owner`. A cached file is
    /// copied (shared on disk where the file system can), never linked: no task can change another's.
    pub async fn fetch(&self, sandbox: &Path, uris: &[Uri], owner: Option<&Owner>) -> Result<(), FetchError> {
        for uri in uris {
            let fetched = self.0.clone().fetch_one(sandbox.into(), uri.clone(), owner.cloned()).await;
            fetched.map_err(|failure| FetchError { uri: Source::shown(&uri.value), failure })?;
        }
        Ok(())
    }
}

impl Inner {
    async fn fetch_one(
        self: Arc<Self>,
        sandbox: PathBuf,
        uri: Uri,
        owner: Option<Owner>,
    ) -> Result<(), FetchFailure> {
        let source = Source::parse(&uri.value)?;
        let name = output_name(&uri, &source)?;
        // As in Mesos, what is to be executed is not unpacked.
        let kind = if uri.extract && !uri.executable { Kind::of(&name) } else { None };
        let job = Job { sandbox, name: PathBuf::from(name), executable: uri.executable, kind, owner };
        if uri.cache {
            let key = Key { uri: uri.value, uid: job.owner.as_ref().map(|owner| owner.uid) };
            let to = &self.config.cache_dir;
            let fill = |file| self.sources.copy(&source, file, to, job.owner.as_ref());
            let cached = self.cache.get(key, fill).await?;
            let inner = self.clone();
            return blocking(move || inner.deliver(&job, cached)).await;
        }
        let (inner, creating) = (self.clone(), job.clone());
        let file =
            blocking(move || inner.as_owner(&creating, |to| to.create(&creating.name, creating.executable)))
                .await?;
        let to = job.sandbox.join(&job.name);
        self.sources.copy(&source, file, &to, job.owner.as_ref()).await?;
        match job.kind {
            Some(_) => blocking(move || self.unpack_in_place(&job)).await,
            None => Ok(()),
        }
    }

    /// From the cache into the sandbox: unpacked, or as it is. Blocks.
    fn deliver(&self, job: &Job, mut cached: File) -> Result<(), FetchFailure> {
        self.as_owner(job, move |to| match job.kind {
            Some(kind) => unpack(kind, cached, &job.name, to),
            None => {
                let mut file = to.create(&job.name, job.executable)?;
                // File to file: the kernel copies, and shares the blocks where it can.
                let copied = io::copy(&mut cached, &mut file);
                copied.map(drop).map_err(|why| FetchFailure::io(&job.sandbox.join(&job.name), why))
            }
        })
    }

    /// As in Mesos, the archive stays beside what was in it.
    fn unpack_in_place(&self, job: &Job) -> Result<(), FetchFailure> {
        let Some(kind) = job.kind else { return Ok(()) };
        self.as_owner(job, |to| {
            let file = to.open_file(&job.name)?;
            unpack(kind, file, &job.name, to)
        })
    }

    fn as_owner<T: Send>(
        &self,
        job: &Job,
        work: impl FnOnce(&mut Destination) -> Result<T, FetchFailure> + Send,
    ) -> Result<T, FetchFailure> {
        let (limit_bytes, limit_files) = (self.config.limit_bytes, self.config.limit_files);
        let done = run_as(job.owner.as_ref(), || {
            Ok(Destination::open(&job.sandbox, limit_bytes, limit_files).and_then(|mut to| work(&mut to)))
        });
        done.map_err(|why| FetchFailure::io(&job.sandbox, why))?
    }
}

/// One URI's way into one sandbox.
#[derive(Clone)]
struct Job {
    sandbox: PathBuf,
    name: PathBuf,
    executable: bool,
    kind: Option<Kind>,
    owner: Option<Owner>,
}

/// `output_file` (which may have directories in it; they are checked where it is created), else the URI's basename.
fn output_name(uri: &Uri, source: &Source) -> Result<String, FetchFailure> {
    match &uri.output_file {
        Some(name) if name.ends_with('/') || Path::new(name).file_name().is_none() => {
            Err(FetchFailure::InvalidUri(format!("its output file '{name}' is not the name of a file")))
        }
        Some(name) => Ok(name.clone()),
        None => source.basename(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("invariant: this work does not panic")
}
