//! Tells the shuffle service who has gone, and deletes what only the agent may delete.
use crate::shuffle::ShuffleDirs;
use bellows_kernel::agent::Event;
use bellows_model::{ExecutorId, FrameworkId};
use bellows_runtime::Vital;
use bellows_shuffle::admin::Client;
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc};

/// Departures that wait for the service. More are dropped: the files go at the latest when their framework ends.
const QUEUE: usize = 4_096;
/// Departures that are told at the same time.
const AT_ONCE: usize = 64;
const ATTEMPTS: u32 = 3;
const DEPARTURE_TIMEOUT: Duration = Duration::from_secs(30);
/// Deleting terabytes takes its time.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) struct Shuffle {
    client: Option<Client>,
    dirs: Arc<ShuffleDirs>,
    departures: mpsc::Sender<(FrameworkId, ExecutorId)>,
    asked: Arc<Notify>,
}

impl Shuffle {
    /// Must be called within a Tokio runtime.
    pub(crate) fn start(client: Option<Client>, dirs: Arc<ShuffleDirs>, vital: &Vital) -> Self {
        let (departures, queue) = mpsc::channel(QUEUE);
        if let Some(client) = client.clone() {
            vital.spawn("telling the shuffle service who has gone", tell_departures(client, queue));
        }
        Self { client, dirs, departures, asked: Arc::default() }
    }

    /// Tells who watches over the service that somebody waits for its answer.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    pub(crate) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    pub(super) fn departed(&self, framework_id: FrameworkId, executor_id: ExecutorId) {
        if self.client.is_some() && self.departures.try_send((framework_id, executor_id)).is_err() {
            tracing::debug!("the shuffle service does not keep up with executors that end");
        }
    }

    pub(super) async fn find(self: Arc<Self>) -> Event {
        let found = tokio::task::spawn_blocking(move || self.dirs.found()).await;
        Event::ShuffleFound { frameworks: found.unwrap_or_default() }
    }

    pub(super) async fn remove(self: Arc<Self>, framework_id: FrameworkId) -> Event {
        match self.remove_all(&framework_id).await {
            Ok(()) => Event::ShuffleRemoved { framework_id },
            Err(error) => {
                tracing::warn!(framework = %framework_id, error, "cannot delete shuffle files yet");
                Event::ShuffleRemovalFailed { framework_id }
            }
        }
    }

    /// The service first: it must not serve from directories that are going.
    async fn remove_all(self: Arc<Self>, framework_id: &FrameworkId) -> Result<(), String> {
        if let Some(client) = &self.client {
            match tokio::time::timeout(REMOVAL_TIMEOUT, client.remove_app(framework_id.as_str())).await {
                Ok(Ok(removal)) => {
                    tracing::info!(framework = %framework_id, ?removal, "shuffle files removed")
                }
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("the shuffle service does not answer".into()),
            }
        }
        let framework_id = framework_id.clone();
        let removed = tokio::task::spawn_blocking(move || self.dirs.remove(&framework_id)).await;
        removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

/// Side by side: an executor's files on a disk that hangs hold up only a few of the others.
async fn tell_departures(client: Client, mut queue: mpsc::Receiver<(FrameworkId, ExecutorId)>) {
    let departures = futures::stream::poll_fn(|context| queue.poll_recv(context));
    departures.for_each_concurrent(AT_ONCE, |(framework, executor)| tell(&client, framework, executor)).await;
}

async fn tell(client: &Client, framework_id: FrameworkId, executor_id: ExecutorId) {
    for attempt in 1..=ATTEMPTS {
        let call = client.executor_departed(framework_id.as_str(), executor_id.as_str());
        match tokio::time::timeout(DEPARTURE_TIMEOUT, call).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::debug!(framework = %framework_id, executor = %executor_id, %error, attempt, "departure");
            }
            Err(_) => {
                tracing::debug!(framework = %framework_id, executor = %executor_id, attempt, "no answer");
            }
        }
        if attempt < ATTEMPTS {
            tokio::time::sleep(Duration::from_millis(100) * attempt).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tokio::{io::AsyncReadExt as _, net::UnixListener};

    #[tokio::test]
    async fn one_that_is_not_answered_holds_up_no_other() {
        let dir = tempfile::tempdir().expect("directory");
        let socket = dir.path().join("admin.sock");
        let service = UnixListener::bind(&socket).expect("a new name");
        let (departures, queue) = mpsc::channel(2);
        for executor in ["1", "2"] {
            departures.try_send((FrameworkId::new("app"), ExecutorId::new(executor))).expect("room");
        }
        let telling = tokio::spawn(tell_departures(Client::new(&socket), queue));
        let (mut told, mut unanswered) = (BTreeSet::new(), Vec::new());
        for _ in 0..2 {
            let (mut call, _) = service.accept().await.expect("a call");
            let mut line = vec![0; "DELETE /v1/apps/app/executors/1".len()];
            call.read_exact(&mut line).await.expect("a request");
            told.insert(String::from_utf8(line).expect("text"));
            unanswered.push(call);
        }
        let both = ["1", "2"].map(|executor| format!("DELETE /v1/apps/app/executors/{executor}"));
        assert_eq!(told, both.into());
        telling.abort();
    }
}
