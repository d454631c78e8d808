//! `POST /api/v1`: the operator API's reads, in JSON or protobuf.
use super::{API_VERSION, Refused, Shared, elsewhere, held, metrics, views};
use axum::{extract::Request, response::Response};
use bellows_kernel::agent::{Phase, State, Task};
use bellows_model::{DEFAULT_ROLE, FrameworkInfo};
use bellows_runtime::{BodyError, read_body};
use bellows_wire::{
    convert::{ResourceFormat, agent_to_wire, resources_to_wire},
    media, v1,
    v1::agent::{Call, Response as Answer, call::Type, response},
};
use http::{HeaderMap, HeaderName, StatusCode, header};
use std::sync::Arc;

const MAX_CALL_BYTES: usize = 1 << 20;

pub(super) async fn call(shared: &Arc<Shared>, request: Request) -> Result<Response, Refused> {
    let text = |headers: &HeaderMap, name: HeaderName| {
        headers.get(name).map(|value| value.to_str().unwrap_or_default().to_owned())
    };
    let given = text(request.headers(), header::CONTENT_TYPE);
    let accepted = text(request.headers(), header::ACCEPT);
    let given = media::content_type(given.as_deref()).map_err(refused)?;
    let (share, of_answer) = (shared.share(&request), shared.share(&request));
    let body = read_body(request.into_body(), MAX_CALL_BYTES, &share).await.map_err(unread)?;
    let call: Call = given.decode_if(body, |memory| share.grow(memory)).map_err(|error| match error {
        media::DecodeError::NoRoom => Refused::no_room(),
        error => Refused::bad_request(error.to_string()),
    })?;
    let accepted = media::accept(accepted.as_deref()).map_err(refused)?;
    let answer = answer(shared, call).await?;
    let encoded = elsewhere(move || accepted.encode(&answer)).await?;
    held(of_answer, accepted.media_type(), encoded)
}

fn unread(error: BodyError) -> Refused {
    let status = match error {
        BodyError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        BodyError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        BodyError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    Refused(status, error.to_string())
}

fn refused(refusal: media::Refusal) -> Refused {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    Refused(status, refusal.to_string())
}

async fn answer(shared: &Arc<Shared>, call: Call) -> Result<Answer, Refused> {
    use response::Type as T;
    let missing = |what: &str| {
        Refused::bad_request(format!("Failed to validate agent::Call: Expecting '{what}' to be present"))
    };
    let mut answer = Answer::default();
    let kind = match call.r#type() {
        Type::Unknown => return Err(missing("type")),
        Type::GetHealth => {
            let healthy = shared.driver.is_alive().await;
            answer.get_health = Some(response::GetHealth { healthy });
            T::GetHealth
        }
        Type::GetFlags => {
            let flag = |(name, value): (&&str, &String)| v1::Flag {
                name: (*name).to_owned(),
                value: Some(value.clone()),
            };
            answer.get_flags = Some(response::GetFlags { flags: shared.flags.iter().map(flag).collect() });
            T::GetFlags
        }
        Type::GetVersion => {
            let version_info = v1::VersionInfo { version: API_VERSION.to_owned(), ..Default::default() };
            answer.get_version = Some(response::GetVersion { version_info });
            T::GetVersion
        }
        Type::GetMetrics => {
            let snapshot = metrics::snapshot(shared).await?;
            let metric =
                |(name, value): (&str, f64)| v1::Metric { name: name.to_owned(), value: Some(value) };
            let metrics = snapshot.values().into_iter().map(metric).collect();
            answer.get_metrics = Some(response::GetMetrics { metrics });
            T::GetMetrics
        }
        Type::GetLoggingLevel => {
            answer.get_logging_level = Some(response::GetLoggingLevel { level: 0 });
            T::GetLoggingLevel
        }
        Type::ListFiles => {
            let path = call.list_files.ok_or_else(|| missing("list_files"))?.path;
            answer.list_files = Some(list_files(shared, &path).await?);
            T::ListFiles
        }
        Type::ReadFile => {
            let read = call.read_file.ok_or_else(|| missing("read_file"))?;
            let length =
                read.length.map_or(usize::MAX, |length| usize::try_from(length).unwrap_or(usize::MAX));
            let part = shared.files.part(&read.path, read.offset, length).await?;
            answer.read_file = Some(response::ReadFile { size: part.size, data: part.data.into() });
            T::ReadFile
        }
        Type::GetState => {
            answer.get_state = Some(whole(shared).await?);
            T::GetState
        }
        Type::GetContainers => {
            answer.get_containers = Some(containers(shared).await?);
            T::GetContainers
        }
        Type::GetFrameworks => {
            answer.get_frameworks = whole(shared).await?.get_frameworks;
            T::GetFrameworks
        }
        Type::GetExecutors => {
            answer.get_executors = whole(shared).await?.get_executors;
            T::GetExecutors
        }
        Type::GetTasks => {
            answer.get_tasks = whole(shared).await?.get_tasks;
            T::GetTasks
        }
        Type::GetOperations => {
            answer.get_operations = Some(response::GetOperations::default());
            T::GetOperations
        }
        Type::GetAgent => {
            let info = shared.driver.read(|state| {
                let mut info = state.config.info.clone();
                info.id.clone_from(&state.agent_id);
                info
            });
            let agent_info = Some(agent_to_wire(&info.await?));
            answer.get_agent = Some(response::GetAgent { agent_info, ..Default::default() });
            T::GetAgent
        }
        other => {
            let text = format!("{} is not supported by this agent", other.as_str_name());
            return Err(Refused(StatusCode::NOT_IMPLEMENTED, text));
        }
    };
    answer.set_type(kind);
    Ok(answer)
}

