//! Resources in the two forms of the legacy API: flat (`{"cpus": 4.0, "ports": "[31000-32000]"}`) and full.
use bellows_model::{DEFAULT_ROLE, Resource, Resources, Value};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::{collections::BTreeMap, fmt::Write as _};

/// The scalars that are there even when they are zero.
const ALWAYS: [&str; 4] = ["disk", "mem", "gpus", "cpus"];

/// Flat, as `resources`, `used_resources` and the like.
#[derive(Clone, Copy)]
pub(crate) struct Flat<'a>(pub(crate) &'a Resources);

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        flat(self.0.iter(), &ALWAYS, serializer)
    }
}

/// [`Flat`], of a sum made for it.
pub(crate) struct FlatOwned(pub(crate) Resources);

impl Serialize for FlatOwned {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Flat(&self.0).serialize(serializer)
    }
}

/// [`Flat`], of what nobody has reserved.
pub(crate) struct Unreserved<'a>(pub(crate) &'a Resources);

impl Serialize for Unreserved<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        flat(self.0.iter().filter(|item| item.reserved_for.is_none()), &ALWAYS, serializer)
    }
}

/// `{role: flat}`, of what is reserved.
pub(crate) struct Reserved<'a>(pub(crate) &'a Resources);

impl Serialize for Reserved<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct OfRole<'a>(&'a Resources, &'a str);
        impl Serialize for OfRole<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let of_role = |item: &&Resource| item.reserved_for.as_deref() == Some(self.1);
                flat(self.0.iter().filter(of_role), &ALWAYS, serializer)
            }
        }
        serializer.collect_map(roles(self.0).into_iter().map(|role| (role, OfRole(self.0, role))))
    }
}

/// The scalars alone, and of ranges and sets how many: as `/roles` counts.
pub(crate) struct Counted<'a>(pub(crate) &'a Resources);

impl Serialize for Counted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        each_name(self.0.iter(), |name, items| {
            let count: f64 = items.iter().map(|item| amount(&item.value)).sum();
            map.serialize_entry(name, &count)
        })?;
        map.end()
    }
}

fn amount(value: &Value) -> f64 {
    match value {
        Value::Scalar(scalar) => scalar.as_f64(),
        Value::Ranges(ranges) => ranges.iter().map(|(begin, end)| (end - begin) as f64 + 1.0).sum(),
        Value::Set(set) => set.len() as f64,
    }
}

/// Mesos' `Resource` objects, one by one, of what is allocated or offered, by the role that has it.
pub(crate) struct FullByRole<'a>(pub(crate) BTreeMap<&'a str, Resources>);

impl Serialize for FullByRole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items = self.0.iter().flat_map(|(role, held)| held.iter().map(|item| (*role, item)));
        serializer.collect_seq(items.map(|(role, item)| FullItem::new(item, Some(role))))
    }
}

/// Mesos' `Resource` objects of what nobody has reserved.
pub(crate) struct UnreservedFull<'a>(pub(crate) &'a Resources);

impl Serialize for UnreservedFull<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items = self.0.iter().filter(|item| item.reserved_for.is_none());
        serializer.collect_seq(items.map(|item| FullItem::new(item, None)))
    }
}

/// `{role: [Resource]}`, of what is reserved.
pub(crate) struct ReservedFull<'a>(pub(crate) &'a Resources);

impl Serialize for ReservedFull<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(roles(self.0).into_iter().map(|role| {
            let of_role = |item: &&Resource| item.reserved_for.as_deref() == Some(role);
            let items: Vec<_> = self.0.iter().filter(of_role).map(|item| FullItem::new(item, None)).collect();
            (role, items)
        }))
    }
}

#[derive(Serialize)]
struct FullItem<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scalar: Option<Scalar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ranges: Option<Ranges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<Set<'a>>,
    role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation_info: Option<AllocationInfo<'a>>,
}

/// `{"role": "*"}`: whom resources are allocated or offered to.
#[derive(Serialize)]
pub(crate) struct AllocationInfo<'a> {
    pub(crate) role: &'a str,
}

