//! Looks at the disks again and again, and tells the kernel what it finds. What somebody has deleted of the work directory
//! is made again.
use crate::{
    driver::{Handle, Stopped},
    shuffle::ShuffleDirs,
    work_dir::WorkDir,
};
use bellows_containment::Containerizer;
use bellows_kernel::agent::{Disks, Event};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

/// A work directory that takes longer cannot be used.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct DiskWatch {
    pub(crate) work_dir: Arc<WorkDir>,
    pub(crate) shuffle_dirs: Arc<ShuffleDirs>,
    pub(crate) containerizer: Containerizer,
    /// Whether the checkpoint is where it was.
    pub(crate) has_checkpoint: Arc<dyn Fn() -> bool + Send + Sync>,
    pub(crate) interval: Duration,
    pub(crate) driver: Handle,
    pub(crate) stopping: CancellationToken,
}

/// What a look at the work directory has found.
struct Looked {
    outcome: Result<(), String>,
    has_checkpoint: bool,
}

impl DiskWatch {
    /// Until the agent stops; not in the middle of a look, which holds what the next agent needs.
    pub(crate) async fn run(self) {
        let looking = Arc::new(Semaphore::new(1));
        // A disk may have been left out at the start.
        let mut told = Disks::default();
        if self.tell(&mut told, None).await.is_err() {
            return;
        }
        loop {
            let looks = tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(self.interval) => self.look(&looking, &mut told).await,
                () = self.shuffle_dirs.left_out.notified() => {
                    let work_dir = told.work_dir.clone();
                    self.tell(&mut told, work_dir).await
                }
            };
            if looks.is_err() {
                return;
            }
        }
    }

    async fn look(&self, looking: &Arc<Semaphore>, told: &mut Disks) -> Result<(), Stopped> {
        let was_out = told.work_dir.is_some();
        let Looked { outcome, has_checkpoint } = self.look_at_work_dir(looking, was_out).await;
        // Before anything is launched again.
        if !has_checkpoint {
            self.driver.tell(Event::CheckpointGone).await?;
        }
        let work_dir = outcome.err();
        // Before the other disks are looked at, which may take long.
        self.tell(told, work_dir.clone()).await?;
        let back = self.shuffle_dirs.look().await;
        if work_dir.is_none() {
            self.shuffle_dirs.keep_known().await;
        }
        self.tell(told, work_dir).await?;
        if back { self.driver.tell(Event::DiskBack).await } else { Ok(()) }
    }

    async fn look_at_work_dir(&self, looking: &Arc<Semaphore>, was_out: bool) -> Looked {
        const SILENT: &str = "it does not answer";
        let silent = || Looked { outcome: Err(SILENT.into()), has_checkpoint: true };
        // One that hangs holds one thread.
        let Ok(permit) = looking.clone().try_acquire_owned() else { return silent() };
        let (work_dir, containerizer) = (Arc::clone(&self.work_dir), self.containerizer.clone());
        let has_checkpoint = Arc::clone(&self.has_checkpoint);
        let look = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let outcome = work_dir
                .look(was_out)
                .and_then(|()| containerizer.restore_register().map_err(|error| error.to_string()));
            Looked { has_checkpoint: outcome.is_err() || has_checkpoint(), outcome: outcome.map(drop) }
        });
        match timeout(ANSWER_WITHIN, look).await {
            Ok(Ok(looked)) => looked,
            Ok(Err(panic)) => Looked { outcome: Err(panic.to_string()), has_checkpoint: true },
            Err(_) => silent(),
        }
    }

    async fn tell(&self, told: &mut Disks, work_dir: Option<String>) -> Result<(), Stopped> {
        let disks = Disks { work_dir, shuffle: self.shuffle_dirs.conditions() };
        if *told == disks {
            return Ok(());
        }
        told.clone_from(&disks);
        self.driver.tell(Event::DisksFound(disks)).await
    }
}
