use super::{
    ledger::{PREFIX, birth},
    *,
};
use bellows_shuffle::KEEPER_DIR;
use rustix::{fs::AtFlags, process::geteuid};
use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

/// What Spark's executors make.
const BLOCKS: &str = "blockmgr-3f2a1c9e-8d4b-4e6f-9a7c-0b1d2e3f4a5b";

#[path = "../../../containment/tests/root/mod.rs"]
mod root;

/// For what does not block the caller elsewhere.
fn wait<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(what)
}

/// Remembers no disk.
fn open(roots: &[PathBuf]) -> Result<ShuffleDirs, Error> {
    wait(ShuffleDirs::open(roots, "/nonexistent/disks.json".into()))
}

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
        open(&[self.root()]).expect("opened")
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
    let dirs = open(&roots).expect("opened");
    let (framework, other): (FrameworkId, FrameworkId) = ("F-1".into(), "cassandra".into());
    wait(dirs.create(&framework, None)).expect("created");
    wait(dirs.create(&framework, None)).expect("created again");
    let joined = dirs.joined(&framework, None).expect("roots");
    assert!(joined.ends_with("/disk2/bellows-F-1") && joined.split(':').count() == 2, "{joined}");
    assert_eq!(dirs.found(), std::slice::from_ref(&framework));
    // The shuffle service reads whose directory it is.
    let entry = fs::read(roots[0].join(".bellows/frameworks/bellows-F-1")).expect("an entry");
    let entry: serde_json::Value = serde_json::from_slice(&entry).expect("JSON");
    assert_eq!(entry["framework"], "F-1");
    dirs.remove(&other).expect("nothing to do");
    assert!(roots[0].join("cassandra").exists());
    assert!(matches!(open(&roots), Err(Error::Locked { .. })));
    drop(dirs);
    // Whoever comes after, with an empty work directory, knows what is left.
    let dirs = open(&roots).expect("opened");
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
        wait(dirs.create(&id, None)).expect("created");
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
    wait(dirs.create(&"F".into(), None)).expect("created");
    let path = only(&dirs, "F");
    fs::rename(&path, place.dir.path().join("moved")).expect("moved");
    // A foreign directory, and a link to one.
    let foreign = place.dir.path().join("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("data"), "kept").expect("written");
    symlink(&foreign, &path).expect("link");
    wait(dirs.create(&"F".into(), None)).expect("created anew");
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
        wait(dirs.create(&"F".into(), None)).expect("created");
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
    wait(dirs.create(&"F-0001".into(), None)).expect("created");
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
    let dirs = open(&roots).expect("opened");
    wait(dirs.create(&"F".into(), None)).expect("created");
    // The entry cannot be forgotten.
    let entry = roots[0].join(KEEPER_DIR).join("frameworks/bellows-F");
    fs::remove_file(&entry).expect("removed");
    fs::create_dir(&entry).expect("made");
    let error = dirs.remove(&"F".into()).expect_err("the first disk's");
    assert!(error.to_string().contains("disk1"), "{error}");
    assert!(!roots[1].join("bellows-F").exists());
}

#[test]
fn a_keeper_that_is_not_ours_is_left_out_and_a_root_that_was_replaced_taken_as_a_new_one() {
    let place = Place::new();
    let elsewhere = place.dir.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).expect("made");
    fs::create_dir(place.root()).expect("made");
    symlink(&elsewhere, place.root().join(KEEPER_DIR)).expect("link");
    let dirs = place.open();
    let error = wait(dirs.create(&"F".into(), None)).expect_err("no disk").to_string();
    assert!(error.contains("it is no directory of this program's own"), "{error}");
    assert_eq!(fs::read_dir(&elsewhere).expect("there").count(), 0);
    fs::remove_file(place.root().join(KEEPER_DIR)).expect("removed");

    assert!(wait(dirs.look()), "it is back");
    wait(dirs.create(&"F".into(), None)).expect("created");
    fs::rename(place.root(), place.dir.path().join("moved")).expect("moved");
    fs::create_dir_all(place.root().join("bellows-F")).expect("made");
    let error = wait(dirs.create(&"F".into(), None)).expect_err("tasks would not find it");
    assert!(error.to_string().contains("another directory"), "{error}");
    dirs.remove(&"F".into()).expect("nothing is in use");
    assert!(place.root().join("bellows-F").exists() && place.dir.path().join("moved/bellows-F").exists());
    assert!(wait(dirs.look()));
    assert!(dirs.found().is_empty(), "its ledger went with it");
}

