//! `make bench`: what the cluster adds to a task, measured from a framework's seat on a release build.
//!
//! It starts `bellows up` beside this program and speaks the v1 API to it. Prints; asserts nothing of time.
mod steps;

use anyhow::{Context, Result, bail};
use bellows_client::{SchedulerClient, SchedulerEvent, SchedulerOptions};
use bellows_wire::v1::{
    AgentId, CommandInfo, Filters, FrameworkInfo, Offer, Resource, TaskId, TaskInfo, TaskState, TaskStatus,
    offer, scheduler, value,
};
use hdrhistogram::Histogram;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};

const ROUNDS: usize = 1_000;
const STORM: usize = 5_000;
/// Tasks of the storm that may be under way at once.
const WINDOW: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let bellows = arguments.next().context("usage: bench-cluster PATH-OF-BELLOWS [PART]")?;
    let place = Place { bellows: bellows.into(), dir: tempfile::tempdir()? };
    let part = arguments.next();
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("steps") {
        steps::show()?;
    }
    if wanted("idle") {
        idle_memory(&place).await?;
    }
    if wanted("revive") {
        freed_to_offer(&place).await?;
    }
    if wanted("crowd") {
        crowd(&place).await?;
    }
    if wanted("launch") {
        accept_to_running(&place).await?;
    }
    if wanted("kill") {
        kill_to_offer(&place).await?;
    }
    if wanted("storm") {
        storm(&place).await?;
    }
    Ok(())
}

struct Place {
    bellows: PathBuf,
    /// All is deleted at the end: an ext4 without a journal takes no inode that was deleted in the last minute, and
    /// searching past such would be measured with what comes next.
    dir: tempfile::TempDir,
}

/// The embedded cluster in a process of its own.
struct Cluster {
    child: Child,
    master: String,
}

impl Cluster {
    fn start(place: &Place, agents: u32, cpus: u32) -> Result<Self> {
        let work_dir = tempfile::tempdir_in(&place.dir)?.keep();
        let mut child = Command::new(&place.bellows)
            .args(["up", "--port", "0", "--agent-port", "0", "--shuffle-port", "0", "--mem", "4096"])
            .args(["--agents", &agents.to_string(), "--cpus", &cpus.to_string()])
            .arg("--work-dir")
            .arg(work_dir.join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("bellows up")?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let find = |line: &String| Some(line.split_once("mesos://")?.1.split_whitespace().next()?.to_owned());
        let master =
            lines.map_while(Result::ok).find_map(|line| find(&line)).context("it printed no address")?;
        Ok(Self { child, master })
    }

    /// Resident set in kB, of which memory that is this process' own.
    fn resident(&self) -> Result<(u64, u64)> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let field = |name: &str| -> Option<u64> {
            rollup.lines().find(|line| line.starts_with(name))?.split_whitespace().nth(1)?.parse().ok()
        };
        Ok((field("Rss:").context("Rss")?, field("Private_Dirty:").context("Private_Dirty")?))
    }
}

/// Processor time in ms.
#[derive(Clone, Copy, Default)]
struct Cpu {
    /// Time of the processes themselves.
    own: f64,
    /// Time of all children that they have waited for.
    reaped: f64,
}

impl Cpu {
    /// Fields 14 to 17 of `/proc/PID/stat`.
    fn of(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |first: usize| {
            Some(fields.get(first - 3)?.parse::<f64>().ok()? + fields.get(first - 2)?.parse::<f64>().ok()?)
        };
        let tick_ms = 1e3 / rustix::param::clock_ticks_per_second() as f64;
        Some(Self { own: ticks(14)? * tick_ms, reaped: ticks(16)? * tick_ms })
    }

    fn total(self) -> f64 {
        self.own + self.reaped
    }
}

fn stat_of(pid: u32) -> Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{pid}/stat"))?)
}

