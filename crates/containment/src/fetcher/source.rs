//! Where files come from: this machine or a web server.
use super::{FetchFailure, FetcherConfig, local::Copy};
use crate::Owner;
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::{
    collections::HashMap,
    error::Error,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, BufWriter},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Copies at once; each is a process.
const MAX_COPIES: usize = 64;
/// Copies of one user at once: they may be as slow as that user likes.
const MAX_COPIES_OF_ONE: usize = 8;
/// The longest wait for the turn of a copy.
const TURN_PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// An absolute path on this machine.
    Local(PathBuf),
    Web(reqwest::Url),
}

impl Source {
    pub(super) fn parse(uri: &str) -> Result<Self, FetchFailure> {
        let invalid = |why: &str| Err(FetchFailure::InvalidUri(why.into()));
        if uri.contains('\0') {
            return invalid("it contains a NUL");
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return match uri.starts_with('/') {
                true => Ok(Self::Local(uri.into())),
                false => invalid("a path must be absolute"),
            };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => match rest.strip_prefix("localhost").unwrap_or(rest) {
                path if path.starts_with('/') => Ok(Self::Local(path.into())),
                _ => invalid("a file URI must have an absolute path: file:///path"),
            },
            "http" | "https" => match reqwest::Url::parse(uri) {
                Ok(url) => Ok(Self::Web(url)),
                Err(why) => invalid(&why.to_string()),
            },
            _ => invalid(&format!("the scheme '{scheme}' is not supported (file, http and https are)")),
        }
    }

    /// The last part of the path, without a query.
    pub(super) fn basename(&self) -> Result<String, FetchFailure> {
        let path = match self {
            Self::Local(path) => path.to_str().unwrap_or_default(),
            Self::Web(url) => url.path(),
        };
        match path.rsplit('/').next() {
            None | Some("" | "." | "..") => {
                Err(FetchFailure::InvalidUri("it ends in no file's name: give it an output file".into()))
            }
            Some(name) => Ok(name.to_owned()),
        }
    }
}

impl Source {
    /// The URI without what may be a secret in it: name and password before the host, and the query.
    pub(super) fn shown(uri: &str) -> String {
        let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
        if scheme.eq_ignore_ascii_case("file") {
            return uri.to_owned();
        }
        let (rest, query) = match rest.find(['?', '#']) {
            Some(at) => (&rest[..at], "?…"),
            None => (rest, ""),
        };
        let authority = rest.find('/').unwrap_or(rest.len());
        let host = rest[..authority].rfind('@').map_or(0, |at| at + 1);
        format!("{scheme}://{}{query}", &rest[host..])
    }
}

/// Whose copies may run.
#[derive(Debug)]
struct Turns {
    all: Arc<Semaphore>,
    /// By user; `None` is the agent's.
    of_users: Mutex<HashMap<Option<u32>, Arc<Semaphore>>>,
}

impl Turns {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_COPIES)), of_users: Mutex::default() }
    }

    /// Waits for the user's turn first: who has too many waits without a part of what all share.
    async fn take(&self, uid: Option<u32>) -> [OwnedSemaphorePermit; 2] {
        let of_user = {
            let mut of_users = self.of_users.lock();
            // One that nobody holds or waits for is as good as new.
            of_users.retain(|_, of_user| Arc::strong_count(of_user) > 1);
            of_users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(MAX_COPIES_OF_ONE))).clone()
        };
        let own = of_user.acquire_owned().await.expect("invariant: never closed");
        let shared = self.all.clone().acquire_owned().await.expect("invariant: never closed");
        [own, shared]
    }
}

#[derive(Debug)]
pub(super) struct Sources {
    shim_exe: PathBuf,
    connect_timeout: Duration,
    read_timeout: Duration,
    limit_bytes: u64,
    turns: Turns,
    /// Made when it is first needed: reading the machine's certificates costs time and memory.
    client: OnceLock<reqwest::Client>,
}

impl Sources {
    pub(super) fn new(config: &FetcherConfig) -> Self {
        Self {
            shim_exe: config.shim_exe.clone(),
            connect_timeout: config.connect_timeout,
            read_timeout: config.read_timeout,
            limit_bytes: config.limit_bytes,
            turns: Turns::new(),
            client: OnceLock::new(),
        }
    }

