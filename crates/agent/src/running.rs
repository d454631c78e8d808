//! From a configuration to a running agent, and to its end.
use crate::{
    Config, Error,
    announced::Announced,
    attributes::parse_attributes,
    clock::Clock,
    collect::{Collector, Figures as Collected},
    disks::DiskWatch,
    driver::{Driver, Handle, exit_of},
    effects::{Containment, Effects, Shuffle},
    environment::Environment,
    http::{self, metrics},
    link, machine,
    narrate::narrate,
    rotate,
    shuffle::ShuffleDirs,
    store::Store,
    work_dir::{SANDBOXES, WorkDir},
};
use bellows_containment::{
    Containerizer, ExitStatus, Fetcher, FetcherConfig, Owner, RecoveredState, Sandboxes, Stray,
};
use bellows_kernel::agent::{Config as KernelConfig, Event, RecoveredContainer, State, recover};
use bellows_model::{AgentId, AgentInfo, ContainerId};
use bellows_runtime::{Hosts, Server, Vital};
use std::{
    collections::BTreeMap,
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long HTTP requests may take to end when the agent stops.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long processes may take to vanish after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How often the last tasks of an agent that stops are looked at.
const POLL: Duration = Duration::from_millis(20);

/// An agent at work. Dropping it does not stop it.
pub struct Running {
    local_addr: SocketAddr,
    agent_id: watch::Receiver<Option<AgentId>>,
    driver: Handle,
    main: JoinHandle<Result<(), Error>>,
    vital: Vital,
    stopping: CancellationToken,
    server: Server,
    helpers: JoinSet<()>,
    disk_watch: JoinHandle<()>,
}

/// Finds what earlier processes left running, binds, and connects to the leading master as soon as there is one.
pub async fn start(config: Config) -> Result<Running, Error> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Bind { address: config.listen.to_string(), source })?;
    bellows_runtime::notice_lost_peers(&listener, bellows_runtime::LOST_PEER_TIMEOUT)
        .map_err(Error::io("the listening socket"))?;
    let local_addr = listener.local_addr().map_err(Error::io("the listening socket"))?;
    let announced = Arc::new(Announced::new(&config, local_addr));
    let begun = Instant::now();
    let work_dir = Arc::new(WorkDir::open(&config.work_dir)?);
    let info = agent_info(&config, &announced, &work_dir.path)?;
    let shuffle_dirs = ShuffleDirs::open(&config.shuffle_dirs, work_dir.meta.join("disks.json"));
    let shuffle_dirs = Arc::new(shuffle_dirs.await?);
    let checkpoint_path = work_dir.meta.join("checkpoint.redb");
    let vital = Vital::new();
    let (store, checkpoint) = Store::open(&checkpoint_path, vital.guard("the checkpoint's thread"))?;
    let (containerizer, exits) = containers(&config, &work_dir)?;
    let found = recovered(&containerizer, &work_dir).await?;
    let sandboxes = Sandboxes::new(&work_dir.path);
    let fetcher = fetcher(&config, &work_dir)?;
    if config.switch_user {
        let (roots, sandboxes) = (shuffle_dirs.roots(), work_dir.path.join(SANDBOXES));
        warn_of_blocked(roots.iter().map(PathBuf::as_path).chain([sandboxes.as_path()]));
    }

    let clock = Clock::start();
    let (run_id, _) = uuid::Uuid::new_v4().as_u64_pair();
    let kernel = KernelConfig {
        kill_grace: config.kill_grace,
        shuffle_service: config.shuffle_socket.is_some(),
        ..KernelConfig::new(info, run_id)
    };
    let (state, actions) = recover(kernel, clock.now(), checkpoint, found);
    let recovery = begun.elapsed();
    tracing::info!(
        address = %local_addr,
        work_dir = %work_dir.path.display(),
        tasks = state.busy(),
        "the agent listens; it offers {}",
        state.config.info.resources
    );
    let (driver, messages) = Handle::new();
    let (publish, agent_id) = watch::channel(None);
    let client = config.shuffle_socket.as_ref().map(bellows_shuffle::admin::Client::new);
    let collected = Arc::new(Collected::default());
    let sources = metrics::Sources { fetcher: fetcher.clone(), collected: Arc::clone(&collected), recovery };
    let containment = Arc::new(Containment {
        containerizer: containerizer.clone(),
        fetcher,
        sandboxes: sandboxes.clone(),
        shuffle_dirs: Arc::clone(&shuffle_dirs),
        environment: Environment::new(&config, Arc::clone(&announced)),
        switch_from: config.switch_user.then(Owner::own_name),
    });
    let watched = client.clone();
    let has_checkpoint = Arc::new(store.watch(&checkpoint_path));
    let (disks, stopping) = (Arc::clone(&shuffle_dirs), CancellationToken::new());
    let mut effects = Effects {
        store,
        checkpoint_path,
        containment,
        shuffle: Arc::new(Shuffle::start(client, shuffle_dirs, &vital)),
        driver: driver.clone(),
        link: None,
        fetches: HashMap::new(),
        agent_id: publish,
    };
    narrate(&state, &actions);
    effects.perform(&state, actions)?;

    let mut helpers = JoinSet::new();
    let guard = vital.guard("the connection to the master");
    let linked = link::run(config.master.clone(), driver.clone());
    helpers.spawn(async move {
        let _guard = guard;
        linked.await;
    });
    if let Some(client) = watched {
        let guard = vital.guard("the watch over the shuffle service");
        let watch = watch_service(client, effects.shuffle.asked(), driver.clone());
        helpers.spawn(async move {
            let _guard = guard;
            watch.await;
        });
    }
    if let Some((rotation, interval)) = config.rotation {
        let guard = vital.guard("the rotation of tasks' output");
        let rotating = rotate::run(rotation, interval, sandboxes.clone(), driver.clone());
        helpers.spawn(async move {
            let _guard = guard;
            rotating.await;
        });
    }
    let disk_watch = DiskWatch {
        work_dir: Arc::clone(&work_dir),
        shuffle_dirs: disks,
        containerizer: containerizer.clone(),
        has_checkpoint,
        interval: config.disk_check_interval,
        driver: driver.clone(),
        stopping: stopping.clone(),
    };
    let guard = vital.guard("the watch over the disks");
    let disk_watch = tokio::spawn(async move {
        let _guard = guard;
        disk_watch.run().await;
    });
    let guard = vital.guard("the collection of sandboxes");
    let collector = Collector::new(&config, sandboxes, work_dir.path.clone(), driver.clone(), collected);
    helpers.spawn(async move {
        let _guard = guard;
        collector.run().await;
    });
    let announcing = Arc::clone(&announced);
    let router = http::router(&config, announcing, &work_dir.path, driver.clone(), containerizer, sources);
    let own = config.hostname.as_deref();
    let router = Hosts::new(own, config.allow_hosts.iter().map(String::as_str)).guard(router);
    let server =
        Server::start(listener, router, config.limits.clone()).map_err(Error::io("the listening socket"))?;
    let main = Driver { clock, announced, state, effects, messages, exits, stopping: stopping.clone() };
    let guard = vital.guard("the agent's driver");
    let main = tokio::spawn(async move {
        let _guard = guard;
        let outcome = main.run().await;
        // Until nothing is written there any more.
        drop(work_dir);
        outcome
    });
    Ok(Running { local_addr, agent_id, driver, main, vital, stopping, server, helpers, disk_watch })
}

