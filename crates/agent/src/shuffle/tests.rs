use super::*;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

/// What Spark's executors make.
const BLOCKS: &str = "blockmgr-3f2a1c9e-8d4b-4e6f-9a7c-0b1d2e3f4a5b";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary") }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.root().join(KEEPER_DIR).join("frameworks").join(name)
    }

    fn open(&self) -> ShuffleDirs {
        ShuffleDirs::open(&[self.root()]).expect("opened")
    }

    /// Whether the file system knows when a directory was made.
    fn knows_births(&self) -> bool {
        let dir = File::open(self.dir.path()).expect("opened");
        birth(&dir, c".", AtFlags::empty()).expect("statx").is_some()
    }

    /// What an earlier release has left: an entry without content, then a directory named by the bare id.
    fn left_by_an_earlier_release(&self, id: &str) -> PathBuf {
        drop(self.open());
        File::create(self.entry(id)).expect("entry");
        let path = self.root().join(id);
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
        path
    }
}

fn only(dirs: &ShuffleDirs, id: &str) -> PathBuf {
    dirs.joined(&id.into(), None).expect("a root").into()
}

#[test]
fn only_what_was_made_here_is_found_and_removed() {
    let dir = tempfile::tempdir().expect("temporary");
    let roots = [dir.path().join("disk1"), dir.path().join("disk2")];
    fs::create_dir_all(roots[0].join("cassandra")).expect("made");
    let dirs = ShuffleDirs::open(&roots).expect("opened");
    let (framework, other): (FrameworkId, FrameworkId) = ("F-1".into(), "cassandra".into());
    dirs.create(&framework, None).expect("created");
    dirs.create(&framework, None).expect("created again");
    let joined = dirs.joined(&framework, None).expect("roots");
    assert!(joined.ends_with("/disk2/bellows-F-1") && joined.split(':').count() == 2, "{joined}");
    assert_eq!(dirs.found(), std::slice::from_ref(&framework));
    // The shuffle service reads whose directory it is.
    let entry = fs::read(roots[0].join(".bellows/frameworks/bellows-F-1")).expect("an entry");
    let entry: serde_json::Value = serde_json::from_slice(&entry).expect("JSON");
    assert_eq!(entry["framework"], "F-1");
    dirs.remove(&other).expect("nothing to do");
    assert!(roots[0].join("cassandra").exists());
    assert!(matches!(ShuffleDirs::open(&roots), Err(Error::Locked { .. })));
    drop(dirs);
    // Whoever comes after, with an empty work directory, knows what is left.
    let dirs = ShuffleDirs::open(&roots).expect("opened");
    assert_eq!(dirs.found(), std::slice::from_ref(&framework));
    fs::write(roots[0].join("bellows-F-1/file"), "x").expect("written");
    dirs.remove(&framework).expect("removed");
    assert!(roots.iter().all(|root| !root.join("bellows-F-1").exists()));
    assert!(dirs.found().is_empty());
}

#[test]
fn ids_of_all_kinds_get_directories_of_their_own_and_take_nothing_that_is_there() {
    let place = Place::new();
    let foreign = ["cassandra", "bellows-taken", "app-20260101-0000", "executor-1"];
    for name in foreign {
        fs::create_dir_all(place.root().join(name)).expect("made");
        fs::write(place.root().join(name).join("data"), "kept").expect("written");
    }
    let target = place.dir.path().join("target");
    fs::create_dir(&target).expect("made");
    symlink(&target, place.root().join("bellows-link")).expect("link");
    let dirs = place.open();
    let long = "x".repeat(255);
    let ids = [
        "cassandra",
        "taken",
        "app-20260101-0000",
        "link",
        "..",
        ".",
        "",
        ".bellows",
        "../../escape",
        "a/b",
        "a\0b",
        "a:b",
        "ü b",
        &long,
    ];
    let mut made = Vec::new();
    for id in ids.map(FrameworkId::from) {
        dirs.create(&id, None).expect("created");
        made.push(only(&dirs, id.as_str()));
    }
    let names = |path: &PathBuf| path.file_name().expect("a name").to_str().expect("plain").to_owned();
    for path in &made {
        assert_eq!(path.parent(), place.root().canonicalize().ok().as_deref());
        let name = names(path);
        assert!(name.starts_with(PREFIX) && name.len() < 100 && !name.contains(':'), "{name}");
        assert_eq!(path.symlink_metadata().expect("there").mode() & 0o170_777, 0o040_700);
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), ids.len(), "one each");
    drop(dirs);
    let dirs = place.open();
    for id in ids.map(FrameworkId::from) {
        dirs.remove(&id).expect("removed");
    }
    for name in foreign {
        assert_eq!(fs::read(place.root().join(name).join("data")).expect("untouched"), b"kept");
    }
    assert!(target.exists() && place.root().join("bellows-link").symlink_metadata().is_ok());
    assert!(place.root().join(KEEPER_DIR).exists());
}

