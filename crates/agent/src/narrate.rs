//! The log lines of what the agent decides, made of its actions in one place.
//!
//! What peers say is clipped and escaped; of the tasks of one step, which may be all, only so many have a line.
use bellows_kernel::agent::{Action, Master, Record, State};
use bellows_model::{FrameworkId, TaskId, TaskState, TaskStatus};
use bellows_wire::text::{clipped, one_line};
use tracing::Level;

/// The longest name that a line repeats.
const MAX_NAME_BYTES: usize = 256;
/// The longest message that a line repeats.
const MAX_MESSAGE_BYTES: usize = 1_024;
/// Most tasks of one step that have lines of their own.
const MOST_LINES: usize = 100;

/// How the agent stands with the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Stranger,
    Registered,
    Refused,
}

impl Standing {
    pub(crate) fn of(state: &State) -> Self {
        match state.master {
            Master::Registered(_) => Self::Registered,
            Master::Refused(_) => Self::Refused,
            Master::Disconnected | Master::Registering(_) => Self::Stranger,
        }
    }
}

pub(crate) fn narrate_standing(before: Standing, state: &State) {
    write(standing_line(before, state));
}

pub(crate) fn narrate(state: &State, actions: &[Action]) {
    if tracing::enabled!(Level::WARN) {
        write(lines(state, actions));
    }
}

fn write(lines: impl IntoIterator<Item = (Level, String)>) {
    for (level, line) in lines {
        match level {
            Level::WARN => tracing::warn!("{line}"),
            _ => tracing::info!("{line}"),
        }
    }
}

/// Why a connection is lost is told where it is opened anew.
fn standing_line(before: Standing, state: &State) -> Option<(Level, String)> {
    if before == Standing::of(state) {
        return None;
    }
    match &state.master {
        Master::Registered(_) => {
            let id = state.agent_id.as_ref().map_or_else(String::new, |id| short(id.as_str()));
            Some((
                Level::INFO,
                format!("registered with the master as agent {id}, with {} tasks", state.busy()),
            ))
        }
        Master::Refused(reason) => {
            Some((Level::WARN, format!("the master will not have this agent any more: {}", message(reason))))
        }
        Master::Disconnected | Master::Registering(_) => None,
    }
}

fn lines(state: &State, actions: &[Action]) -> Vec<(Level, String)> {
    let mut lines: Vec<_> = actions.iter().filter_map(|action| line(state, action)).collect();
    if lines.len() > MOST_LINES {
        let more = lines.len() - MOST_LINES;
        lines.truncate(MOST_LINES);
        lines.push((Level::INFO, format!("{more} more lines of the same time are left out")));
    }
    lines
}

fn line(state: &State, action: &Action) -> Option<(Level, String)> {
    match action {
        Action::Store { record: Record::Status { framework_id, status, .. }, .. } => {
            status_line(framework_id, status)
        }
        Action::Store { record: Record::Killed { framework_id, task_id }, .. } => {
            Some((Level::INFO, format!("{} is to end", task(framework_id, task_id))))
        }
        Action::Store { record: Record::Removal(framework_id), .. } => {
            let framework = short(framework_id.as_str());
            Some((Level::INFO, format!("framework {framework} has ended: its tasks end, then its files go")))
        }
        // Its end is reported to nobody.
        Action::Retire(job)
            if state.frameworks.get(&job.framework_id).is_none_or(|framework| framework.ending) =>
        {
            Some((
                Level::INFO,
                format!("{} has ended with its framework", task(&job.framework_id, &job.task.task_id)),
            ))
        }
        _ => None,
    }
}

fn status_line(framework_id: &FrameworkId, status: &TaskStatus) -> Option<(Level, String)> {
    let task = task(framework_id, &status.task_id);
    if status.state == TaskState::Running {
        let container = status.container.as_ref()?;
        let (pid, id) = (container.executor_pid.unwrap_or_default(), &container.container_id);
        return Some((Level::INFO, format!("{task} is launched: process {pid}, container {id}")));
    }
    if !status.state.is_terminal() {
        return None;
    }
    let level = match status.state {
        TaskState::Finished | TaskState::Killed => Level::INFO,
        _ => Level::WARN,
    };
    let why = status.message.as_deref().map(message).filter(|text| !text.is_empty());
    let why = why.map(|text| format!(": {text}")).unwrap_or_default();
    Some((level, format!("{task} is {}{why}", status.state.name())))
}

fn task(framework_id: &FrameworkId, task_id: &TaskId) -> String {
    format!("task {} of framework {}", short(task_id.as_str()), short(framework_id.as_str()))
}

fn short(name: &str) -> String {
    one_line(clipped(name, MAX_NAME_BYTES))
}

fn message(text: &str) -> String {
    one_line(clipped(text, MAX_MESSAGE_BYTES))
}

#[cfg(test)]
mod tests;
