//! The cluster on machines as they are: old kernels, closed terminals, operators in a hurry.
use anyhow::{Context, Result, bail, ensure};
use bellows_client::{SchedulerClient, SchedulerEvent, SchedulerOptions};
use bellows_testkit::{
    Application, Cluster, ClusterOptions, Processes, Signal, Spark, binaries, eventually, on_older_machines,
    repository, where_clone3_is_not_permitted,
};
use bellows_wire::{
    json,
    v1::{FrameworkInfo, TaskState, TaskStatus, scheduler},
};
use serde_json::json;
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::sync::mpsc;

/// Only a failure waits so long.
const LONG: Duration = Duration::from_secs(150);

/// A framework that has one task, which writes its pid and ends only by SIGKILL.
struct Framework {
    _client: SchedulerClient,
    events: mpsc::Receiver<SchedulerEvent>,
    dir: tempfile::TempDir,
}

impl Framework {
    async fn with_stubborn_task(master: &str) -> Result<Self> {
        let leader = bellows_election::detect(&bellows_election::MasterAddress::parse(master)?);
        let framework = FrameworkInfo { name: "test".into(), user: "root".into(), ..Default::default() };
        let (client, mut events) =
            SchedulerClient::start(leader, SchedulerOptions { framework, ..Default::default() });
        let offer =
            next(&mut events, |event| event.offers.and_then(|offers| offers.offers.into_iter().next()))
                .await?;
        let dir = tempfile::tempdir()?;
        let at = dir.path().display();
        let script = format!("trap ': > {at}/asked' TERM; echo $$ > {at}/pid; while :; do sleep 0.05; done");
        let task = json!({
            "name": "stubborn", "task_id": {"value": "t"}, "agent_id": {"value": offer.agent_id.value},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                          {"name": "mem", "type": "SCALAR", "scalar": {"value": 1}}],
            "command": {"value": script},
            "kill_policy": {"grace_period": {"nanoseconds": 3_600_000_000_000_i64}},
        });
        let accept = json!({
            "type": "ACCEPT",
            "accept": {
                "offer_ids": [{"value": offer.id.value}],
                "operations": [{"type": "LAUNCH", "launch": {"task_infos": [task]}}],
            },
        });
        client.call(json::decode_value::<scheduler::Call>(&accept)?).await?;
        Ok(Self { _client: client, events, dir })
    }

    async fn update(&mut self, wanted: TaskState) -> Result<TaskStatus> {
        let of_state = |event: scheduler::Event| {
            event.update.map(|update| update.status).filter(|status| status.state() == wanted)
        };
        next(&mut self.events, of_state).await
    }

    /// Waits until it has written a file.
    async fn wrote(&self, name: &str) -> Result<String> {
        let path = self.dir.path().join(name);
        eventually(name, LONG, || async { Ok(fs::read_to_string(&path)?) }).await
    }

    async fn pid(&self) -> Result<PathBuf> {
        let pid = eventually("a whole line", LONG, || async {
            let text = self.wrote("pid").await?;
            ensure!(text.ends_with('\n'), "{text:?}");
            Ok(text)
        });
        Ok(Path::new("/proc").join(pid.await?.trim()))
    }
}

