//! Resources and attributes: f64 to integer thousandths, reservations in both of their forms.
#![expect(deprecated, reason = "the old form of a reservation is what most frameworks speak")]

use super::ConvertError;
use crate::v1::{self, resource::ReservationInfo, resource::reservation_info, value};
use bellows_model::{DEFAULT_ROLE, Resource, ResourceError, Resources, Scalar, Value, limits};
use std::sync::Arc;

/// How a resource tells whom it is reserved for (Mesos `common/resources_utils.hpp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceFormat {
    /// In `role`, `*` when unreserved: what frameworks without RESERVATION_REFINEMENT are told.
    Legacy,
    /// In `reservations`, absent when unreserved: everyone else.
    Refined,
}

/// Far more than a machine has kinds of; keeps the summing up of a hostile list short.
const MAX_RESOURCES: usize = 1_000;

/// Reads resources; errors begin with the index in `name`. Kinds that no agent of ours offers (persistent volumes,
/// revocable, shared, of a provider) are refused, as what is asked for them could never be given.
pub fn resources_from_wire(name: &str, resources: Vec<v1::Resource>) -> Result<Resources, ConvertError> {
    if resources.len() > MAX_RESOURCES {
        return Err(ConvertError::invalid(name, format!("it has more than {MAX_RESOURCES} entries")));
    }
    let items = super::repeated(name, resources)?;
    Resources::from_items(items).map_err(|error| ConvertError::invalid(name, error))
}

/// Writes resources, marked as allocated to a role when one is given.
pub fn resources_to_wire(
    resources: &Resources,
    allocated_to: Option<&str>,
    format: ResourceFormat,
) -> Vec<v1::Resource> {
    resources.iter().map(|item| resource_to_wire(item, allocated_to, format)).collect()
}

impl TryFrom<v1::Resource> for Resource {
    type Error = ConvertError;

    fn try_from(resource: v1::Resource) -> Result<Self, ConvertError> {
        let unsupported = [
            ("disk", resource.disk.is_some()),
            ("revocable", resource.revocable.is_some()),
            ("shared", resource.shared.is_some()),
            ("provider_id", resource.provider_id.is_some()),
        ];
        if let Some((field, _)) = unsupported.into_iter().find(|(_, given)| *given) {
            return Err(ConvertError::invalid(field, "this kind of resource is not offered here"));
        }
        if resource.name.is_empty() {
            return Err(ConvertError::invalid("name", "it is empty"));
        }
        super::bounded("name", "bytes", limits::NAME, resource.name.len())?;
        let kind = resource.r#type();
        let reserved_for = reserved_for(&resource)?;
        let value = match kind {
            value::Type::Scalar => {
                let scalar = resource.scalar.ok_or_else(|| ConvertError::missing("scalar"))?;
                Value::Scalar(Scalar::from_f64(scalar.value).ok_or_else(|| {
                    ConvertError::invalid("scalar.value", ResourceError::BadScalar(resource.name.clone()))
                })?)
            }
            value::Type::Ranges => {
                let ranges = resource.ranges.ok_or_else(|| ConvertError::missing("ranges"))?;
                super::bounded("ranges", "entries", limits::RESOURCE_PARTS, ranges.range.len())?;
                Value::ranges(pairs(&ranges)).map_err(|error| ConvertError::invalid("ranges", error))?
            }
            value::Type::Set => {
                let set = resource.set.ok_or_else(|| ConvertError::missing("set"))?;
                super::bounded("set", "entries", limits::RESOURCE_PARTS, set.item.len())?;
                super::bounded("set", "bytes", limits::LABELS_BYTES, set.item.iter().map(String::len).sum())?;
                Value::Set(set.item.into_iter().collect())
            }
            value::Type::Text => return Err(ConvertError::invalid("type", "a resource cannot be a TEXT")),
        };
        Ok(Self { name: resource.name.into(), reserved_for, value })
    }
}

/// The role of the last refinement, else the old form's.
fn reserved_for(resource: &v1::Resource) -> Result<Option<Arc<str>>, ConvertError> {
    let (field, role) = match resource.reservations.last() {
        Some(last) => ("reservations", last.role()),
        None => ("role", resource.role()),
    };
    bellows_model::validate_role(role).map_err(|error| ConvertError::invalid(field, error))?;
    if field == "reservations" && resource.role.as_deref().is_some_and(|legacy| legacy != role) {
        return Err(ConvertError::invalid("role", "it differs from the one in 'reservations'"));
    }
    Ok((role != DEFAULT_ROLE).then(|| role.into()))
}

fn resource_to_wire(item: &Resource, allocated_to: Option<&str>, format: ResourceFormat) -> v1::Resource {
    let mut resource = v1::Resource {
        name: item.name.to_string(),
        allocation_info: allocated_to
            .map(|role| v1::resource::AllocationInfo { role: Some(role.to_owned()) }),
        ..Default::default()
    };
    let reserved_for = item.reserved_for.as_deref();
    match format {
        ResourceFormat::Legacy => resource.role = Some(reserved_for.unwrap_or(DEFAULT_ROLE).to_owned()),
        ResourceFormat::Refined => {
            resource.reservations.extend(reserved_for.map(|role| ReservationInfo {
                r#type: Some(reservation_info::Type::Static.into()),
                role: Some(role.to_owned()),
                ..Default::default()
            }));
        }
    }
    match &item.value {
        Value::Scalar(scalar) => {
            resource.set_type(value::Type::Scalar);
            resource.scalar = Some(value::Scalar { value: scalar.as_f64() });
        }
        Value::Ranges(ranges) => {
            resource.set_type(value::Type::Ranges);
            resource.ranges = Some(ranges_to_wire(ranges));
        }
        Value::Set(set) => {
            resource.set_type(value::Type::Set);
            resource.set = Some(value::Set { item: set.iter().cloned().collect() });
        }
    }
    resource
}

pub(super) fn pairs(ranges: &value::Ranges) -> Vec<(u64, u64)> {
    ranges.range.iter().map(|range| (range.begin, range.end)).collect()
}

pub(super) fn ranges_to_wire(ranges: &[(u64, u64)]) -> value::Ranges {
    value::Ranges { range: ranges.iter().map(|&(begin, end)| value::Range { begin, end }).collect() }
}
