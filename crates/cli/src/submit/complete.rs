//! What `bellows submit` adds to a user's spark-submit arguments. Pure: words in, words out.
//!
//! The user's word always wins, wherever it stands: an option, `--conf`, or a properties file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use bellows_election::MasterAddress;

use crate::error::Error;

/// Where `bellows submit` looks for the cluster, and where it does unless these say otherwise.
const MASTER_VARIABLE: &str = "BELLOWS_MASTER";
const SHUFFLE_PORT_VARIABLE: &str = "BELLOWS_SHUFFLE_PORT";
const DEFAULT_MASTER: &str = "127.0.0.1:5050";

/// Options that stand for a setting (`SparkSubmitArguments` of Spark 3.5).
const OPTIONS: &[(&str, &str)] = &[
    ("--master", "spark.master"),
    ("--remote", "spark.remote"),
    ("--name", "spark.app.name"),
    ("--deploy-mode", "spark.submit.deployMode"),
    ("--driver-memory", "spark.driver.memory"),
    ("--driver-cores", "spark.driver.cores"),
    ("--executor-memory", "spark.executor.memory"),
    ("--executor-cores", "spark.executor.cores"),
    ("--num-executors", "spark.executor.instances"),
    ("--total-executor-cores", "spark.cores.max"),
];
/// Options without a value; every other one takes the next word.
const SWITCHES: &[&str] = &["--help", "-h", "--supervise", "--usage-error", "--verbose", "-v", "--version"];
/// With these, spark-submit does something else than to run an application.
const OTHER_ERRANDS: &[&str] = &["--help", "-h", "--usage-error", "--version", "--kill", "--status"];

const DYNAMIC: &str = "spark.dynamicAllocation.enabled";
const SERVICE: &str = "spark.shuffle.service.enabled";
const PORT: &str = "spark.shuffle.service.port";
const DEFAULT_SHUFFLE_PORT: u16 = bellows_shuffle::DEFAULT_PORT;

/// What the user said to spark-submit.
#[derive(Debug, Default, PartialEq)]
pub struct Given {
    settings: BTreeMap<String, String>,
    pub properties_file: Option<PathBuf>,
    other_errand: bool,
}

/// Where the cluster is.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// `host:port` or `zk://…`
    pub master: String,
    pub shuffle_port: u16,
    /// Say the port even where it is Spark's default.
    pub name_shuffle_port: bool,
}

impl Cluster {
    /// `BELLOWS_MASTER` and `BELLOWS_SHUFFLE_PORT`, else the embedded cluster's defaults.
    pub fn from_environment() -> Result<Self, Error> {
        let master = std::env::var(MASTER_VARIABLE).unwrap_or_else(|_| DEFAULT_MASTER.to_owned());
        if let Err(error) = MasterAddress::parse(&master) {
            return Err(Error::usage(
                format!("{MASTER_VARIABLE}: {error}"),
                "host:port, or zk://host:port,…/path",
            ));
        }
        let shuffle_port = match std::env::var(SHUFFLE_PORT_VARIABLE) {
            Ok(port) => port.parse().map_err(|_| {
                Error::usage(format!("{SHUFFLE_PORT_VARIABLE} is {port:?}"), "a port from 1 to 65535")
            })?,
            Err(_) => DEFAULT_SHUFFLE_PORT,
        };
        let master = master.strip_prefix("mesos://").unwrap_or(&master).to_owned();
        Ok(Self { master, shuffle_port, name_shuffle_port: false })
    }

    /// `bellows submit` to this cluster, as one types it: with the variables that it needs to find it.
    pub fn submit_command(&self) -> String {
        let mut words = Vec::new();
        if self.master != DEFAULT_MASTER {
            words.push(format!("{MASTER_VARIABLE}={}", self.master));
        }
        if self.shuffle_port != DEFAULT_SHUFFLE_PORT {
            words.push(format!("{SHUFFLE_PORT_VARIABLE}={}", self.shuffle_port));
        }
        words.push("bellows submit".to_owned());
        words.join(" ")
    }

