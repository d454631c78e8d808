use super::*;
use crate::{json, media::Encoding};
use bellows_model::*;
use proptest::{collection::vec, option, prelude::*};
use serde_json::json;
use std::sync::Arc;

fn id() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9ü_-]{1,12}"
}

fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..10_000_000_000u64).prop_map(Duration::from_millis)
}

fn resources() -> impl Strategy<Value = Resources> {
    let value = prop_oneof![
        (0..10_000_000_000i64).prop_map(|milli| ("s", bellows_model::Value::Scalar(Scalar(milli)))),
        vec((0..1000u64, 0..50u64), 0..4).prop_map(|ranges| {
            let ranges = ranges.into_iter().map(|(begin, length)| (begin, begin + length)).collect();
            ("r", bellows_model::Value::ranges(ranges).expect("ascending"))
        }),
        proptest::collection::btree_set(text(), 0..3).prop_map(|set| ("e", bellows_model::Value::Set(set))),
    ];
    vec((value, 0..3u8, option::of("[a-z]{1,3}(/[a-z]{1,3})?")), 0..6).prop_map(|items| {
        Resources::from_items(items.into_iter().map(|((kind, value), name, role)| Resource {
            name: format!("{kind}{name}").into(),
            reserved_for: role.map(Into::into),
            value,
        }))
        .expect("one type a name")
    })
}

fn labels() -> impl Strategy<Value = Vec<Label>> {
    vec((text(), option::of(text())).prop_map(|(key, value)| Label { key, value }), 0..3)
}

prop_compose! {
    fn command()(
        (shell, value, user) in (any::<bool>(), option::of(text()), option::of(text())),
        arguments in vec(text(), 0..3),
        environment in vec(("[^=\0]{1,5}", text()).prop_map(|(name, value)| EnvironmentVariable { name, value }), 0..3),
        uris in vec((text(), any::<(bool, bool, bool)>(), option::of(text())).prop_map(
            |(value, (executable, extract, cache), output_file)| Uri { value, executable, extract, cache, output_file },
        ), 0..3),
    ) -> CommandInfo {
        CommandInfo { shell, value, arguments, environment, uris, user }
    }
}

prop_compose! {
    fn executor()(
        executor_id in id(), name in option::of(text()), source in option::of(text()), command in command(),
        resources in resources(), data in option::of(vec(any::<u8>(), 0..4)), shutdown_grace in option::of(duration()),
    ) -> ExecutorInfo {
        ExecutorInfo { executor_id: executor_id.into(), name, source, command, resources, data, shutdown_grace }
    }
}

prop_compose! {
    fn task()(
        (name, task_id, agent_id) in (text(), id(), id()), resources in resources(),
        command in option::of(command()), executor in option::of(executor()),
        data in option::of(vec(any::<u8>(), 0..4)), labels in labels(), kill_grace in option::of(duration()),
        container in option::of(prop_oneof![Just("DOCKER".to_owned()), Just("MESOS".to_owned())]),
    ) -> TaskInfo {
        TaskInfo {
            name, task_id: task_id.into(), agent_id: agent_id.into(), resources, command, executor, data, labels,
            kill_grace, container, unsupported: None,
        }
    }
}

const REASONS: [Reason; 6] = [
    Reason::CommandExecutorFailed,
    Reason::InvalidFrameworkId,
    Reason::Reconciliation,
    Reason::AgentRemoved,
    Reason::TaskInvalid,
    Reason::TaskUnknown,
];

