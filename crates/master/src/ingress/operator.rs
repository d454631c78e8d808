//! `POST /api/v1`: the operator API's reads, TEARDOWN, and the stream of events that SUBSCRIBE opens.
use super::{
    Reader, Refused, Shared, answer, body, header, heartbeat::Heartbeat, legacy::Version, teardown::tear_down,
};
use crate::{
    operator::{self, get_state},
    streams::Stream,
    views::metrics::snapshot,
};
use axum::{
    body::Body,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bellows_kernel::master::State;
use bellows_model::FrameworkId;
use bellows_runtime::{
    Disconnect, Share,
    outbox::{Inbox, outbox},
};
use bellows_wire::{
    media::{self, Encoding},
    v1::{
        Flag, Metric, VersionInfo, maintenance,
        master::{
            Call, Event, call,
            event::{self, Subscribed},
            response::{self, Type as Answer},
        },
        quota,
    },
};
use bytes::Bytes;
use std::{convert::Infallible, sync::Arc};

pub(super) async fn call(shared: &Arc<Shared>, request: Request) -> Result<Response, Refused> {
    let encoding = media::content_type(header(&request, "content-type"))?;
    let answer_in = media::accept(header(&request, "accept"))?;
    let disconnect = request.extensions().get::<Disconnect>().cloned();
    let (share, of_answer) = (Arc::new(shared.share(&request)), shared.share(&request));
    let unread = shared.share(&request);
    let body = body(request, shared.max_body_bytes, &share).await?;
    let same = |call: Call, _| Ok::<_, Refused>(call);
    let call = shared.decoders.decode(encoding, body, &share, same).await?;
    let kind = call.r#type();
    match kind {
        call::Type::Unknown => Err(missing("type")),
        call::Type::Subscribe => watch(shared, answer_in, disconnect, of_answer, unread).await,
        call::Type::Teardown => {
            let teardown = call.teardown.ok_or_else(|| missing("teardown"))?;
            tear_down(shared, FrameworkId::from(teardown.framework_id.value)).await
        }
        // This master has no files to show.
        call::Type::ListFiles | call::Type::ReadFile => Err(Refused::new(StatusCode::NOT_FOUND, "")),
        _ => {
            let reader = shared.reader(of_answer.peer())?;
            let read = read(shared, &reader, kind).await?;
            let body = reader.write(move || answer_in.encode(&read)).await?;
            answer(of_answer, answer_in.media_type(), body)
        }
    }
}

fn missing(field: &str) -> Refused {
    Refused::bad_request(format!("Failed to validate master::Call: Expecting '{field}' to be present"))
}

async fn read(
    shared: &Shared,
    reader: &Reader,
    kind: call::Type,
) -> Result<bellows_wire::v1::master::Response, Refused> {
    use bellows_wire::v1::master::Response;
    let mut answer = Response::default();
    let kind = match kind {
        call::Type::GetHealth => {
            let healthy = shared.driver.is_alive().await;
            answer.get_health = Some(response::GetHealth { healthy });
            Answer::GetHealth
        }
        call::Type::GetFlags => {
            let flag = |(name, value): &(&str, String)| Flag {
                name: (*name).to_owned(),
                value: Some(value.clone()),
            };
            answer.get_flags = Some(response::GetFlags { flags: shared.flags.iter().map(flag).collect() });
            Answer::GetFlags
        }
        call::Type::GetVersion => {
            let version = Version::new(&shared.identity);
            answer.get_version = Some(response::GetVersion {
                version_info: VersionInfo {
                    version: version.version.to_owned(),
                    build_date: Some(version.build_date),
                    build_time: Some(version.build_time),
                    build_user: Some(version.build_user.to_owned()),
                    ..Default::default()
                },
            });
            Answer::GetVersion
        }
        call::Type::GetMetrics => {
            let (copied, started) = (reader.copy(shared).await?, shared.identity.started);
            let snapshot = reader.write(move || snapshot(&copied, started)).await?;
            let metric = |(name, value): (&str, f64)| Metric { name: name.to_owned(), value: Some(value) };
            let metrics = snapshot.values().into_iter().map(metric).collect();
            answer.get_metrics = Some(response::GetMetrics { metrics });
            Answer::GetMetrics
        }
        call::Type::GetLoggingLevel => {
            answer.get_logging_level = Some(response::GetLoggingLevel { level: 0 });
            Answer::GetLoggingLevel
        }
        call::Type::GetState => {
            answer.get_state = Some(of_state(shared, reader, get_state).await?);
            Answer::GetState
        }
        call::Type::GetAgents => {
            answer.get_agents = Some(of_state(shared, reader, operator::get_agents).await?);
            Answer::GetAgents
        }
        call::Type::GetFrameworks => {
            answer.get_frameworks = Some(of_state(shared, reader, operator::get_frameworks).await?);
            Answer::GetFrameworks
        }
        call::Type::GetExecutors => {
            answer.get_executors = Some(of_state(shared, reader, operator::get_executors).await?);
            Answer::GetExecutors
        }
        call::Type::GetTasks => {
            answer.get_tasks = Some(of_state(shared, reader, operator::get_tasks).await?);
            Answer::GetTasks
        }
        call::Type::GetRoles => {
            answer.get_roles = Some(of_state(shared, reader, operator::get_roles).await?);
            Answer::GetRoles
        }
        call::Type::GetMaster => {
            let started = Some(shared.identity.started.as_secs_f64());
            answer.get_master = Some(response::GetMaster {
                master_info: Some(shared.identity.master_info()),
                start_time: started,
                elected_time: started,
            });
            Answer::GetMaster
        }
        // What no operator of this master can have set is empty.
        call::Type::GetOperations => {
            answer.get_operations = Some(response::GetOperations::default());
            Answer::GetOperations
        }
        call::Type::GetWeights => {
            // Mesos leaves out an empty list together with its frame.
            let weights = of_state(shared, reader, operator::get_weights).await?;
            answer.get_weights = Some(weights).filter(|weights| !weights.weight_infos.is_empty());
            Answer::GetWeights
        }
        call::Type::GetQuota => {
            answer.get_quota = Some(response::GetQuota { status: quota::QuotaStatus::default() });
            Answer::GetQuota
        }
        call::Type::GetMaintenanceStatus => {
            let status = maintenance::ClusterStatus::default();
            answer.get_maintenance_status = Some(response::GetMaintenanceStatus { status });
            Answer::GetMaintenanceStatus
        }
        call::Type::GetMaintenanceSchedule => {
            let schedule = maintenance::Schedule::default();
            answer.get_maintenance_schedule = Some(response::GetMaintenanceSchedule { schedule });
            Answer::GetMaintenanceSchedule
        }
        other => return Err(Refused::not_supported(other.as_str_name())),
    };
    answer.r#type = Some(kind.into());
    Ok(answer)
}

async fn of_state<T: Send + 'static>(
    shared: &Shared,
    reader: &Reader,
    read: fn(&State) -> T,
) -> Result<T, Refused> {
    let copied = reader.copy(shared).await?;
    reader.write(move || read(&copied.state)).await
}

