//! Decoding takes memory in proportion to what arrived, whatever arrives: measured by an allocator that counts.
#![allow(unsafe_code, reason = "an allocator")]
#![allow(clippy::print_stdout, reason = "shows what it measured")]

use bellows_wire::{
    bounds::{MEMORY_OF_ANY, MEMORY_PER_BYTE, allowed},
    link,
    media::Encoding::{self, Json, Protobuf},
    v1::{agent, executor, master, scheduler},
};
use bytes::Bytes;
use prost::{Message, Name};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    fmt::Debug,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// One test at a time: what another one prepares would count, too.
static TURN: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is handed to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

/// The most that was taken at once while `work` ran.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (PEAK.load(Relaxed).saturating_sub(before), result)
}

/// What a decoder may take at the most: the message, its list while it grows into a larger block, and the text's bytes.
fn most(received: usize) -> usize {
    2 * allowed(received) + 8 * received
}

fn measure<T: Message + Name + Default + Debug>(what: &str, encoding: Encoding, body: Vec<u8>) {
    // The tables are made once.
    let _ = encoding.decode::<T>(Bytes::new());
    let length = body.len();
    let body = Bytes::from(body);
    let (peak, result) = peak(|| encoding.decode::<T>(body.clone()));
    let outcome = result.as_ref().map_or_else(ToString::to_string, |_| "taken".to_owned());
    println!("{what}: {length} bytes, {peak} bytes of memory, {} times: {outcome:.80}", peak / length.max(1));
    assert!(peak <= most(length), "{what}: {peak} bytes of memory for {length}");
}

fn protobuf_field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

const LENGTH: usize = 1 << 20;
/// Enough to tell a multiple, for what is tried at many places.
const SHORT: usize = 16 << 10;

/// Every field of every message on the way down, empty and repeated, down to `depth`.
fn hostile_protobuf() -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for number in 1..=20u32 {
        let empty = protobuf_field(number, b"");
        let many = empty.repeat(SHORT / empty.len());
        for outer in 1..=20u32 {
            bodies.push(protobuf_field(outer, &many));
            for middle in 1..=8u32 {
                bodies.push(protobuf_field(outer, &protobuf_field(middle, &many)));
            }
        }
        bodies.push(many);
    }
    bodies
}

fn measure_all<T: Message + Name + Default + Debug>(what: &str) {
    let _ = Protobuf.decode::<T>(Bytes::new());
    let mut worst = 0;
    for body in hostile_protobuf() {
        let length = body.len();
        let body = Bytes::from(body);
        let (peak, _) = peak(|| Protobuf.decode::<T>(body.clone()));
        worst = worst.max(peak / length);
        let head = body[..12].escape_ascii();
        assert!(peak <= most(length), "{what} {head}: {peak} bytes of memory for {length}");
    }
    println!("{what}: at most {worst} times");
}

#[test]
fn no_repeated_message_of_any_protobuf_call_multiplies_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    measure_all::<scheduler::Call>("scheduler's call");
    measure_all::<scheduler::Event>("scheduler's event");
    measure_all::<executor::Call>("executor's call");
    measure_all::<executor::Event>("executor's event");
    measure_all::<master::Call>("master's call");
    measure_all::<master::Response>("master's answer");
    measure_all::<master::Event>("master's event");
    measure_all::<agent::Call>("agent's call");
    measure_all::<agent::Response>("agent's answer");
    measure_all::<link::AgentMessage>("agent's message");
    measure_all::<link::MasterMessage>("master's message");
}

#[test]
fn an_accept_of_empty_operations_is_refused_before_it_is_built() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // What took 3.2 GB.
    let operations = b"\x12\x00".repeat(LENGTH / 2);
    let body = [b"\x18\x03".to_vec(), protobuf_field(4, &operations)].concat();
    let refused = Protobuf.decode::<scheduler::Call>(body.clone().into()).expect_err("refused");
    assert!(refused.to_string().contains("send fewer in one call"), "{refused}");
    measure::<scheduler::Call>("ACCEPT of empty operations", Protobuf, body);
}