    /// Its master is on this machine's loopback, so its agents are, too.
    fn is_one_machine(&self) -> bool {
        let host = self.master.rsplit_once(':').map_or(self.master.as_str(), |(host, _)| host);
        host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// What to put before the user's words.
#[derive(Debug, Default, PartialEq)]
pub struct Filled {
    pub arguments: Vec<String>,
    /// The application will run on a Mesos master, so it needs `libmesos.so`.
    pub on_mesos: bool,
    /// That master is on this machine's loopback, where the driver must be too.
    pub on_loopback: bool,
    /// Settings of the user's that executors do not heed, for their agents give them directories.
    pub overridden: Vec<&'static str>,
}

/// Reads options up to the application's file, as spark-submit does.
pub fn parse(words: &[OsString]) -> Given {
    let mut given = Given::default();
    let mut words = words.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            break;
        }
        // `--name=value` is one word, `--name value` two.
        let (option, value) = match word.split_once('=').filter(|_| word.starts_with("--")) {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None => (word.into_owned(), None),
        };
        given.other_errand |= OTHER_ERRANDS.contains(&option.as_str());
        if SWITCHES.contains(&option.as_str()) {
            continue;
        }
        let Some(value) = value.or_else(|| words.next().map(|word| word.into_owned())) else { break };
        match option.as_str() {
            "--conf" | "-c" => {
                if let Some((key, value)) = value.split_once('=') {
                    given.settings.insert(key.to_owned(), value.to_owned());
                }
            }
            "--properties-file" => given.properties_file = Some(PathBuf::from(value)),
            option => {
                if let Some((_, key)) = OPTIONS.iter().find(|(name, _)| *name == option) {
                    given.settings.insert((*key).to_owned(), value);
                }
            }
        }
    }
    given
}

/// Java's properties as far as people use them for Spark: `key value`, `key=value`, `key: value`, comments.
pub fn parse_properties(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
    lines
        .filter_map(|line| {
            let end = line.find(|c: char| c.is_whitespace() || c == '=' || c == ':')?;
            let value = line[end..].trim_start().trim_start_matches(['=', ':']).trim();
            Some((line[..end].to_owned(), value.to_owned()))
        })
        .collect()
}

/// The user's words win over the properties file, and both over what is filled in.
pub fn complete(given: &Given, properties: &BTreeMap<String, String>, cluster: &Cluster) -> Filled {
    let user = |key: &str| given.settings.get(key).or_else(|| properties.get(key)).map(String::as_str);
    // Drivers that run elsewhere: on a Spark Connect server, or where a dispatcher starts them, which is no master.
    let elsewhere = user("spark.remote").is_some()
        || user("spark.submit.deployMode").is_some_and(|mode| mode.trim().eq_ignore_ascii_case("cluster"));
    let address = match user("spark.master") {
        _ if given.other_errand || elsewhere => None,
        Some(master) => master.strip_prefix("mesos://").map(str::to_owned),
        None => Some(cluster.master.clone()),
    };
    let Some(address) = address else {
        return Filled::default();
    };
    let cluster = &Cluster { master: address, ..cluster.clone() };
    let mut arguments = Vec::new();
    if user("spark.master").is_none() {
        arguments.extend(["--master".to_owned(), format!("mesos://{}", cluster.master)]);
    }
    for (key, value) in elastic_settings(&user, cluster) {
        arguments.extend(["--conf".to_owned(), format!("{key}={value}")]);
    }
    let on_loopback = user("spark.driver.host").is_none() && cluster.is_one_machine();
    let overridden = ["spark.executorEnv.SPARK_LOCAL_DIRS", "spark.local.dir"];
    let overridden = overridden.into_iter().filter(|key| user(key).is_some()).collect();
    Filled { arguments, on_mesos: true, on_loopback, overridden }
}

