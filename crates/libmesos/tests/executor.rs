//! Java's `MesosExecutorDriver` on this library, against an agent that the test plays.

mod support;

use bellows_wire::v1::executor::{Call, Event, call, event};
use bellows_wire::v1::{
    AgentInfo, ExecutorId, ExecutorInfo, FrameworkInfo, TaskId, TaskInfo, TaskState, task_status,
};
use bytes::Bytes;
use support::Program;
use support::server::Server;

type Agent = Server<Call>;

async fn started(agent: &Agent, checkpoint: bool) -> Program {
    let endpoint = agent.address.to_string();
    let environment = [
        ("MESOS_AGENT_ENDPOINT", endpoint.as_str()),
        ("MESOS_FRAMEWORK_ID", "F-1"),
        ("MESOS_EXECUTOR_ID", "E-1"),
        ("MESOS_SLAVE_ID", "S-1"),
        ("MESOS_CHECKPOINT", if checkpoint { "1" } else { "0" }),
        ("MESOS_RECOVERY_TIMEOUT", "15mins"),
        ("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "1hrs"),
    ];
    let mut program = Program::start("ExecutorProbe", &[], &environment).await;
    program.expect("ready").await;
    assert_eq!(program.ask("start").await, "DRIVER_RUNNING");
    program
}

async fn registered(checkpoint: bool) -> (Program, Agent) {
    let mut agent = Agent::start().await;
    let mut program = started(&agent, checkpoint).await;
    let call = agent.next_call().await;
    assert_eq!((call.framework_id.value.as_str(), call.executor_id.value.as_str()), ("F-1", "E-1"));
    agent.send(&subscribed());
    program.expect("registered E-1 probe localhost").await;
    (program, agent)
}

fn of_type(kind: event::Type) -> Event {
    Event { r#type: Some(kind.into()), ..Event::default() }
}

fn subscribed() -> Event {
    let executor_id = ExecutorId { value: "E-1".to_owned() };
    let subscribed = event::Subscribed {
        executor_info: ExecutorInfo { executor_id, ..ExecutorInfo::default() },
        framework_info: FrameworkInfo { name: "probe".to_owned(), ..FrameworkInfo::default() },
        agent_info: AgentInfo { hostname: "localhost".to_owned(), ..AgentInfo::default() },
        container_id: None,
    };
    Event { subscribed: Some(subscribed), ..of_type(event::Type::Subscribed) }
}

fn launch(task: &str) -> Event {
    let task = TaskInfo {
        name: task.to_owned(),
        task_id: TaskId { value: task.to_owned() },
        data: Some(Bytes::from_static(b"payload")),
        ..TaskInfo::default()
    };
    Event { launch: Some(event::Launch { task }), ..of_type(event::Type::Launch) }
}

fn acknowledged(task: &str, uuid: Bytes) -> Event {
    let task_id = TaskId { value: task.to_owned() };
    Event { acknowledged: Some(event::Acknowledged { task_id, uuid }), ..of_type(event::Type::Acknowledged) }
}

#[tokio::test]
async fn tasks_updates_and_messages() {
    let (mut program, mut agent) = registered(true).await;
    agent.send(&launch("T-1"));
    program.expect("launchTask T-1 payload").await;
    assert_eq!(program.ask("update T-1 TASK_RUNNING").await, "DRIVER_RUNNING");
    let status = agent.next_call().await.update.expect("an UPDATE").status;
    assert_eq!(status.state(), TaskState::TaskRunning);
    assert_eq!(status.source(), task_status::Source::Executor);
    assert_eq!(status.executor_id.expect("filled in").value, "E-1");
    assert_eq!(status.agent_id.expect("filled in").value, "S-1");
    assert_eq!(status.uuid.expect("filled in").len(), 16);
    assert_eq!(program.ask("message hello").await, "DRIVER_RUNNING");
    assert_eq!(&agent.next_call().await.message.expect("a MESSAGE").data[..], b"hello");
    let kill = event::Kill { task_id: TaskId { value: "T-1".to_owned() }, kill_policy: None };
    agent.send(&Event { kill: Some(kill), ..of_type(event::Type::Kill) });
    program.expect("killTask T-1").await;
    let message = event::Message { data: Bytes::from_static(b"to the executor") };
    agent.send(&Event { message: Some(message), ..of_type(event::Type::Message) });
    program.expect("frameworkMessage to the executor").await;
    agent.send(&of_type(event::Type::Shutdown));
    program.expect("shutdown").await;
    // How its tasks ended can still be told.
    assert_eq!(program.ask("update T-1 TASK_KILLED").await, "DRIVER_RUNNING");
    assert_eq!(agent.next_call().await.r#type(), call::Type::Update);
    assert_eq!(program.ask("stop").await, "DRIVER_STOPPED");
    assert_eq!(program.ask("join").await, "DRIVER_STOPPED");
    let (status, _) = program.end().await;
    assert!(status.success());
}

#[tokio::test]
async fn an_agent_that_returns_is_told_what_it_has_not_acknowledged() {
    let (mut program, mut agent) = registered(true).await;
    for task in ["T-1", "T-2"] {
        agent.send(&launch(task));
        program.expect(&format!("launchTask {task} payload")).await;
        assert_eq!(program.ask(&format!("update {task} TASK_RUNNING")).await, "DRIVER_RUNNING");
    }
    let first = agent.next_call().await.update.expect("an UPDATE").status;
    let second = agent.next_call().await.update.expect("an UPDATE").status;
    agent.send(&acknowledged("T-1", first.uuid.expect("filled in")));
    // What the agent sent before its end is heard: a callback proves it.
    agent.send(&launch("T-3"));
    program.expect("launchTask T-3 payload").await;
    let address = agent.stop().await;
    program.expect("disconnected").await;
    let mut agent = Agent::start_at(address).await;
    let subscribe = agent.next_call().await.subscribe.expect("a SUBSCRIBE");
    let tasks: Vec<_> =
        subscribe.unacknowledged_tasks.iter().map(|task| task.task_id.value.as_str()).collect();
    assert_eq!(tasks, ["T-2", "T-3"]);
    let updates: Vec<_> = subscribe.unacknowledged_updates.iter().map(|update| &update.status.uuid).collect();
    assert_eq!(updates, [&second.uuid]);
    agent.send(&subscribed());
    program.expect("reregistered localhost").await;
    let (status, _) = program.end().await;
    assert!(status.success());
}

#[tokio::test]
async fn without_checkpoints_a_lost_agent_is_the_end() {
    let (mut program, agent) = registered(false).await;
    agent.stop().await;
    program.expect("disconnected").await;
    program.expect("shutdown").await;
    assert_eq!(program.ask("stop").await, "DRIVER_STOPPED");
    let (status, _) = program.end().await;
    assert!(status.success());
}

#[tokio::test]
async fn an_executor_without_an_agent_hears_what_is_missing() {
    let mut program = Program::start("ExecutorProbe", &[], &[]).await;
    program.expect("ready").await;
    program.tell("start").await;
    program.expect("error Expecting 'MESOS_AGENT_ENDPOINT' to be set in the environment").await;
    program.expect("= DRIVER_ABORTED").await;
    assert_eq!(program.ask("join").await, "DRIVER_ABORTED");
    let (status, _) = program.end().await;
    assert!(status.success());
}
