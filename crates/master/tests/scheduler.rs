//! A framework's view of a master, byte by byte.
#![allow(clippy::unwrap_used)]
mod common;

use bellows_wire::v1::TaskState;
use common::{
    Connection, Framework, JSON, agent::Agent, config, framework_info, get, master, operator, post,
};
use serde_json::json;

#[tokio::test]
async fn from_subscription_to_the_end_of_a_task() {
    let master = master().await;
    let address = master.local_addr();
    let mut agent = Agent::register(address).await;
    let mut framework = Framework::subscribe(address).await;
    let subscribed = &framework.subscribed["subscribed"];
    assert_eq!(subscribed["heartbeat_interval_seconds"], 15.0);
    assert_eq!(subscribed["master_info"]["port"], address.port());
    assert_eq!(subscribed["master_info"]["address"]["ip"], "127.0.0.1");
    assert_eq!(subscribed["master_info"]["ip"], 16_777_343);
    assert_eq!(framework.stream.event().await.unwrap(), json!({"type": "HEARTBEAT"}));

    let offer = framework.offer().await;
    assert_eq!(offer["url"]["address"], json!({"hostname": "127.0.0.1", "ip": "127.0.0.1", "port": 5051}));
    assert_eq!(offer["agent_id"]["value"], agent.id.as_str());
    let answer = framework.launch(&offer, "one").await;
    answer.is(202, "");
    assert_eq!(agent.launched().await.task_id.value, "one");

    agent.update(&framework.id, "one", TaskState::TaskRunning).await;
    let update = framework.next("UPDATE").await;
    let status = &update["update"]["status"];
    assert_eq!((&status["state"], &status["source"]), (&json!("TASK_RUNNING"), &json!("SOURCE_EXECUTOR")));
    framework.acknowledge(&update).await.is(202, "");
    framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": "one"}}})).await.is(202, "");
    agent.update(&framework.id, "one", TaskState::TaskFinished).await;
    assert_eq!(framework.next("UPDATE").await["update"]["status"]["state"], "TASK_FINISHED");
    framework.call(json!({"type": "TEARDOWN"})).await.is(202, "");
    while framework.stream.event().await.is_some() {}
    framework.call(json!({"type": "REVIVE"})).await.is(400, "Framework cannot be found");
    master.stop().await;
}

