//! For tests that mount file systems or switch users: who is not root runs them in a user namespace of its own.
use rustix::process::geteuid;
use std::process::Command;

/// `true`: the caller is root of something, and may mount. `false`: the test was run so by another process, and passed.
#[allow(dead_code, reason = "each test program uses what it needs")]
pub(crate) fn may_mount(test: &str) -> bool {
    geteuid().is_root() || passes_as_root(test, &[], "a kernel that lets users make user namespaces")
}

/// The same for tests that become other users, which takes a range of them.
#[allow(dead_code, reason = "each test program uses what it needs")]
pub(crate) fn may_switch_users(test: &str) -> bool {
    geteuid().is_root()
        || passes_as_root(test, &["--map-auto"], "the package uidmap, and a line for the user in /etc/subuid")
}

fn passes_as_root(test: &str, mapping: &[&str], need: &str) -> bool {
    let program = std::env::current_exe().expect("running");
    let status = Command::new("unshare")
        .args(["--user", "--mount", "--map-root-user"])
        .args(mapping)
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .status();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "{test} in a user namespace: {status:?}. Without root it needs unshare(1) and {need}"
    );
    false
}