prop_compose! {
    fn status()(
        task_id in id(), state in proptest::sample::select(&TaskState::ALL[..]),
        source in proptest::sample::select(&[Source::Master, Source::Agent, Source::Executor][..]),
        reason in option::of(proptest::sample::select(&REASONS[..])), message in option::of(text()),
        (agent_id, executor_id) in (option::of(id()), option::of(id())), timestamp in 0.0..2e9f64,
        uuid in option::of(any::<[u8; 16]>().prop_map(StatusUuid)),
        container in option::of((id(), option::of(any::<u32>()), option::of(text())).prop_map(
            |(id, executor_pid, ip_address)| ContainerStatus { container_id: id.into(), executor_pid, ip_address },
        )),
        data in option::of(vec(any::<u8>(), 0..4)), healthy in option::of(any::<bool>()), labels in labels(),
    ) -> TaskStatus {
        TaskStatus {
            task_id: task_id.into(), state, source, reason, message, agent_id: agent_id.map(Into::into),
            executor_id: executor_id.map(Into::into), timestamp, uuid, container, data, healthy, labels,
        }
    }
}

prop_compose! {
    fn framework()(
        id in option::of(id()), name in text(), user in text(), principal in option::of(text()),
        roles in proptest::collection::btree_set("[a-z]{1,4}", 1..4), hostname in text(), webui_url in option::of(text()),
        failover_timeout in duration(), checkpoint in any::<bool>(), multi_role in any::<bool>(),
        refined in any::<bool>(), labels in labels(),
    ) -> FrameworkInfo {
        let roles = roles.into_iter().take(if multi_role { usize::MAX } else { 1 }).collect();
        let capabilities = [(multi_role, Capability::MultiRole), (refined, Capability::ReservationRefinement)];
        FrameworkInfo {
            id: id.map(Into::into), name, user, principal, roles, hostname, webui_url, failover_timeout, checkpoint,
            capabilities: capabilities.into_iter().filter(|(has, _)| *has).map(|(_, capability)| capability).collect(),
            labels,
        }
    }
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let value = prop_oneof![
        (0.0..1e9f64).prop_map(AttributeValue::Scalar),
        vec(any::<(u64, u64)>(), 0..3).prop_map(AttributeValue::Ranges),
        vec(text(), 0..3).prop_map(AttributeValue::Set),
        text().prop_map(AttributeValue::Text),
    ];
    (text(), value).prop_map(|(name, value)| Attribute { name, value })
}

/// Out to bytes in both encodings and back.
fn over_the_wire<T: prost::Message + prost::Name + Default + PartialEq>(message: T) -> T {
    let json: T = Encoding::Json.decode(Encoding::Json.encode(&message)).expect("own JSON");
    let protobuf: T = Encoding::Protobuf.decode(Encoding::Protobuf.encode(&message)).expect("own bytes");
    // JSON spells defaults out; that is the only difference, so one more round is the same.
    assert!(Encoding::Json.encode(&json) == Encoding::Json.encode(&protobuf));
    json
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tasks(task in task()) {
        let wire = over_the_wire(task_to_wire(&task, &"f".into(), "*"));
        prop_assert_eq!(TaskInfo::try_from(wire), Ok(task));
    }

    #[test]
    fn statuses(status in status()) {
        prop_assert_eq!(TaskStatus::try_from(over_the_wire(v1::TaskStatus::from(&status))), Ok(status));
    }

    #[test]
    fn frameworks(framework in framework()) {
        prop_assert_eq!(FrameworkInfo::try_from(over_the_wire(v1::FrameworkInfo::from(&framework))), Ok(framework));
    }

    #[test]
    fn agents(
        id in option::of(id()), hostname in "[a-z]{1,9}", port in any::<u16>(), resources in resources(),
        attributes in vec(attribute(), 0..3),
    ) {
        let agent = AgentInfo {
            id: id.map(Into::into), hostname, ip: "127.0.0.1".into(), port, resources, attributes,
            version: "1.0.0".into(),
        };
        let wire = over_the_wire(agent_to_wire(&agent));
        prop_assert_eq!(agent_from_wire(wire, "127.0.0.1", "1.0.0"), Ok(agent));
    }

    #[test]
    fn resources_in_either_format(resources in resources(), legacy in any::<bool>()) {
        let format = if legacy { ResourceFormat::Legacy } else { ResourceFormat::Refined };
        let wire = resources_to_wire(&resources, Some("*"), format).into_iter().map(over_the_wire).collect();
        prop_assert_eq!(resources_from_wire("resources", wire), Ok(resources));
    }

    #[test]
    fn filters(refuse in duration()) {
        let filters = Filters { refuse: Some(refuse.min(Duration::from_secs(365 * 24 * 3600))) };
        prop_assert_eq!(Filters::from(over_the_wire(v1::Filters::from(&filters))), filters);
    }
}

