//! Calls of the v1 scheduler API, in protobuf and JSON, one after the other at one master. Each is decoded in memory
//! that follows its length, and is an event or refused; after each step the kernel's invariants hold, every request is
//! answered once, and frameworks, agents and operators understand what they are told.
//!
//! Calls have `\n--\n` between them. A call's first byte says how it comes: see [`MODE`].
#![no_main]

use std::time::Duration;

use bellows_fuzz::decoding::decode;
use bellows_fuzz::master::Master;
use bellows_fuzz::{calls, within};
use bellows_kernel::master::Event;
use bellows_master::fuzzing::scheduler_event;
use bellows_model::StreamId;
use bellows_wire::bounds::allowed;
use bellows_wire::media::Encoding;
use bellows_wire::v1::{executor, scheduler};
use libfuzzer_sys::fuzz_target;

/// Bits of a call's first byte.
struct MODE;

impl MODE {
    const JSON: u8 = 1;
    const WRONG_STREAM: u8 = 2;
    /// Two bits: so much time has passed since the last call.
    const TIME: u8 = 4;
    /// The framework's connection broke before.
    const BROKEN: u8 = 16;
    /// It is an executor's call.
    const EXECUTOR: u8 = 128;
}

fuzz_target!(|data: &[u8]| {
    let mut master = Master::with_agent();
    for call in calls(data) {
        let Some((&mode, body)) = call.split_first() else { continue };
        let encoding = if mode & MODE::JSON == 0 { Encoding::Protobuf } else { Encoding::Json };
        if mode & MODE::EXECUTOR != 0 {
            decode::<executor::Call>(encoding, body);
            continue;
        }
        master.pass(Duration::from_secs([0, 1, 60, 1_000][usize::from(mode / MODE::TIME % 4)]));
        let Some(call) = decode::<scheduler::Call>(encoding, body) else { continue };
        let (request, new_stream) = master.request();
        let Some(mut event) = within(allowed(body.len()), || scheduler_event(call, request, new_stream))
        else {
            continue;
        };
        if let Event::Call { framework_id, stream, .. } = &mut event {
            if let Some(known) = master.streams.get(framework_id).cloned() {
                if mode & MODE::BROKEN != 0 {
                    master.take(Event::StreamClosed { stream: known.clone() });
                }
                *stream = known;
            }
            if mode & MODE::WRONG_STREAM != 0 {
                *stream = StreamId::from("another");
            }
        }
        master.take(event);
    }
    master.pass(Duration::from_secs(200));
    master.read();
});
