//! Shares, weights, filters; and the cost of it all.
use super::*;
use proptest::prelude::*;
use std::time::Duration;

const NOW: Time = Time(1_000_000_000);

fn resources(text: &str) -> Resources {
    Resources::parse(text).expect("test text")
}

fn allocator() -> Allocator {
    let role_weights = [("heavy".to_owned(), 3_000)].into();
    Allocator::new(Settings { min_cpus: 10, min_mem: 32_000, role_weights })
}

fn client(allocator: &mut Allocator, name: &str, role: &str) -> ClientIndex {
    let client = allocator.add_client(name.into(), role);
    allocator.set_traits(client, ClientTraits { gpu_aware: true, ..ClientTraits::default() });
    allocator.set_wants(client, true);
    client
}

fn add_agents(allocator: &mut Allocator, count: usize, text: &str) -> Vec<AgentIndex> {
    let next = allocator.agents.len();
    (next..next + count)
        .map(|n| allocator.add_agent(format!("a{n}").as_str().into(), resources(text)))
        .collect()
}

/// How many agents each framework was granted.
fn counts(grants: &[Grant]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for grant in grants {
        *counts.entry(grant.framework.as_str()).or_default() += 1;
    }
    counts
}

#[test]
fn equal_clients_get_equal_parts() {
    let mut allocator = allocator();
    for name in ["x", "y", "z"] {
        client(&mut allocator, name, "*");
    }
    add_agents(&mut allocator, 12, "cpus:4;mem:4096");
    assert_eq!(counts(&allocator.solve(NOW)), [("x", 4), ("y", 4), ("z", 4)].into());
    assert!(allocator.solve(NOW).is_empty(), "nothing has changed");
}

