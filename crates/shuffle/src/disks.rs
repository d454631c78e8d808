//! Which disk has failed: errors are counted by the root, or else the mount point, that the file lies below. Touches
//! no disk itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct Disks {
    /// The allowed roots and the work directory, without symbolic links.
    named: Vec<PathBuf>,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Disks {
    pub(crate) fn new(named: Vec<PathBuf>) -> Disks {
        Disks { named, errors: Mutex::default() }
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
        if let Some(root) = self.named.iter().find(|root| path.starts_with(root)) {
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

    #[test]
    fn mount_points_as_the_kernel_writes_them() {
        let text = b"36 35 98:0 / /mnt/my\\040disk rw - ext4 /dev/x rw\n37 35 98:1 / / rw - ext4 /dev/y rw\n";
        let points: Vec<PathBuf> = mount_points(text).collect();
        assert_eq!(points, [Path::new("/mnt/my disk"), Path::new("/")]);
    }
}
