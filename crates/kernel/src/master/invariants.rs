//! What holds between any two steps. Checked by tests and simulations; too slow for production.
use super::{State, load::Load, state::Timer, work::Work};
use bellows_model::{AgentId, FrameworkId, Resources};
use std::collections::{BTreeMap, BTreeSet};

/// Says what is wrong with the state, if anything.
pub fn invariants(state: &State) -> Result<(), String> {
    let sums = Sums::of(state)?;
    agents(state, &sums)?;
    frameworks(state, &sums)?;
    offers(state)?;
    connections(state)?;
    bounds(state)
}

/// `used` and `offered`, reckoned anew.
#[derive(Default)]
struct Sums {
    agents: BTreeMap<AgentId, [Resources; 2]>,
    frameworks: BTreeMap<FrameworkId, [Resources; 2]>,
}

impl Sums {
    fn of(state: &State) -> Result<Self, String> {
        let mut sums = Self::default();
        for framework in state.frameworks.values() {
            for task in framework.tasks.values().filter(|task| task.holds_resources()) {
                sums.add(0, &task.framework_id, &task.info.agent_id, &task.info.resources);
            }
        }
        for (agent_id, agent) in &state.agents {
            for ((framework_id, _), executor) in &agent.executors {
                ensure(state.frameworks.contains_key(framework_id), || {
                    format!("{agent_id:?} has an executor of the unknown {framework_id:?}")
                })?;
                sums.add(0, framework_id, agent_id, &executor.info.resources);
            }
        }
        for offer in state.offers.values() {
            ensure(state.frameworks.contains_key(&offer.framework_id), || {
                format!("no framework for {offer:?}")
            })?;
            ensure(state.agents.get(&offer.agent_id).is_some_and(|agent| agent.link.is_some()), || {
                format!("no connected agent for {offer:?}")
            })?;
            sums.add(1, &offer.framework_id, &offer.agent_id, &offer.resources);
        }
        Ok(sums)
    }

    fn add(&mut self, account: usize, framework: &FrameworkId, agent: &AgentId, sum: &Resources) {
        self.frameworks.entry(framework.clone()).or_default()[account].add(&sum.scalars());
        self.agents.entry(agent.clone()).or_default()[account].add(sum);
    }
}

fn agents(state: &State, sums: &Sums) -> Result<(), String> {
    for (id, agent) in &state.agents {
        let [used, offered] = sums.agents.get(id).cloned().unwrap_or_default();
        ensure(agent.used == used, || format!("{id:?} has {:?} in use, its tasks {used:?}", agent.used))?;
        ensure(agent.offered == offered, || {
            format!("{id:?} offers {:?}, in sum {offered:?}", agent.offered)
        })?;
        let mut held = used;
        held.add(&offered);
        ensure(agent.info.resources.contains(&held), || {
            format!("{id:?} has {:?}, of which {held:?} are held", agent.info.resources)
        })?;
        match agent.index {
            Some(index) => {
                let free = agent.info.resources.checked_sub(&held).unwrap_or_default();
                ensure(*state.allocator.free(index) == free, || {
                    format!("{id:?} has {free:?} free, for the allocator {:?}", state.allocator.free(index))
                })?;
            }
            None => ensure(held.is_empty(), || format!("{id:?} is out of reach and {held:?} are held"))?,
        }
        ensure(agent.index.is_none() == (agent.unreachable.is_some() || agent.recovered), || {
            format!("{id:?} is known to the allocator just if it is within reach")
        })?;
        for (framework_id, task_id) in &agent.tasks {
            let task = state.frameworks.get(framework_id).and_then(|framework| framework.tasks.get(task_id));
            ensure(task.is_some_and(|task| task.info.agent_id == *id), || {
                format!("{id:?} lists {task_id:?}, which is not there")
            })?;
        }
        let load = Load::sum(
            agent.tasks.iter().map(|(framework, task)| &*state.frameworks[framework].tasks[task].info),
        );
        ensure(agent.load == load, || format!("{id:?} has {load:?} to report, not {:?}", agent.load))?;
        for offer in &agent.offers {
            let of = state.offers.get(offer).map(|offer| &offer.agent_id);
            ensure(of == Some(id), || format!("{id:?} lists {offer:?}, which is not there"))?;
        }
        for key in agent.killed.keys() {
            ensure(agent.tasks.contains(key), || format!("{id:?} is to kill {key:?}, which is not there"))?;
        }
    }
    let listed: usize = state.agents.values().map(|agent| agent.offers.len()).sum();
    ensure(listed == state.offers.len(), || format!("agents list {listed} offers of {}", state.offers.len()))
}