/// Asks the shuffle service every second whether it is there, and when the kernel wants to know. Tells it what has
/// changed, or what it asked.
async fn watch_service(client: bellows_shuffle::admin::Client, asked: Arc<Notify>, driver: Handle) {
    const PAUSE: Duration = Duration::from_secs(1);
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
    let (mut was_down, mut is_asked) = (None, false);
    loop {
        let down = !timeout(ANSWER_TIMEOUT, client.answers()).await.unwrap_or(false);
        let changed = was_down.replace(down) != Some(down);
        match down {
            true if changed => tracing::warn!(
                socket = %client.socket().display(),
                "the shuffle service does not answer: no executors of applications that use it until it does"
            ),
            false if changed => tracing::info!("the shuffle service answers"),
            _ => {}
        }
        if (changed || is_asked) && driver.tell(Event::ShuffleService { down }).await.is_err() {
            return;
        }
        is_asked = timeout(PAUSE, asked.notified()).await.is_ok();
    }
}

impl Running {
    /// The real port when the configuration said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// `None` until a master has given one.
    pub fn agent_id(&self) -> Option<AgentId> {
        self.agent_id.borrow().clone()
    }

    /// Waits until the agent has its id; `None` when it ended before.
    pub async fn registered(&mut self) -> Option<AgentId> {
        self.agent_id.wait_for(Option::is_some).await.ok().and_then(|id| id.clone())
    }

    /// Returns when the agent ends by itself, or can no longer do its work: always with an error.
    pub async fn ended(&mut self) -> Error {
        let ended = tokio::select! {
            biased;
            main = &mut self.main => match main {
                Ok(Err(error)) => return error,
                Ok(Ok(())) => return Error::Ended("the agent was stopped".into()),
                // The guard knows more.
                Err(_) => self.vital.ended().await,
            },
            // What ended the driver is the driver's to say.
            ended = self.vital.ended() => match timeout(STOP_GRACE, &mut self.main).await {
                Ok(Ok(Err(error))) => return error,
                _ => ended,
            },
            ended = self.server.ended() => ended,
        };
        Error::Ended(ended.to_string())
    }

    /// Tasks go on; the next agent in the same work directory takes them over.
    pub async fn stop(mut self) {
        self.helpers.shutdown().await;
        self.stopping.cancel();
        // A disk that hangs is not waited for.
        let _ = timeout(STOP_GRACE, self.disk_watch).await;
        self.server.stop(STOP_GRACE).await;
        if !self.main.is_finished() && (&mut self.main).await.is_err() {
            tracing::error!("the agent panicked");
        }
    }

