//! Spark's own account of the application: its event log, read while it is written.
//!
//! Field names are those of `JsonProtocol` in Spark 3.5. Only what the demo tells is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// The longest line that is read: one job's with all its stages is far shorter.
const MAX_LINE_BYTES: usize = 8 << 20;

/// Follows the one log in a directory; it is renamed at the application's end, which an open file does not mind.
#[derive(Debug)]
pub struct EventLog {
    directory: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
    pub facts: Facts,
}

#[derive(Debug, Default)]
pub struct Facts {
    /// When each executor registered with the driver, in Unix ms, in order.
    pub executors_added: Vec<u64>,
    executors: BTreeSet<String>,
    jobs: BTreeMap<u64, Job>,
    /// Attempts of stages that were done, and of these the ones done again.
    stages_completed: BTreeSet<u64>,
    pub stages_retried: u64,
}

#[derive(Debug)]
struct Job {
    group: String,
    stages: Vec<u64>,
    submitted_ms: u64,
    /// When it ended, and whether well.
    ended: Option<(u64, bool)>,
}

/// What one job group did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Burst {
    pub jobs: usize,
    pub failed_jobs: usize,
    pub stages_run: usize,
    pub stages_skipped: usize,
    pub begin_ms: u64,
    pub end_ms: u64,
}

impl Facts {
    /// Executors that are registered with the driver now.
    pub fn executors(&self) -> u32 {
        u32::try_from(self.executors.len()).unwrap_or(u32::MAX)
    }

    /// The job group that works now; else whether any has.
    pub fn working(&self) -> Option<&str> {
        self.jobs.values().rev().find(|job| job.ended.is_none()).map(|job| job.group.as_str())
    }

    pub fn has_worked(&self) -> bool {
        !self.jobs.is_empty()
    }

    pub fn burst(&self, group: &str) -> Burst {
        let jobs: Vec<_> = self.jobs.values().filter(|job| job.group == group).collect();
        let stages = jobs.iter().flat_map(|job| job.stages.iter().copied());
        let (run, skipped): (Vec<u64>, Vec<u64>) = stages.partition(|id| self.stages_completed.contains(id));
        Burst {
            jobs: jobs.len(),
            failed_jobs: jobs.iter().filter(|job| job.ended.is_none_or(|(_, well)| !well)).count(),
            stages_run: run.len(),
            stages_skipped: skipped.len(),
            begin_ms: jobs.iter().map(|job| job.submitted_ms).min().unwrap_or(0),
            end_ms: jobs.iter().filter_map(|job| job.ended).map(|(at, _)| at).max().unwrap_or(0),
        }
    }

    fn take(&mut self, line: &[u8]) {
        // Task events are most of the log and say nothing that is asked here.
        if line.starts_with(br#"{"Event":"SparkListenerTask"#) {
            return;
        }
        // Events of other kinds do not parse as `Event`, and need not.
        let Ok(event) = serde_json::from_slice::<Event>(line) else { return };
        match event {
            Event::ExecutorAdded { at, id } => {
                self.executors_added.push(at);
                self.executors.insert(id);
            }
            Event::ExecutorRemoved { id } => {
                self.executors.remove(&id);
            }
            Event::JobStart { id, submitted_ms, stages, properties } => {
                let group = properties.get("spark.jobGroup.id").cloned().unwrap_or_default();
                let stages = stages.into_iter().map(|stage| stage.id).collect();
                self.jobs.insert(id, Job { group, stages, submitted_ms, ended: None });
            }
            Event::JobEnd { id, at, result } => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.ended = Some((at, result.kind == "JobSucceeded"));
                }
            }
            Event::StageCompleted { stage } => {
                self.stages_retried += u64::from(stage.attempt > 0);
                self.stages_completed.insert(stage.id);
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "Event")]
enum Event {
    #[serde(rename = "SparkListenerExecutorAdded")]
    ExecutorAdded {
        #[serde(rename = "Timestamp")]
        at: u64,
        #[serde(rename = "Executor ID")]
        id: String,
    },
    #[serde(rename = "SparkListenerExecutorRemoved")]
    ExecutorRemoved {
        #[serde(rename = "Executor ID")]
        id: String,
    },
    #[serde(rename = "SparkListenerJobStart")]
    JobStart {
        #[serde(rename = "Job ID")]
        id: u64,
        #[serde(rename = "Submission Time")]
        submitted_ms: u64,
        #[serde(rename = "Stage Infos")]
        stages: Vec<Stage>,
        #[serde(rename = "Properties", default)]
        properties: BTreeMap<String, String>,
    },
    #[serde(rename = "SparkListenerJobEnd")]
    JobEnd {
        #[serde(rename = "Job ID")]
        id: u64,
        #[serde(rename = "Completion Time")]
        at: u64,
        #[serde(rename = "Job Result")]
        result: JobResult,
    },
    #[serde(rename = "SparkListenerStageCompleted")]
    StageCompleted {
        #[serde(rename = "Stage Info")]
        stage: Stage,
    },
}

