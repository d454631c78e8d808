//! For tests that mount file systems or switch users: who is not root runs them in a user namespace of its own.
#![allow(dead_code, reason = "each test program uses what it needs")]
use rustix::process::geteuid;
use std::{fs::File, io::Write, path::Path, process::Command};

/// `true`: the caller is root of something, and may mount. `false`: the test was run so by another process, and passed.
pub(crate) fn may_mount(test: &str) -> bool {
    geteuid().is_root() || passes_as_root(test, &[], "a kernel that lets users make user namespaces")
}

/// The same for tests that become other users, which takes a range of them.
pub(crate) fn may_switch_users(test: &str) -> bool {
    geteuid().is_root()
        || passes_as_root(test, &["--map-auto"], "the package uidmap, and a line for the user in /etc/subuid")
}

fn passes_as_root(test: &str, mapping: &[&str], need: &str) -> bool {
    let program = std::env::current_exe().expect("running");
    let output = Command::new("unshare")
        .args(["--user", "--mount", "--map-root-user"])
        .args(mapping)
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .output()
        .unwrap_or_else(|why| panic!("unshare(1): {why}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (said(&output.stdout), said(&output.stderr));
    // A name that no test has would run none, with success.
    assert!(
        output.status.success() && said.contains(" 1 passed;"),
        "{test} in a user namespace, which without root needs unshare(1) and {need}: {}\n{said}{complained}",
        output.status
    );
    false
}

/// A small file system, gone when dropped.
pub(crate) struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `size` as mount(8) takes it.
    pub(crate) fn mount(path: &'a Path, size: &str) -> Self {
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(path).output();
        assert!(
            mounted.as_ref().is_ok_and(|outcome| outcome.status.success()),
            "to mount, root needs CAP_SYS_ADMIN (of a container: --cap-add SYS_ADMIN): {mounted:?}"
        );
        Self(path)
    }

    pub(crate) fn fill(&self) {
        let mut file = File::create(self.0.join("ballast")).expect("created");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("removed");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}
