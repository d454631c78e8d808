//! The operator's clients against a master and an agent that the test plays.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bellows_client::{AgentClient, CallError, Credential, OperatorClient};
use bellows_election::Leader;
use bellows_wire::recordio;
use bellows_wire::v1::FrameworkId;
use bellows_wire::v1::master::{Call, Event, Response as Answer, call, event, response};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Every request as `METHOD path?query`, its body, and on how many connections they came.
#[derive(Default)]
struct Seen {
    requests: Vec<(String, Bytes)>,
    connections: u32,
}

type Reply = fn(&str, &Bytes) -> Response<Full<Bytes>>;

async fn serve(reply: Reply) -> (SocketAddr, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let all = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.expect("accepting");
            all.lock().expect("not poisoned").connections += 1;
            let seen = Arc::clone(&all);
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = Arc::clone(&seen);
                async move {
                    let what = format!("{} {}", request.method(), request.uri());
                    let body = request.into_body().collect().await?.to_bytes();
                    seen.lock().expect("not poisoned").requests.push((what.clone(), body.clone()));
                    Ok::<_, hyper::Error>(reply(&what, &body))
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(connection), service));
        }
    });
    (address, seen)
}

fn operator(address: SocketAddr) -> OperatorClient {
    let leader = Leader::at(&address.ip().to_string(), address.port());
    let credential = Credential { principal: "ann".to_owned(), secret: "pw".to_owned() };
    OperatorClient::new(watch::channel(Some(leader)).1, Some(&credential))
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into())).expect("valid")
}

fn master(_: &str, body: &Bytes) -> Response<Full<Bytes>> {
    let call = Call::decode(body.clone()).expect("a call");
    match call.r#type() {
        call::Type::GetAgents => {
            let agents = response::GetAgents::default();
            let kind = response::Type::GetAgents.into();
            let message = Answer { r#type: Some(kind), get_agents: Some(agents), ..Answer::default() };
            answer(StatusCode::OK, message.encode_to_vec())
        }
        call::Type::Teardown => match call.teardown.expect("given").framework_id.value.as_str() {
            "F-1" => answer(StatusCode::OK, ""),
            _ => answer(StatusCode::BAD_REQUEST, "No framework found with specified ID"),
        },
        call::Type::Subscribe => {
            let subscribed = event::Subscribed { heartbeat_interval_seconds: Some(15.0), get_state: None };
            let kinds = [event::Type::Subscribed, event::Type::Heartbeat, event::Type::TaskAdded];
            let records = kinds.map(|kind| {
                let subscribed = (kind == event::Type::Subscribed).then(|| subscribed.clone());
                let event = Event { r#type: Some(kind.into()), subscribed, ..Event::default() };
                recordio::encode_message(&event)
            });
            answer(StatusCode::OK, records.concat())
        }
        _ => answer(StatusCode::NOT_IMPLEMENTED, ""),
    }
}

#[tokio::test]
async fn calls_go_over_one_connection_and_refusals_are_told() {
    let (address, seen) = serve(master).await;
    let operator = operator(address);
    assert!(operator.get_agents().await.expect("answered").agents.is_empty());
    operator.teardown(&FrameworkId { value: "F-1".to_owned() }).await.expect("accepted");
    let refused = operator.teardown(&FrameworkId { value: "nobody".to_owned() }).await;
    match refused {
        Err(CallError::Refused(refusal)) => {
            assert_eq!(refusal.to_string(), "400 Bad Request: No framework found with specified ID");
        }
        other => panic!("{other:?}"),
    }
    let seen = seen.lock().expect("not poisoned");
    assert_eq!((seen.requests.len(), seen.connections), (3, 1));
}

#[tokio::test]
async fn a_follower_redirects_to_the_leader() {
    static LEADER: std::sync::OnceLock<SocketAddr> = std::sync::OnceLock::new();
    let (leader, _) = serve(master).await;
    LEADER.set(leader).expect("set once");
    let follower: Reply = |_, _| {
        let location = format!("//{}/master/api/v1", LEADER.get().expect("set"));
        Response::builder().status(307).header("Location", location).body(Full::default()).expect("valid")
    };
    let (follower, _) = serve(follower).await;
    operator(follower).get_agents().await.expect("answered by the leader");
}

#[tokio::test]
async fn the_operator_hears_events_but_no_heartbeats() {
    let (address, _) = serve(master).await;
    let mut events = operator(address).subscribe().await.expect("subscribed");
    assert_eq!(events.next().await.expect("an event").r#type(), event::Type::Subscribed);
    assert_eq!(events.next().await.expect("an event").r#type(), event::Type::TaskAdded);
    assert!(events.next().await.is_err(), "the stream has ended");
}

#[tokio::test]
async fn files_of_an_agent() {
    let reply: Reply = |what, _| match what {
        "GET /files/read?path=/sand%20box/stdout&offset=3&length=10" => {
            answer(StatusCode::OK, r#"{"data":"hello\n","offset":3}"#)
        }
        "GET /files/read?path=/sand%20box/stdout&offset=-1" => {
            answer(StatusCode::OK, r#"{"data":"","offset":9}"#)
        }
        _ => answer(StatusCode::NOT_FOUND, ""),
    };
    let (address, seen) = serve(reply).await;
    let agent = AgentClient::new(&address.to_string(), None);
    assert_eq!(agent.file_size("/sand box/stdout").await.expect("a size"), 9);
    assert_eq!(agent.read_file("/sand box/stdout", 3, 10).await.expect("text"), "hello\n");
    let missing = agent.read_file("/etc/passwd", 0, 10).await;
    assert!(matches!(missing, Err(CallError::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND));
    assert_eq!(seen.lock().expect("not poisoned").connections, 1);
}
