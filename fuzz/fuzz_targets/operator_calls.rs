//! What operators send: calls of the v1 operator APIs of master and agent, in protobuf and JSON, the form of
//! `/teardown`, and the paths of files. Each is decoded in memory that follows its length. No path leads out of the
//! sandboxes, and frameworks end as the kernel's invariants have it.
//!
//! Calls have `\n--\n` between them; a call's first byte says what it is.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use bellows_containment::FileRoot;
use bellows_fuzz::calls;
use bellows_fuzz::decoding::decode;
use bellows_fuzz::master::Master;
use bellows_fuzz::within;
use bellows_kernel::master::Event;
use bellows_master::fuzzing::named_framework;
use bellows_model::FrameworkId;
use bellows_wire::media::Encoding::{Json, Protobuf};
use bellows_wire::v1::{agent, master};
use libfuzzer_sys::fuzz_target;

/// A directory with a file and with links out of it.
static SANDBOX: LazyLock<FileRoot> = LazyLock::new(|| {
    let base = PathBuf::from("/dev/shm");
    let base = if base.is_dir() { base } else { std::env::temp_dir() };
    let outer = base.join(format!("bellows-fuzz-files-{}", std::process::id()));
    let inner = outer.join("slaves");
    std::fs::create_dir_all(inner.join("a")).expect("made");
    std::fs::write(outer.join("secret"), "secret").expect("written");
    std::fs::write(inner.join("a/stdout"), "said").expect("written");
    for (link, to) in [("up", ".."), ("root", "/"), ("self", "a"), ("s", "../secret")] {
        let _ = std::os::unix::fs::symlink(to, inner.join(link));
    }
    FileRoot::of_sandbox(&inner).expect("opened")
});

fuzz_target!(|data: &[u8]| {
    let mut cluster = Master::with_agent();
    for call in calls(data) {
        let Some((&kind, body)) = call.split_first() else { continue };
        match kind % 5 {
            0 => of_master(&mut cluster, decode(Protobuf, body)),
            1 => of_master(&mut cluster, decode(Json, body)),
            2 => of_agent(decode(Protobuf, body)),
            3 => of_agent(decode(Json, body)),
            _ => {
                let named = within(4_096 + 16 * body.len(), || named_framework(body));
                named.into_iter().for_each(|id| tear_down(&mut cluster, id));
            }
        }
    }
    cluster.read();
});

fn of_master(cluster: &mut Master, call: Option<master::Call>) {
    if let Some(teardown) = call.and_then(|call| call.teardown) {
        tear_down(cluster, FrameworkId::from(teardown.framework_id.value));
    }
}

fn tear_down(cluster: &mut Master, framework_id: FrameworkId) {
    let (request, _) = cluster.request();
    cluster.take(Event::OperatorTeardown { request, framework_id });
}

fn of_agent(call: Option<agent::Call>) {
    let Some(call) = call else { return };
    if let Some(list) = call.list_files
        && let Ok(entries) = SANDBOX.browse(&list.path)
    {
        assert!(entries.iter().all(|entry| entry.name != "secret"), "{} leads out", list.path);
    }
    if let Some(read) = call.read_file {
        let length = read.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        if let Ok(data) = SANDBOX.read(&read.path, read.offset, length.min(64 << 10)) {
            assert!(
                b"said".ends_with(&data) || b"said".windows(data.len()).any(|part| part == data),
                "{data:?}"
            );
        }
        if let Ok(size) = SANDBOX.size(&read.path) {
            assert!(size == 4, "{} leads out", read.path);
        }
    }
}
