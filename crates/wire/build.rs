//! Compiles the protocol's `.proto` files to Rust types, to the descriptors that JSON needs, and to the tables of
//! `src/schema.rs`.
#[path = "build/schema.rs"]
mod schema;

use std::path::PathBuf;

/// Large parts of what comes in great numbers, which are mostly absent: in a box they take no room then.
const BOXED: [&str; 12] = [
    "mesos.v1.Offer.Operation.launch_group",
    "mesos.v1.Offer.Operation.grow_volume",
    "mesos.v1.Offer.Operation.shrink_volume",
    "mesos.v1.Offer.Operation.create_disk",
    "mesos.v1.Offer.Operation.destroy_disk",
    "mesos.v1.TaskInfo.executor",
    "mesos.v1.TaskInfo.container",
    "mesos.v1.TaskInfo.health_check",
    "mesos.v1.TaskInfo.check",
    "mesos.v1.TaskInfo.discovery",
    "mesos.v1.ExecutorInfo.container",
    "mesos.v1.Resource.disk",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
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
    std::fs::write(out.join("schema.rs"), schema::tables(bare, &BOXED)?)?;
    let mut config = prost_build::Config::new();
    for field in BOXED {
        config.boxed(format!(".{field}"));
    }
    config
        .bytes(["."])
        .btree_map(["."])
        .enable_type_names()
        .include_file("protocol.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
