//! What operators and their tools read: the same names in the same places as from a real Mesos.
#![allow(clippy::unwrap_used)]
mod common;

use bellows_master::Running;
use bellows_wire::v1::{
    TaskState, TaskStatus,
    task_status::{Reason, Source},
};
use common::{Connection, Framework, JSON, agent, agent::Agent, framework_info, get, master, operator, post};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::SocketAddr};

/// A cluster in the state that the recordings of a busy Mesos were made in: one task runs, others ended, there are
/// open offers.
struct Busy {
    _master: Running,
    address: SocketAddr,
    framework: Framework,
    agents: [Agent; 2],
}

impl Busy {
    async fn start() -> Self {
        let master = master().await;
        let address = master.local_addr();
        let mut agents =
            [Agent::register(address).await, Agent::register_as(address, agent::info(5052)).await];
        let mut framework = Framework::subscribe(address).await;
        let (starting, running) = (TaskState::TaskStarting, TaskState::TaskRunning);
        for (task, states) in [
            ("ok", &[starting, running, TaskState::TaskFinished][..]),
            ("fails", &[starting, running, TaskState::TaskFailed]),
            ("long", &[starting, running]),
        ] {
            let offer = framework.offer_of(&agents[0].id).await;
            framework.launch(&offer, task).await.is(202, "");
            assert_eq!(agents[0].launched().await.task_id.value, task);
            for state in states {
                agents[0].update(&framework.id, task, *state).await;
                let update = framework.next("UPDATE").await;
                framework.acknowledge(&update).await.is(202, "");
            }
        }
        Self { _master: master, address, framework, agents }
    }
}

/// `.slaves[].id` and the like.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

/// Names that this master leaves out, each for a reason.
fn is_left_out(key: &str) -> bool {
    // Settings that do not exist here.
    key.contains("flags.")
        // Frameworks cannot constrain offers here, and the flag that agents checkpoint is always true.
        || key.ends_with("agent_info.checkpoint")
        // Why a task failed is whatever the agent said of it.
        || key.ends_with("statuses[].reason") || key.ends_with("statuses[].message")
}

/// Names that Mesos has not, and no client stumbles over.
fn is_added(key: &str) -> bool {
    // A setting that Mesos leaves out of `/flags` until somebody sets it.
    key.ends_with("bellows_version") || key.ends_with("flags.offer_timeout")
}

async fn compare(name: &str, body: &Value) {
    let recorded: Value = serde_json::from_str(include_str!("data/keys.json")).unwrap();
    let recorded: BTreeSet<String> =
        recorded[name].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    let mut found = BTreeSet::new();
    keys(body, "", &mut found);
    let missing: Vec<_> = recorded.difference(&found).filter(|key| !is_left_out(key)).collect();
    assert!(missing.is_empty(), "{name} lacks {missing:#?}: {body:#}");
    let surplus: Vec<_> = found.difference(&recorded).filter(|key| !is_added(key)).collect();
    assert!(surplus.is_empty(), "{name} has {surplus:#?} too: {body:#}");
}

#[tokio::test]
async fn legacy_reads_have_the_recorded_shape() {
    let busy = Busy::start().await;
    for path in [
        "/version",
        "/flags",
        "/state",
        "/state-summary",
        "/slaves",
        "/frameworks",
        "/tasks",
        "/roles",
        "/weights",
        "/quota",
        "/maintenance/schedule",
        "/maintenance/status",
    ] {
        for form in [
            path.to_owned(),
            format!("/master{path}"),
            format!("{path}/?_ts=1"),
            format!("{path}.json"),
            format!("/master{path}.json?_ts=1"),
        ] {
            let answer = get(busy.address, &form).await;
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("application/json")),
                "{form}"
            );
            compare(path, &answer.json()).await;
        }
    }
    let form = format!("frameworkId={}", busy.framework.id);
    post(busy.address, "/master/teardown", &[], form).await.is(200, "");
    compare("/state after teardown", &get(busy.address, "/state").await.json()).await;
}

