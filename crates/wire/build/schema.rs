//! Writes the tables that `src/schema.rs` includes: the protocol's messages and enums, by name.

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    prost_types::FileDescriptorSet,
};
use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
};

/// Returns the tables as a Rust expression of type `Schema`. `boxed` names the fields that are in a box of their own.
pub(crate) fn tables(descriptors: FileDescriptorSet, boxed: &[&str]) -> Result<String, Box<dyn Error>> {
    let pool = DescriptorPool::from_file_descriptor_set(descriptors)?;
    // In the order of their names, by which they are looked up.
    let messages: BTreeMap<_, _> =
        all_messages(&pool).into_iter().map(|message| (message.full_name().to_owned(), message)).collect();
    let enums: BTreeMap<_, _> = pool.all_enums().map(|found| (found.full_name().to_owned(), found)).collect();
    let places = Places { messages: positions(messages.keys()), enums: positions(enums.keys()) };
    let mut sizes = HashMap::new();
    let mut text = "Schema { messages: &[".to_owned();
    for (name, descriptor) in &messages {
        let size = size(descriptor, boxed, &mut Vec::new(), &mut sizes);
        text += &format!("({name:?}, {}),", places.message(descriptor, size, boxed)?);
    }
    text += "], enums: &[";
    text.extend(enums.values().map(|descriptor| enumeration(descriptor) + ","));
    Ok(text + "] }")
}

/// Those of map entries included.
fn all_messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let mut found: Vec<_> = pool.all_messages().collect();
    let entries: Vec<_> = found
        .iter()
        .flat_map(MessageDescriptor::fields)
        .filter(FieldDescriptor::is_map)
        .filter_map(|field| field.kind().as_message().cloned())
        .collect();
    found.extend(entries);
    found
}

fn positions<'a>(names: impl Iterator<Item = &'a String>) -> HashMap<String, usize> {
    names.cloned().zip(0..).collect()
}

struct Places {
    messages: HashMap<String, usize>,
    enums: HashMap<String, usize>,
}

impl Places {
    fn message(
        &self,
        descriptor: &MessageDescriptor,
        size: usize,
        boxed: &[&str],
    ) -> Result<String, Box<dyn Error>> {
        let mut required = 0..;
        let mut fields = Vec::new();
        for field in descriptor.fields() {
            let bit = (field.cardinality() == Cardinality::Required).then(|| required.next());
            let text = format!(
                "Field {{ number: {}, name: {:?}, kind: Kind::{}, repeated: {}, map: {}, boxed: {}, required: {:?} }}",
                field.number(),
                field.name(),
                self.kind(&field)?,
                field.is_list() || field.is_map(),
                field.is_map(),
                boxed.contains(&field.full_name()),
                bit.flatten(),
            );
            fields.push((field.number(), field.name().to_owned(), text));
        }
        let required: u32 = required.start;
        if required >= u64::BITS {
            return Err(format!("{}: too many required fields", descriptor.full_name()).into());
        }
        fields.sort_by_key(|(number, ..)| *number);
        let mut by_name: Vec<(&str, usize)> =
            fields.iter().zip(0..).map(|((_, name, _), at)| (name.as_str(), at)).collect();
        by_name.sort_unstable();
        let texts: Vec<&str> = fields.iter().map(|(.., text)| text.as_str()).collect();
        Ok(format!(
            "Message {{ size: {size}, fields: &[{}], by_name: &{by_name:?}, required: {} }}",
            texts.join(","),
            (1_u64 << required) - 1
        ))
    }

    fn kind(&self, field: &FieldDescriptor) -> Result<String, Box<dyn Error>> {
        Ok(match field.kind() {
            Kind::Message(inner) => format!("Message({})", self.messages[inner.full_name()]),
            Kind::Enum(inner) => format!("Enum({})", self.enums[inner.full_name()]),
            Kind::String => "String".to_owned(),
            Kind::Bytes => "Bytes".to_owned(),
            Kind::Bool => "Bool".to_owned(),
            Kind::Double => "Double".to_owned(),
            Kind::Int32 => "Int32".to_owned(),
            Kind::Int64 => "Int64".to_owned(),
            Kind::Uint32 => "Uint32".to_owned(),
            Kind::Uint64 => "Uint64".to_owned(),
            other => return Err(format!("{}: {other:?} is not supported", field.full_name()).into()),
        })
    }
}

fn enumeration(descriptor: &EnumDescriptor) -> String {
    let by_name: BTreeMap<String, i32> =
        descriptor.values().map(|value| (value.name().to_owned(), value.number())).collect();
    let by_name: Vec<_> = by_name.into_iter().collect();
    format!("Enum {{ by_name: &{by_name:?} }}")
}

/// Computes an upper bound of the size of the type that prost generates: every field by itself, a oneof as if it held
/// all at once, and a message within itself in a box, as prost puts it.
fn size(
    descriptor: &MessageDescriptor,
    boxed: &[&str],
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
            Kind::Message(_) if boxed.contains(&field.full_name()) => BOX,
            Kind::Message(inner) if within.iter().any(|name| name == inner.full_name()) => BOX,
            Kind::Message(inner) => 8 + size(&inner, boxed, within, known),
            Kind::String => VEC,
            Kind::Bytes => BYTES,
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
