//! What an agent says to a master, or a master to an agent: RecordIO records on a connection, however they are cut.
//! Each is decoded in memory that follows its length, and is an event or ends the connection, upon which there is
//! another one; after each step the kernel's invariants hold, and what comes of it is understood by its receiver.
//!
//! The first byte says which direction it is, how the bytes are cut, and how much time passes with each record.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use bellows_fuzz::agent::Agent;
use bellows_fuzz::decoding::decode;
use bellows_fuzz::master::Master;
use bellows_fuzz::within;
use bellows_kernel::master::{Event, LinkId};
use bellows_master::fuzzing::link_event;
use bellows_wire::bounds::allowed;
use bellows_wire::media::Encoding;
use bellows_wire::recordio::{DEFAULT_MAX_RECORD_BYTES, Decoder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, stream)) = data.split_first() else { return };
    let piece = [usize::MAX, 100, 7, 1][usize::from(mode / 2 % 4)];
    let time = Duration::from_millis([10, 1_000, 16_000, 100_000][usize::from(mode / 8 % 4)]);
    let records = records(stream, piece);
    if mode % 2 == 0 { to_master(&records, time) } else { to_agent(&records, time) }
});

fn records(stream: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new(DEFAULT_MAX_RECORD_BYTES);
    let mut records = Vec::new();
    // What has arrived, and a copy while it grows.
    let allowed = 4096 + 4 * stream.len();
    for piece in stream.chunks(piece) {
        within(allowed, || decoder.push(piece));
        loop {
            match within(allowed, || decoder.next_record()) {
                Ok(Some(record)) => records.push(record.to_vec()),
                Ok(None) => break,
                Err(_) => return records,
            }
        }
    }
    assert!(decoder.buffered() <= stream.len());
    records
}

fn to_master(records: &[Vec<u8>], time: Duration) {
    let mut master = Master::default();
    let peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
    let (mut link, mut registered) = (LinkId(master.number()), false);
    for record in records {
        master.pass(time);
        let event = decode(Encoding::Protobuf, record).ok_or_else(String::new).and_then(|message| {
            within(allowed(record.len()), || link_event(link, peer, &mut registered, message))
        });
        match event {
            Ok(Some(event)) => master.take(event),
            Ok(None) => {}
            Err(_) => {
                master.take(Event::LinkClosed { link });
                (link, registered) = (LinkId(master.number()), false);
            }
        }
    }
    master.read();
    master.pass(Duration::from_secs(200));
    master.read();
}

fn to_agent(records: &[Vec<u8>], time: Duration) {
    let mut agent = Agent::default();
    for record in records {
        agent.pass(time);
        let heard = decode(Encoding::Protobuf, record).is_some_and(|message| agent.hear(message));
        if agent.stopped {
            return;
        }
        if !heard {
            agent.connect();
        }
    }
    agent.pass(Duration::from_secs(200));
}
