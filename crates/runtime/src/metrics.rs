//! Figures of one moment, written as Prometheus text and as the flat JSON object of Mesos' `/metrics/snapshot`.
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{collections::VecDeque, fmt, time::Duration};

/// The content type of [`Snapshot::prometheus`].
pub const PROMETHEUS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Collected when asked for, so that nothing has to be kept in step with the state it describes.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    kind: Kind,
    value: f64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Prometheus { metric: MetricType, help: &'static str },
    OnlyJson,
}

impl Snapshot {
    /// A value that goes up and down. `name` is Mesos' (`master/cpus_total`).
    pub fn gauge(&mut self, name: impl Into<String>, help: &'static str, value: f64) {
        self.push(name, Kind::Prometheus { metric: MetricType::Gauge, help }, value);
    }

    /// A value that only grows while the process lives.
    pub fn counter(&mut self, name: impl Into<String>, help: &'static str, value: f64) {
        self.push(name, Kind::Prometheus { metric: MetricType::Counter, help }, value);
    }

    /// A value that only readers of Mesos' form look for: it is always 0 here, or its name has names of others in it, which
    /// Prometheus cannot write.
    pub fn only_json(&mut self, name: impl Into<String>, value: f64) {
        self.push(name, Kind::OnlyJson, value);
    }

    /// The newest of the values, and how they are spread, under the names that Mesos gives to its timers.
    pub fn statistics(&mut self, name: &str, help: &'static str, window: &Window) {
        self.gauge(name, help, window.values.back().copied().unwrap_or_default());
        let mut sorted: Vec<f64> = window.values.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        self.only_json(format!("{name}/count"), sorted.len() as f64);
        for (part, fraction) in PARTS {
            self.only_json(format!("{name}/{part}"), percentile(&sorted, fraction));
        }
    }

    fn push(&mut self, name: impl Into<String>, kind: Kind, value: f64) {
        self.0.push(Sample { name: name.into(), kind, value });
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
        for Sample { name, kind, value } in &self.0 {
            let Kind::Prometheus { metric: kind, help } = kind else { continue };
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

const PARTS: [(&str, f64); 8] = [
    ("min", 0.0),
    ("max", 1.0),
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p999", 0.999),
    ("p9999", 0.9999),
];

/// Between the two values that are nearest, as Mesos reckons; 0 where there is none.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let position = fraction * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(below), Some(above)) => below + (above - below) * position.fract(),
        _ => 0.0,
    }
}

/// How long the last runs of something took, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Window {
    values: VecDeque<f64>,
}

impl Window {
    /// So many values are kept, as by Mesos.
    const LENGTH: usize = 1_000;

    pub fn push(&mut self, took: Duration) {
        if self.values.len() == Self::LENGTH {
            self.values.pop_front();
        }
        self.values.push_back(took.as_secs_f64() * 1_000.0);
    }
}

/// Load, CPUs and memory of the machine.
pub fn system(snapshot: &mut Snapshot) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    snapshot.gauge("system/cpus_total", "CPUs of the machine", cpus as f64);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut load = load.split_whitespace().map(|value| value.parse().unwrap_or_default());
    for name in ["1min", "5min", "15min"] {
        snapshot.gauge(format!("system/load_{name}"), "Load average", load.next().unwrap_or_default());
    }
    for (name, line) in [("total", "MemTotal:"), ("free", "MemFree:")] {
        let bytes = meminfo_kb(line).unwrap_or(0) as f64 * 1024.0;
        snapshot.gauge(format!("system/mem_{name}_bytes"), "Memory of the machine", bytes);
    }
}

/// The same as Mesos has it at `/system/stats.json`: `{"avg_load_1min": 0.5, "cpus_total": 4.0, …}`
pub fn system_stats() -> serde_json::Value {
    let mut snapshot = Snapshot::default();
    system(&mut snapshot);
    let name = |name: &str| name.trim_start_matches("system/").replacen("load_", "avg_load_", 1);
    snapshot
        .values()
        .into_iter()
        .map(|(metric, value)| (name(metric), serde_json::Value::from(value)))
        .collect()
}

