//! The connection to the leading master: found, opened, watched, and opened again when it is lost.
//!
//! Carries messages; what they mean is the kernel's affair.
pub(crate) mod speech;

use crate::driver::{Handle, Stopped};
use bellows_election::{Backoff, Leader};
use bellows_kernel::agent::{AgentMessage, Event, LinkId, Registration};
use bellows_runtime::outbox::{Inbox, Outbox, outbox};
use bellows_wire::{
    convert::ConvertError,
    link,
    media::{self, DecodeError, Encoding},
    recordio,
};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::IpAddr, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Bytes of messages that wait for the connection: more than the updates of all an agent's tasks.
const QUEUE_BYTES: u32 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the answer to the request and for that to the registration, until the master has said how often it pings.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Longer messages are waited for.
const LARGE: usize = 64 << 10;
/// A follower names the leader, which may just have changed.
const MAX_REDIRECTS: usize = 3;

/// What the master is told goes in here; dropping it ends the connection.
pub(crate) struct Outgoing {
    records: Outbox<Bytes>,
    local_ip: IpAddr,
}

impl Outgoing {
    /// `false`: it takes no more.
    pub(crate) fn register(&self, registration: &Registration) -> bool {
        self.say(&speech::register(registration))
    }

    pub(crate) fn send(&self, message: AgentMessage) -> bool {
        self.say(&speech::to_master(message))
    }

    /// The agent's end of the connection.
    pub(crate) fn local_ip(&self) -> IpAddr {
        self.local_ip
    }

    fn say(&self, message: &link::AgentMessage) -> bool {
        let record = recordio::encode_message(message);
        let bytes = record.len();
        self.records.is_read() && self.records.push(record, bytes).is_ok()
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the master answered {0}")]
    Status(StatusCode),
    #[error("a redirect without a usable address")]
    Redirect,
    #[error(transparent)]
    Record(#[from] recordio::RecordError),
    #[error("not a message of a master: {0}")]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error("the master has said nothing for {0:?}")]
    Silent(Duration),
    #[error("the master says: not now: {0}")]
    Later(String),
    #[error("closed by the master")]
    Closed,
    #[error("another master leads")]
    Deposed,
    #[error("the agent is stopping")]
    Stopped,
}

impl From<Stopped> for LinkError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Keeps the agent connected until it stops.
pub(crate) async fn run(mut leader: watch::Receiver<Option<Leader>>, driver: Handle) {
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let Ok(authority) = leader
            .wait_for(Option::is_some)
            .await
            .map(|known| known.as_ref().map(Leader::authority).unwrap_or_default())
        else {
            tracing::error!("nobody looks for the leading master any more");
            return;
        };
        let mut talked = false;
        let ended = tokio::select! {
            ended = connect_and_talk(&authority, &driver, &mut talked) => ended,
            () = deposed(&mut leader, &authority) => Err(LinkError::Deposed),
        };
        match ended {
            Err(LinkError::Stopped) => return,
            Err(error) => tracing::info!(master = authority, %error, "not connected to a master"),
            Ok(()) => {}
        }
        if talked {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = deposed(&mut leader, &authority) => {}
        }
    }
}

/// Returns when somebody else leads, or nobody.
async fn deposed(leader: &mut watch::Receiver<Option<Leader>>, authority: &str) {
    let other = |known: &Option<Leader>| known.as_ref().is_none_or(|known| known.authority() != authority);
    if leader.wait_for(other).await.is_err() {
        std::future::pending().await
    }
}

async fn connect_and_talk(authority: &str, driver: &Handle, talked: &mut bool) -> Result<(), LinkError> {
    let mut authority = authority.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let (response, outgoing) = open(&authority).await?;
        match response.status() {
            StatusCode::OK => return talk(response.into_body(), outgoing, driver, talked).await,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                authority = redirected(&response).ok_or(LinkError::Redirect)?;
            }
            other => return Err(LinkError::Status(other)),
        }
    }
    Err(LinkError::Redirect)
}

/// `//host:port/…`, with or without a scheme before it.
fn redirected<T>(response: &http::Response<T>) -> Option<String> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let (_, rest) = location.split_once("//")?;
    Some(rest.split('/').next()?.to_owned()).filter(|authority| !authority.is_empty())
}

