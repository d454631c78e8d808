//! From a configuration to a running agent, and to its end.
use crate::{
    Config, Error,
    attributes::parse_attributes,
    clock::Clock,
    collect::Collector,
    driver::{Driver, Handle, exit_of},
    effects::{Containment, Effects, Shuffle},
    environment::Environment,
    http, link, machine, rotate,
    shuffle::ShuffleDirs,
    store::Store,
    work_dir::WorkDir,
};
use bellows_containment::{Containerizer, Fetcher, FetcherConfig, Owner, RecoveredState, Sandboxes};
use bellows_kernel::agent::{Config as KernelConfig, Event, RecoveredContainer, State, recover};
use bellows_model::{AgentId, AgentInfo, ContainerId};
use bellows_runtime::Server;
use std::{
    collections::BTreeMap, collections::HashMap, net::SocketAddr, path::Path, sync::Arc, time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
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
    stopping: CancellationToken,
    server: Server,
    helpers: JoinSet<()>,
}

/// Finds what earlier processes left running, binds, and connects to the leading master as soon as there is one.
pub async fn start(config: Config) -> Result<Running, Error> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| Error::Bind { address: config.listen.to_string(), source })?;
    let local_addr = listener.local_addr().map_err(Error::io("the listening socket"))?;
    let address = SocketAddr::new(config.ip(local_addr), local_addr.port());
    let work_dir = WorkDir::open(&config.work_dir)?;
    let info = agent_info(&config, address, &work_dir.path)?;
    let shuffle_dirs = Arc::new(ShuffleDirs::open(&config.shuffle_dirs)?);
    let checkpoint_path = work_dir.meta.join("checkpoint.redb");
    let (store, checkpoint) = Store::open(&checkpoint_path)?;
    let (containerizer, exits) = containers(&config, &work_dir)?;
    let found = recovered(&containerizer, &work_dir).await?;
    let sandboxes = Sandboxes::new(&work_dir.path);
    let fetch_dir = work_dir.path.join("fetch");
    let fetcher = Fetcher::new(FetcherConfig::new(&fetch_dir)).map_err(Error::io(&fetch_dir))?;

    let clock = Clock::start();
    let (run_id, _) = uuid::Uuid::new_v4().as_u64_pair();
    let kernel = KernelConfig { kill_grace: config.kill_grace, ..KernelConfig::new(info, run_id) };
    let (state, actions) = recover(kernel, clock.now(), checkpoint, found);
    let (driver, messages) = Handle::new();
    let (publish, agent_id) = watch::channel(None);
    let client = config.shuffle_socket.as_ref().map(bellows_shuffle::admin::Client::new);
    let containment = Arc::new(Containment {
        containerizer: containerizer.clone(),
        fetcher,
        sandboxes: sandboxes.clone(),
        shuffle_dirs: Arc::clone(&shuffle_dirs),
        environment: Environment::new(&config, address),
        switch_from: config.switch_user.then(Owner::own_name),
    });
    let mut effects = Effects {
        store,
        checkpoint_path,
        containment,
        shuffle: Arc::new(Shuffle::start(client, shuffle_dirs)),
        driver: driver.clone(),
        link: None,
        fetches: HashMap::new(),
        agent_id: publish,
    };
    effects.perform(&state, actions)?;

    let stopping = CancellationToken::new();
    let mut helpers = JoinSet::new();
    helpers.spawn(link::run(config.master.clone(), driver.clone()));
    if let Some((rotation, interval)) = config.rotation {
        helpers.spawn(rotate::run(rotation, interval, sandboxes.clone(), driver.clone()));
    }
    helpers.spawn(Collector::new(&config, sandboxes, work_dir.path.clone(), driver.clone()).run());
    let router = http::router(&config, address, &work_dir.path, driver.clone(), containerizer)?;
    let server = Server::start(listener, router, bellows_runtime::Limits::default())
        .map_err(Error::io("the listening socket"))?;
    let main = Driver { clock, state, effects, messages, exits, stopping: stopping.clone() };
    let main = tokio::spawn(async move {
        let outcome = main.run().await;
        // Until nothing is written there any more.
        drop(work_dir);
        outcome
    });
    Ok(Running { local_addr, agent_id, driver, main, stopping, server, helpers })
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

    /// Returns when the agent ends by itself: always with an error.
    pub async fn ended(&mut self) -> Error {
        match (&mut self.main).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => Error::Refused("the agent was stopped".into()),
            Err(panicked) => Error::Io { path: "the agent's main task".into(), source: panicked.into() },
        }
    }

    /// Tasks go on; the next agent in the same work directory takes them over.
    pub async fn stop(mut self) {
        self.helpers.shutdown().await;
        self.stopping.cancel();
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
        if tokio::time::timeout(patience, all_gone).await.is_err() {
            tracing::warn!("tasks that took longer than {patience:?} to end are killed");
            let _ = driver.tell(Event::KillAll { grace: Some(Duration::ZERO) }).await;
            let busy = async {
                while driver.read(State::busy).await.is_ok_and(|busy| busy > 0) {
                    tokio::time::sleep(POLL).await
                }
            };
            if tokio::time::timeout(KILL_LIMIT, busy).await.is_err() {
                tracing::warn!("some tasks are still there");
            }
        }
        self.stop().await;
    }
}

fn agent_info(config: &Config, address: SocketAddr, work_dir: &Path) -> Result<AgentInfo, Error> {
    Ok(AgentInfo {
        id: None,
        hostname: config.hostname.clone().unwrap_or_else(|| address.ip().to_string()),
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

async fn recovered(
    containerizer: &Containerizer,
    work_dir: &WorkDir,
) -> Result<BTreeMap<ContainerId, RecoveredContainer>, Error> {
    let found = containerizer.recover().await.map_err(Error::io(work_dir.meta.join("containers")))?;
    let state = |state: RecoveredState| match state {
        RecoveredState::Running { pid } => RecoveredContainer::Running { pid },
        RecoveredState::Ended(exit) => RecoveredContainer::Ended(exit_of(exit.status)),
    };
    Ok(found.into_iter().map(|found| (found.container_id, state(found.state))).collect())
}
