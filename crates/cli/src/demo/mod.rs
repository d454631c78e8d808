//! `bellows demo`: an embedded cluster, unmodified Spark on it, and what its executors do meanwhile.

mod eventlog;
mod plot;
mod screen;
mod summary;
mod timeline;

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bellows_runtime::init_logging_to_file;
use bellows_wire::v1::TaskState;
use bellows_wire::v1::master::response::GetState;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior};

use crate::args::{AllowHostArgs, DemoArgs, ShuffleClientArgs};
use crate::embedded::{Embedded, Options};
use crate::error::Error;
use crate::fetch::{self, Fetched};
use crate::output::{out, shell_quote};
use crate::spark;
use eventlog::EventLog;
use screen::Screen;
use summary::{FIRST, Milestones, PAUSE, SECOND, Summary};
use timeline::{Sample, Timeline};

const APPLICATION: &str = include_str!("../../../../examples/flights.py");
const STATIC_EXECUTORS: u32 = 6;
/// Longer than executors take to be given back, by as much as is pleasant to watch.
const PAUSE_SECONDS: &str = "18";
/// What a user would set, and why it is here; `elastic_settings` has the ones that make it elastic.
const SETTINGS: &[(&str, &str)] = &[
    ("spark.cores.max", "6"),
    ("spark.executor.memory", "1g"),
    ("spark.dynamicAllocation.initialExecutors", "6"),
    ("spark.dynamicAllocation.minExecutors", "0"),
    ("spark.dynamicAllocation.executorIdleTimeout", "5s"),
    // The three agents are one host, whose executors would read each other's files themselves. Between machines
    // all goes through the shuffle service, and so it does here.
    ("spark.shuffle.readHostLocalDisk", "false"),
    ("spark.eventLog.enabled", "true"),
    ("spark.eventLog.compress", "false"),
    ("spark.eventLog.rolling.enabled", "false"),
    ("spark.ui.showConsoleProgress", "false"),
];
const SAMPLE_INTERVAL: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(20 * 60);
const END_GRACE: Duration = Duration::from_secs(10);
const TAIL_LINES: usize = 15;

pub fn run(args: DemoArgs) -> Result<(), Error> {
    let cache = match &args.cache_dir {
        Some(cache) => cache.clone(),
        None => spark::cache_directory()?,
    };
    if args.fetch_only {
        let fetched = fetch::fetch(&cache)?;
        out!("Spark  {}\nData   {}", fetched.spark.home.display(), fetched.data.display());
        return Ok(());
    }
    // Before the downloads: who lacks these need not wait for them.
    spark::check_java()?;
    let library = spark::find_libmesos()?;
    let fetched = fetch::fetch(&cache)?;
    fetched.spark.check_backend()?;

    let work_dir = tempfile::Builder::new().prefix("bellows-demo-").tempdir();
    let work_dir = work_dir
        .map_err(|source| Error::io("creating a directory in", &std::env::temp_dir(), source))?
        .keep();
    let log = work_dir.join("cluster.log");
    // The terminal is the picture's.
    init_logging_to_file("info", &log).map_err(|source| Error::io("creating", &log, source))?;
    crate::serve(serve(args, fetched, library, work_dir))
}

async fn serve(args: DemoArgs, fetched: Fetched, library: PathBuf, work_dir: PathBuf) -> Result<(), Error> {
    let options = Options {
        size: args.size.clone(),
        listen: args.listen.clone(),
        clients: ShuffleClientArgs::default(),
        hosts: AllowHostArgs::default(),
        offer_timeout: None,
        work_dir: work_dir.clone(),
    };
    let cluster = Embedded::start(&options).await?;
    let page = cluster.page();
    out!(
        "A cluster of {} agents with {} CPUs and {} MB each: {page}\nIts logs: {}\n",
        args.size.agents,
        args.size.cpus,
        args.size.mem,
        work_dir.display()
    );
    let outcome = watch(&args, &cluster, &fetched, &library, &work_dir).await;
    if args.keep && outcome.is_ok() {
        out!("\nThe cluster goes on: {page}; Ctrl-C ends it.");
        crate::serve::until_told().await?;
    }
    cluster.stop().await;
    if outcome.is_ok() {
        fs::remove_dir_all(&work_dir).map_err(|source| Error::io("removing", &work_dir, source))?;
    }
    outcome
}

