//! The user that a task runs as: looked up once, then plain numbers.
#![allow(unsafe_code, reason = "the name service (getpwnam_r and its like) has no safe wrapper")]
use crate::access::access_files_as;
use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{
    ffi::{CStr, CString},
    io, mem, panic, ptr, thread,
};

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    /// All groups, `gid` among them.
    pub groups: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error("no user '{0}' on this machine")]
    Unknown(String),
    #[error("cannot run as user '{0}': the agent is not root (leave out the user, or run the agent as root)")]
    NotRoot(String),
}

impl Owner {
    /// `None`: `user` is who runs the agent, nothing needs to be switched. May block on the name service.
    pub fn resolve(user: &str) -> Result<Option<Self>, OwnerError> {
        let unknown = || OwnerError::Unknown(user.to_owned());
        let name = CString::new(user).map_err(|_| unknown())?;
        let (uid, gid) = user_by_name(&name).ok_or_else(unknown)?;
        match geteuid() {
            current if current.as_raw() == uid => Ok(None),
            current if !current.is_root() => Err(OwnerError::NotRoot(user.to_owned())),
            _ => Ok(Some(Self { uid, gid, groups: groups_of(&name, gid) })),
        }
    }

    /// Who runs this process. May block on the name service.
    pub fn own_name() -> String {
        user_name(geteuid().as_raw())
    }

    /// For good: there is no way back to root. Only the calling thread changes (the system calls work on threads).
    pub(crate) fn assume_on_this_thread(&self) -> rustix::io::Result<()> {
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    }
}

/// Does `work` with the user's rights to files and no others, on a thread that ends with it; files come to belong to the user.
/// `None`: as the agent itself.
pub(crate) fn run_as<T: Send>(
    owner: Option<&Owner>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(owner) = owner else { return work() };
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("as-user".into()).spawn_scoped(scope, || {
            access_files_as(owner)?;
            work()
        });
        worker?.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

/// The user's name, or its number when it has none.
pub(crate) fn user_name(uid: u32) -> String {
    // SAFETY: zeroed is a valid `passwd` to be filled in; see `lookup` for the buffer.
    let mut entry: libc::passwd = unsafe { mem::zeroed() };
    lookup(|buffer, length, found| {
        let mut result = ptr::null_mut();
        // SAFETY: all pointers are valid for the call; strings in `entry` point into `buffer`, which is still there.
        unsafe {
            let code = libc::getpwuid_r(uid, &mut entry, buffer, length, &mut result);
            *found = (code == 0 && !result.is_null())
                .then(|| CStr::from_ptr(entry.pw_name).to_string_lossy().into_owned());
            code
        }
    })
    .unwrap_or_else(|| uid.to_string())
}

/// The group's name, or its number when it has none.
pub(crate) fn group_name(gid: u32) -> String {
    // SAFETY: zeroed is a valid `group` to be filled in; see `lookup` for the buffer.
    let mut entry: libc::group = unsafe { mem::zeroed() };
    lookup(|buffer, length, found| {
        let mut result = ptr::null_mut();
        // SAFETY: all pointers are valid for the call; strings in `entry` point into `buffer`, which is still there.
        unsafe {
            let code = libc::getgrgid_r(gid, &mut entry, buffer, length, &mut result);
            *found = (code == 0 && !result.is_null())
                .then(|| CStr::from_ptr(entry.gr_name).to_string_lossy().into_owned());
            code
        }
    })
    .unwrap_or_else(|| gid.to_string())
}

fn user_by_name(name: &CStr) -> Option<(u32, u32)> {
    // SAFETY: zeroed is a valid `passwd` to be filled in; see `lookup` for the buffer.
    let mut entry: libc::passwd = unsafe { mem::zeroed() };
    lookup(|buffer, length, found| {
        let mut result = ptr::null_mut();
        // SAFETY: all pointers are valid for the call; only numbers are taken out of `entry`.
        let code = unsafe { libc::getpwnam_r(name.as_ptr(), &mut entry, buffer, length, &mut result) };
        *found = (code == 0 && !result.is_null()).then_some((entry.pw_uid, entry.pw_gid));
        code
    })
}

/// Calls again with a larger buffer as long as the name service asks for one, up to 1 MiB.
fn lookup<T>(mut call: impl FnMut(*mut libc::c_char, usize, &mut Option<T>) -> i32) -> Option<T> {
    let mut buffer = vec![0; 1024];
    loop {
        let mut found = None;
        let code = call(buffer.as_mut_ptr(), buffer.len(), &mut found);
        if code != libc::ERANGE || buffer.len() >= 1 << 20 {
            return found;
        }
        buffer.resize(buffer.len() * 4, 0);
    }
}

fn groups_of(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = groups.len() as i32;
        // SAFETY: `groups` has room for `count` entries; the call writes no more and says in `count` how many.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        if result >= 0 {
            groups.truncate(count.max(0) as usize);
            return groups;
        }
        if groups.len() >= 65_536 {
            return vec![gid];
        }
        groups.resize(groups.len() * 4, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name() {
        let me = user_name(geteuid().as_raw());
        assert_eq!(Owner::resolve(&me).expect("exists"), None);
        assert!(matches!(Owner::resolve("no-such-user-here"), Err(OwnerError::Unknown(_))));
        assert!(matches!(Owner::resolve("nul\0inside"), Err(OwnerError::Unknown(_))));
        if geteuid().is_root() {
            let nobody = Owner::resolve("nobody").expect("exists").expect("not root");
            assert!(nobody.uid != 0 && nobody.groups.contains(&nobody.gid));
            let seen = run_as(Some(&nobody), || Ok(std::fs::read("/etc/shadow").is_ok()));
            assert!(!seen.expect("the thread ran"), "nobody could read what only root may");
            assert!(geteuid().is_root(), "only that thread has changed");
            let ids = run_as(Some(&nobody), || std::fs::read_to_string("/proc/thread-self/status"));
            let ids = ids.expect("the thread ran");
            let ids = ids.lines().find(|line| line.starts_with("Uid:")).expect("a line");
            let seen: Vec<&str> = ids.split_whitespace().skip(1).collect();
            let uid = nobody.uid.to_string();
            assert_eq!(
                seen,
                ["0", "0", "0", &uid],
                "a user's signals reach what is really or was the user's"
            );
        } else {
            assert!(matches!(Owner::resolve("root"), Err(OwnerError::NotRoot(_))));
        }
        assert_eq!(user_name(4_000_000_001), "4000000001");
        assert_eq!(group_name(0), "root");
    }
}
