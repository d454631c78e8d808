use super::*;
use bellows_kernel::{
    Time,
    agent::{
        AgentCommand, Checkpoint, Config, Event, Exit, Job, LinkId, RecoveredContainer, StoredTask, WriteId,
        recover, step,
    },
};
use bellows_model::{
    AgentInfo, CommandInfo, ContainerId, ContainerStatus, FrameworkInfo, Resources, Source, TaskInfo,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const LINK: LinkId = LinkId(1);

fn config() -> Config {
    let info = AgentInfo {
        id: None,
        hostname: "node1".into(),
        ip: "10.0.0.1".into(),
        port: 5051,
        resources: Resources::parse("cpus:4;mem:6144").expect("test text"),
        attributes: Vec::new(),
        version: "0".into(),
    };
    Config::new(info, 1)
}

fn framework() -> Arc<FrameworkInfo> {
    Arc::new(FrameworkInfo {
        id: Some("m-0001".into()),
        name: "app".into(),
        user: "etl".into(),
        principal: None,
        roles: vec!["*".into()],
        hostname: "driver".into(),
        webui_url: None,
        failover_timeout: Duration::ZERO,
        checkpoint: true,
        capabilities: Vec::new(),
        labels: Vec::new(),
    })
}

fn task_info(id: &str) -> TaskInfo {
    TaskInfo {
        name: id.into(),
        task_id: id.into(),
        agent_id: "m-S0".into(),
        resources: Resources::parse("cpus:1").expect("test text"),
        command: Some(CommandInfo { shell: true, value: Some("true".into()), ..CommandInfo::default() }),
        executor: None,
        data: None,
        labels: Vec::new(),
        kill_grace: None,
        container: None,
        unsupported: None,
    }
}

fn stored(state: TaskState, message: &str) -> Action {
    let status = TaskStatus {
        task_id: "0".into(),
        state,
        source: Source::Executor,
        reason: None,
        message: Some(message.into()).filter(|text: &String| !text.is_empty()),
        agent_id: None,
        executor_id: None,
        timestamp: 0.0,
        uuid: None,
        container: Some(ContainerStatus {
            container_id: "c".into(),
            executor_pid: Some(42),
            ip_address: None,
        }),
        data: None,
        healthy: None,
        labels: Vec::new(),
    };
    Action::Store {
        write: WriteId(1),
        record: Record::Status { framework_id: "m-0001".into(), index: 0, status },
    }
}

fn stores(record: Record) -> Action {
    Action::Store { write: WriteId(1), record }
}

#[test]
fn one_line_for_each_decision() {
    use {Level as L, TaskState as T};
    let state = State::new(config(), Time(0));
    const TASK: &str = "task 0 of framework m-0001";
    let job = Job {
        framework: framework(),
        framework_id: "m-0001".into(),
        task: Arc::new(task_info("0")),
        container_id: "c".into(),
    };
    for (action, level, line) in [
        (stored(T::Running, ""), L::INFO, format!("{TASK} is launched: process 42, container c")),
        (stored(T::Finished, "status 0"), L::INFO, format!("{TASK} is TASK_FINISHED: status 0")),
        (stored(T::Killed, ""), L::INFO, format!("{TASK} is TASK_KILLED")),
        (
            stored(T::Failed, "no\n\x1b[31muser"),
            L::WARN,
            format!(r"{TASK} is TASK_FAILED: no\n\u{{1b}}[31muser"),
        ),
        (stored(T::Error, "bad"), L::WARN, format!("{TASK} is TASK_ERROR: bad")),
        (
            stores(Record::Killed { framework_id: "m-0001".into(), task_id: "0".into() }),
            L::INFO,
            format!("{TASK} is to end"),
        ),
        (
            stores(Record::Removal("m-0001".into())),
            L::INFO,
            "framework m-0001 has ended: its tasks end, then its files go".into(),
        ),
        (Action::Retire(job), L::INFO, format!("{TASK} has ended with its framework")),
    ] {
        assert_eq!(lines(&state, &[action]), [(level, line)]);
    }
    assert_eq!(lines(&state, &[stored(T::Starting, ""), Action::FindShuffle]), []);
    let many = lines(&state, &vec![stored(T::Failed, &"long ".repeat(1_000)); 1_000]);
    assert_eq!(many.len(), MOST_LINES + 1);
    assert!(
        many[0].1.len() < 2 * MAX_MESSAGE_BYTES && many[MOST_LINES].1.starts_with("900 more"),
        "{many:?}"
    );
}

/// The lines of a whole life, as an operator reads them.
#[test]
fn an_agents_life() {
    let framework = framework();
    let living = StoredTask {
        framework_id: "m-0001".into(),
        info: task_info("old"),
        container_id: "c-old".into(),
        killed: false,
        statuses: Vec::new(),
        acknowledged: 0,
    };
    let checkpoint = Checkpoint {
        agent_id: Some("m-S0".into()),
        frameworks: vec![(*framework).clone()],
        tasks: vec![living],
        removals: Vec::new(),
    };
    let found = BTreeMap::from([("c-old".into(), RecoveredContainer::Running { pid: 7 })]);
    let (mut state, actions) = recover(config(), Time(0), checkpoint, found);
    let mut told = lines(&state, &actions);
    let mut happens = |event: Event| {
        let before = Standing::of(&state);
        let actions = step(&mut state, Time(1), event);
        told.extend(standing_line(before, &state));
        told.extend(lines(&state, &actions));
        actions
    };
    let command = |command: AgentCommand| Event::Command { link: LINK, command: Box::new(command) };
    happens(Event::LinkOpened { link: LINK });
    happens(command(AgentCommand::Registered { agent_id: "m-S0".into() }));
    let actions =
        happens(command(AgentCommand::Launch { framework: Arc::clone(&framework), task: task_info("new") }));
    let (write, container_id): (WriteId, ContainerId) = actions
        .iter()
        .find_map(|action| match action {
            Action::Store { write, record: Record::Task { container_id, .. } } => {
                Some((*write, container_id.clone()))
            }
            _ => None,
        })
        .expect("the task is stored");
    happens(Event::Stored { upto: write });
    happens(Event::Fetched { container_id: container_id.clone() });
    happens(Event::Launched { container_id: container_id.clone(), pid: 42 });
    happens(Event::Exited { container_id, exit: Exit::Exited(1), stderr: "no such file".into() });
    happens(command(AgentCommand::ShutdownFramework { framework_id: "m-0001".into() }));
    happens(Event::Exited { container_id: "c-old".into(), exit: Exit::Signaled(15), stderr: String::new() });
    happens(command(AgentCommand::Refused { reason: "the agent\nunregistered".into() }));
    let told: Vec<_> = told.iter().map(|(level, line)| format!("{level} {line}")).collect();
    let [.., launched, failed, _, _, _] = &told[..] else { panic!("{told:#?}") };
    assert!(
        launched.contains("task new of framework m-0001 is launched: process 42, container "),
        "{told:#?}"
    );
    assert!(failed.starts_with("WARN task new of framework m-0001 is TASK_FAILED: "), "{told:#?}");
    assert!(failed.ends_with("Its stderr ends with: no such file"), "{told:#?}");
    assert_eq!(told[0], "INFO task old of framework m-0001 is launched: process 7, container c-old");
    assert_eq!(told[1], "INFO registered with the master as agent m-S0, with 1 tasks");
    assert_eq!(
        told[4..],
        [
            "INFO framework m-0001 has ended: its tasks end, then its files go",
            "INFO task old of framework m-0001 has ended with its framework",
            r"WARN the master will not have this agent any more: the agent\nunregistered",
        ]
    );
}
