//! The disks: who waits for which, and which has failed. A disk is an allowed root, or else the mount point, that a
//! file lies below. All that may wait for a disk passes its gate here: one that hangs holds a bounded number of threads,
//! and whoever needs another goes on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

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
    /// A client that wants a little, now: a part of a block, a path.
    Reading,
    /// Deleting, counting, looking through directories.
    Tending,
}

#[derive(Debug)]
struct Gate {
    /// Nothing for all that lies below no root.
    root: Option<PathBuf>,
    reading: Arc<Semaphore>,
    tending: Arc<Semaphore>,
    /// Reads that have come to an end, well or not.
    read: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(crate) struct Disks {
    /// Of the allowed roots and the work directory, without symbolic links; the last is for what lies elsewhere.
    gates: Vec<Gate>,
    errors: Mutex<BTreeMap<String, u64>>,
    /// What was read of each disk that had readers, when [`Disks::hanging`] was last asked.
    waited_for: Mutex<BTreeMap<Disk, u64>>,
}

impl Disks {
    pub(crate) fn new(roots: Vec<PathBuf>) -> Disks {
        let gate = |root| Gate {
            root,
            reading: Arc::new(Semaphore::new(READING)),
            tending: Arc::new(Semaphore::new(TENDING)),
            read: Arc::default(),
        };
        let gates = roots.into_iter().map(Some).chain([None]).map(gate).collect();
        Disks { gates, errors: Mutex::default(), waited_for: Mutex::default() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Disk> + use<> {
        (0..self.gates.len()).map(Disk)
    }

    pub(crate) fn of(&self, path: &Path) -> Disk {
        let below = |gate: &Gate| gate.root.as_ref().is_some_and(|root| path.starts_with(root));
        Disk(self.gates.iter().position(below).unwrap_or(self.gates.len() - 1))
    }

    /// Does what may wait for the disk that `path` is on, where it holds up nobody else.
    pub(crate) async fn wait<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.wait_at(self.of(path), For::Reading, work).await
    }

    /// The same for work that takes its time.
    pub(crate) async fn tend<T: Send + 'static>(
        &self,
        disk: Disk,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.wait_at(disk, For::Tending, work).await
    }

    /// The same for each of several paths: of one disk one after the other, on several disks side by side. Results are
    /// in the order of the paths.
    pub(crate) async fn wait_for_each<T: Send + 'static>(
        &self,
        what_for: For,
        paths: impl IntoIterator<Item = PathBuf>,
        work: impl Fn(&Path) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, JoinError> {
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
    ) -> Result<T, JoinError> {
        let gate = &self.gates[disk.0];
        let (places, ended) = match what_for {
            For::Reading => (&gate.reading, Some(gate.read.clone())),
            For::Tending => (&gate.tending, None),
        };
        let place = places.clone().acquire_owned().await.expect("invariant: a gate is never closed");
        let done = tokio::task::spawn_blocking(move || {
            // Kept by the thread: whoever asked may be gone before the disk answers.
            let _place = place;
            let done = work();
            if let Some(ended) = ended {
                ended.fetch_add(1, Relaxed);
            }
            done
        });
        done.await
    }

    /// How many threads wait for each disk now, where any does.
    pub(crate) fn waiting(&self) -> BTreeMap<String, u64> {
        let waiting = |gate: &Gate| {
            READING - gate.reading.available_permits() + TENDING - gate.tending.available_permits()
        };
        let of = |gate: &Gate| (self.gate_name(gate), waiting(gate) as u64);
        self.gates.iter().map(of).filter(|(_, waiting)| *waiting > 0).collect()
    }

    /// Disks that had readers when this was last asked and have some still, and not one read came to an end in between.
    /// Counted as failed, and returned by name.
    pub(crate) fn hanging(&self) -> Vec<String> {
        let reads = |disk: Disk| {
            let gate = &self.gates[disk.0];
            (gate.reading.available_permits() < READING).then(|| (disk, gate.read.load(Relaxed)))
        };
        let now: BTreeMap<Disk, u64> = self.all().filter_map(reads).collect();
        let before = std::mem::replace(&mut *self.waited_for.lock(), now.clone());
        let hanging = now.into_iter().filter(|(disk, read)| before.get(disk) == Some(read));
        hanging.map(|(disk, _)| self.count_error(self.gate_name(&self.gates[disk.0]))).collect()
    }

    fn gate_name(&self, gate: &Gate) -> String {
        gate.root.as_ref().map_or_else(|| "other".to_owned(), |root| root.display().to_string())
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
        let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let above = mount_points(&mounts).filter(|point| path.starts_with(point));
        above.max_by_key(|point| point.as_os_str().len()).unwrap_or_else(|| PathBuf::from("/"))
    }
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
        let disks = Disks::new(vec!["/disk1/spark".into(), "/var/lib/bellows".into()]);
        disks.failed(Path::new("/disk1/spark/app/blockmgr-1/00/shuffle_0_0_0.data"));
        disks.failed(Path::new("/disk1/spark/app/blockmgr-2"));
        disks.failed(Path::new("/proc/self/nothing"));
        disks.failed(Path::new("/disk1/sparkling"));
        let errors = disks.errors();
        assert_eq!((errors["/disk1/spark"], errors["/proc"], errors["/"]), (2, 1, 1), "{errors:?}");
    }

    /// As many as a hanging disk may hold, and some more.
    #[tokio::test]
    async fn a_disk_that_hangs_holds_so_many_threads_and_stops_no_other() {
        let disks = Disks::new(vec!["/hangs".into(), "/works".into()]);
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
        let tending = try_join_all((0..2 * TENDING).map(|_| stuck(For::Tending)));
        let look = async {
            let all = (READING + TENDING) as u64;
            while disks.waiting() != [("/hangs".to_owned(), all)].into() {
                tokio::task::yield_now().await;
            }
            assert_eq!(disks.hanging(), Vec::<String>::new(), "looked at for the first time");
            for path in ["/works/x", "/elsewhere"] {
                assert_eq!(disks.wait(Path::new(path), || 1).await.expect("ran"), 1);
                assert_eq!(disks.tend(disks.of(Path::new(path)), || 2).await.expect("ran"), 2);
            }
            assert_eq!(disks.hanging(), ["/hangs"]);
            assert_eq!(disks.errors(), [("/hangs".to_owned(), 1)].into());
            drop(answer);
        };
        let (readers, tending, ()) = futures::join!(readers, tending, look);
        for results in readers.into_iter().chain(tending).flatten() {
            assert_eq!(results, [true, false], "in the order of the paths");
        }
        assert!(disks.waiting().is_empty() && disks.hanging().is_empty());
    }

    #[test]
    fn mount_points_as_the_kernel_writes_them() {
        let text = b"36 35 98:0 / /mnt/my\\040disk rw - ext4 /dev/x rw\n37 35 98:1 / / rw - ext4 /dev/y rw\n";
        let points: Vec<PathBuf> = mount_points(text).collect();
        assert_eq!(points, [Path::new("/mnt/my disk"), Path::new("/")]);
    }
}
