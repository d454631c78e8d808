//! From parsed JSON to a reflected message, as tolerant as Mesos' own reader and a little more.

use super::ShapeError;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, Value as Field,
};
use serde_json::{Map, Value};
use std::{collections::HashMap, fmt};

/// Deeper than any call nests. The protobuf decoder allows 100: what passes here may be put into other messages.
const MAX_DEPTH: usize = 64;
const MAX_MISSING: usize = 20;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn message(descriptor: MessageDescriptor, value: &Value) -> Result<DynamicMessage, ShapeError> {
    let object = value.as_object().ok_or(ShapeError::NotAnObject)?;
    Reader { path: Vec::new() }.message(descriptor, object)
}

/// Checks a whole message: nested within bounds, and every required field set. The fields that are not are named
/// as in Mesos: first a message's own, then those of what it holds.
pub(super) fn check(message: &DynamicMessage) -> Result<(), ShapeError> {
    let mut missing = Vec::new();
    collect_missing(message, &Place::Whole, 0, &mut missing)?;
    if missing.is_empty() { Ok(()) } else { Err(ShapeError::MissingRequired(missing)) }
}

/// Where a message lies within the whole; becomes text only when something is wrong there.
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

fn collect_missing(
    message: &DynamicMessage,
    place: &Place<'_>,
    depth: usize,
    missing: &mut Vec<String>,
) -> Result<(), ShapeError> {
    if depth > MAX_DEPTH {
        return Err(ShapeError::TooDeep { path: place.to_string().trim_end_matches('.').to_owned() });
    }
    for field in message.descriptor().fields() {
        if field.cardinality() == Cardinality::Required && !is_known(message, &field) {
            missing.push(format!("{place}{}", field.name()));
        }
    }
    for (field, value) in message.fields() {
        let name = field.name();
        match value {
            Field::Message(inner) => collect_missing(inner, &Place::Field(place, name), depth + 1, missing)?,
            Field::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let Field::Message(inner) = item else { break };
                    collect_missing(inner, &Place::Item(place, name, index), depth + 1, missing)?;
                    missing.truncate(MAX_MISSING);
                }
            }
            Field::Map(entries) => {
                for item in entries.values() {
                    let Field::Message(inner) = item else { break };
                    collect_missing(inner, &Place::Field(place, name), depth + 1, missing)?;
                    missing.truncate(MAX_MISSING);
                }
            }
            _ => {}
        }
    }
    missing.truncate(MAX_MISSING);
    Ok(())
}

/// As Mesos' own decoder has it, an enum's number that nobody knows is no value at all.
fn is_known(message: &DynamicMessage, field: &FieldDescriptor) -> bool {
    message.has_field(field)
        && match (field.kind(), &*message.get_field(field)) {
            (Kind::Enum(kind), Field::EnumNumber(number)) => kind.get_value(*number).is_some(),
            _ => true,
        }
}

/// v0's names of what v1 calls agents.
fn v1_name(name: &str) -> Option<String> {
    if name.contains("slave") {
        Some(name.replace("slave", "agent"))
    } else if name.contains("SLAVE") {
        Some(name.replace("SLAVE", "AGENT"))
    } else {
        None
    }
}

struct Reader {
    path: Vec<String>,
}

impl Reader {
    fn message(
        &mut self,
        descriptor: MessageDescriptor,
        object: &Map<String, Value>,
    ) -> Result<DynamicMessage, ShapeError> {
        if self.path.len() > MAX_DEPTH {
            return Err(ShapeError::TooDeep { path: self.path() });
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        for (name, value) in object {
            let field = descriptor.get_field_by_name(name).or_else(|| {
                // The v1 name wins where both are given.
                let alias = v1_name(name)?;
                let given = object.get(&alias).is_some_and(|value| !value.is_null());
                descriptor.get_field_by_name(&alias).filter(|_| !given)
            });
            let Some(field) = field else { continue };
            self.path.push(name.clone());
            if let Some(value) = self.field(&field, value)? {
                message.set_field(&field, value);
            }
            self.path.pop();
        }
        Ok(message)
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value) -> Result<Option<Field>, ShapeError> {
        if value.is_null() {
            return Ok(None);
        }
        if field.is_map() {
            return self.map(field, value).map(Some);
        }
        if !field.is_list() {
            return self.single(field, value);
        }
        // A list of one may stand without its brackets.
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if item.is_null() {
                continue;
            }
            let plain = self.path.pop().expect("invariant: the field's own name was pushed");
            self.path.push(format!("{plain}[{index}]"));
            list.extend(self.single(field, item)?);
            self.path.pop();
            self.path.push(plain);
        }
        Ok(Some(Field::List(list)))
    }

