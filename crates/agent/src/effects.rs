//! Carries out what the kernel decided. Nothing here waits: what takes time runs beside the driver, and its outcome
//! comes back as an event.
mod containers;
mod departures;

use crate::{
    Error,
    driver::Handle,
    environment::Environment,
    link::Outgoing,
    shuffle::ShuffleDirs,
    store::{Overflow, Store},
};
use bellows_containment::{Containerizer, Fetcher, Sandboxes};
use bellows_kernel::agent::{Action, Event, Exit, Job, LinkId, State};
use bellows_model::{AgentId, ContainerId, TaskState};
use std::{collections::HashMap, path::PathBuf, sync::Arc};
use tokio::{sync::watch, task::AbortHandle};

pub(crate) use departures::Shuffle;

pub(crate) struct Effects {
    pub(crate) store: Store,
    pub(crate) checkpoint_path: PathBuf,
    pub(crate) containment: Arc<Containment>,
    pub(crate) shuffle: Arc<Shuffle>,
    pub(crate) driver: Handle,
    pub(crate) link: Option<(LinkId, Outgoing)>,
    /// Under way; an entry goes when its container is launched or cancelled.
    pub(crate) fetches: HashMap<ContainerId, AbortHandle>,
    pub(crate) agent_id: watch::Sender<Option<AgentId>>,
}

/// What is needed to start a container.
pub(crate) struct Containment {
    pub(crate) containerizer: Containerizer,
    pub(crate) fetcher: Fetcher,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) shuffle_dirs: Arc<ShuffleDirs>,
    pub(crate) environment: Environment,
    /// The user that the agent runs as; `None`: tasks run as that one, whomever they name.
    pub(crate) switch_from: Option<String>,
}

impl Effects {
    pub(crate) fn open_link(&mut self, link: LinkId, outgoing: Outgoing) {
        self.link = Some((link, outgoing));
    }

    /// Tells the driver of an exit together with what the task wrote last.
    pub(crate) fn read_stderr(&self, job: Job, exit: Exit) {
        tokio::spawn(Arc::clone(&self.containment).failed(job, exit, self.driver.clone()));
    }

    pub(crate) fn close(&mut self) {
        self.link = None;
        self.store.close();
    }

    pub(crate) fn perform(&mut self, state: &State, actions: Vec<Action>) -> Result<(), Error> {
        for action in actions {
            self.perform_one(state, action)?;
        }
        self.agent_id.send_if_modified(|known| {
            let new = *known != state.agent_id;
            if new {
                known.clone_from(&state.agent_id);
            }
            new
        });
        Ok(())
    }

    fn perform_one(&mut self, state: &State, action: Action) -> Result<(), Error> {
        match action {
            Action::Register { link, registration } => {
                self.say(link, |outgoing| outgoing.register(&registration));
            }
            Action::Send { link, message } => self.say(link, |outgoing| outgoing.send(message)),
            Action::Store { write, record } => {
                self.store.push(write, record).map_err(|Overflow(reason)| Error::CheckpointLost {
                    path: self.checkpoint_path.clone(),
                    reason,
                })?;
            }
            Action::StoreAnew(checkpoint) => self.store.replace(&checkpoint),
            Action::Trouble { what, over: false } => tracing::warn!("{what}"),
            Action::Trouble { what, over: true } => tracing::info!("over: {what}"),
            Action::Fetch(job) => {
                let container_id = job.container_id.clone();
                let task = tokio::spawn(Arc::clone(&self.containment).fetch(job, self.driver.clone()));
                self.fetches.insert(container_id, task.abort_handle());
            }
            Action::CancelFetch { container_id } => {
                if let Some(fetch) = self.fetches.remove(&container_id) {
                    fetch.abort();
                }
            }
            Action::Launch(job) => {
                self.fetches.remove(&job.container_id);
                tokio::spawn(Arc::clone(&self.containment).launch(job, self.driver.clone()));
            }
            Action::Kill { container_id, grace } => {
                if !self.containment.containerizer.kill(&container_id, grace) {
                    tracing::debug!(container = %container_id, "nothing to kill: it has just ended");
                }
            }
            Action::Forget { container_id } => self.containment.forget(container_id),
            Action::Retire(job) => {
                self.fetches.remove(&job.container_id);
                let task = state.task_of(&job.container_id);
                let failed = task.is_some_and(|task| task.latest_state() == TaskState::Failed);
                Arc::clone(&self.containment).retire(job, failed);
            }
            Action::ExecutorDeparted { framework_id, executor_id } => {
                self.shuffle.departed(framework_id, executor_id);
            }
            Action::AskShuffleService => self.shuffle.ask(),
            Action::FindShuffle => self.shuffle_in_background(|shuffle| shuffle.find()),
            Action::RemoveShuffle { framework_id } => {
                self.shuffle_in_background(move |shuffle| shuffle.remove(framework_id));
            }
            Action::Stop { reason } => return Err(Error::Refused(reason)),
        }
        Ok(())
    }

    /// A connection that takes no more is dropped: the kernel says everything again on the next one.
    fn say(&mut self, link: LinkId, say: impl FnOnce(&Outgoing) -> bool) {
        let Some((_, outgoing)) = self.link.as_ref().filter(|(open, _)| *open == link) else { return };
        if !say(outgoing) {
            tracing::warn!("the master does not read what it is told: disconnected");
            self.link = None;
        }
    }

    fn shuffle_in_background<F>(&self, work: impl FnOnce(Arc<Shuffle>) -> F)
    where
        F: Future<Output = Event> + Send + 'static,
    {
        let (work, driver) = (work(Arc::clone(&self.shuffle)), self.driver.clone());
        tokio::spawn(async move { driver.tell(work.await).await });
    }
}
