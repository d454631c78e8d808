//! From a reflected message to JSON text.

use base64::{Engine, engine::general_purpose::STANDARD};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use std::borrow::Cow;

/// Lists of the operator API that Mesos writes even when they are empty (`master/readonly_handler.cpp`,
/// `slave/http.cpp`).
const LISTS_WRITTEN_EMPTY: [&str; 17] = [
    "mesos.v1.master.Response.GetAgents.agents",
    "mesos.v1.master.Response.GetAgents.recovered_agents",
    "mesos.v1.master.Response.GetExecutors.executors",
    "mesos.v1.master.Response.GetFrameworks.frameworks",
    "mesos.v1.master.Response.GetFrameworks.completed_frameworks",
    "mesos.v1.master.Response.GetTasks.tasks",
    "mesos.v1.master.Response.GetTasks.unreachable_tasks",
    "mesos.v1.master.Response.GetTasks.completed_tasks",
    "mesos.v1.agent.Response.GetExecutors.executors",
    "mesos.v1.agent.Response.GetExecutors.completed_executors",
    "mesos.v1.agent.Response.GetFrameworks.frameworks",
    "mesos.v1.agent.Response.GetFrameworks.completed_frameworks",
    "mesos.v1.agent.Response.GetTasks.pending_tasks",
    "mesos.v1.agent.Response.GetTasks.queued_tasks",
    "mesos.v1.agent.Response.GetTasks.launched_tasks",
    "mesos.v1.agent.Response.GetTasks.terminated_tasks",
    "mesos.v1.agent.Response.GetTasks.completed_tasks",
];

pub(super) fn message(out: &mut Vec<u8>, message: &DynamicMessage) {
    out.push(b'{');
    let mut first = true;
    for field in message.descriptor().fields() {
        let value = message.get_field(&field);
        if !is_written(message, &field, &value) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        string(out, field.name());
        out.push(b':');
        any(out, &field.kind(), &value);
    }
    out.push(b'}');
}

fn is_written(message: &DynamicMessage, field: &FieldDescriptor, value: &Value) -> bool {
    if field.is_list() {
        return message.has_field(field) || LISTS_WRITTEN_EMPTY.contains(&field.full_name());
    }
    let proto = field.field_descriptor_proto();
    let has_lasting_default =
        proto.default_value.is_some() && !proto.options.as_ref().is_some_and(|options| options.deprecated());
    let is_unknown_enum = matches!((field.kind(), value), (Kind::Enum(kind), Value::EnumNumber(number))
        if kind.get_value(*number).is_none());
    (message.has_field(field) || has_lasting_default) && !is_unknown_enum
}

fn any(out: &mut Vec<u8>, kind: &Kind, value: &Value) {
    match value {
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::I32(value) => scalar(out, value),
        Value::I64(value) => scalar(out, value),
        Value::U32(value) => scalar(out, value),
        Value::U64(value) => scalar(out, value),
        Value::F32(value) => double(out, f64::from(*value)),
        Value::F64(value) => double(out, *value),
        Value::String(value) => string(out, value),
        Value::Bytes(value) => string(out, &STANDARD.encode(value)),
        Value::EnumNumber(number) => enumerator(out, kind, *number),
        Value::Message(value) => message(out, value),
        Value::List(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                any(out, kind, item);
            }
            out.push(b']');
        }
        Value::Map(entries) => map(out, kind, entries),
    }
}

fn map(out: &mut Vec<u8>, kind: &Kind, entries: &std::collections::HashMap<MapKey, Value>) {
    let Kind::Message(entry) = kind else { return out.extend_from_slice(b"{}") };
    let value_kind = entry.map_entry_value_field().kind();
    let mut entries: Vec<(Cow<'_, str>, &Value)> =
        entries.iter().map(|(key, value)| (key_text(key), value)).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    out.push(b'{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, &key);
        out.push(b':');
        any(out, &value_kind, value);
    }
    out.push(b'}');
}

fn key_text(key: &MapKey) -> Cow<'_, str> {
    match key {
        MapKey::String(key) => key.as_str().into(),
        MapKey::Bool(key) => key.to_string().into(),
        MapKey::I32(key) => key.to_string().into(),
        MapKey::I64(key) => key.to_string().into(),
        MapKey::U32(key) => key.to_string().into(),
        MapKey::U64(key) => key.to_string().into(),
    }
}

fn enumerator(out: &mut Vec<u8>, kind: &Kind, number: i32) {
    match kind.as_enum().and_then(|kind| kind.get_value(number)) {
        Some(value) => string(out, value.name()),
        // Only within a list; a lone one was left out.
        None => scalar(out, &number),
    }
}

/// Always with a point or exponent; JSON has no number for what is not finite, so these are strings.
fn double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        return scalar(out, &value);
    }
    string(
        out,
        match value {
            f64::INFINITY => "Infinity",
            f64::NEG_INFINITY => "-Infinity",
            _ => "NaN",
        },
    );
}

fn string(out: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(out, value).expect("invariant: a Vec takes every byte");
}

fn scalar(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("invariant: a Vec takes every byte");
}
