//! The log lines of what the master decides, made of its actions in one place.
//!
//! What peers say is clipped and escaped; of the tasks of one step, which may be thousands, only so many have a line.
use bellows_kernel::master::{Action, AgentChange, AgentCommand, FrameworkChange, Note, Observation};
use bellows_model::{AgentInfo, FrameworkId, FrameworkInfo, TaskInfo, TaskState, TaskStatus};
use bellows_wire::text::{clipped, one_line};
use std::time::Duration;
use tracing::Level;

/// The longest name that a line repeats.
const MAX_NAME_BYTES: usize = 256;
/// The longest message that a line repeats.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// Most tasks of one step with a line of their own: of those that are launched and those that end, and of those that are
/// refused, which cost whoever sends them nothing.
const MOST_TASKS: usize = 50;
/// Most agents and frameworks of one step, and most warnings, with a line of their own.
const MOST_NOTES: usize = 50;
const MOST_REFUSED: usize = 4;

pub(crate) fn narrate(actions: &[Action]) {
    if !tracing::enabled!(Level::WARN) {
        return;
    }
    for (level, line) in lines(actions, tracing::enabled!(Level::INFO)) {
        match level {
            Level::WARN => tracing::warn!("{line}"),
            _ => tracing::info!("{line}"),
        }
    }
}

/// `all`: also those of tasks that fare as they should.
fn lines(actions: &[Action], all: bool) -> Vec<(Level, String)> {
    let mut lines = Vec::new();
    let [mut launched, mut ended, mut refused, mut noted, mut warned] = [0; 5];
    let one_of = |count: &mut usize, most: usize| {
        *count += 1;
        *count <= most
    };
    for action in actions {
        lines.extend(match action {
            Action::Warn(text) => one_of(&mut warned, MOST_NOTES).then(|| (Level::WARN, one_line(text))),
            Action::Note(note) => one_of(&mut noted, MOST_NOTES).then(|| match note {
                Note::Agent { info, change } => agent_line(info, change),
                Note::Framework { info, change } => framework_line(info, change),
            }),
            Action::Tell { command: AgentCommand::Launch { framework, task }, .. } if all => {
                one_of(&mut launched, MOST_TASKS).then(|| (Level::INFO, launch_line(framework, task)))
            }
            Action::Observe(Observation::TaskUpdated { framework_id, status })
                if is_an_end(status.state) && (all || level(status.state) == Level::WARN) =>
            {
                one_of(&mut ended, MOST_TASKS).then(|| end_line(framework_id, status))
            }
            Action::Observe(Observation::TaskRefused { framework_id, status }) => {
                one_of(&mut refused, MOST_REFUSED).then(|| refusal_line(framework_id, status))
            }
            _ => None,
        });
    }
    for (count, most, what) in [
        (launched, MOST_TASKS, "tasks were launched"),
        (ended, MOST_TASKS, "tasks ended"),
        (refused, MOST_REFUSED, "tasks were refused"),
        (noted, MOST_NOTES, "agents and frameworks came or went"),
        (warned, MOST_NOTES, "warnings came"),
    ] {
        if count > most {
            lines.push((Level::INFO, format!("{} more {what} at the same time", count - most)));
        }
    }
    lines
}

fn agent_line(info: &AgentInfo, change: &AgentChange) -> (Level, String) {
    let id = info.id.as_ref().map_or_else(String::new, |id| short(id.as_str()));
    let agent = format!("agent {id} ({}, {}:{})", short(&info.hostname), short(&info.ip), info.port);
    let text = match change {
        AgentChange::Added => format!("{agent} is added: {}", short(&info.resources.to_string())),
        AgentChange::Back { tasks } => format!("{agent} is back, with {tasks} tasks"),
        AgentChange::Disconnected(patience) => {
            format!("{agent} has lost its connection, and has {} to come back", secs(*patience))
        }
        AgentChange::Unreachable(why) => format!("{agent} is unreachable: {}", message(why)),
        AgentChange::Removed(why) => format!("{agent} is removed: {}", message(why)),
    };
    (if matches!(change, AgentChange::Unreachable(_)) { Level::WARN } else { Level::INFO }, text)
}

fn framework_line(info: &FrameworkInfo, change: &FrameworkChange) -> (Level, String) {
    let id = info.id.as_ref().map_or_else(String::new, |id| short(id.as_str()));
    let framework = format!("framework {id} ({})", short(&info.name));
    let text = match change {
        FrameworkChange::Subscribed => {
            let (user, hostname) = (short(&info.user), short(&info.hostname));
            format!("{framework} has subscribed: user {user}, at {hostname}")
        }
        FrameworkChange::Back => format!("{framework} is back"),
        FrameworkChange::Recovered(patience) => {
            format!("{framework} is known from an agent, and has {} to subscribe", secs(*patience))
        }
        FrameworkChange::Disconnected(patience) => {
            format!("{framework} has lost its connection, and has {} to come back", secs(*patience))
        }
        FrameworkChange::Removed(why) => format!("{framework} is removed: {}", message(why)),
    };
    (Level::INFO, text)
}

fn launch_line(framework: &FrameworkInfo, task: &TaskInfo) -> String {
    let framework_id = framework.id.as_ref().map_or_else(String::new, |id| short(id.as_str()));
    let (task_id, agent_id) = (short(task.task_id.as_str()), short(task.agent_id.as_str()));
    let resources = short(&task.resources.to_string());
    format!("task {task_id} of framework {framework_id} is launched on agent {agent_id}: {resources}")
}

fn is_an_end(state: TaskState) -> bool {
    state.is_terminal() || state == TaskState::Unreachable
}

fn level(end: TaskState) -> Level {
    match end {
        TaskState::Finished | TaskState::Killed => Level::INFO,
        _ => Level::WARN,
    }
}

fn end_line(framework_id: &FrameworkId, status: &TaskStatus) -> (Level, String) {
    (
        level(status.state),
        format!("{} is {}{}", task(framework_id, status), status.state.name(), reason(status)),
    )
}

fn refusal_line(framework_id: &FrameworkId, status: &TaskStatus) -> (Level, String) {
    let (task, state) = (task(framework_id, status), status.state.name());
    (Level::WARN, format!("a task was refused: {task} is {state}{}", reason(status)))
}

fn task(framework_id: &FrameworkId, status: &TaskStatus) -> String {
    let mut text =
        format!("task {} of framework {}", short(status.task_id.as_str()), short(framework_id.as_str()));
    if let Some(agent_id) = &status.agent_id {
        text += &format!(" on agent {}", short(agent_id.as_str()));
    }
    text
}

/// `: why`, as far as anybody said so.
fn reason(status: &TaskStatus) -> String {
    let text = status.message.as_deref().map(message).filter(|text| !text.is_empty());
    text.map(|text| format!(": {text}")).unwrap_or_default()
}

fn short(name: &str) -> String {
    one_line(clipped(name, MAX_NAME_BYTES))
}

fn message(text: &str) -> String {
    one_line(clipped(text, MAX_MESSAGE_BYTES))
}

fn secs(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
