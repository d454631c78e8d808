//! The legacy API's JSON, as Mesos' `/state` and its kin write it: made of the state, changing nothing.
//!
//! Everything here borrows from a copy of the state and writes once.
pub(crate) mod agent;
pub(crate) mod cluster;
pub(crate) mod framework;
pub(crate) mod metrics;
pub(crate) mod resources;
