//! The command line. Flags carry the names of Mesos and Spark; nothing here opens a file or decides.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no master answers, 4 no such framework or task,
            5 something is missing on this machine (Java, Spark), 130 interrupted.
            `bellows submit` ends with the code of spark-submit.";

/// Runs unmodified Apache Spark elastically on machines you own.
#[derive(Debug, Parser)]
#[command(name = "bellows", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A whole cluster in one process: a master, agents and a shuffle service
    Up(UpArgs),
    /// A real PySpark application on such a cluster: watch its executors come and go
    Demo(DemoArgs),
    /// The stock spark-submit, with library, master and elastic settings filled in where you set none
    Submit(SubmitArgs),

    /// List the frameworks: who holds how much
    Ps(ReadArgs),
    /// List the agents: what they offer and what is used
    Agents(ReadArgs),
    /// List the tasks: a Spark executor is one
    Tasks(TasksArgs),
    /// End a framework: its tasks are killed, its shuffle files deleted
    Kill(KillArgs),
    /// Print a task's output
    Logs(LogsArgs),
    /// Say who leads
    Resolve(ResolveArgs),

    /// Run a master
    Master(MasterArgs),
    /// Run an agent, one on each machine
    Agent(AgentArgs),
    /// Run the shuffle service, one on each machine, or ask one for its state
    Shuffle(ShuffleArgs),
}

/// Whom the HTTP ports answer beside those who use an IP address, the machine's name or its `--hostname`.
#[derive(Debug, Clone, Default, Args)]
pub struct AllowHostArgs {
    /// Another name that clients reach this by, as that of a proxy or an alias; may be given several times
    #[arg(long = "allow-host", value_name = "NAME", value_delimiter = ',', env = "BELLOWS_ALLOW_HOST")]
    pub allow_hosts: Vec<String>,
}

#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub size: SizeArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
    #[command(flatten)]
    pub clients: ShuffleClientArgs,
    #[command(flatten)]
    pub hosts: AllowHostArgs,
    #[command(flatten)]
    pub offers: OfferArgs,
    /// Where everything is kept [default: $XDG_STATE_HOME/bellows, else ~/.local/state/bellows]
    #[arg(long, value_name = "DIR", env = "BELLOWS_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
}

/// How large the embedded cluster is: figures that it offers, whatever the machine has.
#[derive(Debug, Clone, Args)]
pub struct SizeArgs {
    /// Number of agents
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub agents: u16,
    /// CPUs that each agent offers
    #[arg(long, default_value_t = 2.0, value_name = "N", value_parser = positive)]
    pub cpus: f64,
    /// Memory that each agent offers, in MB
    #[arg(long, default_value_t = 4096.0, value_name = "MB", value_parser = positive)]
    pub mem: f64,
}

/// What the master does with offers.
#[derive(Debug, Clone, Copy, Args)]
pub struct OfferArgs {
    /// Take an offer back that a framework holds for so long, as in 30s or 5m, once another framework wants it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = age, env = "BELLOWS_OFFER_TIMEOUT")]
    pub offer_timeout: Age,
}

/// Where the embedded cluster listens. A port of 0 takes any free one.
#[derive(Debug, Clone, Args)]
pub struct ListenArgs {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), env = "BELLOWS_IP")]
    pub ip: IpAddr,
    /// The master's port
    #[arg(long, default_value_t = 5050, env = "BELLOWS_PORT")]
    pub port: u16,
    /// The first agent's port; the others follow it
    #[arg(long, default_value_t = 5051, value_name = "PORT", env = "BELLOWS_AGENT_PORT")]
    pub agent_port: u16,
    /// The shuffle service's port
    #[arg(long, default_value_t = 7337, value_name = "PORT", env = "BELLOWS_SHUFFLE_PORT")]
    pub shuffle_port: u16,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub size: SizeArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Where Spark and the data are kept once downloaded [default: $XDG_CACHE_HOME/bellows, else ~/.cache/bellows]
    #[arg(long, value_name = "DIR", env = "BELLOWS_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Only download what is missing
    #[arg(long)]
    pub fetch_only: bool,
    /// Leave the cluster and its files there at the end, until Ctrl-C
    #[arg(long, conflicts_with = "fetch_only")]
    pub keep: bool,
    /// Lines of text, also on a terminal
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Print the command instead of running it
    #[arg(long)]
    pub print: bool,
    /// Everything that spark-submit takes; what you set stays as you set it
    #[arg(value_name = "ARGS", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Args)]
