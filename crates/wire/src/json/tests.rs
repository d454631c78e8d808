use super::*;
use crate::{
    media::Encoding,
    v1::{self, agent, master, scheduler},
};
use proptest::prelude::*;
use serde_json::json;

fn call(value: Value) -> Result<scheduler::Call, JsonError> {
    decode(value.to_string().as_bytes())
}

fn text<T: std::fmt::Debug>(result: Result<T, JsonError>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn refusals_are_worded_as_by_mesos() {
    assert_eq!(
        text(decode::<scheduler::Call>(b"{not json")),
        "Failed to parse body into JSON: syntax error at line 1 near: not json"
    );
    assert!(text(decode::<scheduler::Call>(b"{\n\n \"a\": ?}")).contains("at line 3 near: ?}"));
    assert_eq!(
        text(call(json!({"type": "SUBSCRIBE", "subscribe": {}}))),
        "Failed to convert JSON into Call protobuf: Missing required fields: subscribe.framework_info"
    );
    assert_eq!(text(call(json!([]))), "Failed to convert JSON into Call protobuf: Expecting a JSON object");
    assert_eq!(
        text(call(json!({"type": 3}))),
        "Failed to convert JSON into Call protobuf: Not expecting a JSON number for field 'type'"
    );
}

#[test]
fn missing_required_fields_are_named_with_their_path() {
    let accept = json!({"type": "ACCEPT", "accept": {"offer_ids": [{"value": "a"}, {}], "operations": [
        {"type": "LAUNCH", "launch": {"task_infos": [{"name": "x", "resources": [{"name": "cpus"}]}]}}]}});
    let JsonError::Shape { problem: ShapeError::MissingRequired(missing), .. } =
        call(accept).expect_err("refused")
    else {
        panic!("not a list of missing fields")
    };
    assert_eq!(
        missing,
        [
            "accept.offer_ids[1].value",
            "accept.operations[0].launch.task_infos[0].task_id",
            "accept.operations[0].launch.task_infos[0].agent_id",
            "accept.operations[0].launch.task_infos[0].resources[0].type",
        ]
    );
}

#[test]
fn an_absent_type_differs_from_a_known_one() {
    for value in [json!({}), json!({"type": null}), json!({"type": "NO_SUCH"})] {
        assert_eq!(call(value).expect("tolerated").r#type, None);
    }
    assert_eq!(call(json!({"type": "REVIVE"})).expect("known").r#type(), scheduler::call::Type::Revive);
}

#[test]
fn reading_is_tolerant() {
    let status: v1::TaskStatus = decode_value(&json!({
        "task_id": {"value": "t", "_ts": 1},
        "state": "TASK_LOST",
        "slave_id": {"value": "S1"},
        "source": "SOURCE_SLAVE",
        "reason": "REASON_SLAVE_DISCONNECTED",
        "timestamp": "1.5",
        "healthy": "true",
        "message": null,
        "credentials": {"principal": "p"},
        "uuid": "AQI",
        "labels": {"labels": {"key": "one"}},
        "container_status": {"executor_pid": "7", "network_infos": [null]},
    }))
    .expect("tolerated");
    assert_eq!(status.agent_id.as_ref().map(|id| id.value.as_str()), Some("S1"));
    assert_eq!(status.source(), v1::task_status::Source::Agent);
    assert_eq!(status.reason(), v1::task_status::Reason::AgentDisconnected);
    assert_eq!((status.timestamp, status.healthy), (Some(1.5), Some(true)));
    assert_eq!(status.uuid.as_deref(), Some(&[1, 2][..]));
    assert_eq!(status.labels.expect("labels").labels.len(), 1);
    assert_eq!(status.container_status.expect("status").executor_pid, Some(7));
}

#[test]
fn the_v1_name_wins_over_the_v0_alias() {
    for (first, second) in [("agent_id", "slave_id"), ("slave_id", "agent_id")] {
        let body = format!(
            r#"{{"task_id":{{"value":"t"}},"{first}":{{"value":"{first}"}},"{second}":{{"value":"{second}"}}}}"#
        );
        let kill: scheduler::call::Kill = decode(body.as_bytes()).expect("reads");
        assert_eq!(kill.agent_id.expect("set").value, "agent_id");
    }
    let kill: scheduler::call::Kill =
        decode_value(&json!({"task_id": {"value": "t"}, "agent_id": null, "slave_id": {"value": "s"}}))
            .expect("reads");
    assert_eq!(kill.agent_id.expect("set").value, "s");
}

#[test]
fn numbers_keep_their_kind_and_range() {
    let time = |value: Value| decode_value::<v1::TimeInfo>(&json!({"nanoseconds": value}));
    assert_eq!(time(json!(i64::MAX)).expect("fits").nanoseconds, i64::MAX);
    assert_eq!(time(json!(5e9)).expect("fits").nanoseconds, 5_000_000_000);
    assert_eq!(time(json!("-12")).expect("fits").nanoseconds, -12);
    for bad in [json!(u64::MAX), json!(1e19), json!("x"), json!(true), json!({})] {
        assert!(time(bad.clone()).is_err(), "{bad}");
    }
    let scalar = |value: f64| encode(&v1::value::Scalar { value });
    assert_eq!(&scalar(4.0)[..], br#"{"value":4.0}"#);
    assert_eq!(&scalar(0.1)[..], br#"{"value":0.1}"#);
    for exact in [1795337240.19914, 5e-324, f64::MAX, 0.1 + 0.2, 1e15 + 0.3] {
        assert_eq!(decode::<v1::value::Scalar>(&scalar(exact)).expect("reads").value, exact);
    }
    assert_eq!(&scalar(f64::INFINITY)[..], br#"{"value":"Infinity"}"#);
    for odd in [f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(decode::<v1::value::Scalar>(&scalar(odd)).expect("reads").value, odd);
    }
    assert!(decode::<v1::value::Scalar>(&scalar(f64::NAN)).expect("reads").value.is_nan());
}

#[test]
fn defaults_are_written_and_absent_fields_are_not() {
    let info = v1::FrameworkInfo { user: "u".into(), name: "n".into(), ..Default::default() };
    assert_eq!(&encode(&info)[..], br#"{"user":"u","name":"n","failover_timeout":0.0,"checkpoint":false}"#);
    let unknown =
        v1::TaskStatus { task_id: v1::TaskId { value: "t".into() }, state: 999, ..Default::default() };
    assert_eq!(&encode(&unknown)[..], br#"{"task_id":{"value":"t"}}"#);
}

#[test]
fn some_lists_of_the_operator_api_are_written_empty() {
    let executors = encode(&agent::response::GetExecutors::default());
    assert_eq!(&executors[..], br#"{"executors":[],"completed_executors":[]}"#);
    let tasks = encode(&master::response::GetTasks::default());
    assert_eq!(&tasks[..], br#"{"tasks":[],"completed_tasks":[],"unreachable_tasks":[]}"#);
    assert_eq!(&encode(&scheduler::call::Reconcile::default())[..], b"{}");
}

#[test]
fn nesting_is_bounded() {
    let mut deep = r#"{"value":"x","parent":"#.repeat(110);
    deep.push_str("{}");
    deep.push_str(&"}".repeat(110));
    assert!(matches!(
        decode::<v1::ContainerId>(deep.as_bytes()),
        Err(JsonError::Shape { problem: ShapeError::TooDeep { .. }, .. })
    ));
    let mut bytes = Vec::new();
    for _ in 0..90 {
        // ContainerID { value: "x", parent: … }
        let inner = std::mem::take(&mut bytes);
        bytes.extend([0x0a, 1, b'x']);
        if !inner.is_empty() {
            bytes.push(0x12);
            prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
            bytes.extend(inner);
        }
    }
    let error = Encoding::Protobuf.decode::<v1::ContainerId>(bytes.into()).expect_err("refused");
    assert!(error.to_string().contains("Nested too deeply at 'parent.parent"), "{error}");
    let brackets = "[".repeat(100_000);
    assert!(matches!(decode::<scheduler::Call>(brackets.as_bytes()), Err(JsonError::Syntax { .. })));
}

fn garbage() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[A-Za-z0-9=_]{0,8}".prop_map(Value::from),
        prop_oneof![Just("ACCEPT"), Just("LAUNCH"), Just("TASK_LOST")].prop_map(Value::from),
    ];
    let names = prop_oneof![
        Just("type"),
        Just("accept"),
        Just("operations"),
        Just("launch"),
        Just("task_infos"),
        Just("resources"),
        Just("value"),
        Just("slave_id"),
        Just("agent_id"),
        Just("subscribe"),
        Just("framework_info"),
        Just("labels"),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((names.clone(), inner), 0..6).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

#[test]
fn an_unknown_number_of_a_required_enum_is_no_value() {
    let status =
        v1::TaskStatus { task_id: v1::TaskId { value: "t".into() }, state: 999, ..Default::default() };
    let error = Encoding::Protobuf.decode::<v1::TaskStatus>(Encoding::Protobuf.encode(&status));
    assert!(error.expect_err("refused").to_string().ends_with("Missing required fields: state"));
}

#[test]
fn values_of_maps_are_checked_too() {
    let quota = json!({"role": "a", "limits": {"cpus": {}}});
    assert!(
        text(decode_value::<v1::quota::QuotaConfig>(&quota))
            .ends_with("Missing required fields: limits.value")
    );
    // `role: "a"`, and an entry of `limits` that has a key and no value at all.
    let error = Encoding::Protobuf
        .decode::<v1::quota::QuotaConfig>(b"\x0a\x01a\x1a\x06\x0a\x04cpus".as_slice().into());
    assert!(error.expect_err("refused").to_string().ends_with("Missing required fields: limits.value"));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<scheduler::Call>(&body);
        if let Ok(call) = Encoding::Protobuf.decode::<scheduler::Call>(body.into()) {
            encode(&call);
        }
    }

    #[test]
    fn bytes_that_went_bad_are_refused_or_written(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let call = json!({"type": "ACCEPT", "accept": {"offer_ids": [{"value": "o"}], "operations": [
            {"type": "LAUNCH", "launch": {"task_infos": [{"name": "x", "task_id": {"value": "t"},
                "agent_id": {"value": "s"}, "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}}],
                "command": {"value": "true", "environment": {"variables": [{"name": "A", "value": "b"}]}}}]}}]}});
        let mut body = Encoding::Protobuf.encode(&decode_value::<scheduler::Call>(&call).expect("a call")).to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        if let Ok(call) = Encoding::Protobuf.decode::<scheduler::Call>(body.into()) {
            decode::<scheduler::Call>(&encode(&call)).expect("own text");
        }
    }

    #[test]
    fn what_was_read_writes_and_reads_the_same(value in garbage()) {
        if let Ok(first) = decode_value::<scheduler::Call>(&value) {
            let second: scheduler::Call = decode(&encode(&first)).expect("own text");
            prop_assert_eq!(encode(&second), encode(&first));
        }
        let _ = decode_value::<master::Call>(&value);
        let _ = decode_value::<agent::Response>(&value);
    }
}
