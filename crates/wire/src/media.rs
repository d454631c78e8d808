//! Media types: which encoding a request bears and which one its answer takes, refused in Mesos' words.

use crate::{bounds, json, recordio, schema};
use bytes::Bytes;
use prost::{Message, Name};

pub const APPLICATION_JSON: &str = "application/json";
pub const APPLICATION_PROTOBUF: &str = "application/x-protobuf";
pub const APPLICATION_RECORDIO: &str = "application/recordio";

/// How a message is put into bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    Protobuf,
}

/// A header that cannot be served: a status and the text that Mesos answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Expecting 'Content-Type' to be present")]
    NoContentType,
    #[error("Expecting 'Content-Type' of application/json or application/x-protobuf")]
    UnsupportedContentType,
    #[error("Expecting 'Content-Type' to be application/recordio")]
    NotRecordIo,
    #[error("Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'")]
    NotAcceptable,
}

impl Refusal {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::NoContentType => 400,
            Self::UnsupportedContentType | Self::NotRecordIo => 415,
            Self::NotAcceptable => 406,
        }
    }
}

/// Why a body is not the message that was expected. Its text is what Mesos answers with status 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Json(#[from] json::JsonError),
    #[error("Failed to parse body into {message} protobuf: {reason}")]
    Protobuf {
        /// The message's name without its package.
        message: &'static str,
        reason: String,
    },
    /// Others take the memory that it needs.
    #[error("There is no memory left for this call: try again")]
    NoRoom,
}

/// Reads a request's `Content-Type`; case and parameters (`; charset=utf-8`) do not matter.
pub fn content_type(header: Option<&str>) -> Result<Encoding, Refusal> {
    let name = essence(header.ok_or(Refusal::NoContentType)?);
    [Encoding::Json, Encoding::Protobuf]
        .into_iter()
        .find(|encoding| name.eq_ignore_ascii_case(encoding.media_type()))
        .ok_or(Refusal::UnsupportedContentType)
}

/// Checks the `Content-Type` of a request whose body is a stream of records.
pub fn require_recordio(header: Option<&str>) -> Result<(), Refusal> {
    let name = essence(header.ok_or(Refusal::NoContentType)?);
    if name.eq_ignore_ascii_case(APPLICATION_RECORDIO) { Ok(()) } else { Err(Refusal::NotRecordIo) }
}

/// Chooses the answer's encoding: JSON where it is welcome, as Mesos does whatever the order or weights, else
/// protobuf. No header welcomes everything; `q=0` excludes.
pub fn accept(header: Option<&str>) -> Result<Encoding, Refusal> {
    let Some(header) = header else { return Ok(Encoding::Json) };
    [Encoding::Json, Encoding::Protobuf]
        .into_iter()
        .find(|encoding| accepts(header, encoding.media_type()))
        .ok_or(Refusal::NotAcceptable)
}

/// Whether an `Accept` header welcomes a media type; the most specific entry that matches decides.
pub fn accepts(header: &str, media_type: &str) -> bool {
    let group = media_type.split_once('/').map_or("", |(group, _)| group);
    let specificity = |entry: &str| match essence(entry) {
        name if name.eq_ignore_ascii_case(media_type) => Some(3),
        "*/*" => Some(1),
        name => name.strip_suffix("/*").filter(|name| name.eq_ignore_ascii_case(group)).map(|_| 2),
    };
    let best = header.split(',').filter_map(|entry| Some((specificity(entry)?, !is_excluded(entry)))).max();
    best.is_some_and(|(_, welcome)| welcome)
}

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => APPLICATION_JSON,
            Self::Protobuf => APPLICATION_PROTOBUF,
        }
    }

    /// One message, as a body or as the content of a record.
    pub fn encode<T: Message + Name>(self, message: &T) -> Bytes {
        match self {
            Self::Json => json::encode(message),
            Self::Protobuf => message.encode_to_vec().into(),
        }
    }

    /// One message as one RecordIO record, in one buffer.
    pub fn encode_record<T: Message + Name>(self, message: &T) -> Bytes {
        match self {
            Self::Json => recordio::encode(&json::encode(message)),
            Self::Protobuf => recordio::encode_message(message),
        }
    }

    /// Reads one message from someone who need not be trusted: when it succeeds, required fields are there and
    /// nesting is bounded. Takes at most [`crate::bounds::allowed`] of the body's length, found out before anything is
    /// built.
    pub fn decode<T: Message + Name + Default>(self, body: Bytes) -> Result<T, DecodeError> {
        self.decode_if(body, |_| true)
    }

    /// Decodes like [`Encoding::decode`] if `admit` takes the memory that the message needs beyond its body.
    pub fn decode_if<T: Message + Name + Default>(
        self,
        body: Bytes,
        admit: impl FnOnce(usize) -> bool,
    ) -> Result<T, DecodeError> {
        if self == Self::Json {
            return json::decode_if(&body, admit)?.ok_or(DecodeError::NoRoom);
        }
        let error = |reason: String| DecodeError::Protobuf { message: T::NAME, reason };
        let memory = bounds::check(schema::of::<T>(), &body, bounds::allowed(body.len()))
            .map_err(|problem| error(problem.to_string()))?;
        if !admit(memory) {
            return Err(DecodeError::NoRoom);
        }
        T::decode(body).map_err(|problem| error(problem.to_string()))
    }
}

