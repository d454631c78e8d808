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
