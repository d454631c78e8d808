//! `bellows submit`: the stock spark-submit in this process' place, with what the user left open filled in.

mod complete;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use complete::{Cluster, elastic_settings};

use crate::args::SubmitArgs;
use crate::error::Error;
use crate::output::{out, shell_quote};
use crate::spark::{self, Spark};

const LIBRARY: &str = "MESOS_NATIVE_JAVA_LIBRARY";

/// Returns only when spark-submit could not be started, or when the command was to be printed.
pub fn run(args: SubmitArgs) -> Result<(), Error> {
    let spark = Spark::find(&spark::cache_directory()?)?;
    let given = complete::parse(&args.arguments);
    let properties = read_properties(&spark, given.properties_file.as_deref())?;
    let cluster = Cluster::from_environment()?;
    let filled = complete::complete(&given, &properties, &cluster);

    let mut command = Command::new(spark.submit());
    command.args(&filled.arguments).args(&args.arguments).env("SPARK_HOME", &spark.home);
    if filled.on_mesos {
        spark.check_backend()?;
        spark::check_java()?;
        if env::var_os("MESOS_NATIVE_LIBRARY").is_none() {
            command.env(LIBRARY, spark::find_libmesos()?);
        }
        let variable = env::var_os("SPARK_LOCAL_DIRS").map(|_| "SPARK_LOCAL_DIRS");
        for name in filled.overridden.iter().copied().chain(variable) {
            eprintln!(
                "bellows: {name} holds for the driver alone: executors keep their files in the --shuffle-dirs of \
                 their agents"
            );
        }
        if filled.on_loopback && env::var_os("SPARK_LOCAL_IP").is_none() {
            command.env("SPARK_LOCAL_IP", "127.0.0.1");
        }
    }
    if let (Some(python), None) = (&spark.python, env::var_os("PYSPARK_PYTHON")) {
        command.env("PYSPARK_PYTHON", python);
    }
    if args.print {
        out!("{}", shell_line(&command));
        return Ok(());
    }
    let source = command.exec();
    Err(Error::io("starting", &spark.submit(), source))
}

/// The command as one would type it.
fn shell_line(command: &Command) -> String {
    let environment = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), shell_quote(&value?.to_string_lossy())))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| shell_quote(&word.to_string_lossy()));
    environment.chain(words).collect::<Vec<_>>().join(" ")
}

/// What spark-submit itself will read: the file named, else `spark-defaults.conf`.
fn read_properties(spark: &Spark, file: Option<&Path>) -> Result<BTreeMap<String, String>, Error> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => {
            let directory = env::var_os("SPARK_CONF_DIR").filter(|dir| !dir.is_empty());
            directory.map_or_else(|| spark.home.join("conf"), PathBuf::from).join("spark-defaults.conf")
        }
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(complete::parse_properties(&text)),
        // Without defaults Spark does well; a file that the user named is another matter.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => Ok(BTreeMap::new()),
        Err(source) => Err(Error::io("reading", &path, source)),
    }
}

/// The command that `bellows up` prints, one setting a line, up to where the application's own words follow.
pub fn example(cluster: &Cluster, library: &Path) -> String {
    let nothing: [OsString; 0] = [];
    let filled = complete::complete(&complete::parse(&nothing), &BTreeMap::new(), cluster);
    let mut lines =
        vec![format!("{LIBRARY}={}", shell_quote(&library.to_string_lossy())), "spark-submit".to_owned()];
    for pair in filled.arguments.chunks(2) {
        lines.push(format!("  {}", pair.iter().map(|word| shell_quote(word)).collect::<Vec<_>>().join(" ")));
    }
    // The assignment and the program belong on one line.
    let head = lines.drain(..2).collect::<Vec<_>>().join(" ");
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join(" \\\n")
}
