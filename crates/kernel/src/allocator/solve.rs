//! The solution itself: grants of free resources, neediest role first, then neediest client.
//!
//! Coarse as in Mesos: all that is free on an agent goes to one client. No hashing and no allocation in the
//! loops over clients; a pair of agent and client is looked at only if something about it changed.
use super::{Agent, Allocator, Client, Role, Sweep};
use crate::Time;
use bellows_model::{AgentId, DEFAULT_ROLE, FrameworkId, Resources};
use std::{collections::BTreeSet, sync::Arc};

/// Resources that the caller now offers; they are charged already.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    pub agent: AgentId,
    pub framework: FrameworkId,
    pub role: Arc<str>,
    pub resources: Resources,
}

/// The roles that an agent's free resources are worth an offer for.
enum Takers {
    Everyone,
    /// In ascending order.
    Roles(Vec<u32>),
}

impl Takers {
    fn includes(&self, role: u32) -> bool {
        match self {
            Self::Everyone => true,
            Self::Roles(roles) => roles.binary_search(&role).is_ok(),
        }
    }
}

/// Reused between solutions.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// By client: the `round` in which it was found to refuse the agent in question.
    refused: Vec<u64>,
    round: u64,
}

/// The clients that may be granted something.
#[derive(Clone, Copy, PartialEq)]
enum Candidates<'a> {
    All,
    /// Where the agent did not change, only those clients that did.
    Swept(&'a [u32]),
}

/// In one call, about so many clients and refusals are looked at: a millisecond or two.
pub(crate) const MAX_LOOKS: usize = 100_000;

/// Looks that making an offer of a grant costs.
const GRANT: usize = 250;

