//! Disks that fail and come back, a work directory that is emptied, tasks that nobody remembers.
mod fake;
#[path = "../../containment/tests/root/mod.rs"]
mod root;

use bellows_agent::{Config, Running};
use bellows_wire::v1::{TaskState::*, TaskStatus};
use fake::*;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

struct Scene {
    dir: tempfile::TempDir,
    master: Master,
}

impl Scene {
    async fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary"), master: Master::start().await }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("there").join(name)
    }

    fn config(&self, disks: &[&str]) -> Config {
        let mut config = config(&self.master, &self.path("work"));
        config.shuffle_dirs = disks.iter().map(|disk| self.path(disk)).collect();
        config
    }

    async fn start(&self, disks: &[&str]) -> Running {
        bellows_agent::start(self.config(disks)).await.expect("started")
    }

    /// In a process of its own, which can be killed.
    fn spawn(&self) -> Agent {
        let mut command = Command::new(SHIM);
        command.arg("agent").arg(self.path("work")).arg(self.master.addr.to_string()).stdin(Stdio::null());
        Agent(command.spawn().expect("started"))
    }
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pid_of(running: &TaskStatus) -> PathBuf {
    let pid = running.container_status.as_ref().and_then(|status| status.executor_pid).expect("it runs");
    Path::new("/proc").join(pid.to_string())
}

/// What the task finds in `SPARK_EXECUTOR_DIRS`.
async fn executor_dirs(link: &mut Link, work_dir: &Path, id: &str) -> String {
    link.launch("F", shell(id, "echo $SPARK_EXECUTOR_DIRS")).await;
    let statuses = link.until_end("F").await;
    let end = statuses.last().expect("an end");
    assert_eq!(end.state(), TaskFinished, "{}", end.message());
    fs::read_to_string(sandbox(work_dir, "F", end).join("stdout")).expect("stdout").trim().to_owned()
}

fn mount(arguments: &[&str], at: &Path) {
    let outcome = Command::new("mount").args(arguments).arg(at).output();
    assert!(outcome.as_ref().is_ok_and(|outcome| outcome.status.success()), "{arguments:?}: {outcome:?}");
}

