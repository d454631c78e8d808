//! The solution itself: grants of free resources, neediest role first, then neediest client.
//!
//! Coarse as in Mesos: all that is free on an agent goes to one client. No hashing and no allocation in the
//! loops over clients; a pair of agent and client is looked at only if something about it changed.
use super::{Agent, Allocator, Client, Role};
use crate::Time;
use bellows_model::{AgentId, FrameworkId, Resources};
use std::sync::Arc;

/// Resources that the caller now offers; they are charged already.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    pub agent: AgentId,
    pub framework: FrameworkId,
    pub role: Arc<str>,
    pub resources: Resources,
}

/// Reused between solutions.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// By client: the `round` in which it was found to refuse the agent in question.
    refused: Vec<u64>,
    round: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Candidates {
    All,
    /// Where the agent did not change, only those clients that did.
    Dirty,
}

impl Allocator {
    /// Grants what can be granted since the last call.
    pub fn solve(&mut self, now: Time) -> Vec<Grant> {
        let mut grants = Vec::new();
        self.refresh_shares();
        self.scratch.refused.resize(self.clients.len(), 0);
        let agents = std::mem::take(&mut self.dirty.agents);
        for &agent in &agents {
            self.agents[agent as usize].dirty = false;
            self.grant_agent(agent, Candidates::All, now, &mut grants);
        }
        let clients = std::mem::take(&mut self.dirty.clients);
        if clients.iter().any(|&client| self.clients[client as usize].wants) {
            for agent in 0..self.agents.len() as u32 {
                self.grant_agent(agent, Candidates::Dirty, now, &mut grants);
            }
        }
        for &client in &clients {
            self.clients[client as usize].dirty = false;
        }
        grants
    }

    /// Agents came or went: all shares are of another whole.
    pub(super) fn refresh_shares(&mut self) {
        if std::mem::take(&mut self.dirty.totals) {
            for client in &mut self.clients {
                client.share = dominant_share(&client.allocated, &self.totals, super::DEFAULT_WEIGHT);
            }
            for role in &mut self.roles {
                role.share = dominant_share(&role.allocated, &self.totals, role.weight);
            }
        }
    }

    /// More than one client gets something only where resources are reserved.
    fn grant_agent(&mut self, index: u32, candidates: Candidates, now: Time, grants: &mut Vec<Grant>) {
        while self.agents[index as usize].active && !self.agents[index as usize].free.is_empty() {
            self.mark_refusing(index, candidates, now);
            let Some(client) = self.neediest(index, candidates) else { return };
            grants.push(self.grant(index, client));
        }
    }

    fn grant(&mut self, agent: u32, client: u32) -> Grant {
        let role = self.clients[client as usize].role as usize;
        let slot = &mut self.agents[agent as usize];
        let resources = slot.free.available_to(&self.roles[role].name);
        slot.free = slot.free.checked_sub(&resources).expect("invariant: a part of what is free");
        let label = slot.label.clone();
        self.count_held(client, &resources, 1);
        self.clients[client as usize].served += 1;
        self.roles[role].served += 1;
        Grant {
            agent: label,
            framework: self.clients[client as usize].framework.clone(),
            role: Arc::clone(&self.roles[role].name),
            resources,
        }
    }

    /// Marks the candidates that refuse all that they could be granted of the agent.
    fn mark_refusing(&mut self, index: u32, candidates: Candidates, now: Time) {
        self.scratch.round += 1;
        let agent = &self.agents[index as usize];
        // Who refused the same shares the answer; what is reserved makes it a matter of the role.
        let by_role = agent.free.iter().any(|item| item.reserved_for.is_some());
        let mut last = None;
        for refusal in &agent.refusals {
            let client = &self.clients[refusal.client as usize];
            let idle = candidates == Candidates::Dirty && !client.dirty;
            if idle || refusal.epoch != client.epoch || refusal.until <= now {
                continue;
            }
            let key = (Arc::as_ptr(&refusal.resources), by_role.then_some(client.role));
            let matches = match last {
                Some((known, matches)) if known == key => matches,
                _ => {
                    refusal.resources.contains_available(&agent.free, &self.roles[client.role as usize].name)
                }
            };
            last = Some((key, matches));
            if matches {
                self.scratch.refused[refusal.client as usize] = self.scratch.round;
            }
        }
    }

    fn neediest(&self, agent: u32, candidates: Candidates) -> Option<u32> {
        let agent = &self.agents[agent as usize];
        let mut best: Option<(&Role, u32)> = None;
        for role in &self.roles {
            let behind = best.is_some_and(|(best, _)| (best.share, best.served) <= (role.share, role.served));
            if behind || role.clients.is_empty() || !self.is_allocatable(&agent.free, &role.name) {
                continue;
            }
            if let Some(client) = self.neediest_of(role, candidates, agent) {
                best = Some((role, client));
            }
        }
        best.map(|(_, client)| client)
    }

    fn neediest_of(&self, role: &Role, candidates: Candidates, agent: &Agent) -> Option<u32> {
        let eligible = |index: u32, client: &Client| {
            client.wants
                && agent.suits(client)
                && (candidates == Candidates::All || client.dirty)
                && self.scratch.refused[index as usize] != self.scratch.round
        };
        let mut best: Option<(u64, u64, u32)> = None;
        for &index in &role.clients {
            let client = &self.clients[index as usize];
            let rank = (client.share, client.served, index);
            if best.is_none_or(|best| rank < best) && eligible(index, client) {
                best = Some(rank);
            }
        }
        best.map(|(.., index)| index)
    }

    /// Whether what `role` may have of `resources` is worth an offer.
    pub(super) fn is_allocatable(&self, resources: &Resources, role: &str) -> bool {
        resources.available_scalar("cpus", role).0 >= self.settings.min_cpus
            || resources.available_scalar("mem", role).0 >= self.settings.min_mem
    }
}

/// The largest share of any kind, as a fraction of 2^32, divided by the weight in thousandths.
pub(super) fn dominant_share(allocated: &[i64], totals: &[i64], weight: u32) -> u64 {
    let share = |(&held, &total): (&i64, &i64)| {
        if held <= 0 {
            return 0;
        }
        let whole = u128::from(total.max(1).unsigned_abs());
        let fraction = (u128::from(held.unsigned_abs()) << 32) * u128::from(super::DEFAULT_WEIGHT)
            / (whole * u128::from(weight));
        u64::try_from(fraction).unwrap_or(u64::MAX)
    };
    allocated.iter().zip(totals).map(share).max().unwrap_or(0)
}