async fn watch(
    args: &DemoArgs,
    cluster: &Embedded,
    fetched: &Fetched,
    library: &Path,
    work_dir: &Path,
) -> Result<(), Error> {
    let application = Application::submit(cluster, fetched, library, work_dir)?;
    let screen = Screen::new(args.plain, STATIC_EXECUTORS);
    let mut observer = Observer::new(cluster, work_dir);
    let logs = application.logs();
    let status = observer.follow(application, screen).await?;
    let explain = |what: String| Error::failed(what, logs.tail());
    if !status.success() {
        return Err(explain(format!("the application ended with {status}")));
    }
    let text =
        fs::read_to_string(&logs.stdout).map_err(|source| Error::io("reading", &logs.stdout, source))?;
    out!("{}", text.trim_end());

    let summary = observer.summary();
    out!("\n{}\n  {:<17} {}", summary.text(), "page", cluster.page());
    match summary.shortcoming() {
        Some(shortcoming) => Err(explain(shortcoming)),
        None => Ok(()),
    }
}

/// `spark-submit` under way, in a process group of its own, so that Ctrl-C reaches us and not the JVM.
struct Application {
    child: Child,
    started: Instant,
    started_unix_ms: u64,
    logs: Logs,
}

#[derive(Debug, Clone)]
struct Logs {
    directory: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Logs {
    /// The end of the driver's log, for a person to see what happened.
    fn tail(&self) -> String {
        let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = read(&self.stderr).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the driver's log ends so; all logs are in {}\n{}", self.directory.display(), tail.join("\n"))
    }
}

impl Application {
    fn submit(cluster: &Embedded, fetched: &Fetched, library: &Path, work_dir: &Path) -> Result<Self, Error> {
        let logs = Logs {
            directory: work_dir.to_owned(),
            stdout: work_dir.join("application.out"),
            stderr: work_dir.join("driver.log"),
        };
        let create = |path: &Path| File::create(path).map_err(|source| Error::io("creating", path, source));
        let file = work_dir.join("flights.py");
        fs::write(&file, APPLICATION).map_err(|source| Error::io("writing", &file, source))?;
        let events = event_directory(work_dir);
        fs::create_dir_all(&events).map_err(|source| Error::io("creating", &events, source))?;

        let mut command = std::process::Command::new(fetched.spark.submit());
        command.args(["--master", &format!("mesos://{}", cluster.master())]);
        let own = [("spark.eventLog.dir", format!("file://{}", events.display()))];
        let settings = SETTINGS.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let settings =
            crate::submit::elastic_settings(&|_| None, &cluster.for_submit()).into_iter().chain(settings);
        for (key, value) in settings.chain(own) {
            command.arg("--conf").arg(format!("{key}={value}"));
        }
        command.arg(&file).arg(&fetched.data).args(["--pause", PAUSE_SECONDS]);
        let line = command.get_args().map(|word| shell_quote(&word.to_string_lossy())).collect::<Vec<_>>();
        out!(
            "spark-submit {}\n",
            line.join(" ").replace(" --conf", " \\\n  --conf").replace(" /", " \\\n  /")
        );

        command
            .env("SPARK_HOME", &fetched.spark.home)
            .env("SPARK_LOCAL_IP", cluster.master().ip().to_string())
            .env("MESOS_NATIVE_JAVA_LIBRARY", library)
            // What a user's own settings would add is not what this demo shows.
            .env_remove("SPARK_CONF_DIR")
            .current_dir(work_dir)
            .stdin(Stdio::null())
            .stdout(create(&logs.stdout)?)
            .stderr(create(&logs.stderr)?)
            .process_group(0);
        if let Some(python) = &fetched.spark.python {
            command.env("PYSPARK_PYTHON", python);
        }
        let started = Instant::now();
        let child = Command::from(command).spawn();
        let child = child.map_err(|source| Error::io("starting", &fetched.spark.submit(), source))?;
        Ok(Self { child, started, started_unix_ms: unix_ms(), logs })
    }

    fn logs(&self) -> Logs {
        self.logs.clone()
    }

    /// Ends it with everything it started.
    async fn end(&mut self) {
        let Some(group) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            // The group is there as long as its leader has not been waited for.
            let _ = kill_process_group(group, signal);
            if tokio::time::timeout(END_GRACE, self.child.wait()).await.is_ok() {
                return;
            }
        }
    }
}

fn event_directory(work_dir: &Path) -> PathBuf {
    work_dir.join("events")
}

/// Watches from the outside: what the master answers, what the shuffle service counts, what Spark logs.
struct Observer<'a> {
    cluster: &'a Embedded,
    log: EventLog,
    timeline: Timeline,
    milestones: Milestones,
    departed_blocks: u64,
}

impl<'a> Observer<'a> {
    fn new(cluster: &'a Embedded, work_dir: &Path) -> Self {
        Self {
            cluster,
            log: EventLog::new(&event_directory(work_dir)),
            timeline: Timeline::default(),
            milestones: Milestones::default(),
            departed_blocks: 0,
        }
    }