async fn list_files(shared: &Shared, path: &str) -> Result<response::ListFiles, Refused> {
    let base = path.trim_end_matches('/');
    let entries = shared.files.list(path).await?;
    let info = |entry: bellows_containment::FileEntry| v1::FileInfo {
        path: format!("{base}/{}", entry.name),
        nlink: i32::try_from(entry.nlink).ok(),
        size: Some(entry.size),
        mtime: Some(v1::TimeInfo { nanoseconds: entry.mtime.saturating_mul(1_000_000_000) }),
        mode: Some(entry.mode),
        uid: Some(entry.uid),
        gid: Some(entry.gid),
    };
    Ok(response::ListFiles { file_infos: entries.into_iter().map(info).collect() })
}

async fn whole(shared: &Shared) -> Result<response::GetState, Refused> {
    let copy = shared.driver.read(State::to_read).await?;
    elsewhere(move || state(&copy)).await
}

fn state(state: &State) -> response::GetState {
    let frameworks =
        |info: &FrameworkInfo| response::get_frameworks::Framework { framework_info: info.into() };
    let mut tasks = response::GetTasks::default();
    let mut executors = response::GetExecutors::default();
    let live = state.frameworks.values().flat_map(|it| it.tasks.values().map(|task| (&*it.info, task)));
    for (framework, task) in live {
        let (tasks, executors) = match task.phase {
            Phase::Ended => (&mut tasks.terminated_tasks, &mut executors.completed_executors),
            Phase::Running { .. } => (&mut tasks.launched_tasks, &mut executors.executors),
            _ => (&mut tasks.queued_tasks, &mut executors.executors),
        };
        tasks.push(task_of(framework, task));
        executors.push(executor_of(framework, task));
    }
    let completed = state
        .frameworks
        .values()
        .map(|it| (&it.info, &it.completed_tasks))
        .chain(state.completed_frameworks.iter().map(|it| (&it.info, &it.completed_tasks)));
    for (framework, completed) in completed {
        for task in completed {
            tasks.completed_tasks.push(task_of(framework, task));
            executors.completed_executors.push(executor_of(framework, task));
        }
    }
    response::GetState {
        get_tasks: Some(tasks),
        get_executors: Some(executors),
        get_frameworks: Some(response::GetFrameworks {
            frameworks: state.frameworks.values().map(|it| frameworks(&it.info)).collect(),
            completed_frameworks: state.completed_frameworks.iter().map(|it| frameworks(&it.info)).collect(),
        }),
    }
}

fn role(framework: &FrameworkInfo) -> &str {
    framework.roles.first().map_or(DEFAULT_ROLE, String::as_str)
}

fn task_of(framework: &FrameworkInfo, task: &Task) -> v1::Task {
    let latest = task.statuses.last();
    v1::Task {
        name: task.info.name.clone(),
        task_id: (&task.info.task_id).into(),
        framework_id: (&task.framework_id).into(),
        agent_id: (&task.info.agent_id).into(),
        state: v1::TaskState::from(task.latest_state()).into(),
        resources: resources_to_wire(&task.info.resources, Some(role(framework)), ResourceFormat::Refined),
        statuses: task.statuses.iter().map(Into::into).collect(),
        status_update_state: latest.map(|status| v1::TaskState::from(status.state).into()),
        status_update_uuid: latest.and_then(|status| status.uuid).map(|uuid| uuid.0.to_vec().into()),
        ..Default::default()
    }
}

fn executor_of(framework: &FrameworkInfo, task: &Task) -> response::get_executors::Executor {
    let mut command = task.info.command.as_ref().map(v1::CommandInfo::from);
    if let Some(command) = &mut command {
        // May hold secrets.
        command.environment = None;
    }
    let executor_info = v1::ExecutorInfo {
        executor_id: v1::ExecutorId { value: task.info.task_id.to_string() },
        framework_id: Some((&task.framework_id).into()),
        command,
        resources: resources_to_wire(&task.info.resources, Some(role(framework)), ResourceFormat::Refined),
        name: Some(views::executor_name(&task.info)),
        ..Default::default()
    };
    response::get_executors::Executor { executor_info }
}

async fn containers(shared: &Shared) -> Result<response::GetContainers, Refused> {
    let view = |container: views::Container| {
        let memory = (container.task.resources.mem().as_f64() * f64::from(1 << 20)) as u64;
        let container_id = v1::ContainerId::from(&container.container_id);
        response::get_containers::Container {
            framework_id: Some((&container.framework_id).into()),
            executor_id: Some(v1::ExecutorId { value: container.task.task_id.to_string() }),
            executor_name: Some(views::executor_name(&container.task)),
            container_id: container_id.clone(),
            container_status: Some(v1::ContainerStatus {
                container_id: Some(container_id),
                executor_pid: Some(container.pid),
                ..Default::default()
            }),
            resource_statistics: Some(v1::ResourceStatistics {
                timestamp: container.timestamp,
                cpus_user_time_secs: Some(container.usage.cpu_user_seconds),
                cpus_system_time_secs: Some(container.usage.cpu_system_seconds),
                cpus_limit: Some(container.task.resources.cpus().as_f64()),
                mem_rss_bytes: Some(container.usage.rss_bytes),
                mem_limit_bytes: Some(memory),
                processes: Some(container.usage.processes),
                ..Default::default()
            }),
        }
    };
    Ok(response::GetContainers { containers: views::running(shared).await?.into_iter().map(view).collect() })
}
