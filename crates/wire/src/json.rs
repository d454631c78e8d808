//! JSON as Mesos writes and reads it: proto names, enums by name, bytes in base64, 64-bit numbers as numbers.
//! Shapes only; whether a call makes sense is for its receiver to say.

mod read;
mod write;

use crate::descriptors::descriptor;
use bytes::Bytes;
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use serde_json::Value;

/// Why a JSON body is not the message that was expected. Its text is what Mesos answers with status 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON at all.
    #[error("Failed to parse body into JSON: syntax error at line {line} near: {near}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// The beginning of what could not be read.
        near: String,
    },
    /// JSON, but not this message.
    #[error("Failed to convert JSON into {message} protobuf: {problem}")]
    Shape {
        /// The message's name without its package.
        message: &'static str,
        problem: ShapeError,
    },
}

/// What is wrong with a JSON value that should become a message. Paths look like `accept.operations[0].type`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("Expecting a JSON object")]
    NotAnObject,
    #[error("Missing required fields: {}", .0.join(", "))]
    MissingRequired(Vec<String>),
    #[error("Not expecting a JSON {found} for field '{path}'")]
    Unexpected { path: String, found: &'static str },
    #[error("Failed to read field '{path}': {reason}")]
    BadValue { path: String, reason: String },
    #[error("Nested too deeply at '{path}'")]
    TooDeep { path: String },
}

/// Reads a message of JSON text. Unknown fields, nulls and unknown values of optional enums are passed over;
/// v0's `slave_id` and the like stand for `agent_id`; numbers may be strings.
pub fn decode<T: Message + Name + Default>(body: &[u8]) -> Result<T, JsonError> {
    let value = serde_json::from_slice(body).map_err(|error| syntax_error(body, &error))?;
    decode_value(&value)
}

/// [`decode`] for JSON that is parsed already.
pub fn decode_value<T: Message + Name + Default>(value: &Value) -> Result<T, JsonError> {
    let shape = |problem| JsonError::Shape { message: T::NAME, problem };
    let message = read::message(descriptor::<T>(), value).map_err(shape)?;
    read::check(&message).map_err(shape)?;
    Ok(message.transcode_to().expect("invariant: generated type and descriptor are of one .proto"))
}

/// Writes a message as one line of JSON, fields in the order of the `.proto` file. As in Mesos, unset fields are
/// left out unless the `.proto` gives a default and does not deprecate them.
pub fn encode<T: Message + Name>(message: &T) -> Bytes {
    let mut text = Vec::with_capacity(4 * message.encoded_len());
    write::message(&mut text, &reflect(message));
    text.into()
}

/// What the generated types pass over in protobuf bytes: required fields that are absent, nesting without bound.
pub(crate) fn check_protobuf<T: Message + Name>(
    body: Bytes,
) -> Result<Result<(), ShapeError>, prost::DecodeError> {
    DynamicMessage::decode(descriptor::<T>(), body).map(|message| read::check(&message))
}

fn reflect<T: Message + Name>(message: &T) -> DynamicMessage {
    DynamicMessage::decode(descriptor::<T>(), message.encode_to_vec().as_slice())
        .expect("invariant: generated type and descriptor are of one .proto")
}

fn syntax_error(body: &[u8], error: &serde_json::Error) -> JsonError {
    const NEAR_CHARS: usize = 60;
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let near = String::from_utf8_lossy(&rest[..rest.len().min(4 * NEAR_CHARS)])
        .chars()
        .filter(|char| !char.is_control())
        .take(NEAR_CHARS)
        .collect();
    JsonError::Syntax { line: error.line(), near }
}

#[cfg(test)]
mod tests;
