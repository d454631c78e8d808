//! Looks through a protobuf body before anything is built of it: is it well formed, is every required field there, how
//! deep does it nest, and how much memory would it take? Allocates next to nothing, whatever the body says.

use crate::{
    json::ShapeError,
    schema::{self, Field, Kind, Message},
};
use std::fmt;

/// Deeper than any call nests. prost's own decoder allows 100.
pub(crate) const MAX_DEPTH: usize = 64;
const MAX_MISSING: usize = 20;

/// Memory that a message may take for each byte that was received. Honest calls with the largest multiple are
/// launches of many tiny tasks: each has all of `TaskInfo`'s fields, set or not.
pub const MEMORY_PER_BYTE: usize = 64;
/// Memory that any message may take, whatever its length: a short call that names a few of the largest types.
pub const MEMORY_OF_ANY: usize = 128 << 10;
/// Memory that a message may take at most.
pub const MEMORY_OF_ALL: usize = 256 << 20;

/// Returns the memory that a message may take that was received in so many bytes.
pub fn allowed(received_bytes: usize) -> usize {
    received_bytes.saturating_mul(MEMORY_PER_BYTE).saturating_add(MEMORY_OF_ANY).min(MEMORY_OF_ALL)
}

/// The error in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    Malformed(&'static str),
    Shape(ShapeError),
}

impl From<ShapeError> for Problem {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => f.write_str(what),
            Self::Shape(error) => error.fmt(f),
        }
    }
}

/// How much memory the message takes when it is decoded, which is at most `allowed` bytes; about, and rather too much.
/// Required fields that are absent are named as in Mesos: first a message's own, then those of what it holds.
pub(crate) fn check(message: &'static Message, body: &[u8], allowed: usize) -> Result<usize, Problem> {
    let mut walk = Walk { memory: message.size, allowed, missing: Vec::new() };
    walk.message(message, body, &Place::Whole, 0, false)?;
    if walk.missing.is_empty() {
        Ok(walk.memory)
    } else {
        Err(ShapeError::MissingRequired(walk.missing).into())
    }
}

/// The number of the value in an entry of a map.
const MAP_VALUE: u32 = 2;

struct Walk {
    memory: usize,
    allowed: usize,
    missing: Vec<String>,
}

/// The path of a message within the whole; becomes text only when something is wrong there.
enum Place<'a> {
    Whole,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, &'a str, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Field(outer, name) => write!(f, "{outer}{name}."),
            Self::Item(outer, name, index) => write!(f, "{outer}{name}[{index}]."),
        }
    }
}

impl Walk {
    fn message(
        &mut self,
        message: &'static Message,
        body: &[u8],
        place: &Place<'_>,
        depth: usize,
        is_map_entry: bool,
    ) -> Result<(), Problem> {
        if depth > MAX_DEPTH {
            let path = place.to_string().trim_end_matches('.').to_owned();
            return Err(ShapeError::TooDeep { path }.into());
        }
        let mut given = 0u64;
        // How many items each repeated field has so far.
        let mut items: Vec<(usize, usize)> = Vec::new();
        let before = self.missing.len();
        let mut has_value = false;
        let mut input = Input(body);
        while !input.0.is_empty() {
            let (number, value) = input.field()?;
            let Some((at, field)) = message.field(number) else { continue };
            has_value |= number == MAP_VALUE;
            let count = if field.repeated { count(&mut items, at) } else { 0 };
            if let Some(bit) = field.required {
                // As Mesos' own decoder has it, an enum's number that nobody knows is no value at all.
                let known = match (field.kind, &value) {
                    (Kind::Enum(kind), Value::Varint(number)) => {
                        schema::enumeration(kind).knows(*number as i32)
                    }
                    _ => true,
                };
                given = if known { given | 1 << bit } else { given & !(1 << bit) };
            }
            self.take(memory_of(field, &value, count))?;
            if let (Kind::Message(inner), Value::Bytes(inner_body)) = (field.kind, value) {
                let inner = schema::message(inner);
                let at_item = Place::Item(place, field.name, count);
                let at_field = Place::Field(place, field.name);
                let place = match (is_map_entry, field.repeated && !field.map) {
                    (true, _) => place,
                    (false, true) => &at_item,
                    (false, false) => &at_field,
                };
                self.message(inner, inner_body, place, depth + 1, field.map)?;
            }
        }
        // A map's key without a value has an empty one.
        if is_map_entry
            && !has_value
            && let Some((_, Field { kind: Kind::Message(value), .. })) = message.field(MAP_VALUE)
        {
            self.message(schema::message(*value), &[], place, depth + 1, false)?;
        }
        let absent = message.required & !given;
        // Where enough are named already, no more paths are written.
        if absent != 0 && before < MAX_MISSING {
            let absent = message
                .fields
                .iter()
                .filter(|field| field.required.is_some_and(|bit| absent & 1 << bit != 0));
            let own: Vec<_> = absent.map(|field| format!("{place}{}", field.name)).collect();
            self.missing.splice(before..before, own);
        }
        self.missing.truncate(MAX_MISSING);
        Ok(())
    }

    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.allowed {
            return Err(ShapeError::TooLarge { allowed: self.allowed }.into());
        }
        Ok(())
    }
}

