//! Load from Spark's own client class, in a JVM of its own (`java/SparkLoad.java`).

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::data::DataSet;
use crate::load::{Measured, register};
use crate::peer::Peer;

pub struct SparkLoad {
    class_path: String,
}

impl SparkLoad {
    /// Compiles it; needs a JDK.
    pub fn compile(jars: &Path, scratch: &Path) -> Result<SparkLoad> {
        let classes = scratch.join("classes");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shuffle/java/SparkLoad.java");
        let mut javac = Command::new("javac");
        javac.args(["-nowarn", "-cp"]).arg(jars.join("*")).arg("-d").arg(&classes).arg(source);
        ensure!(javac.status().context("javac")?.success(), "javac");
        Ok(SparkLoad { class_path: format!("{}/*:{}", jars.display(), classes.display()) })
    }

    pub fn run(
        &self,
        peer: &Peer,
        data: &DataSet,
        connections: usize,
        per_fetch: usize,
        duration: Duration,
    ) -> Result<Measured> {
        register(peer, data, None)?;
        let latencies: PathBuf = data.dir().join("latencies");
        let mut command = Command::new("java");
        command.args(["-Xmx2g", "-cp", &self.class_path, "SparkLoad"]);
        command.arg(peer.address.port().to_string()).arg(&data.app);
        for number in [connections, per_fetch, data.maps, data.blocks(), data.block_bytes] {
            command.arg(number.to_string());
        }
        command.arg(duration.as_millis().to_string()).arg(data.file()).arg(&latencies);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("java")?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let measured = measure(&mut child, &mut lines, peer, &latencies);
        if measured.is_err() {
            let _ = child.kill();
        }
        ensure!(child.wait()?.success() || measured.is_err(), "the JVM failed");
        measured
    }
}

fn measure(
    child: &mut Child,
    lines: &mut Lines<BufReader<ChildStdout>>,
    peer: &Peer,
    latencies: &Path,
) -> Result<Measured> {
    let mut said = |word: &str| -> Result<String> {
        for line in lines.by_ref() {
            let line = line?;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.to_owned());
            }
            ensure!(!line.starts_with("failed"), "{line}");
        }
        anyhow::bail!("the JVM ended with {:?} before it said {word}", child.try_wait())
    };
    said("warm")?;
    let before = peer.cpu()?;
    let done = said("done ")?;
    let cpu = peer.cpu()? - before;
    let mut numbers = done.split(' ').map(str::parse::<u64>);
    let (Some(Ok(blocks)), Some(Ok(nanos))) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("done {done}");
    };
    let mut latency_us = Histogram::new(3)?;
    for line in fs::read_to_string(latencies)?.lines() {
        latency_us.record(line.parse()?)?;
    }
    Ok(Measured { blocks, elapsed: Duration::from_nanos(nanos), cpu, client_cpu: None, latency_us })
}
