//! Containers from launch to forgetting, with real shims and real processes.
mod kill;
mod launch;
mod older;
mod recovery;
mod register;
#[path = "../root/mod.rs"]
mod root;
mod users;

use bellows_containment::{Config, Containerizer, Exit, ExitEvent, ExitStatus, LaunchSpec};
use bellows_model::{ContainerId, EnvironmentVariable};
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, path::PathBuf, time::Duration};
use tokio::sync::mpsc::Receiver;

const EXE: &str = env!("CARGO_BIN_EXE_containment-test");
/// Longer than any test takes: where it is given, something else must end the task.
const FOR_EVER: Duration = Duration::from_secs(3600);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("temporary directory") };
        fs::create_dir(place.sandbox()).expect("sandbox");
        place
    }

    fn meta_root(&self) -> PathBuf {
        self.dir.path().join("meta")
    }

    fn register(&self) -> String {
        fs::read_to_string(self.meta_root().join("containers")).expect("register")
    }

    fn sandbox(&self) -> PathBuf {
        self.dir.path().join("sandbox")
    }

    /// No other test's: processes without a shim are found by it.
    fn survivor(&self) -> ContainerId {
        self.dir
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .expect("plain")
            .trim_start_matches('.')
            .into()
    }

    fn agent(&self) -> (Containerizer, Receiver<ExitEvent>) {
        let config = Config { shim_exe: EXE.into(), ..Config::new(self.meta_root()) };
        Containerizer::new(config).expect("meta root")
    }

    fn shell(&self, id: &str, command: &str) -> LaunchSpec {
        LaunchSpec {
            container_id: ContainerId::from(id),
            sandbox: self.sandbox(),
            shell: true,
            value: command.into(),
            arguments: Vec::new(),
            environment: vec![variable("PATH", "/usr/bin:/bin")],
            user: None,
        }
    }

    fn output(&self) -> String {
        fs::read_to_string(self.sandbox().join("stdout")).expect("stdout")
    }

    /// Waits until the task has written a whole first line that holds a pid.
    async fn reported_pid(&self, file: &str) -> u32 {
        let path = self.sandbox().join(file);
        loop {
            if let Ok(text) = fs::read_to_string(&path)
                && text.ends_with('\n')
            {
                return text.trim().parse().expect("a pid");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn variable(name: &str, value: &str) -> EnvironmentVariable {
    EnvironmentVariable { name: name.into(), value: value.into() }
}

fn exited(code: i32) -> Exit {
    Exit { status: ExitStatus::Exited(code), reason: None }
}

fn signaled(signal: i32) -> Exit {
    Exit { status: ExitStatus::Signaled(signal), reason: None }
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn shim_of(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
    let (_, rest) = stat.rsplit_once(')').expect("well formed");
    rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).expect("parent")
}

/// As `ps` shows it.
fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn kill_dash_nine(pid: u32) {
    send(pid, Signal::KILL);
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).expect("pid"), signal).expect("it lives");
}

async fn next_exit(exits: &mut Receiver<ExitEvent>) -> Exit {
    exits.recv().await.expect("the containerizer lives").exit
}
