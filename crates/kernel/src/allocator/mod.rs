//! Who is offered what: dominant-resource fairness over roles, and over the frameworks within a role.
//!
//! It keeps the problem in dense tables (agents and clients have ordinals) together with its previous
//! solution, what each client holds; `solve` adds to that solution what has become possible since.
//! It knows no offers, tasks or connections: those are the master's.
mod refusals;
mod solve;
mod unsaid;

use crate::Time;
use bellows_model::{AgentId, FrameworkId, Resources, Value};
use refusals::Refusal;
pub use solve::Grant;
pub(crate) use solve::MAX_LOOKS;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// An agent's ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentIndex(u32);

/// The ordinal of a client: one framework in one of its roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientIndex(u32);

/// These always count as dominant.
const KINDS: [&str; 4] = ["cpus", "mem", "disk", "gpus"];

/// Scalars beyond so many names do not count as dominant; a guard against agents that make up names.
const MAX_KINDS: usize = 16;

/// Weights are in thousandths.
const DEFAULT_WEIGHT: u32 = 1_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Less than both is not worth an offer; milli-CPUs and milli-MB.
    pub min_cpus: i64,
    pub min_mem: i64,
    /// In thousandths; roles that are not named weigh 1,000.
    pub role_weights: BTreeMap<String, u32>,
}

#[derive(Debug)]
pub struct Allocator {
    settings: Settings,
    /// Names of the scalars that shares are reckoned in, in the order of the columns of all quantities.
    kinds: Vec<Arc<str>>,
    /// What all agents have, by kind.
    totals: Vec<i64>,
    agents: Vec<Agent>,
    vacant_agents: Vec<u32>,
    clients: Vec<Client>,
    vacant_clients: Vec<u32>,
    roles: Vec<Role>,
    /// The ordinals of roles that have clients.
    role_indices: BTreeMap<Arc<str>, u32>,
    vacant_roles: Vec<u32>,
    /// When the first refusal on an agent ends; one entry an agent.
    expiries: BTreeSet<(Time, u32)>,
    /// Clients whose `idle_since` is set.
    idle_clients: usize,
    dirty: Dirty,
    scratch: solve::Scratch,
}

/// Agents, clients and shares that changed since they were last looked at. Every other pair of agent and client was found unwilling.
#[derive(Debug, Default)]
struct Dirty {
    agents: VecDeque<u32>,
    clients: Vec<u32>,
    sweep: Option<Sweep>,
    /// Number of shares, from `next_share` on and around, that are still of an earlier whole.
    shares: usize,
    next_share: usize,
}

/// Clients that changed are on their way past all agents.
#[derive(Debug)]
struct Sweep {
    clients: Vec<u32>,
    next_agent: u32,
}

#[derive(Debug)]
struct Agent {
    label: AgentId,
    active: bool,
    dirty: bool,
    has_gpus: bool,
    shuffle_service_down: bool,
    paused: bool,
    total: Resources,
    free: Resources,
    refusals: Vec<Refusal>,
    /// Its entry in `expiries`.
    expiry: Option<Time>,
}

#[derive(Debug)]
struct Client {
    framework: FrameworkId,
    role: u32,
    /// Connected and not suppressed.
    wants: bool,
    dirty: bool,
    /// Whether it is in `Dirty::sweep`.
    sweeping: bool,
    traits: ClientTraits,
    allocated: Vec<i64>,
    share: u64,
    /// Grants so far: among equal shares the one that was served less often comes first.
    served: u64,
    /// Refusals of an earlier epoch are void.
    epoch: u32,
    /// Since when it has been declining without a filter, and done nothing else.
    idle_since: Option<Time>,
    /// Agents that may have refusals of it without a filter.
    unsaid_on: BTreeSet<u32>,
}

/// What decides which agents suit a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientTraits {
    /// As Mesos with its default `--filter_gpu_resources`: who is not aware of GPUs is offered nothing of agents that
    /// have some, lest it fills them with tasks that need none.
    pub gpu_aware: bool,
    pub uses_shuffle_service: bool,
}

impl Agent {
    fn suits(&self, client: &Client) -> bool {
        let lacks_service = client.traits.uses_shuffle_service && self.shuffle_service_down;
        let is_for_gpus = self.has_gpus && !client.traits.gpu_aware;
        !(self.paused || lacks_service || is_for_gpus)
    }
}

#[derive(Debug)]
struct Role {
    name: Arc<str>,
    weight: u32,
    allocated: Vec<i64>,
    share: u64,
    served: u64,
    clients: Vec<u32>,
}

