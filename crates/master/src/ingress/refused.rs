//! What a bad request gets: a status and one line of text, worded as Mesos words it.
use crate::{driver::Stopped, streams::NoPlace};
use axum::{
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bellows_kernel::master::CallError;
use bellows_wire::media::{DecodeError, Refusal};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// For 405.
    allow: Option<&'static str>,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), allow: None }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "404 Not Found.")
    }

    pub(crate) fn method(allowed: &'static str, given: &Method) -> Self {
        let text =
            format!("405 Method Not Allowed. Expecting one of {{ '{allowed}' }}, but received '{given}'.");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, text, allow: Some(allowed) }
    }

    pub(crate) fn no_room() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "There is no memory left for this: try again")
    }

    /// Too many like it are under way, or took too long.
    pub(crate) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Too many requests are under way: try again")
    }

    /// A call that Mesos knows and this master does not carry out.
    pub(crate) fn not_supported(call: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, format!("{call} is not supported by this master"))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text).into_response();
        if let Some(allow) = self.allow {
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, refusal.to_string())
    }
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::NoRoom => Self::no_room(),
            error => Self::bad_request(error.to_string()),
        }
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        let status = match error {
            CallError::NotSubscribed => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<NoPlace> for Refused {
    fn from(_: NoPlace) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Too many streams are open, or of this address: try again")
    }
}

impl From<Stopped> for Refused {
    fn from(_: Stopped) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "This master is stopping")
    }
}
