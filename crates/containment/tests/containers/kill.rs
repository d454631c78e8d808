//! How a container ends: a kill reaches all its processes, after the grace that it was given.
use super::*;

#[tokio::test]
pub(super) async fn a_kill_reaches_the_whole_tree_and_leaves_it_time() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    // The grandchild is in a session of its own, and takes its time for a goodbye.
    let grandchild = r#"setsid sh -c 'trap "echo bye >> farewell; exit" TERM; echo $$ > grandchild; while :; do sleep 0.01; done' & "#;
    agent.launch(place.shell("tree", &format!("{grandchild} wait"))).await.expect("launched");
    let grandchild = place.reported_pid("grandchild").await;
    assert!(agent.usage(&"tree".into()).await.expect("runs").processes >= 2);
    assert!(agent.kill(&"tree".into(), FOR_EVER));
    assert_eq!(next_exit(&mut exits).await, signaled(15));
    assert!(!lives(grandchild));
    assert_eq!(fs::read_to_string(place.sandbox().join("farewell")).expect("it said goodbye"), "bye\n");
    assert!(!agent.kill(&"tree".into(), FOR_EVER), "nothing runs any more");
    assert!(agent.usage(&"tree".into()).await.is_none());
}

#[tokio::test]
pub(super) async fn who_ignores_term_is_killed_after_the_grace() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let stubborn = r#"trap "" TERM; setsid sh -c 'echo $$ > grandchild; while :; do sleep 1; done' & echo $$ > main; while :; do sleep 1; done"#;
    agent.launch(place.shell("stubborn", stubborn)).await.expect("launched");
    let (main, grandchild) = (place.reported_pid("main").await, place.reported_pid("grandchild").await);
    assert!(agent.kill(&"stubborn".into(), Duration::from_millis(30)));
    assert_eq!(next_exit(&mut exits).await, signaled(9));
    assert!(!lives(main) && !lives(grandchild));
}

#[tokio::test]
async fn a_second_kill_shortens_the_grace() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    agent
        .launch(place.shell("s", r#"trap "" TERM; echo $$ > main; while :; do sleep 1; done"#))
        .await
        .expect("launched");
    place.reported_pid("main").await;
    assert!(agent.kill(&"s".into(), FOR_EVER));
    assert!(agent.kill(&"s".into(), Duration::ZERO));
    assert_eq!(next_exit(&mut exits).await, signaled(9));
}

#[tokio::test]
async fn what_the_main_process_leaves_behind_goes_with_it() {
    let place = Place::new();
    let (agent, mut exits) = place.agent();
    let command = "setsid sh -c 'trap \"\" TERM HUP; echo $$ > daemon; while :; do sleep 1; done' & while ! [ -s daemon ]; do sleep 0.01; done; exit 3";
    agent.launch(place.shell("leaves", command)).await.expect("launched");
    assert_eq!(next_exit(&mut exits).await, exited(3));
    assert!(!lives(place.reported_pid("daemon").await));
}
