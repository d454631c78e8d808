//! The calls of one subscriber, sent one after the other on one connection, so that they arrive in order.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::warn;

use crate::error::CallError;
use crate::http::{Connection, refusal};

/// Bounded: a caller that is faster than the other side waits.
const CAPACITY: usize = 1024;

/// Where calls go while one subscription lasts.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) authority: String,
    path: &'static str,
    headers: HeaderMap,
    /// Told when calls cannot be sent: the subscription is then given up, too.
    pub(crate) broken: Arc<Notify>,
}

impl Session {
    pub(crate) fn new(authority: String, path: &'static str, headers: HeaderMap) -> Self {
        Self { authority, path, headers, broken: Arc::new(Notify::new()) }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct CallQueue {
    calls: mpsc::Sender<Queued>,
}

type Answer = Result<(), CallError>;

#[derive(Debug)]
enum Queued {
    Call {
        name: &'static str,
        body: Bytes,
        /// Absent when nobody waits: a failure is then logged.
        answer: Option<oneshot::Sender<Answer>>,
    },
    /// Answered when its turn comes.
    Flush(oneshot::Sender<()>),
}

impl CallQueue {
    /// A queue that is emptied for as long as `subscriber` runs; this is dropped once no clone of the queue is left.
    pub(crate) fn start(
        session: watch::Receiver<Option<Session>>,
        subscriber: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (calls, receiver) = mpsc::channel(CAPACITY);
        tokio::spawn(async move {
            tokio::select! {
                () = subscriber => {}
                () = send_calls(receiver, session) => {}
            }
        });
        Self { calls }
    }

    pub(crate) async fn call(&self, name: &'static str, body: Bytes) -> Answer {
        let (answer, answered) = oneshot::channel();
        let queued = Queued::Call { name, body, answer: Some(answer) };
        self.calls.send(queued).await.map_err(|_| CallError::Stopped)?;
        answered.await.map_err(|_| CallError::Stopped)?
    }

    /// Must not be called from a runtime's thread.
    pub(crate) fn post(&self, name: &'static str, body: Bytes) -> Answer {
        self.calls.blocking_send(Queued::Call { name, body, answer: None }).map_err(|_| CallError::Stopped)
    }

    /// As `post`; the future gives the answer.
    pub(crate) fn submit(&self, name: &'static str, body: Bytes) -> impl Future<Output = Answer> + use<> {
        let (answer, answered) = oneshot::channel();
        let sent = self.calls.blocking_send(Queued::Call { name, body, answer: Some(answer) });
        async move {
            sent.map_err(|_| CallError::Stopped)?;
            answered.await.map_err(|_| CallError::Stopped)?
        }
    }

    /// Waits until every call queued before was answered or has failed.
    pub(crate) async fn flush(&self) {
        let (flushed, done) = oneshot::channel();
        if self.calls.send(Queued::Flush(flushed)).await.is_ok() {
            // An error means that the sender of calls has stopped: nothing is left to wait for.
            let _ = done.await;
        }
    }
}

/// Each call goes to the session that is current when its turn comes.
async fn send_calls(mut calls: mpsc::Receiver<Queued>, session: watch::Receiver<Option<Session>>) {
    let mut connection: Option<(Session, Connection)> = None;
    while let Some(queued) = calls.recv().await {
        let (name, body, answer) = match queued {
            Queued::Call { name, body, answer } => (name, body, answer),
            Queued::Flush(done) => {
                // The one who waited may have given up.
                let _ = done.send(());
                continue;
            }
        };
        let current = session.borrow().clone();
        let result = match current {
            None => Err(CallError::NotConnected),
            Some(current) => {
                let same = connection.take_if(|(session, _)| Arc::ptr_eq(&session.broken, &current.broken));
                let fresh = || (current.clone(), Connection::new(current.authority.clone()));
                let (session, connection) = connection.insert(same.unwrap_or_else(fresh));
                send_call(session, connection, body).await
            }
        };
        match answer {
            // The caller may have given up waiting.
            Some(answer) => drop(answer.send(result)),
            None => {
                if let Err(error) = result {
                    warn!(call = name, %error, "call failed");
                }
            }
        }
    }
}

async fn send_call(session: &Session, connection: &mut Connection, body: Bytes) -> Result<(), CallError> {
    let response = match connection.send(&Method::POST, session.path, &session.headers, body).await {
        Ok(response) => response,
        Err(error) => {
            session.broken.notify_one();
            return Err(error);
        }
    };
    if response.status().is_success() {
        return Ok(());
    }
    let refusal = refusal(response).await;
    if refusal.is_temporary() {
        // It no longer leads, or is restarting: find out who does.
        session.broken.notify_one();
    }
    Err(refusal.into())
}
