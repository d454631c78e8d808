//! Where files come from: this machine or a web server.
use super::{FetchFailure, blocking};
use crate::{Owner, owner::run_as};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::{
    error::Error,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};
use tokio::io::{AsyncWriteExt, BufWriter};

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

#[derive(Debug)]
pub(super) struct Sources {
    connect_timeout: Duration,
    read_timeout: Duration,
    limit_bytes: u64,
    /// Made when it is first needed: reading the machine's certificates costs time and memory.
    client: OnceLock<reqwest::Client>,
}

impl Sources {
    pub(super) fn new(connect_timeout: Duration, read_timeout: Duration, limit_bytes: u64) -> Self {
        Self { connect_timeout, read_timeout, limit_bytes, client: OnceLock::new() }
    }

    /// All of it into `file`, which lies at `to`; what is on this machine is read with the rights of `owner`.
    pub(super) async fn copy(
        &self,
        source: &Source,
        file: File,
        to: &Path,
        owner: Option<&Owner>,
    ) -> Result<(), FetchFailure> {
        match source {
            Source::Local(path) => {
                let (path, to, owner) = (path.clone(), to.to_path_buf(), owner.cloned());
                let limit_bytes = self.limit_bytes;
                blocking(move || copy_local(&path, file, &to, owner.as_ref(), limit_bytes)).await
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

fn copy_local(
    path: &Path,
    mut file: File,
    to: &Path,
    owner: Option<&Owner>,
    limit_bytes: u64,
) -> Result<(), FetchFailure> {
    let at = |why| FetchFailure::io(path, why);
    // Without waiting for a writer, should it be a FIFO.
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut source = run_as(owner, open).map_err(at)?;
    let metadata = source.metadata().map_err(at)?;
    if !metadata.is_file() {
        return Err(at(io::Error::other("not a regular file")));
    }
    if metadata.len() > limit_bytes {
        return Err(FetchFailure::TooLarge);
    }
    io::copy(&mut source, &mut file).map(drop).map_err(|why| FetchFailure::io(to, why))
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