impl Cluster {
    /// Reads the time of master and agent, one process; `reaped` is the time of all that they started, ended or not.
    fn cpu(&self) -> Result<Cpu> {
        let mut sum = Cpu::of(&stat_of(self.child.id())?).context("its stat")?;
        let parent = self.child.id().to_string();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(stat) = stat_of(pid) else { continue };
            let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
            if fields.split_whitespace().nth(1) == Some(&parent) {
                sum.reaped += Cpu::of(&stat).map_or(0.0, Cpu::total);
            }
        }
        Ok(sum)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// A framework that has subscribed.
struct Framework {
    client: SchedulerClient,
    events: mpsc::Receiver<SchedulerEvent>,
}

impl Framework {
    async fn subscribe(master: &str) -> Result<Self> {
        let leader = bellows_election::detect(&bellows_election::MasterAddress::parse(master)?);
        let framework = FrameworkInfo { name: "bench".into(), user: "root".into(), ..Default::default() };
        let (client, events) =
            SchedulerClient::start(leader, SchedulerOptions { framework, ..Default::default() });
        Ok(Self { client, events })
    }

    async fn event(&mut self) -> Result<scheduler::Event> {
        loop {
            match tokio::time::timeout(Duration::from_secs(20), self.events.recv())
                .await?
                .context("stream ended")?
            {
                SchedulerEvent::Received(event) => return Ok(*event),
                SchedulerEvent::Connected(_) => {}
                other => bail!("{other:?}"),
            }
        }
    }

    async fn offer(&mut self) -> Result<Offer> {
        loop {
            if let Some(offer) =
                self.event().await?.offers.and_then(|offers| offers.offers.into_iter().next())
            {
                return Ok(offer);
            }
        }
    }

    async fn update(&mut self, wanted: TaskState) -> Result<TaskStatus> {
        loop {
            if let Some(update) = self.event().await?.update {
                self.acknowledge(&update.status).await?;
                if update.status.state() == wanted {
                    return Ok(update.status);
                }
                if update.status.state() == TaskState::TaskFailed
                    || update.status.state() == TaskState::TaskError
                {
                    bail!("{:?}", update.status);
                }
            }
        }
    }

    /// An offer of both processors, which comes only when no task holds any; of less, it wants nothing.
    async fn whole_agent(&mut self) -> Result<Offer> {
        loop {
            let event = self.event().await?;
            if let Some(update) = &event.update {
                self.acknowledge(&update.status).await?;
            }
            for offer in event.offers.map(|offers| offers.offers).unwrap_or_default() {
                if offer
                    .resources
                    .iter()
                    .any(|r| r.name == "cpus" && r.scalar.is_some_and(|s| s.value == 2.0))
                {
                    return Ok(offer);
                }
                self.decline(&offer).await?;
            }
        }
    }

    async fn acknowledge(&self, status: &TaskStatus) -> Result<()> {
        let (Some(agent_id), Some(uuid)) = (status.agent_id.clone(), status.uuid.clone()) else {
            return Ok(());
        };
        let acknowledge = scheduler::call::Acknowledge { agent_id, task_id: status.task_id.clone(), uuid };
        self.call(scheduler::call::Type::Acknowledge, |call| call.acknowledge = Some(acknowledge)).await
    }

    async fn decline(&self, offer: &Offer) -> Result<()> {
        let filters = Some(Filters { refuse_seconds: Some(0.0) });
        let decline = scheduler::call::Decline { offer_ids: vec![offer.id.clone()], filters };
        self.call(scheduler::call::Type::Decline, |call| call.decline = Some(decline)).await
    }

    async fn launch(&self, offer: &Offer, tasks: Vec<TaskInfo>) -> Result<()> {
        let launch = offer::operation::Launch { task_infos: tasks };
        let operation = offer::Operation {
            r#type: Some(offer::operation::Type::Launch.into()),
            launch: Some(launch),
            ..Default::default()
        };
        let filters = Some(Filters { refuse_seconds: Some(0.0) });
        let accept = scheduler::call::Accept {
            offer_ids: vec![offer.id.clone()],
            operations: vec![operation],
            filters,
        };
        self.call(scheduler::call::Type::Accept, |call| call.accept = Some(accept)).await
    }

