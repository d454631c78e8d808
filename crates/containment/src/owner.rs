//! The user that a task runs as: looked up once, then plain numbers.
use crate::access::access_files_as;
use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{collections::BTreeSet, io, panic, thread};

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
    #[error(transparent)]
    Lookup(#[from] bellows_names::LookupError),
}

impl Owner {
    /// `None`: `user` is who runs the agent, nothing needs to be switched. May block for seconds.
    pub fn resolve(user: &str) -> Result<Option<Self>, OwnerError> {
        let bellows_names::User { uid, gid } =
            bellows_names::user(user)?.ok_or_else(|| OwnerError::Unknown(user.to_owned()))?;
        match geteuid() {
            current if current.as_raw() == uid => Ok(None),
            current if !current.is_root() => Err(OwnerError::NotRoot(user.to_owned())),
            _ => Ok(Some(Self { uid, gid, groups: bellows_names::groups_of(user, gid)? })),
        }
    }

    /// Names who runs this process: by number when there is no name. May block for seconds.
    pub fn own_name() -> String {
        let uid = geteuid().as_raw();
        bellows_names::user_names(&BTreeSet::from([uid])).remove(&uid).unwrap_or_else(|| uid.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name() {
        let me = Owner::own_name();
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
    }
}