/// The settings that make an application elastic, without those that `user` answers for.
pub fn elastic_settings<'a>(
    user: &dyn Fn(&str) -> Option<&'a str>,
    cluster: &Cluster,
) -> Vec<(&'static str, String)> {
    let said_no = |key| user(key).is_some_and(|value| value.trim().eq_ignore_ascii_case("false"));
    let mut settings = Vec::new();
    // Without its shuffle served by another, an executor cannot go: the two stand or fall together.
    if !said_no(DYNAMIC) && !said_no(SERVICE) {
        settings.push((DYNAMIC, "true".to_owned()));
        settings.push((SERVICE, "true".to_owned()));
        if cluster.name_shuffle_port || cluster.shuffle_port != DEFAULT_SHUFFLE_PORT {
            settings.push((PORT, cluster.shuffle_port.to_string()));
        }
        // Unset, an executor takes all the cores of an offer, and the cluster breathes in gulps.
        settings.push(("spark.executor.cores", "1".to_owned()));
        // Spark starts no second executor on a host until it has wanted no other number of them for so long. On
        // one machine all agents are one host, and a job whose tasks keep ending would stay with its first executor.
        if cluster.is_one_machine() {
            settings.push(("spark.locality.wait", "0s".to_owned()));
        }
    }
    settings.push(("spark.scheduler.mode", "FAIR".to_owned()));
    // Seconds. Spark's default of 0 costs all executors when the connection is lost for a moment.
    settings.push(("spark.mesos.driver.failoverTimeout", "30".to_owned()));
    settings.retain(|(key, _)| user(key).is_none());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster { master: "127.0.0.1:5050".to_owned(), shuffle_port: 7337, name_shuffle_port: false }
    }

    fn filled_with(line: &str, properties: &str, cluster: &Cluster) -> Filled {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        complete(&parse(&words), &parse_properties(properties), cluster)
    }

    fn filled(line: &str) -> String {
        filled_with(line, "", &cluster()).arguments.join(" ")
    }

    #[test]
    fn what_is_filled_in_where_nothing_is_set() {
        insta::assert_snapshot!(filled("app.py").replace(" --", "\n--"), @r"
        --master mesos://127.0.0.1:5050
        --conf spark.dynamicAllocation.enabled=true
        --conf spark.shuffle.service.enabled=true
        --conf spark.executor.cores=1
        --conf spark.locality.wait=0s
        --conf spark.scheduler.mode=FAIR
        --conf spark.mesos.driver.failoverTimeout=30
        ");
    }

    #[test]
    fn the_users_word_wins_wherever_it_stands() {
        for (line, gone) in [
            ("--master mesos://m:5050 app.py", "--master"),
            ("--master=mesos://zk://h:2181/mesos app.py", "--master"),
            ("--conf spark.master=mesos://m:5050 app.py", "--master"),
            ("--executor-cores 4 app.py", "spark.executor.cores"),
            ("--conf spark.executor.cores=4 app.py", "spark.executor.cores"),
            ("-c spark.scheduler.mode=FIFO app.py", "spark.scheduler.mode"),
            ("--conf=spark.scheduler.mode=FIFO app.py", "spark.scheduler.mode"),
            ("--verbose --conf spark.scheduler.mode=FIFO app.py", "spark.scheduler.mode"),
            ("--conf spark.shuffle.service.enabled=true app.py", "spark.shuffle.service.enabled"),
        ] {
            let added = filled(line);
            assert!(!added.contains(gone), "{line}: {added}");
            assert!(added.contains("spark.dynamicAllocation.enabled=true"), "{line}: {added}");
        }
    }

    #[test]
    fn properties_count_as_the_users_word() {
        let properties =
            "# ours\nspark.executor.cores   3\nspark.master=mesos://m:1\nspark.scheduler.mode: FIFO\n";
        let added = filled_with("app.py", properties, &cluster()).arguments.join(" ");
        for gone in ["--master", "executor.cores", "scheduler.mode"] {
            assert!(!added.contains(gone), "{added}");
        }
        // The command line wins over the file: here it takes the application off the cluster.
        assert_eq!(filled_with("--master local app.py", properties, &cluster()).arguments.len(), 0);
    }

    #[test]
    fn elasticity_that_is_refused_is_refused_whole() {
        for line in [
            "--conf spark.dynamicAllocation.enabled=false app.py",
            "--conf spark.shuffle.service.enabled=FALSE app.py",
        ] {
            let added = filled(line);
            for gone in ["dynamicAllocation", "shuffle.service", "executor.cores"] {
                assert!(!added.contains(gone), "{line}: {added}");
            }
            assert!(added.contains("--master"), "{added}");
        }
    }

    #[test]
    fn the_applications_own_words_are_not_options() {
        let added = filled("app.py --master local --conf spark.executor.cores=9");
        assert!(added.contains("--master mesos://") && added.contains("spark.executor.cores=1"), "{added}");
        // The value of an unknown option is not the application.
        let added = filled("--jars a.jar --executor-cores 2 app.jar");
        assert!(!added.contains("spark.executor.cores"), "{added}");
    }

    #[test]
    fn other_masters_and_errands_are_left_alone() {
        for line in [
            "--master local[2] app.py",
            "--master spark://h:7077 app.py",
            "--version",
            "--kill driver-1",
            "--remote sc://h:15002 app.py",
            "--conf spark.remote=local app.py",
            "--deploy-mode cluster --master mesos://h:7077 app.jar",
            "--deploy-mode=cluster app.jar",
            "--conf spark.submit.deployMode=cluster app.jar",
        ] {
            assert_eq!(filled_with(line, "", &cluster()), Filled::default(), "{line}");
        }
        assert!(filled("--deploy-mode client app.py").contains("--master"));
    }

    #[test]
    fn the_command_that_is_advised_reaches_the_cluster() {
        assert_eq!(cluster().submit_command(), "bellows submit");
        let other = Cluster { master: "127.0.0.1:6060".to_owned(), shuffle_port: 7447, ..cluster() };
        let expected = "BELLOWS_MASTER=127.0.0.1:6060 BELLOWS_SHUFFLE_PORT=7447 bellows submit";
        assert_eq!(other.submit_command(), expected);
    }

    #[test]
    fn what_executors_do_not_heed_is_known() {
        let overridden = |line| filled_with(line, "", &cluster()).overridden;
        assert_eq!(overridden("app.py"), [""; 0]);
        assert_eq!(overridden("--conf spark.local.dir=/fast app.py"), ["spark.local.dir"]);
        let line = "--conf spark.executorEnv.SPARK_LOCAL_DIRS=/fast app.py";
        assert_eq!(overridden(line), ["spark.executorEnv.SPARK_LOCAL_DIRS"]);
    }

    #[test]
    fn the_shuffle_port_is_named_where_it_is_not_sparks_own() {
        assert!(!filled("app.py").contains(PORT));
        let odd = Cluster { shuffle_port: 7447, ..cluster() };
        let added = filled_with("app.py", "", &odd).arguments.join(" ");
        assert!(added.contains("spark.shuffle.service.port=7447"), "{added}");
    }

    #[test]
    fn loopback_is_told_apart() {
        let on_loopback = |line| filled_with(line, "", &cluster()).on_loopback;
        assert!(on_loopback("app.py"));
        assert!(on_loopback("--master mesos://localhost:5050 app.py"));
        assert!(!on_loopback("--master mesos://10.0.0.1:5050 app.py"));
        assert!(!on_loopback("--master mesos://zk://127.0.0.1:2181/mesos app.py"));
        assert!(!on_loopback("--conf spark.driver.host=me app.py"));
        // Where there are several machines, locality is worth a wait.
        assert!(!filled("--master mesos://10.0.0.1:5050 app.py").contains("locality"));
    }
}