    /// Leaves the master, which then forgets this agent, and kills every task; [`Running::ended`] returns when the last
    /// is gone. The next start is that of a new agent.
    pub async fn retire(&self) {
        let _ = self.driver.tell(Event::Retire).await;
    }

    /// Takes the tasks that are being killed their grace. A master that does not let a retiring agent go is not waited
    /// for any longer.
    pub async fn kill_tasks_now(&self) {
        self.retire().await;
        let _ = self.driver.tell(Event::KillAll { grace: Some(Duration::ZERO) }).await;
    }

    /// Kills every task, waits until the last process and the files of ended frameworks are gone (at most `patience`),
    /// then stops. `hurry`: without grace from then on.
    pub async fn stop_and_kill_tasks(self, patience: Duration, hurry: &CancellationToken) {
        let driver = self.driver.clone();
        let all_gone = async {
            let mut in_time = !hurry.is_cancelled();
            driver.tell(Event::KillAll { grace: (!in_time).then_some(Duration::ZERO) }).await?;
            let waiting = |state: &State| state.busy() + state.removals_under_way();
            while driver.read(waiting).await? > 0 {
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = hurry.cancelled(), if in_time => {
                        in_time = false;
                        driver.tell(Event::KillAll { grace: Some(Duration::ZERO) }).await?;
                    }
                }
            }
            Ok::<_, crate::driver::Stopped>(())
        };
        if timeout(patience, all_gone).await.is_err() {
            tracing::warn!("tasks that took longer than {patience:?} to end are killed");
            let _ = driver.tell(Event::KillAll { grace: Some(Duration::ZERO) }).await;
            let busy = async {
                while driver.read(State::busy).await.is_ok_and(|busy| busy > 0) {
                    tokio::time::sleep(POLL).await
                }
            };
            if timeout(KILL_LIMIT, busy).await.is_err() {
                tracing::warn!("some tasks are still there");
            }
        }
        self.stop().await;
    }
}

fn agent_info(config: &Config, announced: &Announced, work_dir: &Path) -> Result<AgentInfo, Error> {
    let address = announced.address();
    Ok(AgentInfo {
        id: None,
        hostname: announced.hostname(),
        ip: address.ip().to_string(),
        port: address.port(),
        resources: machine::resources(&config.resources, work_dir)?,
        attributes: parse_attributes(&config.attributes)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

type Exits = tokio::sync::mpsc::Receiver<bellows_containment::ExitEvent>;

fn containers(config: &Config, work_dir: &WorkDir) -> Result<(Containerizer, Exits), Error> {
    let meta_root = work_dir.meta.join("containers");
    let mut containment = bellows_containment::Config::new(&meta_root);
    if let Some(exe) = &config.shim_exe {
        containment.shim_exe.clone_from(exe);
    }
    Containerizer::new(containment).map_err(Error::io(meta_root))
}

fn fetcher(config: &Config, work_dir: &WorkDir) -> Result<Fetcher, Error> {
    work_dir.discard_earlier_cache();
    let cache = work_dir.fetch_cache();
    let mut fetcher = FetcherConfig::new(&cache);
    if let Some(exe) = &config.shim_exe {
        fetcher.shim_exe.clone_from(exe);
    }
    Fetcher::new(fetcher).map_err(Error::io(cache))
}

/// Tasks of other users will fail; the operator should know before.
fn warn_of_blocked<'a>(needed: impl Iterator<Item = &'a Path>) {
    for blocked in needed.filter_map(|dir| Owner::anybody_may_reach(dir).err()) {
        tracing::warn!("tasks of other users cannot run: {blocked}");
    }
}

async fn recovered(
    containerizer: &Containerizer,
    work_dir: &WorkDir,
) -> Result<BTreeMap<ContainerId, RecoveredContainer>, Error> {
    let found = containerizer.recover().await.map_err(Error::io(work_dir.meta.join("containers")))?;
    for Stray { shim, processes, gone } in
        containerizer.end_strays().await.map_err(Error::io(work_dir.meta.join("containers")))?
    {
        match gone {
            true => tracing::warn!(shim, ?processes, "a task that nobody remembered was ended"),
            false => tracing::error!(shim, ?processes, "a task that nobody remembers cannot be ended"),
        }
    }
    let state = |state: RecoveredState| match state {
        RecoveredState::Running { pid } => RecoveredContainer::Running { pid },
        RecoveredState::Ended(exit) if exit.status == ExitStatus::NotStarted => {
            RecoveredContainer::NotStarted
        }
        RecoveredState::Ended(exit) => RecoveredContainer::Ended(exit_of(exit.status)),
    };
    Ok(found.into_iter().map(|found| (found.container_id, state(found.state))).collect())
}