fn frameworks(state: &State, sums: &Sums) -> Result<(), String> {
    for (id, framework) in &state.frameworks {
        let [used, offered] = sums.frameworks.get(id).cloned().unwrap_or_default();
        ensure(framework.used == used, || format!("{id:?} uses {used:?}, not {:?}", framework.used))?;
        ensure(framework.offered == offered, || {
            format!("{id:?} is offered {offered:?}, not {:?}", framework.offered)
        })?;
        ensure(framework.info.id.as_ref() == Some(id) && !state.is_completed(id), || {
            format!("{id:?} is not who it is, or completed")
        })?;
        ensure(framework.stream.is_some() || framework.offers.is_empty(), || {
            format!("{id:?} is not connected and has offers")
        })?;
        let ending = state
            .backlog
            .iter()
            .filter(|work| matches!(work, Work::EndFramework { framework_id, .. } if framework_id == id));
        ensure(usize::from(framework.ending) == ending.count(), || {
            format!("{id:?} is ending, and nobody ends it; or the other way round")
        })?;
        let held = [framework.stream.is_some(), framework.deadline.is_some(), framework.ending];
        ensure(held.iter().filter(|&&held| held).count() == 1, || {
            format!("{id:?} is connected, or its time runs, or it is ending")
        })?;
        for (role, client) in &framework.clients {
            ensure(framework.stream.is_some() || !state.allocator.wants(*client), || {
                format!("{id:?} is not connected and wants offers for {role}")
            })?;
            ensure(framework.stream.is_some() || !state.allocator.is_idle(*client), || {
                format!("{id:?} is not connected and has a place in {role}, where it holds nothing")
            })?;
        }
        for (task_id, task) in &framework.tasks {
            let agent = state.agents.get(&task.info.agent_id);
            ensure(agent.is_some_and(|agent| agent.tasks.contains(&(id.clone(), task_id.clone()))), || {
                format!("{task_id:?} of {id:?} is on no agent")
            })?;
        }
        let alive = framework.completed_tasks.iter().find(|task| !task.state.is_terminal());
        ensure(alive.is_none(), || format!("{id:?} has completed {alive:?}"))?;
    }
    for framework in &state.completed_frameworks {
        ensure(
            framework.tasks.is_empty() && framework.used.is_empty() && framework.offered.is_empty(),
            || format!("{:?} has ended and still holds something", framework.info.id),
        )?;
    }
    Ok(())
}

fn connections(state: &State) -> Result<(), String> {
    let streams = state.frameworks.values().filter(|framework| framework.stream.is_some()).count();
    let links = state.agents.values().filter(|agent| agent.link.is_some()).count();
    ensure(streams == state.streams.len() && links == state.links.len(), || {
        format!("{streams} streams for {:?}, {links} links for {:?}", state.streams, state.links)
    })?;
    let waiting =
        state.agents.iter().filter_map(|(id, agent)| Some((agent.newcomer?, (id, agent.link.is_some()))));
    let waiting: BTreeMap<_, _> = waiting.collect();
    let newcomers = state.newcomers.iter().map(|(link, newcomer)| (*link, (&newcomer.agent_id, true)));
    ensure(waiting == newcomers.collect(), || {
        "a connection waits for an agent that does not know, or that has none".into()
    })?;
    let agents =
        state.agents.iter().filter_map(|(id, agent)| Some((agent.deadline?, Timer::Agent(id.clone()))));
    let frameworks = state
        .frameworks
        .iter()
        .filter_map(|(id, framework)| Some((framework.deadline?, Timer::Framework(id.clone()))));
    let newcomers =
        state.newcomers.iter().map(|(link, newcomer)| (newcomer.deadline, Timer::Newcomer(*link)));
    let timers = agents.chain(frameworks).chain(newcomers).collect();
    ensure(state.timers == timers, || format!("deadlines are {timers:?}, timers {:?}", state.timers))
}

