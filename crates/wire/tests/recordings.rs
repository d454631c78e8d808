//! What a real Mesos wrote is read and written again without loss, in JSON and in protobuf.
#![allow(clippy::unwrap_used)]

use bellows_wire::{
    json,
    media::Encoding,
    v1::{agent, executor, master, scheduler},
};
use prost::{Message, Name};
use serde_json::Value;

fn items(text: &str) -> Vec<Value> {
    let items: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(!items.is_empty());
    items
}

fn rewritten<T: Message + Name + Default + PartialEq + std::fmt::Debug>(item: &Value) -> Value {
    let message: T = json::decode(item.to_string().as_bytes()).unwrap();
    let through_protobuf: T = Encoding::Protobuf.decode(Encoding::Protobuf.encode(&message)).unwrap();
    assert_eq!(message, through_protobuf);
    serde_json::from_slice(&json::encode(&message)).unwrap()
}

/// What Mesos wrote comes out equal: every field, every number's notation.
fn same<T: Message + Name + Default + PartialEq + std::fmt::Debug>(text: &str) {
    for item in items(text) {
        let rewritten = rewritten::<T>(&item);
        assert_eq!(lost(&rewritten, &item, ""), None);
        assert_eq!(lost(&item, &rewritten, ""), None);
        assert_eq!(rewritten, item);
    }
}

/// What clients wrote comes out with all they said; defaults are added, and `64` of a double becomes `64.0`.
fn nothing_lost<T: Message + Name + Default + PartialEq + std::fmt::Debug>(text: &str) {
    for item in items(text) {
        assert_eq!(lost(&rewritten::<T>(&item), &item, ""), None);
    }
}

/// The path of the first part that the whole lacks.
fn lost(whole: &Value, part: &Value, path: &str) -> Option<String> {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().find_map(|(name, part)| {
            let path = format!("{path}.{name}");
            match whole.get(name) {
                Some(whole) => lost(whole, part, &path),
                // Protobuf does not tell an empty list from none.
                None => (part != &Value::Array(Vec::new())).then_some(path),
            }
        }),
        (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => {
            whole.iter().zip(part).find_map(|(whole, part)| lost(whole, part, &format!("{path}[]")))
        }
        (Value::Number(whole), Value::Number(part)) if whole.as_f64() == part.as_f64() => None,
        _ => (whole != part).then(|| format!("{path}: {part}")),
    }
}

#[test]
fn scheduler_stream() {
    same::<scheduler::Event>(include_str!("data/scheduler-events.json"));
}

#[test]
fn operator_stream() {
    same::<master::Event>(include_str!("data/operator-events.json"));
}

#[test]
fn executor_stream() {
    same::<executor::Event>(include_str!("data/executor-events.json"));
}

#[test]
fn operator_answers() {
    same::<master::Response>(include_str!("data/master-answers.json"));
    same::<agent::Response>(include_str!("data/agent-answers.json"));
}

#[test]
fn calls() {
    nothing_lost::<scheduler::Call>(include_str!("data/scheduler-calls.json"));
    nothing_lost::<executor::Call>(include_str!("data/executor-calls.json"));
    nothing_lost::<master::Call>(include_str!("data/master-calls.json"));
    nothing_lost::<agent::Call>(include_str!("data/agent-calls.json"));
}
