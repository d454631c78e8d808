//! The agent's side of a task's processes: starts shims, watches them, finds them again after a restart.
//!
//! It decides nothing: when to launch, kill or forget is the caller's affair.
mod slots;

use crate::{
    Isolator, Owner, Usage,
    dirs::{PRIVATE_DIR, make_dirs, own_dir},
    isolator::MARKER,
    process::{self, Handle, Identity},
    remove_tree,
    shim::{self, Ended, Failure, Instruction, Record, Register, Report, Started, State, Zygote},
    strays::{self, Stray},
};
use bellows_model::{ContainerId, EnvironmentVariable};
use parking_lot::Mutex;
use slots::{Containers, Place, Shim};
use std::{
    collections::HashSet,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};

/// Each holds one thread of the runtime's, which has other uses for them.
const LAUNCHES_LIMIT: usize = 16;
const EXITS_CAPACITY: usize = 1024;
const REPORT_LIMIT_BYTES: u64 = 64 * 1024;

/// What a [`Containerizer`] needs to know.
pub struct Config {
    /// Holds the register: which containers were launched and not yet forgotten. Must be absolute, on a local file
    /// system, and this agent's alone.
    pub meta_root: PathBuf,
    /// The binary that answers `shim` as its first argument.
    pub shim_exe: PathBuf,
    /// How long a zygote may take for a fork before it counts as hung, and another one is started.
    pub zygote_patience: Duration,
    pub isolator: Arc<dyn Isolator>,
}

impl Config {
    /// Shims are this very binary, resources are not enforced.
    pub fn new(meta_root: impl Into<PathBuf>) -> Self {
        Self {
            meta_root: meta_root.into(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            zygote_patience: Duration::from_secs(10),
            isolator: Arc::new(crate::Posix),
        }
    }
}

/// One process to start, in a sandbox that exists already.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    pub container_id: ContainerId,
    /// Absolute. The working directory; `stdout` and `stderr` are appended to in it.
    pub sandbox: PathBuf,
    /// `true`: `/bin/sh -c value`. `false`: the program `value` (looked up in the environment's `PATH`) with
    /// `arguments` as its argv, argv[0] first; none given: argv is `[value]`.
    pub shell: bool,
    pub value: String,
    pub arguments: Vec<String>,
    /// All that the process sees, and `BELLOWS_CONTAINER_ID`. A later variable of the same name wins.
    pub environment: Vec<EnvironmentVariable>,
    /// Whom to become; `None`: stay who the agent is.
    pub user: Option<Owner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// The task's main process, leader of its own session.
    pub pid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Exited(i32),
    Signaled(i32),
    /// Nobody saw how it ended (its shim was killed, the machine went down).
    Lost,
    /// Its command was never executed.
    NotStarted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub status: ExitStatus,
    /// Says to people why it is [`ExitStatus::Lost`] or [`ExitStatus::NotStarted`].
    pub reason: Option<String>,
}

/// Sent once for each container that [`Containerizer::launch`] started or [`Containerizer::recover`] found running,
/// when the last of its processes is gone. It may arrive before the caller has seen `Launched`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitEvent {
    pub container_id: ContainerId,
    pub exit: Exit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub container_id: ContainerId,
    pub state: RecoveredState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveredState {
    /// Its exit will come as an [`ExitEvent`].
    Running { pid: u32 },
    /// It ended meanwhile, or never started; no event follows.
    Ended(Exit),
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("container {0} exists already")]
    Exists(ContainerId),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The command cannot be executed; the shim's words.
    #[error("{0}")]
    Command(String),
    /// The shim did not come as far as the command; its words.
    #[error("{0}")]
    Shim(String),
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Containerizer(Arc<Inner>);

struct Inner {
    config: Config,
    boot_id: String,
    register_path: PathBuf,
    containers: Mutex<Containers>,
    exits: mpsc::Sender<ExitEvent>,
    /// From the first launch on.
    zygote: Mutex<Option<Zygote>>,
    /// Forking is bound to the processor: more at once only makes each one slower.
    launches: Semaphore,
}