    /// Until the application ends.
    async fn follow(
        &mut self,
        mut application: Application,
        mut screen: Screen,
    ) -> Result<ExitStatus, Error> {
        let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut signal = std::pin::pin!(crate::serve::until_told());
        loop {
            let end = tokio::select! {
                status = application.child.wait() => {
                    Some(status.map_err(|source| Error::Io { what: "waiting for spark-submit".to_owned(), source }))
                }
                told = &mut signal => Some(told.and(Err(Error::Interrupted))),
                _ = ticks.tick() => None,
            };
            let too_long = application.started.elapsed() > LIMIT;
            let end = end.or_else(|| {
                let what = format!("the application takes longer than {} minutes", LIMIT.as_secs() / 60);
                too_long.then(|| Err(Error::failed(what, application.logs.tail())))
            });
            let seen = self.sample(&application).await;
            match end {
                None => {
                    seen?;
                    screen.update(&self.timeline).map_err(drawing)?;
                }
                Some(end) => {
                    self.milestones.ended = application.started.elapsed().as_millis() as u64;
                    screen.finish(&self.timeline).map_err(drawing)?;
                    application.end().await;
                    return end;
                }
            }
        }
    }

    async fn sample(&mut self, application: &Application) -> Result<(), Error> {
        let address = self.cluster.master().to_string();
        let state =
            self.cluster.operator().get_state().await.map_err(|error| Error::call(&address, error))?;
        let at_ms = application.started.elapsed().as_millis() as u64;
        self.log.read()?;

        let shuffle = self.cluster.shuffle_status();
        let before = self.timeline.last();
        let apps = || shuffle.applications.values();
        // An application that has ended is no longer counted there; what it was served stays true.
        let served_bytes = apps().map(|app| app.bytes_served).sum::<u64>().max(before.served_bytes);
        let departed_bytes =
            apps().map(|app| app.departed_bytes_served).sum::<u64>().max(before.departed_bytes);
        self.departed_blocks =
            apps().map(|app| app.departed_blocks_served).sum::<u64>().max(self.departed_blocks);
        let held = held(&state);
        let ready = self.log.facts.executors().min(held);

        self.timeline.enter(at_ms, self.phase());
        self.timeline.push(Sample { at_ms, held, ready, served_bytes, departed_bytes });
        self.note_milestones(&state, application.started_unix_ms);
        Ok(())
    }

    fn phase(&self) -> &'static str {
        let facts = &self.log.facts;
        match facts.working() {
            Some(FIRST) => FIRST,
            Some(_) => SECOND,
            None if !facts.has_worked() => "Spark starts",
            // Between two jobs of a burst nothing works for a moment.
            None if facts.burst(SECOND).jobs > 0 => SECOND,
            None => PAUSE,
        }
    }

    fn note_milestones(&mut self, state: &GetState, begin_ms: u64) {
        let since = |unix_seconds: f64| ((unix_seconds * 1000.0) as u64).saturating_sub(begin_ms);
        let milestones = &mut self.milestones;
        let frameworks = state.get_frameworks.iter().flat_map(|answer| &answer.frameworks);
        let registered = frameworks.filter_map(|framework| framework.registered_time.as_ref()).next();
        if let (None, Some(time)) = (milestones.registered, registered) {
            milestones.registered = Some(since(time.nanoseconds as f64 / 1e9));
        }
        if milestones.running.is_none() {
            let tasks = || state.get_tasks.iter().flat_map(|answer| &answer.tasks);
            let times = |wanted: TaskState| {
                let statuses =
                    tasks().flat_map(|task| &task.statuses).filter(move |status| status.state() == wanted);
                statuses.filter_map(|status| status.timestamp).map(since)
            };
            milestones.launched = milestones
                .launched
                .or_else(|| times(TaskState::TaskStarting).chain(times(TaskState::TaskRunning)).min());
            if times(TaskState::TaskRunning).count() >= STATIC_EXECUTORS as usize {
                milestones.running = times(TaskState::TaskRunning).max();
            }
        }
        let added = &self.log.facts.executors_added;
        milestones.ready = added.get(STATIC_EXECUTORS as usize - 1).map(|at| at.saturating_sub(begin_ms));
    }

    fn summary(&self) -> Summary<'_> {
        Summary {
            timeline: &self.timeline,
            facts: &self.log.facts,
            departed_blocks: self.departed_blocks,
            milestones: self.milestones,
            static_executors: STATIC_EXECUTORS,
        }
    }
}

/// Tasks that hold resources; every task of this cluster is an executor of the demo's application.
fn held(state: &GetState) -> u32 {
    let tasks = state.get_tasks.iter().flat_map(|answer| &answer.tasks);
    let live = tasks.filter(|task| {
        matches!(
            task.state(),
            TaskState::TaskStaging
                | TaskState::TaskStarting
                | TaskState::TaskRunning
                | TaskState::TaskKilling
        )
    });
    u32::try_from(live.count()).unwrap_or(u32::MAX)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn drawing(source: std::io::Error) -> Error {
    Error::Io { what: "drawing on the terminal".to_owned(), source }
}
