//! The service's state as the admin socket and the metrics listener tell it. Plain values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
// So that a client reads what an older service answers.
#[serde(default)]
pub struct Status {
    pub applications: BTreeMap<String, AppStatus>,
    pub open_connections: u64,
    pub registered_executors: u64,
    pub chunks_in_flight: u64,
    pub blocks_served: u64,
    pub bytes_served: u64,
    /// Requests refused or failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Of these, what a disk failed at, by the allowed root that it is.
    pub disk_errors: BTreeMap<String, u64>,
    /// Threads that wait for each disk now, where any does.
    pub disk_waiting: BTreeMap<String, u64>,
    /// The roots that cannot be used now, and why.
    pub disks_left_out: BTreeMap<String, String>,
    pub latency: LatencyStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppStatus {
    /// Executors that registered and were not reported as departed.
    pub executors: u64,
    pub departed_executors: u64,
    pub blocks_served: u64,
    pub bytes_served: u64,
    /// Of the above: on behalf of executors that had departed.
    pub departed_blocks_served: u64,
    pub departed_bytes_served: u64,
    /// Bytes in the application's directories, as last counted; absent before the first count.
    pub disk_bytes: Option<u64>,
}

/// Request arrived to answer handed to the socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyStatus {
    pub requests: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// What removing an application did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Removal {
    /// False when no such application is registered. One may be of which only the driver is.
    pub known: bool,
    pub executors: u64,
    pub directories: u64,
    pub files: u64,
    pub bytes: u64,
    /// Directories left in place, and why.
    pub kept: Vec<String>,
}

/// What noting an executor's departure did: its files that nobody can ask for any more are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorRemoval {
    /// False when no such executor is registered.
    pub known: bool,
    pub files: u64,
    pub bytes: u64,
}
