//! The services, each a process of its own, and what the kernel says that they use.
#![allow(clippy::disallowed_methods, reason = "a bench connects to addresses, not to names")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Of this measurement only; it protects nothing.
pub const SECRET: &str = "bench-shuffle";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bellows,
    Spark,
    /// See [`crate::bare`].
    Bare,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bellows => "bellows",
            Kind::Spark => "spark",
            Kind::Bare => "bare",
        }
    }
}

/// What is measured: the release binary, and the directory of Spark's jars.
pub struct Programs {
    pub bellows: PathBuf,
    pub jars: PathBuf,
}

pub struct Peer {
    pub kind: Kind,
    pub address: SocketAddr,
    child: Child,
}

impl Peer {
    pub fn start(kind: Kind, programs: &Programs, scratch: &Path, encrypted: bool) -> Result<Peer> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let work = tempfile::Builder::new().prefix(kind.name()).tempdir_in(scratch)?.keep();
        let mut command = match kind {
            Kind::Bellows => bellows(&programs.bellows, port, scratch, &work, encrypted)?,
            Kind::Spark => spark(&programs.jars, port, scratch, encrypted),
            Kind::Bare => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("bare").arg(port.to_string());
                if encrypted {
                    command.arg("encrypted");
                }
                command
            }
        };
        let log = fs::File::create(work.join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let peer = Peer { kind, address: SocketAddr::from(([127, 0, 0, 1], port)), child };
        for _ in 0..600 {
            if std::net::TcpStream::connect(peer.address).is_ok() {
                return Ok(peer);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("{} does not listen; its log is {}", kind.name(), work.join("log").display())
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().context("stat")?.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_nanos(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second()))
    }

    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As an operator starts it.
fn bellows(program: &Path, port: u16, scratch: &Path, work: &Path, encrypted: bool) -> Result<Command> {
    let mut command = Command::new(program);
    command.args(["shuffle", "--ip", "127.0.0.1", "--port", &port.to_string()]);
    command.arg("--work-dir").arg(work).arg("--shuffle-dirs").arg(scratch);
    if encrypted {
        let secrets_file = work.join("secrets");
        fs::write(&secrets_file, SECRET)?;
        fs::set_permissions(&secrets_file, fs::Permissions::from_mode(0o600))?;
        command.arg("--secrets-file").arg(secrets_file);
    }
    Ok(command)
}

/// Spark's service takes registrations below its own local directories only.
fn spark(jars: &Path, port: u16, local_dir: &Path, encrypted: bool) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx1g", &format!("-Dspark.shuffle.service.port={port}")]);
    command.arg(format!("-Dspark.local.dir={}", local_dir.display())).env("SPARK_LOCAL_DIRS", local_dir);
    if encrypted {
        command.env("_SPARK_AUTH_SECRET", SECRET).args([
            "-Dspark.authenticate=true",
            "-Dspark.network.crypto.enabled=true",
            "-Dspark.network.crypto.authEngineVersion=2",
            "-Dspark.network.crypto.cipher=AES/GCM/NoPadding",
        ]);
    }
    command.args(["-cp", &format!("{}/*", jars.display()), "org.apache.spark.deploy.ExternalShuffleService"]);
    command
}
