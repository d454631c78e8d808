//! Between the messages of the wire and the plain values of `bellows-model`.
//!
//! Wire to model (`TryFrom`) is where what comes from outside is validated, once. It decides about form alone: ids
//! that could be file names, numbers in range, one meaning for each value; whether a task may run is the kernel's.
//! Model to wire (`From`, or a function where more must be known) cannot fail.

mod agent;
mod framework;
mod offer;
mod resources;
mod status;
mod task;

pub use agent::{agent_from_wire, agent_to_wire};
pub use offer::{offer_ids_from_wire, offer_to_wire, operation_type_name, operations_from_wire};
pub use resources::{ResourceFormat, resources_from_wire, resources_to_wire};
pub use status::uuid_from_wire;
pub use task::{executor_to_wire, task_to_wire};

use crate::v1;
use bellows_model::{self as model, limits};
use std::time::Duration;

/// What is wrong with a message, and where: paths look like `task_infos[0].resources[1].scalar`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("Expecting '{path}' to be present")]
    Missing { path: String },
    #[error("Invalid '{path}': {reason}")]
    Invalid { path: String, reason: String },
}

impl ConvertError {
    /// The same error, seen from the message that holds the field.
    pub fn within(mut self, field: &str) -> Self {
        let (Self::Missing { path } | Self::Invalid { path, .. }) = &mut self;
        *path = if path.is_empty() { field.to_owned() } else { format!("{field}.{path}") };
        self
    }

    /// The offending field, as a path from the message that was converted.
    pub fn path(&self) -> &str {
        let (Self::Missing { path } | Self::Invalid { path, .. }) = self;
        path
    }

    fn missing(field: &str) -> Self {
        Self::Missing { path: field.to_owned() }
    }

    fn invalid(field: &str, reason: impl ToString) -> Self {
        Self::Invalid { path: field.to_owned(), reason: reason.to_string() }
    }
}

macro_rules! ids {
    ($($wire:ident <=> $model:ident $({ $unset:ident })?),* $(,)?) => {$(
        impl TryFrom<v1::$wire> for model::$model {
            type Error = ConvertError;

            fn try_from(id: v1::$wire) -> Result<Self, ConvertError> {
                let id = Self::new(id.value);
                id.validate().map_err(|error| ConvertError::invalid("value", error))?;
                Ok(id)
            }
        }

        impl From<&model::$model> for v1::$wire {
            fn from(id: &model::$model) -> Self {
                Self { value: id.as_str().to_owned(), $($unset: None)? }
            }
        }
    )*};
}

ids! {
    FrameworkId <=> FrameworkId,
    AgentId <=> AgentId,
    OfferId <=> OfferId,
    TaskId <=> TaskId,
    ExecutorId <=> ExecutorId,
    ContainerId <=> ContainerId { parent },
}

/// A required message of the wire.
fn field<W, M: TryFrom<W, Error = ConvertError>>(name: &str, value: W) -> Result<M, ConvertError> {
    M::try_from(value).map_err(|error| error.within(name))
}

/// An optional message of the wire.
fn optional<W, M: TryFrom<W, Error = ConvertError>>(
    name: &str,
    value: Option<W>,
) -> Result<Option<M>, ConvertError> {
    value.map(|value| field(name, value)).transpose()
}

/// A repeated message of the wire.
fn repeated<W, M: TryFrom<W, Error = ConvertError>>(
    name: &str,
    values: Vec<W>,
) -> Result<Vec<M>, ConvertError> {
    let numbered = values.into_iter().enumerate();
    numbered
        .map(|(index, value)| M::try_from(value).map_err(|error| error.within(&format!("{name}[{index}]"))))
        .collect()
}

/// Texts that become arguments, variables or file names.
fn no_nul(name: &str, text: String) -> Result<String, ConvertError> {
    if text.contains('\0') { Err(ConvertError::invalid(name, "it contains a NUL")) } else { Ok(text) }
}

/// Checks the length of a text.
fn at_most(name: &str, max: usize, text: String) -> Result<String, ConvertError> {
    bounded(name, "bytes", max, text.len()).map(|()| text)
}

/// Checks the number of a list's entries, before they are converted.
fn few<T>(name: &str, max: usize, list: Vec<T>) -> Result<Vec<T>, ConvertError> {
    bounded(name, "entries", max, list.len()).map(|()| list)
}

fn bounded(name: &str, of_what: &str, max: usize, count: usize) -> Result<(), ConvertError> {
    match count <= max {
        true => Ok(()),
        false => Err(ConvertError::invalid(name, format!("it has {count} {of_what}, more than {max}"))),
    }
}

fn labels_from_wire(labels: Option<v1::Labels>) -> Result<Vec<model::Label>, ConvertError> {
    let labels = few("labels", limits::LABELS, labels.unwrap_or_default().labels)?;
    let bytes = |label: &v1::Label| label.key.len() + label.value.as_ref().map_or(0, String::len);
    bounded("labels", "bytes", limits::LABELS_BYTES, labels.iter().map(bytes).sum())?;
    Ok(labels.into_iter().map(|label| model::Label { key: label.key, value: label.value }).collect())
}

fn labels_to_wire(labels: &[model::Label]) -> Option<v1::Labels> {
    let wire = |label: &model::Label| v1::Label { key: label.key.clone(), value: label.value.clone() };
    (!labels.is_empty()).then(|| v1::Labels { labels: labels.iter().map(wire).collect() })
}

fn duration_from_wire(
    name: &str,
    duration: Option<v1::DurationInfo>,
) -> Result<Option<Duration>, ConvertError> {
    let Some(duration) = duration else { return Ok(None) };
    let nanoseconds = u64::try_from(duration.nanoseconds)
        .map_err(|_| ConvertError::invalid("nanoseconds", "it is negative").within(name))?;
    Ok(Some(Duration::from_nanos(nanoseconds)))
}

/// Seconds, taken to the microsecond: closer than that a double of any size does not tell. `None` if they are no
/// duration.
fn seconds_from_wire(seconds: f64) -> Option<Duration> {
    let microseconds = (seconds * 1e6).round();
    let bounded = microseconds >= 0.0 && microseconds < u64::MAX as f64;
    bounded.then(|| Duration::from_micros(microseconds as u64))
}

fn duration_to_wire(duration: Duration) -> v1::DurationInfo {
    v1::DurationInfo { nanoseconds: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX) }
}

#[cfg(test)]
mod tests;
