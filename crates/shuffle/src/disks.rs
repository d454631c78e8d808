//! The disks: who waits for which, and which has failed. A disk is an allowed root, or else the mount point, that a
//! file lies below.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// How many may wait for one disk; others take their turn. A disk that hangs holds so many threads and no more, and
/// those that wait for other disks go on.
const WAITING_FOR_ONE: usize = 16;

#[derive(Debug)]
pub(crate) struct Disks {
    /// The allowed roots and the work directory, without symbolic links.
    named: Vec<(PathBuf, Arc<Semaphore>)>,
    /// For what lies elsewhere, and for what looks at several disks.
    other: Arc<Semaphore>,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Disks {
    pub(crate) fn new(named: Vec<PathBuf>) -> Disks {
        let gate = || Arc::new(Semaphore::new(WAITING_FOR_ONE));
        let named = named.into_iter().map(|path| (path, gate())).collect();
        Disks { named, other: gate(), errors: Mutex::default() }
    }

    /// Does what may wait for the disk that `path` is on, where it holds up nobody else.
    pub(crate) async fn wait<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        wait_at(self.gate(path), work).await
    }

    /// The same where it may be several disks, or one that is not known yet.
    pub(crate) async fn wait_for_any<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        wait_at(&self.other, work).await
    }

    pub(crate) fn are_one(&self, path: &Path, other: &Path) -> bool {
        Arc::ptr_eq(self.gate(path), self.gate(other))
    }

    fn gate(&self, path: &Path) -> &Arc<Semaphore> {
        self.named.iter().find(|(root, _)| path.starts_with(root)).map_or(&self.other, |(_, gate)| gate)
    }

    /// Returns the name under which it was counted.
    pub(crate) fn failed(&self, path: &Path) -> String {
        let name = self.name(path).display().to_string();
        *self.errors.lock().entry(name.clone()).or_default() += 1;
        name
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    fn name(&self, path: &Path) -> PathBuf {
        if let Some((root, _)) = self.named.iter().find(|(root, _)| path.starts_with(root)) {
            return root.clone();
        }
        let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let above = mount_points(&mounts).filter(|point| path.starts_with(point));
        above.max_by_key(|point| point.as_os_str().len()).unwrap_or_else(|| PathBuf::from("/"))
    }
}

async fn wait_at<T: Send + 'static>(
    gate: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let place = gate.clone().acquire_owned().await.expect("invariant: a gate is never closed");
    let done = tokio::task::spawn_blocking(move || {
        // Kept by the thread: whoever asked may be gone before the disk answers.
        let _place = place;
        work()
    });
    done.await
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
    async fn a_disk_that_hangs_stops_no_other() {
        let disks = Arc::new(Disks::new(vec!["/hangs".into(), "/works".into()]));
        let (answer, hanging) = std::sync::mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        let stuck: Vec<_> = (0..2 * WAITING_FOR_ONE)
            .map(|_| {
                let (disks, hanging) = (disks.clone(), hanging.clone());
                tokio::spawn(
                    async move { disks.wait(Path::new("/hangs/x"), move || hanging.lock().recv()).await },
                )
            })
            .collect();
        while disks.gate(Path::new("/hangs")).available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(disks.wait(Path::new("/works/x"), || 1).await.expect("ran"), 1);
        assert_eq!(disks.wait(Path::new("/elsewhere"), || 2).await.expect("ran"), 2);
        drop(answer);
        for task in stuck {
            task.await.expect("ends").expect("ran").expect_err("nobody answered");
        }
    }

    #[test]
    fn mount_points_as_the_kernel_writes_them() {
        let text = b"36 35 98:0 / /mnt/my\\040disk rw - ext4 /dev/x rw\n37 35 98:1 / / rw - ext4 /dev/y rw\n";
        let points: Vec<PathBuf> = mount_points(text).collect();
        assert_eq!(points, [Path::new("/mnt/my disk"), Path::new("/")]);
    }
}