pub struct MasterAddressArg {
    /// host:port of a master, or zk://host:port,…/path
    #[arg(long, default_value = "127.0.0.1:5050", env = "BELLOWS_MASTER")]
    pub master: String,
}

#[derive(Debug, Args)]
pub struct ReadArgs {
    #[command(flatten)]
    pub address: MasterAddressArg,
    /// Those that ended, too
    #[arg(long, short)]
    pub all: bool,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TasksArgs {
    #[command(flatten)]
    pub read: ReadArgs,
    /// Only of this framework: its id, the id's end, or its name
    #[arg(long, value_name = "FRAMEWORK")]
    pub framework: Option<String>,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    pub address: MasterAddressArg,
    /// A framework's id, the id's end, or its name
    pub framework: String,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub address: MasterAddressArg,
    /// The task's id
    pub task: String,
    /// The task's framework, where several have a task of this id: its id, the id's end, or its name
    #[arg(long, value_name = "FRAMEWORK")]
    pub framework: Option<String>,
    /// Its standard error instead of its standard output
    #[arg(long)]
    pub stderr: bool,
    /// Print what is added, until the task has ended
    #[arg(long, short)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// host:port of a master, or zk://host:port,…/path
    pub master: String,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = positive)]
    pub timeout: f64,
}

#[derive(Debug, Args)]
pub struct MasterArgs {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED), env = "BELLOWS_IP")]
    pub ip: IpAddr,
    #[arg(long, default_value_t = 5050, env = "BELLOWS_PORT")]
    pub port: u16,
    /// The name that others reach this machine by [default: the machine's full name]
    #[arg(long, env = "BELLOWS_HOSTNAME")]
    pub hostname: Option<String>,
    #[command(flatten)]
    pub advertise: AdvertiseArgs,
    #[command(flatten)]
    pub hosts: AllowHostArgs,
    #[command(flatten)]
    pub offers: OfferArgs,
}

