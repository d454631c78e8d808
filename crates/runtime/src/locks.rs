//! Who holds a lock on a file, so that an error can name the process.
use std::{fs::File, os::unix::fs::MetadataExt, path::Path};

/// The process that has locked the file, as far as the kernel tells: not one outside of this container.
pub fn lock_holder(path: &Path) -> Option<u32> {
    let metadata = File::open(path).and_then(|file| file.metadata()).ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder(line, device, inode))
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`; who waits for a lock has `->` behind the number.
fn holder(line: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(4);
    let (pid, file) = (fields.next()?.parse::<u32>().ok()?, fields.next()?);
    let mut parts = file.split(':');
    let mut number = |radix| u64::from_str_radix(parts.next()?, radix).ok();
    let found = (number(16)?, number(16)?, number(10)?);
    let wanted = (u64::from(device.0), u64::from(device.1), inode);
    (found == wanted && pid > 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_process_and_a_file() {
        let of = |line: &str| holder(line, (8, 0x1a), 5678);
        assert_eq!(of("1: FLOCK  ADVISORY  WRITE 1234 08:1a:5678 0 EOF"), Some(1234));
        for other in [
            "1: -> FLOCK  ADVISORY  WRITE 1234 08:1a:5678 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 1234 08:1a:5679 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 0 08:1a:5678 0 EOF",
            "1: OFDLCK ADVISORY  WRITE -1 08:1a:5678 0 EOF",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn this_process_holds_what_it_locked() {
        let path = std::env::temp_dir().join(format!("bellows-lock-{}", std::process::id()));
        let file = File::create(&path).expect("made");
        assert_eq!(lock_holder(&path), None);
        file.lock().expect("free");
        let holder = lock_holder(&path);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(holder, Some(std::process::id()));
    }
}