impl Containerizer {
    /// Opens the register, or makes one. Must be called within a Tokio runtime. Exits arrive on the receiver, which is
    /// bounded: containers wait with their news until the caller reads.
    pub fn new(config: Config) -> io::Result<(Self, mpsc::Receiver<ExitEvent>)> {
        if let Some(above) = config.meta_root.parent() {
            make_dirs(above, PRIVATE_DIR)?;
        }
        own_dir(&config.meta_root, PRIVATE_DIR)?;
        let (exits, receiver) = mpsc::channel(EXITS_CAPACITY);
        let boot_id = process::boot_id()?;
        let launches = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        let launches = Semaphore::new(launches.min(LAUNCHES_LIMIT));
        let register_path = config.meta_root.join("containers");
        let containers = Mutex::new(Containers::open(&register_path)?);
        let zygote = Mutex::new(None);
        let inner = Inner { config, boot_id, register_path, containers, exits, zygote, launches };
        Ok((Self(Arc::new(inner)), receiver))
    }

    /// Returns once the command has been executed (`execve` succeeded) or could not be. Goes on when dropped.
    pub async fn launch(&self, spec: LaunchSpec) -> Result<Launched, LaunchError> {
        let containerizer = self.clone();
        let launch = tokio::spawn(async move { containerizer.launch_to_its_end(spec).await });
        launch.await.expect("invariant: launching does not panic and is never aborted")
    }

    async fn launch_to_its_end(self, spec: LaunchSpec) -> Result<Launched, LaunchError> {
        let permit = self.0.launches.acquire().await.expect("invariant: never closed");
        let id = spec.container_id.clone();
        id.validate().map_err(|why| LaunchError::Command(format!("container id: {why}")))?;
        let place = self.0.containers.lock().take_slot(&id)?;
        let inner = self.0.clone();
        let started = blocking(move || inner.start(&spec, &place)).await;
        drop(permit);
        let (handle, Started { task, .. }) = match started {
            Ok(started) => started,
            Err(why) => {
                let _ = self.forget(&id).await;
                return Err(why);
            }
        };
        self.watch(id, handle, task);
        Ok(Launched { pid: task.pid })
    }

    /// TERM to every process of the container; KILL to those left after `grace`. Returns at once; the end comes as an
    /// [`ExitEvent`]. A further call can shorten the grace, not extend it. `false`: no such container runs.
    pub fn kill(&self, container_id: &ContainerId, grace: Duration) -> bool {
        let shim = self.0.containers.lock().running.get(container_id).cloned();
        // A shim that ended in this moment has its event under way.
        shim.is_some_and(|shim| shim::send_kill(&shim.handle, grace).is_ok())
    }

    /// Finds what earlier agent processes launched and nobody forgot. Call once, before the first launch.
    pub async fn recover(&self) -> io::Result<Vec<Recovered>> {
        let known = self.0.containers.lock().slots.clone();
        let mut recovered = Vec::with_capacity(known.len());
        for (container_id, place) in known {
            let (inner, id) = (self.0.clone(), container_id.clone());
            let state = match blocking(move || inner.find(&id, &place)).await? {
                Found::Ended(exit) => RecoveredState::Ended(exit),
                Found::Running { handle, task } => {
                    self.watch(container_id.clone(), handle, task);
                    RecoveredState::Running { pid: task.pid }
                }
            };
            recovered.push(Recovered { container_id, state });
        }
        Ok(recovered)
    }

    /// Drops what is stored of an ended container, once the caller has made its exit durable elsewhere. An unknown one
    /// is no error.
    pub async fn forget(&self, container_id: &ContainerId) -> io::Result<()> {
        let place = {
            let mut containers = self.0.containers.lock();
            if containers.running.contains_key(container_id) {
                let why = format!("container {container_id} runs");
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
            }
            // Taken out at once: a second call meanwhile must not clear the slot when it is another's already.
            match containers.slots.remove(container_id) {
                Some(place) => place,
                None => return Ok(()),
            }
        };
        let (clearing, inner) = (place.clone(), self.0.clone());
        let cleared = blocking(move || inner.clear(&clearing)).await;
        let mut containers = self.0.containers.lock();
        match &cleared {
            Ok(()) => containers.free_slots.push(place.slot),
            Err(_) => drop(containers.slots.insert(container_id.clone(), place)),
        }
        cleared
    }

    /// Ends the shims of earlier agent processes of this register that it knows nothing of, with their tasks: it was
    /// deleted under them. Call after [`Containerizer::recover`], before the first launch.
    pub async fn end_strays(&self) -> io::Result<Vec<Stray>> {
        // A task that is about to be executed still looks like its shim.
        let running = |shim: &Arc<Shim>| [shim.handle.identity(), shim.task];
        let known: HashSet<Identity> = self.0.containers.lock().running.values().flat_map(running).collect();
        let inner = self.0.clone();
        let mut found = blocking(move || {
            strays::shims(&inner.register_path, &inner.register().metadata()?)
                .map(|found| found.collect::<Vec<_>>())
        })
        .await?;
        found.retain(|shim| !known.contains(shim));
        let mut ended = Vec::with_capacity(found.len());
        for shim in found {
            ended.push(strays::end(shim).await?);
        }
        Ok(ended)
    }