    fn map(&mut self, field: &FieldDescriptor, value: &Value) -> Result<Field, ShapeError> {
        let Kind::Message(entry) = field.kind() else { return Err(self.unexpected(value)) };
        let object = value.as_object().ok_or_else(|| self.unexpected(value))?;
        let value_field = entry.map_entry_value_field();
        let mut map = HashMap::with_capacity(object.len());
        for (key, value) in object {
            self.path.push(key.clone());
            if entry.map_entry_key_field().kind() != Kind::String {
                return Err(self.bad("only texts are keys of a map here"));
            }
            if let Some(value) = self.field(&value_field, value)? {
                map.insert(MapKey::String(key.clone()), value);
            }
            self.path.pop();
        }
        Ok(Field::Map(map))
    }

    /// `None`: a value to be passed over.
    fn single(&mut self, field: &FieldDescriptor, value: &Value) -> Result<Option<Field>, ShapeError> {
        let found = match field.kind() {
            Kind::Message(descriptor) => {
                let object = value.as_object().ok_or_else(|| self.unexpected(value))?;
                Field::Message(self.message(descriptor, object)?)
            }
            Kind::Enum(descriptor) => return self.enumerator(field, &descriptor, value),
            Kind::String => Field::String(value.as_str().ok_or_else(|| self.unexpected(value))?.to_owned()),
            Kind::Bytes => {
                let text = value.as_str().ok_or_else(|| self.unexpected(value))?;
                Field::Bytes(BASE64.decode(text).map_err(|error| self.bad(error))?.into())
            }
            Kind::Bool => Field::Bool(match value {
                Value::Bool(value) => *value,
                Value::String(text) => text.parse().map_err(|error| self.bad(error))?,
                _ => return Err(self.unexpected(value)),
            }),
            Kind::Double => Field::F64(self.double(value)?),
            Kind::Float => Field::F32(self.double(value)? as f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(self.integer(value)?),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(self.integer(value)?),
            Kind::Uint32 | Kind::Fixed32 => Field::U32(self.integer(value)?),
            Kind::Uint64 | Kind::Fixed64 => Field::U64(self.integer(value)?),
        };
        Ok(Some(found))
    }

    fn enumerator(
        &self,
        field: &FieldDescriptor,
        descriptor: &EnumDescriptor,
        value: &Value,
    ) -> Result<Option<Field>, ShapeError> {
        let name = value.as_str().ok_or_else(|| self.unexpected(value))?;
        let known =
            descriptor.get_value_by_name(name).or_else(|| descriptor.get_value_by_name(&v1_name(name)?));
        match known {
            Some(known) => Ok(Some(Field::EnumNumber(known.number()))),
            None if field.cardinality() == Cardinality::Required => {
                Err(self.bad(format!("Failed to find enum for '{}'", name.escape_debug())))
            }
            None => Ok(None),
        }
    }

    fn double(&self, value: &Value) -> Result<f64, ShapeError> {
        match value {
            Value::Number(number) => number.as_f64().ok_or_else(|| self.unexpected(value)),
            Value::String(text) => text.trim().parse().map_err(|error| self.bad(error)),
            _ => Err(self.unexpected(value)),
        }
    }

    /// Whole numbers, also written as `5.0`, `5e3` or `"5"`; a fraction is cut off, as Mesos does.
    fn integer<T: TryFrom<i128>>(&self, value: &Value) -> Result<T, ShapeError> {
        let wide = match value {
            Value::Number(number) => whole(number),
            Value::String(text) => {
                let number: serde_json::Number =
                    serde_json::from_str(text.trim()).map_err(|_| self.bad("not a number"))?;
                whole(&number)
            }
            _ => return Err(self.unexpected(value)),
        };
        T::try_from(wide).map_err(|_| self.bad("the number is out of range"))
    }

    fn path(&self) -> String {
        self.path.join(".")
    }

    fn unexpected(&self, value: &Value) -> ShapeError {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        ShapeError::Unexpected { path: self.path(), found }
    }

    fn bad(&self, reason: impl ToString) -> ShapeError {
        ShapeError::BadValue { path: self.path(), reason: reason.to_string() }
    }
}

fn whole(number: &serde_json::Number) -> i128 {
    let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    // `as` saturates; what lies outside of 64 bits is refused by the caller.
    exact.unwrap_or_else(|| number.as_f64().map_or(i128::MAX, |double| double as i128))
}