    /// All of it into `file`, which lies at `to`; what is on this machine is read in a process of `owner`.
    pub(super) async fn copy(
        &self,
        source: &Source,
        file: File,
        to: &Path,
        owner: Option<&Owner>,
    ) -> Result<(), FetchFailure> {
        match source {
            Source::Local(path) => {
                let uid = owner.map(|owner| owner.uid);
                let turn = tokio::time::timeout(TURN_PATIENCE, self.turns.take(uid)).await;
                let _turn = turn.map_err(|_| {
                    let why = format!("other files are being copied for {} s", TURN_PATIENCE.as_secs());
                    FetchFailure::io(path, std::io::Error::new(std::io::ErrorKind::TimedOut, why))
                })?;
                let (exe, limit_bytes, patience) = (&self.shim_exe, self.limit_bytes, self.read_timeout);
                Copy { exe, from: path, to, file, user: owner, limit_bytes, patience }.run().await
            }
            Source::Web(url) => self.download(url.clone(), file, to).await,
        }
    }

    async fn download(&self, url: reqwest::Url, file: File, to: &Path) -> Result<(), FetchFailure> {
        let mut response = self.client()?.get(url).send().await.map_err(http)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchFailure::Status(response.status().as_u16()));
        }
        let mut left = self.limit_bytes;
        if response.content_length().is_some_and(|length| length > left) {
            return Err(FetchFailure::TooLarge);
        }
        let written = |why| FetchFailure::io(to, why);
        let mut file = BufWriter::with_capacity(256 * 1024, tokio::fs::File::from_std(file));
        while let Some(chunk) = response.chunk().await.map_err(http)? {
            left = left.checked_sub(chunk.len() as u64).ok_or(FetchFailure::TooLarge)?;
            file.write_all(&chunk).await.map_err(written)?;
        }
        file.flush().await.map_err(written)?;
        Ok(())
    }

    /// The web client, which looks up names as [`bellows_names`] does.
    fn client(&self) -> Result<&reqwest::Client, FetchFailure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let builder = reqwest::Client::builder()
            .dns_resolver(Hosts)
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.read_timeout);
        let client = builder.build().map_err(http)?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// Hosts without the name service switch, which the static binary cannot use.
struct Hosts;

impl Resolve for Hosts {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // reqwest puts the port of the URI in.
            let addresses = bellows_names::lookup(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// With all causes: the outermost one of reqwest's errors says little.
fn http(why: reqwest::Error) -> FetchFailure {
    let why = why.without_url();
    let mut text = why.to_string();
    let mut cause = why.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    FetchFailure::Http(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn one_users_copies_keep_no_other_user_waiting() {
        let turns = Turns::new();
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        for _ in 0..MAX_COPIES {
            let mut turn = Box::pin(turns.take(Some(1001)));
            match turn.as_mut().now_or_never() {
                Some(turn) => held.push(turn),
                None => waiting.push(turn),
            }
        }
        assert_eq!(held.len(), MAX_COPIES_OF_ONE);
        assert!(turns.take(Some(1002)).now_or_never().is_some());
        assert!(turns.take(None).now_or_never().is_some());
        held.clear();
        assert!(waiting.remove(0).now_or_never().is_some(), "its turn has come");
        drop(waiting);
        drop(turns.take(None).now_or_never().expect("free"));
        assert_eq!(turns.of_users.lock().len(), 1, "others are forgotten");
    }

    #[test]
    fn secrets_of_a_uri_are_not_shown() {
        for (uri, shown) in [
            ("https://bob:pw@h/a/b.tgz?sig=1#x", "https://h/a/b.tgz?…"),
            ("http://h?token=a/b@c", "http://h?…"),
            ("http://h/a@b", "http://h/a@b"),
            ("file:///a?b", "file:///a?b"),
            ("/a/b@c", "/a/b@c"),
            ("relative", "relative"),
        ] {
            assert_eq!(Source::shown(uri), shown);
        }
    }
}