/// The address and port that others are told, where they differ from those listened on: behind NAT, or with several
/// networks.
#[derive(Debug, Clone, Default, Args)]
pub struct AdvertiseArgs {
    /// The address that others reach this one by [default: --ip, or, where that is any, the one that the master or this
    /// machine's name and routes show]
    #[arg(long, value_name = "IP", env = "BELLOWS_ADVERTISE_IP")]
    pub advertise_ip: Option<IpAddr>,
    /// The port that others reach this one by [default: --port]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), env = "BELLOWS_ADVERTISE_PORT")]
    pub advertise_port: Option<u16>,
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub address: MasterAddressArg,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED), env = "BELLOWS_IP")]
    pub ip: IpAddr,
    #[arg(long, default_value_t = 5051, env = "BELLOWS_PORT")]
    pub port: u16,
    /// The name that others reach this machine by; Spark finds the shuffle service there, and HDFS' blocks are local where
    /// it is the name that HDFS has [default: the machine's full name]
    #[arg(long, env = "BELLOWS_HOSTNAME")]
    pub hostname: Option<String>,
    #[command(flatten)]
    pub advertise: AdvertiseArgs,
    #[command(flatten)]
    pub hosts: AllowHostArgs,
    /// Where sandboxes and the checkpoint are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bellows/agent", env = "BELLOWS_WORK_DIR")]
    pub work_dir: PathBuf,
    /// What to offer, as in "cpus:8;mem:16384;ports:[31000-32000]"; or a JSON array of Mesos' Resource; or file:///PATH
    /// to either. What it does not name is detected: CPUs and memory that the machine or the container has (less 1 GB),
    /// the disk of the work directory (less 5 GB), ports 31000 to 32000. cpus:0 offers none
    #[arg(long, env = "BELLOWS_RESOURCES")]
    pub resources: Option<String>,
    /// What to say about this machine, as in "rack:a1;gpu:none", or file:///PATH to it
    #[arg(long, env = "BELLOWS_ATTRIBUTES")]
    pub attributes: Option<String>,
    /// Directories for shuffle files, one on each disk [default: shuffle in the work directory]
    #[arg(long, value_name = "DIR,…", value_delimiter = ',', env = "BELLOWS_SHUFFLE_DIRS")]
    pub shuffle_dirs: Vec<PathBuf>,
    /// The shuffle service's admin socket on this machine
    #[arg(long, value_name = "PATH", env = "BELLOWS_SHUFFLE_SOCKET")]
    pub shuffle_socket: Option<PathBuf>,
    /// Run every task as the agent's own user. Without it, an agent that is root runs a task as the user that its command
    /// or its framework names (Spark: HADOOP_USER_NAME, else who runs the driver)
    #[arg(long, env = "BELLOWS_NO_SWITCH_USER")]
    pub no_switch_user: bool,
    /// What tasks find in their environment, as in '{"PATH": "/usr/bin:/bin", "HOME": "/srv/spark"}', or file:///PATH to
    /// it [default: the agent's PATH, LANG, LC_ALL, TZ, JAVA_HOME, and its HOME for tasks of its own user]. To this come
    /// LIBPROCESS_*, MESOS_*, PWD and SPARK_EXECUTOR_DIRS; what the task itself sets wins
    #[arg(long, value_name = "JSON", env = "BELLOWS_EXECUTOR_ENVIRONMENT")]
    pub executor_environment: Option<String>,
    /// How large a task's stdout and stderr may become before they are rotated, as in 10MB; 0B: never. stdout becomes
    /// stdout.1, that stdout.2, and so on
    #[arg(long, value_name = "SIZE", default_value = "10MB", value_parser = size, env = "BELLOWS_MAX_OUTPUT_SIZE")]
    pub max_output_size: u64,
    /// How many old ones of each are kept
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(0..=1000),
        env = "BELLOWS_MAX_OUTPUT_FILES")]
    pub max_output_files: u32,
    #[command(flatten)]
    pub collection: CollectionArgs,
}

