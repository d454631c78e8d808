use super::*;
use bellows_kernel::master::LinkId;
use bellows_model::{Reason, Resources, Source};
use std::sync::Arc;

fn agent(change: AgentChange) -> Action {
    let info = AgentInfo {
        id: Some("m-S0".into()),
        hostname: "node1".into(),
        ip: "10.0.0.1".into(),
        port: 5051,
        resources: Resources::parse("cpus:4;mem:6144").expect("test text"),
        attributes: Vec::new(),
        version: "0".into(),
    };
    Action::Note(Note::Agent { info: Arc::new(info), change })
}

fn framework_info(name: &str) -> FrameworkInfo {
    FrameworkInfo {
        id: Some("m-0001".into()),
        name: name.into(),
        user: "etl".into(),
        principal: None,
        roles: vec!["*".into()],
        hostname: "driver".into(),
        webui_url: None,
        failover_timeout: Duration::ZERO,
        checkpoint: true,
        capabilities: Vec::new(),
        labels: Vec::new(),
    }
}

fn framework(name: &str, change: FrameworkChange) -> Action {
    Action::Note(Note::Framework { info: Arc::new(framework_info(name)), change })
}

fn launch() -> Action {
    let task = TaskInfo {
        name: "0".into(),
        task_id: "0".into(),
        agent_id: "m-S0".into(),
        resources: Resources::parse("cpus:1").expect("test text"),
        command: None,
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    };
    let framework = Arc::new(framework_info("app"));
    Action::Tell { link: LinkId(1), command: AgentCommand::Launch { framework, task } }
}

fn status(state: TaskState, message: &str) -> TaskStatus {
    TaskStatus {
        task_id: "0".into(),
        state,
        source: Source::Executor,
        reason: Some(Reason::TaskInvalid),
        message: Some(message.into()).filter(|text: &String| !text.is_empty()),
        agent_id: Some("m-S0".into()),
        executor_id: None,
        timestamp: 0.0,
        uuid: None,
        container: None,
        data: None,
        healthy: None,
        labels: Vec::new(),
    }
}

fn updated(state: TaskState, message: &str) -> Action {
    let status = status(state, message);
    Action::Observe(Observation::TaskUpdated { framework_id: "m-0001".into(), status })
}

fn refused(message: &str) -> Action {
    let status = status(TaskState::Error, message);
    Action::Observe(Observation::TaskRefused { framework_id: "m-0001".into(), status })
}

#[test]
fn one_line_for_each_decision() {
    use {AgentChange as A, FrameworkChange as F, Level as L, TaskState as T};
    let secs = Duration::from_secs;
    const AGENT: &str = "agent m-S0 (node1, 10.0.0.1:5051)";
    const TASK: &str = "task 0 of framework m-0001 on agent m-S0";
    for (action, level, line) in [
        (agent(A::Added), L::INFO, format!("{AGENT} is added: cpus:4; mem:6144")),
        (agent(A::Back { tasks: 3 }), L::INFO, format!("{AGENT} is back, with 3 tasks")),
        (
            agent(A::Disconnected(secs(75))),
            L::INFO,
            format!("{AGENT} has lost its connection, and has 75 s to come back"),
        ),
        (agent(A::Unreachable("silent".into())), L::WARN, format!("{AGENT} is unreachable: silent")),
        (agent(A::Removed("it left".into())), L::INFO, format!("{AGENT} is removed: it left")),
        (
            framework("app", F::Subscribed),
            L::INFO,
            "framework m-0001 (app) has subscribed: user etl, at driver".into(),
        ),
        (framework("app", F::Back), L::INFO, "framework m-0001 (app) is back".into()),
        (
            framework("app", F::Recovered(secs(600))),
            L::INFO,
            "framework m-0001 (app) is known from an agent, and has 600 s to subscribe".into(),
        ),
        (
            framework("app", F::Disconnected(secs(5))),
            L::INFO,
            "framework m-0001 (app) has lost its connection, and has 5 s to come back".into(),
        ),
        (
            framework("a\n\x1b[2Jb", F::Removed("it\nended".into())),
            L::INFO,
            r"framework m-0001 (a\n\u{1b}[2Jb) is removed: it\nended".into(),
        ),
        (launch(), L::INFO, "task 0 of framework m-0001 is launched on agent m-S0: cpus:1".into()),
        (updated(T::Finished, ""), L::INFO, format!("{TASK} is TASK_FINISHED")),
        (updated(T::Killed, "removed"), L::INFO, format!("{TASK} is TASK_KILLED: removed")),
        (updated(T::Failed, "a\nb"), L::WARN, format!(r"{TASK} is TASK_FAILED: a\nb")),
        (updated(T::Unreachable, ""), L::WARN, format!("{TASK} is TASK_UNREACHABLE")),
        (refused("why"), L::WARN, format!("a task was refused: {TASK} is TASK_ERROR: why")),
        (Action::Warn("a\nb".into()), L::WARN, r"a\nb".into()),
    ] {
        assert_eq!(lines(&[action], true), [(level, line)]);
    }
}

#[test]
fn what_is_no_decision_has_no_line() {
    let quiet = [
        updated(TaskState::Running, ""),
        Action::Tell { link: LinkId(1), command: AgentCommand::Ping { seq: 1 } },
        Action::Observe(Observation::FrameworkAdded("m-0001".into())),
    ];
    assert_eq!(lines(&quiet, true), []);
}

#[test]
fn many_tasks_at_once_are_summed_up() {
    let count = |action: Action, most: usize, last: &str| {
        let lines = lines(&vec![action; 1_000], true);
        assert_eq!(lines.len(), most + 1, "{last}");
        assert_eq!(lines.last(), Some(&(Level::INFO, format!("{} more tasks {last}", 1_000 - most))));
    };
    count(launch(), MOST_TASKS, "were launched at the same time");
    count(updated(TaskState::Gone, ""), MOST_TASKS, "ended at the same time");
    count(refused(&"long ".repeat(1_000)), MOST_REFUSED, "were refused at the same time");
    let [(_, line), ..] = &lines(&[refused(&"long ".repeat(1_000))], true)[..] else { panic!("a line") };
    assert!(line.len() < 2 * MAX_MESSAGE_BYTES, "{}", line.len());
}

#[test]
fn who_wants_warnings_alone_gets_them() {
    use TaskState as T;
    let told =
        [launch(), updated(T::Finished, ""), updated(T::Killed, ""), updated(T::Failed, ""), refused("")];
    assert!(lines(&told, false).iter().all(|(level, _)| *level == Level::WARN));
    assert_eq!((lines(&told, false).len(), lines(&told, true).len()), (2, 5));
}