async fn next<T>(
    events: &mut mpsc::Receiver<SchedulerEvent>,
    wanted: impl Fn(scheduler::Event) -> Option<T>,
) -> Result<T> {
    loop {
        match tokio::time::timeout(LONG, events.recv()).await?.context("the stream ended")? {
            SchedulerEvent::Received(event) => {
                if let Some(found) = wanted(*event) {
                    return Ok(found);
                }
            }
            SchedulerEvent::Connected(_) => {}
            other => bail!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_closed_terminal_ends_the_embedded_cluster_and_a_second_signal_hurries() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions { agents: 1, cpus: 1 })?;
    let framework = Framework::with_stubborn_task(cluster.master()).await?;
    let process = framework.pid().await?;
    cluster.signal(Signal::HUP)?;
    framework.wrote("asked").await?;
    ensure!(process.exists(), "it was killed without its grace");
    cluster.end(Signal::HUP)?;
    ensure!(!process.exists(), "the task was left behind");
    ensure!(!cluster.log().contains("took longer"), "nobody was in a hurry: {}", cluster.log());
    Ok(())
}

#[test]
fn the_embedded_cluster_says_what_it_makes_and_its_shuffle_service_is_found() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions { agents: 1, cpus: 1 })?;
    let state = cluster.state_dir();
    ensure!(cluster.log().contains(&format!("makes {}, ", state.display())), "{}", cluster.log());
    let ask = |flags: &[&str], work_dir: Option<&Path>| -> Result<(bool, String)> {
        let mut status = Command::new(binaries().join("bellows"));
        status.args(["shuffle", "status"]).args(flags).env_remove("BELLOWS_SHUFFLE_SOCKET");
        // Whoever runs this may have a cluster in the default directory.
        status.env("XDG_STATE_HOME", "/nonexistent").env_remove("BELLOWS_WORK_DIR");
        status.envs(work_dir.map(|work_dir| ("BELLOWS_WORK_DIR", work_dir)));
        let output = status.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    for (flags, work_dir) in [(&["--master", cluster.master()][..], None), (&[], Some(state.as_path()))] {
        let (found, said) = ask(flags, work_dir)?;
        ensure!(found && said.contains("no applications"), "{flags:?}: {said}");
    }
    let (found, said) = ask(&["--socket", "/nonexistent/admin.sock"], Some(&state))?;
    ensure!(!found && said.contains("/nonexistent/admin.sock: No such file"), "{said}");
    ensure!(said.contains("--socket") && said.contains("--master"), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_agent_is_taken_out_of_service_by_sigusr1_as_with_mesos() -> Result<()> {
    let mut processes = Processes::start(1).await?;
    let mut framework = Framework::with_stubborn_task(&processes.master()).await?;
    let process = framework.pid().await?;
    processes.signal_agent(Signal::USR1)?;
    framework.update(TaskState::TaskLost).await?;
    let agents = bellows_testkit::get_json(&format!("http://{}/slaves", processes.master())).await?;
    ensure!(agents["slaves"].as_array().is_some_and(Vec::is_empty), "{agents}");
    framework.wrote("asked").await?;
    ensure!(process.exists(), "it was killed without its grace");
    let status = processes.end_agent(Signal::USR1)?;
    ensure!(status.success(), "{status}: {}", processes.log("agent"));
    ensure!(!process.exists(), "the task was left behind");
    Ok(())
}

/// An agent, a shuffle service, and Spark's driver with `libmesos` in it.
#[test]
fn spark_shuffles_where_newer_system_calls_are_refused() {
    binaries();
    on_older_machines(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(shuffle_with_spark()).expect("the application runs");
    });
}

async fn shuffle_with_spark() -> Result<()> {
    let (spark, cluster) = (Spark::find(), Cluster::start(ClusterOptions { agents: 1, cpus: 2 })?);
    // Blocks of the other executor come through the service, although it is on the same machine.
    let settings = [
        ("spark.cores.max", "2"),
        ("spark.dynamicAllocation.initialExecutors", "2"),
        ("spark.shuffle.readHostLocalDisk", "false"),
    ];
    let app = repository().join("tests/apps/elastic.py").display().to_string();
    let mut application = Application::submit(&spark, &cluster, &[&app], &settings, &[])?;
    for burst in ["first", "second"] {
        let event = application.event(burst, LONG).await?;
        ensure!(event["correct"] == true, "{event}");
        application.go()?;
    }
    application.finish(LONG).await?;
    cluster.stop()
}

#[test]
fn a_container_in_which_no_thread_can_start_is_told_what_it_needs() {
    let bellows = binaries().join("bellows");
    let output = where_clone3_is_not_permitted(|| {
        Command::new(bellows)
            .args(["up", "--port", "0", "--agent-port", "0", "--shuffle-port", "0"])
            .stdin(Stdio::null())
            // Set to what it is: then the standard library forks, where posix_spawn would itself need the call.
            .uid(rustix::process::geteuid().as_raw())
            .output()
    });
    let output = output.expect("bellows starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("clone3") && error.contains("20.10.10"), "{error}");
}

/// RHEL 8 has 2.28, Ubuntu 20.04 and Debian 11 have 2.31.
#[test]
fn libmesos_needs_no_newer_glibc_than_2_28() {
    let library = binaries().join("libmesos.so");
    let output =
        Command::new("readelf").args(["-W", "--version-info"]).arg(&library).output().expect("readelf");
    let text = String::from_utf8_lossy(&output.stdout);
    let version = |rest: &str| -> Vec<u32> {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].split('.').filter_map(|number| number.parse().ok()).collect()
    };
    let mut needed: Vec<_> = text.split("Name: GLIBC_").skip(1).map(version).collect();
    needed.sort_unstable();
    let newest = needed.last().expect("it needs some glibc");
    assert!(*newest <= vec![2, 28], "it needs {newest:?}: {text}");
}
