//! What the demo saw over time, and the figures that follow from it. Values only; others watch and draw.

/// The cluster at one moment, in milliseconds since `spark-submit` was started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    pub at_ms: u64,
    /// Executors whose resources the application holds: tasks launched and not ended.
    pub held: u32,
    /// Of these, executors that have registered with the driver and can work.
    pub ready: u32,
    /// Shuffle bytes that the service has served so far.
    pub served_bytes: u64,
    /// Of these, on behalf of executors that no longer existed.
    pub departed_bytes: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    pub from_ms: u64,
    pub name: &'static str,
}

/// More than the longest demo takes; what comes after is not kept.
const MAX_SAMPLES: usize = 50_000;

#[derive(Debug, Default)]
pub struct Timeline {
    samples: Vec<Sample>,
    phases: Vec<Phase>,
}

impl Timeline {
    /// Samples come in order of time.
    pub fn push(&mut self, sample: Sample) {
        debug_assert!(self.last().at_ms <= sample.at_ms);
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(sample);
        }
    }

    /// A phase that is entered again was never left: what seemed to follow it did not.
    pub fn enter(&mut self, from_ms: u64, name: &'static str) {
        match self.phases.iter().position(|phase| phase.name == name) {
            Some(index) => self.phases.truncate(index + 1),
            None => self.phases.push(Phase { from_ms, name }),
        }
    }

    pub fn last(&self) -> Sample {
        self.samples.last().copied().unwrap_or_default()
    }

    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    pub fn peak(&self) -> u32 {
        self.samples.iter().map(|sample| sample.held).max().unwrap_or(0)
    }

    /// The least that was held in a phase, once it had begun.
    pub fn least_in(&self, phase: &str) -> Option<u32> {
        self.held_in(phase).min()
    }

    pub fn most_in(&self, phase: &str) -> Option<u32> {
        self.held_in(phase).max()
    }

    fn held_in(&self, phase: &str) -> impl Iterator<Item = u32> {
        let begin = self.phases.iter().position(|p| p.name == phase);
        let from = begin.map_or(u64::MAX, |begin| self.phases[begin].from_ms);
        let next = begin.and_then(|begin| self.phases.get(begin + 1));
        let to = next.map_or(u64::MAX, |next| next.from_ms);
        self.samples.iter().filter(move |s| (from..to).contains(&s.at_ms)).map(|s| s.held)
    }

    /// Executors held times the seconds they were held.
    pub fn executor_seconds(&self) -> f64 {
        let steps = self.samples.windows(2);
        let ms: u64 = steps.map(|step| u64::from(step[0].held) * (step[1].at_ms - step[0].at_ms)).sum();
        ms as f64 / 1000.0
    }

    /// From the first executor held to the end: what a static allocation would hold its executors for.
    pub fn allocated_seconds(&self) -> f64 {
        let first = self.samples.iter().find(|sample| sample.held > 0).map_or(self.last().at_ms, |s| s.at_ms);
        (self.last().at_ms - first) as f64 / 1000.0
    }

    /// One column for each `width_ms`, from 0 to the last sample: the peak of its executors, the sum of its bytes.
    pub fn columns(&self, width_ms: u64) -> Vec<Column> {
        let count = usize::try_from(self.last().at_ms / width_ms + 1).unwrap_or(usize::MAX).min(MAX_SAMPLES);
        let mut columns = vec![Column::default(); count];
        let mut before = Sample::default();
        for sample in &self.samples {
            let index = (sample.at_ms / width_ms) as usize;
            // Between two samples the older one holds.
            let passed = (before.at_ms / width_ms) as usize + 1;
            for column in columns.iter_mut().take(index).skip(passed) {
                column.held = before.held;
                column.ready = before.ready;
            }
            if let Some(column) = columns.get_mut(index) {
                column.held = column.held.max(sample.held);
                column.ready = column.ready.max(sample.ready.min(sample.held));
                column.bytes += sample.served_bytes.saturating_sub(before.served_bytes);
                column.departed_bytes += sample.departed_bytes.saturating_sub(before.departed_bytes);
            }
            before = *sample;
        }
        columns
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Column {
    pub held: u32,
    pub ready: u32,
    pub bytes: u64,
    pub departed_bytes: u64,
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Six executors that start, work, go, come back and serve what others wrote.
    pub fn breathing() -> Timeline {
        let mut timeline = Timeline::default();
        for at_ms in (0..=60_000).step_by(250) {
            let second = at_ms / 1000;
            let (phase, held, ready) = match second {
                0..5 => ("Spark starts", 0, 0),
                5..12 => ("first burst", 6, 0),
                12..25 => ("first burst", 6, 6),
                25..31 => ("pause", 6, 6),
                31..44 => ("pause", 0, 0),
                44..46 => ("second burst", 3, 0),
                46..52 => ("second burst", 6, 2),
                _ => ("second burst", 6, 6),
            };
            timeline.enter(at_ms, phase);
            let departed_bytes = at_ms.saturating_sub(50_000) * 1_600;
            let served_bytes = at_ms.clamp(14_000, 20_000) * 900 - 14_000 * 900 + departed_bytes;
            timeline.push(Sample { at_ms, held, ready, served_bytes, departed_bytes });
        }
        timeline
    }

    #[test]
    fn figures_follow_from_the_samples() {
        let timeline = breathing();
        assert_eq!(timeline.peak(), 6);
        assert_eq!(timeline.least_in("pause"), Some(0));
        assert_eq!(timeline.most_in("second burst"), Some(6));
        assert_eq!((timeline.least_in("never"), timeline.most_in("never")), (None, None));
        assert_eq!(timeline.executor_seconds(), f64::from(6 * 26 + 3 * 2 + 6 * 14));
        assert_eq!(timeline.allocated_seconds(), 55.0);
    }

    #[test]
    fn a_moment_without_jobs_is_no_pause() {
        let mut timeline = Timeline::default();
        for (at_ms, name) in
            [(0, "first burst"), (10, "pause"), (20, "first burst"), (30, "pause"), (40, "pause")]
        {
            timeline.enter(at_ms, name);
        }
        let begins: Vec<_> = timeline.phases().iter().map(|phase| (phase.from_ms, phase.name)).collect();
        assert_eq!(begins, [(0, "first burst"), (30, "pause")]);
    }

    #[test]
    fn columns_keep_peaks_and_lose_no_byte() {
        let timeline = breathing();
        for width_ms in [100, 250, 1_000, 7_000] {
            let columns = timeline.columns(width_ms);
            assert_eq!(
                columns.iter().map(|c| c.bytes).sum::<u64>(),
                timeline.last().served_bytes,
                "{width_ms}"
            );
            assert_eq!(columns.iter().map(|c| c.held).max(), Some(6));
        }
        // Narrower than the samples are apart: what was last seen goes on.
        assert!(timeline.columns(100)[60..240].iter().all(|column| column.held == 6));
    }

    #[test]
    fn nothing_seen_yet() {
        let timeline = Timeline::default();
        assert_eq!((timeline.peak(), timeline.executor_seconds()), (0, 0.0));
        assert_eq!(timeline.columns(250).len(), 1);
    }
}
