//! Counters that the serving threads add to without a lock, and their two views: Prometheus text and [`Status`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::LatencyStatus;

/// What went wrong, as metrics and logs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// Bytes that are no message, or a message that is no call.
    BadMessage,
    /// A call that this service does not answer.
    Unsupported,
    /// An application that the connection does not speak for, or directories that it may not name.
    Forbidden,
    NotRegistered,
    BlockMissing,
    BadIndex,
    Disk,
    /// The registrations could not be written.
    Store,
    /// A bound was reached: connections, streams, registrations.
    Limit,
    /// The peer took nothing for too long.
    Stalled,
    /// Asked for while the service ends.
    Stopping,
    /// A fault of this service.
    Internal,
}

impl ErrorKind {
    const ALL: [(ErrorKind, &'static str); 12] = [
        (ErrorKind::BadMessage, "bad_message"),
        (ErrorKind::Unsupported, "unsupported"),
        (ErrorKind::Forbidden, "forbidden"),
        (ErrorKind::NotRegistered, "not_registered"),
        (ErrorKind::BlockMissing, "block_missing"),
        (ErrorKind::BadIndex, "bad_index"),
        (ErrorKind::Disk, "disk"),
        (ErrorKind::Store, "store"),
        (ErrorKind::Limit, "limit"),
        (ErrorKind::Stalled, "stalled"),
        (ErrorKind::Stopping, "stopping"),
        (ErrorKind::Internal, "internal"),
    ];
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) open_connections: Gauge,
    pub(crate) chunks_in_flight: Gauge,
    pub(crate) blocks_served: AtomicU64,
    pub(crate) bytes_served: AtomicU64,
    pub(crate) latency: Histogram,
    errors: [AtomicU64; ErrorKind::ALL.len()],
}

impl Metrics {
    pub(crate) fn error(&self, kind: ErrorKind) {
        self.errors[kind as usize].fetch_add(1, Relaxed);
    }

    /// Of every kind, also where there were none: who watches a counter wants to see it start.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ErrorKind::ALL.iter().map(|&(kind, name)| (name, self.errors[kind as usize].load(Relaxed)))
    }
}

/// Blocks and bytes of one application.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) blocks: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Served {
    pub(crate) fn add(&self, blocks: u64, bytes: u64) {
        self.blocks.fetch_add(blocks, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }

    /// Counts one more until the guard goes.
    pub(crate) fn enter(&self) -> GaugeGuard<'_> {
        self.add(1);
        GaugeGuard(self)
    }
}

pub(crate) struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

/// Durations in buckets that double: 1 µs, 2 µs, ... up to about 9 hours.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_us: AtomicU64::new(0),
            max_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    const BUCKETS: usize = 36;

    /// `times` requests that each took `elapsed`.
    pub(crate) fn record(&self, elapsed: Duration, times: u64) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(Histogram::BUCKETS - 1)].fetch_add(times, Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(times), Relaxed);
        self.max_us.fetch_max(us, Relaxed);
    }

    /// Upper bound in µs and count of each bucket.
    fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().enumerate().map(|(i, count)| (1u64 << i, count.load(Relaxed)))
    }

    pub(crate) fn status(&self) -> LatencyStatus {
        let requests: u64 = self.buckets().map(|(_, count)| count).sum();
        let max_us = self.max_us.load(Relaxed);
        let quantile = |percent: u64| {
            let mut left = (requests * percent).div_ceil(100);
            for (bound, count) in self.buckets() {
                if left <= count {
                    return bound.min(max_us);
                }
                left -= count;
            }
            max_us
        };
        if requests == 0 {
            return LatencyStatus::default();
        }
        LatencyStatus { requests, p50_us: quantile(50), p99_us: quantile(99), max_us }
    }

    /// As Prometheus wants it: each bucket's bound in seconds with all that is at or below it; then sum and count.
    pub(crate) fn cumulative(&self) -> (Vec<(f64, u64)>, f64, u64) {
        let mut total = 0;
        let buckets = self
            .buckets()
            .map(|(bound, count)| {
                total += count;
                (bound as f64 / 1e6, total)
            })
            .collect();
        (buckets, self.sum_us.load(Relaxed) as f64 / 1e6, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_bound_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.status(), LatencyStatus::default());
        histogram.record(Duration::from_micros(100), 98);
        histogram.record(Duration::from_millis(50), 2);
        let status = histogram.status();
        assert_eq!(status.requests, 100);
        assert!((100..=128).contains(&status.p50_us), "{status:?}");
        assert_eq!((status.p99_us, status.max_us), (50_000, 50_000));
        let (buckets, sum, count) = histogram.cumulative();
        assert_eq!((buckets.last().expect("buckets").1, count), (100, 100));
        assert!((sum - 0.1098).abs() < 1e-9);
    }

    #[test]
    fn each_kind_of_error_has_its_place() {
        for (at, (kind, _)) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }
}