impl Allocator {
    /// Grants what can be granted since the last call, or a part of it: then [`Self::has_work`].
    pub fn solve(&mut self, now: Time) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut looks = MAX_LOOKS;
        self.refresh_shares(&mut looks);
        self.scratch.refused.resize(self.clients.len(), 0);
        while looks > 0
            && let Some(agent) = self.dirty.agents.pop_front()
        {
            self.agents[agent as usize].dirty = false;
            if !self.grant_agent(agent, Candidates::All, now, &mut looks, &mut grants) {
                self.agents[agent as usize].dirty = true;
                self.dirty.agents.push_front(agent);
            }
        }
        while looks > 0
            && let Some(sweep) = self.next_sweep()
        {
            self.dirty.sweep = self.advance(sweep, now, &mut looks, &mut grants);
        }
        grants
    }

    /// Whether the next call of [`Self::solve`] goes on with what the last one left over.
    pub fn has_work(&self) -> bool {
        let dirty = &self.dirty;
        !dirty.agents.is_empty() || !dirty.clients.is_empty() || dirty.sweep.is_some() || dirty.shares > 0
    }

    fn next_sweep(&mut self) -> Option<Sweep> {
        if let Some(sweep) = self.dirty.sweep.take() {
            return Some(sweep);
        }
        let mut clients = std::mem::take(&mut self.dirty.clients);
        clients.retain(|&index| {
            let client = &mut self.clients[index as usize];
            client.dirty = false;
            client.sweeping = client.wants;
            client.wants
        });
        (!clients.is_empty()).then_some(Sweep { clients, next_agent: 0 })
    }

    /// Moves a sweep on, and returns what is left of it.
    fn advance(
        &mut self,
        mut sweep: Sweep,
        now: Time,
        looks: &mut usize,
        grants: &mut Vec<Grant>,
    ) -> Option<Sweep> {
        while *looks > 0 {
            if sweep.next_agent as usize >= self.agents.len() {
                for &client in &sweep.clients {
                    self.clients[client as usize].sweeping = false;
                }
                return None;
            }
            if self.grant_agent(sweep.next_agent, Candidates::Swept(&sweep.clients), now, looks, grants) {
                sweep.next_agent += 1;
            }
        }
        Some(sweep)
    }

    /// Agents came or went: all shares are of another whole. Until they are reckoned anew, an old one does no harm.
    pub(super) fn refresh_shares(&mut self, looks: &mut usize) {
        let all = self.clients.len() + self.roles.len();
        let due = self.dirty.shares.min(all);
        let now = due.min(*looks / 2);
        for _ in 0..now {
            let next = self.dirty.next_share % all;
            match next.checked_sub(self.clients.len()) {
                None => {
                    let client = &mut self.clients[next];
                    client.share = dominant_share(&client.allocated, &self.totals, super::DEFAULT_WEIGHT);
                }
                Some(role) => {
                    let role = &mut self.roles[role];
                    role.share = dominant_share(&role.allocated, &self.totals, role.weight);
                }
            }
            self.dirty.next_share = next + 1;
        }
        self.dirty.shares = due - now;
        *looks -= now;
    }

    /// More than one client gets something only where resources are reserved. Says whether it is done with the agent.
    fn grant_agent(
        &mut self,
        index: u32,
        candidates: Candidates<'_>,
        now: Time,
        looks: &mut usize,
        grants: &mut Vec<Grant>,
    ) -> bool {
        *looks = looks.saturating_sub(1);
        while self.agents[index as usize].active && !self.agents[index as usize].free.is_empty() {
            if *looks == 0 {
                return false;
            }
            let clients = match candidates {
                Candidates::All => self.clients.len(),
                Candidates::Swept(clients) => clients.len(),
            };
            let agent = &self.agents[index as usize];
            *looks = looks.saturating_sub(clients + agent.refusals.len() + agent.free.parts());
            self.mark_refusing(index, candidates, now);
            let Some(client) = self.neediest(index, candidates) else { break };
            *looks = looks.saturating_sub(GRANT);
            grants.push(self.grant(index, client));
        }
        true
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
    fn mark_refusing(&mut self, index: u32, candidates: Candidates<'_>, now: Time) {
        self.scratch.round += 1;
        let agent = &self.agents[index as usize];
        // Who refused the same shares the answer; what is reserved makes it a matter of the role.
        let by_role = agent.free.iter().any(|item| item.reserved_for.is_some());
        let mut last = None;
        for refusal in &agent.refusals {
            let client = &self.clients[refusal.client as usize];
            let idle = candidates != Candidates::All && !client.sweeping;
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

    /// Finds the candidate that does not refuse and has least, in the role that has least.
    fn neediest(&self, agent: u32, candidates: Candidates<'_>) -> Option<u32> {
        let agent = &self.agents[agent as usize];
        let takers = self.takers_of(&agent.free);
        let by_role = |index: u32, client: &Client| {
            let role = &self.roles[client.role as usize];
            (role.share, role.served, client.role, client.share, client.served, index)
        };
        match (candidates, &takers) {
            (Candidates::Swept(clients), _) => {
                let clients = clients.iter().map(|&index| (index, &self.clients[index as usize]));
                clients
                    .filter(|&(index, client)| {
                        takers.includes(client.role) && self.is_eligible(agent, index, client)
                    })
                    .map(|(index, client)| by_role(index, client))
                    .min()
                    .map(|(.., index)| index)
            }
            (Candidates::All, Takers::Everyone) => self.neediest_in(agent, 0..self.roles.len() as u32),
            (Candidates::All, Takers::Roles(roles)) => self.neediest_in(agent, roles.iter().copied()),
        }
    }

    /// `roles` ascend.
    fn neediest_in(&self, agent: &Agent, roles: impl Iterator<Item = u32>) -> Option<u32> {
        let mut best: Option<(&Role, u32)> = None;
        for role in roles.map(|index| &self.roles[index as usize]) {
            let behind = best.is_some_and(|(best, _)| (best.share, best.served) <= (role.share, role.served));
            if !behind && let Some(client) = self.neediest_of(agent, role) {
                best = Some((role, client));
            }
        }
        best.map(|(_, client)| client)
    }

    fn neediest_of(&self, agent: &Agent, role: &Role) -> Option<u32> {
        let mut best: Option<(u64, u64, u32)> = None;
        for &index in &role.clients {
            let client = &self.clients[index as usize];
            let rank = (client.share, client.served, index);
            if best.is_none_or(|best| rank < best) && self.is_eligible(agent, index, client) {
                best = Some(rank);
            }
        }
        best.map(|(.., index)| index)
    }

    fn is_eligible(&self, agent: &Agent, index: u32, client: &Client) -> bool {
        client.wants && agent.suits(client) && self.scratch.refused[index as usize] != self.scratch.round
    }

    /// The roles for which what they may have of `free` is worth an offer.
    fn takers_of(&self, free: &Resources) -> Takers {
        // What is reserved for nobody is there for this role alone, and for every other one too.
        if self.is_allocatable(free, DEFAULT_ROLE) {
            return Takers::Everyone;
        }
        let reserved: BTreeSet<_> = free.iter().filter_map(|item| item.reserved_for.as_deref()).collect();
        let worth = reserved.into_iter().filter(|role| self.is_allocatable(free, role));
        let mut roles: Vec<u32> = worth.filter_map(|role| self.role_indices.get(role).copied()).collect();
        roles.sort_unstable();
        Takers::Roles(roles)
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
