//! Peers that mean no good: what they may take, and for how long.
#![allow(clippy::unwrap_used)]
mod common;

use bellows_master::{Config, Limits, start};
use bellows_wire::{
    link::{Pong, agent_message::Message},
    v1::{Label, Labels, TaskState, TaskStatus},
};
use common::{Connection, Framework, JSON, agent::Agent, config, get, master, patiently, post};
use serde_json::json;
use std::{net::SocketAddr, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn closed(connection: &mut Connection) {
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = patiently(connection.0.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn requests_that_name_another_host_are_refused_on_every_path() {
    let config = Config {
        hostname: Some("Master.cluster.example".to_owned()),
        allow_hosts: vec!["proxy.example".to_owned()],
        ..config()
    };
    let master = start(config).await.unwrap();
    let address = master.local_addr();
    for path in ["/", "/state", "/health", "/metrics", "/api/v1", "/nowhere"] {
        let mut connection = Connection::open(address).await;
        let answer = connection.request("GET", path, &[("Host", "evil.example:5050")], b"").await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.text().contains("--allow-host") && answer.text().contains("evil.example"));
    }
    for host in ["master.CLUSTER.example.:5050", "127.0.0.1", "[::1]:5050", "localhost", "proxy.example"] {
        let mut connection = Connection::open(address).await;
        assert_eq!(connection.request("GET", "/version", &[("Host", host)], b"").await.status, 200, "{host}");
    }
    let mut old = Connection::open(address).await;
    old.write(b"GET /version HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.answer().await.status, 200);
    let foreign = [("Host", "localhost"), ("Origin", "http://evil.example")];
    assert_eq!(post(address, "/teardown", &foreign, "frameworkId=x").await.status, 403);
    master.stop().await;
}

#[tokio::test]
async fn an_accept_of_empty_operations_is_refused() {
    let master = master().await;
    let framework = Framework::subscribe(master.local_addr()).await;
    let operations = vec!["{}"; 300_000].join(",");
    let body = format!(
        r#"{{"type":"ACCEPT","framework_id":{{"value":"{}"}},"accept":{{"operations":[{operations}]}}}}"#,
        framework.id
    );
    let headers = [JSON, ("Mesos-Stream-Id", &*framework.stream_id)];
    let answer = post(framework.address, "/api/v1/scheduler", &headers, body).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("send fewer in one call"), "{}", answer.text());
    assert_eq!(framework.call(json!({"type": "REVIVE"})).await.status, 202);
    master.stop().await;
}

/// The head of a link, after which nothing comes.
async fn silent_link(address: SocketAddr) -> Connection {
    let mut link = Connection::open(address).await;
    link.write(
        b"POST /api/v1/link HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/recordio\r\n\
          Transfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    link
}

#[tokio::test]
async fn a_link_that_does_not_register_is_closed() {
    let config = Config { registration_timeout: Duration::from_millis(50), ..config() };
    let master = start(config).await.unwrap();
    let mut silent = silent_link(master.local_addr()).await;
    let mut chatty = silent_link(master.local_addr()).await;
    closed(&mut silent).await;
    // Whatever it says, as long as it is no whole record.
    let _ = chatty.0.write_all(b"1\r\n1\r\n").await;
    closed(&mut chatty).await;
    master.stop().await;
}

#[tokio::test]
async fn streams_that_are_not_read_leave_room_for_others() {
    let limits = Limits { max_connections: 40, ..Limits::default() };
    let master = start(Config { limits, ..config() }).await.unwrap();
    let address = master.local_addr();
    // One peer has half of the places: more that say nothing make room for each other.
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(Connection::open(address).await);
    }
    assert_eq!(get(address, "/health").await.status, 200);
    let framework = Framework::subscribe(address).await;
    for _ in 0..60 {
        silent.push(Connection::open(address).await);
    }
    assert_eq!(
        framework.call(json!({"type": "REVIVE"})).await.status,
        202,
        "its stream is no silent connection"
    );
    master.stop().await;
}

#[tokio::test]
async fn answers_that_are_not_read_are_bounded_in_all() {
    // Less than what two answers take.
    let master = start(Config { shared_memory_bytes: 256 << 10, ..config() }).await.unwrap();
    let address = master.local_addr();
    let name = "n".repeat(4_000);
    for number in 0..20 {
        let info = json!({"user": "root", "name": format!("{name}{number}"), "failover_timeout": 60});
        drop(Framework::subscribe_as(address, info).await);
    }
    let whole = get(address, "/state").await;
    assert_eq!(whole.status, 200);
    assert!(whole.body.len() > 80_000 && whole.body.len() < 128 << 10, "{}", whole.body.len());
    for _ in 0..10 {
        assert_eq!(get(address, "/state").await.status, 200, "what was read is given back");
    }
    master.stop().await;
}

#[tokio::test]
async fn a_query_without_end_is_refused() {
    let master = master().await;
    let path = format!("/tasks?{}", "a&".repeat(10_000));
    assert_eq!(get(master.local_addr(), &path).await.status, 414);
    master.stop().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_does_not_end_an_agents_link() {
    let master = master().await;
    let address = master.local_addr();
    let mut agent = Agent::register(address).await;
    let mut framework = Framework::subscribe(address).await;
    let offer = framework.offer().await;
    assert_eq!(framework.launch(&offer, "t").await.status, 202);
    agent.launched().await;
    // An empty name, a record that is no message, and a label that is too long.
    agent.update(&framework.id, "", TaskState::TaskRunning).await;
    agent.say_bytes("3\nxyz".into()).await;
    let pad = Label { key: "k".to_owned(), value: Some("v".repeat(100 << 10)) };
    let with_pad = |status: &mut TaskStatus| status.labels = Some(Labels { labels: vec![pad] });
    agent.update_with(&framework.id, "t", TaskState::TaskRunning, with_pad).await;
    agent.say(Message::Pong(Pong { seq: 0 })).await;
    agent.update(&framework.id, "t", TaskState::TaskFinished).await;
    patiently(async {
        while framework.next("UPDATE").await["update"]["status"]["state"] != "TASK_FINISHED" {}
    })
    .await;
    master.stop().await;
}
