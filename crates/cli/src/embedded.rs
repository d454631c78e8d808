//! A whole cluster in this process: a master, agents and a shuffle service, on one address and in one directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bellows_client::OperatorClient;
use bellows_containment::{OPEN_DIR, make_dirs};
use bellows_election::{MasterAddress, detect};
use bellows_runtime::Limits;
use bellows_wire::v1::FrameworkId;
use futures::future::{join_all, select_all};
use tokio_util::sync::CancellationToken;

use crate::args::{AllowHostArgs, ListenArgs, ShuffleClientArgs, SizeArgs};
use crate::error::Error;
use crate::{rows, serve, shuffle, spark, submit};

/// The shuffle service's admin socket, in the work directory.
pub const SHUFFLE_SOCKET: &str = "shuffle.sock";

/// Longer than a task's grace period between TERM and KILL.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Agents of the same process register in milliseconds.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Options {
    pub size: SizeArgs,
    pub listen: ListenArgs,
    pub clients: ShuffleClientArgs,
    pub hosts: AllowHostArgs,
    /// As the master's setting of that name.
    pub offer_timeout: Option<Duration>,
    /// Absolute, and there.
    pub work_dir: PathBuf,
}

pub struct Embedded {
    master: bellows_master::Running,
    agents: Vec<bellows_agent::Running>,
    shuffle: bellows_shuffle::Running,
    operator: OperatorClient,
}

impl Embedded {
    pub async fn start(options: &Options) -> Result<Self, Error> {
        let Options { size, listen, clients, hosts, offer_timeout, work_dir } = options;
        let shuffle_root = work_dir.join("shuffle-files");
        // The service looks at it before the agents make theirs in it.
        make_dirs(&shuffle_root, OPEN_DIR).map_err(|source| Error::io("creating", &shuffle_root, source))?;
        let socket = work_dir.join(SHUFFLE_SOCKET);

        let mut config = bellows_shuffle::Config::new(work_dir.join("shuffle"));
        config.listen = SocketAddr::new(listen.ip, listen.shuffle_port);
        config.admin_socket = Some(socket.clone());
        config.allowed_roots = vec![shuffle_root.clone()];
        // The agents below know which frameworks live.
        config.heartbeat_cleanup = false;
        shuffle::ask_of_clients(&mut config, clients)?;
        let shuffle = shuffle::start(config, "--shuffle-port").await?;

        // All parts are on this machine, so their connections to each other tell nothing.
        let advertise_ip = listen.ip.is_unspecified().then(|| bellows_names::advertised_address(&[]));
        // The master and the agents share what this process may open.
        let limits = Limits::of_servers(1 + usize::from(size.agents));
        let mut config = bellows_master::Config::new(SocketAddr::new(listen.ip, listen.port));
        config.kernel.offer_timeout = *offer_timeout;
        config.advertise_ip = advertise_ip;
        config.limits = limits.clone();
        config.allow_hosts.clone_from(&hosts.allow_hosts);
        let master = serve::start_master(config).await?;

        let address = serve::reachable(master.local_addr());
        let leader = MasterAddress::Fixed { host: address.ip().to_string(), port: address.port() };
        let mut agents = Vec::new();
        for i in 0..size.agents {
            let port = match listen.agent_port {
                0 => 0,
                first => first.checked_add(i).ok_or_else(|| {
                    Error::usage(
                        format!("no port is left for agent {}", i + 1),
                        "choose a lower --agent-port",
                    )
                })?,
            };
            let mut config = bellows_agent::Config::new(
                SocketAddr::new(listen.ip, port),
                detect(&leader),
                work_dir.join(format!("agent-{}", i + 1)),
            );
            config.advertise_ip = advertise_ip;
            config.limits = limits.clone();
            config.allow_hosts.clone_from(&hosts.allow_hosts);
            config.resources = format!("cpus:{};mem:{}", size.cpus, size.mem);
            // Each owns its directory; the service of their host serves them all.
            config.shuffle_dirs = vec![shuffle_root.join(format!("agent-{}", i + 1))];
            config.shuffle_socket = Some(socket.clone());
            config.native_library = spark::find_libmesos().ok();
            agents.push(serve::start_agent(config, "--agent-port").await?);
        }
        let registered = join_all(agents.iter_mut().map(bellows_agent::Running::registered));
        if tokio::time::timeout(REGISTRATION_LIMIT, registered).await.is_err() {
            return Err(Error::failed("the agents do not register with the master", ""));
        }
        let operator = OperatorClient::new(detect(&leader), None);
        Ok(Self { master, agents, shuffle, operator })
    }

    pub fn master(&self) -> SocketAddr {
        serve::reachable(self.master.local_addr())
    }

    pub fn page(&self) -> String {
        format!("http://{}/", self.master())
    }

    pub fn operator(&self) -> &OperatorClient {
        &self.operator
    }

    pub fn shuffle_status(&self) -> bellows_shuffle::Status {
        self.shuffle.status()
    }

    /// How spark-submit gets here.
    pub fn for_submit(&self) -> submit::Cluster {
        submit::Cluster {
            master: self.master().to_string(),
            shuffle_port: self.shuffle.local_addr().port(),
            name_shuffle_port: true,
        }
    }

    /// Waits until a part of the cluster ends by itself, which it does only when it cannot go on.
    pub async fn ended(&mut self) -> Error {
        let agents = select_all(self.agents.iter_mut().map(|agent| Box::pin(agent.ended())));
        tokio::select! {
            (error, index, _) = agents => serve::fatal(format!("agent {}", index + 1), error),
            ended = self.master.ended() => serve::fatal("the master", ended),
            ended = self.shuffle.ended() => serve::fatal("the shuffle service", ended),
        }
    }

    /// Ends every framework with its tasks and files, then the cluster. A second signal takes the tasks their grace.
    pub async fn stop(self) {
        let hurry = CancellationToken::new();
        let asked_again = async {
            if bellows_runtime::shutdown_signal().await.is_ok() {
                hurry.cancel();
            }
            std::future::pending().await
        };
        tokio::select! {
            () = self.end(&hurry) => {}
            () = asked_again => {}
        }
    }

    async fn end(self, hurry: &CancellationToken) {
        if let Err(error) = self.end_frameworks().await {
            tracing::warn!(%error, "frameworks may not have been told the end");
        }
        join_all(self.agents.into_iter().map(|agent| agent.stop_and_kill_tasks(END_LIMIT, hurry))).await;
        self.master.stop().await;
        self.shuffle.stop().await;
    }

    /// So that their drivers hear of it, and their shuffle files go.
    async fn end_frameworks(&self) -> Result<(), bellows_client::CallError> {
        let state = self.operator.get_state().await?;
        for framework in rows::frameworks(&state, false) {
            // It may have ended by itself since.
            if let Err(error) = self.operator.teardown(&FrameworkId { value: framework.id }).await {
                tracing::debug!(%error, "teardown");
            }
        }
        Ok(())
    }
}