#[test]
fn json_takes_as_little() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let fill = |head: &str, item: &str, tail: &str| {
        let items = vec![item; LENGTH / (item.len() + 1)].join(",");
        format!("{head}{items}{tail}").into_bytes()
    };
    let accept = r#"{"type":"ACCEPT","framework_id":{"value":"f"},"accept":{"operations":["#;
    for item in ["{}", "null", "1", "[]", r#"{"":0}"#, r#"{"launch":{}}"#, r#"{"launch":{"task_infos":{}}}"#]
    {
        measure::<scheduler::Call>(&format!("operations of {item}"), Json, fill(accept, item, "]}}"));
    }
    for (head, item, tail) in [
        ("[", "{}", "]"),
        ("[", "0", "]"),
        (r#"{"x":["#, r#"{"a":0}"#, "]}"),
        (r#"{"subscribe":{"framework_info":{"roles":["#, r#""a""#, "]}}}"),
        (r#"{"subscribe":{"framework_info":{"offer_filters":{"#, r#""a":{}"#, "}}}}"),
        (r#"{"reconcile":{"tasks":["#, "{}", "]}}"),
        ("{", r#""accept":{}"#, "}"),
    ] {
        measure::<scheduler::Call>(&format!("{head}{item}"), Json, fill(head, item, tail));
    }
    for open in ["[", r#"{"accept":"#, r#"{"a":["#] {
        measure::<scheduler::Call>(
            &format!("{open} nested"),
            Json,
            open.repeat(LENGTH / open.len()).into_bytes(),
        );
    }
    measure::<master::Call>("master's call", Json, fill("[", "{}", "]"));
    measure::<agent::Call>("agent's call", Json, fill(r#"{"type":["#, "{}", "]}"));
}

/// A launch of many tasks as small as they come, in one call: the largest honest multiple.
#[test]
fn honest_calls_are_far_below_the_bound() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let task = |number: usize| {
        format!(
            r#"{{"name":"t","task_id":{{"value":"task-{number}"}},"agent_id":{{"value":"S1"}},"command":{{"value":"true"}},"resources":[{{"name":"cpus","type":"SCALAR","scalar":{{"value":0.1}}}},{{"name":"mem","type":"SCALAR","scalar":{{"value":32}}}}]}}"#
        )
    };
    let operations: Vec<_> = (0..5_000)
        .map(|number| format!(r#"{{"type":"LAUNCH","launch":{{"task_infos":[{}]}}}}"#, task(number)))
        .collect();
    let body = format!(
        r#"{{"type":"ACCEPT","framework_id":{{"value":"f"}},"accept":{{"offer_ids":[{{"value":"o"}}],"operations":[{}]}}}}"#,
        operations.join(",")
    );
    let call: scheduler::Call = Json.decode(body.clone().into()).expect("5,000 tasks in one call");
    assert_eq!(call.accept.as_ref().expect("accept").operations.len(), 5_000);
    measure::<scheduler::Call>("5,000 tasks", Json, body.into_bytes());
    let body = Protobuf.encode(&call);
    assert!(Protobuf.decode::<scheduler::Call>(body.clone()).is_ok());
    measure::<scheduler::Call>("5,000 tasks", Protobuf, body.to_vec());
    println!("allowed: {MEMORY_OF_ANY} and {MEMORY_PER_BYTE} times the length");
}

/// Each of a million items lacks what is required; to name them all would take longer than all else.
#[test]
fn what_is_missing_is_named_a_few_times_only() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let field = |tag: u8, content: &[u8]| protobuf_field(tag.into(), content);
    let ranges = [10, 0].repeat(1 << 20);
    let resource = [field(1, b"ports"), vec![2 << 3, 1], field(4, &ranges)].concat();
    let info = [field(1, b"host"), field(3, &resource)].concat();
    let message = field(1, &[field(1, &info), field(2, b"1")].concat());
    let decode = |body: Vec<u8>| Protobuf.decode::<link::AgentMessage>(body.into());
    assert!(decode(field(1, &[])).is_err(), "the tables are made");
    let before = CALLS.load(Relaxed);
    let refused = decode(message).expect_err("ranges without ends").to_string();
    let calls = CALLS.load(Relaxed) - before;
    assert!(refused.contains("range[0].begin, ") && refused.len() < 4_096, "{refused}");
    assert!(calls < 1_000, "{calls} allocations");
}
