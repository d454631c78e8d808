//! `make bench-shuffle`: this shuffle service beside Spark's own, on the same files, under the same load, in one run;
//! and beside a bare server that only reads, encrypts and sends, which says what is left to gain.
//!
//! Every byte that any of them answers with is compared. Prints; asserts nothing of time.

mod bare;
mod client;
mod data;
mod load;
mod peer;
mod spark_client;

use std::time::Duration;

use anyhow::{Context, Result};

use data::{DataSet, PerFetch};
use load::{Load, Measured};
use peer::{Kind, Peer, Programs};
use spark_client::SparkLoad;

struct Case {
    block_bytes: usize,
    per_fetch: PerFetch,
    connections: usize,
    /// Map outputs that are asked for in turn; each is opened and its index read the first time.
    maps: usize,
    how: How,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// As many requests as are answered.
    Full,
    /// The same rate for all: this share of what Spark's service answers at most.
    Paced(f64),
    /// Every map output once, after the kernel has forgotten the files.
    ColdDisk,
    /// As [`How::Full`], from Spark's own client.
    SparkClient,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const fn case(
    block_bytes: usize,
    blocks_per_fetch: usize,
    connections: usize,
    maps: usize,
    how: How,
) -> Case {
    Case { block_bytes, per_fetch: PerFetch { maps: 1, blocks: blocks_per_fetch }, connections, maps, how }
}

impl Case {
    /// One block each of many map outputs, as a reducer asks.
    const fn of_many_maps(mut self) -> Case {
        self.per_fetch = PerFetch { maps: self.per_fetch.blocks, blocks: 1 };
        self
    }
}

const CASES: [Case; 18] = [
    case(KIB, 1, 1, 16, How::Full),
    case(KIB, 64, 1, 16, How::Full),
    case(KIB, 64, 100, 16, How::Full),
    // More map outputs than are kept open: every fetch opens its files and reads an index.
    case(KIB, 64, 100, 40_000, How::Full),
    case(KIB, 64, 100, 4000, How::Full).of_many_maps(),
    case(KIB, 64, 100, 40_000, How::Full).of_many_maps(),
    case(KIB, 64, 16, 16, How::SparkClient),
    case(64 * KIB, 1, 1, 16, How::Full),
    case(64 * KIB, 16, 1, 16, How::Full),
    case(64 * KIB, 16, 100, 16, How::Full),
    case(64 * KIB, 16, 16, 16, How::SparkClient),
    case(64 * KIB, 1, 1000, 16, How::Full),
    case(64 * KIB, 1, 1000, 16, How::Paced(0.6)),
    case(64 * KIB, 64, 16, 64, How::ColdDisk),
    case(4 * MIB, 1, 1, 4, How::Full),
    case(4 * MIB, 1, 16, 4, How::Full),
    case(4 * MIB, 1, 16, 4, How::SparkClient),
    case(4 * MIB, 4, 4, 16, How::ColdDisk),
];

const ENCRYPTED_CASES: [Case; 4] = [
    case(KIB, 64, 16, 16, How::Full),
    case(64 * KIB, 16, 16, 16, How::Full),
    case(4 * MIB, 1, 1, 4, How::Full),
    case(4 * MIB, 1, 4, 4, How::Full),
];

/// In turn, so that a slow moment of the machine falls on all services.
const ROUNDS: u32 = 3;
const JIT_WARM_UP: Duration = Duration::from_secs(6);
const REGISTERED: usize = 10_000;
const CONNECTIONS: usize = 1_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("bare") => bare::serve(&args[1..]),
        Some(bellows) => {
            let programs = Programs {
                bellows: bellows.into(),
                jars: args.get(1).context("the directory of Spark's jars")?.into(),
            };
            let seconds = args.get(2).map_or(Ok(6.0), |s| s.parse()).context("seconds")?;
            Bench::new(programs, Duration::from_secs_f64(seconds), args.get(3).cloned())?.run()
        }
        None => anyhow::bail!("usage: bench-shuffle BELLOWS SPARK-JARS [SECONDS-PER-CASE [CASE|memory]]"),
    }
}

struct Bench {
    programs: Programs,
    duration: Duration,
    /// One case alone, by its number, or the memory.
    only: Option<String>,
    scratch: tempfile::TempDir,
    spark_load: SparkLoad,
}