/// What Spark sends for `spark.mesos.executor.secret.*`, and a task that nobody could run beside it.
#[tokio::test]
async fn one_task_that_cannot_be_spoils_no_other_of_its_call() {
    let master = master().await;
    let address = master.local_addr();
    let mut agent = Agent::register(address).await;
    let mut framework = Framework::subscribe(address).await;
    let offer = framework.offer().await;
    let task = |id: &str, secret: serde_json::Value| {
        json!({
            "name": id, "task_id": {"value": id}, "agent_id": offer["agent_id"],
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.5}}],
            "command": {"value": "true", "environment": {"variables": [
                {"name": "PASSWORD", "type": "SECRET", "secret": secret}]}},
        })
    };
    let tasks = [
        task("named", json!({"type": "REFERENCE", "reference": {"name": "/vault/db"}})),
        task("given", json!({"type": "VALUE", "value": {"data": "czNjcmV0"}})),
    ];
    let group = json!({
        "executor": {"executor_id": {"value": "e"}, "command": {"value": "true"}},
        "task_group": {"tasks": [task("grouped", json!(null))]},
    });
    let accept = json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]], "operations": [
        {"type": "OF_TOMORROW"},
        {"type": "LAUNCH", "launch": {"task_infos": tasks}},
        {"type": "LAUNCH_GROUP", "launch_group": group},
    ]}});
    framework.call(accept).await.is(202, "");
    let launched = agent.launched().await;
    assert_eq!(launched.task_id.value, "given");
    let variables = launched.command.expect("given").environment.expect("given").variables;
    assert_eq!((variables[0].name.as_str(), variables[0].value()), ("PASSWORD", "s3cret"));
    for (id, why) in [("named", "secret '/vault/db'"), ("grouped", "LAUNCH_GROUP")] {
        let update = framework.next("UPDATE").await;
        let status = &update["update"]["status"];
        assert_eq!((&status["task_id"]["value"], &status["state"]), (&json!(id), &json!("TASK_ERROR")));
        assert_eq!(status["agent_id"], offer["agent_id"]);
        assert!(status["message"].as_str().is_some_and(|message| message.contains(why)), "{status}");
    }
    framework.call(json!({"type": "ACCEPT", "accept": {"offer_ids": [{"value": "../x"}], "operations": [
        {"type": "LAUNCH", "launch": {"task_infos": [task("late", json!({"type": "VALUE", "value": {"data": "eA=="}}))]}},
    ]}})).await.is(202, "");
    let update = framework.next("UPDATE").await;
    assert_eq!(update["update"]["status"]["reason"], "REASON_INVALID_OFFERS");

    let tasks = get(address, "/tasks").await.json();
    let listed = |id: &str| tasks["tasks"].as_array().unwrap().iter().find(|task| task["id"] == id).cloned();
    for id in ["named", "grouped", "late"] {
        let task = listed(id).unwrap_or_else(|| panic!("{id}: {tasks}"));
        assert!(task["statuses"].as_array().is_some_and(|statuses| statuses.len() == 1), "{task}");
    }
    let state = get(address, "/state").await;
    assert_eq!(state.json()["frameworks"][0]["completed_tasks"].as_array().map(Vec::len), Some(3));
    let operator = operator(address, json!({"type": "GET_TASKS"})).await;
    for text in [state.text(), tasks.to_string().as_str(), operator.text()] {
        assert!(text.contains("given") && !text.contains("s3cret") && !text.contains("czNjcmV0"));
    }
    master.stop().await;
}

#[tokio::test]
async fn heartbeats_go_on() {
    let heartbeat = std::time::Duration::from_millis(5);
    let master = bellows_master::start(bellows_master::Config { heartbeat, ..config() }).await.unwrap();
    let mut framework = Framework::subscribe(master.local_addr()).await;
    for _ in 0..4 {
        assert_eq!(framework.stream.event().await.unwrap(), json!({"type": "HEARTBEAT"}));
    }
    master.stop().await;
    while let Some(event) = framework.stream.event().await {
        assert_eq!(event["type"], "HEARTBEAT", "then the stream ends in order");
    }
}

/// From now on the peer's system takes note of nothing that arrives: no FIN, no RST, no acknowledgement leaves it.
fn vanish(stream: &tokio::net::TcpStream) {
    // One instruction of classic BPF, `ret #0`: drop the packet.
    let drop_all = socket2::SockFilter::new(0x06, 0, 0, 0);
    socket2::SockRef::from(stream).attach_filter(&[drop_all]).unwrap();
}

/// A driver's machine that loses its power says nothing. What it had is given to others all the same.
#[tokio::test]
async fn a_framework_whose_machine_vanishes_is_noticed() {
    // What is sent is not acknowledged; and nothing is sent at all.
    for heartbeat in [std::time::Duration::from_millis(50), std::time::Duration::from_secs(3_600)] {
        let lost_peer_timeout = std::time::Duration::from_secs(1);
        let config = bellows_master::Config { heartbeat, lost_peer_timeout, ..config() };
        let master = bellows_master::start(config).await.unwrap();
        let address = master.local_addr();
        let agent = Agent::register(address).await;
        let mut info = framework_info();
        info["failover_timeout"] = json!(0);
        let mut lost = Framework::subscribe_as(address, info).await;
        lost.offer().await;
        vanish(lost.stream.0.get_ref());
        let mut waiting = Framework::subscribe(address).await;
        assert_eq!(waiting.offer_of(&agent.id).await["agent_id"]["value"], agent.id.as_str());
        waiting.call(json!({"type": "TEARDOWN"})).await.is(202, "");
        master.stop().await;
    }
}

