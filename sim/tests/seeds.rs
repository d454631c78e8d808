//! Clusters by seed. `SIM_SEED=7` runs one of them again; `SIM_COUNT=10000` makes a long run (in release);
//! `SIM_FIRST=1000` begins it elsewhere.
use bellows_model::TaskState;
use bellows_sim::{Report, Settings, run};
use std::time::Duration;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Says which seed it was when a run fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was SIM_SEED={}", self.0);
        }
    }
}

fn run_all(count: u64, settings: impl Fn(u64) -> Settings) -> Report {
    let seeds = match variable("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = variable("SIM_FIRST").unwrap_or(0);
            first..first + variable("SIM_COUNT").unwrap_or(count)
        }
    };
    let mut sum = Report::default();
    for seed in seeds {
        let guard = Seed(seed);
        let report = run(seed, &settings(seed));
        drop(guard);
        sum.events += report.events;
        sum.offers += report.offers;
        sum.launched += report.launched;
        sum.frameworks += report.frameworks;
        sum.master_crashes += report.master_crashes;
        sum.agent_crashes += report.agent_crashes;
        sum.reboots += report.reboots;
        sum.dropped_connections += report.dropped_connections;
        sum.lies += report.lies;
        for (state, count) in report.ended {
            *sum.ended.entry(state).or_default() += count;
        }
    }
    eprintln!("{sum:?}");
    sum
}

#[test]
fn clusters_where_everything_goes_wrong() {
    let sum = run_all(12, |seed| Settings {
        agents: 1 + seed as usize % 6,
        frameworks: 1 + seed as usize % 4,
        ..Settings::default()
    });
    if variable("SIM_SEED").is_none() {
        // The simulation itself is alive: all kinds of ends were seen.
        assert!(sum.launched > 200 && sum.master_crashes > 10 && sum.agent_crashes > 10, "{sum:?}");
        for state in [TaskState::Finished, TaskState::Failed, TaskState::Killed, TaskState::Error] {
            assert!(sum.ended.contains_key(&state), "{state:?} in {sum:?}");
        }
    }
}

/// Everything goes wrong, and some lie. What is honest comes to its end all the same.
#[test]
fn clusters_where_some_lie() {
    let sum = run_all(12, |seed| Settings {
        agents: 1 + seed as usize % 6,
        frameworks: 1 + seed as usize % 4,
        lies: true,
        faults: seed % 3 > 0,
        ..Settings::default()
    });
    if variable("SIM_SEED").is_none() {
        assert!(sum.lies > 1_000 && sum.launched > 100, "{sum:?}");
    }
}

#[test]
fn clusters_where_nothing_goes_wrong() {
    let sum = run_all(2, |_| Settings { faults: false, ..Settings::default() });
    // The schedulers check that what is dropped (or lost, in the older tongue) crossed the end of its offer.
    for state in [TaskState::Gone, TaskState::Unreachable, TaskState::Unknown] {
        assert!(!sum.ended.contains_key(&state), "{state:?} in {sum:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let settings = Settings { unrest: Duration::from_secs(200), ..Settings::default() };
    assert_eq!(run(4, &settings), run(4, &settings));
    assert_ne!(run(4, &settings), run(5, &settings));
}

/// `cargo test --release -p bellows-sim -- --ignored --nocapture`
#[test]
#[ignore = "takes long"]
fn a_large_cluster() {
    let settings = Settings {
        agents: 2_000,
        frameworks: 100,
        unrest: Duration::from_secs(120),
        check_every: 5_000,
        ..Settings::default()
    };
    let report = run(variable("SIM_SEED").unwrap_or(1), &settings);
    eprintln!("{report:?}");
}
