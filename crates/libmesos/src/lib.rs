//! `libmesos.so`: what Apache Mesos' Java bindings (`org.apache.mesos`) look for in the native library, so that
//! Spark's Mesos backend, unmodified, talks to a Bellows or Mesos master over the v1 HTTP API.
//!
//! A panic never leaves an export, and nothing is written to standard output: both belong to the JVM's program.

mod driver;
mod executor;
mod java;
mod lifecycle;
mod logging;
mod network;
mod scheduler;
