//! Sandboxes and processes: what becomes of one container from the fetch to the end.
use super::Containment;
use crate::{driver::Handle, environment::Place};
use bellows_containment::{LaunchSpec, Owner, Run};
use bellows_kernel::agent::{Event, Job};
use bellows_model::{ContainerId, ExecutorId};
use std::{fs::File, sync::Arc, time::SystemTime};

impl Containment {
    /// Reports to `driver` how it went; when that is gone, nobody needs to know.
    pub(super) async fn fetch(self: Arc<Self>, job: Job, driver: Handle) {
        let container_id = job.container_id.clone();
        let event = match self.prepare(job).await {
            Ok(()) => Event::Fetched { container_id },
            Err(message) => Event::FetchFailed { container_id, message },
        };
        let _ = driver.tell(event).await;
    }

    async fn prepare(self: Arc<Self>, job: Job) -> Result<(), String> {
        let uris = job.task.command.as_ref().map(|command| command.uris.clone()).unwrap_or_default();
        let fetcher = self.fetcher.clone();
        let (sandbox, owner) = blocking(move || {
            let user = self.other_user(&job);
            let owner = user.map(resolve).transpose()?.flatten();
            let sandbox = self.sandboxes.create(&run_of(&job), owner.as_ref()).map_err(text)?;
            self.shuffle_dirs.create(&job.framework_id, owner.as_ref()).map_err(text)?;
            Ok((sandbox, owner))
        })
        .await?;
        if uris.is_empty() {
            return Ok(());
        }
        fetcher.fetch(&sandbox, &uris, owner.as_ref()).await.map_err(text)
    }

    pub(super) async fn launch(self: Arc<Self>, job: Job, driver: Handle) {
        let container_id = job.container_id.clone();
        let containerizer = self.containerizer.clone();
        let owner = match self.other_user(&job).map(str::to_owned) {
            Some(user) => blocking(move || resolve(&user)).await,
            None => Ok(None),
        };
        let launched = match owner.and_then(|owner| self.spec(job, owner)) {
            Ok(spec) => containerizer.launch(spec).await.map_err(text),
            Err(message) => Err(message),
        };
        let event = match launched {
            Ok(launched) => Event::Launched { container_id, pid: launched.pid },
            Err(message) => Event::LaunchFailed { container_id, message },
        };
        let _ = driver.tell(event).await;
    }

    fn spec(&self, job: Job, owner: Option<Owner>) -> Result<LaunchSpec, String> {
        let sandbox = self.sandboxes.path(&run_of(&job)).map_err(text)?;
        let place = Place {
            agent_id: &job.task.agent_id,
            sandbox: &sandbox,
            shuffle_dirs: self.shuffle_dirs.joined(&job.framework_id),
            switched: owner.is_some(),
        };
        let environment = self.environment.of(&job, place);
        let command = job.task.command.clone().ok_or("The task has no command")?;
        Ok(LaunchSpec {
            container_id: job.container_id,
            sandbox,
            shell: command.shell,
            value: command.value.unwrap_or_default(),
            arguments: command.arguments,
            environment,
            user: owner,
        })
    }

    /// Whom the task runs as, its command's user or else its framework's, when that is not who runs the agent.
    fn other_user<'a>(&self, job: &'a Job) -> Option<&'a str> {
        let own = job.task.command.as_ref().and_then(|command| command.user.as_deref());
        let user = own.unwrap_or(&job.framework.user);
        let agent = self.switch_from.as_deref()?;
        Some(user).filter(|user| !user.is_empty() && *user != agent)
    }

    pub(super) fn forget(&self, container_id: ContainerId) {
        let containerizer = self.containerizer.clone();
        tokio::spawn(async move {
            if let Err(error) = containerizer.forget(&container_id).await {
                tracing::warn!(container = %container_id, %error, "cannot delete what is stored of a container");
            }
        });
    }

    /// Marks the sandbox with the time and the kind of its end, by which its collection goes.
    pub(super) fn retire(self: Arc<Self>, job: Job, failed: bool) {
        tokio::task::spawn_blocking(move || {
            if failed && let Err(error) = self.sandboxes.mark_failed(&run_of(&job)) {
                tracing::debug!(container = %job.container_id, %error, "cannot mark the failure of a task");
            }
            let Ok(path) = self.sandboxes.path(&run_of(&job)) else { return };
            // A task that ended before its sandbox was made has none.
            if let Ok(sandbox) = File::open(&path)
                && let Err(error) = sandbox.set_modified(SystemTime::now())
            {
                tracing::debug!(sandbox = %path.display(), %error, "cannot mark the end of a sandbox' use");
            }
        });
    }
}

fn resolve(user: &str) -> Result<Option<Owner>, String> {
    Owner::resolve(user).map_err(|error| {
        format!(
            "{error}. The framework names this user (Spark: HADOOP_USER_NAME, else who runs the driver): add it to this \
             machine, or start the agent with --no-switch-user"
        )
    })
}

/// A command task's executor bears the task's id.
pub(crate) fn run_of(job: &Job) -> Run {
    Run {
        agent_id: job.task.agent_id.clone(),
        framework_id: job.framework_id.clone(),
        executor_id: ExecutorId::from(job.task.task_id.as_str()),
        container_id: job.container_id.clone(),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}