/// Counts one item more; how many there were.
fn count(items: &mut Vec<(usize, usize)>, field: usize) -> usize {
    match items.iter_mut().find(|(known, _)| *known == field) {
        Some((_, count)) => {
            *count += 1;
            *count - 1
        }
        None => {
            items.push((field, 1));
            0
        }
    }
}

/// Returns the memory that one more value takes beyond the message that holds it.
fn memory_of(field: &Field, value: &Value<'_>, before: usize) -> usize {
    const STRING: usize = 24;
    const BYTES: usize = 32;
    const SCALAR: usize = 8;
    /// Overhead of the allocator for one block.
    const BLOCK: usize = 32;
    let length = match value {
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    let (inline, heap) = match field.kind {
        Kind::Message(at) if field.map => (0, 2 * schema::message(at).size + BLOCK),
        Kind::Message(at) if field.boxed => (0, schema::message(at).size + BLOCK),
        Kind::Message(at) => (schema::message(at).size, 0),
        Kind::String if length > 0 => (STRING, length + BLOCK),
        Kind::String => (STRING, 0),
        // A part of the body, which stays for its sake.
        Kind::Bytes => (BYTES, 0),
        // Packed: as many as there are bytes, at worst; twice, as a list grows.
        _ if field.repeated && length > 0 => (0, 2 * SCALAR * length),
        _ => (SCALAR, 0),
    };
    match field.repeated {
        true => heap + inline * more_capacity(before, inline),
        // One that holds itself is in a box of its own.
        false if matches!(field.kind, Kind::Message(_)) => heap + BLOCK,
        false => heap,
    }
}

/// How much longer a `Vec` becomes that has `before` items and gets one more.
fn more_capacity(before: usize, item_bytes: usize) -> usize {
    let first = if item_bytes > 1024 { 1 } else { 4 };
    match before {
        0 => first,
        _ if before >= first && before.is_power_of_two() => before,
        _ => 0,
    }
}

enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn field(&mut self) -> Result<(u32, Value<'a>), Problem> {
        let key = self.varint()?;
        let number =
            u32::try_from(key >> 3).map_err(|_| Problem::Malformed("a field's number is too large"))?;
        if number == 0 {
            return Err(Problem::Malformed("a field has the number 0"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Fixed)?,
            _ => return Err(Problem::Malformed("a field has an unknown wire type")),
        };
        Ok((number, value))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (bytes, rest) =
            self.0.split_at_checked(length).ok_or(Problem::Malformed("the body ends within a field"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(Problem::Malformed("the body ends within a number, or a number is too long"))
    }
}
