//! `make bench-shuffle`: this shuffle service beside Spark's own, on the same files, under the same load, in one run.
//!
//! Every byte that either answers with is compared. Prints; asserts nothing of time.

mod data;
mod load;
mod peer;
mod sendfile;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use data::DataSet;
use load::{Load, Measured};
use peer::{Kind, Peer};

struct Case {
    block_bytes: usize,
    /// Blocks that one request asks for, as a reducer does with the outputs of one executor.
    blocks_per_fetch: usize,
    connections: usize,
    /// Map outputs that are asked for in turn; each is opened and its index read the first time.
    maps: usize,
}

const CASES: [Case; 9] = [
    Case { block_bytes: 1 << 10, blocks_per_fetch: 1, connections: 1, maps: 16 },
    Case { block_bytes: 1 << 10, blocks_per_fetch: 64, connections: 1, maps: 16 },
    Case { block_bytes: 1 << 10, blocks_per_fetch: 64, connections: 100, maps: 16 },
    Case { block_bytes: 1 << 10, blocks_per_fetch: 64, connections: 100, maps: 4000 },
    Case { block_bytes: 64 << 10, blocks_per_fetch: 16, connections: 1, maps: 16 },
    Case { block_bytes: 64 << 10, blocks_per_fetch: 16, connections: 100, maps: 16 },
    Case { block_bytes: 64 << 10, blocks_per_fetch: 1, connections: 1000, maps: 16 },
    Case { block_bytes: 4 << 20, blocks_per_fetch: 1, connections: 1, maps: 4 },
    Case { block_bytes: 4 << 20, blocks_per_fetch: 1, connections: 16, maps: 4 },
];

const ENCRYPTED_CASES: [Case; 3] = [
    Case { block_bytes: 1 << 10, blocks_per_fetch: 64, connections: 16, maps: 16 },
    Case { block_bytes: 64 << 10, blocks_per_fetch: 16, connections: 16, maps: 16 },
    Case { block_bytes: 4 << 20, blocks_per_fetch: 1, connections: 4, maps: 4 },
];

const REGISTERED: usize = 10_000;
const CONNECTIONS: usize = 1_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("serve") => peer::serve(&args[1..]),
        Some(jars) => {
            let seconds = args.get(1).map_or(Ok(3.0), |s| s.parse()).context("seconds")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run(PathBuf::from(jars), Duration::from_secs_f64(seconds)))
        }
        None => anyhow::bail!("usage: bench-shuffle SPARK-JARS [SECONDS-PER-CASE]"),
    }
}

async fn run(jars: PathBuf, duration: Duration) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("bench-shuffle-").tempdir()?;
    println!("Plain connections");
    let peers = [
        Peer::start(Kind::Bellows, &jars, scratch.path(), false).await?,
        Peer::start(Kind::Spark, &jars, scratch.path(), false).await?,
    ];
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = peers.each_ref().map(Peer::resident_bytes);
    compare(&peers, &CASES, scratch.path(), duration, None).await?;
    sendfile_bound(scratch.path(), duration)?;
    memory(&peers, scratch.path(), idle).await?;
    drop(peers);

    println!("\nEncrypted: AES-GCM, key derivation version 2");
    let peers = [
        Peer::start(Kind::Bellows, &jars, scratch.path(), true).await?,
        Peer::start(Kind::Spark, &jars, scratch.path(), true).await?,
    ];
    compare(&peers, &ENCRYPTED_CASES, scratch.path(), duration, Some(peer::SECRET)).await
}

async fn compare(
    peers: &[Peer; 2],
    cases: &[Case],
    scratch: &std::path::Path,
    duration: Duration,
    secret: Option<&'static str>,
) -> Result<()> {
    println!(
        "{:>8} {:>6} {:>5} {:>5}  {:8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>12} {:>10}",
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
        "CPU s/GB"
    );
    for (at, case) in cases.iter().enumerate() {
        let data =
            DataSet::create(scratch, &format!("{at}-{}", secret.is_some()), case.block_bytes, case.maps)?;
        let mut measured = Vec::new();
        for peer in peers {
            let load = Load {
                peer,
                data: &data,
                connections: case.connections,
                per_fetch: case.blocks_per_fetch,
                secret,
            };
            let m = load.run(duration).await.with_context(|| format!("{} under load", peer.kind.name()))?;
            print_row(case, peer.kind, &m);
            measured.push(m);
        }
        print_ratio(&measured[0], &measured[1]);
        data.remove()?;
    }
    Ok(())
}

fn print_row(case: &Case, kind: Kind, m: &Measured) {
    let seconds = m.elapsed.as_secs_f64();
    let bytes = m.blocks as f64 * case.block_bytes as f64;
    let ms = |quantile| m.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{:>8} {:>6} {:>5} {:>5}  {:8} {:>10.0} {:>9.1} {:>9.3} {:>9.3} {:>9.3} {:>12.2} {:>10.3}",
        case.block_bytes,
        case.blocks_per_fetch,
        case.connections,
        case.maps,
        kind.name(),
        m.blocks as f64 / seconds,
        bytes / seconds / 1e6,
        ms(0.5),
        ms(0.99),
        ms(1.0),
        m.cpu.as_secs_f64() * 1e6 / m.blocks as f64,
        m.cpu.as_secs_f64() / (bytes / 1e9),
    );
}

fn print_ratio(ours: &Measured, theirs: &Measured) {
    let rate = |m: &Measured| m.blocks as f64 / m.elapsed.as_secs_f64();
    let cpu = |m: &Measured| m.cpu.as_secs_f64() / m.blocks as f64;
    let p99 = |m: &Measured| m.latency_us.value_at_quantile(0.99) as f64;
    println!(
        "{:>28} throughput x{:.2}, p99 1/{:.2}, CPU per block 1/{:.1}",
        "ours against Spark's:",
        rate(ours) / rate(theirs),
        p99(theirs) / p99(ours),
        cpu(theirs) / cpu(ours)
    );
}

/// What the kernel gives when nobody speaks a protocol, with the same client at the other end.
fn sendfile_bound(scratch: &std::path::Path, duration: Duration) -> Result<()> {
    for (block_bytes, connections) in [(64 << 10, 1), (64 << 10, 16), (4 << 20, 1), (4 << 20, 16)] {
        let data = DataSet::create(scratch, "sendfile", block_bytes, 1)?;
        let bound = sendfile::measure(&data, connections, duration)?;
        println!(
            "bare sendfile of {block_bytes} bytes at a time on loopback, {connections} connections: {:.1} MB/s, {:.2} CPU us/block",
            bound.bytes_per_second / 1e6,
            bound.cpu_us_per_block
        );
        data.remove()?;
    }
    Ok(())
}

async fn memory(peers: &[Peer; 2], scratch: &std::path::Path, idle: [u64; 2]) -> Result<()> {
    let mut loaded = Vec::new();
    for peer in peers {
        let connections = load::occupy(peer, scratch, CONNECTIONS, REGISTERED).await?;
        loaded.push(peer.resident_bytes());
        drop(connections);
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "resident memory, MB: idle {:.1} against {:.1} (1/{:.1});",
        mb(idle[0]),
        mb(idle[1]),
        mb(idle[1]) / mb(idle[0])
    );
    println!(
        "  after the load, {CONNECTIONS} connections open and {REGISTERED} executors registered {:.1} against {:.1} (1/{:.1})",
        mb(loaded[0]),
        mb(loaded[1]),
        mb(loaded[1]) / mb(loaded[0])
    );
    Ok(())
}
