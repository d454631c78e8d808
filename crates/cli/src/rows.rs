//! A master's answer as the rows that people ask for. Pure: messages in, plain values out.

use std::collections::BTreeMap;

use bellows_wire::v1::master::response::{GetState, get_agents, get_frameworks};
use bellows_wire::v1::{Resource, Task, TimeInfo, task_status};
use serde::Serialize;

use crate::error::Error;
use crate::output::{Table, duration};

/// One line of `bellows ps`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Framework {
    pub id: String,
    pub name: String,
    pub user: String,
    pub role: String,
    /// `active`, `disconnected`, `inactive`, `recovered` or `completed`
    pub state: &'static str,
    pub tasks: usize,
    pub cpus: f64,
    pub mem_mb: f64,
    /// Seconds since the Unix epoch
    pub registered: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unregistered: Option<f64>,
}

/// One line of `bellows agents`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agent {
    pub id: String,
    /// `host:port`
    pub address: String,
    pub active: bool,
    /// Applications that use the shuffle service are offered nothing of it meanwhile
    pub shuffle_service_down: bool,
    /// Nothing of it is offered to anybody, since tasks would only fail there
    pub paused: bool,
    /// What is wrong with its machine
    pub troubles: Vec<String>,
    pub tasks: usize,
    pub cpus: f64,
    pub cpus_used: f64,
    pub mem_mb: f64,
    pub mem_mb_used: f64,
    pub registered: f64,
}

/// One line of `bellows tasks`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskRow {
    pub id: String,
    pub name: String,
    pub framework: String,
    pub agent: String,
    /// `TASK_RUNNING`, …
    pub state: String,
    pub cpus: f64,
    pub mem_mb: f64,
    /// When its latest status was made, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Live ones, then with `all` those that ended.
pub fn frameworks(state: &GetState, all: bool) -> Vec<Framework> {
    let mut tasks: BTreeMap<&str, usize> = BTreeMap::new();
    for task in live_tasks(state) {
        *tasks.entry(&task.framework_id.value).or_default() += 1;
    }
    let Some(answer) = &state.get_frameworks else { return Vec::new() };
    let live = answer.frameworks.iter().map(|framework| (framework, live_state(framework)));
    let ended = answer.completed_frameworks.iter().filter(|_| all).map(|framework| (framework, "completed"));
    live.chain(ended)
        .map(|(framework, state)| {
            let info = &framework.framework_info;
            let id = info.id.as_ref().map(|id| id.value.clone()).unwrap_or_default();
            // Frameworks from before there were several roles fill in the old field.
            #[allow(deprecated)]
            let role = match info.roles.as_slice() {
                [] => info.role.clone().unwrap_or_else(|| "*".to_owned()),
                roles => roles.join(","),
            };
            Framework {
                name: info.name.clone(),
                user: info.user.clone(),
                role,
                state,
                tasks: tasks.get(id.as_str()).copied().unwrap_or(0),
                cpus: scalar(&framework.allocated_resources, "cpus"),
                mem_mb: scalar(&framework.allocated_resources, "mem"),
                registered: seconds(framework.registered_time.as_ref()).unwrap_or(0.0),
                unregistered: seconds(framework.unregistered_time.as_ref()),
                id,
            }
        })
        .collect()
}

fn live_state(framework: &get_frameworks::Framework) -> &'static str {
    match (framework.recovered, framework.connected, framework.active) {
        (true, _, _) => "recovered",
        (_, false, _) => "disconnected",
        (_, _, false) => "inactive",
        _ => "active",
    }
}

pub fn agents(state: &GetState) -> Vec<Agent> {
    let mut tasks: BTreeMap<&str, usize> = BTreeMap::new();
    for task in live_tasks(state) {
        *tasks.entry(&task.agent_id.value).or_default() += 1;
    }
    let Some(answer) = &state.get_agents else { return Vec::new() };
    answer
        .agents
        .iter()
        .map(|agent| {
            let id = agent.agent_info.id.as_ref().map(|id| id.value.clone()).unwrap_or_default();
            Agent {
                address: agent_address(agent),
                active: agent.active,
                shuffle_service_down: agent.shuffle_service_down(),
                paused: agent.paused(),
                troubles: agent.troubles.clone(),
                tasks: tasks.get(id.as_str()).copied().unwrap_or(0),
                cpus: scalar(&agent.total_resources, "cpus"),
                cpus_used: scalar(&agent.allocated_resources, "cpus"),
                mem_mb: scalar(&agent.total_resources, "mem"),
                mem_mb_used: scalar(&agent.allocated_resources, "mem"),
                registered: seconds(agent.registered_time.as_ref()).unwrap_or(0.0),
                id,
            }
        })
        .collect()
}

/// `host:port`: of its pid (`slave(1)@ip:port`), which has the address that it listens on, else of its hostname.
pub fn agent_address(agent: &get_agents::Agent) -> String {
    match agent.pid.as_deref().and_then(|pid| pid.rsplit_once('@')) {
        Some((_, address)) => address.to_owned(),
        None => format!("{}:{}", agent.agent_info.hostname, agent.agent_info.port()),
    }
}

