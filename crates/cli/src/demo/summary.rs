//! What the demo showed, in figures, and whether it is what an elastic cluster must do. Pure.

use super::eventlog::{Burst, Facts};
use super::timeline::Timeline;
use crate::output;

/// When things happened, in ms since `spark-submit` was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Milestones {
    /// The framework subscribed.
    pub registered: Option<u64>,
    /// The first of its tasks was launched, and the first batch of them was running.
    pub launched: Option<u64>,
    pub running: Option<u64>,
    /// The last executor of the first batch registered with the driver.
    pub ready: Option<u64>,
    pub ended: u64,
}

#[derive(Debug)]
pub struct Summary<'a> {
    pub timeline: &'a Timeline,
    pub facts: &'a Facts,
    pub departed_blocks: u64,
    pub milestones: Milestones,
    /// What the application would hold without elasticity.
    pub static_executors: u32,
}

pub const FIRST: &str = "first burst";
pub const PAUSE: &str = "pause";
pub const SECOND: &str = "second burst";

impl Summary<'_> {
    /// What did not happen, though it is the point of it all.
    pub fn shortcoming(&self) -> Option<String> {
        let second = self.facts.burst(SECOND);
        let last = self.timeline.last();
        let held = self.timeline.least_in(PAUSE);
        if self.timeline.peak() < self.static_executors {
            Some(format!("only {} of {} executors ever came", self.timeline.peak(), self.static_executors))
        } else if held != Some(0) {
            Some(format!("{} executors stayed in the pause", held.unwrap_or(self.timeline.peak())))
        } else if self.back() == 0 {
            // How many come depends on Spark, which may have refused offers for long, and on how slow the machine is.
            Some("no executor came back for the second burst".to_owned())
        } else if second.stages_skipped == 0 || self.facts.stages_retried > 0 {
            Some(format!(
                "the second burst computed again what the first had shuffled: {} stages skipped, {} run again",
                second.stages_skipped, self.facts.stages_retried
            ))
        } else if last.departed_bytes == 0 {
            Some("no shuffle was served on behalf of executors that were gone".to_owned())
        } else {
            None
        }
    }

    /// The most that were held in the second burst.
    fn back(&self) -> u32 {
        self.timeline.most_in(SECOND).unwrap_or(0)
    }

    pub fn text(&self) -> String {
        let timeline = self.timeline;
        let last = timeline.last();
        let held = timeline.executor_seconds();
        let fixed = f64::from(self.static_executors) * timeline.allocated_seconds();
        let (first, second) = (self.facts.burst(FIRST), self.facts.burst(SECOND));
        let saved = if fixed > 0.0 { (1.0 - held / fixed) * 100.0 } else { 0.0 };
        let lines = [
            (
                "executors",
                format!(
                    "{} at the peak, {} in the pause, {} in the second burst",
                    timeline.peak(),
                    timeline.least_in(PAUSE).unwrap_or(0),
                    self.back()
                ),
            ),
            (
                "executor-seconds",
                format!(
                    "{held:.0} held; {} static executors: {fixed:.0}; {saved:.0} % given back",
                    self.static_executors
                ),
            ),
            ("shuffle served", output::bytes(last.served_bytes)),
            (
                "",
                format!(
                    "{} of it in {} blocks on behalf of executors that no longer existed",
                    output::bytes(last.departed_bytes),
                    self.departed_blocks
                ),
            ),
            (
                "second burst",
                format!(
                    "{} stages ran, {} were skipped: their shuffle was still there; the same result",
                    second.stages_run, second.stages_skipped
                ),
            ),
            ("time", self.time(&first, &second)),
        ];
        let mut text: Vec<_> = lines.iter().map(|(name, line)| format!("  {name:<17} {line}")).collect();
        text.extend(self.breakdown().into_iter().map(|line| format!("  {:<17}   {line}", "")));
        text.join("\n")
    }

    fn time(&self, first: &Burst, second: &Burst) -> String {
        let seconds = |burst: &Burst| (burst.end_ms.saturating_sub(burst.begin_ms)) as f64 / 1000.0;
        let total = self.milestones.ended as f64 / 1000.0;
        format!("{total:.1} s in all; first burst {:.1} s, second {:.1} s", seconds(first), seconds(second))
    }

    /// Who the time until the first burst could work at full size belongs to.
    fn breakdown(&self) -> Vec<String> {
        let m = self.milestones;
        let step = |from: Option<u64>, to: Option<u64>, what: &str| {
            let ms = to?.checked_sub(from?)?;
            Some(format!("{:>6.2} s  {what}", ms as f64 / 1000.0))
        };
        [
            step(Some(0), m.registered, "Spark: spark-submit until it registers with the master"),
            step(
                m.registered,
                m.launched,
                "Spark: until it takes an offer; it declines them until it knows what it wants",
            ),
            step(m.launched, m.running, "Spark and Bellows: until six executors run"),
            step(m.running, m.ready, "Spark: until their JVMs are ready"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::{Sample, tests::breathing};
    use super::*;

    fn milestones() -> Milestones {
        Milestones {
            registered: Some(4_870),
            launched: Some(4_902),
            running: Some(4_931),
            ready: Some(12_040),
            ended: 60_300,
        }
    }

    #[test]
    fn in_figures() {
        let timeline = breathing();
        let facts = Facts::with_bursts(4, 8);
        let summary = Summary {
            timeline: &timeline,
            facts: &facts,
            departed_blocks: 288,
            milestones: milestones(),
            static_executors: 6,
        };
        insta::assert_snapshot!(summary.text());
        assert_eq!(summary.shortcoming(), None);
    }

    #[test]
    fn what_an_elastic_cluster_must_do() {
        let shortcoming = |timeline: &Timeline, facts: &Facts| {
            let milestones = milestones();
            Summary { timeline, facts, departed_blocks: 0, milestones, static_executors: 6 }
                .shortcoming()
                .expect("it falls short")
        };
        let good = breathing();
        assert!(shortcoming(&good, &Facts::with_bursts(12, 0)).contains("0 stages skipped"));

        let mut stubborn = Timeline::default();
        stubborn.enter(0, FIRST);
        stubborn.enter(10, PAUSE);
        stubborn.push(Sample { at_ms: 20, held: 6, ready: 6, served_bytes: 0, departed_bytes: 0 });
        assert!(shortcoming(&stubborn, &Facts::with_bursts(4, 8)).contains("6 executors stayed"));

        stubborn.push(Sample { at_ms: 30, held: 0, ready: 0, served_bytes: 5, departed_bytes: 0 });
        assert!(shortcoming(&stubborn, &Facts::with_bursts(4, 8)).contains("no executor came back"));
        stubborn.enter(40, SECOND);
        stubborn.push(Sample { at_ms: 50, held: 1, ready: 0, served_bytes: 5, departed_bytes: 0 });
        assert!(shortcoming(&stubborn, &Facts::with_bursts(4, 8)).contains("no shuffle was served"));
        assert!(shortcoming(&Timeline::default(), &Facts::default()).contains("0 of 6"));
    }
}