#[test]
fn what_replaced_a_directory_is_not_deleted_and_not_given_to_tasks() {
    let place = Place::new();
    let dirs = place.open();
    dirs.create(&"F".into(), None).expect("created");
    let path = only(&dirs, "F");
    fs::rename(&path, place.dir.path().join("moved")).expect("moved");
    // A foreign directory, and a link to one.
    let foreign = place.dir.path().join("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("data"), "kept").expect("written");
    symlink(&foreign, &path).expect("link");
    dirs.create(&"F".into(), None).expect("created anew");
    let anew = only(&dirs, "F");
    assert_ne!(anew, path);
    fs::rename(&anew, place.dir.path().join("moved-too")).expect("moved");
    fs::rename(&foreign, &anew).expect("moved");
    dirs.remove(&"F".into()).expect("nothing of ours is left");
    assert_eq!(fs::read(anew.join("data")).expect("untouched"), b"kept");
    assert!(dirs.found().is_empty());
}

#[test]
fn a_ledger_that_was_tampered_with_leads_to_nothing_foreign() {
    let place = Place::new();
    fs::create_dir_all(place.root().join("cassandra")).expect("made");
    fs::write(place.root().join("cassandra/data"), "kept").expect("written");
    let inode = fs::metadata(place.root().join("cassandra")).expect("there").ino();
    drop(place.open());
    let uid = geteuid().as_raw();
    let entry = format!(r#"{{"framework":"F","uid":{uid},"made":{{"Inode":{inode}}}}}"#);
    fs::write(place.entry("cassandra"), &entry).expect("written");
    fs::write(place.entry("bellows-F"), &entry).expect("written");
    fs::write(place.entry("bellows-rubbish"), "{").expect("written");
    fs::create_dir(place.entry("bellows-dir")).expect("made");
    symlink("/etc/passwd", place.entry("bellows-link")).expect("link");
    // As an earlier release made them for a directory that was there before.
    File::create(place.entry("app")).expect("written");
    fs::create_dir(place.root().join("elsewhere")).expect("made");
    symlink("elsewhere", place.root().join("app")).expect("link");
    let dirs = place.open();
    assert_eq!(dirs.found(), ["F", "app"].map(FrameworkId::from));
    for id in ["F", "app", "cassandra"] {
        dirs.remove(&id.into()).expect("done");
    }
    assert_eq!(fs::read(place.root().join("cassandra/data")).expect("untouched"), b"kept");
    assert!(place.root().join("elsewhere").exists());
}

#[test]
fn a_crash_while_a_directory_is_made_leaves_nothing_behind() {
    let place = Place::new();
    drop(place.open());
    let entry = format!(r#"{{"framework":"F","uid":{},"made":"NotYet"}}"#, geteuid().as_raw());
    for (there, full) in [(false, false), (true, false), (true, true)] {
        fs::write(place.entry("bellows-F"), &entry).expect("written");
        let path = place.root().join("bellows-F");
        if there {
            fs::create_dir(&path).expect("made");
        }
        if full {
            // Not by a task: none had it.
            fs::write(path.join("data"), "kept").expect("written");
        }
        let dirs = place.open();
        dirs.create(&"F".into(), None).expect("created");
        assert_eq!(only(&dirs, "F") == path.canonicalize().unwrap_or_default(), !full);
        dirs.remove(&"F".into()).expect("removed");
        assert_eq!(path.exists(), full);
    }
}

#[test]
fn directories_of_an_earlier_release_are_found_and_go_with_their_framework() {
    let place = Place::new();
    let path = place.left_by_an_earlier_release("F-0001");
    fs::create_dir_all(path.join(BLOCKS).join("00")).expect("made");
    fs::write(path.join("other"), "x").expect("written");
    let dirs = place.open();
    assert_eq!(dirs.found(), [FrameworkId::from("F-0001")]);
    dirs.create(&"F-0001".into(), None).expect("created");
    assert!(only(&dirs, "F-0001").ends_with("bellows-F-0001"), "new tasks get a new one");
    dirs.remove(&"F-0001".into()).expect("removed");
    assert_eq!(path.exists(), !place.knows_births());
    assert!(!place.root().join("bellows-F-0001").exists() && dirs.found().is_empty());
}

#[test]
fn what_an_earlier_release_took_over_keeps_what_its_executors_have_not_made() {
    let place = Place::new();
    let path = place.left_by_an_earlier_release("cassandra");
    let older = path.join("spark-9d4f6f0e-6c55-4a53-8a2c-52e9a1c1f6b0");
    fs::create_dir(&older).expect("made");
    // The entry is younger than the directory and than this. Clocks of file systems tick slowly.
    let born = |path: &Path| birth(File::open(path).expect("opened"), c".", AtFlags::empty());
    loop {
        fs::remove_file(place.entry("cassandra")).expect("removed");
        let entry = File::create(place.entry("cassandra")).expect("made");
        let entry = birth(&entry, c"", AtFlags::EMPTY_PATH).expect("statx");
        if entry.is_none() || entry > born(&older).expect("statx") {
            break;
        }
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::create_dir_all(path.join(BLOCKS).join("00")).expect("made");
    let foreign = ["spark-3.5.9-bin-hadoop3", "blockmgr-", "blockmgr-1", "spark-events", "data"];
    let simple = format!("blockmgr-{}", "0".repeat(32));
    for name in foreign.into_iter().chain([simple.as_str()]) {
        fs::create_dir(path.join(name)).expect("made");
        fs::write(path.join(name).join("data"), "kept").expect("written");
    }
    let anothers = path.join("blockmgr-00000000-0000-4000-8000-000000000000");
    if geteuid().is_root() {
        fs::create_dir(&anothers).expect("made");
        std::os::unix::fs::chown(&anothers, Some(65_534), None).expect("given away");
    }
    let dirs = place.open();
    dirs.remove(&"cassandra".into()).expect("removed");
    assert_eq!(path.join(BLOCKS).exists(), !place.knows_births());
    for name in foreign.into_iter().chain([simple.as_str()]) {
        assert_eq!(fs::read(path.join(name).join("data")).expect("untouched"), b"kept", "{name}");
    }
    assert!(older.exists() && anothers.exists() == geteuid().is_root());
}

#[test]
fn a_disk_that_fails_keeps_no_other_disks_files() {
    let dir = tempfile::tempdir().expect("temporary");
    let roots = [dir.path().join("disk1"), dir.path().join("disk2")];
    let dirs = ShuffleDirs::open(&roots).expect("opened");
    dirs.create(&"F".into(), None).expect("created");
    // The entry cannot be forgotten.
    let entry = roots[0].join(KEEPER_DIR).join("frameworks/bellows-F");
    fs::remove_file(&entry).expect("removed");
    fs::create_dir(&entry).expect("made");
    let error = dirs.remove(&"F".into()).expect_err("the first disk's");
    assert!(error.to_string().contains("disk1"), "{error}");
    assert!(!roots[1].join("bellows-F").exists());
}

#[test]
fn a_keeper_that_is_not_ours_and_a_root_that_was_replaced_are_refused() {
    let place = Place::new();
    let elsewhere = place.dir.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).expect("made");
    fs::create_dir(place.root()).expect("made");
    symlink(&elsewhere, place.root().join(KEEPER_DIR)).expect("link");
    assert!(matches!(ShuffleDirs::open(&[place.root()]), Err(Error::Io { .. })));
    assert_eq!(fs::read_dir(&elsewhere).expect("there").count(), 0);
    fs::remove_file(place.root().join(KEEPER_DIR)).expect("removed");

    let dirs = place.open();
    fs::rename(place.root(), place.dir.path().join("moved")).expect("moved");
    fs::create_dir_all(place.root().join("bellows-F")).expect("made");
    let error = dirs.create(&"F".into(), None).expect_err("tasks would not find it");
    assert!(error.to_string().contains("another directory"), "{error}");
    dirs.remove(&"F".into()).expect("nothing was made");
    assert!(place.root().join("bellows-F").exists());
}