    /// Makes the register again if somebody deleted it; returns whether it did. What shims that run say of their end
    /// goes to the deleted file, where it is found as long as this process lives. Blocks.
    pub fn restore_register(&self) -> io::Result<bool> {
        self.0.restore_register()
    }

    /// What a running container's processes use now; `None` when it does not run.
    pub async fn usage(&self, container_id: &ContainerId) -> Option<Usage> {
        let shim = self.0.containers.lock().running.get(container_id)?.handle.identity().pid;
        let (inner, id) = (self.0.clone(), container_id.clone());
        Some(blocking(move || inner.config.isolator.usage(&id, shim)).await)
    }

    fn watch(&self, id: ContainerId, handle: Handle, task: Identity) {
        let watched = Arc::new(Shim { handle, task });
        self.0.containers.lock().running.insert(id.clone(), watched.clone());
        let inner = self.0.clone();
        tokio::spawn(async move {
            // An error here means that the runtime shuts down: the next agent process will find the container.
            if watched.handle.ended().await.is_err() {
                return;
            }
            watched.handle.reap();
            let exit = match inner.said_exit(&id) {
                Some(exit) => exit,
                None => {
                    let (at_work, container_id, task) = (inner.clone(), id.clone(), watched.task);
                    blocking(move || at_work.end_without_shim(&container_id, task)).await
                }
            };
            inner.containers.lock().running.remove(&id);
            let _ = inner.exits.send(ExitEvent { container_id: id, exit }).await;
        });
    }
}

/// What blocks; runs on threads of its own.
impl Inner {
    /// Returns once the command has been executed or could not be. The handle is the shim's.
    fn start(&self, spec: &LaunchSpec, place: &Place) -> Result<(Handle, Started), LaunchError> {
        let record = Record { container_id: spec.container_id.to_string(), state: State::Starting };
        place
            .register
            .update(place.slot, |_| Some(record))
            .map_err(|source| LaunchError::Io { what: self.register_path.display().to_string(), source })?;
        let exe = &self.config.shim_exe;
        let (handle, conversation) = self
            .fork_shim()
            .map_err(|source| LaunchError::Io { what: format!("the shim {}", exe.display()), source })?;
        match self.instruct(conversation, spec, place.slot) {
            Ok(started) => Ok((handle, started)),
            Err(why) => {
                handle.reap();
                Err(why)
            }
        }
    }

    /// From the zygote, which is started when there is none, or none that answers.
    fn fork_shim(&self) -> io::Result<(Handle, UnixStream)> {
        let mut kept = self.zygote.lock();
        // One that failed is dropped, and killed with that.
        if let Some(zygote) = kept.take()
            && let Ok(shim) = zygote.fork()
        {
            *kept = Some(zygote);
            return Ok(shim);
        }
        let zygote = Zygote::start(&self.config.shim_exe, self.config.zygote_patience)?;
        let shim = zygote.fork()?;
        *kept = Some(zygote);
        Ok(shim)
    }

    fn instruct(
        &self,
        mut conversation: UnixStream,
        spec: &LaunchSpec,
        slot: u32,
    ) -> Result<Started, LaunchError> {
        let instruction = serde_json::to_vec(&self.instruction(spec, slot)).map_err(io::Error::from);
        // A shim that died says nothing; that is noticed below.
        let _ = conversation
            .write_all(&instruction.map_err(at("cannot write the shim's instruction"))?)
            .and_then(|()| conversation.shutdown(Shutdown::Write));
        let mut report = Vec::new();
        conversation
            .take(REPORT_LIMIT_BYTES)
            .read_to_end(&mut report)
            .map_err(at("cannot read the shim's report"))?;
        match serde_json::from_slice(&report) {
            Ok(Report::Started(started)) => Ok(started),
            Ok(Report::Failed(Failure { why, of_task: true })) => Err(LaunchError::Command(why)),
            Ok(Report::Failed(Failure { why, .. })) => Err(LaunchError::Shim(why)),
            Err(_) => Err(LaunchError::Shim("the shim died before it started the command".into())),
        }
    }

