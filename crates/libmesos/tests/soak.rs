//! Ten thousand offers, each declined, leave nothing behind in the JVM's process.

mod support;

use bellows_wire::v1::scheduler::{Call, call};
use support::Program;
use support::server::{Server, events};

const OFFERS: usize = 10_000;
const OFFERS_PER_EVENT: usize = 20;
/// Below it: noise of the JVM's own compiler and code cache. A leak of one Java message for each offer would be more.
const ALLOWED_GROWTH_KB: u64 = 16 * 1024;

#[derive(Debug, PartialEq, Eq)]
struct References {
    global: u64,
    weak: u64,
}

#[tokio::test]
async fn ten_thousand_offers_leave_nothing_behind() {
    let mut master = Server::<Call>::start().await;
    let address = master.address.to_string();
    let mut program = Program::start("Probe", &[&address, "true", "-"], &[]).await;
    program.expect("ready").await;
    assert_eq!(program.ask("start").await, "DRIVER_RUNNING");
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    program.expect("thread mesos-callbacks daemon=true loader=the program's own").await;
    program.expect("registered F-1 m-1").await;

    // The first round loads and compiles what the second uses.
    let mut seen = 0;
    let mut round = async |program: &mut Program| {
        seen += OFFERS;
        assert_eq!(program.ask(&format!("quiet {seen}")).await, "");
        for event in 0..OFFERS / OFFERS_PER_EVENT {
            let first = seen + event * OFFERS_PER_EVENT;
            master.send(&events::offers((first..first + OFFERS_PER_EVENT).map(|id| format!("O-{id}"))));
        }
        program.expect(&format!("offers {seen}")).await;
        for _ in 0..OFFERS {
            assert_eq!(master.next_call().await.r#type(), call::Type::Decline);
        }
        let memory: u64 = program.ask("memory").await.parse().expect("a number of KB");
        (memory, references(program.id()))
    };
    let (memory_before, references_before) = round(&mut program).await;
    let (memory_after, references_after) = round(&mut program).await;
    eprintln!(
        "{OFFERS} offers: {memory_before} KB, {references_before:?} -> {memory_after} KB, {references_after:?}"
    );
    assert_eq!(references_after, references_before);
    assert!(memory_after < memory_before + ALLOWED_GROWTH_KB, "{memory_before} KB grew to {memory_after} KB");
    let (status, _) = program.end().await;
    assert!(status.success());
}

/// As the JVM counts them.
fn references(process: u32) -> References {
    let output = std::process::Command::new("jstack").arg(process.to_string()).output().expect("jstack runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("JNI global refs: ")).expect("counted");
    let (global, weak) = line.split_once(", weak refs: ").expect("both");
    References { global: global.parse().expect("a number"), weak: weak.parse().expect("a number") }
}