#[tokio::test]
async fn operator_reads_have_the_recorded_shape() {
    let busy = Busy::start().await;
    for call in [
        "GET_HEALTH",
        "GET_FLAGS",
        "GET_VERSION",
        "GET_LOGGING_LEVEL",
        "GET_STATE",
        "GET_AGENTS",
        "GET_FRAMEWORKS",
        "GET_EXECUTORS",
        "GET_OPERATIONS",
        "GET_TASKS",
        "GET_ROLES",
        "GET_WEIGHTS",
        "GET_MASTER",
        "GET_QUOTA",
        "GET_MAINTENANCE_STATUS",
        "GET_MAINTENANCE_SCHEDULE",
    ] {
        let answer = operator(busy.address, json!({"type": call})).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{call}");
        compare(call, &answer.json()).await;
    }
    let protobuf = [JSON, ("Accept", "application/x-protobuf")];
    let answer = post(busy.address, "/master/api/v1", &protobuf, r#"{"type": "GET_HEALTH"}"#).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &[8, 1, 18, 2, 8, 1][..]));
}

#[tokio::test]
async fn figures() {
    let busy = Busy::start().await;
    let summary = get(busy.address, "/state-summary").await.json();
    let first =
        summary["slaves"].as_array().unwrap().iter().find(|one| one["id"] == busy.agents[0].id.as_str());
    let first = first.unwrap();
    assert_eq!(first["used_resources"]["cpus"], 0.5);
    assert_eq!(first["resources"]["ports"], "[31000-32000]");
    assert_eq!((&first["TASK_RUNNING"], &first["TASK_FAILED"]), (&json!(1), &json!(1)));
    let framework = &summary["frameworks"][0];
    assert_eq!((&framework["TASK_RUNNING"], &framework["TASK_FINISHED"]), (&json!(1), &json!(1)));
    assert_eq!(framework["offered_resources"]["cpus"], 7.5, "all the rest is offered");

    let metrics = get(busy.address, "/metrics/snapshot").await.json();
    let told = operator(busy.address, json!({"type": "GET_METRICS"})).await.json();
    let told = told["get_metrics"]["metrics"].as_array().unwrap().len();
    assert_eq!(told, metrics.as_object().unwrap().len());
    let prometheus = get(busy.address, "/metrics").await;
    assert!(prometheus.text().contains("\nbellows_master_tasks_running 1.0\n"), "{}", prometheus.text());
    assert!(prometheus.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn dashboards_find_every_metric_of_mesos() {
    let mut busy = Busy::start().await;
    // What else had happened when the recording was made: a task of bad offers, one that cannot be, one that cannot start.
    let agent_id = busy.agents[0].id.clone();
    let gone = json!({"id": {"value": "no-such-offer"}, "agent_id": {"value": agent_id}});
    busy.framework.launch(&gone, "dropped").await.is(202, "");
    busy.framework.next("UPDATE").await;
    let offer = busy.framework.offer_of(&agent_id).await;
    busy.framework.launch(&offer, "long").await.is(202, "");
    busy.framework.next("UPDATE").await;
    let offer = busy.framework.offer_of(&agent_id).await;
    busy.framework.launch(&offer, "unstartable").await.is(202, "");
    busy.agents[0].launched().await;
    let unstartable = |status: &mut TaskStatus| {
        status.source = Some(Source::Agent.into());
        status.reason = Some(Reason::ContainerLaunchFailed.into());
    };
    busy.agents[0].update_with(&busy.framework.id, "unstartable", TaskState::TaskFailed, unstartable).await;
    busy.framework.next("UPDATE").await;
    busy.framework.call(json!({"type": "REVIVE"})).await.is(202, "");

    let metrics = get(busy.address, "/metrics/snapshot").await.json();
    let prefix = format!("recorder/{}", busy.framework.id);
    let recorded = include_str!("data/metrics.txt").lines().map(|name| name.replace("NAME/ID", &prefix));
    let missing: Vec<_> = recorded.filter(|name| !metrics[name].is_number()).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let of_framework = |name: &str| format!("master/frameworks/{prefix}/{name}");
    for (name, value) in [
        ("master/cpus_total".to_owned(), 8.0),
        ("master/cpus_used".to_owned(), 0.5),
        ("master/gpus_total".to_owned(), 0.0),
        ("master/slaves_active".to_owned(), 2.0),
        ("master/frameworks_active".to_owned(), 1.0),
        ("master/tasks_running".to_owned(), 1.0),
        ("master/tasks_finished".to_owned(), 1.0),
        ("master/tasks_failed".to_owned(), 2.0),
        ("master/tasks_dropped".to_owned(), 1.0),
        ("master/tasks_error".to_owned(), 1.0),
        ("master/task_dropped/source_master/reason_invalid_offers".to_owned(), 1.0),
        ("master/task_error/source_master/reason_task_invalid".to_owned(), 1.0),
        ("master/task_failed/source_slave/reason_container_launch_failed".to_owned(), 1.0),
        ("master/elected".to_owned(), 1.0),
        ("master/messages_launch_tasks".to_owned(), 6.0),
        ("master/messages_register_framework".to_owned(), 1.0),
        ("master/messages_reregister_framework".to_owned(), 0.0),
        ("master/messages_register_slave".to_owned(), 2.0),
        ("master/messages_revive_offers".to_owned(), 1.0),
        ("master/messages_status_update".to_owned(), 9.0),
        ("master/messages_status_update_acknowledgement".to_owned(), 8.0),
        ("master/valid_status_updates".to_owned(), 9.0),
        ("master/valid_status_update_acknowledgements".to_owned(), 8.0),
        ("allocator/mesos/quota/roles/*/resources/cpus/consumed".to_owned(), 0.5),
        ("allocator/mesos/quota/roles//resources/mem/consumed".to_owned(), 64.0),
        (of_framework("subscribed"), 1.0),
        (of_framework("calls"), 16.0),
        (of_framework("calls/accept"), 6.0),
        (of_framework("calls/acknowledge"), 8.0),
        (of_framework("events/subscribed"), 1.0),
        (of_framework("events/update"), 11.0),
        (of_framework("offers/accepted"), 5.0),
        (of_framework("operations/launch"), 6.0),
        (of_framework("roles/*/suppressed"), 0.0),
        (of_framework("tasks/active/task_running"), 1.0),
        (of_framework("tasks/terminal/task_failed"), 2.0),
    ] {
        assert_eq!(metrics[&name], value, "{name}");
    }
    for name in [
        "system/cpus_total",
        "system/mem_total_bytes",
        "master/uptime_secs",
        "allocator/mesos/allocation_runs",
        "allocator/mesos/allocation_run_ms/p99",
        "allocator/mesos/allocation_run_latency_ms/count",
        "allocator/mesos/roles/*/shares/dominant",
    ] {
        assert!(metrics[name].as_f64() > Some(0.0), "{name}: {}", metrics[name]);
    }
}

#[tokio::test]
async fn an_idle_master_has_the_metrics_that_belong_to_nobody() {
    let master = master().await;
    let metrics = get(master.local_addr(), "/metrics/snapshot").await.json();
    let of_somebody = ["/NAME/ID/", "/roles/", "/source_"];
    let recorded = include_str!("data/metrics.txt").lines();
    let recorded = recorded.filter(|name| !of_somebody.iter().any(|part| name.contains(part)));
    let missing: Vec<_> = recorded.clone().filter(|name| !metrics[name].is_number()).collect();
    assert!(missing.is_empty() && recorded.count() == 233, "{missing:#?}");
}

/// A name that is written as three times as many bytes, in each of the framework's figures.
#[tokio::test]
async fn long_names_of_frameworks_do_not_fill_the_metrics() {
    let master = master().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut info = framework_info();
        info["name"] = " ".repeat(4_096).into();
        streams.push(Framework::subscribe_as(master.local_addr(), info).await);
    }
    let metrics = get(master.local_addr(), "/metrics/snapshot").await.json();
    let names = metrics.as_object().unwrap().keys().filter(|name| name.starts_with("master/frameworks/"));
    let lengths: Vec<_> = names.map(String::len).collect();
    assert!(lengths.len() > 20 * 60, "{}", lengths.len());
    assert!(lengths.iter().all(|length| *length < 600), "{:?}", lengths.iter().max());
}

#[tokio::test]
async fn a_reader_of_metrics_says_how_long_it_waits() {
    let master = master().await;
    let address = master.local_addr();
    let whole = get(address, "/metrics/snapshot?timeout=10secs").await.json();
    assert!(whole["master/tasks_running"].is_number() && whole["system/load_1min"].is_number());
    let stats = get(address, "/system/stats.json").await.json();
    assert!(stats["avg_load_1min"].is_number() && stats["mem_total_bytes"].as_f64() > Some(0.0), "{stats}");
    // What takes time is left out.
    let hurried = get(address, "/metrics/snapshot?timeout=0ns").await.json();
    assert!(hurried["master/tasks_running"].is_null() && hurried["system/load_1min"].is_number());
    let answer = get(address, "/metrics/snapshot?timeout=10").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().starts_with("Invalid timeout '10': Unknown duration unit ''"), "{}", answer.text());
}

#[tokio::test]
async fn what_is_asked_for_is_shown() {
    let busy = Busy::start().await;
    let tasks = |query: &'static str| {
        let address = busy.address;
        async move {
            let body = get(address, &format!("/tasks{query}")).await.json();
            let tasks = body["tasks"].as_array().unwrap().clone();
            tasks.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(tasks("?order=asc&limit=-1").await.len(), 3);
    assert_eq!(tasks("?limit=2").await.len(), 2);
    assert_eq!(tasks("?order=asc&limit=1&offset=1").await, tasks("?order=asc").await[1..2]);
    assert_eq!(tasks("?task_id=long").await, ["long"]);
    assert!(tasks("?framework_id=nobody").await.is_empty());
    assert_eq!(get(busy.address, "/tasks?limit=x").await.status, 400);

    let path = format!("/slaves?slave_id={}", busy.agents[1].id);
    let slaves = get(busy.address, &path).await.json();
    assert_eq!(slaves["slaves"].as_array().unwrap().len(), 1);
    assert_eq!(slaves["slaves"][0]["id"], busy.agents[1].id.as_str());
    let none = get(busy.address, "/frameworks?framework_id=nobody").await.json();
    assert_eq!(none["frameworks"], json!([]));
}

#[tokio::test]
async fn texts_and_addresses() {
    let master = master().await;
    let address = master.local_addr();
    get(address, "/no-such-path").await.is(404, "404 Not Found.");
    get(address, "/master/no/such").await.is(404, "404 Not Found.");
    get(address, "/health").await.is(200, "");
    for path in ["/redirect", "/master/redirect"] {
        let answer = get(address, path).await;
        answer.is(307, "");
        assert_eq!(answer.header("location"), Some(format!("//{address}").as_str()));
    }
    let answer = post(address, "/state", &[], "").await;
    answer.is(405, "405 Method Not Allowed. Expecting one of { 'GET' }, but received 'POST'.");
    let version = get(address, "/version").await.json();
    let version = version["version"].as_str().unwrap();
    assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    master.stop().await;
}

#[tokio::test]
async fn bad_operator_calls() {
    let master = master().await;
    let address = master.local_addr();
    let text = "Failed to validate master::Call: Expecting 'type' to be present";
    operator(address, json!({"type": "NO_SUCH"})).await.is(400, text);
    operator(address, json!({"type": "READ_FILE", "read_file": {"path": "/etc/passwd", "offset": 0}}))
        .await
        .is(404, "");
    operator(address, json!({"type": "UPDATE_QUOTA", "update_quota": {}}))
        .await
        .is(501, "UPDATE_QUOTA is not supported by this master");
    let nobody = json!({"type": "TEARDOWN", "teardown": {"framework_id": {"value": "nobody"}}});
    operator(address, nobody).await.is(400, "No framework found with specified ID");
    let too_long = format!("{{\"type\": \"{}\"}}", "x".repeat(17 << 20));
    assert_eq!(post(address, "/api/v1", &[JSON], "").await.status, 400);
    let mut connection = Connection::open(address).await;
    let head = format!(
        "POST /api/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        too_long.len()
    );
    connection.write(head.as_bytes()).await;
    assert_eq!(connection.answer().await.status, 413, "refused before it is sent");
}

#[tokio::test]
async fn teardown_as_curl_sends_it() {
    let master = master().await;
    let address = master.local_addr();
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    post(address, "/teardown", &[form], "frameworkId=nobody")
        .await
        .is(400, "No framework found with specified ID");
    assert_eq!(post(address, "/teardown", &[form], "framework=x").await.status, 400);
    assert_eq!(post(address, "/teardown", &[form], "\0\u{ff}\"<>").await.status, 400);
    let mut framework = Framework::subscribe(address).await;
    let body = format!("frameworkId={}", framework.id);
    let foreign = [("Origin", "http://elsewhere.example")];
    assert_eq!(post(address, "/teardown", &foreign, &body).await.status, 403);
    assert_eq!(post(address, "/teardown", &[("Sec-Fetch-Site", "cross-site")], &body).await.status, 403);
    framework.call(json!({"type": "REVIVE"})).await.is(202, "");
    post(address, "/master/teardown", &[], &body).await.is(200, "");
    while framework.stream.event().await.is_some() {}
}

#[tokio::test]
async fn operators_watch() {
    let master = master().await;
    let address = master.local_addr();
    let mut watching = Connection::open(address).await;
    let call = json!({"type": "SUBSCRIBE"}).to_string();
    let answer = watching.request("POST", "/api/v1", &[JSON], call.as_bytes()).await;
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, Some("chunked")));
    let subscribed = watching.event().await.unwrap();
    assert_eq!(subscribed["type"], "SUBSCRIBED");
    assert_eq!(subscribed["subscribed"]["get_state"]["get_agents"]["agents"], json!([]));
    assert_eq!(watching.event().await.unwrap(), json!({"type": "HEARTBEAT"}));

    let mut agent = Agent::register(address).await;
    let added = watching.event().await.unwrap();
    assert_eq!(added["agent_added"]["agent"]["agent_info"]["id"]["value"], agent.id.as_str());
    let mut framework = Framework::subscribe(address).await;
    let added = watching.event().await.unwrap();
    assert_eq!(added["framework_added"]["framework"]["framework_info"]["name"], "recorder");
    let offer = framework.offer().await;
    framework.launch(&offer, "one").await;
    agent.launched().await;
    let added = watching.event().await.unwrap();
    assert_eq!(added["task_added"]["task"]["state"], "TASK_STAGING");
    agent.update(&framework.id, "one", TaskState::TaskRunning).await;
    let updated = watching.event().await.unwrap();
    assert_eq!(updated["task_updated"]["state"], "TASK_RUNNING");
    framework.call(json!({"type": "TEARDOWN"})).await;
    watching.next("FRAMEWORK_REMOVED").await;
}

