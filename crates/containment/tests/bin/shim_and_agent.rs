//! What tests launch: the real shim, and an agent process that starts one container and waits to be killed.
use bellows_containment::{Config, Containerizer, LaunchSpec, shim};
use bellows_model::ContainerId;
use std::{io::Write, path::PathBuf};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == "shim" => std::process::exit(shim::main(rest)),
        Some((first, rest)) if first == "agent" => agent(rest),
        _ => std::process::exit(2),
    }
}

/// `agent META_ROOT SANDBOX CONTAINER COMMAND`: prints the task's pid once it runs.
fn agent(args: &[String]) {
    let [meta_root, sandbox, container, command] = args else { std::process::exit(2) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let (containerizer, _exits) = Containerizer::new(Config::new(meta_root)).expect("meta root");
        let launched = containerizer.launch(LaunchSpec {
            container_id: ContainerId::from(container.as_str()),
            sandbox: PathBuf::from(sandbox),
            shell: true,
            value: command.clone(),
            arguments: Vec::new(),
            environment: Vec::new(),
            user: None,
        });
        let pid = launched.await.expect("launched").pid;
        writeln!(std::io::stdout(), "{pid}").expect("stdout is read");
        std::future::pending::<()>().await;
    });
}