/// Live ones, then with `all` those that ended; of one framework when it is named.
pub fn tasks(state: &GetState, all: bool, framework: Option<&str>) -> Vec<TaskRow> {
    let completed = state.get_tasks.iter().flat_map(|answer| &answer.completed_tasks).filter(|_| all);
    live_tasks(state)
        .chain(completed)
        .filter(|task| framework.is_none_or(|id| task.framework_id.value == id))
        .map(|task| {
            let status = task.statuses.last();
            let reason = status.and_then(|status| status.reason).and_then(|reason| {
                task_status::Reason::try_from(reason).ok().map(|reason| reason.as_str_name().to_owned())
            });
            TaskRow {
                id: task.task_id.value.clone(),
                name: task.name.clone(),
                framework: task.framework_id.value.clone(),
                agent: task.agent_id.value.clone(),
                state: task.state().as_str_name().to_owned(),
                cpus: scalar(&task.resources, "cpus"),
                mem_mb: scalar(&task.resources, "mem"),
                since: status.and_then(|status| status.timestamp),
                message: status.and_then(|status| status.message.clone()).unwrap_or_default(),
                reason,
            }
        })
        .collect()
}

fn live_tasks(state: &GetState) -> impl Iterator<Item = &Task> {
    state.get_tasks.iter().flat_map(|answer| answer.tasks.iter().chain(&answer.unreachable_tasks))
}

/// The one framework that `wanted` means: its id, the end of its id, or its name. Live ones go first.
pub fn find_framework(state: &GetState, wanted: &str) -> Result<Framework, Error> {
    let all = frameworks(state, true);
    if let Some(exact) = all.iter().find(|framework| framework.id == wanted) {
        return Ok(exact.clone());
    }
    let matches = |f: &&Framework| f.name == wanted || f.id.ends_with(&format!("-{wanted}"));
    let live: Vec<_> = all.iter().filter(|f| f.state != "completed").filter(matches).collect();
    let found = if live.is_empty() { all.iter().filter(matches).collect() } else { live };
    match found.as_slice() {
        [] => Err(Error::NotFound(format!("no framework {wanted}; `bellows ps --all` lists them"))),
        [one] => Ok((*one).clone()),
        several => {
            let ids: Vec<_> = several.iter().map(|framework| framework.id.as_str()).collect();
            Err(Error::usage(format!("{wanted} may be any of {}", ids.join(", ")), "give the id"))
        }
    }
}

pub fn framework_table(rows: &[Framework], now: f64) -> String {
    let mut table =
        Table::new(&["FRAMEWORK", "NAME", "USER", "ROLE", "STATE", "TASKS", "CPUS", "MEM MB", "SINCE"]);
    for f in rows {
        table.row([
            f.id.clone(),
            f.name.clone(),
            f.user.clone(),
            f.role.clone(),
            f.state.to_owned(),
            f.tasks.to_string(),
            figure(f.cpus),
            figure(f.mem_mb),
            ago(now, f.unregistered.unwrap_or(f.registered)),
        ]);
    }
    table.render("no frameworks")
}

pub fn agent_table(rows: &[Agent], now: f64) -> String {
    let mut table =
        Table::new(&["AGENT", "ADDRESS", "STATE", "TASKS", "CPUS USED", "OF", "MEM MB USED", "OF", "SINCE"]);
    for a in rows {
        table.row([
            a.id.clone(),
            a.address.clone(),
            a.state().to_owned(),
            a.tasks.to_string(),
            figure(a.cpus_used),
            figure(a.cpus),
            figure(a.mem_mb_used),
            figure(a.mem_mb),
            ago(now, a.registered),
        ]);
    }
    let troubles = rows.iter().flat_map(|a| a.troubles.iter().map(|what| format!("\n{}: {what}", a.id)));
    table.render("no agents") + &troubles.collect::<String>()
}

impl Agent {
    fn state(&self) -> &'static str {
        match self {
            Agent { active: false, .. } => "inactive",
            Agent { paused: true, .. } => "paused",
            Agent { shuffle_service_down: true, .. } => "no shuffle service",
            Agent { troubles, .. } if !troubles.is_empty() => "in trouble",
            _ => "active",
        }
    }
}

