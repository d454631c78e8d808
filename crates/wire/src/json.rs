//! JSON as Mesos writes and reads it: proto names, enums by name, bytes in base64, 64-bit numbers as numbers.
//! Shapes only; whether a call makes sense is for its receiver to say.

mod read;
mod write;

use crate::{
    bounds::{self, Problem},
    descriptors::descriptor,
    schema,
};
use bytes::Bytes;
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use read::Failure;
use serde::{Deserializer, de::IgnoredAny};
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
    /// Too many items for the memory that a body of this length may take.
    #[error("Too many items: they would take more than {allowed} bytes of memory; send fewer in one call")]
    TooLarge { allowed: usize },
}

/// Reads a message of JSON text. Unknown fields, nulls and unknown values of optional enums are passed over;
/// v0's `slave_id` and the like stand for `agent_id`; numbers may be strings. Takes at most [`bounds::allowed`] of the
/// text's length, and as much as the text twice.
pub fn decode<T: Message + Name + Default>(body: &[u8]) -> Result<T, JsonError> {
    decode_if(body, |_| true).map(|message| message.expect("invariant: nobody said no"))
}

/// Decodes like [`decode`] if `admit` takes the memory that the message needs; else returns `None`.
pub(crate) fn decode_if<T: Message + Name + Default>(
    body: &[u8],
    admit: impl FnOnce(usize) -> bool,
) -> Result<Option<T>, JsonError> {
    // First of all, and without keeping any of it: what is no JSON is said to be none, whatever it looks like.
    serde_json::from_slice::<IgnoredAny>(body).map_err(|error| syntax_error(body, &error))?;
    let mut text = serde_json::Deserializer::from_slice(body);
    read_message(&mut text, body.len(), admit, |error| syntax_error(body, &error))
}

/// [`decode`] for JSON that is parsed already.
pub fn decode_value<T: Message + Name + Default>(value: &Value) -> Result<T, JsonError> {
    let unreadable = |error: serde_json::Error| JsonError::Syntax { line: 1, near: error.to_string() };
    let message = read_message(value, usize::MAX, |_| true, unreadable)?;
    Ok(message.expect("invariant: nobody said no"))
}

fn read_message<'de, T: Message + Name + Default, D: Deserializer<'de>>(
    value: D,
    received_bytes: usize,
    admit: impl FnOnce(usize) -> bool,
    unreadable: impl FnOnce(D::Error) -> JsonError,
) -> Result<Option<T>, JsonError> {
    let shape = |problem| JsonError::Shape { message: T::NAME, problem };
    let protobuf = match read::message(schema::of::<T>(), value) {
        Ok(protobuf) => Bytes::from(protobuf),
        Err(Failure::Shape(problem)) => return Err(shape(problem)),
        Err(Failure::Text(error)) => return Err(unreadable(error)),
    };
    let memory = match bounds::check(schema::of::<T>(), &protobuf, bounds::allowed(received_bytes)) {
        Ok(memory) => memory,
        Err(Problem::Shape(problem)) => return Err(shape(problem)),
        Err(Problem::Malformed(what)) => unreachable!("own bytes are well formed: {what}"),
    };
    if !admit(memory) {
        return Ok(None);
    }
    Ok(Some(T::decode(protobuf).expect("invariant: own bytes are well formed")))
}

/// Writes a message as one line of JSON, fields in the order of the `.proto` file. As in Mesos, unset fields are
/// left out unless the `.proto` gives a default and does not deprecate them.
pub fn encode<T: Message + Name>(message: &T) -> Bytes {
    let mut text = Vec::with_capacity(4 * message.encoded_len());
    write::message(&mut text, &reflect(message));
    text.into()
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
