//! What a command can fail with: one line that says what, a hint that says what to do, and an exit code.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use bellows_client::CallError;
use http::StatusCode;

/// The codes are documented in `bellows --help`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that this machine lacks; the hint says how to get it.
    #[error("{what}")]
    Missing { what: String, hint: String },
    #[error("{what}: {address} is in use")]
    AddressInUse { what: &'static str, address: SocketAddr, flag: &'static str },
    #[error("no master answers at {address}: {reason}")]
    NoMaster { address: String, reason: String },
    #[error("{0}")]
    NotFound(String),
    /// What the user wrote cannot be meant.
    #[error("{what}")]
    Usage { what: String, hint: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// Another program or process that we rely on did not do its part.
    #[error("{what}")]
    Failed { what: String, hint: String },
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("{doing} {}", path.display()), source }
    }

    pub fn missing(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Missing { what: what.into(), hint: hint.into() }
    }

    pub fn failed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), hint: hint.into() }
    }

    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: hint.into() }
    }

    /// A call to the master at `address` that failed.
    pub fn call(address: &str, error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) if refusal.status == StatusCode::NOT_FOUND => {
                Self::NotFound(refusal.message)
            }
            CallError::Refused(_) | CallError::Protocol { .. } => {
                Self::failed(format!("{address}: {error}"), "is this a Mesos or Bellows master?")
            }
            _ => Self::NoMaster { address: address.to_owned(), reason: error.to_string() },
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::Failed { .. } | Self::AddressInUse { .. } => 1,
            Self::Usage { .. } => 2,
            Self::NoMaster { .. } => 3,
            Self::NotFound(_) => 4,
            Self::Missing { .. } => 5,
            Self::Interrupted => 130,
        }
    }

    /// What to do about it; may be several lines.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { hint, .. } | Self::Usage { hint, .. } | Self::Failed { hint, .. } => {
                Some(hint.clone()).filter(|hint| !hint.is_empty())
            }
            Self::AddressInUse { flag, .. } => {
                Some(format!("end what listens there, or choose another port with {flag} (0: any free one)"))
            }
            Self::NoMaster { .. } => Some(
                "start one with `bellows up`, or name yours with --master or BELLOWS_MASTER (host:port or zk://…)"
                    .to_owned(),
            ),
            Self::NotFound(_) | Self::Io { .. } | Self::Interrupted => None,
        }
    }
}

/// How an error is shown to a person.
pub struct Shown<'a>(pub &'a Error);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.0)?;
        for (i, line) in self.0.hint().iter().flat_map(|hint| hint.lines()).enumerate() {
            write!(f, "\n{}{line}", if i == 0 { " hint: " } else { "       " })?;
        }
        Ok(())
    }
}