#[test]
fn roles_come_first_then_frameworks() {
    let mut allocator = allocator();
    for (name, role) in [("a1", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b")] {
        client(&mut allocator, name, role);
    }
    add_agents(&mut allocator, 12, "cpus:4;mem:4096");
    assert_eq!(counts(&allocator.solve(NOW)), [("a1", 6), ("b1", 2), ("b2", 2), ("b3", 2)].into());
}

#[test]
fn weights_scale_a_role_s_part() {
    let mut allocator = allocator();
    client(&mut allocator, "h", "heavy");
    client(&mut allocator, "l", "light");
    add_agents(&mut allocator, 12, "cpus:4;mem:4096");
    assert_eq!(counts(&allocator.solve(NOW)), [("h", 9), ("l", 3)].into());
}

/// NSDI'11, section 4.1: 9 CPUs and 18 GB; tasks of <1 CPU, 4 GB> and <3 CPUs, 1 GB> give 3 and 2 tasks.
#[test]
fn the_dominant_resource_decides() {
    let mut allocator = allocator();
    let a = client(&mut allocator, "a", "*");
    let b = client(&mut allocator, "b", "*");
    let agents = add_agents(&mut allocator, 1, "cpus:9;mem:18");
    allocator.settings.min_cpus = 1;
    let mut tasks = [0, 0];
    while let Some(grant) = allocator.solve(NOW).pop() {
        let (client, which, task) =
            if grant.framework.as_str() == "a" { (a, 0, "cpus:1;mem:4") } else { (b, 1, "cpus:3;mem:1") };
        match grant.resources.checked_sub(&resources(task)) {
            Some(rest) => {
                tasks[which] += 1;
                allocator.release(agents[0], client, &rest);
            }
            None => {
                allocator.set_wants(client, false);
                allocator.release(agents[0], client, &grant.resources);
            }
        }
    }
    assert_eq!(tasks, [3, 2]);
}

#[test]
fn the_whole_grows_and_shrinks_with_the_agents() {
    let mut allocator = allocator();
    let a = client(&mut allocator, "a", "*");
    let agents = add_agents(&mut allocator, 1, "cpus:4;gpus:1");
    allocator.solve(NOW);
    let share = |allocator: &mut Allocator| {
        allocator.refresh_shares(&mut usize::MAX.clone());
        allocator.clients[a.0 as usize].share
    };
    assert_eq!(share(&mut allocator), 1 << 32);
    let more = add_agents(&mut allocator, 1, "cpus:4;gpus:3");
    assert_eq!(share(&mut allocator), 1 << 31, "half of the CPUs is more than a quarter of the GPUs");
    allocator.remove_agent(more[0]);
    assert_eq!(share(&mut allocator), 1 << 32);
    allocator.resize_agent(agents[0], resources("cpus:16;gpus:4"));
    assert_eq!(share(&mut allocator), 1 << 30);
    assert_eq!(*allocator.free(agents[0]), resources("cpus:12;gpus:3"));
}

#[test]
fn refusals_are_bounded_and_the_widest_are_kept() {
    let mut allocator = allocator();
    let a = client(&mut allocator, "a", "*");
    let agent = add_agents(&mut allocator, 1, "cpus:64;mem:1")[0];
    for n in 1..=20 {
        let until = NOW + Duration::from_secs(n);
        allocator.refuse(agent, a, &resources(&format!("cpus:{}", 30 - n)), until);
    }
    assert_eq!(allocator.agents[0].refusals.len(), refusals::MAX_REFUSALS);
    allocator.refuse(agent, a, &resources("cpus:64"), NOW + Duration::from_secs(60));
    assert_eq!(allocator.agents[0].refusals.len(), 1, "one that covers all others");
    assert_eq!(allocator.next_expiry(), Some(NOW + Duration::from_secs(60)));
}

#[test]
fn slots_are_used_again_without_a_past() {
    let mut allocator = allocator();
    let a = client(&mut allocator, "a", "old role");
    let agent = add_agents(&mut allocator, 1, "cpus:4")[0];
    allocator.refuse(agent, a, &resources("cpus:4"), Time(u64::MAX));
    assert!(allocator.solve(NOW).is_empty());
    allocator.remove_client(a);
    let b = client(&mut allocator, "b", "new role");
    assert_eq!((a, allocator.roles.len()), (b, 1));
    let grants = allocator.solve(NOW);
    assert_eq!(counts(&grants), [("b", 1)].into(), "the refusal of the one before does not count");
    allocator.release(agent, b, &grants[0].resources);
    allocator.remove_agent(agent);
    assert_eq!(add_agents(&mut allocator, 1, "cpus:1")[0], agent);
}

/// Many idle frameworks together are asked as often as with Mesos' 5 s, not as often as a few.
#[test]
fn a_crowd_of_idle_frameworks_is_asked_rarely() {
    let mut allocator = allocator();
    let clients: Vec<_> = (0..600).map(|n| client(&mut allocator, &format!("f{n}"), "*")).collect();
    let agents = add_agents(&mut allocator, 5, "cpus:4;mem:4096");
    let (mut now, end) = (NOW, NOW + Duration::from_secs(30));
    let mut asked = 0;
    while now < end {
        for grant in allocator.solve(now) {
            let number = |text: &str| text[1..].parse::<usize>().expect("a number");
            let (agent, client) =
                (agents[number(grant.agent.as_str())], clients[number(grant.framework.as_str())]);
            allocator.release(agent, client, &grant.resources);
            allocator.refuse_for_now(agent, client, &grant.resources, now);
            asked += 1;
        }
        if allocator.dirty.agents.is_empty() {
            now = allocator.next_expiry().expect("all is refused").max(now);
            allocator.expire(now);
        }
    }
    let pairs = clients.len() * agents.len();
    assert!((6 * pairs..9 * pairs).contains(&asked), "{asked} times, for 30 s and {pairs} pairs");
    clients.iter().for_each(|&client| allocator.set_wants(client, false));
    assert_eq!(allocator.idle_clients, 0);
}

proptest! {
    /// A filter that was set holds until it ends, whatever else is refused, and whatever makes the client reconsider.
    #[test]
    fn explicit_filters_hold(ops in proptest::collection::vec((0..4u8, 0..3usize, 1..5u32, 0..3_000u64), 1..60)) {
        let mut allocator = allocator();
        let clients = ["x", "y", "z"].map(|name| client(&mut allocator, name, "*"));
        let agent = add_agents(&mut allocator, 1, "cpus:4")[0];
        let (mut now, mut filters) = (NOW, Vec::new());
        for (op, index, cpus, millis) in ops {
            let (part, client) = (resources(&format!("cpus:{cpus}")), clients[index]);
            match op {
                0 => {
                    let until = now + Duration::from_millis(millis);
                    allocator.refuse(agent, client, &resources("cpus:4"), until);
                    filters.push((["x", "y", "z"][index], until));
                }
                1 => allocator.refuse_for_now(agent, client, &part, now),
                2 => allocator.reconsider(client, now),
                _ => now = now + Duration::from_millis(millis),
            }
            allocator.expire(now);
            for grant in allocator.solve(now) {
                let owner = grant.framework.as_str().to_owned();
                let filtered = |(of, until): &(&str, Time)| *of == owner && *until > now;
                prop_assert!(!filters.iter().any(filtered));
                let index = ["x", "y", "z"].iter().position(|name| *name == owner).expect("one of them");
                allocator.release(agent, clients[index], &grant.resources);
                allocator.refuse_for_now(agent, clients[index], &grant.resources, now);
            }
            let idle = allocator.clients.iter().filter(|client| client.idle_since.is_some()).count();
            prop_assert_eq!(allocator.idle_clients, idle);
        }
    }

    /// Whatever is refused by whom, nothing is granted twice and nothing that is wanted stays free.
    #[test]
    fn every_solution_is_complete(
        clients in proptest::collection::vec((0..3usize, any::<bool>()), 1..8),
        agents in proptest::collection::vec((0..5u32, 0..5u32), 1..12),
        refusals in proptest::collection::vec((0..12usize, 0..8usize, 0..20u64), 0..30),
    ) {
        let mut allocator = allocator();
        let clients: Vec<_> = clients.iter().enumerate().map(|(n, &(role, wants))| {
            let client = allocator.add_client(format!("f{n}").as_str().into(), ["*", "a", "heavy"][role]);
            allocator.set_wants(client, wants);
            client
        }).collect();
        let mut free = Vec::new();
        let agents: Vec<_> = agents.iter().enumerate().map(|(n, (cpus, reserved))| {
            let total = resources(&format!("cpus:{cpus};cpus(a):{reserved};mem:33"));
            free.push(total.clone());
            allocator.add_agent(format!("a{n}").as_str().into(), total)
        }).collect();
        for (agent, client, seconds) in refusals {
            let (agent, client) = (agents[agent % agents.len()], clients[client % clients.len()]);
            let all = allocator.free(agent).clone();
            allocator.refuse(agent, client, &all, NOW + Duration::from_secs(seconds));
        }
        for seconds in [0, 10, 20] {
            let now = NOW + Duration::from_secs(seconds);
            allocator.expire(now);
            for grant in allocator.solve(now) {
                let index: usize = grant.agent.as_str()[1..].parse().expect("a number");
                let left = free[index].checked_sub(&grant.resources);
                prop_assert!(left.is_some(), "granted twice");
                free[index] = left.unwrap_or_default();
                let foreign = |item: &bellows_model::Resource| {
                    item.reserved_for.as_deref().is_some_and(|role| role != &*grant.role)
                };
                prop_assert!(!grant.resources.iter().any(foreign));
            }
            prop_assert_eq!(allocator.overlooked(now), None);
        }
    }
}

/// The size of Mesos' commit 2ec34ca59, which took 15.3 s there. Run it in release:
/// `cargo test --release -p bellows-kernel measure -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure_3000_agents_and_1000_frameworks() {
    let mut allocator = allocator();
    let clients: Vec<_> =
        (0..1_000).map(|n| client(&mut allocator, &format!("f{n}"), &format!("r{}", n % 50))).collect();
    let agents = add_agents(&mut allocator, 3_000, "cpus:24;mem:4096;disk:4096;ports:[31000-32000]");
    let measure = |what: &str, allocator: &mut Allocator| {
        let started = std::time::Instant::now();
        let grants = allocator.solve(NOW);
        eprintln!("{what}: {:?}, {} grants", started.elapsed(), grants.len());
        grants
    };
    let index_of = |grant: &Grant| {
        let number = |text: &str| text[1..].parse::<usize>().expect("a number");
        (agents[number(grant.agent.as_str())], clients[number(grant.framework.as_str())])
    };
    let until = NOW + Duration::from_secs(120);
    let grants = measure("everything is free, everybody wants it", &mut allocator);
    for grant in &grants {
        let (agent, client) = index_of(grant);
        allocator.release(agent, client, &grant.resources);
        clients.iter().for_each(|&client| allocator.refuse(agent, client, &grant.resources, until));
    }
    measure("everything is free, everybody has refused everything", &mut allocator);
    allocator.revive(clients[500]);
    let grants = measure("one of them revives", &mut allocator);
    let (agent, client) = index_of(&grants[0]);
    allocator.release(agent, client, &grants[0].resources);
    measure("one agent comes free", &mut allocator);
}
