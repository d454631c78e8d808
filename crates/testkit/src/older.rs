//! Machines older than this one: kernels without newer system calls, and containers whose seccomp profile refuses them.
use libc::{
    SYS_clone3, SYS_close_range, SYS_copy_file_range, SYS_epoll_pwait2, SYS_faccessat2, SYS_openat2,
    SYS_pidfd_getfd, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_preadv2, SYS_pwritev2, SYS_statx, c_long,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;

/// Newer than Linux 4.18, or refused by old seccomp profiles all the same.
const NEWER: [c_long; 9] = [
    SYS_close_range,
    SYS_copy_file_range,
    SYS_epoll_pwait2,
    SYS_openat2,
    SYS_pidfd_getfd,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_preadv2,
    SYS_pwritev2,
];

/// The same, but never "not permitted": the C library makes no thread where `clone3` says that, shells take it of
/// `faccessat2` for the file's answer, and so does the standard library of `statx`, which it found before the test.
const NEWER_AND_NEEDED: [c_long; 3] = [SYS_clone3, SYS_faccessat2, SYS_statx];

/// Runs `test` on a thread for which, as for the threads and processes that it starts, newer calls do not exist; and
/// once more, where they are not permitted.
pub fn on_older_machines(test: impl Fn() + Sync) {
    for errno in [libc::ENOSYS, libc::EPERM] {
        std::thread::scope(|scope| {
            let run = || {
                refuse(&NEWER, errno);
                refuse(&NEWER_AND_NEEDED, libc::ENOSYS);
                test();
            };
            let name = format!("errno-{errno}");
            std::thread::Builder::new().name(name).spawn_scoped(scope, run).expect("a thread");
        });
    }
}

/// Runs `test` on a thread for which, as for its processes, `clone3` is not permitted: it can start no thread.
pub fn where_clone3_is_not_permitted<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            refuse(&[SYS_clone3], libc::EPERM);
            test()
        };
        scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// For the calling thread and what it starts from now on; there is no way back.
fn refuse(calls: &[c_long], errno: i32) {
    let rules: BTreeMap<i64, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let target: TargetArch = std::env::consts::ARCH.try_into().expect("seccompiler knows it");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), target);
    let program: BpfProgram = filter.expect("sound").try_into().expect("small");
    seccompiler::apply_filter(&program).expect("seccomp");
}
