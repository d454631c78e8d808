//! From JSON text to a message's protobuf bytes, as tolerant as Mesos' own reader and a little more. Nothing is built
//! of the text but those bytes: they are about as long as the text, whatever it says.

use super::ShapeError;
use crate::{
    bounds::MAX_DEPTH,
    schema::{self, Field, Kind, Message},
};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why JSON is not the message.
pub(super) enum Failure<E> {
    Shape(ShapeError),
    /// The text itself cannot be read.
    Text(E),
}

pub(super) fn message<'de, D: Deserializer<'de>>(
    message: &'static Message,
    value: D,
) -> Result<Vec<u8>, Failure<D::Error>> {
    let mut reader = Reader { path: Vec::new(), problem: None };
    let mut bytes = Vec::new();
    let whole = Whole { reader: &mut reader, message, out: &mut bytes };
    match value.deserialize_any(whole) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(reader.problem.map_or(Failure::Text(error), Failure::Shape)),
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
    /// Names of fields, and where they are lists the item.
    path: Vec<(Cow<'static, str>, Option<usize>)>,
    /// The problem behind the deserializer's error.
    problem: Option<ShapeError>,
}

/// A field's bytes, tags and all, and whether v1's name gave them.
struct Given {
    by_v1_name: bool,
    bytes: Vec<u8>,
}

impl Reader {
    fn fields<'de, A: MapAccess<'de>>(
        &mut self,
        message: &'static Message,
        mut object: A,
        out: &mut Vec<u8>,
    ) -> Result<(), A::Error> {
        if self.path.len() > MAX_DEPTH {
            return Err(self.fail(|path| ShapeError::TooDeep { path }));
        }
        let mut given: BTreeMap<u32, Given> = BTreeMap::new();
        while let Some(name) = object.next_key::<Cow<'de, str>>()? {
            let (field, by_v1_name) = match message.field_named(&name) {
                Some(field) => (Some(field), true),
                None => (v1_name(&name).and_then(|alias| message.field_named(&alias)), false),
            };
            let Some(field) = field else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let shown = if by_v1_name { field.name.into() } else { Cow::Owned(name.into_owned()) };
            self.path.push((shown, None));
            let mut bytes = Vec::new();
            let is_given = object.next_value_seed(Slot {
                reader: self,
                field,
                list: field.repeated,
                out: &mut bytes,
            })?;
            self.path.pop();
            if is_given {
                keep(&mut given, field.number, Given { by_v1_name, bytes });
            }
        }
        out.reserve_exact(given.values().map(|one| one.bytes.len()).sum());
        given.values().for_each(|one| out.extend_from_slice(&one.bytes));
        Ok(())
    }

    fn map_entries<'de, A: MapAccess<'de>>(
        &mut self,
        field: &'static Field,
        mut object: A,
        out: &mut Vec<u8>,
    ) -> Result<(), A::Error> {
        let Kind::Message(entry) = field.kind else { return Err(self.unexpected("object")) };
        let entry = schema::message(entry);
        let (Some((_, key)), Some((_, value))) = (entry.field(1), entry.field(2)) else {
            return Err(self.unexpected("object"));
        };
        if key.kind != Kind::String {
            return Err(self.bad("only texts are keys of a map here"));
        }
        while let Some(name) = object.next_key::<Cow<'de, str>>()? {
            let mut bytes = Vec::new();
            put_bytes(&mut bytes, key.number, name.as_bytes());
            self.path.push((name.into_owned().into(), None));
            let is_given =
                object.next_value_seed(Slot { reader: self, field: value, list: false, out: &mut bytes })?;
            self.path.pop();
            if is_given {
                put_bytes(out, field.number, &bytes);
            }
        }
        Ok(())
    }

    fn path(&self) -> String {
        let mut text = String::new();
        for (name, index) in &self.path {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
            if let Some(index) = index {
                text.push_str(&format!("[{index}]"));
            }
        }
        text
    }

    fn fail<E: serde::de::Error>(&mut self, problem: impl FnOnce(String) -> ShapeError) -> E {
        self.problem = Some(problem(self.path()));
        E::custom("not the expected message")
    }

    fn unexpected<E: serde::de::Error>(&mut self, found: &'static str) -> E {
        self.fail(|path| ShapeError::Unexpected { path, found })
    }

    fn bad<E: serde::de::Error>(&mut self, reason: impl ToString) -> E {
        self.fail(|path| ShapeError::BadValue { path, reason: reason.to_string() })
    }
}

/// The v1 name wins where both are given, else the last.
fn keep(given: &mut BTreeMap<u32, Given>, number: u32, new: Given) {
    match given.entry(number) {
        Entry::Vacant(entry) => {
            entry.insert(new);
        }
        Entry::Occupied(mut entry) => {
            if new.by_v1_name || !entry.get().by_v1_name {
                entry.insert(new);
            }
        }
    }
}

/// The outermost value.
struct Whole<'r> {
    reader: &'r mut Reader,
    message: &'static Message,
    out: &'r mut Vec<u8>,
}