/// A line of `/proc/meminfo`.
pub fn meminfo_kb(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How long a reader is ready to wait for the figures: `timeout` in the query, as `10secs` or `500ms`. What is not there by
/// then is left out, as by Mesos.
pub fn patience(query: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = query else { return Ok(None) };
    let invalid = |why: String| format!("Invalid timeout '{text}': {why}.\n");
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_secs = match &text[number.len()..] {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "secs" => 1.0,
        "mins" => 60.0,
        "hrs" => 3_600.0,
        "days" => 86_400.0,
        "weeks" => 604_800.0,
        unit => {
            return Err(invalid(format!(
                "Unknown duration unit '{unit}'; supported units are 'ns', 'us', 'ms', 'secs', 'mins', 'hrs', 'days', \
                 and 'weeks'"
            )));
        }
    };
    let number: f64 = number.parse().map_err(|_| invalid(format!("'{number}' is not a number")))?;
    let patience = Duration::try_from_secs_f64(number * unit_secs);
    patience.map(Some).map_err(|_| invalid("it is out of range".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_mesos_readers_look_for_is_not_for_prometheus() {
        let mut snapshot = Snapshot::default();
        snapshot.gauge("master/elected", "Leads", 1.0);
        snapshot.only_json("master/frameworks/a b/m-0001/calls", 3.0);
        assert_eq!(snapshot.json()["master/frameworks/a b/m-0001/calls"], 3.0);
        let text = snapshot.prometheus().expect("a String takes all");
        assert!(text.contains("bellows_master_elected 1.0") && !text.contains("frameworks"), "{text}");
    }

    #[test]
    fn a_window_knows_the_last_values_and_their_spread() {
        let mut window = Window::default();
        let mut snapshot = Snapshot::default();
        snapshot.statistics("none", "Never", &window);
        assert!(snapshot.values().iter().all(|(_, value)| *value == 0.0) && snapshot.values().len() == 10);
        (0..=2_000).for_each(|ms| window.push(Duration::from_millis(ms)));
        window.push(Duration::ZERO);
        snapshot.statistics("t", "Test", &window);
        let json = snapshot.json();
        let is = |name: &str, value: f64| (json[name].as_f64().expect("a number") - value).abs() < 1e-6;
        assert!(is("t", 0.0) && is("t/count", 1_000.0) && is("t/min", 0.0) && is("t/max", 2_000.0), "{json}");
        // 0 and 1002 to 2000.
        assert!(is("t/p50", 1_500.5) && is("t/p99", 1_990.01), "{json}");
    }

    #[test]
    fn how_long_a_reader_waits() {
        for (text, millis) in [("10secs", 10_000), ("500ms", 500), ("0.5mins", 30_000), ("0ns", 0)] {
            assert_eq!(patience(Some(text)), Ok(Some(Duration::from_millis(millis))), "{text}");
        }
        assert_eq!(patience(None), Ok(None));
        for text in ["", "5", "5s", "secs", "-1secs", "1e300weeks", "nansecs", "infsecs", "1 secs "] {
            let error = patience(Some(text)).expect_err(text);
            assert!(error.starts_with(&format!("Invalid timeout '{text}': ")), "{error}");
        }
    }

    #[test]
    fn this_machine_has_cpus_and_memory() {
        let mut snapshot = Snapshot::default();
        system(&mut snapshot);
        let json = snapshot.json();
        assert!(json["system/cpus_total"].as_f64() >= Some(1.0), "{json}");
        assert!(json["system/mem_total_bytes"].as_f64() > json["system/mem_free_bytes"].as_f64(), "{json}");
        assert_eq!(snapshot.values().len(), 6);
        let stats = system_stats();
        let names: Vec<_> = stats.as_object().expect("an object").keys().collect();
        let loads = ["avg_load_15min", "avg_load_1min", "avg_load_5min"];
        assert_eq!(names, [&loads[..], &["cpus_total", "mem_free_bytes", "mem_total_bytes"]].concat());
    }

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