#[tokio::test]
async fn tasks_run_on_the_other_disks_while_one_is_bad() {
    if !root::may_mount("tasks_run_on_the_other_disks_while_one_is_bad") {
        return;
    }
    let mut scene = Scene::new().await;
    let (work, good, bad) = (scene.path("work"), scene.path("good"), scene.path("bad"));
    fs::create_dir(&bad).expect("made");
    let disk = root::SmallDisk::mount(&bad, "1m");
    let agent = scene.start(&["good", "bad"]).await;
    let (mut link, _) = scene.master.register().await;
    let both = format!("{}/bellows-F:{}/bellows-F", good.display(), bad.display());
    assert_eq!(executor_dirs(&mut link, &work, "both").await, both);
    // In the middle of a task, which goes on.
    link.launch("F", shell("long", "while [ ! -e go ]; do sleep 0.01; done")).await;
    let long = link.until_running("F").await;
    mount(&["-o", "remount,ro"], &bad);
    let said = link.condition().await;
    assert!(!said.paused && said.troubles.len() == 1, "{said:?}");
    assert!(
        said.troubles[0].contains("bad is left out") && said.troubles[0].contains("Read-only"),
        "{said:?}"
    );
    assert_eq!(executor_dirs(&mut link, &work, "one").await, format!("{}/bellows-F", good.display()));
    let (_, _, metrics) = get(agent.local_addr(), "/metrics/snapshot", None).await;
    let metrics: serde_json::Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!((&metrics["slave/disks_left_out"], &metrics["slave/paused"]), (&1.0.into(), &0.0.into()));
    mount(&["-o", "remount,rw"], &bad);
    let said = link.condition().await;
    assert!(said.troubles.is_empty(), "{said:?}");
    assert_eq!(executor_dirs(&mut link, &work, "again").await, both);
    // It goes, and comes back without anything on it.
    drop(disk);
    let said =
        link.until_condition(|said| said.troubles.iter().any(|why| why.contains("nothing is mounted"))).await;
    assert!(!said.paused, "{said:?}");
    assert_eq!(executor_dirs(&mut link, &work, "gone").await, format!("{}/bellows-F", good.display()));
    assert_eq!(fs::read_dir(&bad).expect("there").count(), 0, "it was written through");
    let _disk = root::SmallDisk::mount(&bad, "1m");
    link.until_condition(|said| said.troubles.is_empty()).await;
    assert_eq!(executor_dirs(&mut link, &work, "new").await, both);
    fs::write(sandbox(&work, "F", &long).join("go"), "").expect("written");
    assert_eq!(link.until_end("F").await.last().expect("an end").state(), TaskFinished);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_without_a_disk_starts_offers_nothing_and_runs_tasks_when_one_is_back() {
    let mut scene = Scene::new().await;
    let (one, two) = (scene.path("one"), scene.path("two"));
    for disk in [&one, &two] {
        fs::write(disk, "in the place of a directory").expect("written");
    }
    let agent = scene.start(&["one", "two"]).await;
    let (mut link, register) = scene.master.register().await;
    if !register.condition.is_some_and(|said| said.paused) {
        link.until_condition(|said| said.paused && said.troubles.len() == 2).await;
    }
    // One that was on its way says why it fails.
    link.launch("F", shell("t", "true")).await;
    let end = link.until_end("F").await.pop().expect("an end");
    assert!(
        end.state() == TaskFailed && end.message().contains(&one.display().to_string()),
        "{}",
        end.message()
    );
    let (_, _, state) = get(agent.local_addr(), "/state", None).await;
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!((&state["paused"], state["troubles"].as_array().map(Vec::len)), (&true.into(), Some(2)));
    fs::remove_file(&two).expect("removed");
    link.until_condition(|said| !said.paused && said.troubles.len() == 1).await;
    let dirs = executor_dirs(&mut link, &scene.path("work"), "u").await;
    assert_eq!(dirs, format!("{}/bellows-F", two.display()));
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_cannot_start_any_task_stops_offering_and_says_why() {
    let mut scene = Scene::new().await;
    let mut config = scene.config(&[]);
    config.shim_exe = Some("/no/such/shim".into());
    let agent = bellows_agent::start(config).await.expect("started");
    let (mut link, _) = scene.master.register().await;
    for number in 0..3 {
        link.launch("F", shell(&format!("t{number}"), "true")).await;
    }
    let said = link.condition().await;
    assert!(said.paused && said.troubles[0].contains("/no/such/shim"), "{said:?}");
    agent.stop().await;
}

#[tokio::test]
async fn what_a_task_gets_wrong_itself_stops_nobody() {
    let mut scene = Scene::new().await;
    let agent = scene.start(&[]).await;
    let (mut link, _) = scene.master.register().await;
    for number in 0..10 {
        let mut task = shell(&format!("t{number}"), "/no/such/program");
        task.command.as_mut().expect("set").shell = Some(false);
        // A link in the place of its output.
        if number % 2 == 0 {
            task = shell(&format!("t{number}"), "true");
            let archive = link_named_stdout(&scene);
            let uri = bellows_wire::v1::command_info::Uri { value: archive, ..Default::default() };
            task.command.as_mut().expect("set").uris.push(uri);
        }
        link.launch("F", task).await;
        assert_eq!(link.until_end("F").await.pop().expect("an end").state(), TaskFailed);
    }
    let (_, _, metrics) = get(agent.local_addr(), "/metrics/snapshot", None).await;
    assert!(metrics.contains("\"slave/paused\":0"), "{metrics}");
    agent.stop().await;
}

fn link_named_stdout(scene: &Scene) -> String {
    let (dir, archive) = (scene.path("files"), scene.path("files.tgz"));
    if !archive.exists() {
        fs::create_dir(&dir).expect("made");
        std::os::unix::fs::symlink("elsewhere", dir.join("stdout")).expect("link");
        let done = Command::new("tar").args(["czf"]).arg(&archive).arg("-C").arg(&dir).arg("stdout").status();
        assert!(done.expect("tar").success());
    }
    archive.display().to_string()
}

/// As `rm -rf` does, again where the agent has just made something.
fn empty(dir: &Path) {
    while let Some(entry) = fs::read_dir(dir).expect("there").next() {
        let path = entry.expect("entry").path();
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
}

#[tokio::test]
async fn a_work_directory_that_is_emptied_under_the_agent_is_made_again() {
    let mut scene = Scene::new().await;
    let work = scene.path("work");
    let mut agent = scene.spawn();
    let (mut link, _) = scene.master.register().await;
    link.launch("F", shell("long", "trap 'exit 7' USR1; while :; do sleep 0.05; done")).await;
    let long = link.until_running("F").await;
    for whole in [false, true] {
        empty(&work);
        if whole {
            fs::remove_dir(&work).expect("empty");
        }
        until(|| {
            work.join("meta/checkpoint.redb").exists() && work.join("meta/containers/containers").exists()
        })
        .await;
        link.launch("F", shell("short", "echo hello")).await;
        let end = link.until_end("F").await.pop().expect("an end");
        assert_eq!(end.state(), TaskFinished, "{}", end.message());
        assert_eq!(fs::read_to_string(sandbox(&work, "F", &end).join("stdout")).expect("stdout"), "hello\n");
        let mut second = Command::new(SHIM);
        second.arg("agent").arg(&work).arg(scene.master.addr.to_string()).stderr(Stdio::piped());
        let second = second.output().expect("started");
        assert!(String::from_utf8_lossy(&second.stderr).contains("Locked"), "{second:?}");
    }
    // The next agent knows of the task, and of its end, which no file has told it.
    agent.0.kill().expect("alive");
    agent.0.wait().expect("reaped");
    drop(agent);
    let _agent = scene.spawn();
    let (mut link, register) = scene.master.register().await;
    assert_eq!(register.agent_info.id.expect("remembered").value, AGENT_ID);
    let tasks: Vec<_> = register.tasks.iter().map(|task| task.task_info.task_id.value.as_str()).collect();
    assert!(tasks.contains(&"long") && pid_of(&long).exists(), "{tasks:?}");
    link.kill("F", "long").await;
    while link.until_end("F").await.last().expect("an end").task_id.value != "long" {}
    until(|| !pid_of(&long).exists()).await;
}

/// Its shim writes to the register that was deleted.
#[tokio::test]
async fn the_end_of_a_task_is_heard_though_its_register_was_deleted() {
    let mut scene = Scene::new().await;
    let work = scene.path("work");
    let agent = scene.start(&[]).await;
    let (mut link, _) = scene.master.register().await;
    let go = scene.path("go");
    link.launch("F", shell("t", &format!("while [ ! -e {} ]; do sleep 0.01; done; exit 5", go.display())))
        .await;
    link.until_running("F").await;
    empty(&work);
    until(|| work.join("meta/containers/containers").exists()).await;
    fs::write(go, "").expect("written");
    let end = link.until_end("F").await.pop().expect("an end");
    assert!(end.message().starts_with("Command exited with status 5"), "{}", end.message());
    agent.stop().await;
}

#[tokio::test]
async fn tasks_that_nobody_remembers_are_ended_before_the_agent_registers() {
    let mut scene = Scene::new().await;
    let work = scene.path("work");
    let lost: [fn(&Path); 2] =
        [empty, |work| fs::remove_file(work.join("meta/checkpoint.redb")).expect("removed")];
    for lose in lost {
        let other_work = scene.path("other");
        let other = start(&scene.master, &other_work).await;
        let (mut others, _) = scene.master.register().await;
        others.launch("F", shell("others", "sleep 1000")).await;
        let others_task = others.until_running("F").await;
        let mut agent = scene.spawn();
        let (mut link, _) = scene.master.register().await;
        link.launch(
            "F",
            shell("t", "trap '' TERM; sleep 1000 & setsid sleep 1000 & echo $! > child; wait; sleep 1000"),
        )
        .await;
        let running = link.until_running("F").await;
        let child = sandbox(&work, "F", &running).join("child");
        until(|| fs::read_to_string(&child).is_ok_and(|pid| pid.ends_with('\n'))).await;
        let child = Path::new("/proc").join(fs::read_to_string(&child).expect("written").trim());
        agent.0.kill().expect("alive");
        agent.0.wait().expect("reaped");
        lose(&work);
        assert!(child.exists());
        let agent = scene.spawn();
        let (_link, register) = scene.master.accept().await;
        assert!(!child.exists() && !pid_of(&running).exists(), "its CPUs would be sold twice");
        assert!(register.tasks.is_empty() && register.agent_info.id.is_none());
        assert!(pid_of(&others_task).exists(), "another agent's task is no business of this one");
        drop(agent);
        other.stop_and_kill_tasks(std::time::Duration::from_secs(20), &Default::default()).await;
        fs::remove_dir_all(&other_work).expect("removed");
        empty(&work);
    }
}