impl Bench {
    fn new(programs: Programs, duration: Duration, only: Option<String>) -> Result<Bench> {
        let scratch = tempfile::Builder::new().prefix("bench-shuffle-").tempdir()?;
        let spark_load = SparkLoad::compile(&programs.jars, scratch.path())?;
        Ok(Bench { programs, duration, only, scratch, spark_load })
    }

    fn run(&self) -> Result<()> {
        if self.wants(0..CASES.len()) {
            self.plain()?;
        }
        if self.wants(CASES.len()..CASES.len() + ENCRYPTED_CASES.len()) {
            self.encrypted()?;
        }
        if self.only.as_deref().is_none_or(|only| only == "memory") {
            self.memory()?;
        }
        Ok(())
    }

    fn wants(&self, mut cases: std::ops::Range<usize>) -> bool {
        self.only.as_deref().is_none_or(|only| cases.any(|number| number.to_string() == only))
    }

    fn plain(&self) -> Result<()> {
        println!("Plain connections");
        let peers = [self.start(Kind::Bellows, false)?, self.start(Kind::Spark, false)?];
        let bare = self.start(Kind::Bare, false)?;
        self.warm_up(&peers, None)?;
        self.compare([&peers[0], &peers[1], &bare], &CASES, 0, None)?;
        if self.only.is_none() {
            let after = [self.occupied(&peers[0])?, self.occupied(&peers[1])?];
            print_memory("the same after all of this load", after);
        }
        Ok(())
    }

    fn encrypted(&self) -> Result<()> {
        println!("\nEncrypted: AES-GCM, key derivation version 2");
        let peers = [self.start(Kind::Bellows, true)?, self.start(Kind::Spark, true)?];
        let bare = self.start(Kind::Bare, true)?;
        self.warm_up(&peers, Some(peer::SECRET))?;
        self.compare([&peers[0], &peers[1], &bare], &ENCRYPTED_CASES, CASES.len(), Some(peer::SECRET))
    }

    fn memory(&self) -> Result<()> {
        println!("\nResident memory");
        let peers = [self.start(Kind::Bellows, false)?, self.start(Kind::Spark, false)?];
        std::thread::sleep(Duration::from_secs(2));
        print_memory("idle", peers.each_ref().map(Peer::resident_bytes));
        let full = [self.occupied(&peers[0])?, self.occupied(&peers[1])?];
        print_memory(&format!("{CONNECTIONS} connections open, {REGISTERED} executors registered"), full);
        Ok(())
    }

    fn occupied(&self, peer: &Peer) -> Result<u64> {
        load::occupied_bytes(peer, self.scratch.path(), CONNECTIONS, REGISTERED)
    }

    fn start(&self, kind: Kind, encrypted: bool) -> Result<Peer> {
        Peer::start(kind, &self.programs, self.scratch.path(), encrypted)
    }

    /// A JVM compiles what it does often: unmeasured, until it has.
    fn warm_up(&self, peers: &[Peer; 2], secret: Option<&'static str>) -> Result<()> {
        for (block_bytes, blocks) in [(KIB, 64), (64 * KIB, 16)] {
            let data =
                DataSet::create(self.scratch.path(), &format!("warm-up-{block_bytes}"), block_bytes, 16)?;
            for peer in peers {
                let (connections, data, per_fetch) = (16, &data, PerFetch { maps: 1, blocks });
                let load = Load { peer, data, connections, per_fetch, secret, rate: None, cold: false };
                load.run(JIT_WARM_UP)?;
            }
            data.remove()?;
        }
        Ok(())
    }

    fn compare(
        &self,
        peers: [&Peer; 3],
        cases: &[Case],
        first: usize,
        secret: Option<&'static str>,
    ) -> Result<()> {
        println!(
            "{:>2} {:>8} {:>6} {:>5} {:>5}  {:10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>12} {:>10} {:>11}",
            "",
            "block",
            "/fetch",
            "conns",
            "maps",
            "service",
            "blocks/s",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "max ms",
            "CPU us/block",
            "CPU s/GB",
            "client s/GB"
        );
        for (at, case) in cases.iter().enumerate() {
            let number = first + at;
            if !self.wants(number..number + 1) {
                continue;
            }
            println!("{}", case.how.text());
            let data =
                DataSet::create(self.scratch.path(), &format!("case-{number}"), case.block_bytes, case.maps)?;
            let rate = match case.how {
                How::Paced(share) => {
                    let most = self.measure(peers[1], &data, case, secret, None)?;
                    Some(share * most.rate() / case.per_fetch.total() as f64)
                }
                _ => None,
            };
            let mut measured = Vec::new();
            for round in 0..ROUNDS {
                for (at, peer) in peers.into_iter().enumerate() {
                    let m = self
                        .measure(peer, &data, case, secret, rate)
                        .with_context(|| format!("case {number}, {}", peer.kind.name()))?;
                    if round == 0 {
                        measured.push(m);
                    } else {
                        measured[at].add(m)?;
                    }
                }
            }
            for (peer, m) in peers.into_iter().zip(&measured) {
                print_row(number, case, peer.kind, m);
            }
            print_ratio(&measured[0], &measured[1], "Spark's");
            print_ratio(&measured[0], &measured[2], "the bare one");
            data.remove()?;
        }
        Ok(())
    }

