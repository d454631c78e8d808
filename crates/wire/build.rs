//! Compiles the protocol's `.proto` files to Rust types and to the descriptors that JSON needs.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "mesos/v1/agent.proto",
        "mesos/v1/executor.proto",
        "mesos/v1/maintenance.proto",
        "mesos/v1/master.proto",
        "mesos/v1/quota.proto",
        "mesos/v1/scheduler.proto",
        "bellows/link.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?);
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&bare))?;
    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .enable_type_names()
        .include_file("protocol.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
