//! The lean load generator: connections over two threads, as many as the machine that this was made for has cores.

use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bellows_transport::message::Message;
use bellows_transport::rpc::{ExecutorInfo, Rpc};
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::client::{Client, Order, Pace};
use crate::data::{DataSet, PerFetch, SUB_DIRS};
use crate::peer::Peer;

const THREADS: usize = 2;
const WARM_UP: Duration = Duration::from_millis(700);

pub struct Load<'a> {
    pub peer: &'a Peer,
    pub data: &'a DataSet,
    pub connections: usize,
    pub per_fetch: PerFetch,
    pub secret: Option<&'static str>,
    /// Requests a second of all connections together, evenly spread; otherwise as many as are answered.
    pub rate: Option<f64>,
    /// Nothing is asked for before, then every map output once, from a disk.
    pub cold: bool,
}

pub struct Measured {
    pub blocks: u64,
    pub elapsed: Duration,
    /// Of the service.
    pub cpu: Duration,
    /// Of the clients; not known of those in another process.
    pub client_cpu: Option<Duration>,
    /// From a request for blocks to the last byte of the last of them.
    pub latency_us: Histogram<u64>,
}

impl Load<'_> {
    pub fn run(&self, duration: Duration) -> Result<Measured> {
        register(self.peer, self.data, self.secret)?;
        let gate = Arc::new(Barrier::new(THREADS + 1));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let gate = gate.clone();
                    scope.spawn(move || self.share(thread, duration, &gate))
                })
                .collect();
            gate.wait();
            let (cpu, client_cpu, start) = (self.peer.cpu(), own_cpu(), Instant::now());
            gate.wait();
            gate.wait();
            let elapsed = start.elapsed();
            let client_cpu = Some(own_cpu() - client_cpu);
            let cpu = self.peer.cpu()? - cpu?;
            let latency_us = Histogram::new(3)?;
            let mut measured = Measured { blocks: 0, elapsed, cpu, client_cpu, latency_us };
            for thread in threads {
                let (latency_us, blocks) = thread.join().expect("a client does not panic")?;
                measured.latency_us.add(latency_us)?;
                measured.blocks += blocks;
            }
            Ok(measured)
        })
    }

    /// One thread's connections. It passes the gate three times whatever happens: when it is warm, when the clock
    /// runs, when it has finished.
    fn share(&self, thread: usize, duration: Duration, gate: &Barrier) -> Result<(Histogram<u64>, u64)> {
        let ready = self.connect(thread);
        gate.wait();
        gate.wait();
        let done = ready.and_then(|(runtime, clients)| {
            let (_, latency_us, blocks) = self.drive(&runtime, thread, clients, duration)?;
            Ok((latency_us, blocks))
        });
        gate.wait();
        done
    }

    fn connect(&self, thread: usize) -> Result<(Runtime, Vec<Client>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let own = (thread..self.connections).step_by(THREADS);
        let clients = runtime.block_on(async {
            let mut clients = Vec::new();
            for _ in own {
                clients.push(Client::connect(self.peer, &self.data.app, self.secret).await?);
            }
            Ok::<_, anyhow::Error>(clients)
        })?;
        if self.cold {
            return Ok((runtime, clients));
        }
        let (clients, ..) = self.drive(&runtime, thread, clients, WARM_UP)?;
        Ok((runtime, clients))
    }

    fn drive(
        &self,
        runtime: &Runtime,
        thread: usize,
        clients: Vec<Client>,
        duration: Duration,
    ) -> Result<(Vec<Client>, Histogram<u64>, u64)> {
        let data = Rc::new(self.data.clone());
        let start = Instant::now();
        let interval = self.rate.map(|rate| Duration::from_secs_f64(self.connections as f64 / rate));
        let local = LocalSet::new();
        let tasks: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(at, client)| {
                let number = thread + at * THREADS;
                let share = number as f64 / self.connections as f64;
                let pace = interval.map(|interval| Pace { first: start + interval.mul_f64(share), interval });
                let order = Order {
                    number,
                    connections: self.connections,
                    per_fetch: self.per_fetch,
                    until: start + duration,
                    one_pass: self.cold,
                    pace,
                };
                local.spawn_local(client.fetch_until(data.clone(), order))
            })
            .collect();
        let (mut back, mut latency_us, mut blocks) = (Vec::new(), Histogram::new(3)?, 0);
        local.block_on(runtime, async {
            for task in tasks {
                let (client, own, count) = task.await??;
                latency_us.add(own)?;
                blocks += count;
                back.push(client);
            }
            Ok::<_, anyhow::Error>(())
        })?;
        Ok((back, latency_us, blocks))
    }
}

/// User and system time of this process so far.
fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Registers the executor whose blocks are fetched.
pub fn register(peer: &Peer, data: &DataSet, secret: Option<&str>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(peer, &data.app, secret).await?;
        client.call(&data.register()).await.context("registration")?;
        Ok(())
    })
}

/// Resident memory of a service while so many connections are open and so many executors are registered.
pub fn occupied_bytes(peer: &Peer, local_dir: &Path, connections: usize, executors: usize) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _connections = runtime.block_on(occupy(peer, local_dir, connections, executors))?;
    Ok(peer.resident_bytes())
}

async fn occupy(peer: &Peer, local_dir: &Path, connections: usize, executors: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(peer, "occupied", None).await?);
    }
    for at in 0..executors {
        let executor = format!("{}-executor-{at}/blockmgr-8327deb8-82cf-{at}", peer.kind.name());
        let dir = local_dir.join(executor);
        std::fs::create_dir_all(&dir)?;
        let info = ExecutorInfo {
            local_dirs: vec![dir.display().to_string()],
            sub_dirs_per_local_dir: SUB_DIRS,
            shuffle_manager: "org.apache.spark.shuffle.sort.SortShuffleManager".to_owned(),
        };
        let (app, executor) = (format!("app-20261122101432-{:04}", at / 50), at.to_string());
        let body = Rpc::RegisterExecutor { app, executor, info }.encode();
        clients[at % connections].send(&Message::RpcRequest { request: 1, body }).await?;
    }
    for at in 0..executors {
        match clients[at % connections].receive().await? {
            Message::RpcResponse { .. } => {}
            other => bail!("registration answered with {other:?}"),
        }
    }
    Ok(clients)
}
