//! The cluster that all tests here share, and the honest peers that must go on whatever the others do.
use super::peer::{call_shuffle, connect, register_executor};
use anyhow::{Context, Result, ensure};
use bellows_testkit::{Framework, Processes, eventually, get_json, release_binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// What each process may ever take, in MiB, whatever comes: what ARCHITECTURE.md allows to peers ("Peers"), and as much
/// again as the heap may keep and the process itself needs.
const MOST_MIB: [(&str, u64); 3] = [("master", 640), ("agent", 192), ("shuffle", 640)];

/// One test's turn with the cluster.
pub(crate) struct Scene {
    pub(crate) cluster: Arc<Processes>,
    _turn: OwnedMutexGuard<()>,
}

struct Shared {
    cluster: Weak<Processes>,
    turn: Arc<Mutex<()>>,
}

/// Starts the cluster, unless another test waits for its turn or has it.
pub(crate) async fn scene() -> Result<Scene> {
    static SHARED: Mutex<Option<Shared>> = Mutex::const_new(None);
    let mut shared = SHARED.lock().await;
    let turn = shared.as_ref().map(|shared| Arc::clone(&shared.turn)).unwrap_or_default();
    let cluster = match shared.as_ref().and_then(|shared| shared.cluster.upgrade()) {
        Some(cluster) => cluster,
        None => Arc::new(Processes::start_release(4).await?),
    };
    *shared = Some(Shared { cluster: Arc::downgrade(&cluster), turn: Arc::clone(&turn) });
    drop(shared);
    Ok(Scene { cluster, _turn: turn.lock_owned().await })
}

impl Scene {
    /// An honest framework runs a task, its executor registers, and nobody has ended or taken too much memory.
    pub(crate) async fn others_go_on(&self) -> Result<()> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        for (part, most) in MOST_MIB {
            let peak = self.cluster.peak_mib(part)?;
            ensure!(peak <= most, "{part} took {peak} MiB");
        }
        let mut framework = Framework::subscribe(&self.cluster.master(), "root").await?;
        // As an executor does before it writes.
        let command = "mkdir ${SPARK_EXECUTOR_DIRS%%:*}/blockmgr-1";
        let task = format!("honest{number}");
        let status = framework.run(&task, json!({ "value": command, "user": user()? })).await?;
        ensure!(status["state"] == "TASK_FINISHED", "{status}");
        let dir = self.cluster.disk().join(format!("bellows-{}/blockmgr-1", framework.id()));
        let mut stream = connect(&format!("127.0.0.1:{}", self.cluster.shuffle_port()))?;
        let call = register_executor(framework.id(), &[dir.display().to_string()]);
        let answer = call_shuffle(&mut stream, &call)?;
        ensure!(answer == Ok(Vec::new()), "{answer:?}");
        framework.tear_down().await
    }
}

/// The user that runs the tests.
fn user() -> Result<String> {
    let output = Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        // Past the capture of what tests print.
        let _ =
            writeln!(std::io::stderr(), "\n*** SKIPPED: not root: tasks of other users are not tried ***");
    }
    is_root
}

/// Ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// An agent whose work directory is there already and is everybody's, as /tmp is, started with a umask that lets nobody
/// else in: the directory stays as it is, and tasks of other users run.
pub(crate) async fn with_an_agent_in_a_sticky_directory(scene: &Scene) -> Result<()> {
    let dir = scene.cluster.dir().join("everybodys");
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777))?;
    // A master of its own: the others' framework is to run on the other agent.
    let script = "umask 077; exec \"$0\" agent --ip 127.0.0.1 --port 0 --master \"$1\" --hostname sticky --work-dir \"$2\" --resources 'cpus:1;mem:1024'";
    let agent = Command::new("sh")
        .args(["-c", script])
        .arg(release_binary())
        .arg(scene.cluster.master())
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(scene.cluster.dir().join("sticky.log"))?)
        .spawn()?;
    let _agent = Agent(agent);
    let url = format!("http://{}/slaves", scene.cluster.master());
    eventually("the agent in the sticky directory", Duration::from_secs(30), || async {
        let agents = get_json(&url).await?;
        let mut agents = agents["slaves"].as_array().context("a list")?.iter();
        ensure!(agents.any(|agent| agent["hostname"] == "sticky" && agent["active"] == true));
        Ok(())
    })
    .await?;
    let mut framework = Framework::subscribe(&scene.cluster.master(), "nobody").await?;
    let status = framework.run_on("sticky", "t", json!({ "value": "touch file" })).await?;
    ensure!(status["state"] == "TASK_FINISHED", "{status}");
    framework.tear_down().await?;
    ensure!(fs::metadata(&dir)?.permissions().mode() & 0o7777 == 0o1777, "its mode has changed");
    Ok(())
}
