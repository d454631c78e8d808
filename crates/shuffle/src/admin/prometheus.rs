//! The metrics as Prometheus reads them, taken from the same state as the JSON view.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::AppStatus;
use crate::service::Service;

pub(crate) use bellows_runtime::metrics::PROMETHEUS_TYPE;

pub(crate) fn render(service: &Arc<Service>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("bellows_shuffle");
    registry.register_collector(Box::new(View(service.clone())));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

struct View(Arc<Service>);

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

impl Collector for View {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.status();
        gauge(&mut out, "open_connections", "Connections that are open", status.open_connections)?;
        gauge(
            &mut out,
            "registered_executors",
            "Executors that are registered",
            status.registered_executors,
        )?;
        gauge(&mut out, "chunks_in_flight", "Blocks that are being sent", status.chunks_in_flight)?;
        counter(&mut out, "blocks", "Blocks served", status.blocks_served)?;
        counter(&mut out, "bytes", "Bytes of blocks served", status.bytes_served)?;

        let errors = self.0.metrics.errors();
        family(&mut out, MetricType::Counter, "errors", "Requests refused or failed", "kind", errors)?;
        let disks = status.disk_errors.iter().map(|(root, count)| (root.as_str(), *count));
        family(
            &mut out,
            MetricType::Counter,
            "disk_errors",
            "Reads and deletions that a disk failed",
            "root",
            disks,
        )?;
        let waiting = status.disk_waiting.iter().map(|(root, count)| (root.as_str(), *count));
        family(&mut out, MetricType::Gauge, "disk_waiting", "Threads that wait for a disk", "root", waiting)?;
        let left_out = status.disks_left_out.keys().map(|root| (root.as_str(), 1));
        let help = "1 for each disk that cannot be used";
        family(&mut out, MetricType::Gauge, "disk_left_out", help, "root", left_out)?;
        type Figure = (MetricType, &'static str, &'static str, fn(&AppStatus) -> Option<u64>);
        let figures: [Figure; 7] = [
            (MetricType::Gauge, "app_executors", "Executors that run", |a| Some(a.executors)),
            (MetricType::Gauge, "app_departed_executors", "Executors that have gone", |a| {
                Some(a.departed_executors)
            }),
            (MetricType::Counter, "app_blocks", "Blocks served", |a| Some(a.blocks_served)),
            (MetricType::Counter, "app_bytes", "Bytes served", |a| Some(a.bytes_served)),
            (MetricType::Counter, "app_departed_blocks", "Blocks served for executors that have gone", |a| {
                Some(a.departed_blocks_served)
            }),
            (MetricType::Counter, "app_departed_bytes", "Bytes served for executors that have gone", |a| {
                Some(a.departed_bytes_served)
            }),
            (MetricType::Gauge, "app_disk_bytes", "Bytes in the application's directories", |a| a.disk_bytes),
        ];
        for (kind, name, help, figure) in figures {
            let values = status.applications.iter().filter_map(|(id, app)| Some((id.as_str(), figure(app)?)));
            family(&mut out, kind, name, help, "app", values)?;
        }

        let (buckets, sum, count) = self.0.metrics.latency.cumulative();
        let help = "From a request's arrival to its answer's handing over";
        let mut encoder = out.encode_descriptor("request_seconds", help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstGauge::new(value).encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(out.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn family<'a>(
    out: &mut DescriptorEncoder<'_>,
    kind: MetricType,
    name: &str,
    help: &str,
    label: &str,
    values: impl Iterator<Item = (&'a str, u64)>,
) -> fmt::Result {
    let mut encoder = out.encode_descriptor(name, help, None, kind)?;
    for (of, value) in values {
        let labels = [(label, of)];
        let encoder = encoder.encode_family(&labels)?;
        match kind {
            MetricType::Counter => ConstCounter::new(value).encode(encoder)?,
            _ => ConstGauge::new(value).encode(encoder)?,
        }
    }
    Ok(())
}
