//! The dependency edges of ARCHITECTURE.md, checked against what cargo says, so that they stay true.
use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::{BTreeMap, BTreeSet};

/// Which of our crates each of our crates may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("bellows-model", &[]),
    ("bellows-kernel", &["bellows-model"]),
    ("bellows-wire", &["bellows-model"]),
    ("bellows-syscall", &[]),
    ("bellows-names", &["bellows-syscall"]),
    ("bellows-containment", &["bellows-model", "bellows-names", "bellows-syscall"]),
    ("bellows-runtime", &[]),
    ("bellows-election", &["bellows-names", "bellows-wire"]),
    ("bellows-client", &["bellows-names", "bellows-wire", "bellows-election"]),
    ("bellows-transport", &[]),
    ("bellows-shuffle", &["bellows-transport", "bellows-runtime", "bellows-syscall"]),
    (
        "bellows-master",
        &["bellows-model", "bellows-kernel", "bellows-wire", "bellows-election", "bellows-runtime"],
    ),
    (
        "bellows-agent",
        &[
            "bellows-model",
            "bellows-kernel",
            "bellows-wire",
            "bellows-election",
            "bellows-runtime",
            "bellows-containment",
            "bellows-names",
            "bellows-shuffle",
        ],
    ),
    ("bellows-libmesos", &["bellows-client", "bellows-election", "bellows-wire"]),
];

/// What the pure crates must never link: runtimes, I/O, clocks, randomness, wire formats.
const PURE: &[&str] = &["bellows-model", "bellows-kernel"];
const IMPURE: &[&str] = &["tokio", "prost", "serde", "hyper", "rand", "uuid", "rustix", "libc", "tracing"];

fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let normal = |dependencies: &[cargo_metadata::Dependency]| {
        dependencies.iter().filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.to_string()).collect()
    };
    metadata
        .packages
        .iter()
        .map(|package| (package.name.to_string(), normal(&package.dependencies)))
        .collect()
}

#[test]
fn crates_use_only_what_they_may() {
    let edges = edges();
    for (name, allowed) in ALLOWED {
        let uses = edges.get(*name).unwrap_or_else(|| panic!("{name} is not in the workspace"));
        let own: BTreeSet<_> =
            uses.iter().filter(|used| used.starts_with("bellows")).map(String::as_str).collect();
        let beyond: Vec<_> = own.iter().filter(|used| !allowed.contains(used)).collect();
        assert!(beyond.is_empty(), "{name} may not use {beyond:?}");
    }
}

#[test]
fn the_pure_crates_stay_pure() {
    let edges = edges();
    for name in PURE {
        let found: Vec<_> = edges[*name].iter().filter(|used| IMPURE.contains(&used.as_str())).collect();
        assert!(found.is_empty(), "{name} must not use {found:?}");
    }
}

#[test]
fn every_crate_has_its_edges_listed() {
    let free = ["bellows", "bellows-testkit", "bellows-tests", "bellows-sim", "bellows-benches"];
    for name in edges().keys().filter(|name| name.starts_with("bellows")) {
        let listed = ALLOWED.iter().any(|(listed, _)| listed == name) || free.contains(&name.as_str());
        assert!(listed, "{name} is new: say in ALLOWED what it may use");
    }
}

#[test]
fn make_knows_which_tests_need_spark() {
    let top = bellows_testkit::repository();
    let makefile = std::fs::read_to_string(top.join("Makefile")).expect("it is there");
    let line = makefile.lines().find_map(|line| line.strip_prefix("SPARK_TESTS   := ")).expect("a list");
    let listed: BTreeSet<_> = line.split_whitespace().collect();
    let files = std::fs::read_dir(top.join("tests/tests")).expect("it is there").flatten();
    for path in files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "rs"))
    {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let uses = std::fs::read_to_string(&path).expect("text").contains("Spark::find()");
        assert!(!uses || name == "architecture" || listed.contains(name), "{name} is not in SPARK_TESTS");
    }
}