/// The media type of a header's entry, without parameters.
fn essence(entry: &str) -> &str {
    entry.split(';').next().unwrap_or_default().trim()
}

fn is_excluded(entry: &str) -> bool {
    entry.split(';').skip(1).filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        name.trim().eq_ignore_ascii_case("q") && value.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{FrameworkInfo, scheduler};

    #[test]
    fn content_types() {
        for (header, expected) in [
            (Some("application/json"), Ok(Encoding::Json)),
            (Some("Application/JSON; charset=utf-8"), Ok(Encoding::Json)),
            (Some("application/x-protobuf"), Ok(Encoding::Protobuf)),
            (Some("text/plain"), Err(Refusal::UnsupportedContentType)),
            (Some(""), Err(Refusal::UnsupportedContentType)),
            (Some("application/recordio"), Err(Refusal::UnsupportedContentType)),
            (None, Err(Refusal::NoContentType)),
        ] {
            assert_eq!(content_type(header), expected, "{header:?}");
        }
        assert_eq!(require_recordio(Some("application/recordio")), Ok(()));
        assert_eq!(require_recordio(Some("application/json")), Err(Refusal::NotRecordIo));
    }

    #[test]
    fn accept_headers() {
        for (header, expected) in [
            (None, Ok(Encoding::Json)),
            (Some("*/*"), Ok(Encoding::Json)),
            (Some("application/*;q=0.1"), Ok(Encoding::Json)),
            (Some("text/html, application/json;q=0.2"), Ok(Encoding::Json)),
            (Some("application/x-protobuf"), Ok(Encoding::Protobuf)),
            (Some("application/x-protobuf;q=1, application/json;q=0.1"), Ok(Encoding::Json)),
            (Some("application/json;q=0, */*"), Ok(Encoding::Protobuf)),
            (Some("application/json; q=0.000"), Err(Refusal::NotAcceptable)),
            (Some("text/html"), Err(Refusal::NotAcceptable)),
            (Some(""), Err(Refusal::NotAcceptable)),
        ] {
            assert_eq!(accept(header), expected, "{header:?}");
        }
    }

    /// The statuses and texts of a real Mesos.
    #[test]
    fn refusals_are_worded_as_by_mesos() {
        for (refusal, status, text) in [
            (content_type(None), 400, "Expecting 'Content-Type' to be present"),
            (
                content_type(Some("text/plain")),
                415,
                "Expecting 'Content-Type' of application/json or application/x-protobuf",
            ),
            (
                accept(Some("text/html")),
                406,
                "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'",
            ),
        ] {
            let refusal = refusal.expect_err("refused");
            assert_eq!((refusal.status(), refusal.to_string().as_str()), (status, text));
        }
    }

    #[test]
    fn both_encodings_carry_a_message_and_miss_what_is_required() {
        let info = FrameworkInfo { user: "u".into(), name: "n".into(), ..Default::default() };
        let call = scheduler::Call {
            r#type: Some(scheduler::call::Type::Subscribe.into()),
            subscribe: Some(scheduler::call::Subscribe { framework_info: info, ..Default::default() }),
            ..Default::default()
        };
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let body = encoding.encode(&call);
            let mut decoder = recordio::Decoder::new(1000);
            decoder.push(&encoding.encode_record(&call));
            assert_eq!(decoder.next_record(), Ok(Some(body.clone())));
            // What JSON reads has its defaults filled in, so a second pass must change nothing.
            let read: scheduler::Call = encoding.decode(body).expect("decodes");
            let again: scheduler::Call = encoding.decode(encoding.encode(&read)).expect("decodes");
            assert_eq!(read, again);
        }
        // type = SUBSCRIBE, subscribe = {}
        let error = Encoding::Protobuf.decode::<scheduler::Call>(Bytes::from_static(&[0x10, 1, 0x1a, 0]));
        assert_eq!(
            error.expect_err("incomplete").to_string(),
            "Failed to parse body into Call protobuf: Missing required fields: subscribe.framework_info"
        );
        assert!(Encoding::Protobuf.decode::<scheduler::Call>(Bytes::from_static(b"\xff\xff")).is_err());
    }
}
