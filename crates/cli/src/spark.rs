//! Where Spark, Java and `libmesos.so` are on this machine. Looks, never installs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::Error;

pub const SPARK_VERSION: &str = "3.5.9";
const JAVA_HINT: &str = "install Java 17; Debian and Ubuntu: sudo apt install openjdk-17-jre-headless";

/// A Spark distribution and the Python that goes with it.
#[derive(Debug, Clone)]
pub struct Spark {
    pub home: PathBuf,
    /// Of the virtual environment that Spark lies in; otherwise Spark finds its own.
    pub python: Option<PathBuf>,
}

impl Spark {
    /// `SPARK_HOME`, when it is set.
    pub fn from_environment() -> Result<Option<Self>, Error> {
        let Some(home) = env::var_os("SPARK_HOME").filter(|home| !home.is_empty()) else { return Ok(None) };
        let spark = Self { home: PathBuf::from(home), python: None };
        if !spark.submit().is_file() {
            return Err(Error::missing(
                format!("SPARK_HOME is {}, but no Spark is there", spark.home.display()),
                "point it to the directory that has bin/spark-submit, or unset it",
            ));
        }
        Ok(Some(spark))
    }

    /// What a virtual environment holds, if pyspark is installed in it.
    pub fn in_venv(venv: &Path) -> Option<Self> {
        let libraries = std::fs::read_dir(venv.join("lib")).ok()?;
        let home = libraries
            .flatten()
            .map(|entry| entry.path().join("site-packages/pyspark"))
            .find(|home| home.join("bin/spark-submit").is_file())?;
        Some(Self { home, python: Some(venv.join("bin/python3")) })
    }

    /// For `bellows submit`: the environment's, the one on the path, else the one that the demo downloaded.
    pub fn find(cache: &Path) -> Result<Self, Error> {
        if let Some(spark) = Self::from_environment()? {
            return Ok(spark);
        }
        if let Some(spark) = on_path("spark-submit").and_then(|submit| Self::of_submit(&submit)) {
            return Ok(spark);
        }
        Self::in_venv(&venv(cache)).ok_or_else(|| {
            Error::missing(
                "no Spark found",
                format!(
                    "set SPARK_HOME, or: pip install pyspark=={SPARK_VERSION}, or `bellows demo --fetch-only`"
                ),
            )
        })
    }

    /// Of a `spark-submit`: its distribution's, or with pip's the virtual environment's.
    fn of_submit(submit: &Path) -> Option<Self> {
        let submit = submit.canonicalize().ok()?;
        let top = submit.parent()?.parent()?;
        if top.join("jars").is_dir() {
            return Some(Self { home: top.to_owned(), python: None });
        }
        Self::in_venv(top)
    }

    pub fn submit(&self) -> PathBuf {
        self.home.join("bin/spark-submit")
    }

    /// Fails when this Spark cannot run on a Mesos master.
    pub fn check_backend(&self) -> Result<(), Error> {
        let jars = std::fs::read_dir(self.home.join("jars"))
            .map_err(|source| Error::io("reading", &self.home.join("jars"), source))?;
        let name_starts = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b"spark-mesos_"))
        };
        if jars.into_iter().any(name_starts) {
            return Ok(());
        }
        Err(Error::missing(
            format!("the Spark in {} has no Mesos backend", self.home.display()),
            format!("Spark 3.2 to 3.5 have it: pip install pyspark=={SPARK_VERSION}, or unset SPARK_HOME"),
        ))
    }
}

/// Where downloads are kept: `BELLOWS_CACHE_DIR`, else `.cache/` of the checkout that this binary was built in, if
/// `make demo` has filled it, else the user's.
pub fn cache_directory() -> Result<PathBuf, Error> {
    if let Some(cache) = env::var_os("BELLOWS_CACHE_DIR").filter(|cache| !cache.is_empty()) {
        return Ok(PathBuf::from(cache));
    }
    // <checkout>/target/<profile>/bellows
    let of_checkout = env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(3)?.join(".cache")));
    match of_checkout.filter(|cache| Spark::in_venv(&venv(cache)).is_some()) {
        Some(cache) => Ok(cache),
        None => user_directory("XDG_CACHE_HOME", ".cache"),
    }
}

/// Where the demo keeps the Spark that it downloads.
pub fn venv(cache: &Path) -> PathBuf {
    cache.join(format!("spark-{SPARK_VERSION}"))
}

/// `JAVA_HOME`'s Java, else the one on the path; what Spark itself does.
pub fn check_java() -> Result<(), Error> {
    match env::var_os("JAVA_HOME").filter(|home| !home.is_empty()) {
        Some(home) if Path::new(&home).join("bin/java").is_file() => Ok(()),
        Some(home) => Err(Error::missing(
            format!("JAVA_HOME is {}, but no Java is there", Path::new(&home).display()),
            format!("unset it, or {JAVA_HINT}"),
        )),
        None if on_path("java").is_some() => Ok(()),
        None => Err(Error::missing("Java is missing, and Spark needs it", JAVA_HINT)),
    }
}

/// The library that Spark loads: what the environment names, else what lies where `bellows` does.
pub fn find_libmesos() -> Result<PathBuf, Error> {
    for variable in ["MESOS_NATIVE_JAVA_LIBRARY", "MESOS_NATIVE_LIBRARY"] {
        if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
            return Ok(PathBuf::from(path));
        }
    }
    let executable = env::current_exe().and_then(|path| path.canonicalize());
    let executable =
        executable.map_err(|source| Error::io("finding", Path::new("bellows itself"), source))?;
    let directory = executable.parent().unwrap_or(Path::new("/"));
    let places = ["libmesos.so", "../lib/libmesos.so", "../lib/bellows/libmesos.so"];
    let found = places.iter().filter_map(|place| directory.join(place).canonicalize().ok()).next();
    found.ok_or_else(|| {
        Error::missing(
            format!("no libmesos.so beside {}", executable.display()),
            "build it with `make build`, or name one in MESOS_NATIVE_JAVA_LIBRARY",
        )
    })
}

pub fn on_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program.as_ref())).find(|candidate| candidate.is_file())
}

/// The user's directory of a kind: `XDG_CACHE_HOME` or `~/.cache` for `("XDG_CACHE_HOME", ".cache")`.
pub fn user_directory(variable: &str, below_home: &str) -> Result<PathBuf, Error> {
    let set = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set(variable).or_else(|| Some(set("HOME")?.join(below_home))).map(|path| path.join("bellows")).ok_or_else(
        || {
            Error::usage(
                format!("neither {variable} nor HOME is set"),
                "name a directory on the command line",
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spark_in_a_virtual_environment() {
        let venv = tempfile::tempdir().expect("temporary directory");
        assert!(Spark::in_venv(venv.path()).is_none());
        let home = venv.path().join("lib/python3.12/site-packages/pyspark");
        std::fs::create_dir_all(home.join("bin")).expect("mkdir");
        std::fs::write(home.join("bin/spark-submit"), "").expect("write");
        std::fs::create_dir_all(home.join("jars")).expect("mkdir");
        let spark = Spark::in_venv(venv.path()).expect("found");
        assert_eq!(spark.home, home);
        assert!(matches!(spark.check_backend(), Err(Error::Missing { .. })));
        std::fs::write(home.join("jars/spark-mesos_2.12-3.5.9.jar"), "").expect("write");
        spark.check_backend().expect("has the backend");
    }
}
