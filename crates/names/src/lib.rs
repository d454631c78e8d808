//! Looks up users, groups and hosts without the name service switch of glibc.
//!
//! The release binary is linked statically. glibc's own lookups would load NSS modules into it, which crashes. So this
//! crate reads `/etc/passwd`, `/etc/group` and `/etc/hosts`, asks DNS, and leaves what lies beyond (LDAP, mDNS, systemd)
//! to `getent` in a process of its own. Everything here is bounded in time and size. It knows nothing of Mesos.
#![forbid(unsafe_code)]

mod accounts;
mod getent;
mod hosts;
mod own;

pub use accounts::{User, group_names, groups_of, user, user_names};
pub use hosts::{canonical_name, connect, lookup};
pub use own::{OwnName, advertised_address, host_name};

use getent::Questions;
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// A lookup that came to no result, which does not mean that there is no such name.
#[derive(Debug, thiserror::Error)]
#[error("cannot look up {what}: {why}")]
pub struct LookupError {
    what: String,
    why: io::Error,
}

/// Where a machine keeps its names.
#[derive(Debug, Clone)]
struct Sources {
    etc: PathBuf,
    /// The program; `None` where the machine has none.
    getent: Option<PathBuf>,
    questions: &'static Questions,
}

impl Sources {
    fn of_this_machine() -> Self {
        const PLACES: [&str; 3] = ["/usr/bin/getent", "/bin/getent", "/run/current-system/sw/bin/getent"];
        let getent = PLACES.iter().map(PathBuf::from).find(|path| path.exists());
        static QUESTIONS: Questions = Questions::new();
        Self { etc: "/etc".into(), getent, questions: &QUESTIONS }
    }

    /// The text of a file below `/etc`; of one that cannot be read, nothing.
    fn text(&self, name: &str) -> String {
        let path = self.etc.join(name);
        read_text(&path).unwrap_or_else(|error| {
            tracing::debug!(path = %path.display(), %error, "cannot be read");
            String::new()
        })
    }
}

/// Longer files than any machine has are cut.
const MAX_FILE_BYTES: u64 = 32 << 20;

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