#[test]
fn every_state_of_the_wire_has_its_model() {
    for number in 0..100 {
        if let Ok(wire) = v1::TaskState::try_from(number) {
            let state = bellows_model::TaskState::from(wire);
            assert_eq!((state.name(), v1::TaskState::from(state)), (wire.as_str_name(), wire));
        }
    }
}

/// The shape of an offer that a real Mesos sent, its resources in our order.
#[test]
fn an_offer_looks_as_recorded() {
    let offers = include_str!("../../tests/data/scheduler-events.json");
    let events: serde_json::Value = serde_json::from_str(offers).expect("test data");
    let events = events.as_array().expect("list");
    let mut recorded =
        events.iter().find(|event| event["type"] == "OFFERS").expect("offers")["offers"]["offers"][0].clone();
    let list = recorded["resources"].as_array_mut().expect("list");
    list.sort_by_key(|resource| resource["name"].as_str().map(str::to_owned));
    let wire: v1::Offer = json::decode_value(&recorded).expect("reads");
    let offer = Offer {
        id: wire.id.clone().try_into().expect("id"),
        framework_id: wire.framework_id.clone().try_into().expect("id"),
        agent_id: wire.agent_id.clone().try_into().expect("id"),
        agent: Arc::new(AgentInfo {
            id: None,
            hostname: "127.0.0.1".into(),
            ip: "127.0.0.1".into(),
            port: 5051,
            resources: Resources::new(),
            attributes: vec![Attribute { name: "rack".into(), value: AttributeValue::Text("r1".into()) }],
            version: "1.0.0".into(),
        }),
        role: "*".into(),
        resources: Resources::parse("cpus:4;mem:6144;disk:20000;ports:[31000-32000]").expect("text"),
    };
    let written = json::encode(&offer_to_wire(&offer, ResourceFormat::Legacy));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&written).expect("own text"), recorded);
}

#[test]
fn scalars_are_rounded_to_thousandths() {
    let read = |value: f64| {
        let wire = json!({"name": "cpus", "type": "SCALAR", "scalar": {"value": value}});
        resources_from_wire("r", vec![json::decode_value(&wire).expect("shape")]).map(|all| all.cpus().0)
    };
    assert_eq!(read(0.1 + 0.2), Ok(300));
    assert_eq!(read(1.0004), Ok(1000));
    assert_eq!(read(1.0006), Ok(1001));
    assert!(read(-1.0).is_err());
    assert!(read(1e300).is_err());
}

