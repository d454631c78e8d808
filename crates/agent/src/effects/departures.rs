//! Tells the shuffle service who has gone, and deletes what only the agent may delete.
use crate::shuffle::ShuffleDirs;
use bellows_kernel::agent::Event;
use bellows_model::{ExecutorId, FrameworkId};
use bellows_shuffle::admin::Client;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Departures that wait for the service. More are dropped: the files go at the latest when their framework ends.
const QUEUE: usize = 4_096;
const ATTEMPTS: u32 = 3;
const DEPARTURE_TIMEOUT: Duration = Duration::from_secs(30);
/// Deleting terabytes takes its time.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) struct Shuffle {
    client: Option<Client>,
    dirs: Arc<ShuffleDirs>,
    departures: mpsc::Sender<(FrameworkId, ExecutorId)>,
}

impl Shuffle {
    /// Must be called within a Tokio runtime.
    pub(crate) fn start(client: Option<Client>, dirs: Arc<ShuffleDirs>) -> Self {
        let (departures, queue) = mpsc::channel(QUEUE);
        if let Some(client) = client.clone() {
            tokio::spawn(tell_departures(client, queue));
        }
        Self { client, dirs, departures }
    }

    pub(super) fn departed(&self, framework_id: FrameworkId, executor_id: ExecutorId) {
        if self.client.is_some() && self.departures.try_send((framework_id, executor_id)).is_err() {
            tracing::debug!("the shuffle service does not keep up with executors that end");
        }
    }

    pub(super) async fn find(self: Arc<Self>) -> Event {
        let found = tokio::task::spawn_blocking(move || self.dirs.found()).await;
        let frameworks = match found {
            Ok(Ok(frameworks)) => frameworks,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot look for shuffle directories");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        Event::ShuffleFound { frameworks }
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

async fn tell_departures(client: Client, mut queue: mpsc::Receiver<(FrameworkId, ExecutorId)>) {
    while let Some((framework_id, executor_id)) = queue.recv().await {
        for attempt in 1..=ATTEMPTS {
            let call = client.executor_departed(framework_id.as_str(), executor_id.as_str());
            match tokio::time::timeout(DEPARTURE_TIMEOUT, call).await {
                Ok(Ok(_)) => break,
                Ok(Err(error)) => {
                    tracing::debug!(framework = %framework_id, executor = %executor_id, %error, attempt, "departure");
                }
                Err(_) => {
                    tracing::debug!(framework = %framework_id, executor = %executor_id, attempt, "no answer")
                }
            }
            if attempt < ATTEMPTS {
                tokio::time::sleep(Duration::from_millis(100) * attempt).await;
            }
        }
    }
}
