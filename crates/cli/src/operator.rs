//! What an operator asks a master: who runs, where, what it printed; and ending a framework.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bellows_client::{AgentClient, CallError, OperatorClient};
use bellows_election::{MasterAddress, detect};
use bellows_wire::v1::FrameworkId;
use bellows_wire::v1::master::response::GetState;
use serde::Serialize;
use serde_json::Value;

use crate::args::{KillArgs, LogsArgs, MasterAddressArg, ReadArgs, ResolveArgs, TasksArgs};
use crate::error::Error;
use crate::output::out;
use crate::rows;

const READ_BYTES: u64 = 64 * 1024;
const FOLLOW_INTERVAL: Duration = Duration::from_millis(300);

/// A master, and how its user called it.
pub struct Master {
    pub client: OperatorClient,
    pub address: String,
}

impl Master {
    pub fn new(argument: &MasterAddressArg) -> Result<Self, Error> {
        let address = parse_address(&argument.master)?;
        Ok(Self { client: OperatorClient::new(detect(&address), None), address: address.to_string() })
    }

    pub async fn state(&self) -> Result<GetState, Error> {
        self.client.get_state().await.map_err(|error| Error::call(&self.address, error))
    }
}

pub fn parse_address(text: &str) -> Result<MasterAddress, Error> {
    MasterAddress::parse(text)
        .map_err(|error| Error::usage(format!("{text}: {error}"), "host:port, or zk://host:port,…/path"))
}

pub async fn ps(args: ReadArgs) -> Result<(), Error> {
    let state = Master::new(&args.address)?.state().await?;
    let rows = rows::frameworks(&state, args.all);
    print(&rows, args.json, |rows| rows::framework_table(rows, now()));
    Ok(())
}

pub async fn agents(args: ReadArgs) -> Result<(), Error> {
    let state = Master::new(&args.address)?.state().await?;
    let mut rows = rows::agents(&state);
    rows.retain(|agent| agent.active || args.all);
    print(&rows, args.json, |rows| rows::agent_table(rows, now()));
    Ok(())
}

pub async fn tasks(args: TasksArgs) -> Result<(), Error> {
    let state = Master::new(&args.read.address)?.state().await?;
    let framework = match &args.framework {
        Some(wanted) => Some(rows::find_framework(&state, wanted)?.id),
        None => None,
    };
    let rows = rows::tasks(&state, args.read.all, framework.as_deref());
    print(&rows, args.read.json, |rows| rows::task_table(rows, now()));
    Ok(())
}

pub async fn kill(args: KillArgs) -> Result<(), Error> {
    let master = Master::new(&args.address)?;
    let framework = rows::find_framework(&master.state().await?, &args.framework)?;
    if framework.state == "completed" {
        return Err(Error::NotFound(format!("{} ({}) has ended already", framework.id, framework.name)));
    }
    let id = FrameworkId { value: framework.id.clone() };
    master.client.teardown(&id).await.map_err(|error| Error::call(&master.address, error))?;
    out!("ended {} ({})", framework.id, framework.name);
    Ok(())
}

/// What `mesos-resolve` prints: the leader's `host:port`.
pub async fn resolve(args: ResolveArgs) -> Result<(), Error> {
    let address = parse_address(&args.master)?;
    let mut leader = detect(&address);
    let known =
        tokio::time::timeout(Duration::from_secs_f64(args.timeout), leader.wait_for(Option::is_some)).await;
    match known {
        Ok(Ok(leader)) => {
            let leader = leader.as_ref().expect("invariant: waited for it");
            out!("{}", leader.authority());
            Ok(())
        }
        _ => Err(Error::NoMaster {
            address: address.to_string(),
            reason: format!("no leader known after {} s", args.timeout),
        }),
    }
}

