//! The same on kernels without pidfds and `close_range`, and under seccomp profiles that refuse them.
use super::{kill, launch, recovery, users};

#[test]
fn containers_work_where_newer_system_calls_are_refused() {
    bellows_testkit::on_older_machines(|| {
        launch::exit_statuses_and_output();
        launch::what_cannot_start_says_why_and_leaves_nothing();
        kill::a_kill_reaches_the_whole_tree_and_leaves_it_time();
        kill::who_ignores_term_is_killed_after_the_grace();
        recovery::a_task_outlives_its_agent_and_is_found_again();
        recovery::a_recovered_task_can_be_killed();
        recovery::an_exit_while_no_agent_ran_is_found();
        recovery::a_killed_shim_takes_its_tree_with_it();
        recovery::a_shim_killed_while_no_agent_ran_is_noticed();
        users::another_user_owns_its_files_and_has_no_more_rights();
    });
}