pub fn task_table(rows: &[TaskRow], now: f64) -> String {
    let mut table =
        Table::new(&["TASK", "NAME", "FRAMEWORK", "AGENT", "STATE", "CPUS", "MEM MB", "SINCE", "MESSAGE"]);
    for t in rows {
        table.row([
            t.id.clone(),
            t.name.clone(),
            short(&t.framework).to_owned(),
            short(&t.agent).to_owned(),
            t.state.clone(),
            figure(t.cpus),
            figure(t.mem_mb),
            t.since.map_or_else(|| "-".to_owned(), |since| ago(now, since)),
            t.message.lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    table.render("no tasks")
}

/// The part of an id after the master's: `0003` or `S1`.
fn short(id: &str) -> &str {
    id.rsplit_once('-').map_or(id, |(_, end)| end)
}

fn figure(value: f64) -> String {
    format!("{}", (value * 1000.0).round() / 1000.0)
}

fn ago(now: f64, then: f64) -> String {
    duration((now - then).max(0.0) as u64)
}

fn scalar(resources: &[Resource], name: &str) -> f64 {
    let of_name = resources.iter().filter(|resource| resource.name == name);
    // The empty sum is -0.
    of_name.filter_map(|resource| resource.scalar.as_ref()).map(|scalar| scalar.value).sum::<f64>() + 0.0
}

fn seconds(time: Option<&TimeInfo>) -> Option<f64> {
    time.map(|time| time.nanoseconds as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellows_wire::v1::master::Response;

    const NOW: f64 = 1_000_100.0;

    /// As a master answers: one framework with two executors, one that ended.
    fn state() -> GetState {
        let resources = |cpus: f64, mem: f64| {
            format!(
                r#"[{{"name":"cpus","type":"SCALAR","scalar":{{"value":{cpus}}}}},{{"name":"mem","type":"SCALAR","scalar":{{"value":{mem}}}}}]"#
            )
        };
        let task = |id: u32, state: &str, message: &str| {
            format!(
                r#"{{"name":"flights {id}","task_id":{{"value":"{id}"}},"framework_id":{{"value":"m-0001"}},
                "agent_id":{{"value":"m-S{id}"}},"state":"{state}","resources":{},"statuses":[
                {{"task_id":{{"value":"{id}"}},"state":"{state}","timestamp":1000058.5,"message":"{message}"}}]}}"#,
                resources(1.0, 1408.0)
            )
        };
        let framework = |id: &str, name: &str, used: String| {
            format!(
                r#"{{"framework_info":{{"id":{{"value":"{id}"}},"user":"ann","name":"{name}"}},"active":true,
                "connected":true,"recovered":false,"registered_time":{{"nanoseconds":1000000000000000}},
                "allocated_resources":{used}}}"#
            )
        };
        let agent = |id: u32, more: &str, used: String| {
            format!(
                r#"{{"agent_info":{{"hostname":"h{id}","port":5051,"id":{{"value":"m-S{id}"}}}},"active":true,
                "version":"1.11.0",{more}"pid":"slave(1)@10.0.0.{id}:5051","registered_time":{{"nanoseconds":1000000000000000}},
                "total_resources":{},"allocated_resources":{used}}}"#,
                resources(2.0, 4096.0)
            )
        };
        let json = format!(
            r#"{{"type":"GET_STATE","get_state":{{"get_tasks":{{"tasks":[{},{}],"completed_tasks":[{}]}},
            "get_frameworks":{{"frameworks":[{}],"completed_frameworks":[{}]}},
            "get_agents":{{"agents":[{},{},{},{}]}}}}}}"#,
            task(1, "TASK_RUNNING", ""),
            task(2, "TASK_STAGING", ""),
            task(0, "TASK_FAILED", "Command exited with status 1"),
            framework("m-0001", "flights", resources(2.0, 2816.0)),
            framework("m-0000", "flights", "[]".to_owned()),
            agent(1, "", resources(1.0, 1408.0)),
            agent(2, r#""shuffle_service_down":true,"#, resources(1.0, 1408.0)),
            agent(3, r#""troubles":["/data2 is left out: Read-only file system"],"#, "[]".to_owned()),
            agent(
                4,
                r#""paused":true,"troubles":["/data1 is left out","/data2 is left out"],"#,
                "[]".to_owned()
            ),
        );
        let response: Response = bellows_wire::json::decode(json.as_bytes()).expect("valid JSON");
        response.get_state.expect("a state")
    }

    #[test]
    fn tables() {
        let state = state();
        insta::assert_snapshot!("ps", framework_table(&frameworks(&state, true), NOW));
        insta::assert_snapshot!("agents", agent_table(&agents(&state), NOW));
        insta::assert_snapshot!("tasks", task_table(&tasks(&state, true, None), NOW));
        assert_eq!(framework_table(&[], NOW), "no frameworks");
    }

    #[test]
    fn those_that_ended_only_when_asked_for() {
        let state = state();
        assert_eq!(frameworks(&state, false).len(), 1);
        assert_eq!(tasks(&state, false, None).len(), 2);
        assert_eq!(tasks(&state, true, Some("m-0001")).len(), 3);
        assert_eq!(tasks(&state, true, Some("m-0000")).len(), 0);
    }

    #[test]
    fn json_rows() {
        let state = state();
        insta::assert_json_snapshot!("ps_json", frameworks(&state, false));
        insta::assert_json_snapshot!("tasks_json", tasks(&state, true, None));
    }

    #[test]
    fn frameworks_are_found_by_what_people_say() {
        let state = state();
        let id = |wanted| find_framework(&state, wanted).map(|framework| framework.id);
        assert_eq!(id("m-0000").expect("by id"), "m-0000");
        assert_eq!(id("0000").expect("by the id's end"), "m-0000");
        // The live one of that name is meant.
        assert_eq!(id("flights").expect("by name"), "m-0001");
        assert!(matches!(id("01"), Err(Error::NotFound(_))));
    }
}