pub async fn logs(args: LogsArgs) -> Result<(), Error> {
    let master = Master::new(&args.address)?;
    let state = master.state().await?;
    let task = find_task(&state, &args.task, args.framework.as_deref())?;
    let agents = state.get_agents.iter().flat_map(|answer| &answer.agents);
    let agent = agents
        .into_iter()
        .find(|agent| agent.agent_info.id.as_ref().is_some_and(|id| id.value == task.agent));
    let Some(agent) = agent else {
        return Err(Error::NotFound(format!("task {} ran on {}, which is gone", task.id, task.agent)));
    };
    let address = rows::agent_address(agent);
    let client = AgentClient::new(&address, None);
    let failed = |error| Error::call(&address, error);
    let agent_state = client.get_state().await.map_err(failed)?;
    let Some(directory) = sandbox(&agent_state, &task.framework, &task.id) else {
        return Err(Error::NotFound(format!("the sandbox of task {} is no longer on {address}", task.id)));
    };
    let path = format!("{directory}/{}", if args.stderr { "stderr" } else { "stdout" });

    let (mut offset, mut size) = (0, 0);
    loop {
        // Asked before reading, so that what a task writes last is read after its end is known.
        let live = args.follow && is_live(&master.state().await?, &task);
        let previous = std::mem::replace(&mut size, client.file_size(&path).await.map_err(failed)?);
        if size < previous {
            // It was rotated: what was not read of it lies in the newest of the old ones, if any are kept.
            if matches!(print_from(&client, &format!("{path}.1"), &mut offset).await, Ok(false)) {
                return Ok(());
            }
            offset = 0;
        }
        if !print_from(&client, &path, &mut offset).await.map_err(failed)? {
            return Ok(());
        }
        if !live {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

/// All that a file holds from `offset` on; `false`: nobody reads it any more.
async fn print_from(client: &AgentClient, path: &str, offset: &mut u64) -> Result<bool, CallError> {
    loop {
        let text = client.read_file(path, *offset, READ_BYTES).await?;
        if text.is_empty() {
            return Ok(true);
        }
        *offset += text.len() as u64;
        if !write(&text) {
            return Ok(false);
        }
    }
}

fn find_task(state: &GetState, id: &str, framework: Option<&str>) -> Result<rows::TaskRow, Error> {
    let framework = match framework {
        Some(wanted) => Some(rows::find_framework(state, wanted)?.id),
        None => None,
    };
    let mut found = rows::tasks(state, true, framework.as_deref());
    found.retain(|task| task.id == id);
    // Spark counts its executors from 0 in every application: the live one is meant, if there is one.
    if found.iter().any(|task| !is_terminal(&task.state)) {
        found.retain(|task| !is_terminal(&task.state));
    }
    match found.as_slice() {
        [] => Err(Error::NotFound(format!("no task {id}; `bellows tasks --all` lists them"))),
        [one] => Ok(one.clone()),
        several => {
            let of: Vec<_> = several.iter().map(|task| task.framework.as_str()).collect();
            let hint = format!("say which with --framework: {}", of.join(", "));
            Err(Error::usage(format!("{} frameworks have a task {id}", several.len()), hint))
        }
    }
}

fn is_live(state: &GetState, task: &rows::TaskRow) -> bool {
    rows::tasks(state, false, Some(&task.framework))
        .iter()
        .any(|live| live.id == task.id && !is_terminal(&live.state))
}

fn is_terminal(state: &str) -> bool {
    !matches!(state, "TASK_STAGING" | "TASK_STARTING" | "TASK_RUNNING" | "TASK_KILLING" | "TASK_UNREACHABLE")
}

/// The directory of a task in an agent's `/state`. A command task's executor has the task's id.
fn sandbox(agent_state: &Value, framework: &str, task: &str) -> Option<String> {
    let list = |value: &Value, names: [&str; 2]| {
        names.iter().filter_map(|name| value[*name].as_array().cloned()).flatten().collect::<Vec<_>>()
    };
    let has_task = |executor: &Value| {
        executor["id"] == task
            || list(executor, ["tasks", "completed_tasks"]).iter().any(|one| one["id"] == task)
    };
    list(agent_state, ["frameworks", "completed_frameworks"])
        .iter()
        .filter(|one| one["id"] == framework)
        .flat_map(|one| list(one, ["executors", "completed_executors"]))
        .find(has_task)
        .and_then(|executor| executor["directory"].as_str().map(str::to_owned))
}

/// Whether somebody still reads.
fn write(text: &str) -> bool {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

fn print<T: Serialize>(rows: &[T], json: bool, table: impl FnOnce(&[T]) -> String) {
    if json {
        out!("{}", serde_json::to_string_pretty(rows).expect("invariant: plain values are JSON"));
    } else {
        out!("{}", table(rows));
    }
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sandboxes_are_found_live_and_completed() {
        let state = json!({
            "frameworks": [{"id": "f", "executors": [{"id": "1", "directory": "/w/1"}],
                "completed_executors": [{"id": "0", "directory": "/w/0"}]}],
            "completed_frameworks": [{"id": "old", "completed_executors": [
                {"id": "custom", "directory": "/w/c", "completed_tasks": [{"id": "t"}]}]}],
        });
        assert_eq!(sandbox(&state, "f", "1").as_deref(), Some("/w/1"));
        assert_eq!(sandbox(&state, "f", "0").as_deref(), Some("/w/0"));
        assert_eq!(sandbox(&state, "old", "t").as_deref(), Some("/w/c"));
        assert_eq!(sandbox(&state, "old", "1"), None);
    }
}