/// When an agent deletes the sandboxes of tasks that have ended.
#[derive(Debug, Args)]
pub struct CollectionArgs {
    /// How long a sandbox is kept on an empty disk, as in 36h or 7d; the fuller the disk, the shorter
    #[arg(long, value_name = "AGE", default_value = "7d", value_parser = age, env = "BELLOWS_GC_DELAY")]
    pub gc_delay: Age,
    /// The part of the disk that is to stay free. Only when it does not, sandboxes go whose tasks failed within the last
    /// hour
    #[arg(long, value_name = "PART", default_value_t = 0.1, value_parser = part, env = "BELLOWS_GC_DISK_HEADROOM")]
    pub gc_disk_headroom: f64,
    /// How often the disk is looked at, as in 60s
    #[arg(long, value_name = "AGE", default_value = "60s", value_parser = age, env = "BELLOWS_DISK_WATCH_INTERVAL")]
    pub disk_watch_interval: Age,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ShuffleArgs {
    #[command(subcommand)]
    pub command: Option<ShuffleCommand>,
    #[command(flatten)]
    pub serve: ShuffleServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum ShuffleCommand {
    /// Print the essentials of a service on this machine
    Status(ShuffleStatusArgs),
    /// Forget an application and delete its files, where nobody else tells the service that it has ended
    Remove(ShuffleRemoveArgs),
}

/// What the shuffle service asks of its clients, and keeps for them.
#[derive(Debug, Clone, Default, Args)]
pub struct ShuffleClientArgs {
    /// Serve only clients that prove to know their application's secret, as with spark.authenticate. A secret a line:
    /// SECRET for all applications, or APPLICATION SECRET; read again when it changes. Only its owner may access it
    #[arg(long, value_name = "FILE", env = "BELLOWS_SECRETS_FILE")]
    pub secrets_file: Option<PathBuf>,
    /// Of these, refuse those that do not encrypt, as with spark.network.sasl.serverAlwaysEncrypt
    #[arg(long, env = "BELLOWS_ALWAYS_ENCRYPT")]
    pub always_encrypt: bool,
    /// Of these, refuse those without spark.network.crypto.enabled, as with spark.network.crypto.saslFallback=false
    #[arg(long, env = "BELLOWS_NO_SASL_FALLBACK")]
    pub no_sasl_fallback: bool,
    /// Keep an executor's cached RDD blocks on disk when it goes, for spark.shuffle.service.fetch.rdd.enabled
    #[arg(long, env = "BELLOWS_KEEP_RDD_BLOCKS")]
    pub keep_rdd_blocks: bool,
}

#[derive(Debug, Args)]
pub struct ShuffleServeArgs {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED), env = "BELLOWS_IP")]
    pub ip: IpAddr,
    #[arg(long, default_value_t = 7337, env = "BELLOWS_SHUFFLE_PORT")]
    pub port: u16,
    /// Where registrations are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/bellows/shuffle", env = "BELLOWS_WORK_DIR")]
    pub work_dir: PathBuf,
    /// The admin socket, for the agent, `shuffle status` and `shuffle remove` [default: admin.sock in the work
    /// directory]
    #[arg(long, value_name = "PATH", env = "BELLOWS_SHUFFLE_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Serve files below these directories only; may be left out only where --ip is a loopback address
    #[arg(long, value_name = "DIR,…", value_delimiter = ',', env = "BELLOWS_SHUFFLE_DIRS")]
    pub shuffle_dirs: Vec<PathBuf>,
    /// Serve /metrics and /v1/status on this port
    #[arg(long, value_name = "PORT", env = "BELLOWS_METRICS_PORT")]
    pub metrics_port: Option<u16>,
    #[command(flatten)]
    pub hosts: AllowHostArgs,
    /// Delete an application's files when its driver falls silent: for Mesos clusters without Bellows' agents
    #[arg(long, env = "BELLOWS_HEARTBEAT_CLEANUP")]
    pub heartbeat_cleanup: bool,
    /// Delete what nobody remembers below --shuffle-dirs when nothing was written there for so long, as in 36h or 7d. Only
    /// where every application that writes there uses this service; agents see to their directories themselves
    #[arg(long, value_name = "AGE", default_value = "never", value_parser = age, env = "BELLOWS_ORPHAN_AGE")]
    pub orphan_age: Age,
    /// Connections that may be open at once
    #[arg(long, value_name = "N", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..),
        env = "BELLOWS_MAX_CONNECTIONS")]
    pub max_connections: u32,
    #[command(flatten)]
    pub clients: ShuffleClientArgs,
    /// Speak TLS (Spark 4's spark.ssl.rpc.enabled) with this certificate, followed by those that vouch for it (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "BELLOWS_TLS_CERTIFICATE")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key, not encrypted (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate", env = "BELLOWS_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct ShuffleSocketArg {
    /// The service's admin socket [default: the first that answers of /var/lib/bellows/shuffle/admin.sock, of
    /// `bellows up` in its default directory, and those that this machine's agents of --master use]
    #[arg(long, value_name = "PATH", env = "BELLOWS_SHUFFLE_SOCKET")]
    pub socket: Option<PathBuf>,
    #[command(flatten)]
    pub address: MasterAddressArg,
}

#[derive(Debug, Args)]
pub struct ShuffleRemoveArgs {
    #[command(flatten)]
    pub socket: ShuffleSocketArg,
    /// The application's id, as `shuffle status` shows it
    pub application: String,
}