#[tokio::test]
async fn an_agent_that_talks_nonsense_is_refused_and_may_come_again() {
    use bellows_wire::link::{Pong, agent_message::Message, master_message};
    let master = master().await;
    let address = master.local_addr();
    let mut early = Agent::connect(address).await;
    early.say(Message::Pong(Pong { seq: 1 })).await;
    assert!(matches!(early.hear().await, Some(master_message::Message::Refused(_))));
    assert!(early.hear().await.is_none());
    let mut garbage = Agent::connect(address).await;
    garbage.say_bytes("999999999999999999999\n".into()).await;
    assert!(garbage.hear().await.is_none());
    let wrong = post(address, "/api/v1/link", &[JSON], "{}").await;
    assert_eq!(wrong.status, 415);
    Agent::register(address).await;
}

#[tokio::test]
async fn an_agent_that_lives_is_not_displaced_by_another_under_its_id() {
    use bellows_wire::link::{
        Pong, Register,
        agent_message::Message,
        master_message::Message::{Ping, TryLater},
    };
    let master = master().await;
    let address = master.local_addr();
    let mut real = Agent::register(address).await;
    let mut pretender = Agent::connect(address).await;
    let agent_info = bellows_wire::v1::AgentInfo {
        id: Some(bellows_wire::v1::AgentId { value: real.id.clone() }),
        ..agent::info(5099)
    };
    let register = Register { agent_info, version: "0.1.0".to_owned(), ..Default::default() };
    pretender.say(Message::Register(register)).await;
    // That of its registration, and the one that asks whether it lives.
    for _ in 0..2 {
        match real.hear().await {
            Some(Ping(ping)) => real.say(Message::Pong(Pong { seq: ping.seq })).await,
            other => panic!("{other:?}"),
        }
    }
    match pretender.hear().await {
        Some(TryLater(later)) => assert!(later.reason.contains("connected already"), "{}", later.reason),
        other => panic!("{other:?}"),
    }
    assert!(pretender.hear().await.is_none());
    // The real one is still there.
    let mut framework = Framework::subscribe(address).await;
    assert_eq!(framework.offer().await["agent_id"]["value"], real.id.as_str());
}

#[tokio::test]
async fn a_thousand_connections() {
    let master = master().await;
    let address = master.local_addr();
    let mut open = Vec::new();
    for _ in 0..1_000 {
        let mut connection = Connection::open(address).await;
        let answer = connection.request("GET", "/health", &[], b"").await;
        answer.is(200, "");
        open.push(connection);
    }
    Framework::subscribe(address).await.call(json!({"type": "REVIVE"})).await.is(202, "");
    master.stop().await;
}

#[tokio::test]
async fn the_page_asks_nobody_else() {
    let master = master().await;
    let address = master.local_addr();
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let answer = get(address, path).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}