#[derive(Serialize)]
struct Scalar {
    value: f64,
}

#[derive(Serialize)]
struct Ranges {
    range: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    begin: u64,
    end: u64,
}

#[derive(Serialize)]
struct Set<'a> {
    item: Vec<&'a str>,
}

impl<'a> FullItem<'a> {
    fn new(item: &'a Resource, allocated_to: Option<&'a str>) -> Self {
        let mut full = Self {
            name: &item.name,
            kind: "SCALAR",
            scalar: None,
            ranges: None,
            set: None,
            role: item.reserved_for.as_deref().unwrap_or(DEFAULT_ROLE),
            allocation_info: allocated_to.map(|role| AllocationInfo { role }),
        };
        match &item.value {
            Value::Scalar(scalar) => full.scalar = Some(Scalar { value: scalar.as_f64() }),
            Value::Ranges(ranges) => {
                full.kind = "RANGES";
                let range = ranges.iter().map(|&(begin, end)| Range { begin, end }).collect();
                full.ranges = Some(Ranges { range });
            }
            Value::Set(set) => {
                full.kind = "SET";
                full.set = Some(Set { item: set.iter().map(String::as_str).collect() });
            }
        }
        full
    }
}

fn roles(resources: &Resources) -> Vec<&str> {
    let mut roles: Vec<_> = resources.iter().filter_map(|item| item.reserved_for.as_deref()).collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

fn flat<'a, S: Serializer>(
    items: impl Iterator<Item = &'a Resource>,
    always: &[&str],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let items: Vec<_> = items.collect();
    let mut map = serializer.serialize_map(None)?;
    for name in always {
        if !items.iter().any(|item| &*item.name == *name) {
            map.serialize_entry(name, &0.0)?;
        }
    }
    each_name(items.into_iter(), |name, items| match &items[0].value {
        Value::Scalar(_) => {
            map.serialize_entry(name, &items.iter().map(|item| amount(&item.value)).sum::<f64>())
        }
        _ => map.serialize_entry(name, &text(items)),
    })?;
    map.end()
}

/// `[31000-32000, 33000-33100]` or `{a, b}`.
fn text(items: &[&Resource]) -> String {
    let (mut parts, mut brackets) = (Vec::new(), ('[', ']'));
    for item in items {
        match &item.value {
            Value::Ranges(ranges) => parts.extend(ranges.iter().map(|(begin, end)| format!("{begin}-{end}"))),
            Value::Set(set) => {
                brackets = ('{', '}');
                parts.extend(set.iter().cloned());
            }
            Value::Scalar(_) => {}
        }
    }
    let mut text = String::new();
    let _ = write!(text, "{}{}{}", brackets.0, parts.join(", "), brackets.1);
    text
}

/// Calls `write` once a name, with all entries of that name: reserved and unreserved are one in the flat form.
fn each_name<'a, E>(
    items: impl Iterator<Item = &'a Resource>,
    mut write: impl FnMut(&str, &[&'a Resource]) -> Result<(), E>,
) -> Result<(), E> {
    let items: Vec<_> = items.collect();
    items.chunk_by(|a, b| a.name == b.name).try_for_each(|same| write(&same[0].name, same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_resources() {
        let resources = Resources::parse("cpus:2;cpus(etl):1.5;ports:[1-2,5-5];zones:{b,a}").expect("valid");
        assert_eq!(
            json(&Flat(&resources)),
            r#"{"disk":0.0,"mem":0.0,"gpus":0.0,"cpus":3.5,"ports":"[1-2, 5-5]","zones":"{a, b}"}"#
        );
        assert_eq!(json(&Reserved(&resources)), r#"{"etl":{"disk":0.0,"mem":0.0,"gpus":0.0,"cpus":1.5}}"#);
        assert_eq!(json(&Counted(&resources)), r#"{"cpus":3.5,"ports":3.0,"zones":2.0}"#);
        assert_eq!(
            json(&ReservedFull(&resources)),
            r#"{"etl":[{"name":"cpus","type":"SCALAR","scalar":{"value":1.5},"role":"etl"}]}"#
        );
    }

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).expect("plain data")
    }
}
