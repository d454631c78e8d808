//! Java's `MesosSchedulerDriver` on this library, against a master that the test plays.

mod support;

use bellows_wire::v1::TaskState;
use bellows_wire::v1::master as operator;
use bellows_wire::v1::scheduler::{Call, call};
use bellows_wire::v1::task_status::Reason;
use support::Program;
use support::server::{Answer, Server, events};

type Master = Server<Call>;

/// A program that has registered as framework F-1, and its master.
async fn registered(implicit: bool) -> (Program, Master) {
    let mut master = Master::start().await;
    let mut program = started(&master, implicit, "-").await;
    master.next_call().await;
    master.send(&events::subscribed("F-1", 15.0));
    master.send(&events::heartbeat());
    expect_thread(&mut program).await;
    program.expect("registered F-1 m-1").await;
    (program, master)
}

async fn started(master: &Master, implicit: bool, framework: &str) -> Program {
    started_with(master, implicit, framework, &[]).await
}

async fn started_with(
    master: &Master,
    implicit: bool,
    framework: &str,
    environment: &[(&str, &str)],
) -> Program {
    let address = master.address.to_string();
    let arguments = [address.as_str(), if implicit { "true" } else { "false" }, framework];
    let mut program = Program::start("Probe", &arguments, environment).await;
    program.expect("ready").await;
    assert_eq!(program.ask("start").await, "DRIVER_RUNNING");
    program
}

async fn expect_thread(program: &mut Program) {
    program.expect("thread mesos-callbacks daemon=true loader=the program's own").await;
}

/// Ends the program without a word to the driver; the JVM has found nothing wrong.
async fn leave(program: Program) {
    let (status, errors) = program.end().await;
    assert!(status.success(), "{status}: {errors:?}");
}

#[tokio::test]
async fn says_its_version() {
    let mut program = Program::start("Probe", &[], &[]).await;
    program.expect("version 1.12.0").await;
    leave(program).await;
}

#[tokio::test]
async fn every_callback_arrives_in_order_on_one_thread() {
    let (mut program, master) = registered(true).await;
    master.send(&events::offers(["O-1".to_owned(), "O-2".to_owned()]));
    master.send(&events::rescind("O-2"));
    master.send(&events::update("T-1", TaskState::TaskRunning, None));
    master.send(&events::message("grüße".as_bytes()));
    master.send(&events::failure(Some("E-1"), Some(256)));
    master.send(&events::failure(None, None));
    program.expect("resourceOffers O-1@localhost,O-2@localhost").await;
    program.expect("offerRescinded O-2").await;
    program.expect("statusUpdate T-1 TASK_RUNNING uuid=false").await;
    program.expect("frameworkMessage E-1 S-1 grüße").await;
    program.expect("executorLost E-1 S-1 256").await;
    program.expect("slaveLost S-1").await;
    leave(program).await;
}

#[tokio::test]
async fn the_framework_is_subscribed_as_the_program_describes_it() {
    let mut master = Master::start().await;
    let program = started(&master, true, "-").await;
    let call = master.next_call().await;
    assert_eq!(call.framework_id, None);
    let framework = call.subscribe.expect("a SUBSCRIBE").framework_info;
    assert_eq!(framework.name, "probe");
    assert!(!framework.user.is_empty(), "who runs the program is filled in");
    assert!(!framework.hostname().is_empty(), "where it runs is filled in");
    assert_eq!(framework.failover_timeout(), 30.0);
    assert!(framework.checkpoint());
    assert_eq!(framework.roles, ["dev"]);
    assert_eq!(framework.capabilities.len(), 1);
    leave(program).await;
}

#[tokio::test]
async fn a_framework_that_uses_the_shuffle_service_says_so_in_a_label() {
    for (enabled, expected) in [(None, None), (Some("false"), None), (Some("true"), Some("true"))] {
        let mut master = Master::start().await;
        let environment: Vec<_> =
            enabled.iter().map(|enabled| ("PROBE_USES_SHUFFLE_SERVICE", *enabled)).collect();
        let program = started_with(&master, true, "-", &environment).await;
        let framework = master.next_call().await.subscribe.expect("a SUBSCRIBE").framework_info;
        let labels = framework.labels.unwrap_or_default().labels;
        let label = labels.iter().find(|label| label.key == "bellows.shuffle_service");
        assert_eq!(label.map(|label| label.value()), expected, "{enabled:?}: {labels:?}");
        leave(program).await;
    }
}