async fn open(authority: &str) -> Result<(http::Response<Incoming>, Outgoing), LinkError> {
    let stream = bellows_names::connect(authority, CONNECT_TIMEOUT).await?;
    stream.set_nodelay(true)?;
    let local_ip = stream.local_addr()?.ip();
    bellows_runtime::notice_lost_peers(&stream, bellows_runtime::LOST_PEER_TIMEOUT)?;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(stream))
        .await?;
    // Ends with the last of the request's and the answer's bodies.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the master broke");
        }
    });
    let (outgoing, records) = outbox(QUEUE_BYTES, None);
    let frames = futures::stream::unfold(records, |mut records: Inbox<Bytes>| async move {
        let record = records.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(record)), records))
    });
    let request = Request::post(format!("http://{authority}/api/v1/link"))
        .header(header::CONTENT_TYPE, media::APPLICATION_RECORDIO)
        .header("message-content-type", media::APPLICATION_PROTOBUF)
        .header(header::ACCEPT, media::APPLICATION_RECORDIO)
        .body(StreamBody::new(Box::pin(frames)))
        .map_err(|_| LinkError::Redirect)?;
    let response = timeout(ANSWER_TIMEOUT, sender.send_request(request))
        .await
        .map_err(|_| LinkError::Silent(ANSWER_TIMEOUT))??;
    Ok((response, Outgoing { records: outgoing, local_ip }))
}

async fn talk(
    body: Incoming,
    outgoing: Outgoing,
    driver: &Handle,
    talked: &mut bool,
) -> Result<(), LinkError> {
    let link = driver.new_link();
    driver.link_opened(link, outgoing).await?;
    // Also when the reading is given up in the middle, because another master leads.
    let _closing = Closing { link, driver: driver.clone() };
    listen(body, link, driver, talked).await
}

/// Tells the driver in any case that the connection is gone.
struct Closing {
    link: LinkId,
    driver: Handle,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let (link, driver) = (self.link, self.driver.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { driver.tell(Event::LinkClosed { link }).await });
        }
    }
}

async fn listen(
    mut body: Incoming,
    link: LinkId,
    driver: &Handle,
    talked: &mut bool,
) -> Result<(), LinkError> {
    let mut decoder = recordio::Decoder::new(recordio::DEFAULT_MAX_RECORD_BYTES);
    let mut patience = ANSWER_TIMEOUT;
    loop {
        let frame = timeout(patience, body.frame()).await.map_err(|_| LinkError::Silent(patience))?;
        let Some(frame) = frame.transpose()? else { return Err(LinkError::Closed) };
        let Ok(chunk) = frame.into_data() else { continue };
        decoder.push(&chunk);
        while let Some(record) = decoder.next_record()? {
            let is_large = record.len() > LARGE;
            let message: link::MasterMessage = Encoding::Protobuf.decode(record)?;
            if let Some(link::master_message::Message::Registered(registered)) = &message.message {
                *talked = true;
                patience = ping_budget(registered);
            }
            if let Some(link::master_message::Message::TryLater(later)) = message.message {
                return Err(LinkError::Later(later.reason));
            }
            // Nothing that this version knows.
            let Some(command) = speech::from_master(message)? else { continue };
            driver.tell(Event::Command { link, command: Box::new(command) }).await?;
            if is_large {
                // The driver's queue holds one such at a time.
                driver.read(|_| ()).await?;
            }
        }
    }
}

/// When the master would have given the agent up, and one ping more.
pub(crate) fn ping_budget(registered: &link::Registered) -> Duration {
    let interval = Duration::try_from_secs_f64(registered.ping_interval_seconds).unwrap_or(ANSWER_TIMEOUT);
    let pings = registered.max_missed_pings.clamp(1, 1_000) + 1;
    interval.clamp(Duration::from_millis(10), Duration::from_secs(3_600)) * pings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_name_a_host() {
        let answer = |location: &str| {
            let response = http::Response::builder().header("location", location).body(()).expect("valid");
            redirected(&response)
        };
        assert_eq!(answer("//10.0.0.1:5050/api/v1/link").as_deref(), Some("10.0.0.1:5050"));
        assert_eq!(answer("http://m:5050").as_deref(), Some("m:5050"));
        assert_eq!(answer("/api/v1/link"), None);
        assert_eq!(answer("///x"), None);
    }
}