/// Headers, body, status, text.
type Case<'a> = (&'a [(&'a str, &'a str)], String, u16, &'a str);

/// What a real Mesos answers to the same requests.
#[tokio::test]
async fn refusals() {
    let master = master().await;
    let address = master.local_addr();
    let framework = Framework::subscribe(address).await;
    let stream = ("Mesos-Stream-Id", framework.stream_id.as_str());
    let id = json!({"value": framework.id});
    let revive = json!({"type": "REVIVE", "framework_id": id}).to_string();
    let path = "/api/v1/scheduler";

    let cases: &[Case<'_>] = &[
        (
            &[JSON, stream],
            "{not json".into(),
            400,
            "Failed to parse body into JSON: syntax error at line 1 near: not json",
        ),
        (&[stream], revive.clone(), 400, "Expecting 'Content-Type' to be present"),
        (
            &[stream, ("Content-Type", "text/plain")],
            revive.clone(),
            415,
            "Expecting 'Content-Type' of application/json or application/x-protobuf",
        ),
        (&[JSON], revive.clone(), 400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header"),
        (
            &[JSON, stream],
            json!({"type": "REVIVE", "framework_id": {"value": "nobody"}}).to_string(),
            400,
            "Framework cannot be found",
        ),
        (
            &[JSON, stream],
            json!({"type": "REVIVE"}).to_string(),
            400,
            "Failed to validate scheduler::Call: Expecting 'framework_id' to be present",
        ),
        (
            &[JSON, stream],
            json!({"framework_id": id}).to_string(),
            400,
            "Failed to validate scheduler::Call: Expecting 'type' to be present",
        ),
        (
            &[JSON, stream],
            json!({"type": "NO_SUCH", "framework_id": id}).to_string(),
            400,
            "Failed to validate scheduler::Call: Expecting 'type' to be present",
        ),
        (
            &[JSON, stream],
            json!({"type": "ACCEPT", "framework_id": id}).to_string(),
            400,
            "Failed to validate scheduler::Call: Expecting 'accept' to be present",
        ),
        (
            &[JSON],
            json!({"type": "SUBSCRIBE", "subscribe": {}}).to_string(),
            400,
            "Failed to convert JSON into Call protobuf: Missing required fields: subscribe.framework_info",
        ),
        (
            &[JSON, ("Accept", "text/html")],
            json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": "root", "name": "x"}}})
                .to_string(),
            406,
            "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'",
        ),
        (
            &[JSON, stream],
            json!({"type": "RECONCILE_OPERATIONS", "framework_id": id, "reconcile_operations": {}})
                .to_string(),
            501,
            "RECONCILE_OPERATIONS is not supported by this master",
        ),
    ];
    for (headers, body, status, text) in cases {
        let answer = post(address, path, headers, body).await;
        answer.is(*status, text);
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    let wrong = ("Mesos-Stream-Id", "00000000-0000-0000-0000-000000000000");
    post(address, path, &[JSON, wrong], &revive).await.is(
        400,
        &format!(
            "The stream ID '{}' included in this request didn't match the stream ID currently associated with \
             framework ID {}",
            wrong.1, framework.id
        ),
    );
    let answer = Connection::open(address).await.request("GET", path, &[], b"").await;
    answer.is(405, "405 Method Not Allowed. Expecting one of { 'POST' }, but received 'GET'.");
    assert_eq!(answer.header("allow"), Some("POST"));
    let protobuf = ("Content-Type", "application/x-protobuf");
    assert_eq!(post(address, path, &[protobuf, stream], b"\xff\xff\xff").await.status, 400);
    framework.call(json!({"type": "REVIVE"})).await.is(202, "");
}

#[tokio::test]
async fn bodies_come_as_clients_send_them() {
    let master = master().await;
    let address = master.local_addr();
    let framework = Framework::subscribe(address).await;
    let call = json!({
        "type": "REVIVE", "framework_id": {"value": framework.id}, "revive": null, "unknown": {"a": 1},
        "credentials": [],
    })
    .to_string();
    let half = call.len() / 2;
    let chunked = format!(
        "{:x}\r\n{}\r\n{:x};ext=1\r\n{}\r\n0\r\n\r\n",
        half,
        &call[..half],
        call.len() - half,
        &call[half..]
    );
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("MESOS-STREAM-ID", &framework.stream_id),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
    ];
    for path in ["/api/v1/scheduler?_ts=1", "/master/api/v1/scheduler", "/master/api/v1/scheduler/"] {
        let mut connection = Connection::open(address).await;
        let answer = connection.request("POST", path, &headers, chunked.as_bytes()).await;
        answer.is(202, "");
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn a_framework_comes_back_under_its_id_and_its_old_stream_ends() {
    let master = master().await;
    let mut first = Framework::subscribe(master.local_addr()).await;
    let mut info = framework_info();
    info["id"] = json!({"value": first.id});
    let second = Framework::subscribe_as(master.local_addr(), info).await;
    assert_eq!(second.id, first.id);
    assert_ne!(second.stream_id, first.stream_id);
    while first.stream.event().await.is_some() {}
    assert_eq!(first.call(json!({"type": "REVIVE"})).await.status, 400);
    second.call(json!({"type": "REVIVE"})).await.is(202, "");
}

#[tokio::test]
async fn a_framework_that_is_gone_is_seen_at_once() {
    let master = master().await;
    let address = master.local_addr();
    let mut info = framework_info();
    info["failover_timeout"] = json!(0);
    let framework = Framework::subscribe_as(address, info).await;
    let mut watching = Connection::open(address).await;
    let call = json!({"type": "SUBSCRIBE"}).to_string();
    assert_eq!(watching.request("POST", "/api/v1", &[JSON], call.as_bytes()).await.status, 200);
    watching.next("HEARTBEAT").await;
    drop(framework);
    let removed = watching.next("FRAMEWORK_REMOVED").await;
    assert_eq!(removed["framework_removed"]["framework_info"]["name"], "recorder");
}

#[tokio::test]
async fn who_does_not_read_is_disconnected_and_nobody_else_is_harmed() {
    let limited = bellows_master::Config { max_unread_bytes: 64 << 10, ..config() };
    let master = bellows_master::start(limited).await.unwrap();
    let address = master.local_addr();
    let agent = Agent::register(address).await;
    let mut reading = Framework::subscribe(address).await;
    let mut deaf = Framework::subscribe(address).await;
    for framework in [&mut reading, &mut deaf] {
        let offer = framework.offer().await;
        assert_eq!(framework.launch(&offer, "t").await.status, 202);
    }
    // Updates, until more waits than the socket's buffers and the outbox take.
    let large = |status: &mut bellows_wire::v1::TaskStatus| status.data = Some(vec![7; 48 << 10].into());
    loop {
        for framework in [&deaf, &reading] {
            agent.update_with(&framework.id, "t", TaskState::TaskRunning, large).await;
        }
        reading.next("UPDATE").await;
        let answer = operator(address, json!({"type": "GET_FRAMEWORKS"})).await.json();
        let frameworks = answer["get_frameworks"]["frameworks"].as_array().unwrap();
        let of = |id: &str| frameworks.iter().find(|one| one["framework_info"]["id"]["value"] == id).unwrap();
        assert_eq!(of(&reading.id)["connected"], true);
        if of(&deaf.id)["connected"] == false {
            break;
        }
    }
    // What was written may still be read; then the connection is closed, within a record most likely.
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut deaf.stream.0, &mut rest).await;
}