/// Why each disk is left out.
fn reasons(dirs: &ShuffleDirs) -> Vec<String> {
    dirs.conditions().into_values().map(Option::unwrap_or_default).collect()
}

#[test]
fn one_bad_disk_is_left_out_and_taken_back_when_it_is_well() {
    let dir = tempfile::tempdir().expect("temporary");
    let roots = [dir.path().join("disk1"), dir.path().join("disk2")];
    fs::write(&roots[1], "in the place of a directory").expect("written");
    let dirs = open(&roots).expect("the other one is well");
    let framework: FrameworkId = "F".into();
    for _ in 0..2 {
        wait(dirs.create(&framework, None)).expect("created");
        let joined = dirs.joined(&framework, None).expect("a root");
        assert!(joined.ends_with("/disk1/bellows-F") && !joined.contains(':'), "{joined}");
        assert_eq!((dirs.roots().len(), reasons(&dirs)[0].as_str()), (1, ""));
        assert!(reasons(&dirs)[1].contains("disk2"), "{:?}", reasons(&dirs));
        assert!(!wait(dirs.look()), "it is no better");
    }
    fs::remove_file(&roots[1]).expect("removed");
    assert!(wait(dirs.look()));
    assert_eq!(reasons(&dirs), ["", ""]);
    wait(dirs.create(&framework, None)).expect("created");
    assert!(dirs.joined(&framework, None).expect("roots").ends_with("/disk2/bellows-F"));

    // One that was emptied is made again; the framework's next task gets its directory there.
    fs::remove_dir_all(&roots[0]).expect("emptied");
    assert!(wait(dirs.look()));
    wait(dirs.create(&framework, None)).expect("created");
    assert!(roots[0].join("bellows-F").exists());
}

#[test]
fn a_disk_that_hangs_while_a_directory_is_made_keeps_no_task_that_has_one() {
    let place = Place::new();
    let dirs = place.open();
    wait(dirs.create(&"F".into(), None)).expect("created");
    let root = dirs.disks[0].standing().root().expect("in use").clone();
    let _hanging = root.ledger.pen();
    assert!(only(&dirs, "F").ends_with("bellows-F"));
    assert_eq!(dirs.found(), [FrameworkId::from("F")]);
}

fn mount(arguments: &[&str], at: &Path) {
    let outcome = std::process::Command::new("mount").args(arguments).arg(at).output();
    assert!(outcome.as_ref().is_ok_and(|outcome| outcome.status.success()), "{arguments:?}: {outcome:?}");
}

fn unmount(at: &Path) {
    let outcome = std::process::Command::new("umount").arg("-l").arg(at).output();
    assert!(outcome.as_ref().is_ok_and(|outcome| outcome.status.success()), "{outcome:?}");
}

/// Whether there is nothing in the directory beneath the mount point.
fn is_untouched(at: &Path) -> bool {
    fs::read_dir(at).expect("there").count() == 0
}

