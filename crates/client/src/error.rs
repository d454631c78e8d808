//! What can go wrong with a call, by who must act.

use http::StatusCode;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum CallError {
    /// The other side understood and said no: the caller must change something.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody is there to hear the call; it was not sent. Retry later.
    #[error("not connected to a master")]
    NotConnected,
    /// The connection failed; whether the call arrived is unknown.
    #[error("connection to {authority} failed: {reason}")]
    Connection { authority: String, reason: String },
    /// The answer is not what the protocol says.
    #[error("unexpected answer from {authority}: {reason}")]
    Protocol { authority: String, reason: String },
    /// The client was stopped, or has told its `Fatal` event.
    #[error("the client is stopped")]
    Stopped,
}

/// An HTTP answer other than success, with the text the server gave.
#[derive(Debug, Clone, Error)]
#[error("{status}: {message}")]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl Refusal {
    /// The server may answer otherwise later: it is starting, busy, or no longer leads.
    pub fn is_temporary(&self) -> bool {
        self.status.is_server_error()
            || self.status.is_redirection()
            || matches!(
                self.status,
                StatusCode::NOT_FOUND | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            )
    }
}
