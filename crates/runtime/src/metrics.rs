//! Figures of one moment, written as Prometheus text and as the flat JSON object of Mesos' `/metrics/snapshot`.
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::fmt;

/// The content type of [`Snapshot::prometheus`].
pub const PROMETHEUS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Collected when asked for, so that nothing has to be kept in step with the state it describes.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    help: &'static str,
    kind: MetricType,
    value: f64,
}

impl Snapshot {
    /// A value that goes up and down. `name` is Mesos' (`master/cpus_total`).
    pub fn gauge(&mut self, name: impl Into<String>, help: &'static str, value: f64) {
        self.0.push(Sample { name: name.into(), help, kind: MetricType::Gauge, value });
    }

    /// A value that only grows while the process lives.
    pub fn counter(&mut self, name: impl Into<String>, help: &'static str, value: f64) {
        self.0.push(Sample { name: name.into(), help, kind: MetricType::Counter, value });
    }

    /// Names and values, in order of names.
    pub fn values(&self) -> Vec<(&str, f64)> {
        let mut values: Vec<_> = self.0.iter().map(|sample| (sample.name.as_str(), sample.value)).collect();
        values.sort_unstable_by_key(|(name, _)| *name);
        values
    }

    /// `{"master/cpus_total": 4.0, …}`
    pub fn json(&self) -> serde_json::Value {
        self.values()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), serde_json::Value::from(value)))
            .collect()
    }

    /// OpenMetrics text; `master/cpus_total` becomes `bellows_master_cpus_total`.
    pub fn prometheus(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("bellows");
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Sample { name, help, kind, value } in &self.0 {
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            // A counter's text form appends `_total` to the name by itself.
            let name = match kind {
                MetricType::Counter => name.strip_suffix("_total").unwrap_or(&name),
                _ => &name,
            };
            let metric = encoder.encode_descriptor(name, help, None, *kind)?;
            match kind {
                MetricType::Counter => ConstCounter::new(*value).encode(metric)?,
                _ => ConstGauge::new(*value).encode(metric)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_snapshot_two_forms() {
        let mut snapshot = Snapshot::default();
        snapshot.gauge("master/cpus_total", "CPUs of all agents", 4.5);
        snapshot.counter("master/tasks_failed", "Tasks that failed", 2.0);
        assert_eq!(snapshot.json().to_string(), r#"{"master/cpus_total":4.5,"master/tasks_failed":2.0}"#);
        let text = snapshot.prometheus().expect("a String takes all");
        assert!(
            text.contains("# TYPE bellows_master_cpus_total gauge\nbellows_master_cpus_total 4.5\n"),
            "{text}"
        );
        assert!(text.contains("bellows_master_tasks_failed_total 2.0\n"), "{text}");
    }
}
