//! What tests start: the real shim, and an agent process that waits to be killed.
use bellows_agent::Config;
use bellows_containment::shim;
use bellows_election::{MasterAddress, detect};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == "shim" => std::process::exit(shim::main(rest)),
        Some((first, rest)) if first == "agent" => agent(rest),
        _ => std::process::exit(2),
    }
}

/// `agent WORK_DIR MASTER`: until it is killed.
fn agent(args: &[String]) {
    let [work_dir, master] = args else { std::process::exit(2) };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let master = detect(&MasterAddress::parse(master).expect("host:port"));
        let mut config = Config::new(([127, 0, 0, 1], 0).into(), master, work_dir);
        config.resources = "cpus:100;mem:100000;disk:1000".into();
        config.disk_check_interval = std::time::Duration::from_millis(20);
        let mut running = bellows_agent::start(config).await.expect("started");
        let error = running.ended().await;
        panic!("{error}");
    });
}
