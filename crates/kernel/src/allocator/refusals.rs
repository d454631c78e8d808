//! Filters: what a client does not want to be offered again for a while.
use super::{AgentIndex, Allocator, ClientIndex};
use crate::Time;
use bellows_model::{FrameworkId, Resources};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// So many refusals of one client are kept for one agent, and as many again that are `unsaid`; the one that ends
/// first gives way.
pub(super) const MAX_REFUSALS: usize = 4;

/// On one agent, what is within `resources` is not offered to `client` before `until`.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) client: u32,
    pub(super) epoch: u32,
    pub(super) until: Time,
    /// The client did not say for how long; once it reconsiders, the refusal ends here.
    pub(super) unsaid: Option<Time>,
    /// Shared by clients that refused the same.
    pub(super) resources: Arc<Resources>,
}

impl Allocator {
    /// The client does not want `resources` of the agent, nor a part of them, before `until`.
    pub fn refuse(&mut self, agent: AgentIndex, client: ClientIndex, resources: &Resources, until: Time) {
        self.add_refusal(agent, client, resources, (until, None));
    }

    /// With the values for `until` and `unsaid`.
    pub(super) fn add_refusal(
        &mut self,
        agent: AgentIndex,
        client: ClientIndex,
        resources: &Resources,
        (until, unsaid): (Time, Option<Time>),
    ) {
        let slot = &mut self.agents[agent.0 as usize];
        let epoch = self.clients[client.0 as usize].epoch;
        let clients = &self.clients;
        slot.refusals.retain(|old| {
            let valid = clients[old.client as usize].epoch == old.epoch;
            // One that may end sooner covers none that does not.
            let outlasts = old.until <= until && (unsaid.is_none() || old.unsaid.is_some());
            let covered = old.client == client.0 && outlasts && resources.contains(&old.resources);
            valid && !covered
        });
        let mine =
            |refusal: &Refusal| refusal.client == client.0 && refusal.unsaid.is_some() == unsaid.is_some();
        let ends = slot.refusals.iter().filter(|old| mine(old)).map(|old| old.until);
        if ends.clone().count() >= MAX_REFUSALS
            && let Some(first) = ends.min()
        {
            slot.refusals.retain(|old| !mine(old) || old.until != first);
        }
        let resources = match slot.refusals.last() {
            Some(last) if *last.resources == *resources => Arc::clone(&last.resources),
            _ => Arc::new(resources.clone()),
        };
        slot.refusals.push(Refusal { client: client.0, epoch, until, unsaid, resources });
        self.schedule_expiry(agent.0);
    }

    /// Voids all refusals of the client.
    pub fn revive(&mut self, client: ClientIndex) {
        let slot = &mut self.clients[client.0 as usize];
        slot.epoch = slot.epoch.wrapping_add(1);
        slot.unsaid_on.clear();
        self.end_idleness(client.0);
        self.touch_client(client.0);
    }

    /// Adds the agent's refusals that are in force to `by_role`. Returns how many there are to look at.
    pub fn count_refusals(&self, agent: AgentIndex, by_role: &mut BTreeMap<Arc<str>, u64>) -> usize {
        let refusals = &self.agents[agent.0 as usize].refusals;
        for refusal in refusals {
            let client = &self.clients[refusal.client as usize];
            if client.epoch == refusal.epoch {
                let role = &self.roles[client.role as usize].name;
                match by_role.get_mut(role) {
                    Some(count) => *count += 1,
                    None => drop(by_role.insert(Arc::clone(role), 1)),
                }
            }
        }
        refusals.len()
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_expiry(&self) -> Option<Time> {
        self.expiries.first().map(|&(when, _)| when)
    }

    /// Drops refusals that ended; what would take too long at once is left to the next call.
    pub fn expire(&mut self, now: Time) {
        let mut looks = super::solve::MAX_LOOKS;
        while let Some(&(when, index)) = self.expiries.first()
            && when <= now
            && looks > 0
        {
            let refusals = &mut self.agents[index as usize].refusals;
            looks = looks.saturating_sub(1 + refusals.len());
            refusals.retain(|refusal| refusal.until > now);
            self.schedule_expiry(index);
            self.touch_agent(index);
        }
    }

    /// Cost of [`Self::is_wanted`], in clients and refusals looked at.
    pub fn cost_of_asking(&self, agent: AgentIndex) -> usize {
        self.clients.len() + self.agents[agent.0 as usize].refusals.len()
    }

    /// Whether a client of another framework than `but` would be offered `resources` if they were free now.
    pub fn is_wanted(&self, agent: AgentIndex, resources: &Resources, but: ClientIndex, now: Time) -> bool {
        let holder = &self.clients[but.0 as usize].framework;
        self.takers(agent.0, resources, now).any(|framework| framework != holder)
    }

    /// The frameworks that would be offered `resources` of the agent if they were free now.
    pub(super) fn takers<'a>(
        &'a self,
        agent: u32,
        resources: &'a Resources,
        now: Time,
    ) -> impl Iterator<Item = &'a FrameworkId> {
        let agent = &self.agents[agent as usize];
        let refuses = |refusal: &&Refusal| {
            let client = &self.clients[refusal.client as usize];
            refusal.epoch == client.epoch
                && refusal.until > now
                && refusal.resources.contains_available(resources, &self.roles[client.role as usize].name)
        };
        let refusals = agent.refusals.iter().filter(refuses);
        let refusing: BTreeSet<u32> = refusals.map(|refusal| refusal.client).collect();
        let roles = self.roles.iter().filter(|role| self.is_allocatable(resources, &role.name));
        roles.flat_map(|role| &role.clients).filter_map(move |index| {
            let client = &self.clients[*index as usize];
            let eligible = client.wants && agent.suits(client) && !refusing.contains(index);
            eligible.then_some(&client.framework)
        })
    }

    pub(super) fn schedule_expiry(&mut self, index: u32) {
        let slot = &mut self.agents[index as usize];
        let next = slot.refusals.iter().map(|refusal| refusal.until).min();
        if slot.expiry == next {
            return;
        }
        if let Some(old) = std::mem::replace(&mut slot.expiry, next) {
            self.expiries.remove(&(old, index));
        }
        if let Some(next) = next {
            self.expiries.insert((next, index));
        }
    }
}
