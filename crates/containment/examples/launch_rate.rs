//! Measures launching `/bin/true`: one after the other (latency), then many at once (rate).
//! `cargo run --release -p bellows-containment --example launch_rate`
use bellows_containment::{Config, Containerizer, LaunchSpec, shim};
use std::{
    io::{Write, stdout},
    path::Path,
    time::{Duration, Instant},
};

const ONE_BY_ONE: usize = 500;
const AT_ONCE: usize = 2_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = args.split_first()
        && first == "shim"
    {
        std::process::exit(shim::main(rest));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(measure());
}

async fn measure() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = Config::new(dir.path().join("meta"));
    let (containerizer, mut exits) = Containerizer::new(config).expect("meta root");
    let (mut launched, mut ended) = (Vec::new(), Vec::new());
    for i in 0..ONE_BY_ONE {
        let spec = command(dir.path(), &format!("latency-{i}"));
        let start = Instant::now();
        containerizer.launch(spec).await.expect("launched");
        launched.push(start.elapsed());
        let event = exits.recv().await.expect("event");
        ended.push(start.elapsed());
        containerizer.forget(&event.container_id).await.expect("forgotten");
    }
    print("launch() -> Launched", launched);
    print("launch() -> ExitEvent", ended);

    let start = Instant::now();
    for i in 0..AT_ONCE {
        let (containerizer, spec) = (containerizer.clone(), command(dir.path(), &format!("rate-{i}")));
        tokio::spawn(async move { containerizer.launch(spec).await.expect("launched") });
    }
    for _ in 0..AT_ONCE {
        let event = exits.recv().await.expect("event");
        containerizer.forget(&event.container_id).await.expect("forgotten");
    }
    let per_second = AT_ONCE as f64 / start.elapsed().as_secs_f64();
    writeln!(stdout(), "{AT_ONCE} at once: {per_second:.0} tasks/s, launched, ended and forgotten")
        .expect("stdout");
    memory(&containerizer, dir.path()).await;
}

/// What one idle shim costs.
async fn memory(containerizer: &Containerizer, dir: &Path) {
    let spec = LaunchSpec {
        value: "/bin/sleep".into(),
        arguments: vec!["sleep".into(), "60".into()],
        ..command(dir, "m")
    };
    let pid = containerizer.launch(spec).await.expect("launched").pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("runs");
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("has a parent").trim();
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).expect("runs");
    for line in rollup
        .lines()
        .filter(|line| ["Rss:", "Pss:", "Private_Dirty:"].iter().any(|key| line.starts_with(key)))
    {
        writeln!(stdout(), "one shim: {line}").expect("stdout");
    }
    containerizer.kill(&"m".into(), Duration::ZERO);
}

fn command(dir: &Path, id: &str) -> LaunchSpec {
    let sandbox = dir.join("sandboxes").join(id);
    std::fs::create_dir_all(&sandbox).expect("sandbox");
    LaunchSpec {
        container_id: id.into(),
        sandbox,
        shell: false,
        value: "/bin/true".into(),
        arguments: Vec::new(),
        environment: Vec::new(),
        user: None,
    }
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    writeln!(stdout(), "{what}: p50 {:?}, p99 {:?}", at(50), at(99)).expect("stdout");
}
