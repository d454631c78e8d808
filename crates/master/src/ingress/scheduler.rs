//! `POST /api/v1/scheduler`: a framework's calls, and the stream of events that SUBSCRIBE opens.
use super::{
    Refused, Shared, body,
    call::{Known, invalid},
    header,
    heartbeat::Heartbeat,
};
use crate::{driver::Handle, speech::scheduler_event, streams::Stream};
use axum::{
    body::Body,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bellows_kernel::master::{Call, Event, SchedulerEvent};
use bellows_model::{Capability, FrameworkId, FrameworkInfo, StreamId};
use bellows_runtime::{
    Disconnect, Share,
    outbox::{Inbox, outbox},
};
use bellows_wire::{
    convert::ResourceFormat,
    media::{self, Encoding},
    v1::{MasterInfo, scheduler},
};
use bytes::Bytes;
use std::{convert::Infallible, sync::Arc, time::Duration};

const STREAM_ID: &str = "mesos-stream-id";

pub(super) async fn call(shared: &Arc<Shared>, request: Request) -> Result<Response, Refused> {
    let encoding = media::content_type(header(&request, "content-type"))?;
    let accept = header(&request, "accept").map(str::to_owned);
    let stream = header(&request, STREAM_ID).map(str::to_owned);
    let disconnect = request.extensions().get::<Disconnect>().cloned();
    let (share, of_stream) = (Arc::new(shared.share(&request)), shared.share(&request));
    let body = body(request, shared.max_body_bytes, &share).await?;
    let known = |call: scheduler::Call, _| {
        let framework_id = call.framework_id.clone();
        Ok::<_, Refused>((framework_id, Known::try_from(call)?))
    };
    let (framework_id, call) = shared.decoders.decode(encoding, body, &share, known).await?;
    match call {
        Known::Subscribe { info, suppressed_roles } => {
            let encoding = media::accept(accept.as_deref())?;
            if stream.is_some() {
                return Err(Refused::bad_request(
                    "Subscribe calls should not include the 'Mesos-Stream-Id' header",
                ));
            }
            let disconnect = disconnect.ok_or_else(|| invalid("not on a connection"))?;
            let stream = Unread { disconnect, share: of_stream };
            subscribe(shared, info, suppressed_roles, encoding, stream).await
        }
        Known::Other(call) => {
            let framework_id = framework_id.map(FrameworkId::try_from).transpose().map_err(invalid)?;
            let framework_id =
                framework_id.ok_or_else(|| invalid("Expecting 'framework_id' to be present"))?;
            let stream = stream.ok_or_else(|| {
                Refused::bad_request("All non-subscribe calls should include the 'Mesos-Stream-Id' header")
            })?;
            other(&shared.driver, framework_id, StreamId::from(stream), call).await
        }
    }
}

async fn other(
    driver: &Handle,
    framework_id: FrameworkId,
    stream: StreamId,
    call: Call,
) -> Result<Response, Refused> {
    // The one call that Mesos answers when it is done.
    let status = match call {
        Call::UpdateFramework { .. } => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    driver.ask(|request| Event::Call { request, framework_id, stream, call }).await??;
    Ok(status.into_response())
}

/// How to bound and cut a peer that does not read its events.
struct Unread {
    disconnect: Disconnect,
    share: Share,
}

async fn subscribe(
    shared: &Shared,
    info: FrameworkInfo,
    suppressed_roles: Vec<String>,
    encoding: Encoding,
    Unread { disconnect, share }: Unread,
) -> Result<Response, Refused> {
    let id = StreamId::new(uuid::Uuid::new_v4().to_string());
    let peer = share.peer();
    let (outbox, inbox) = outbox(shared.max_unread_bytes, Some(share));
    let resources = if info.has(Capability::ReservationRefinement) {
        ResourceFormat::Refined
    } else {
        ResourceFormat::Legacy
    };
    let events = Events {
        inbox,
        encoding,
        resources,
        master: shared.identity.master_info(),
        interval: shared.heartbeat,
        heartbeat: None,
        _closed: Closed { id: id.clone(), driver: shared.driver.clone() },
    };
    let (driver, stream) = (&shared.driver, id.clone());
    let opened = Stream::new(outbox, peer, disconnect);
    driver.read(move |_, effects| effects.open_stream(stream, opened)).await??;
    let stream = id.clone();
    driver.ask(|request| Event::Subscribe { request, stream, info, suppressed_roles }).await??;
    let headers = [("content-type", encoding.media_type()), (STREAM_ID, id.as_str())];
    Ok((headers, events.into_body()).into_response())
}

/// The body of SUBSCRIBE's answer. Events are encoded when the connection has room for them, not before.
struct Events {
    inbox: Inbox<SchedulerEvent>,
    encoding: Encoding,
    resources: ResourceFormat,
    master: MasterInfo,
    interval: Duration,
    /// From SUBSCRIBED on.
    heartbeat: Option<Heartbeat>,
    _closed: Closed,
}

/// Tells the driver when the stream is no more, however it ended.
struct Closed {
    id: StreamId,
    driver: Handle,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.driver.tell_later(Event::StreamClosed { stream: self.id.clone() });
    }
}

impl Events {
    fn into_body(self) -> Body {
        // One frame is one HTTP chunk: some clients take a chunk for a record.
        Body::from_stream(futures::stream::unfold(self, |mut events| async move {
            let record = events.next().await?;
            Some((Ok::<_, Infallible>(record), events))
        }))
    }

    async fn next(&mut self) -> Option<Bytes> {
        let event = tokio::select! {
            // A heartbeat that is due goes first, so that one follows SUBSCRIBED at once: some clients hand an
            // event on only when the next one is there.
            biased;
            () = beat(self.heartbeat.as_mut()) => scheduler::Event {
                r#type: Some(scheduler::event::Type::Heartbeat.into()),
                ..Default::default()
            },
            event = self.inbox.next() => {
                let event = event?;
                if matches!(event, SchedulerEvent::Subscribed { .. }) {
                    self.heartbeat = Some(Heartbeat::every(self.interval));
                }
                scheduler_event(event, self.resources, &self.master, self.interval)
            }
        };
        Some(self.encoding.encode_record(&event))
    }
}

async fn beat(heartbeat: Option<&mut Heartbeat>) {
    match heartbeat {
        Some(heartbeat) => heartbeat.beat().await,
        None => std::future::pending().await,
    }
}