#[derive(Deserialize)]
struct Stage {
    #[serde(rename = "Stage ID")]
    id: u64,
    #[serde(rename = "Stage Attempt ID", default)]
    attempt: u64,
}

#[derive(Deserialize)]
struct JobResult {
    #[serde(rename = "Result")]
    kind: String,
}

impl EventLog {
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), file: None, rest: Vec::new(), facts: Facts::default() }
    }

    /// Takes in what was written since the last time.
    pub fn read(&mut self) -> Result<(), Error> {
        let directory = self.directory.clone();
        self.read_on().map_err(|source| Error::io("reading the event log in", &directory, source))
    }

    fn read_on(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let Some(entry) = std::fs::read_dir(&self.directory)?.next() else { return Ok(()) };
            self.file = Some(File::open(entry?.path())?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut chunk = vec![0; 1 << 18];
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&chunk[..length]);
            let mut begin = 0;
            while let Some(end) = self.rest[begin..].iter().position(|&byte| byte == b'\n') {
                self.facts.take(&self.rest[begin..begin + end]);
                begin += end + 1;
            }
            self.rest.drain(..begin);
            if self.rest.len() > MAX_LINE_BYTES {
                return Err(io::Error::other("a line of the event log is too long"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// Cut down from what Spark 3.5.9 wrote.
    const LOG: &[&str] = &[
        r#"{"Event":"SparkListenerLogStart","Spark Version":"3.5.9"}"#,
        r#"{"Event":"SparkListenerExecutorAdded","Timestamp":1000,"Executor ID":"0","Executor Info":{"Host":"h"}}"#,
        r#"{"Event":"SparkListenerJobStart","Job ID":0,"Submission Time":1100,"Stage Infos":[{"Stage ID":0,"Stage Attempt ID":0}],"Stage IDs":[0],"Properties":{"spark.jobGroup.id":"first burst"}}"#,
        r#"{"Event":"SparkListenerTaskEnd","Stage ID":0}"#,
        r#"{"Event":"SparkListenerStageCompleted","Stage Info":{"Stage ID":0,"Stage Attempt ID":0}}"#,
        r#"{"Event":"SparkListenerJobEnd","Job ID":0,"Completion Time":1900,"Job Result":{"Result":"JobSucceeded"}}"#,
        r#"{"Event":"SparkListenerExecutorRemoved","Timestamp":7000,"Executor ID":"0","Removed Reason":"idle"}"#,
        r#"{"Event":"SparkListenerJobStart","Job ID":1,"Submission Time":9000,"Stage Infos":[{"Stage ID":1},{"Stage ID":2}],"Properties":{"spark.jobGroup.id":"second burst"}}"#,
        r#"{"Event":"SparkListenerStageCompleted","Stage Info":{"Stage ID":2,"Stage Attempt ID":0}}"#,
    ];

    impl Facts {
        /// As after a first burst, and a second one that ran and skipped so many stages.
        pub fn with_bursts(run: u64, skipped: u64) -> Self {
            let mut facts = Self::default();
            let job = |group: &str, stages: Vec<u64>, begin_ms| Job {
                group: group.to_owned(),
                stages,
                submitted_ms: begin_ms,
                ended: Some((begin_ms + 8_000, true)),
            };
            facts.jobs.insert(0, job("first burst", vec![0], 12_000));
            facts.jobs.insert(1, job("second burst", (1..=run + skipped).collect(), 44_000));
            facts.stages_completed.extend(0..=run);
            facts
        }
    }

    #[test]
    fn follows_a_log_that_is_written_in_pieces_and_renamed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut log = EventLog::new(directory.path());
        log.read().expect("nothing there yet");
        let under_way = directory.path().join("app.inprogress");
        let mut file = File::create(&under_way).expect("create");
        let text = LOG.join("\n") + "\n";
        let (head, tail) = text.split_at(text.find("JobStart").expect("a job") + 20);
        file.write_all(head.as_bytes()).expect("write");
        log.read().expect("read");
        assert_eq!((log.facts.executors(), log.facts.has_worked()), (1, false));

        std::fs::rename(&under_way, directory.path().join("app")).expect("rename");
        file.write_all(tail.as_bytes()).expect("write");
        log.read().expect("read");
        assert_eq!((log.facts.executors(), log.facts.working()), (0, Some("second burst")));
        let first = log.facts.burst("first burst");
        assert_eq!((first.jobs, first.failed_jobs, first.stages_run, first.stages_skipped), (1, 0, 1, 0));
        assert_eq!((first.begin_ms, first.end_ms), (1100, 1900));
        let second = log.facts.burst("second burst");
        assert_eq!((second.failed_jobs, second.stages_run, second.stages_skipped), (1, 1, 1));
        assert_eq!(log.facts.stages_retried, 0);
    }
}
