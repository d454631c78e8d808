//! The protocol's messages as plain tables: what a reader of bytes or of JSON looks up for each field, and how large a
//! message is in memory.

use prost::Name;

/// build.rs makes it of the descriptors.
static SCHEMA: Schema = include!(concat!(env!("OUT_DIR"), "/schema.rs"));

struct Schema {
    /// In the order of their full names.
    messages: &'static [(&'static str, Message)],
    enums: &'static [Enum],
}

/// One message type.
pub(crate) struct Message {
    /// At least what `size_of` says of the generated type.
    pub(crate) size: usize,
    /// In the order of their numbers.
    pub(crate) fields: &'static [Field],
    /// In the order of the names.
    by_name: &'static [(&'static str, usize)],
    /// A bit for each required field, as [`Field::required`] numbers them.
    pub(crate) required: u64,
}

pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
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
    Int32,
    Int64,
    Uint32,
    Uint64,
}

pub(crate) struct Enum {
    /// In the order of the names.
    by_name: &'static [(&'static str, i32)],
}

/// The table of a generated type.
pub(crate) fn of<T: Name>() -> &'static Message {
    let name = T::full_name();
    let found = SCHEMA.messages.binary_search_by_key(&name.as_str(), |(name, _)| name);
    &SCHEMA.messages[found.expect("invariant: every generated type has its descriptor")].1
}

/// The message of a [`Kind::Message`].
pub(crate) fn message(at: usize) -> &'static Message {
    &SCHEMA.messages[at].1
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
        let at = self.by_name.binary_search_by_key(&name, |(name, _)| name).ok()?;
        Some(&self.fields[self.by_name[at].1])
    }
}

impl Enum {
    pub(crate) fn number(&self, name: &str) -> Option<i32> {
        let at = self.by_name.binary_search_by_key(&name, |(name, _)| name).ok()?;
        Some(self.by_name[at].1)
    }

    pub(crate) fn knows(&self, number: i32) -> bool {
        self.by_name.iter().any(|(_, known)| *known == number)
    }
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