impl Allocator {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            kinds: KINDS.map(Arc::from).into(),
            totals: vec![0; KINDS.len()],
            agents: Vec::new(),
            vacant_agents: Vec::new(),
            clients: Vec::new(),
            vacant_clients: Vec::new(),
            roles: Vec::new(),
            role_indices: BTreeMap::new(),
            vacant_roles: Vec::new(),
            expiries: BTreeSet::new(),
            idle_clients: 0,
            dirty: Dirty::default(),
            scratch: solve::Scratch::default(),
        }
    }

    /// All of `total` is free at first.
    pub fn add_agent(&mut self, label: AgentId, total: Resources) -> AgentIndex {
        self.learn_kinds(&total);
        self.count_total(&total, 1);
        let agent = Agent {
            label,
            active: true,
            dirty: false,
            has_gpus: has_gpus(&total),
            shuffle_service_down: false,
            paused: false,
            free: total.clone(),
            total,
            refusals: Vec::new(),
            expiry: None,
        };
        let index = place(&mut self.agents, &mut self.vacant_agents, agent);
        self.touch_agent(index);
        AgentIndex(index)
    }

    /// Everything of it must have been released before.
    pub fn remove_agent(&mut self, index: AgentIndex) {
        let agent = &mut self.agents[index.0 as usize];
        debug_assert_eq!(agent.free, agent.total, "invariant: nothing is held on a removed agent");
        agent.active = false;
        agent.refusals = Vec::new();
        if let Some(expiry) = agent.expiry.take() {
            self.expiries.remove(&(expiry, index.0));
        }
        let total = std::mem::take(&mut agent.total);
        agent.free = Resources::new();
        self.count_total(&total, -1);
        self.vacant_agents.push(index.0);
    }

    /// What is held on the agent stays held.
    ///
    /// Panics if it is not within `total`.
    pub fn resize_agent(&mut self, index: AgentIndex, total: Resources) {
        self.learn_kinds(&total);
        self.count_total(&total, 1);
        let agent = &mut self.agents[index.0 as usize];
        agent.has_gpus = has_gpus(&total);
        let old = std::mem::replace(&mut agent.total, total);
        let held = old.checked_sub(&agent.free).expect("invariant: what is free is a part of all");
        agent.free = agent.total.checked_sub(&held).expect("invariant: what is held fits the new size");
        self.count_total(&old, -1);
        self.touch_agent(index.0);
    }

    /// Only what active agents have is granted.
    pub fn set_active(&mut self, index: AgentIndex, active: bool) {
        self.agents[index.0 as usize].active = active;
        if active {
            self.touch_agent(index.0);
        }
    }

    pub fn free(&self, index: AgentIndex) -> &Resources {
        &self.agents[index.0 as usize].free
    }

    /// It wants nothing until [`Self::set_wants`] says so.
    pub fn add_client(&mut self, framework: FrameworkId, role: &str) -> ClientIndex {
        let role = self.role(role);
        // Who had the ordinal before may still be listed among those that changed.
        let before = self.vacant_clients.last().map(|&index| &self.clients[index as usize]);
        let (epoch, dirty, sweeping) =
            before.map_or((0, false, false), |before| (before.epoch, before.dirty, before.sweeping));
        let client = Client {
            framework,
            role,
            wants: false,
            dirty,
            sweeping,
            traits: ClientTraits::default(),
            allocated: vec![0; self.kinds.len()],
            share: 0,
            served: 0,
            epoch,
            idle_since: None,
            unsaid_on: BTreeSet::new(),
        };
        let index = place(&mut self.clients, &mut self.vacant_clients, client);
        self.roles[role as usize].clients.push(index);
        ClientIndex(index)
    }

    /// Everything that it held must have been released before.
    pub fn remove_client(&mut self, index: ClientIndex) {
        self.end_idleness(index.0);
        let client = &mut self.clients[index.0 as usize];
        debug_assert!(
            client.allocated.iter().all(|&held| held == 0),
            "invariant: a removed client holds nothing"
        );
        client.wants = false;
        client.epoch = client.epoch.wrapping_add(1);
        client.unsaid_on = BTreeSet::new();
        let (number, role) = (client.role, &mut self.roles[client.role as usize]);
        role.clients.retain(|&other| other != index.0);
        if role.clients.is_empty() {
            self.role_indices.remove(&role.name);
            self.vacant_roles.push(number);
        }
        self.vacant_clients.push(index.0);
    }

    pub fn client_count(&self) -> usize {
        self.clients.len() - self.vacant_clients.len()
    }

    /// Whether it holds nothing.
    pub fn is_idle(&self, index: ClientIndex) -> bool {
        self.clients[index.0 as usize].allocated.iter().all(|&held| held == 0)
    }

    pub fn set_wants(&mut self, index: ClientIndex, wants: bool) {
        if !wants {
            self.end_idleness(index.0);
        }
        if std::mem::replace(&mut self.clients[index.0 as usize].wants, wants) != wants && wants {
            self.touch_client(index.0);
        }
    }

    pub fn set_traits(&mut self, index: ClientIndex, traits: ClientTraits) {
        if std::mem::replace(&mut self.clients[index.0 as usize].traits, traits) != traits {
            self.touch_client(index.0);
        }
    }

    /// Clients that use the service are granted nothing of the agent meanwhile.
    pub fn set_shuffle_service_down(&mut self, index: AgentIndex, down: bool) {
        if std::mem::replace(&mut self.agents[index.0 as usize].shuffle_service_down, down) != down && !down {
            self.touch_agent(index.0);
        }
    }

    /// Nobody is granted anything of the agent meanwhile.
    pub fn set_paused(&mut self, index: AgentIndex, paused: bool) {
        if std::mem::replace(&mut self.agents[index.0 as usize].paused, paused) != paused && !paused {
            self.touch_agent(index.0);
        }
    }

    /// Counts `resources` of the agent to the client.
    ///
    /// Panics unless they are free.
    pub fn charge(&mut self, agent: AgentIndex, client: ClientIndex, resources: &Resources) {
        let free = &mut self.agents[agent.0 as usize].free;
        assert!(free.take(resources), "invariant: only what is free is charged");
        self.count_held(client.0, resources, 1);
    }

    /// Frees what was charged or granted.
    pub fn release(&mut self, agent: AgentIndex, client: ClientIndex, resources: &Resources) {
        let slot = &mut self.agents[agent.0 as usize];
        slot.free.add(resources);
        debug_assert!(slot.total.contains(&slot.free), "invariant: what is released was charged");
        self.count_held(client.0, resources, -1);
        self.touch_agent(agent.0);
    }

    fn count_held(&mut self, client: u32, resources: &Resources, sign: i64) {
        let client = &mut self.clients[client as usize];
        let role = &mut self.roles[client.role as usize];
        for_each_scalar(&self.kinds, resources, |kind, amount| {
            client.allocated[kind] += sign * amount;
            role.allocated[kind] += sign * amount;
        });
        client.share = solve::dominant_share(&client.allocated, &self.totals, DEFAULT_WEIGHT);
        role.share = solve::dominant_share(&role.allocated, &self.totals, role.weight);
    }

    fn count_total(&mut self, total: &Resources, sign: i64) {
        for_each_scalar(&self.kinds, total, |kind, amount| self.totals[kind] += sign * amount);
        self.dirty.shares = usize::MAX;
    }

    fn learn_kinds(&mut self, resources: &Resources) {
        for item in resources.iter() {
            let scalar = matches!(item.value, Value::Scalar(_));
            if scalar && self.kinds.len() < MAX_KINDS && !self.kinds.contains(&item.name) {
                self.kinds.push(Arc::clone(&item.name));
                self.totals.push(0);
                self.clients.iter_mut().for_each(|client| client.allocated.push(0));
                self.roles.iter_mut().for_each(|role| role.allocated.push(0));
            }
        }
    }

    fn role(&mut self, name: &str) -> u32 {
        if let Some(&known) = self.role_indices.get(name) {
            return known;
        }
        let role = Role {
            name: name.into(),
            weight: self.settings.role_weights.get(name).map_or(DEFAULT_WEIGHT, |&weight| weight.max(1)),
            allocated: vec![0; self.kinds.len()],
            share: 0,
            served: 0,
            clients: Vec::new(),
        };
        let name = Arc::clone(&role.name);
        let index = place(&mut self.roles, &mut self.vacant_roles, role);
        self.role_indices.insert(name, index);
        index
    }

    fn touch_agent(&mut self, index: u32) {
        if !std::mem::replace(&mut self.agents[index as usize].dirty, true) {
            self.dirty.agents.push_back(index);
        }
    }

    fn touch_client(&mut self, index: u32) {
        if !std::mem::replace(&mut self.clients[index as usize].dirty, true) {
            self.dirty.clients.push(index);
        }
    }
}

