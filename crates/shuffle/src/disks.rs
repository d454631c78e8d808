//! The disks: who waits for which, and which has failed. A disk is an allowed root, or else the mount point, that a
//! file lies below. All that may wait for a disk passes its gate here: one that hangs holds a bounded number of threads,
//! and whoever needs another goes on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::keeper;

/// How many may wait for one disk at once; others take their turn.
const READING: usize = 16;
/// The same for what takes its time there, which leaves the above to who waits for a block.
const TENDING: usize = 4;

/// One of [`Disks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Disk(usize);

/// What somebody waits for a disk for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// A client that wants a little: a part of a block, a path.
    Reading,
    /// A client that wants something deleted.
    Deleting,
    /// No client: may take as long as it takes.
    Upkeep,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WaitError {
    /// Was counted as the disk's failure, and told, when it was noticed.
    #[error("the disk {0} does not answer")]
    Hangs(String),
    #[error(transparent)]
    Ended(#[from] JoinError),
}

#[derive(Debug)]
struct Gate {
    /// Nothing for all that lies below no root.
    root: Option<PathBuf>,
    /// Where the root's disk is mounted, since it was first seen.
    mount: Mutex<Option<PathBuf>>,
    /// Why it is left out.
    out: Mutex<Option<String>>,
    reading: Arc<Semaphore>,
    tending: Arc<Semaphore>,
}

/// A disk that takes longer is left out.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// A start waits no longer for a disk: others have what is asked for.
const START_WITHIN: Duration = Duration::from_secs(5);

/// Resolves the roots' symbolic links, as far as their disks say so.
pub(crate) async fn real_roots(roots: Vec<PathBuf>) -> Vec<PathBuf> {
    let real = async |root: PathBuf| {
        let told = root.clone();
        let resolved = tokio::task::spawn_blocking(move || resolve(&told));
        match timeout(START_WITHIN, resolved).await {
            Ok(Ok(Ok(real))) => return real,
            Ok(Ok(Err(error))) => tracing::warn!(root = %root.display(), %error, "cannot look at a root"),
            Ok(Err(_)) | Err(_) => {
                tracing::error!(root = %root.display(), "the disk does not answer: taken for no link until a restart");
            }
        }
        std::path::absolute(&root).unwrap_or(root)
    };
    join_all(roots.into_iter().map(real)).await
}

/// Resolves the part of a path that is there; what is not may be made later.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for above in path.ancestors() {
        match above.canonicalize() {
            Ok(real) => {
                if above == path {
                    return Ok(real);
                }
                tracing::warn!(root = %path.display(), "this root is not there yet");
                return Ok(real.join(path.strip_prefix(above).expect("invariant: an ancestor")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Tells the operator where this service may not read what the agent says about directories.
pub(crate) async fn check_keepers(roots: &[PathBuf]) {
    let check = async |root: &PathBuf| {
        let at = root.clone();
        let user = rustix::process::geteuid().as_raw();
        let checked = tokio::task::spawn_blocking(move || keeper::check_access(&at, user));
        if let Ok(Ok(Err(error))) = timeout(START_WITHIN, checked).await {
            tracing::error!(root = %root.display(), user, %error, "registrations here will be refused: {RUN_AS}");
        }
    };
    join_all(roots.iter().map(check)).await;
}

/// The remedy where the service may not read what it must.
pub(crate) const RUN_AS: &str = "run the shuffle service as the agent's user or as root";

/// Whether the error says something of a path or of this user's rights and nothing of a disk: those who name paths, or
/// write below them, can bring it about.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    use Errno as E;
    let refusals = [E::ACCESS, E::PERM, E::LOOP, E::NAMETOOLONG, E::INVAL, E::NOTDIR, E::ISDIR, E::NOTEMPTY];
    Errno::from_io_error(error).is_some_and(|why| refusals.contains(&why))
}

#[derive(Debug)]
pub(crate) struct Disks {
    /// Of the allowed roots and the work directory, without symbolic links; the last is for what lies elsewhere.
    gates: Vec<Arc<Gate>>,
    /// How long a client's turn and what it asked for may take together.
    patience: Duration,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Gate {
    /// Waits for the disk.
    fn look(&self) -> io::Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let mount = self.mount.lock().clone();
        if let Some(mount) = mount.as_ref().filter(|mount| mount_point(mount) != **mount) {
            return Err(io::Error::other(format!("nothing is mounted at {}", mount.display())));
        }
        match std::fs::read_dir(root).and_then(|mut entries| entries.next().transpose()) {
            // Where its disk is there, it is gone or was never made; and to pass through it is enough.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_refusal(&error) => Ok(()),
            read => {
                read?;
                self.mount.lock().get_or_insert_with(|| mount_point(root));
                Ok(())
            }
        }
    }

    fn name(&self) -> String {
        self.root.as_ref().map_or_else(|| "other".to_owned(), |root| root.display().to_string())
    }
}

impl Disks {
    pub(crate) fn new(roots: Vec<PathBuf>, patience: Duration) -> Disks {
        let gate = |root| {
            Arc::new(Gate {
                root,
                mount: Mutex::default(),
                out: Mutex::default(),
                reading: Arc::new(Semaphore::new(READING)),
                tending: Arc::new(Semaphore::new(TENDING)),
            })
        };
        let gates = roots.into_iter().map(Some).chain([None]).map(gate).collect();
        Disks { gates, patience, errors: Mutex::default() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Disk> + use<> {
        (0..self.gates.len()).map(Disk)
    }

    /// Looks whether a root can be used; returns whether it is back.
    pub(crate) async fn look(&self, disk: Disk) -> bool {
        let gate = &self.gates[disk.0];
        let looked = timeout(LOOK_WITHIN, self.tend(disk, self.looks(disk))).await;
        let why = match looked {
            Ok(Ok(looked)) => looked.err().map(|why| why.to_string()),
            Ok(Err(panic)) => Some(panic.to_string()),
            Err(_) => Some("it does not answer".to_owned()),
        };
        let root = gate.name();
        match (std::mem::replace(&mut *gate.out.lock(), why.clone()), why) {
            (None, Some(why)) => tracing::error!(root, why, "the disk is left out"),
            (Some(_), None) => {
                tracing::info!(root, "the disk is well again");
                return true;
            }
            _ => {}
        }
        false
    }

    /// Fails where what lies below the root is out of reach, although it may look as if it were gone.
    pub(crate) fn looks(&self, disk: Disk) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let gate = Arc::clone(&self.gates[disk.0]);
        move || gate.look()
    }

    /// The roots that are left out, and why.
    pub(crate) fn left_out(&self) -> BTreeMap<String, String> {
        let out = |gate: &Arc<Gate>| Some((gate.name(), gate.out.lock().clone()?));
        self.gates.iter().filter_map(out).collect()
    }

    pub(crate) fn is_left_out(&self, path: &Path) -> bool {
        self.gates[self.of(path).0].out.lock().is_some()
    }

    pub(crate) fn of(&self, path: &Path) -> Disk {
        let below = |gate: &Arc<Gate>| gate.root.as_ref().is_some_and(|root| path.starts_with(root));
        Disk(self.gates.iter().position(below).unwrap_or(self.gates.len() - 1))
    }

    /// Does what may wait for the disk that `path` is on, where it holds up nobody else.
    pub(crate) async fn wait<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        self.wait_at(self.of(path), For::Reading, work).await
    }

    /// The same for upkeep.
    pub(crate) async fn tend<T: Send + 'static>(
        &self,
        disk: Disk,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        self.wait_at(disk, For::Upkeep, work).await
    }

    /// The same for each of several paths: of one disk one after the other, on several disks side by side. Results are
    /// in the order of the paths.
    pub(crate) async fn wait_for_each<T: Send + 'static>(
        &self,
        what_for: For,
        paths: impl IntoIterator<Item = PathBuf>,
        work: impl Fn(&Path) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, WaitError> {
        let mut by_disk: BTreeMap<Disk, Vec<(usize, PathBuf)>> = BTreeMap::new();
        for (at, path) in paths.into_iter().enumerate() {
            by_disk.entry(self.of(&path)).or_default().push((at, path));
        }
        let parts = by_disk.into_iter().map(|(disk, paths)| {
            let work = work.clone();
            let of_all = move || paths.iter().map(|(at, path)| (*at, work(path))).collect::<Vec<_>>();
            self.wait_at(disk, what_for, of_all)
        });
        let mut results: Vec<_> = try_join_all(parts).await?.into_iter().flatten().collect();
        results.sort_unstable_by_key(|(at, _)| *at);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    async fn wait_at<T: Send + 'static>(
        &self,
        disk: Disk,
        what_for: For,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        let gate = &self.gates[disk.0];
        let places = if what_for == For::Reading { &gate.reading } else { &gate.tending };
        let done = async {
            let place = places.clone().acquire_owned().await.expect("invariant: a gate is never closed");
            // The thread keeps the place, since whoever asked may be gone before the disk answers; and returns it, so that
            // who comes next finds the thread idle and needs no new one.
            let done = tokio::task::spawn_blocking(move || (work(), place));
            let (result, _place) = done.await?;
            Ok(result)
        };
        if what_for == For::Upkeep {
            return done.await;
        }
        timeout(self.patience, done).await.unwrap_or_else(|_| {
            let disk = self.count_error(gate.name());
            tracing::error!(disk, "the disk does not answer");
            Err(WaitError::Hangs(disk))
        })
    }

    /// How many threads wait for each disk now, where any does.
    pub(crate) fn waiting(&self) -> BTreeMap<String, u64> {
        let waiting = |gate: &Arc<Gate>| {
            READING - gate.reading.available_permits() + TENDING - gate.tending.available_permits()
        };
        let of = |gate: &Arc<Gate>| (gate.name(), waiting(gate) as u64);
        self.gates.iter().map(of).filter(|(_, waiting)| *waiting > 0).collect()
    }

    /// Returns the name under which it was counted.
    pub(crate) fn failed(&self, path: &Path) -> String {
        self.count_error(self.name(path).display().to_string())
    }

    fn count_error(&self, name: String) -> String {
        *self.errors.lock().entry(name.clone()).or_default() += 1;
        name
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    fn name(&self, path: &Path) -> PathBuf {
        if let Some(root) = &self.gates[self.of(path).0].root {
            return root.clone();
        }
        mount_point(path)
    }
}

/// The mount point that a path, which has no symbolic links in it, lies below.
pub fn mount_point(path: &Path) -> PathBuf {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let above = mount_points(&mounts).filter(|point| path.starts_with(point));
    above.max_by_key(|point| point.as_os_str().len()).unwrap_or_else(|| PathBuf::from("/"))
}

/// The fifth field of each line; blanks and the like are written in octal (proc_pid_mountinfo(5)).
fn mount_points(mountinfo: &[u8]) -> impl Iterator<Item = PathBuf> {
    let field = |line: &[u8]| line.split(|&byte| byte == b' ').nth(4).map(unescape);
    mountinfo.split(|&byte| byte == b'\n').filter_map(field)
}

fn unescape(field: &[u8]) -> PathBuf {
    let (mut out, mut at) = (Vec::with_capacity(field.len()), 0);
    while at < field.len() {
        match field[at..] {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                at += 4;
            }
            _ => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_named_by_its_root_or_else_by_its_mount_point() {
        let disks = Disks::new(vec!["/disk1/spark".into(), "/var/lib/bellows".into()], Duration::MAX);
        disks.failed(Path::new("/disk1/spark/app/blockmgr-1/00/shuffle_0_0_0.data"));
        disks.failed(Path::new("/disk1/spark/app/blockmgr-2"));
        disks.failed(Path::new("/proc/self/nothing"));
        disks.failed(Path::new("/disk1/sparkling"));
        let errors = disks.errors();
        assert_eq!((errors["/disk1/spark"], errors["/proc"], errors["/"]), (2, 1, 1), "{errors:?}");
    }

    #[tokio::test]
    async fn a_root_that_is_not_there_yet_is_resolved_as_far_as_it_is() {
        let dir = tempfile::tempdir().expect("directory");
        let dir = dir.path().canonicalize().expect("exists");
        std::fs::create_dir(dir.join("real")).expect("directory");
        std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).expect("link");
        let here = std::env::current_dir().expect("there").canonicalize().expect("there");
        let roots = vec![dir.join("link"), dir.join("link/later/spark"), "not/there".into()];
        let real = [dir.join("real"), dir.join("real/later/spark"), here.join("not/there")];
        assert_eq!(real_roots(roots).await, real);
    }

    /// As many as a hanging disk may hold, and some more.
    #[tokio::test]
    async fn a_disk_that_hangs_holds_so_many_threads_and_stops_no_other() {
        let disks = Disks::new(vec!["/hangs".into(), "/works".into()], Duration::MAX);
        let (answer, hanging) = std::sync::mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        let stuck = |what_for| {
            let hanging = hanging.clone();
            let paths = ["/hangs/1", "/works/1"].map(PathBuf::from);
            disks.wait_for_each(what_for, paths, move |path| {
                path.starts_with("/hangs").then(|| hanging.lock().recv()).is_some()
            })
        };
        let readers = try_join_all((0..2 * READING).map(|_| stuck(For::Reading)));
        let tending = try_join_all((0..2 * TENDING).map(|_| stuck(For::Deleting)));
        let look = async {
            let all = (READING + TENDING) as u64;
            while disks.waiting() != [("/hangs".to_owned(), all)].into() {
                tokio::task::yield_now().await;
            }
            for path in ["/works/x", "/elsewhere"] {
                assert_eq!(disks.wait(Path::new(path), || 1).await.expect("ran"), 1);
                assert_eq!(disks.tend(disks.of(Path::new(path)), || 2).await.expect("ran"), 2);
            }
            drop(answer);
        };
        let (readers, tending, ()) = futures::join!(readers, tending, look);
        for results in readers.into_iter().chain(tending).flatten() {
            assert_eq!(results, [true, false], "in the order of the paths");
        }
        assert!(disks.waiting().is_empty() && disks.errors().is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_a_disk_that_hangs_is_told_so_in_the_end() {
        let disks = Disks::new(vec!["/hangs".into()], Duration::from_millis(1));
        let (answer, hanging) = std::sync::mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        let stuck = |what_for| {
            let hanging = hanging.clone();
            disks.wait_for_each(what_for, ["/hangs/x".into()], move |_| hanging.lock().recv().is_err())
        };
        let refused = try_join_all(
            (0..2 * READING)
                .map(|_| async { Ok::<_, ()>(stuck(For::Reading).await.expect_err("hangs").to_string()) }),
        );
        let refused = refused.await.expect("all refused");
        assert!(refused.iter().all(|error| error == "the disk /hangs does not answer"), "{refused:?}");
        assert!(matches!(stuck(For::Deleting).await, Err(WaitError::Hangs(_))));
        assert_eq!(disks.errors(), [("/hangs".to_owned(), 2 * READING as u64 + 1)].into());
        assert_eq!(disks.waiting()["/hangs"], READING as u64 + 1, "its threads wait on");
        let upkeep = stuck(For::Upkeep);
        drop(answer);
        assert_eq!(upkeep.await.expect("patient"), [true]);
    }

    #[test]
    fn mount_points_as_the_kernel_writes_them() {
        let text = b"36 35 98:0 / /mnt/my\\040disk rw - ext4 /dev/x rw\n37 35 98:1 / / rw - ext4 /dev/y rw\n";
        let points: Vec<PathBuf> = mount_points(text).collect();
        assert_eq!(points, [Path::new("/mnt/my disk"), Path::new("/")]);
    }
}