    async fn call(
        &self,
        r#type: scheduler::call::Type,
        fill: impl FnOnce(&mut scheduler::Call),
    ) -> Result<()> {
        let mut call = scheduler::Call { r#type: Some(r#type.into()), ..Default::default() };
        fill(&mut call);
        Ok(self.client.call(call).await?)
    }
}

fn task(id: usize, agent_id: &AgentId, cpus: f64) -> TaskInfo {
    let scalar = |name: &str, amount| Resource {
        name: name.into(),
        r#type: value::Type::Scalar.into(),
        scalar: Some(value::Scalar { value: amount }),
        ..Default::default()
    };
    TaskInfo {
        name: "true".into(),
        task_id: TaskId { value: id.to_string() },
        agent_id: agent_id.clone(),
        resources: vec![scalar("cpus", cpus), scalar("mem", 1.0)],
        command: Some(CommandInfo {
            shell: Some(false),
            value: Some("/bin/true".into()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn show(what: &str, times: &Histogram<u64>) {
    let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{what:<52} p50 {:>7.2} ms   p99 {:>7.2} ms   max {:>7.2} ms   n {}",
        ms(0.5),
        ms(0.99),
        times.max() as f64 / 1e3,
        times.len()
    );
}

async fn idle_memory(place: &Place) -> Result<()> {
    let cluster = Cluster::start(place, 3, 2)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (resident, private) = cluster.resident()?;
    println!(
        "{:<52} {:.1} MB resident, {:.1} MB of it private and written",
        "idle embedded cluster (master, 3 agents, shuffle)",
        resident as f64 / 1e3,
        private as f64 / 1e3
    );
    Ok(())
}

/// REVIVE frees what the framework had refused; the clock runs from before the call is sent to the offer's arrival.
async fn freed_to_offer(place: &Place) -> Result<()> {
    let cluster = Cluster::start(place, 1, 2)?;
    let mut framework = Framework::subscribe(&cluster.master).await?;
    let mut times = Histogram::<u64>::new(3)?;
    let mut offer = framework.offer().await?;
    for _ in 0..ROUNDS {
        framework.decline(&offer).await?;
        let begin = Instant::now();
        framework.call(scheduler::call::Type::Revive, |_| {}).await?;
        offer = framework.offer().await?;
        times.record(begin.elapsed().as_micros() as u64)?;
    }
    show("REVIVE -> offer of what it had declined", &times);
    Ok(())
}

/// Measures what it costs the master to offer again and again to frameworks that want nothing.
async fn crowd(place: &Place) -> Result<()> {
    const CROWD: usize = 3_000;
    const LONE: usize = 1;
    const MEASURED: Duration = Duration::from_secs(20);
    for frameworks in [LONE, CROWD] {
        let cluster = Cluster::start(place, 3, 2)?;
        let declined = Arc::new(AtomicU64::new(0));
        let mut idle = JoinSet::new();
        for _ in 0..frameworks {
            let framework = Framework::subscribe(&cluster.master).await?;
            idle.spawn(decline_all(framework, Arc::clone(&declined)));
        }
        // Until the last of them has been declining for long.
        tokio::time::sleep(MEASURED / 2).await;
        let (before, asked) = (cluster.cpu()?.own, declined.load(Ordering::Relaxed));
        tokio::time::sleep(MEASURED).await;
        let (after, asked) = (cluster.cpu()?.own, declined.load(Ordering::Relaxed) - asked);
        println!(
            "{:<52} {:.0} offers/s declined without a filter, {:.1} % of a processor",
            format!("{frameworks} idle frameworks, 3 agents"),
            asked as f64 / MEASURED.as_secs_f64(),
            (after - before) / MEASURED.as_millis() as f64 * 100.0
        );
        idle.abort_all();
    }
    Ok(())
}

/// As Spark does while it wants no executor.
async fn decline_all(mut framework: Framework, declined: Arc<AtomicU64>) -> Result<()> {
    loop {
        let event = match framework.events.recv().await.context("stream ended")? {
            SchedulerEvent::Received(event) => event,
            _ => continue,
        };
        for offer in event.offers.map(|offers| offers.offers).unwrap_or_default() {
            let filters = Some(Filters { refuse_seconds: None });
            let decline = scheduler::call::Decline { offer_ids: vec![offer.id], filters };
            framework.call(scheduler::call::Type::Decline, |call| call.decline = Some(decline)).await?;
            declined.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn accept_to_running(place: &Place) -> Result<()> {
    let cluster = Cluster::start(place, 1, 2)?;
    let mut framework = Framework::subscribe(&cluster.master).await?;
    let mut times = Histogram::<u64>::new(3)?;
    for round in 0..ROUNDS / 5 {
        let offer = framework.whole_agent().await?;
        let begin = Instant::now();
        framework.launch(&offer, vec![task(round, &offer.agent_id, 2.0)]).await?;
        framework.update(TaskState::TaskRunning).await?;
        times.record(begin.elapsed().as_micros() as u64)?;
    }
    show("ACCEPT -> TASK_RUNNING of /bin/true", &times);
    Ok(())
}

/// From the call to the offer of what the killed task held: the signal, its end, the checkpoint, the allocation.
async fn kill_to_offer(place: &Place) -> Result<()> {
    let cluster = Cluster::start(place, 1, 2)?;
    let mut framework = Framework::subscribe(&cluster.master).await?;
    let mut times = Histogram::<u64>::new(3)?;
    let mut offer = framework.whole_agent().await?;
    for round in 0..ROUNDS / 5 {
        let mut sleeper = task(round, &offer.agent_id, 2.0);
        sleeper.command = Some(CommandInfo {
            shell: Some(false),
            value: Some("/bin/sleep".into()),
            arguments: vec!["sleep".into(), "1000".into()],
            ..Default::default()
        });
        let kill = scheduler::call::Kill { task_id: sleeper.task_id.clone(), ..Default::default() };
        framework.launch(&offer, vec![sleeper]).await?;
        framework.update(TaskState::TaskRunning).await?;
        let begin = Instant::now();
        framework.call(scheduler::call::Type::Kill, |call| call.kill = Some(kill)).await?;
        offer = framework.whole_agent().await?;
        times.record(begin.elapsed().as_micros() as u64)?;
    }
    show("KILL -> offer of what the task held", &times);
    Ok(())
}

async fn storm(place: &Place) -> Result<()> {
    let cluster = Cluster::start(place, 1, WINDOW as u32)?;
    let mut framework = Framework::subscribe(&cluster.master).await?;
    let (mut launched, mut finished) = (0, 0);
    let (begin, cluster_before, client_before) = (Instant::now(), cluster.cpu()?, own_cpu()?);
    while finished < STORM {
        let event = framework.event().await?;
        if let Some(update) = event.update {
            framework.acknowledge(&update.status).await?;
            match update.status.state() {
                TaskState::TaskFinished => finished += 1,
                TaskState::TaskRunning | TaskState::TaskStarting => {}
                _ => bail!("{:?}", update.status),
            }
        }
        for offer in event.offers.map(|offers| offers.offers).unwrap_or_default() {
            let cpus = offer.resources.iter().find(|r| r.name == "cpus").and_then(|r| r.scalar.as_ref());
            let room = cpus.map_or(0, |cpus| cpus.value as usize).min(STORM - launched);
            let tasks = (launched..launched + room).map(|id| task(id, &offer.agent_id, 1.0)).collect();
            framework.launch(&offer, tasks).await?;
            launched += room;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let (cluster_after, client_after) = (cluster.cpu()?, own_cpu()?);
    let per_task = |ms: f64| ms / STORM as f64;
    println!(
        "{:<52} {:.0} tasks/s ({STORM} of /bin/true in {seconds:.1} s, {WINDOW} at once)",
        "short tasks through one agent",
        STORM as f64 / seconds
    );
    println!(
        "{:<52} {:.2} ms master and agent, {:.2} ms shims and tasks, {:.2} ms this client; {:.2} ms a bare /bin/true",
        format!("  processor time a task, on {} processors", std::thread::available_parallelism()?),
        per_task(cluster_after.own - cluster_before.own),
        per_task(cluster_after.reaped - cluster_before.reaped),
        per_task(client_after.own - client_before.own),
        bare_task()?
    );
    Ok(())
}

fn own_cpu() -> Result<Cpu> {
    Cpu::of(&stat_of(std::process::id())?).context("own stat")
}

/// Measures the storm's program by itself, in ms of processor time: no cluster can do with less.
fn bare_task() -> Result<f64> {
    const RUNS: usize = 500;
    let before = own_cpu()?;
    for _ in 0..RUNS {
        Command::new("/bin/true").status()?;
    }
    Ok((own_cpu()?.total() - before.total()) / RUNS as f64)
}