#[test]
fn a_disk_that_is_not_mounted_is_not_written_through() {
    if !root::may_mount("shuffle::tests::a_disk_that_is_not_mounted_is_not_written_through") {
        return;
    }
    let place = Place::new();
    let (disk, kept) = (place.dir.path().join("mnt"), place.dir.path().join("kept"));
    fs::create_dir_all(&disk).expect("made");
    fs::create_dir_all(&kept).expect("made");
    let _kept = root::SmallDisk::mount(&kept, "1m");
    let known = place.dir.path().join("disks.json");
    // In the mount point itself, and in a directory on the disk.
    for root in [disk.clone(), disk.join("spark")] {
        let open = || wait(ShuffleDirs::open(std::slice::from_ref(&root), known.clone())).expect("opened");
        mount(&["--bind", &kept.display().to_string()], &disk);
        let dirs = open();
        wait(dirs.create(&"F".into(), None)).expect("created");
        // While the agent runs.
        unmount(&disk);
        let error = wait(dirs.create(&"F".into(), None)).expect_err("its disk is gone").to_string();
        assert!(error.contains("another directory") || error.contains("No such file"), "{error}");
        assert!(!wait(dirs.look()));
        let why = format!("nothing is mounted at {}", disk.display());
        assert!(reasons(&dirs)[0].contains(&why), "{:?}", reasons(&dirs));
        assert!(dirs.found().is_empty() && is_untouched(&disk));
        drop(dirs);
        // At its start.
        let dirs = open();
        assert!(reasons(&dirs)[0].contains(&why), "{:?}", reasons(&dirs));
        assert!(is_untouched(&disk));
        mount(&["--bind", &kept.display().to_string()], &disk);
        assert!(wait(dirs.look()), "it is back");
        assert_eq!(dirs.found(), [FrameworkId::from("F")]);
        drop(dirs);
        unmount(&disk);
    }
    // A new disk in the place of an old one is as good.
    let new = root::SmallDisk::mount(&disk, "1m");
    let dirs = wait(ShuffleDirs::open(std::slice::from_ref(&disk), known.clone())).expect("opened");
    assert_eq!((reasons(&dirs), dirs.found()), (vec![String::new()], vec![]));
    drop((dirs, new));
    // Without what is remembered, the directory is taken for a new one.
    fs::remove_file(&known).expect("removed");
    let dirs = wait(ShuffleDirs::open(std::slice::from_ref(&disk), known)).expect("opened");
    assert_eq!(reasons(&dirs), [""]);
}

#[test]
fn a_disk_without_room_or_rights_is_left_out_until_it_has_some() {
    if !root::may_mount("shuffle::tests::a_disk_without_room_or_rights_is_left_out_until_it_has_some") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.root()).expect("made");
    let (at, other) = (place.root(), place.dir.path().join("other"));
    let disk = root::SmallDisk::mount(&at, "64k");
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).expect("chmod");
    let dirs = open(&[place.root(), other]).expect("opened");
    let is_out = |why: &str| {
        assert!(!wait(dirs.look()));
        assert!(reasons(&dirs).iter().any(|reason| reason.contains(why)), "{why}: {:?}", reasons(&dirs));
        wait(dirs.create(&"F".into(), None)).expect("the other one is well");
        assert!(!dirs.joined(&"F".into(), None).expect("the other one").contains(':'));
    };
    disk.fill();
    is_out("No space left");
    disk.free();
    assert!(wait(dirs.look()));
    mount(&["-o", "remount,bind,ro"], &place.root());
    is_out("Read-only");
    mount(&["-o", "remount,bind,rw"], &place.root());
    assert!(wait(dirs.look()));
    wait(dirs.create(&"F".into(), None)).expect("created");
    assert!(dirs.joined(&"F".into(), None).expect("both").contains(':'));
}

#[test]
fn what_fills_a_disk_goes_with_its_framework_and_the_disk_is_used_again() {
    if !root::may_mount(
        "shuffle::tests::what_fills_a_disk_goes_with_its_framework_and_the_disk_is_used_again",
    ) {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.root()).expect("made");
    let at = place.root();
    let _disk = root::SmallDisk::mount(&at, "256k");
    fs::set_permissions(place.root(), fs::Permissions::from_mode(0o755)).expect("chmod");
    for restarted in [false, true] {
        let dirs = place.open();
        wait(dirs.create(&"F".into(), None)).expect("created");
        let mut file = File::create(only(&dirs, "F").join("shuffle_0_0_0.data")).expect("made");
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        drop(file);
        assert!(!wait(dirs.look()));
        assert!(
            dirs.roots().is_empty() && reasons(&dirs)[0].contains("No space left"),
            "{:?}",
            reasons(&dirs)
        );
        let dirs = if restarted {
            drop(dirs);
            place.open()
        } else {
            dirs
        };
        assert!(
            dirs.roots().is_empty() && reasons(&dirs)[0].contains("No space left"),
            "{:?}",
            reasons(&dirs)
        );
        assert_eq!(dirs.found(), [FrameworkId::from("F")]);
        dirs.remove(&"F".into()).expect("removed");
        assert!(wait(dirs.look()), "it has room");
        assert_eq!((dirs.roots().len(), reasons(&dirs)[0].as_str()), (1, ""));
    }
}