#[tokio::test]
async fn every_call_reaches_the_master() {
    let (mut program, mut master) = registered(false).await;
    for (command, kind) in [
        ("launch O-1 T-1", call::Type::Accept),
        ("launch-one O-2 T-2", call::Type::Accept),
        ("accept O-3 T-3", call::Type::Accept),
        ("decline O-4", call::Type::Decline),
        ("revive", call::Type::Revive),
        ("suppress", call::Type::Suppress),
        ("kill T-1", call::Type::Kill),
        ("message hello", call::Type::Message),
        ("reconcile T-9", call::Type::Reconcile),
        ("request", call::Type::Request),
    ] {
        assert_eq!(program.ask(command).await, "DRIVER_RUNNING", "{command}");
        let call = master.next_call().await;
        assert_eq!(call.r#type(), kind, "{command}");
        assert_eq!(call.framework_id.as_ref().expect("filled in").value, "F-1");
        let words: Vec<&str> = command.split(' ').collect();
        if let Some(accept) = &call.accept {
            assert_eq!(accept.offer_ids[0].value, words[1]);
            assert_eq!(accept.filters.as_ref().expect("given").refuse_seconds, Some(7.0));
            let task = &accept.operations[0].launch.as_ref().expect("a launch").task_infos[0];
            assert_eq!(task.task_id.value, words[2]);
            assert_eq!(task.agent_id.value, "S-1");
            assert_eq!(task.command.as_ref().expect("given").value(), "true");
        }
        if let Some(decline) = &call.decline {
            assert_eq!(decline.offer_ids[0].value, "O-4");
            assert_eq!(decline.filters.as_ref().expect("given").refuse_seconds, Some(7.0));
        }
        if let Some(kill) = &call.kill {
            assert_eq!(kill.task_id.value, "T-1");
        }
        if let Some(message) = &call.message {
            assert_eq!((&message.data[..], message.executor_id.value.as_str()), (&b"hello"[..], "E-1"));
        }
        if let Some(reconcile) = &call.reconcile {
            assert_eq!(reconcile.tasks[0].task_id.value, "T-9");
        }
        if let Some(request) = &call.request {
            assert_eq!(request.requests[0].agent_id.as_ref().expect("given").value, "S-1");
        }
    }
    // Explicit acknowledgements: none until the program asks for it.
    master.send(&events::update("T-1", TaskState::TaskRunning, Some(b"uuid-1")));
    program.expect("statusUpdate T-1 TASK_RUNNING uuid=true").await;
    assert_eq!(program.ask("revive").await, "DRIVER_RUNNING");
    assert_eq!(master.next_call().await.r#type(), call::Type::Revive);
    assert_eq!(program.ask("acknowledge").await, "DRIVER_RUNNING");
    let acknowledge = master.next_call().await.acknowledge.expect("an ACKNOWLEDGE");
    assert_eq!(&acknowledge.uuid[..], b"uuid-1");
    assert_eq!(acknowledge.agent_id.value, "S-1");
    leave(program).await;
}

#[tokio::test]
async fn updates_are_acknowledged_after_the_callback_and_only_with_a_uuid() {
    let (mut program, mut master) = registered(true).await;
    assert_eq!(program.ask("plan statusUpdate revive").await, "");
    master.send(&events::update("T-1", TaskState::TaskRunning, Some(b"uuid-1")));
    program.expect("statusUpdate T-1 TASK_RUNNING uuid=true").await;
    program.expect("in statusUpdate: DRIVER_RUNNING").await;
    assert_eq!(master.next_call().await.r#type(), call::Type::Revive);
    let acknowledge = master.next_call().await.acknowledge.expect("an ACKNOWLEDGE");
    assert_eq!(acknowledge.task_id.value, "T-1");
    assert_eq!(&acknowledge.uuid[..], b"uuid-1");
    master.send(&events::update("T-2", TaskState::TaskLost, None));
    program.expect("statusUpdate T-2 TASK_LOST uuid=false").await;
    assert_eq!(program.ask("suppress").await, "DRIVER_RUNNING");
    assert_eq!(master.next_call().await.r#type(), call::Type::Suppress);
    assert_eq!(program.ask("acknowledge").await, "threw java.lang.IllegalStateException");
    leave(program).await;
}

#[tokio::test]
async fn what_a_callback_throws_is_printed_and_aborts_the_driver() {
    let (mut program, mut master) = registered(true).await;
    assert_eq!(program.ask("joining").await, "");
    assert_eq!(program.ask("plan statusUpdate throw").await, "");
    master.send(&events::update("T-1", TaskState::TaskRunning, Some(b"uuid-1")));
    program.expect("statusUpdate T-1 TASK_RUNNING uuid=true").await;
    let reason = "Scheduler.statusUpdate has thrown java.lang.IllegalStateException: the test asked for it";
    program.expect(&format!("error {reason}")).await;
    program.expect("joined DRIVER_ABORTED").await;
    for command in ["revive", "start", "abort", "join"] {
        assert_eq!(program.ask(command).await, "DRIVER_ABORTED", "{command}");
    }
    assert!(master.no_call_waits(), "the update was not acknowledged");
    let (status, errors) = program.end().await;
    assert!(status.success());
    let aborted = format!("the driver is aborted: {reason}");
    assert!(errors.iter().any(|line| line.ends_with(&aborted)), "{errors:?}");
    assert!(errors.iter().any(|line| line.contains("at Probe.statusUpdate")), "its stack, too: {errors:?}");
}

#[tokio::test]
async fn an_error_callback_that_throws_ends_the_driver_all_the_same() {
    let (mut program, master) = registered(true).await;
    assert_eq!(program.ask("joining").await, "");
    assert_eq!(program.ask("plan error throw").await, "");
    master.send(&events::error("Framework has been removed"));
    program.expect("error Framework has been removed").await;
    program.expect("joined DRIVER_ABORTED").await;
    // The framework is gone, or another instance's: nobody is asked to end it.
    assert_eq!(program.ask("stop false").await, "DRIVER_ABORTED");
    let (status, errors) = program.end().await;
    assert!(status.success());
    let said = |what: &str| errors.iter().any(|line| line.contains(what));
    assert!(said("the driver is aborted: Framework has been removed"), "{errors:?}");
    assert!(!said("did not take the framework's end"), "{errors:?}");
}

#[tokio::test]
async fn what_became_of_an_accept_whose_answer_was_lost_is_asked() {
    let (mut program, mut master) = registered(true).await;
    let reconciled = |state, task| {
        let mut event = events::update(task, state, None);
        let status = &mut event.update.as_mut().expect("an update").status;
        status.reason = Some(Reason::Reconciliation.into());
        event
    };
    for (task, state) in [("T-1", TaskState::TaskLost), ("T-2", TaskState::TaskRunning)] {
        master.lose_answers();
        program.tell(&format!("launch O-1 {task}")).await;
        assert_eq!(master.next_call().await.r#type(), call::Type::Accept);
        program.expect_all(vec!["= DRIVER_RUNNING", "disconnected"]).await;
        assert_eq!(master.next_call().await.r#type(), call::Type::Subscribe);
        master.answer_calls(http::StatusCode::ACCEPTED);
        master.send(&events::subscribed("F-1", 15.0));
        program.expect("reregistered m-1").await;
        let asked = master.next_call().await.reconcile.expect("a RECONCILE").tasks;
        assert_eq!(asked.len(), 1, "what has ended is not asked about: {asked:?}");
        assert_eq!(asked[0].task_id.value, task);
        assert_eq!(asked[0].agent_id.as_ref().expect("given").value, "S-1");
        master.send(&reconciled(state, task));
        let state = state.as_str_name();
        program.expect(&format!("statusUpdate {task} {state} uuid=false REASON_RECONCILIATION")).await;
    }
    // Whoever heard of its end does not hear of it again.
    master.send(&reconciled(TaskState::TaskLost, "T-1"));
    master.send(&events::rescind("O-9"));
    program.expect("offerRescinded O-9").await;
    // Of a task that is gone, the answer to a KILL names the agent if the KILL does.
    assert_eq!(program.ask("kill T-1").await, "DRIVER_RUNNING");
    assert_eq!(master.next_call().await.kill.expect("a KILL").agent_id.expect("given").value, "S-1");
    leave(program).await;
}

#[tokio::test]
async fn tasks_of_an_accept_that_is_refused_end_with_a_reason_and_their_agent() {
    let (mut program, mut master) = registered(true).await;
    for (status, message, update) in [
        (400, "Failed to validate scheduler::Call", "TASK_ERROR uuid=false REASON_TASK_INVALID"),
        (413, "The body is too long", "TASK_ERROR uuid=false REASON_TASK_INVALID"),
        (403, "the policy does not let you", "TASK_ERROR uuid=false REASON_TASK_UNAUTHORIZED"),
        (403, "Framework is not subscribed", "TASK_LOST uuid=false REASON_MASTER_DISCONNECTED"),
    ] {
        master.answer_calls_with(http::StatusCode::from_u16(status).expect("a status"), message);
        program.tell("launch O-1 T-1").await;
        assert_eq!(master.next_call().await.r#type(), call::Type::Accept);
        // The refusal may be told before the call returns.
        program.expect_all(vec!["= DRIVER_RUNNING", &format!("statusUpdate T-1 {update}")]).await;
        if update.starts_with("TASK_ERROR") {
            // The subscription lives, and so do the offers.
            let declined = master.next_call().await.decline.expect("a DECLINE");
            assert_eq!(declined.offer_ids[0].value, "O-1");
        }
    }
    assert!(master.no_call_waits());
    let (_, errors) = program.end().await;
    let said =
        |what: &str| errors.iter().any(|line| line.contains("a task has failed") && line.contains(what));
    assert!(said("403 Forbidden: the policy does not let you"), "{errors:?}");
}

#[tokio::test]
async fn a_failed_task_is_logged_once_on_one_line() {
    let (mut program, mut master) = registered(true).await;
    assert_eq!(program.ask("launch O-1 T-1").await, "DRIVER_RUNNING");
    master.next_call().await;
    let mut failed = events::update("T-1", TaskState::TaskFailed, Some(b"uuid-1"));
    let message = "Command exited with status 127. Its stderr ends with: sh: 1: /x: not found\nb\x1b[2J";
    failed.update.as_mut().expect("an update").status.message = Some(message.to_owned());
    // An agent repeats what was not acknowledged.
    for _ in 0..2 {
        master.send(&failed);
        program.expect("statusUpdate T-1 TASK_FAILED uuid=true").await;
    }
    master.send(&events::update("T-2", TaskState::TaskKilled, Some(b"uuid-2")));
    program.expect("statusUpdate T-2 TASK_KILLED uuid=true").await;
    let (_, errors) = program.end().await;
    let lines: Vec<_> = errors.iter().filter(|line| line.contains("a task has failed")).collect();
    let [line] = lines[..] else { panic!("{errors:?}") };
    assert!(line.contains(r"status 127. Its stderr ends with: sh: 1: /x: not found\nb\u{1b}[2J"), "{line}");
    for part in ["task=T-1", "TASK_FAILED", "agent=S-1"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn an_aborted_framework_is_ended_by_an_operators_call() {
    let (mut program, master) = registered(true).await;
    assert_eq!(program.ask("abort").await, "DRIVER_ABORTED");
    assert_eq!(program.ask("join").await, "DRIVER_ABORTED");
    let mut master = Server::<operator::Call>::start_at(master.stop().await).await;
    program.tell("stop false").await;
    let call = master.next_call().await;
    assert_eq!(call.r#type(), operator::call::Type::Teardown);
    assert_eq!(call.teardown.expect("given").framework_id.value, "F-1");
    program.expect("= DRIVER_ABORTED").await;
    leave(program).await;
}

#[tokio::test]
async fn stopping_ends_the_framework_and_failing_over_does_not() {
    for failover in [false, true] {
        let (mut program, mut master) = registered(true).await;
        assert_eq!(program.ask("joining").await, "");
        program.tell(&format!("stop {failover}")).await;
        let mut answers = [program.line().await, program.line().await];
        answers.sort_unstable();
        assert_eq!(answers, ["= DRIVER_STOPPED", "joined DRIVER_STOPPED"]);
        if failover {
            assert!(master.no_call_waits());
        } else {
            assert_eq!(master.next_call().await.r#type(), call::Type::Teardown);
        }
        assert_eq!(program.ask("stop false").await, "DRIVER_STOPPED");
        assert_eq!(program.ask("revive").await, "DRIVER_STOPPED");
        leave(program).await;
    }
}

#[tokio::test]
async fn a_driver_may_be_stopped_from_a_callback() {
    let (mut program, mut master) = registered(true).await;
    assert_eq!(program.ask("plan resourceOffers stop false").await, "");
    master.send(&events::offers(["O-1".to_owned()]));
    program.expect("resourceOffers O-1@localhost").await;
    program.expect("in resourceOffers: DRIVER_STOPPED").await;
    assert_eq!(master.next_call().await.r#type(), call::Type::Teardown);
    assert_eq!(program.ask("join").await, "DRIVER_STOPPED");
    leave(program).await;
}

#[tokio::test]
async fn a_master_that_returns_is_told_the_framework_id() {
    let (mut program, master) = registered(true).await;
    let address = master.stop().await;
    program.expect("disconnected").await;
    // Launching while nobody leads: the task is lost, which the framework must hear.
    program.tell("launch O-1 T-1").await;
    let lost = "statusUpdate T-1 TASK_LOST uuid=false REASON_MASTER_DISCONNECTED";
    program.expect_all(vec!["= DRIVER_RUNNING", lost]).await;
    assert_eq!(program.ask("kill T-0").await, "DRIVER_RUNNING");
    assert_eq!(program.ask("revive").await, "DRIVER_RUNNING");
    let mut master = Master::start_at(address).await;
    let call = master.next_call().await;
    assert_eq!(call.framework_id.expect("known by now").value, "F-1");
    master.send(&events::subscribed("F-1", 15.0));
    program.expect("reregistered m-1").await;
    // The revive was not forgotten; the kill was dropped, as by Mesos.
    assert_eq!(master.next_call().await.r#type(), call::Type::Revive);
    master.send(&events::offers(["O-2".to_owned()]));
    program.expect("resourceOffers O-2@localhost").await;
    leave(program).await;
}

#[tokio::test]
async fn a_framework_that_fails_over_is_registered() {
    let mut master = Master::start().await;
    let mut program = started(&master, true, "F-7").await;
    let call = master.next_call().await;
    assert_eq!(call.framework_id.expect("given").value, "F-7");
    master.send(&events::subscribed("F-7", 15.0));
    expect_thread(&mut program).await;
    program.expect("registered F-7 m-1").await;
    leave(program).await;
}

#[tokio::test]
async fn what_the_master_refuses_for_good_is_an_error() {
    let (mut program, master) = registered(true).await;
    master.send(&events::error("Framework has been removed"));
    program.expect("error Framework has been removed").await;
    assert_eq!(program.ask("join").await, "DRIVER_ABORTED");
    leave(program).await;

    let mut master = Master::start().await;
    master.answer_subscribe(Answer::Refuse(http::StatusCode::UNAUTHORIZED, "who are you?"));
    let mut program = started(&master, true, "-").await;
    master.next_call().await;
    expect_thread(&mut program).await;
    program.expect("error 401 Unauthorized: who are you?").await;
    assert_eq!(program.ask("join").await, "DRIVER_ABORTED");
    assert_eq!(program.ask("stop false").await, "DRIVER_ABORTED");
    leave(program).await;
}

#[tokio::test]
async fn a_bad_master_address_is_an_error_at_once() {
    let mut program = Program::start("Probe", &["zk://h:2181", "true", "-"], &[]).await;
    program.expect("ready").await;
    program.tell("start").await;
    // On the thread that starts the driver, as with Mesos.
    program.expect("thread main daemon=false loader=the program's own").await;
    let error = program.line().await;
    assert!(error.starts_with("error ") && error.contains("no path"), "{error}");
    program.expect("= DRIVER_ABORTED").await;
    assert_eq!(program.ask("join").await, "DRIVER_ABORTED");
    leave(program).await;
}

#[tokio::test]
async fn bad_arguments_become_exceptions() {
    let (mut program, _master) = registered(true).await;
    assert_eq!(program.ask("decline-null").await, "threw java.lang.NullPointerException");
    assert_eq!(program.ask("revive").await, "DRIVER_RUNNING");
    leave(program).await;
}

#[tokio::test]
async fn a_program_whose_main_method_returns_ends_with_a_live_driver() {
    let (mut program, _master) = registered(true).await;
    program.tell("return").await;
    leave(program).await;
}

#[tokio::test]
async fn a_driver_that_was_not_started_answers_so() {
    let master = Master::start().await;
    let address = master.address.to_string();
    let arguments = [address.as_str(), "true", "-"];
    let mut program = Program::start("Probe", &arguments, &[]).await;
    program.expect("ready").await;
    for command in ["stop false", "abort", "join", "revive", "launch O-1 T-1"] {
        assert_eq!(program.ask(command).await, "DRIVER_NOT_STARTED", "{command}");
    }
    leave(program).await;
}
