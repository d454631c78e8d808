//! Copies of the state for those who read it. Made by the driver in slices, shared, and turned into answers elsewhere.
use crate::{
    effects::{Effects, Watcher},
    streams::NoPlace,
};
use bellows_kernel::master::{Observation, State, StateCopy};
use bellows_runtime::metrics::Window;
use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Items that are copied between two events: about a millisecond.
const SLICE: usize = 1_000;
/// Copies that there may be at the same time. Who asks for one more waits until one is done with.
const COPIES: usize = 3;
/// Most operators that watch at once; Mesos' default.
pub(crate) const MAX_WATCHERS: usize = 1_000;

/// The state at one moment.
pub(crate) struct Snapshot {
    pub(crate) state: State,
    pub(crate) watching: usize,
    pub(crate) figures: Figures,
    /// Answers that were made of it, by name: whoever asks for the same shares one.
    answers: Mutex<HashMap<&'static str, Bytes>>,
    _place: OwnedSemaphorePermit,
}

/// What the driver measures of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Messages that wait for the driver.
    pub(crate) queued: usize,
    /// How long steps took that allocated resources, and how long the events waited that caused them.
    pub(crate) allocation: Window,
    pub(crate) allocation_wait: Window,
}

type Asker = (Option<Watcher>, oneshot::Sender<Result<Arc<Snapshot>, NoPlace>>);

/// The copy that is being made, and who waits for it or for the next.
pub(crate) struct Snapshots {
    places: Arc<Semaphore>,
    copy: Option<(StateCopy, OwnedSemaphorePermit)>,
    waiting: Vec<Asker>,
    /// They asked after the copy was begun, and are to see what was so when they asked.
    waiting_for_next: Vec<Asker>,
}

impl Default for Snapshots {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(COPIES));
        Self { places, copy: None, waiting: Vec::new(), waiting_for_next: Vec::new() }
    }
}

impl Snapshots {
    /// Returns when a copy can be begun, if somebody waits for one.
    pub(crate) fn room(&self) -> impl Future<Output = ()> + use<> {
        let (waits, places) = (self.copy.is_none() && !self.waiting_for_next.is_empty(), self.places.clone());
        async move {
            if !waits || places.acquire().await.is_err() {
                std::future::pending().await
            }
        }
    }

    pub(crate) fn ask(
        &mut self,
        watcher: Option<Watcher>,
        answer: oneshot::Sender<Result<Arc<Snapshot>, NoPlace>>,
    ) {
        self.waiting_for_next.push((watcher, answer));
    }

    pub(crate) fn observe(&mut self, state: &State, observation: &Observation) {
        if let Some((copy, _)) = &mut self.copy {
            copy.observe(state, observation);
        }
    }

    /// Copies a slice. Says whether there is more to do.
    pub(crate) fn go_on(&mut self, state: &State, effects: &mut Effects, figures: &Figures) -> bool {
        if self.copy.is_none()
            && !self.waiting_for_next.is_empty()
            && let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
        {
            self.waiting_for_next.retain(|(_, answer)| !answer.is_closed());
            self.waiting = std::mem::take(&mut self.waiting_for_next);
            self.copy = Some((StateCopy::begin(state), place));
        }
        let Some((copy, _)) = &mut self.copy else { return false };
        if copy.go_on(state, SLICE)
            && let Some((copy, place)) = self.copy.take()
        {
            let snapshot = Arc::new(Snapshot {
                state: copy.finish(),
                watching: effects.watching(),
                figures: figures.clone(),
                answers: Mutex::default(),
                _place: place,
            });
            for (watcher, answer) in self.waiting.drain(..) {
                // Who asked may be gone.
                let _ = answer.send(watch(effects, watcher).map(|()| Arc::clone(&snapshot)));
            }
        }
        self.copy.is_some()
    }
}

fn watch(effects: &mut Effects, watcher: Option<Watcher>) -> Result<(), NoPlace> {
    watcher.map_or(Ok(()), |watcher| effects.watch(watcher))
}

impl Snapshot {
    /// Returns the answer of that name, which is made once.
    pub(crate) fn answer<E>(
        &self,
        name: &'static str,
        make: impl FnOnce(&State) -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.get(name) {
            return Ok(answer.clone());
        }
        let answer = Bytes::from(make(&self.state)?);
        answers.insert(name, answer.clone());
        Ok(answer)
    }
}