#[test]
fn errors_name_the_path() {
    let operation = |task: serde_json::Value| {
        let wire = json!({"type": "LAUNCH", "launch": {"task_infos": [task]}});
        match &operations_from_wire(vec![json::decode_value(&wire).expect("shape")])[..] {
            [Operation::Invalid(tasks)] => tasks[0].reason.clone(),
            other => panic!("{other:?}"),
        }
    };
    let task = |more: serde_json::Value| {
        let mut task = json!({"name": "t", "task_id": {"value": "t"}, "agent_id": {"value": "S1"}});
        task.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        task
    };
    let cpus = |more: serde_json::Value| {
        let mut cpus = json!({"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}});
        cpus.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        task(json!({"resources": [cpus]}))
    };
    for (given, expected) in [
        (task(json!({"agent_id": {"value": ""}})), "Invalid 'launch.task_infos[0].agent_id.value': "),
        (cpus(json!({"scalar": null})), "Expecting 'launch.task_infos[0].resources[0].scalar' to be present"),
        (
            cpus(json!({"scalar": {"value": -1}})),
            "Invalid 'launch.task_infos[0].resources[0].scalar.value': ",
        ),
        (cpus(json!({"revocable": {}})), "Invalid 'launch.task_infos[0].resources[0].revocable': "),
        (cpus(json!({"role": "-x"})), "Invalid 'launch.task_infos[0].resources[0].role': "),
        (
            cpus(json!({"role": "a", "reservations": [{"role": "b"}]})),
            "Invalid 'launch.task_infos[0].resources[0].role': it differs",
        ),
        (
            task(json!({"command": {"environment": {"variables": [{"name": "A=", "value": "x"}]}}})),
            "Invalid 'launch.task_infos[0].command.environment.variables[0].name': ",
        ),
        (task(json!({"command": {"value": "a\0b"}})), "Invalid 'launch.task_infos[0].command.value': "),
        (
            task(json!({"executor": {"executor_id": {"value": "e"}}})),
            "Expecting 'launch.task_infos[0].executor.command' to be present",
        ),
        (
            task(json!({"kill_policy": {"grace_period": {"nanoseconds": -1}}})),
            "Invalid 'launch.task_infos[0].kill_policy.grace_period.nanoseconds': it is negative",
        ),
    ] {
        let got = operation(given);
        assert!(got.starts_with(expected), "{got}");
    }
    let many = vec![v1::Resource { name: "x".into(), ..Default::default() }; 1_001];
    assert_eq!(resources_from_wire("resources", many).expect_err("refused").path(), "resources");
}

#[test]
fn a_tasks_own_ids_are_left_to_the_kernel() {
    let task = json!({"name": "t", "task_id": {"value": "../x"}, "agent_id": {"value": "S1"}});
    let task = TaskInfo::try_from(json::decode_value::<v1::TaskInfo>(&task).expect("shape")).expect("reads");
    assert!(task.task_id.validate().is_err());
    assert_eq!(TaskId::try_from(v1::TaskId { value: "../x".into() }).expect_err("refused").path(), "value");
}

#[test]
fn operations_without_a_type_and_others() {
    let read =
        |wire: serde_json::Value| operations_from_wire(vec![json::decode_value(&wire).expect("shape")]);
    assert_eq!(read(json!({"type": "NEW"})), [Operation::Unsupported("UNKNOWN".into())]);
    assert_eq!(read(json!({"type": "LAUNCH"})), []);
    assert_eq!(read(json!({"type": "RESERVE"})), [Operation::Unsupported("RESERVE".into())]);
    let task = json!({"name": "t", "task_id": {"value": "t"}, "agent_id": {"value": "S1"}});
    let group = json!({"executor": {"executor_id": {"value": "e"}}, "task_group": {"tasks": [task]}});
    for (wire, kind) in [
        (json!({"type": "LAUNCH_GROUP", "launch_group": group}), "LAUNCH_GROUP"),
        (json!({"type": "NEW", "launch": {"task_infos": [task]}}), "UNKNOWN"),
    ] {
        let read = read(wire);
        let [Operation::Unsupported(name), Operation::Invalid(tasks)] = &read[..] else { panic!("{read:?}") };
        assert_eq!((name.as_str(), tasks.len()), (kind, 1));
        assert_eq!(tasks[0].task.task_id.as_str(), "t");
        assert!(tasks[0].reason.contains(kind), "{}", tasks[0].reason);
    }
}

#[test]
fn one_bad_task_spoils_no_other() {
    let task = |id: &str, cpus: i32| {
        json!({"name": id, "task_id": {"value": id}, "agent_id": {"value": "S1"}, "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": cpus}}]})
    };
    let wire =
        json!({"type": "LAUNCH", "launch": {"task_infos": [task("a", 1), task("b", -1), task("c", 1)]}});
    let read = operations_from_wire(vec![json::decode_value(&wire).expect("shape")]);
    let [Operation::Launch(good), Operation::Invalid(bad)] = &read[..] else { panic!("{read:?}") };
    assert_eq!(good.iter().map(|task| task.task_id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(bad[0].task.task_id.as_str(), "b");
    assert!(bad[0].reason.contains("launch.task_infos[1].resources[0].scalar.value"), "{}", bad[0].reason);
    let ids = ["O-1", "../x", ""].map(|value| v1::OfferId { value: value.into() });
    let ids = offer_ids_from_wire(ids.into());
    assert_eq!(ids.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["O-1", "(invalid)", "(invalid)"]);
}

#[test]
fn a_secret_that_is_given_is_a_variable_and_one_that_is_named_is_not() {
    let read = |secret: serde_json::Value| {
        let wire = json!({"name": "PASSWORD", "type": "SECRET", "secret": secret});
        let wire: v1::environment::Variable = json::decode_value(&wire).expect("shape");
        EnvironmentVariable::try_from(wire).map_err(|error| error.to_string())
    };
    let value = |data: &str| json!({"type": "VALUE", "value": {"data": data}});
    let plain = EnvironmentVariable { name: "PASSWORD".into(), value: "s3cret".into() };
    assert_eq!(read(value("czNjcmV0")), Ok(plain));
    assert_eq!(format!("{:?}", read(value("czNjcmV0")).expect("read")), "PASSWORD=…");
    let vault =
        read(json!({"type": "REFERENCE", "reference": {"name": "/vault/db"}})).expect_err("a reference");
    assert!(vault.contains("'/vault/db'") && vault.contains("secret.reference"), "{vault}");
    for bad in [value("/w=="), value("YQBi"), json!({"type": "VALUE"}), json!({}), serde_json::Value::Null] {
        let error = read(bad.clone()).expect_err("no text");
        assert!(!error.contains("PASSWORD"), "{bad}: {error}");
    }
}

#[test]
fn roles_follow_the_capability() {
    let read = |more: serde_json::Value| {
        let mut info = json!({"user": "u", "name": "n"});
        info.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        FrameworkInfo::try_from(json::decode_value::<v1::FrameworkInfo>(&info).expect("shape"))
    };
    let multi = json!([{"type": "MULTI_ROLE"}, {"type": "OF_TOMORROW"}, {"type": "MULTI_ROLE"}]);
    assert_eq!(read(json!({})).expect("read").roles, ["*"]);
    assert_eq!(read(json!({"role": "etl"})).expect("read").roles, ["etl"]);
    assert_eq!(read(json!({"capabilities": multi})).expect("read").roles, ["*"]);
    let both = read(json!({"capabilities": multi, "roles": ["a", "b"], "id": {"value": ""}})).expect("read");
    assert_eq!(
        (both.roles, both.capabilities, both.id),
        (vec!["a".into(), "b".into()], vec![Capability::MultiRole], None)
    );
    for (bad, path) in [
        (json!({"roles": ["a"]}), "roles"),
        (json!({"capabilities": multi, "role": "a"}), "role"),
        (json!({"capabilities": multi, "roles": ["a", "a"]}), "roles"),
        (json!({"role": "a b"}), "role"),
        (json!({"failover_timeout": -1}), "failover_timeout"),
        (json!({"failover_timeout": "NaN"}), "failover_timeout"),
        (json!({"id": {"value": ".."}}), "id.value"),
    ] {
        assert_eq!(read(bad.clone()).expect_err("refused").path(), path, "{bad}");
    }
}

#[test]
fn what_is_too_long_is_refused_by_name() {
    let long = |bytes: usize| "x".repeat(bytes + 1);
    let framework = |spoil: &dyn Fn(&mut v1::FrameworkInfo)| {
        let mut info = v1::FrameworkInfo { user: "u".into(), name: "n".into(), ..Default::default() };
        spoil(&mut info);
        FrameworkInfo::try_from(info).expect_err("refused").path().to_owned()
    };
    let label = || v1::Label { key: String::new(), value: None };
    assert_eq!(framework(&|info| info.name = long(limits::FRAMEWORK_NAME)), "name");
    assert_eq!(framework(&|info| info.user = long(limits::NAME)), "user");
    assert_eq!(framework(&|info| info.principal = Some(long(limits::NAME))), "principal");
    assert_eq!(framework(&|info| info.hostname = Some(long(limits::NAME))), "hostname");
    assert_eq!(framework(&|info| info.webui_url = Some(long(limits::URL))), "webui_url");
    assert_eq!(framework(&|info| info.roles = vec!["r".into(); limits::ROLES + 1]), "roles");
    let long_roles: Vec<_> = (0..70).map(|role| format!("{role:01000}")).collect();
    assert_eq!(framework(&|info| info.roles = long_roles.clone()), "roles");
    let many = vec![Default::default(); limits::CAPABILITIES + 1];
    assert_eq!(framework(&|info| info.capabilities = many.clone()), "capabilities");
    let many = Some(v1::Labels { labels: vec![label(); limits::LABELS + 1] });
    assert_eq!(framework(&|info| info.labels = many.clone()), "labels");
    let large = Some(v1::Labels { labels: vec![v1::Label { key: long(limits::LABELS_BYTES), value: None }] });
    assert_eq!(framework(&|info| info.labels = large.clone()), "labels");

    let agent = v1::AgentInfo { hostname: long(limits::NAME), ..Default::default() };
    assert_eq!(agent_from_wire(agent, "1.2.3.4", "0").expect_err("refused").path(), "hostname");
    let agent = v1::AgentInfo { hostname: "h".into(), ..Default::default() };
    for ip in ["", "node1", "999.1.1.1", "127.0.0.1\nx"] {
        assert_eq!(agent_from_wire(agent.clone(), ip, "0").expect_err("refused").path(), "ip");
    }
    let lines = v1::AgentInfo { hostname: "a\nb".into(), ..Default::default() };
    assert_eq!(agent_from_wire(lines, "::1", "0").expect_err("refused").path(), "hostname");
    let too_long = agent_from_wire(agent.clone(), "1.2.3.4", long(limits::NAME)).expect_err("refused");
    assert_eq!(too_long.path(), "version");
    let attributes = vec![v1::Attribute::default(); limits::ATTRIBUTES + 1];
    let many = v1::AgentInfo { attributes, ..agent };
    assert_eq!(agent_from_wire(many, "1.2.3.4", "0").expect_err("refused").path(), "attributes");

    let status =
        json!({"task_id": {"value": "t"}, "state": "TASK_RUNNING", "message": long(limits::STATUS_MESSAGE)});
    let status = json::decode_value::<v1::TaskStatus>(&status).expect("shape");
    let read = TaskStatus::try_from(status).expect("only its message is too long");
    assert_eq!(read.message.map(|text| text.len()), Some(limits::STATUS_MESSAGE));
    let status = v1::TaskStatus { labels: large, ..v1::TaskStatus::default() };
    let status = v1::TaskStatus { task_id: v1::TaskId { value: "t".into() }, ..status };
    assert_eq!(TaskStatus::try_from(status).expect("only its labels are too long").labels, []);

    let command = v1::CommandInfo { user: Some(long(limits::NAME)), ..Default::default() };
    assert_eq!(CommandInfo::try_from(command).expect_err("refused").path(), "user");
}

#[test]
fn odd_filters_stand_for_the_default_or_a_year() {
    let read = |seconds| {
        let filters = Filters::from(v1::Filters { refuse_seconds: Some(seconds) });
        filters.refuse.expect("it is set").as_secs()
    };
    assert_eq!(read(-1.0), 5);
    assert_eq!(read(f64::NAN), 5);
    assert_eq!(read(120.0), 120);
    assert_eq!(read(f64::INFINITY), 365 * 24 * 3600);
    assert_eq!(read(1e300), 365 * 24 * 3600);
}

/// Spark's backend declines what it has no use for so; Java's `Filters` with nothing set are no bytes at all.
#[test]
fn a_filter_that_is_not_set_is_told_from_one_of_five_seconds() {
    let read =
        |bytes: &[u8]| Filters::from(<v1::Filters as prost::Message>::decode(bytes).expect("a message"));
    assert_eq!(read(&[]).refuse, None);
    let set = prost::Message::encode_to_vec(&v1::Filters { refuse_seconds: Some(5.0) });
    assert_eq!(read(&set).refuse, Some(Duration::from_secs(5)));
}

#[test]
fn long_durations_keep_their_milliseconds() {
    let refuse = Duration::from_millis(8_718_283_038);
    assert_eq!(Filters::from(v1::Filters::from(&Filters { refuse: Some(refuse) })).refuse, Some(refuse));
}

#[test]
fn statuses_of_executors_are_completed() {
    let read = |more: serde_json::Value| {
        let mut status = json!({"task_id": {"value": "t"}, "state": "TASK_RUNNING"});
        status.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        TaskStatus::try_from(json::decode_value::<v1::TaskStatus>(&status).expect("shape"))
    };
    let plain = read(json!({"uuid": "", "reason": "REASON_TASK_CHECK_STATUS_UPDATED"})).expect("read");
    assert_eq!((plain.source, plain.uuid, plain.reason), (Source::Executor, None, None));
    assert_eq!(read(json!({"uuid": "AQI="})).expect_err("refused").path(), "uuid");
    assert_eq!(read(json!({"timestamp": "NaN"})).expect_err("refused").path(), "timestamp");
}

/// What is passed over would be missing without a word: an image, a volume, a secret in a file.
#[test]
fn what_no_agent_does_is_named() {
    let unsupported = |more: serde_json::Value| {
        let mut task = json!({
            "name": "t", "task_id": {"value": "t"}, "agent_id": {"value": "a"}, "command": {"value": "true"},
        });
        task.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        let task = TaskInfo::try_from(json::decode_value::<v1::TaskInfo>(&task).expect("shape"));
        task.expect("a task").unsupported
    };
    let container = |more: serde_json::Value| {
        let mut container = json!({"type": "MESOS"});
        container.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        container
    };
    let volume = json!({"mode": "RO", "container_path": "/x", "host_path": "/y"});
    let secret = json!({"type": "VALUE", "value": {"data": "cw=="}});
    let secret_file =
        json!({"mode": "RO", "container_path": "/s", "source": {"type": "SECRET", "secret": secret}});
    let parts = [
        ("docker", json!({"image": "i"})),
        ("mesos", json!({"image": {"type": "DOCKER", "docker": {"name": "i"}}})),
        ("volumes", json!([volume])),
        ("volumes", json!([secret_file])),
        ("network_infos", json!([{"name": "n"}])),
        ("hostname", json!("h")),
        ("linux_info", json!({"share_pid_namespace": true})),
        ("rlimit_info", json!({"rlimits": []})),
        ("tty_info", json!({})),
    ];
    for (name, value) in parts {
        let part = container(json!({name: value}));
        let path =
            if name == "mesos" { "container.mesos.image".to_owned() } else { format!("container.{name}") };
        assert_eq!(unsupported(json!({"container": part})), Some(path.clone()));
        let executor = json!({
            "executor_id": {"value": "e"}, "command": {"value": "true"}, "container": part,
        });
        assert_eq!(unsupported(json!({"executor": executor})), Some(format!("executor.{path}")));
    }
    let others = [
        ("health_check", json!({"type": "COMMAND", "command": {"value": "true"}})),
        ("check", json!({"type": "COMMAND", "command": {"command": {"value": "true"}}})),
        ("max_completion_time", json!({"nanoseconds": 1})),
        ("limits", json!({"cpus": {"value": 1}})),
    ];
    for (name, value) in others {
        assert_eq!(unsupported(json!({name: value})).as_deref(), Some(name));
    }
    assert_eq!(unsupported(json!({"container": container(json!({}))})), None);
    assert_eq!(unsupported(json!({"container": container(json!({"mesos": {}}))})), None);
}
