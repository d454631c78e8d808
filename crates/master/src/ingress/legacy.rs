//! The GETs: Mesos' legacy endpoints, Prometheus' `/metrics`, and the page.
use super::{Refused, Shared, answer, page};
use crate::{
    identity::{API_VERSION, Identity, authority},
    views::{
        cluster::{
            AgentsView, Flags, FrameworksView, RolesView, StateView, SummaryView, TaskQuery, TasksView,
            WeightsView,
        },
        metrics::{snapshot, without_state},
    },
};
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bellows_kernel::master::State;
use bellows_runtime::{
    Share,
    metrics::{PROMETHEUS_TYPE, Snapshot, system_stats},
};
use bytes::Bytes;
use serde::Serialize;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// A page of `/tasks` when nobody says how long; Mesos' default.
const TASK_LIMIT: usize = 100;

/// What can be asked for, `/master` and a last slash left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Page,
    PageStyle,
    PageScript,
    Version,
    Health,
    Flags,
    Redirect,
    State,
    StateSummary,
    Agents,
    Frameworks,
    Tasks,
    Roles,
    Weights,
    /// Quota and maintenance, which nobody can set here.
    EmptyObject,
    SystemStats,
    MetricsSnapshot,
    Metrics,
}

impl Path {
    pub(super) fn of(path: &str) -> Option<Self> {
        // Many clients still write these paths as Mesos had them first: `/state.json`.
        let plain = path.strip_suffix(".json").filter(|plain| plain.len() > 1).unwrap_or(path);
        Some(match plain {
            "" => Self::Page,
            "/page.css" => Self::PageStyle,
            "/page.js" => Self::PageScript,
            "/version" => Self::Version,
            "/health" => Self::Health,
            "/flags" => Self::Flags,
            "/redirect" => Self::Redirect,
            "/state" => Self::State,
            "/state-summary" => Self::StateSummary,
            "/slaves" => Self::Agents,
            "/frameworks" => Self::Frameworks,
            "/tasks" => Self::Tasks,
            "/roles" => Self::Roles,
            "/weights" => Self::Weights,
            "/quota" | "/maintenance/schedule" | "/maintenance/status" => Self::EmptyObject,
            "/system/stats" => Self::SystemStats,
            "/metrics/snapshot" => Self::MetricsSnapshot,
            "/metrics" => Self::Metrics,
            _ => return None,
        })
    }
}

pub(super) async fn get(
    shared: &Arc<Shared>,
    path: Path,
    query: &HashMap<String, String>,
    share: Share,
) -> Result<Response, Refused> {
    let only = |name: &str| query.get(name).cloned();
    match path {
        Path::Page => Ok(page::html()),
        Path::PageStyle => Ok(page::style()),
        Path::PageScript => Ok(page::script()),
        Path::Version => Ok(json(&Version::new(&shared.identity))),
        Path::Health if shared.driver.is_alive().await => Ok(StatusCode::OK.into_response()),
        Path::Health => {
            let text = "The master's driver does not answer";
            Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text))
        }
        Path::Flags => {
            #[derive(Serialize)]
            struct Body<'a> {
                flags: Flags<'a>,
            }
            Ok(json(&Body { flags: Flags(&shared.flags) }))
        }
        Path::Redirect => {
            let leader = shared.leadership.leader();
            let location = format!("//{}", authority(&leader.hostname, leader.port));
            Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response())
        }
        Path::State => {
            let own = Arc::clone(shared);
            let state = move |state: &State| {
                to_vec(&StateView::new(state, &own.identity, own.leadership.leader(), &own.flags))
            };
            of_state(shared, share, Some("state"), state).await
        }
        Path::StateSummary => {
            let identity = Arc::clone(&shared.identity);
            let summary = move |state: &State| to_vec(&SummaryView::new(state, &identity));
            of_state(shared, share, Some("state-summary"), summary).await
        }
        Path::Agents => {
            let only = only("slave_id").or_else(|| only("agent_id"));
            let name = only.is_none().then_some("slaves");
            of_state(shared, share, name, move |state| to_vec(&AgentsView::new(state, only.as_deref()))).await
        }
        Path::Frameworks => {
            let only = only("framework_id");
            let name = only.is_none().then_some("frameworks");
            let view = move |state: &State| to_vec(&FrameworksView::new(state, only.as_deref()));
            of_state(shared, share, name, view).await
        }
        Path::Tasks => {
            let query = task_query(query)?;
            of_state(shared, share, None, move |state| to_vec(&TasksView::new(state, &query))).await
        }
        Path::Roles => of_state(shared, share, Some("roles"), |state| to_vec(&RolesView::new(state))).await,
        Path::Weights => of_state(shared, share, Some("weights"), |state| to_vec(&WeightsView(state))).await,
        Path::EmptyObject => Ok(json(&serde_json::Map::new())),
        Path::SystemStats => Ok(json(&system_stats())),
        Path::MetricsSnapshot => {
            let patience = query.get("timeout").map(String::as_str);
            let patience = bellows_runtime::metrics::patience(patience).map_err(Refused::bad_request)?;
            let body = metrics(shared, &share, patience, |snapshot| snapshot.json().to_string()).await?;
            answer(share, "application/json", body.into())
        }
        Path::Metrics => match metrics(shared, &share, None, Snapshot::prometheus).await? {
            Ok(body) => answer(share, PROMETHEUS_TYPE, body.into()),
            Err(error) => {
                let text = format!("Cannot write the metrics: {error}");
                Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text))
            }
        },
    }
}

