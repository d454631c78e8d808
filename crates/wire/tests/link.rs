//! The master-agent stream: messages travel as records, in whatever pieces the connection makes of them.
#![allow(clippy::unwrap_used)]

use bellows_wire::{
    link::{AgentMessage, MasterMessage, Ping, Pong, Register, Registered, agent_message, master_message},
    recordio::{DEFAULT_MAX_RECORD_BYTES, Decoder, encode_message},
    v0,
    v1::{AgentId, AgentInfo},
};
use prost::Message;

fn delivered<T: Message + Default>(sent: &[T]) -> Vec<T> {
    let mut decoder = Decoder::new(DEFAULT_MAX_RECORD_BYTES);
    let mut got = Vec::new();
    for byte in sent.iter().flat_map(encode_message) {
        decoder.push(&[byte]);
        got.extend(decoder.next_record().unwrap().map(|record| T::decode(record).unwrap()));
    }
    decoder.finish().unwrap();
    got
}

#[test]
fn both_ways() {
    let agent_info = AgentInfo { hostname: "a".into(), ..Default::default() };
    let register = Register { agent_info, version: "1.0.0".into(), ..Default::default() };
    let to_master = [
        agent_message::Message::Register(register),
        // All of it default values, yet not lost.
        agent_message::Message::Pong(Pong { seq: 0 }),
    ]
    .map(|message| AgentMessage { message: Some(message) });
    assert_eq!(delivered(&to_master), to_master);

    let master_info = v0::master_info("m", "h", std::net::Ipv4Addr::LOCALHOST, 5050, "1.0.0");
    let agent_id = AgentId { value: "m-S0".into() };
    let to_agent = [
        master_message::Message::Registered(Registered {
            agent_id,
            master_info,
            ping_interval_seconds: 15.0,
            max_missed_pings: 5,
        }),
        master_message::Message::Ping(Ping { seq: 7 }),
    ]
    .map(|message| MasterMessage { message: Some(message) });
    assert_eq!(delivered(&to_agent), to_agent);
}
