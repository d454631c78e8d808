//! Tasks and sandboxes of other users.
use super::*;
use bellows_containment::{Owner, Run, Sandboxes};
use std::path::Path;

#[tokio::test]
pub(super) async fn another_user_owns_its_files_and_has_no_more_rights() {
    if !root::may_switch_users("users::another_user_owns_its_files_and_has_no_more_rights") {
        return;
    }
    let nobody = Owner::resolve("nobody").expect("exists").expect("somebody else");
    let place = Place::new();
    for path in [place.dir.path(), &place.sandbox()] {
        rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o755)).expect("chmod");
    }
    std::os::unix::fs::chown(place.sandbox(), Some(nobody.uid), Some(nobody.gid)).expect("chown");
    let (agent, mut exits) = place.agent();
    let spec =
        LaunchSpec { user: Some(nobody.clone()), ..place.shell("user", "id -u; id -G; ! cat /etc/shadow") };
    agent.launch(spec).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(0));
    let groups: Vec<String> = nobody.groups.iter().map(u32::to_string).collect();
    assert_eq!(place.output(), format!("{}\n{}\n", nobody.uid, groups.join(" ")));
    assert_eq!(owner_of(&place.sandbox().join("stdout")), nobody.uid);
}

#[test]
fn a_sandbox_is_given_to_the_user() {
    if !root::may_switch_users("users::a_sandbox_is_given_to_the_user") {
        return;
    }
    let nobody = Owner::resolve("nobody").expect("exists").expect("somebody else");
    let dir = tempfile::tempdir().expect("temporary directory");
    let run = Run {
        agent_id: "S0".into(),
        framework_id: "F-0000".into(),
        executor_id: "0".into(),
        container_id: "c".into(),
    };
    let sandbox = Sandboxes::new(dir.path()).create(&run, Some(&nobody)).expect("created");
    assert_eq!(owner_of(&sandbox), nobody.uid);
}

fn owner_of(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).expect("exists"))
}

#[test]
fn the_directory_that_blocks_a_user_is_named_with_what_opens_it() {
    if !root::may_switch_users("users::the_directory_that_blocks_a_user_is_named_with_what_opens_it") {
        return;
    }
    let nobody = Owner::resolve("nobody").expect("exists").expect("somebody else");
    let dir = tempfile::tempdir().expect("temporary directory");
    let (blocks, inner) = (dir.path().join("blocks"), dir.path().join("blocks/a/b"));
    fs::create_dir_all(&inner).expect("made");
    let set = |path: &Path, mode: u32| {
        rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode)).expect("chmod");
    };
    set(dir.path(), 0o755);
    set(&blocks, 0o711);
    assert_eq!(nobody.may_reach(&inner), Ok(()));
    assert_eq!(Owner::anybody_may_reach(&inner), Ok(()));
    for (uid, gid, mode, command) in
        [(0, 0, 0o770, "chmod o+x"), (0, nobody.gid, 0o701, "chmod g+x"), (nobody.uid, 0, 0o671, "chmod u+x")]
    {
        std::os::unix::fs::chown(&blocks, Some(uid), Some(gid)).expect("chown");
        set(&blocks, mode);
        let blocked = nobody.may_reach(&inner).expect_err("blocked");
        assert_eq!((&blocked.dir, &blocked.path), (&blocks, &inner));
        assert!(blocked.to_string().contains(&format!("{command} {}", blocks.display())), "{blocked}");
    }
    set(&blocks, 0o711);
    set(&inner, 0o700);
    assert_eq!(nobody.may_reach(&inner).expect_err("the last one, too").dir, inner);
}
