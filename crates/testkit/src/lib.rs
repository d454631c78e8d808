//! What the outer rings of tests share: the built binaries, a cluster in a process of its own, unmodified Spark.
//!
//! Tests assert from the outside, over HTTP and in the file system; nothing here reaches into another crate.

mod cluster;
mod daemon;
mod dispatcher;
mod framework;
mod older;
mod processes;
mod shuffle;
mod spark;
mod standalone;

pub use cluster::{Cluster, ClusterOptions};
pub use dispatcher::Dispatcher;
pub use framework::Framework;
pub use older::{on_older_machines, where_clone3_is_not_permitted};
pub use processes::Processes;
pub use rustix::process::Signal;
pub use shuffle::ShuffleService;
pub use spark::{Application, Spark, kill_nine};
pub use standalone::Standalone;

use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// The top of the checkout.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/testkit lies two below the top")
}

/// The directory with `bellows` and `libmesos.so`, built once per test process by the cargo that runs the tests.
pub fn binaries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let status = Command::new(env!("CARGO"))
            .current_dir(repository())
            .args(["build", "--quiet", "-p", "bellows", "-p", "bellows-libmesos"])
            .status()
            .expect("cargo starts");
        assert!(status.success(), "bellows and libmesos.so do not build");
        // A test runs as <target>/<profile>/deps/<name>.
        let exe = std::env::current_exe().expect("the test has a path");
        exe.ancestors().nth(2).expect("a test lies in <target>/<profile>/deps").to_owned()
    })
}

/// The static `bellows` that operators run, built once per test process as `make build` builds it.
pub fn release_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // With settings of the cargo that runs the tests, everything would be built anew.
        let inherited =
            |name: &str| name == "MAKEFLAGS" || name.starts_with("CARGO_") && name != "CARGO_HOME";
        let mut make = Command::new("make");
        for (name, _) in std::env::vars_os().filter(|(name, _)| inherited(&name.to_string_lossy())) {
            make.env_remove(name);
        }
        let status =
            make.current_dir(repository()).args(["--silent", "build"]).status().expect("make starts");
        assert!(status.success(), "the release binary does not build");
        repository().join("target/release/bellows")
    })
}

/// Asks `probe` every 50 ms until it answers; an error names `what` was waited for and the last thing seen.
pub async fn eventually<T, F: Future<Output = Result<T>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(error) if begin.elapsed() > limit => {
                return Err(error.context(format!("waited {limit:?} for: {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A request that has no answer by then never has one.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// GETs JSON; an error carries status and body.
pub async fn get_json(url: &str) -> Result<serde_json::Value> {
    let client = reqwest::Client::builder().timeout(ANSWER_LIMIT).build()?;
    let response = client.get(url).send().await.with_context(|| format!("GET {url}"))?;
    let status = response.status();
    let body = response.text().await?;
    if !status.is_success() {
        bail!("GET {url}: {status}: {body}");
    }
    serde_json::from_str(&body).with_context(|| format!("GET {url}: {body}"))
}

/// Writes a file that only its owner may read, as one with secrets has to be.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(content.as_bytes())?)
}

/// The processes of a framework's tasks: their environment names it.
pub fn processes_of(framework: &str) -> Vec<i32> {
    let needle = format!("MESOS_FRAMEWORK_ID={framework}");
    let of = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        environment.split(|byte| *byte == 0).any(|variable| variable == needle.as_bytes()).then_some(pid)
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(of).collect()
}

/// Whether any process was started with this word in its arguments.
pub fn on_a_command_line(word: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(word))
}

/// The files below `dir` whose names are wanted.
fn files(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.append(&mut files(&entry.path(), wanted)),
            Ok(kind) if kind.is_file() && entry.file_name().to_str().is_some_and(wanted) => {
                found.push(entry.path());
            }
            _ => {}
        }
    }
    found
}