    fn instruction(&self, spec: &LaunchSpec, slot: u32) -> Instruction {
        let variables =
            spec.environment.iter().map(|variable| (variable.name.clone(), variable.value.clone()));
        let marker = (MARKER.to_owned(), spec.container_id.to_string());
        Instruction {
            boot_id: self.boot_id.clone(),
            register: self.register_path.clone(),
            slot,
            container_id: spec.container_id.to_string(),
            sandbox: spec.sandbox.clone(),
            shell: spec.shell,
            value: spec.value.clone(),
            arguments: spec.arguments.clone(),
            environment: variables.chain([marker]).collect(),
            user: spec.user.clone(),
        }
    }

    fn find(&self, container_id: &ContainerId, Place { register, slot }: &Place) -> io::Result<Found> {
        // A shim that has not come to its task gives up when it sees this.
        let abandoned = Ended::failed("the agent ended before the command was started");
        register.update(*slot, |record| {
            let starting = record.filter(|record| record.state == State::Starting)?;
            Some(Record { state: State::Ended(abandoned), ..starting })
        })?;
        let state = register.read(*slot)?.map(|record| record.state);
        Ok(match state {
            Some(State::Running(started)) if started.boot_id != self.boot_id => {
                Found::Ended(Exit::lost("the machine was restarted while it ran"))
            }
            Some(State::Running(Started { shim, task, .. })) => match Handle::of_stranger(shim)? {
                Some(handle) => Found::Running { handle, task },
                None => Found::Ended(
                    self.said_exit(container_id).unwrap_or_else(|| self.end_without_shim(container_id, task)),
                ),
            },
            Some(State::Ended(ended)) => Found::Ended(ended.into()),
            Some(State::Starting) | None => Found::Ended(Exit::lost("its record cannot be read")),
        })
    }

    fn register(&self) -> Arc<Register> {
        self.containers.lock().register.clone()
    }

    fn restore_register(&self) -> io::Result<bool> {
        if self.register().is_at(&self.register_path)? {
            return Ok(false);
        }
        if let Some(above) = self.config.meta_root.parent() {
            make_dirs(above, PRIVATE_DIR)?;
        }
        own_dir(&self.config.meta_root, PRIVATE_DIR)?;
        // What lies there is of no use: nothing of it is known here.
        remove_tree(&self.register_path)?;
        let anew = Arc::new(Register::open(&self.register_path)?);
        let places: Vec<Place> = {
            let mut containers = self.containers.lock();
            containers.register = anew.clone();
            containers.slots.values().cloned().collect()
        };
        for Place { register, slot } in
            places.into_iter().filter(|place| !Arc::ptr_eq(&place.register, &anew))
        {
            if let Some(record) = register.read(slot)? {
                anew.update(slot, |newer| newer.is_none().then_some(record))?;
            }
        }
        Ok(true)
    }

    /// In the register that was deleted, and in its copy.
    fn clear(&self, Place { register, slot }: &Place) -> io::Result<()> {
        let current = self.register();
        if !Arc::ptr_eq(register, &current) {
            current.clear(*slot)?;
        }
        register.clear(*slot)
    }

    /// What the shim said before it ended. It has just been written: reading it waits for no disk, and its lock for
    /// nobody.
    fn said_exit(&self, container_id: &ContainerId) -> Option<Exit> {
        let Place { register, slot } = self.containers.lock().slots.get(container_id).cloned()?;
        // One that opened the register when it had been made again has written there.
        [register, self.register()].iter().find_map(|register| match register.read(slot).ok()?? {
            Record { container_id: id, state: State::Ended(ended) } if id == container_id.as_str() => {
                Some(ended.into())
            }
            _ => None,
        })
    }

    /// The shim was killed, and may have left processes behind.
    fn end_without_shim(&self, container_id: &ContainerId, task: Identity) -> Exit {
        match self.config.isolator.destroy(container_id, (task.pid, task.start)) {
            true => Exit::lost("its shim was killed; so were its processes then"),
            false => Exit::lost("its shim was killed; some of its processes could not be killed yet"),
        }
    }
}

enum Found {
    Running { handle: Handle, task: Identity },
    Ended(Exit),
}

impl Exit {
    fn lost(why: &str) -> Self {
        Self { status: ExitStatus::Lost, reason: Some(why.to_owned()) }
    }
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(code) => Self { status: ExitStatus::Exited(code), reason: None },
            Ended::Signaled(signal) => Self { status: ExitStatus::Signaled(signal), reason: None },
            Ended::Failed(why) => Self { status: ExitStatus::NotStarted, reason: Some(why) },
        }
    }
}

fn at(what: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Io { what: what.into(), source }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("invariant: this work does not panic")
}
