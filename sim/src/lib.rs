//! A whole cluster in one thread: the real kernels of master and agents, simulated machines, schedulers, network,
//! disks and clock, and everything that can go wrong, in an order that a seed decides.
//!
//! No thread, no real time, no I/O: the same seed gives the same run, always.
#![forbid(unsafe_code)]

mod machine;
mod random;
mod scheduler;
mod world;

use bellows_model::TaskState;
use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Clone)]
pub struct Settings {
    pub agents: usize,
    pub frameworks: usize,
    /// How long things go wrong. After that everything is mended, and everything must come to its end.
    pub unrest: Duration,
    /// Connections drop; masters, agents, machines and schedulers crash.
    pub faults: bool,
    /// Agents and frameworks say what is not true.
    pub lies: bool,
    /// The master's invariants are checked after so many steps; 1 but for large clusters.
    pub check_every: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            agents: 4,
            frameworks: 3,
            unrest: Duration::from_secs(400),
            faults: true,
            lies: false,
            check_every: 1,
        }
    }
}

/// What a run came to; for the eye, and to see that things did happen.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Report {
    pub events: u64,
    pub offers: u64,
    pub launched: u64,
    /// First terminal updates that schedulers got, by state.
    pub ended: BTreeMap<TaskState, u64>,
    pub frameworks: u64,
    pub master_crashes: u64,
    pub agent_crashes: u64,
    pub reboots: u64,
    pub dropped_connections: u64,
    pub lies: u64,
}

/// Runs one cluster.
///
/// Panics when something that must hold does not.
pub fn run(seed: u64, settings: &Settings) -> Report {
    world::World::new(seed, settings.clone()).run()
}