macro_rules! not_an_object {
    ($($visit:ident($($kind:ty)?)),*) => {$(
        fn $visit<E: serde::de::Error>(self $(, _: $kind)?) -> Result<(), E> {
            Err(self.reader.fail(|_| ShapeError::NotAnObject))
        }
    )*};
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    not_an_object!(
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_f64(f64),
        visit_str(&str),
        visit_unit()
    );

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.reader.fail(|_| ShapeError::NotAnObject))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        self.reader.fields(self.message, object, self.out)
    }
}

/// The place of a field's value. Says whether there was one: null, and an optional enum's unknown name, are none.
struct Slot<'r> {
    reader: &'r mut Reader,
    field: &'static Field,
    /// Whether a list of values may stand here.
    list: bool,
    out: &'r mut Vec<u8>,
}

impl Slot<'_> {
    fn tag(&mut self, wire_type: u32) {
        put_varint(self.out, u64::from(self.field.number << 3 | wire_type));
    }

    fn varint(mut self, value: u64) -> bool {
        self.tag(0);
        put_varint(self.out, value);
        true
    }

    /// Whole numbers, also written as `5.0` or `5e3`; a fraction is cut off, as Mesos does.
    fn number<E: serde::de::Error>(mut self, wide: i128, double: f64) -> Result<bool, E> {
        let narrow = match self.field.kind {
            Kind::Double => {
                self.tag(1);
                self.out.extend_from_slice(&double.to_le_bytes());
                return Ok(true);
            }
            // Negative numbers take ten bytes, also narrow ones.
            Kind::Int32 => i32::try_from(wide).map(|number| i64::from(number) as u64),
            Kind::Int64 => i64::try_from(wide).map(|number| number as u64),
            Kind::Uint32 => u32::try_from(wide).map(u64::from),
            Kind::Uint64 => u64::try_from(wide),
            _ => return Err(self.reader.unexpected("number")),
        };
        match narrow {
            Ok(number) => Ok(self.varint(number)),
            Err(_) => Err(self.reader.bad("the number is out of range")),
        }
    }

    fn enumerator<E: serde::de::Error>(self, kind: usize, name: &str) -> Result<bool, E> {
        let kind = schema::enumeration(kind);
        match kind.number(name).or_else(|| kind.number(&v1_name(name)?)) {
            Some(number) => Ok(self.varint(i64::from(number) as u64)),
            None if self.field.required.is_some() => {
                Err(self.reader.bad(format!("Failed to find enum for '{}'", name.escape_debug())))
            }
            None => Ok(false),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<bool, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<bool, E> {
        match self.field.kind {
            Kind::Bool => Ok(self.varint(value.into())),
            _ => Err(self.reader.unexpected("boolean")),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<bool, E> {
        self.number(value.into(), value as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<bool, E> {
        self.number(value.into(), value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<bool, E> {
        // Saturates; what lies outside of 64 bits is refused.
        self.number(value as i128, value)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
        match self.field.kind {
            Kind::String => put_bytes(self.out, self.field.number, text.as_bytes()),
            Kind::Bytes => {
                let bytes = BASE64.decode(text).map_err(|error| self.reader.bad(error))?;
                put_bytes(self.out, self.field.number, &bytes);
            }
            Kind::Enum(kind) => return self.enumerator(kind, text),
            Kind::Bool => {
                let value: bool = text.parse().map_err(|error| self.reader.bad(error))?;
                return Ok(self.varint(value.into()));
            }
            Kind::Double => {
                let double: f64 = text.trim().parse().map_err(|error| self.reader.bad(error))?;
                return self.number(0, double);
            }
            Kind::Message(_) => return Err(self.reader.unexpected("string")),
            Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => {
                let number: Result<serde_json::Number, _> = serde_json::from_str(text.trim());
                let number = number.map_err(|_| self.reader.bad("not a number"))?;
                return self.number(whole(&number), 0.0);
            }
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        if !self.list || self.field.map {
            return Err(self.reader.unexpected("array"));
        }
        let at = self.reader.path.len() - 1;
        for index in 0.. {
            self.reader.path[at].1 = Some(index);
            let slot =
                Slot { reader: &mut *self.reader, field: self.field, list: false, out: &mut *self.out };
            if items.next_element_seed(slot)?.is_none() {
                break;
            }
        }
        self.reader.path[at].1 = None;
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<bool, A::Error> {
        if self.field.map {
            self.reader.map_entries(self.field, object, self.out)?;
            return Ok(true);
        }
        let Kind::Message(message) = self.field.kind else { return Err(self.reader.unexpected("object")) };
        // A list of one may stand without its brackets.
        if self.field.repeated && self.list {
            let at = self.reader.path.len() - 1;
            self.reader.path[at].1 = Some(0);
        }
        let mut bytes = Vec::new();
        self.reader.fields(schema::message(message), object, &mut bytes)?;
        put_bytes(self.out, self.field.number, &bytes);
        Ok(true)
    }
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn whole(number: &serde_json::Number) -> i128 {
    let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    exact.unwrap_or_else(|| number.as_f64().map_or(i128::MAX, |double| double as i128))
}
