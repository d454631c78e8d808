//! What an operator says that a machine has: Mesos' text form, or a JSON array of its `Resource`.
use bellows_model::{MILLI, Resource, ResourceError, Resources, Scalar, Value};
use bellows_wire::{
    convert::ConvertError,
    json,
    v1::{self, resource::reservation_info},
};

/// Why `--resources` is refused. Each names the item.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    #[error(transparent)]
    Text(#[from] ResourceError),
    #[error("cannot read it as a JSON array: {0}")]
    NoArray(serde_json::Error),
    #[error("[{index}]: {source}")]
    Json { index: usize, source: json::JsonError },
    #[error("{0}")]
    Item(#[from] ConvertError),
    #[error(
        "[{0}]: a dynamic reservation cannot be given here (leave out 'reservation', or make its type STATIC)"
    )]
    Dynamic(usize),
    #[error("[{index}]: its ranges {first:?} and {second:?} overlap")]
    Overlap { index: usize, first: (u64, u64), second: (u64, u64) },
    #[error("'{name}' must be {expected}")]
    Kind { name: String, expected: &'static str },
    #[error("'gpus' must be a whole number, not {0}")]
    PartOfGpu(f64),
    #[error("'ports' has the range {0}-{1}: ports are 1 to 65535")]
    NoPort(u64, u64),
}

/// Reads the items of `text`, those of nothing (`cpus:0`) among them.
pub(crate) fn parse(text: &str) -> Result<Vec<Resource>, ResourcesError> {
    let items = match text.trim_start().starts_with('[') {
        true => from_json(text)?,
        false => Resources::parse_items(text)?,
    };
    items.iter().try_for_each(check)?;
    Ok(items)
}

fn from_json(text: &str) -> Result<Vec<Resource>, ResourcesError> {
    let array: Vec<serde_json::Value> = serde_json::from_str(text).map_err(ResourcesError::NoArray)?;
    let item = |(index, value): (usize, &serde_json::Value)| {
        let resource: v1::Resource =
            json::decode_value(value).map_err(|source| ResourcesError::Json { index, source })?;
        let is_dynamic = |reservation: &v1::resource::ReservationInfo| {
            reservation.r#type() == reservation_info::Type::Dynamic
        };
        if value.get("reservation").is_some() || resource.reservations.iter().any(is_dynamic) {
            return Err(ResourcesError::Dynamic(index));
        }
        let mut ranges: Vec<(u64, u64)> = resource
            .ranges
            .iter()
            .flat_map(|ranges| &ranges.range)
            .map(|range| (range.begin, range.end))
            .collect();
        ranges.sort_unstable();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            return Err(ResourcesError::Overlap { index, first: pair[0], second: pair[1] });
        }
        Resource::try_from(resource).map_err(|why| why.within(&format!("[{index}]")).into())
    };
    array.iter().enumerate().map(item).collect()
}

fn check(item: &Resource) -> Result<(), ResourcesError> {
    let kind = |expected| Err(ResourcesError::Kind { name: item.name.to_string(), expected });
    match (&*item.name, &item.value) {
        ("gpus", Value::Scalar(gpus)) if gpus.0 % MILLI != 0 => Err(ResourcesError::PartOfGpu(gpus.as_f64())),
        ("cpus" | "mem" | "disk" | "gpus", Value::Scalar(Scalar(_))) => Ok(()),
        ("cpus" | "mem" | "disk" | "gpus", _) => kind("a number, as in cpus:4"),
        ("ports", Value::Ranges(ranges)) => {
            match ranges.iter().find(|(begin, end)| *begin == 0 || *end > 65_535) {
                Some((begin, end)) => Err(ResourcesError::NoPort(*begin, *end)),
                None => Ok(()),
            }
        }
        ("ports", _) => kind("ranges, as in ports:[31000-32000]"),
        _ => Ok(()),
    }
}