    fn measure(
        &self,
        peer: &Peer,
        data: &DataSet,
        case: &Case,
        secret: Option<&'static str>,
        rate: Option<f64>,
    ) -> Result<Measured> {
        if case.how == How::SparkClient {
            let (connections, per_fetch) = (case.connections, case.per_fetch.total());
            return self.spark_load.run(peer, data, connections, per_fetch, self.duration / ROUNDS);
        }
        let cold = case.how == How::ColdDisk;
        if cold {
            data.evict()?;
        }
        let load =
            Load { peer, data, connections: case.connections, per_fetch: case.per_fetch, secret, rate, cold };
        // A pass over all files ends by itself.
        load.run(if cold { Duration::from_secs(300) } else { self.duration / ROUNDS })
    }
}

impl How {
    fn text(self) -> String {
        match self {
            How::Full => "as many requests as are answered".to_owned(),
            How::Paced(share) => {
                format!("{:.0} % of the requests that Spark's service can answer", share * 100.0)
            }
            How::ColdDisk => "every map output once, from the disk".to_owned(),
            How::SparkClient => "from Spark's own client".to_owned(),
        }
    }
}

impl Measured {
    /// Another round of the same.
    fn add(&mut self, more: Measured) -> Result<()> {
        self.blocks += more.blocks;
        self.elapsed += more.elapsed;
        self.cpu += more.cpu;
        self.client_cpu = self.client_cpu.zip(more.client_cpu).map(|(one, other)| one + other);
        self.latency_us.add(more.latency_us)?;
        Ok(())
    }

    /// Blocks a second.
    fn rate(&self) -> f64 {
        self.blocks as f64 / self.elapsed.as_secs_f64()
    }

    fn cpu_us_per_block(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.blocks as f64
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }
}

fn print_memory(what: &str, bytes: [u64; 2]) {
    let mb = bytes.map(|bytes| bytes as f64 / 1e6);
    println!("  {what}: {:.1} MB against {:.1} MB (1/{:.1})", mb[0], mb[1], mb[1] / mb[0]);
}

fn print_row(number: usize, case: &Case, kind: Kind, m: &Measured) {
    let block_bytes = case.block_bytes as f64;
    let bytes = m.blocks as f64 * block_bytes;
    println!(
        "{number:>2} {:>8} {:>6} {:>5} {:>5}  {:10} {:>10.0} {:>9.1} {:>9.3} {:>9.3} {:>9.3} {:>12.2} {:>10.3} {:>11}",
        case.block_bytes,
        format!("{}x{}", case.per_fetch.maps, case.per_fetch.blocks),
        case.connections,
        case.maps,
        kind.name(),
        m.rate(),
        m.rate() * block_bytes / 1e6,
        m.ms(0.5),
        m.ms(0.99),
        m.ms(1.0),
        m.cpu_us_per_block(),
        m.cpu_us_per_block() * 1e3 / block_bytes,
        m.client_cpu.map_or_else(String::new, |cpu| format!("{:.3}", cpu.as_secs_f64() * 1e9 / bytes)),
    );
}

fn print_ratio(ours: &Measured, theirs: &Measured, name: &str) {
    println!(
        "{:>37} throughput x{:.2}, p50 1/{:.2}, p99 1/{:.2}, CPU per block 1/{:.2}",
        format!("ours against {name}:"),
        ours.rate() / theirs.rate(),
        theirs.ms(0.5) / ours.ms(0.5),
        theirs.ms(0.99) / ours.ms(0.99),
        theirs.cpu_us_per_block() / ours.cpu_us_per_block()
    );
}