fn has_gpus(total: &Resources) -> bool {
    total.scalar("gpus").0 > 0
}

fn place<T>(slots: &mut Vec<T>, vacant: &mut Vec<u32>, value: T) -> u32 {
    match vacant.pop() {
        Some(index) => {
            slots[index as usize] = value;
            index
        }
        None => {
            slots.push(value);
            slots.len() as u32 - 1
        }
    }
}

fn for_each_scalar(kinds: &[Arc<str>], resources: &Resources, mut count: impl FnMut(usize, i64)) {
    for item in resources.iter() {
        if let Value::Scalar(amount) = &item.value
            && let Some(kind) = kinds.iter().position(|kind| *kind == item.name)
        {
            count(kind, amount.0);
        }
    }
}

impl Allocator {
    /// Whether the client is to be granted anything.
    pub(crate) fn wants(&self, index: ClientIndex) -> bool {
        self.clients[index.0 as usize].wants
    }
}

#[cfg(test)]
impl Allocator {
    /// An agent with something free, and a framework that should have been granted it.
    pub(crate) fn overlooked(&self, now: Time) -> Option<(AgentId, FrameworkId)> {
        if self.has_work() {
            return None;
        }
        (0..self.agents.len() as u32).find_map(|index| {
            let agent = &self.agents[index as usize];
            let taker = self.takers(index, &agent.free, now).next().filter(|_| agent.active)?;
            Some((agent.label.clone(), taker.clone()))
        })
    }
}

#[cfg(test)]
mod tests;