/// No offer is forgotten: its framework knows it, or it is about to end. None is of an agent that is paused.
fn offers(state: &State) -> Result<(), String> {
    for (id, agent) in &state.agents {
        let offers = &agent.offers;
        ensure(!agent.condition.paused || offers.is_empty(), || {
            format!("{id:?} is paused, and offers {offers:?}")
        })?;
    }
    let known = state.frameworks.values().flat_map(|framework| &framework.offers);
    let ending = state.backlog.iter().flat_map(|work| match work {
        Work::EndOffers { offers, .. } => offers.iter().collect(),
        _ => Vec::new(),
    });
    let ending = ending.filter(|id| state.offers.contains_key(*id));
    let all: Vec<_> = known.chain(ending).collect();
    let distinct: BTreeSet<_> = all.iter().copied().collect();
    ensure(distinct.len() == all.len() && distinct.into_iter().eq(state.offers.keys()), || {
        format!("{all:?} are known or ending, of {:?}", state.offers.keys())
    })
}

fn bounds(state: &State) -> Result<(), String> {
    let config = &state.config;
    let unreachable = state.agents.iter().filter_map(|(id, agent)| Some((agent.unreachable?, id.clone())));
    let unreachable: BTreeSet<_> = unreachable.collect();
    ensure(state.unreachable == unreachable, || {
        format!("unreachable are {unreachable:?}, listed {:?}", state.unreachable)
    })?;
    let recovered = state.agents.values().filter(|agent| agent.recovered).count();
    let ending = state.frameworks.values().filter(|framework| framework.ending).count();
    ensure(state.recovered_agents == recovered && state.ending == ending, || {
        format!("{recovered} agents are recovered and {ending} frameworks ending, not as counted")
    })?;
    ensure(state.frameworks.len() - ending <= config.max_frameworks, || "too many frameworks".into())?;
    ensure(state.agents.len() <= config.max_agents, || "too many agents".into())?;
    ensure(unreachable.len() <= config.max_unreachable_agents, || "too many unreachable agents".into())?;
    ensure(state.newcomers.len() <= config.max_newcomers, || "too many newcomers".into())?;
    ensure(state.completed_frameworks.len() <= config.max_completed_frameworks, || {
        "too many completed frameworks".into()
    })?;
    ensure(state.held_offers.len() <= 2 * state.offers.len() + 64, || "too many offers' deadlines".into())?;
    let frameworks = state.frameworks.values().chain(&state.completed_frameworks);
    for framework in frameworks {
        ensure(framework.completed_tasks.len() <= config.max_completed_tasks_per_framework, || {
            format!("{:?} has too many completed tasks", framework.info.id)
        })?;
        let mut ids = BTreeMap::new();
        framework
            .completed_tasks
            .iter()
            .for_each(|task| *ids.entry(task.info.task_id.clone()).or_default() += 1);
        ensure(framework.completed_ids == ids, || {
            format!("{:?} does not know what completed", framework.info.id)
        })?;
        let statuses = framework.tasks.values().map(|task| task.statuses.len()).max().unwrap_or(0);
        ensure(statuses <= 16, || format!("{:?} has a task with too many statuses", framework.info.id))?;
    }
    Ok(())
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
