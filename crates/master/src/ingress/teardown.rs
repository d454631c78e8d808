//! `POST /teardown`: an operator ends a framework, with a form body as `curl -d` sends it.
use super::{Refused, Shared, body};
use axum::{
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bellows_kernel::master::Event;
use bellows_model::FrameworkId;
use serde::Deserialize;
use std::sync::Arc;

/// More than a framework's id can take, however it is escaped.
const MAX_FORM_BYTES: usize = 4_096;

#[derive(Deserialize)]
struct Form {
    #[serde(rename = "frameworkId")]
    framework_id: String,
}

/// The content type does not matter: clients leave it out, or send what their tool puts there.
pub(super) async fn form(shared: &Arc<Shared>, request: Request) -> Result<Response, Refused> {
    let share = shared.share(&request);
    let body = body(request, MAX_FORM_BYTES, &share).await?;
    let framework_id = named_framework(&body)
        .ok_or_else(|| Refused::bad_request("Missing 'frameworkId' query parameter in the request body"))?;
    tear_down(shared, framework_id).await
}

pub(crate) fn named_framework(body: &[u8]) -> Option<FrameworkId> {
    let uri = format!("/?{}", String::from_utf8_lossy(body).trim()).parse().ok()?;
    let form = axum::extract::Query::<Form>::try_from_uri(&uri).ok()?.0;
    Some(FrameworkId::from(form.framework_id))
}

pub(super) async fn tear_down(shared: &Shared, framework_id: FrameworkId) -> Result<Response, Refused> {
    shared.driver.ask(|request| Event::OperatorTeardown { request, framework_id }).await??;
    Ok(StatusCode::OK.into_response())
}
