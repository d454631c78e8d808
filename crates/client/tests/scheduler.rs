//! The scheduler client against a master that the test plays.

mod support;

use bellows_client::{CallError, SchedulerClient, SchedulerEvent, SchedulerOptions};
use bellows_election::Leader;
use bellows_wire::v1::scheduler::{Call, call, event};
use bellows_wire::v1::{FrameworkInfo, TaskState};
use http::StatusCode;
use support::{Answer, PATIENCE, Server, events};
use tokio::sync::{mpsc, watch};

type Master = Server<Call>;

fn leader_at(address: std::net::SocketAddr) -> Option<Leader> {
    Some(Leader::at(&address.ip().to_string(), address.port()))
}

fn subscribe(master: &Master) -> (SchedulerClient, mpsc::Receiver<SchedulerEvent>) {
    let framework =
        FrameworkInfo { user: "u".to_owned(), name: "test".to_owned(), ..FrameworkInfo::default() };
    let options = SchedulerOptions { framework, ..SchedulerOptions::default() };
    SchedulerClient::start(watch::channel(leader_at(master.address)).1, options)
}

async fn next(events: &mut mpsc::Receiver<SchedulerEvent>) -> SchedulerEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the client runs")
}

async fn expect_connected(events: &mut mpsc::Receiver<SchedulerEvent>) {
    assert!(matches!(next(events).await, SchedulerEvent::Connected(_)));
    let SchedulerEvent::Received(event) = next(events).await else { panic!("SUBSCRIBED first") };
    assert_eq!(event.r#type(), event::Type::Subscribed);
}

fn of_type(kind: call::Type) -> Call {
    Call { r#type: Some(kind.into()), ..Call::default() }
}

#[tokio::test]
async fn subscribes_receives_in_order_and_calls_in_order() {
    let mut master = Master::start().await;
    let (client, mut events) = subscribe(&master);
    assert!(matches!(client.call(of_type(call::Type::Revive)).await, Err(CallError::NotConnected)));
    let call = master.next_call().await;
    assert_eq!(call.framework_id, None);
    assert_eq!(call.subscribe.expect("a SUBSCRIBE").framework_info.name, "test");

    master.send(&events::subscribed("F-1", 15.0));
    master.send(&events::heartbeat());
    master.send(&events::offers(["O-1".to_owned()]));
    master.send(&events::update("T-1", TaskState::TaskRunning, None));
    expect_connected(&mut events).await;
    for expected in [event::Type::Offers, event::Type::Update] {
        let SchedulerEvent::Received(event) = next(&mut events).await else { panic!("an event") };
        assert_eq!(event.r#type(), expected);
    }

    let kinds = [call::Type::Revive, call::Type::Suppress, call::Type::Reconcile, call::Type::Revive];
    let sent = kinds.map(|kind| {
        let client = client.clone();
        async move { client.call(of_type(kind)).await.expect("accepted") }
    });
    futures::future::join_all(sent).await;
    for kind in kinds {
        let call = master.next_call().await;
        assert_eq!(call.r#type(), kind);
        assert_eq!(call.framework_id.expect("filled in").value, "F-1");
    }
}

#[tokio::test]
async fn one_record_may_come_in_pieces_and_several_at_once() {
    let mut master = Master::start().await;
    let (_client, mut events) = subscribe(&master);
    master.next_call().await;
    let mut bytes = Vec::new();
    for event in [events::subscribed("F-1", 15.0), events::offers(["O-1".to_owned()])] {
        bytes.extend_from_slice(&bellows_wire::recordio::encode(&prost::Message::encode_to_vec(&event)));
    }
    for piece in bytes.chunks(3) {
        master.send_bytes(piece.to_vec());
    }
    expect_connected(&mut events).await;
    assert!(matches!(next(&mut events).await, SchedulerEvent::Received(_)));
    master.send_bytes(bytes);
    for expected in [event::Type::Subscribed, event::Type::Offers] {
        let SchedulerEvent::Received(event) = next(&mut events).await else { panic!("an event") };
        assert_eq!(event.r#type(), expected);
    }
}

#[tokio::test]
async fn a_lost_stream_is_subscribed_again_with_the_framework_id_and_the_suppressed_roles() {
    let mut master = Master::start().await;
    let (client, mut events) = subscribe(&master);
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    let suppress = call::Suppress { roles: vec!["dev".to_owned()] };
    let call = Call { suppress: Some(suppress), ..of_type(call::Type::Suppress) };
    client.call(call).await.expect("accepted");
    master.next_call().await;

    master.close_stream();
    assert!(matches!(next(&mut events).await, SchedulerEvent::Disconnected { .. }));
    let again = master.next_call().await;
    assert_eq!(again.framework_id.expect("known by now").value, "F-1");
    let again = again.subscribe.expect("a SUBSCRIBE");
    assert_eq!(again.framework_info.id.expect("known by now").value, "F-1");
    assert_eq!(again.suppressed_roles, ["dev"]);
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    client.call(of_type(call::Type::Revive)).await.expect("on the new stream");
}

#[tokio::test]
async fn a_master_that_returns_is_found() {
    let mut master = Master::start().await;
    let (_client, mut events) = subscribe(&master);
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    let address = master.stop().await;
    assert!(matches!(next(&mut events).await, SchedulerEvent::Disconnected { .. }));
    let mut master = Master::start_at(address).await;
    assert_eq!(master.next_call().await.framework_id.expect("known by now").value, "F-1");
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
}

#[tokio::test]
async fn silence_ends_a_subscription() {
    let mut master = Master::start().await;
    let (_client, mut events) = subscribe(&master);
    master.next_call().await;
    master.send(&events::subscribed("F-1", 0.01));
    expect_connected(&mut events).await;
    let SchedulerEvent::Disconnected { reason } = next(&mut events).await else { panic!("silent") };
    assert!(reason.contains("nothing heard"), "{reason}");
    master.next_call().await;
}

#[tokio::test]
async fn redirects_are_followed_also_for_calls() {
    let follower = Master::start().await;
    let mut leader = Master::start().await;
    follower.answer_subscribe(Answer::Redirect(leader.address));
    let (client, mut events) = subscribe(&follower);
    leader.next_call().await;
    leader.send(&events::subscribed("F-1", 15.0));
    let SchedulerEvent::Connected(master) = next(&mut events).await else { panic!("connected") };
    assert_eq!(master.authority(), leader.address.to_string());
    assert_eq!(master.id, "m-1");
    client.call(of_type(call::Type::Revive)).await.expect("accepted by the leader");
    assert_eq!(leader.next_call().await.r#type(), call::Type::Revive);
}

#[tokio::test]
async fn masters_that_redirect_in_a_circle_are_asked_until_one_leads() {
    let mut one = Master::start().await;
    let other = Master::start().await;
    one.answer_subscribe(Answer::Redirect(other.address));
    other.answer_subscribe(Answer::Redirect(one.address));
    let (_client, mut events) = subscribe(&one);
    one.answer_subscribe(Answer::Stream);
    one.next_call().await;
    one.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
}

#[tokio::test]
async fn another_leader_is_followed_at_once() {
    let mut first = Master::start().await;
    let mut second = Master::start().await;
    let (leader, watched) = watch::channel(None);
    let (_client, mut events) = SchedulerClient::start(watched, SchedulerOptions::default());
    leader.send_replace(leader_at(first.address));
    first.next_call().await;
    first.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    // Without a leader the subscription stays: the master may well go on.
    leader.send_replace(None);
    first.send(&events::offers(["O-1".to_owned()]));
    assert!(matches!(next(&mut events).await, SchedulerEvent::Received(_)));
    leader.send_replace(leader_at(second.address));
    assert!(matches!(next(&mut events).await, SchedulerEvent::Disconnected { .. }));
    assert_eq!(second.next_call().await.framework_id.expect("known by now").value, "F-1");
    second.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
}

#[tokio::test]
async fn a_busy_master_is_asked_again_and_a_refusal_is_fatal() {
    let mut master = Master::start().await;
    master.answer_subscribe(Answer::Refuse(StatusCode::SERVICE_UNAVAILABLE, "recovering"));
    let (client, mut events) = subscribe(&master);
    master.next_call().await;
    master.next_call().await;
    master.answer_subscribe(Answer::Refuse(StatusCode::FORBIDDEN, "not for you"));
    let SchedulerEvent::Fatal(message) = next(&mut events).await else { panic!("refused") };
    assert!(message.contains("403") && message.contains("not for you"), "{message}");
    assert!(matches!(client.call(of_type(call::Type::Revive)).await, Err(CallError::Stopped)));
    assert!(events.recv().await.is_none());
}

#[tokio::test]
async fn an_error_event_is_fatal() {
    let mut master = Master::start().await;
    let (_client, mut events) = subscribe(&master);
    master.next_call().await;
    master.send(&events::error("Framework has been removed"));
    let SchedulerEvent::Fatal(message) = next(&mut events).await else { panic!("removed") };
    assert_eq!(message, "Framework has been removed");
}

#[tokio::test]
async fn a_refused_call_is_told_and_the_subscription_goes_on() {
    let mut master = Master::start().await;
    let (client, mut events) = subscribe(&master);
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    master.answer_calls(StatusCode::BAD_REQUEST);
    let refused = client.call(of_type(call::Type::Revive)).await;
    assert!(matches!(refused, Err(CallError::Refused(refusal)) if refusal.status == StatusCode::BAD_REQUEST));
    master.send(&events::offers(["O-1".to_owned()]));
    assert!(matches!(next(&mut events).await, SchedulerEvent::Received(_)));
    // A master that no longer leads says so with a server error: another subscription.
    master.answer_calls(StatusCode::SERVICE_UNAVAILABLE);
    assert!(client.call(of_type(call::Type::Revive)).await.is_err());
    assert!(matches!(next(&mut events).await, SchedulerEvent::Disconnected { .. }));
}

#[tokio::test]
async fn garbage_on_the_stream_ends_the_subscription_only() {
    let mut master = Master::start().await;
    let (_client, mut events) = subscribe(&master);
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    master.send_bytes(&b"no record\n"[..]);
    assert!(matches!(next(&mut events).await, SchedulerEvent::Disconnected { .. }));
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
}

/// Spark's default is no failover timeout: a master that saw the stream end would remove the framework.
#[tokio::test]
async fn a_subscription_whose_calls_fail_is_open_until_the_next_replaces_it() {
    let mut master = Master::start().await;
    let (client, mut events) = subscribe(&master);
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    master.lose_answers();
    let lost = client.call(of_type(call::Type::Revive)).await;
    assert!(matches!(lost, Err(CallError::Connection { .. })), "{lost:?}");
    assert_eq!(master.next_call().await.r#type(), call::Type::Revive);
    assert!(matches!(next(&mut events).await, SchedulerEvent::Disconnected { .. }));
    assert_eq!(master.next_call().await.r#type(), call::Type::Subscribe);
    assert_eq!(master.replaced(), 1);
    master.answer_calls(StatusCode::ACCEPTED);
    master.send(&events::subscribed("F-1", 15.0));
    expect_connected(&mut events).await;
    client.call(of_type(call::Type::Revive)).await.expect("on the new stream");
}
