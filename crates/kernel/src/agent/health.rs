//! Whether tasks can run here. An agent on which every task fails is always free, and would draw all tasks to itself: it
//! stops offering, says why, and tries again after a while.
use super::{Action, AgentCondition, AgentMessage, state::Timer, step::Step};
use crate::Time;
use bellows_model::clipped;
use std::collections::BTreeMap;

/// Bytes of one trouble.
const MAX_TROUBLE: usize = 500;

/// The disks that tasks need, as they were just looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disks {
    /// Why there can be no sandboxes now.
    pub work_dir: Option<String>,
    /// The directories that executors shuffle through, and why one is left out.
    pub shuffle: BTreeMap<String, Option<String>>,
}

/// What is known of that.
#[derive(Debug, Clone, Default)]
pub struct Health {
    pub disks: Disks,
    /// Since launches failed; the time at which offers are made again.
    pub pause: Option<Time>,
    /// As the master was told.
    pub condition: AgentCondition,
    /// Launches in a row that failed for reasons of the agent's own, and what the last one said.
    failures: u32,
    last_failure: String,
    /// Pauses since the last launch that succeeded.
    pauses: u32,
}

impl Disks {
    /// How many are left out.
    pub fn left_out(&self) -> usize {
        self.shuffle.values().filter(|out| out.is_some()).count()
    }

    fn are_useless(&self) -> bool {
        self.work_dir.is_some() || !self.shuffle.is_empty() && self.left_out() == self.shuffle.len()
    }

    fn troubles(&self) -> impl Iterator<Item = String> {
        let work_dir = self.work_dir.iter().map(|why| format!("the work directory cannot be used: {why}"));
        let out = self.shuffle.iter().filter_map(|(disk, out)| {
            out.as_ref().map(|why| format!("the shuffle directory {disk} is left out: {why}"))
        });
        work_dir.chain(out)
    }
}

impl Health {
    /// What holds after every step: the master has been told what is so, and a pause comes to its end.
    pub(super) fn invariants(&self, is_due: impl Fn(Time) -> bool) -> Result<(), String> {
        match self {
            Self { condition, .. } if *condition != self.judge() => Err(format!("never told: {self:?}")),
            Self { pause: Some(due), .. } if !is_due(*due) => Err(format!("it pauses for ever: {self:?}")),
            _ => Ok(()),
        }
    }

    fn judge(&self) -> AgentCondition {
        let failing = self
            .pause
            .map(|_| format!("no offers for a while, since every launch fails: {}", self.last_failure));
        AgentCondition {
            paused: self.pause.is_some() || self.disks.are_useless(),
            troubles: failing
                .into_iter()
                .chain(self.disks.troubles())
                .map(|trouble| clipped(&trouble, MAX_TROUBLE).to_owned())
                .collect(),
        }
    }
}

impl Step<'_> {
    pub(super) fn disks_found(&mut self, disks: Disks) {
        let better = self.state.health.disks.troubles().count() > disks.troubles().count();
        self.state.health.disks = disks;
        if better {
            // What failed before may have failed for that.
            self.forget_failures();
        }
        self.tell_condition();
    }

    pub(super) fn launch_failed_here(&mut self, message: &str) {
        let config = &self.state.config;
        let health = &mut self.state.health;
        if health.pause.is_some() {
            return;
        }
        health.failures += 1;
        message.clone_into(&mut health.last_failure);
        // After a pause one launch is enough to see that nothing is better.
        let limit = if health.pauses > 0 { 1 } else { config.failed_launches_limit };
        if health.failures < limit {
            return;
        }
        let pause = (config.pause_min * (1 << health.pauses.min(16))).min(config.pause_max);
        let due = self.now + pause;
        health.pause = Some(due);
        health.pauses += 1;
        self.state.timers.insert((due, Timer::Pause));
        self.tell_condition();
    }

    pub(super) fn launch_succeeded(&mut self) {
        self.forget_failures();
        self.tell_condition();
    }

    pub(super) fn end_pause(&mut self) {
        self.state.health.pause = None;
        self.state.health.failures = 0;
        self.tell_condition();
    }

    fn forget_failures(&mut self) {
        let health = &mut self.state.health;
        (health.failures, health.pauses) = (0, 0);
        if let Some(due) = health.pause.take() {
            self.state.timers.remove(&(due, Timer::Pause));
        }
    }

    /// Tells the operator and the master what has changed.
    fn tell_condition(&mut self) {
        let condition = self.state.health.judge();
        let before = std::mem::replace(&mut self.state.health.condition, condition.clone());
        if before == condition {
            return;
        }
        let tell = |from: &AgentCondition, to: &AgentCondition, over: bool| -> Vec<Action> {
            let new = to.troubles.iter().filter(|trouble| !from.troubles.contains(trouble));
            new.map(|what| Action::Trouble { what: what.clone(), over }).collect()
        };
        self.actions.extend(tell(&condition, &before, true));
        self.actions.extend(tell(&before, &condition, false));
        if let Some(link) = self.state.link() {
            self.actions.push(Action::Send { link, message: AgentMessage::Condition(condition) });
        }
    }
}