/// `/version`, and the beginning of `/state`.
#[derive(Debug, Serialize)]
pub(crate) struct Version {
    pub(crate) build_date: String,
    pub(crate) build_time: f64,
    pub(crate) build_user: &'static str,
    /// Mesos' whose API this is. Clients read it as integers with dots between.
    pub(crate) version: &'static str,
    /// Bellows' own.
    pub(crate) bellows_version: &'static str,
}

impl Version {
    pub(crate) fn new(identity: &Identity) -> Self {
        let built = identity.built.unwrap_or_default();
        Self {
            build_date: utc(built.as_secs()),
            build_time: built.as_secs_f64(),
            build_user: "bellows",
            version: API_VERSION,
            bellows_version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// `2026-11-22 07:45:00 UTC`
fn utc(secs: u64) -> String {
    // Days to a civil date, with the year counted from March: Howard Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms".
    let (days, time) = (secs / 86_400 + 719_468, secs % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn task_query(query: &HashMap<String, String>) -> Result<TaskQuery, Refused> {
    let number = |name: &str, default: usize| match query.get(name).map(|text| (text, text.parse::<i64>())) {
        None => Ok(default),
        // As Mesos reads it: less than nothing is without end.
        Some((_, Ok(number))) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        Some((text, Err(_))) => {
            Err(Refused::bad_request(format!("Failed to parse '{name}': '{text}' is no number")))
        }
    };
    Ok(TaskQuery {
        limit: number("limit", TASK_LIMIT)?,
        offset: number("offset", 0)?,
        ascending: query.get("order").is_some_and(|order| order == "asc"),
        framework_id: query.get("framework_id").cloned(),
        task_id: query.get("task_id").cloned(),
    })
}

/// Makes something of the metrics. Who will not wait longer gets those that take no time.
async fn metrics<T: Send + 'static>(
    shared: &Shared,
    share: &Share,
    patience: Option<Duration>,
    make: fn(Snapshot) -> T,
) -> Result<T, Refused> {
    let started = shared.identity.started;
    if patience == Some(Duration::ZERO) {
        return Ok(make(without_state(started)));
    }
    let all = async {
        let reader = shared.reader(share.peer())?;
        let copied = reader.copy(shared).await?;
        reader.write(move || make(snapshot(&copied, started))).await
    };
    match timeout(patience.unwrap_or(Duration::MAX), all).await {
        Ok(all) => all,
        Err(_) => Ok(make(without_state(started))),
    }
}

/// Answers from a copy of the state; answers that have a name are shared.
async fn of_state(
    shared: &Shared,
    share: Share,
    name: Option<&'static str>,
    view: impl FnOnce(&State) -> Result<Vec<u8>, serde_json::Error> + Send + 'static,
) -> Result<Response, Refused> {
    let reader = shared.reader(share.peer())?;
    let copied = reader.copy(shared).await?;
    let written = reader.write(move || match name {
        Some(name) => copied.answer(name, view),
        None => view(&copied.state).map(Bytes::from),
    });
    match written.await? {
        Ok(body) => answer(share, "application/json", body),
        Err(error) => Ok(written_badly(&error)),
    }
}

fn to_vec(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(value)
}

fn json(value: &impl Serialize) -> Response {
    written(to_vec(value))
}

fn written(body: Result<Vec<u8>, serde_json::Error>) -> Response {
    match body {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => written_badly(&error),
    }
}

fn written_badly(error: &serde_json::Error) -> Response {
    tracing::error!(%error, "cannot write an answer");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Cannot write the answer").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (secs, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_333_500, "2026-11-22 07:45:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
        ] {
            assert_eq!(utc(secs), text);
        }
    }

    #[test]
    fn pages_of_tasks() {
        let query = |pairs: &[(&str, &str)]| {
            task_query(&pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
        };
        let plain = query(&[]).expect("no query");
        assert_eq!((plain.limit, plain.offset, plain.ascending), (100, 0, false));
        let all = query(&[("limit", "-1"), ("order", "asc"), ("_ts", "1")]).expect("as clients send it");
        assert_eq!((all.limit, all.ascending), (usize::MAX, true));
        assert!(query(&[("limit", "many")]).is_err());
    }
}
