//! The protocol's messages as plain tables: what a reader of bytes or of JSON looks up for each field, and how large a
//! message is in memory. Made once, of the descriptors.

use crate::descriptors;
use prost::Name;
use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind as Reflected, MessageDescriptor};
use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

/// Fields that are in a box of their own, as build.rs asks for it.
static BOXED: &[&str] = &include!(concat!(env!("OUT_DIR"), "/boxed.rs"));

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::of_protocol);

#[derive(Default)]
struct Schema {
    messages: Vec<Message>,
    by_name: HashMap<String, usize>,
    enums: Vec<Enum>,
    enums_by_name: HashMap<String, usize>,
}

/// One message type.
pub(crate) struct Message {
    /// At least what `size_of` says of the generated type.
    pub(crate) size: usize,
    /// In the order of their numbers.
    pub(crate) fields: Vec<Field>,
    by_name: HashMap<String, usize>,
    /// A bit for each required field, as [`Field::required`] numbers them.
    pub(crate) required: u64,
}

pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    pub(crate) map: bool,
    pub(crate) boxed: bool,
    /// Which bit of [`Message::required`] it is.
    pub(crate) required: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Message(usize),
    Enum(usize),
    String,
    Bytes,
    Bool,
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
}

pub(crate) struct Enum {
    by_name: HashMap<String, i32>,
    numbers: BTreeSet<i32>,
}

/// The table of a generated type.
pub(crate) fn of<T: Name>() -> &'static Message {
    let at = SCHEMA.by_name.get(&T::full_name());
    &SCHEMA.messages[*at.expect("invariant: every generated type has its descriptor")]
}

/// The message of a [`Kind::Message`].
pub(crate) fn message(at: usize) -> &'static Message {
    &SCHEMA.messages[at]
}

/// The enum of a [`Kind::Enum`].
pub(crate) fn enumeration(at: usize) -> &'static Enum {
    &SCHEMA.enums[at]
}

impl Message {
    pub(crate) fn field(&self, number: u32) -> Option<(usize, &Field)> {
        let at = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some((at, &self.fields[at]))
    }

    pub(crate) fn field_named(&self, name: &str) -> Option<&Field> {
        Some(&self.fields[*self.by_name.get(name)?])
    }
}

impl Enum {
    pub(crate) fn number(&self, name: &str) -> Option<i32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn knows(&self, number: i32) -> bool {
        self.numbers.contains(&number)
    }
}

impl Schema {
    fn of_protocol() -> Self {
        let mut schema = Self::default();
        let mut sizes = HashMap::new();
        for descriptor in descriptors::pool().all_messages() {
            schema.add(&descriptor);
        }
        for descriptor in descriptors::pool().all_messages() {
            let at = schema.add(&descriptor);
            schema.messages[at].size = size(&descriptor, &mut Vec::new(), &mut sizes);
        }
        schema
    }

    /// Adds a message and all that it holds, and returns its place.
    fn add(&mut self, descriptor: &MessageDescriptor) -> usize {
        if let Some(at) = self.by_name.get(descriptor.full_name()) {
            return *at;
        }
        let at = self.messages.len();
        self.by_name.insert(descriptor.full_name().to_owned(), at);
        let empty = Message { size: 0, fields: Vec::new(), by_name: HashMap::new(), required: 0 };
        self.messages.push(empty);
        let mut required = 0;
        let mut fields: Vec<Field> = descriptor
            .fields()
            .map(|field| Field {
                number: field.number(),
                name: field.name().to_owned(),
                kind: self.kind(&field),
                repeated: field.is_list() || field.is_map(),
                map: field.is_map(),
                boxed: BOXED.contains(&field.full_name()),
                required: (field.cardinality() == Cardinality::Required).then(|| {
                    required += 1;
                    required - 1
                }),
            })
            .collect();
        assert!(required < 64, "invariant: no message of the protocol has so many required fields");
        fields.sort_by_key(|field| field.number);
        let by_name = fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)).collect();
        self.messages[at] = Message { size: 0, fields, by_name, required: (1 << required) - 1 };
        at
    }

    fn kind(&mut self, field: &FieldDescriptor) -> Kind {
        match field.kind() {
            Reflected::Message(inner) => Kind::Message(self.add(&inner)),
            Reflected::Enum(inner) => Kind::Enum(self.add_enum(&inner)),
            Reflected::String => Kind::String,
            Reflected::Bytes => Kind::Bytes,
            Reflected::Bool => Kind::Bool,
            Reflected::Double => Kind::Double,
            Reflected::Float => Kind::Float,
            Reflected::Int32 => Kind::Int32,
            Reflected::Int64 => Kind::Int64,
            Reflected::Uint32 => Kind::Uint32,
            Reflected::Uint64 => Kind::Uint64,
            other => panic!("invariant: the protocol has no {other:?}"),
        }
    }

    fn add_enum(&mut self, descriptor: &EnumDescriptor) -> usize {
        if let Some(at) = self.enums_by_name.get(descriptor.full_name()) {
            return *at;
        }
        let by_name: HashMap<_, _> =
            descriptor.values().map(|value| (value.name().to_owned(), value.number())).collect();
        let numbers = by_name.values().copied().collect();
        self.enums_by_name.insert(descriptor.full_name().to_owned(), self.enums.len());
        self.enums.push(Enum { by_name, numbers });
        self.enums.len() - 1
    }
}

/// Computes an upper bound of the size of the type that prost generates: every field by itself, a oneof as if it held all at once, and
/// what holds itself in a box, which is what prost does.
fn size(
    descriptor: &MessageDescriptor,
    within: &mut Vec<String>,
    known: &mut HashMap<String, usize>,
) -> usize {
    const VEC: usize = 24;
    const BYTES: usize = 32;
    const SCALAR: usize = 16;
    const BOX: usize = 8;
    if let Some(size) = known.get(descriptor.full_name()) {
        return *size;
    }
    within.push(descriptor.full_name().to_owned());
    let mut sum = 8;
    for field in descriptor.fields() {
        sum += match field.kind() {
            _ if field.is_list() || field.is_map() => VEC,
            Reflected::Message(_) if BOXED.contains(&field.full_name()) => BOX,
            Reflected::Message(inner) if within.iter().any(|name| name == inner.full_name()) => BOX,
            Reflected::Message(inner) => 8 + size(&inner, within, known),
            Reflected::String => VEC,
            Reflected::Bytes => BYTES,
            _ => SCALAR,
        };
    }
    within.pop();
    // One that was met within itself is smaller there than it is alone.
    if within.is_empty() {
        known.insert(descriptor.full_name().to_owned(), sum);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link, v1};

    #[test]
    fn no_type_is_larger_than_its_table_says() {
        fn check<T: Name>() {
            let (real, said) = (size_of::<T>(), of::<T>().size);
            assert!(real <= said && said <= 3 * real, "{}: {real} bytes, said {said}", T::full_name());
        }
        check::<v1::offer::Operation>();
        check::<v1::TaskInfo>();
        check::<v1::TaskStatus>();
        check::<v1::Resource>();
        check::<v1::FrameworkInfo>();
        check::<v1::AgentInfo>();
        check::<v1::ContainerInfo>();
        check::<v1::ContainerId>();
        check::<v1::CommandInfo>();
        check::<v1::Label>();
        check::<v1::environment::Variable>();
        check::<v1::scheduler::Call>();
        check::<v1::scheduler::Event>();
        check::<v1::master::Event>();
        check::<v1::agent::Call>();
        check::<v1::executor::Call>();
        check::<link::RunningTask>();
        check::<link::Register>();
    }
}