#[derive(Debug, Args)]
pub struct ShuffleStatusArgs {
    #[command(flatten)]
    pub socket: ShuffleSocketArg,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("must be a number above 0".to_owned()),
    }
}

/// Mesos' way to write a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_bytes = match &text[number.len()..] {
        "B" => Some(1),
        "KB" => Some(1 << 10),
        "MB" => Some(1 << 20),
        "GB" => Some(1 << 30),
        "TB" => Some(1 << 40),
        _ => None,
    };
    let bytes = unit_bytes.and_then(|unit: u64| number.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| "a whole number with a unit (B, KB, MB, GB, TB)".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

/// How old something may become; nothing where it may stay for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age(pub Option<Duration>);

/// Spark's way to write a time, without the units that make no sense for an age.
fn age(text: &str) -> Result<Age, String> {
    if text == "never" {
        return Ok(Age(None));
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_seconds = match &text[number.len()..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_seconds)) {
        Some(seconds) if seconds > 0 => Ok(Age(Some(Duration::from_secs(seconds)))),
        _ => Err("a number above 0 with a unit (s, m, h, d), or never".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(std::iter::once("bellows").chain(line.split_whitespace())).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_takes_the_field_notes_size_by_default() {
        let Ok(Command::Up(up)) = parse("up --agent-port 0") else { panic!("up") };
        assert_eq!((up.size.agents, up.size.cpus, up.size.mem), (3, 2.0, 4096.0));
        assert_eq!((up.listen.port, up.listen.agent_port, up.listen.shuffle_port), (5050, 0, 7337));
        assert!(up.listen.ip.is_loopback());
    }

    #[test]
    fn submit_hands_everything_on() {
        let Ok(Command::Submit(submit)) = parse("submit --conf a=b --master x app.py --print --help") else {
            panic!("submit")
        };
        assert!(!submit.print);
        assert_eq!(submit.arguments, ["--conf", "a=b", "--master", "x", "app.py", "--print", "--help"]);
        let Ok(Command::Submit(submit)) = parse("submit --print --verbose app.py") else { panic!("submit") };
        assert!(submit.print);
        assert_eq!(submit.arguments, ["--verbose", "app.py"]);
    }

    #[test]
    fn shuffle_serves_or_tells() {
        let Ok(Command::Shuffle(shuffle)) = parse("shuffle --port 0 --shuffle-dirs /a,/b") else {
            panic!("shuffle")
        };
        assert!(shuffle.command.is_none());
        assert_eq!(shuffle.serve.shuffle_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
        for line in ["shuffle status --json", "shuffle remove app-1 --socket /a"] {
            assert!(
                matches!(parse(line), Ok(Command::Shuffle(ShuffleArgs { command: Some(_), .. }))),
                "{line}"
            );
        }
    }

    #[test]
    fn an_age_has_a_unit() {
        let hours = |hours: u64| Ok(Age(Some(Duration::from_secs(hours * 3600))));
        assert_eq!([age("36h"), age("7d"), age("60m")], [hours(36), hours(7 * 24), hours(1)]);
        assert_eq!(age("never"), Ok(Age(None)));
        for nonsense in ["", "7", "d", "0d", "-1d", "1.5d", "7 d", "1w", "99999999999999999d"] {
            assert!(age(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "up --agents 0",
            "up --cpus -1",
            "up --mem NaN",
            "submit",
            "kill",
            "demo --keep --fetch-only",
            "agent --gc-disk-headroom 1.5",
            "agent --gc-disk-headroom nan",
            "agent --max-output-size 10",
            "agent --max-output-size -1MB",
            "agent --max-output-size 99999999999TB",
            "agent --gc-delay 7",
            "agent --disk-watch-interval 0s",
            "shuffle --tls-key k",
            "shuffle --tls-certificate c",
            "shuffle --max-connections 0",
            "shuffle remove",
            "agent --advertise-port 0",
            "agent --advertise-ip node5",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
