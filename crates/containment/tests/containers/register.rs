//! The register file: what `recover` makes of its records, and how its slots are taken and given back.
use super::*;
use bellows_containment::{Recovered, RecoveredState};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use std::{
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
    process::Command,
};

/// What `recover` says of a container with this state in the register.
async fn recover_state(state: &str) -> Exit {
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    let record = format!(r#"{{"container_id":"c","state":{state}}}"#);
    fs::write(place.meta_root().join("containers"), format!("{:4096}{record:4096}", "")).expect("write");
    let (agent, _exits) = place.agent();
    match &agent.recover().await.expect("readable")[..] {
        [Recovered { state: RecoveredState::Ended(exit), .. }] => exit.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn records_of_strangers_and_of_other_boots_are_lost_tasks() {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id");
    let me = std::process::id();
    // This very process's pid with another start time: the shim's pid was given away. It must survive this test.
    let identity = format!(r#"{{"pid":{me},"start":1}}"#);
    let running = |boot_id: &str| {
        format!(r#"{{"Running":{{"boot_id":"{}","shim":{identity},"task":{identity}}}}}"#, boot_id.trim())
    };
    let (lost, not_started) = (ExitStatus::Lost, ExitStatus::NotStarted);
    for (state, status) in [
        (running(&boot_id), lost),
        (running("another boot"), lost),
        (r#""Starting""#.into(), not_started),
        (r#"{"Ended":{"Failed":"no such program"}}"#.into(), not_started),
    ] {
        let exit = recover_state(&state).await;
        assert_eq!(exit.status, status, "{state}");
        assert!(exit.reason.is_some(), "{state}");
    }
    assert_eq!(recover_state(r#"{"Ended":{"Exited":4}}"#).await, exited(4));
}

#[tokio::test]
async fn rubbish_in_the_register_is_an_empty_slot() {
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    fs::write(place.meta_root().join("containers"), format!("{:4096}{:5000}", "{\"container_id\":\"c", "\0"))
        .expect("write");
    let (agent, mut exits) = place.agent();
    assert!(agent.recover().await.expect("readable").is_empty());
    for id in ["a", "b", "c"] {
        agent.launch(place.shell(id, "exit 1")).await.expect("launched");
        assert_eq!(next_exit(&mut exits).await, exited(1));
    }
    assert_eq!(agent.recover().await.expect("readable").len(), 3);
}

#[tokio::test]
async fn a_shim_that_comes_too_late_starts_nothing() {
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    let register = place.meta_root().join("containers");
    let record = r#"{"container_id":"late","state":"Starting"}"#;
    fs::write(&register, format!("{record:4096}")).expect("write");
    let (agent, _exits) = place.agent();
    agent.recover().await.expect("abandons it");
    let instruction = format!(
        r#"{{"boot_id":"b","register":"{}","slot":0,"container_id":"late","sandbox":"{}","shell":true,
            "value":"touch ran","arguments":[],"environment":[],"user":null}}"#,
        register.display(),
        place.sandbox().display()
    );
    let (channel, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("sockets");
    let mut zygote = Command::new(EXE).arg("shim").stdin(theirs).spawn().expect("spawned");
    let (mut conversation, shims_end) = UnixStream::pair().expect("sockets");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let descriptors = [shims_end.as_fd()];
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&channel, &[IoSlice::new(b"!")], &mut rights, SendFlags::empty()).expect("sent");
    drop(shims_end);
    let (length, _) = recv(&channel, &mut [0; 8], RecvFlags::empty()).expect("answered");
    assert_eq!(length, 4, "its pid");
    conversation.write_all(instruction.as_bytes()).expect("written");
    conversation.shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut report = String::new();
    conversation.read_to_string(&mut report).expect("text");
    assert!(report.contains("given the container up"), "{report}");
    drop(channel);
    assert!(zygote.wait().expect("waited").success(), "it ends with its agent");
    assert!(!place.sandbox().join("ran").exists());
}

#[tokio::test]
async fn a_slot_is_used_again_once_it_is_forgotten() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    for round in 0..5 {
        let id = format!("round-{round}");
        agent.launch(place.shell(&id, "true")).await.expect("launched");
        assert_eq!(next_exit(&mut exits).await, exited(0));
        agent.forget(&id.into()).await.expect("forgotten");
    }
    assert_eq!(place.register().trim(), "");
    assert_eq!(place.register().len(), 4096);
}

#[tokio::test]
async fn a_full_disk_swallows_no_exit_status() {
    if !root::may_mount("register::a_full_disk_swallows_no_exit_status") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.meta_root()).expect("create");
    let meta_root = place.meta_root();
    let disk = root::SmallDisk::mount(&meta_root, "64k");
    // An agent keeps no records where everybody may write.
    rustix::fs::chmod(&meta_root, rustix::fs::Mode::RWXU).expect("chmod");
    let (agent, mut exits) = place.agent();
    let waits = "while ! [ -e go ]; do sleep 0.01; done; exit 6";
    agent.launch(place.shell("a", waits)).await.expect("launched");
    disk.fill();
    fs::write(place.sandbox().join("go"), "").expect("written");
    assert_eq!(next_exit(&mut exits).await, exited(6));
    let why = agent.launch(place.shell("b", "true")).await.expect_err("no place for a record").to_string();
    assert!(why.contains("containers") && why.contains("No space left"), "{why}");
}