async fn watch(
    shared: &Shared,
    encoding: Encoding,
    disconnect: Option<Disconnect>,
    of_state: Share,
    unread: Share,
) -> Result<Response, Refused> {
    let disconnect = disconnect.ok_or_else(|| Refused::bad_request("Not on a connection"))?;
    let (peer, reader) = (unread.peer(), shared.reader(unread.peer())?);
    let (outbox, inbox) = outbox(shared.max_unread_bytes, Some(unread));
    let watcher = Stream::new(outbox, peer, disconnect);
    let copied = reader.in_time(shared.driver.snapshot_and_watch(Some(watcher))).await???;
    let interval = shared.heartbeat.as_secs_f64();
    let subscribed = move || {
        encoding.encode_record(&Event {
            r#type: Some(event::Type::Subscribed.into()),
            subscribed: Some(Subscribed {
                get_state: Some(get_state(&copied.state)),
                heartbeat_interval_seconds: Some(interval),
            }),
            ..Default::default()
        })
    };
    let subscribed = reader.write(subscribed).await?;
    if !of_state.grow(subscribed.len()) {
        return Err(Refused::no_room());
    }
    let events = Events {
        subscribed: Some(subscribed),
        of_state: Some(of_state),
        heartbeat: Heartbeat::every(shared.heartbeat),
        inbox,
        encoding,
    };
    let body = Body::from_stream(futures::stream::unfold(events, |mut events| async move {
        let record = events.next().await?;
        Some((Ok::<_, Infallible>(record), events))
    }));
    Ok(([("content-type", encoding.media_type())], body).into_response())
}

struct Events {
    /// Until it is told.
    subscribed: Option<Bytes>,
    /// Its memory, until the next event is asked for.
    of_state: Option<Share>,
    heartbeat: Heartbeat,
    inbox: Inbox<Arc<Event>>,
    encoding: Encoding,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(subscribed) = self.subscribed.take() {
            return Some(subscribed);
        }
        self.of_state = None;
        tokio::select! {
            biased;
            () = self.heartbeat.beat() => {
                let beat = Event { r#type: Some(event::Type::Heartbeat.into()), ..Default::default() };
                Some(self.encoding.encode_record(&beat))
            }
            event = self.inbox.next() => Some(self.encoding.encode_record(&*event?)),
        }
    }
}
