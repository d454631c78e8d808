//! `docs/spark-settings.md`: no setting of Spark's Mesos backend is missing there, and its tests exist.
use bellows_testkit::{Spark, repository};
use std::{collections::BTreeSet, fs, io::Read as _, path::Path};

/// All `spark.mesos.*` settings that the backend's classes name.
fn settings() -> BTreeSet<String> {
    let jars =
        fs::read_dir(Spark::find().jars()).expect("a distribution").flatten().map(|entry| entry.path());
    let is_backend = |jar: &Path| {
        jar.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("spark-mesos_"))
    };
    let jar = jars.into_iter().find(|jar| is_backend(jar)).expect("Spark 3.5 has a Mesos backend");
    let mut archive = zip::ZipArchive::new(fs::File::open(jar).expect("readable")).expect("a jar");
    let mut found = BTreeSet::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).expect("an entry");
        if entry.name().expect("text").ends_with(".class") {
            let mut class = Vec::new();
            entry.read_to_end(&mut class).expect("whole");
            found.extend(constants(&class));
        }
    }
    // Put together at run time, of `driver` or `executor` and these.
    for of in ["driver", "executor"] {
        for secret in ["names", "values", "envkeys", "filenames"] {
            found.insert(format!("spark.mesos.{of}.secret.{secret}"));
        }
    }
    found
}

/// Strings stand in a class file as their length in two bytes and their bytes.
fn constants(class: &[u8]) -> impl Iterator<Item = String> {
    const PREFIX: &[u8] = b"spark.mesos.";
    let starts = (2..class.len()).filter(|&at| class[at..].starts_with(PREFIX));
    starts.filter_map(|at| {
        let length = usize::from(u16::from_be_bytes([class[at - 2], class[at - 1]]));
        let text = std::str::from_utf8(class.get(at..at + length)?).ok()?;
        let is_name =
            text.len() > PREFIX.len() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        is_name.then(|| text.to_owned())
    })
}

fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(repository().join("docs/spark-settings.md")).expect("the document");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

#[test]
fn every_setting_is_listed_once() {
    let listed: Vec<_> = rows().iter().map(|row| row[0].clone()).collect();
    let known = settings();
    assert!(known.len() > 40, "{known:?}");
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), known);
    assert_eq!(listed.len(), known.len(), "none twice");
}

#[test]
fn every_named_test_is_there() {
    let mut sources = String::new();
    collect(&repository().join("crates"), &mut sources);
    collect(&repository().join("tests"), &mut sources);
    for row in rows() {
        let [setting, here, what, test] = &row[..] else { panic!("not four cells: {row:?}") };
        assert!(
            ["works", "Spark's own", "refused", "no effect"].contains(&here.as_str()),
            "{setting}: {here}"
        );
        assert!(!what.is_empty(), "{setting}");
        let known = test.is_empty() || sources.contains(&format!("fn {test}("));
        assert!(known, "{setting}: there is no test {test}");
    }
}

fn collect(directory: &Path, sources: &mut String) {
    for entry in fs::read_dir(directory).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(path).expect("text"));
        }
    }
}
