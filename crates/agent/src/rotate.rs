//! Rotates the output of running tasks.
use crate::driver::Handle;
use bellows_containment::{Rotation, Run, Sandboxes};
use bellows_kernel::agent::{Phase, State};
use bellows_model::ExecutorId;
use std::{path::PathBuf, time::Duration};

/// Until the agent stops. An output may become larger by what a task writes in an `interval`.
pub(crate) async fn run(rotation: Rotation, interval: Duration, sandboxes: Sandboxes, driver: Handle) {
    loop {
        tokio::time::sleep(interval).await;
        let sandboxes = sandboxes.clone();
        let Ok(running) = driver.read(move |state| running(state, &sandboxes)).await else { return };
        let look = move || {
            for sandbox in running {
                if let Err(error) = rotation.rotate(&sandbox) {
                    tracing::debug!(sandbox = %sandbox.display(), %error, "cannot rotate a task's output");
                }
            }
        };
        if tokio::task::spawn_blocking(look).await.is_err() {
            tracing::error!("rotating the output of tasks panicked");
        }
    }
}

fn running(state: &State, sandboxes: &Sandboxes) -> Vec<PathBuf> {
    let tasks = state.tasks().filter(|task| matches!(task.phase, Phase::Running { .. }));
    let runs = tasks.map(|task| Run {
        agent_id: task.info.agent_id.clone(),
        framework_id: task.framework_id.clone(),
        executor_id: ExecutorId::from(task.info.task_id.as_str()),
        container_id: task.container_id.clone(),
    });
    runs.filter_map(|run| sandboxes.path(&run).ok()).collect()
}
