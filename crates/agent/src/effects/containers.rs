//! Sandboxes and processes: what becomes of one container from the fetch to the end.
use super::Containment;
use crate::{driver::Handle, environment::Place};
use bellows_containment::{FileRoot, FilesError, LaunchError, LaunchSpec, Owner, Run, SandboxError};
use bellows_kernel::agent::{Event, Exit, Fault, Job};
use bellows_model::{ContainerId, ExecutorId};
use bellows_wire::text::last_lines;
use futures::FutureExt as _;
use rustix::fs::OFlags;
use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A failed task's message repeats at most so much of its stderr.
const MAX_STDERR_BYTES: usize = 1_024;
const STDERR_PATIENCE: Duration = Duration::from_secs(2);

impl Containment {
    /// Reports to `driver` how it went; when that is gone, nobody needs to know.
    pub(super) async fn fetch(self: Arc<Self>, job: Job, driver: Handle) {
        let container_id = job.container_id.clone();
        let event = match caught(self.prepare(job)).await {
            Ok(()) => Event::Fetched { container_id },
            Err(Failure { fault, message }) => Event::FetchFailed { container_id, fault, message },
        };
        let _ = driver.tell(event).await;
    }

    async fn prepare(self: Arc<Self>, job: Job) -> Result<(), Failure> {
        let uris = job.task.command.as_ref().map(|command| command.uris.clone()).unwrap_or_default();
        let framework_id = job.framework_id.clone();
        let this = Arc::clone(&self);
        let (sandbox, owner) = blocking(move || {
            let owner = this.other_user(&job).map(resolve).transpose()?.flatten();
            let made = this.sandboxes.create(&run_of(&job), owner.as_ref());
            let sandbox = made.map_err(|error| match error {
                SandboxError::Id(_) => Failure::of_task(error),
                SandboxError::Io { .. } => Failure::of_agent(error),
            })?;
            Ok((sandbox, owner))
        })
        .await?;
        self.shuffle_dirs.create(&framework_id, owner.as_ref()).await.map_err(Failure::of_agent)?;
        if let Some(owner) = owner.clone() {
            let (this, sandbox) = (Arc::clone(&self), sandbox.clone());
            blocking(move || {
                let roots = this.shuffle_dirs.roots();
                let mut needed = roots.iter().map(PathBuf::as_path).chain([sandbox.as_path()]);
                needed.try_for_each(|dir| owner.may_reach(dir)).map_err(Failure::of_task)
            })
            .await?;
        }
        if uris.is_empty() {
            return Ok(());
        }
        self.fetcher.fetch(&sandbox, &uris, owner.as_ref()).await.map_err(|error| {
            match error.is_of_this_disk() {
                true => Failure::of_agent(error),
                false => Failure::of_task(error),
            }
        })
    }

    pub(super) async fn launch(self: Arc<Self>, job: Job, driver: Handle) {
        let container_id = job.container_id.clone();
        let launched = caught(async {
            let containerizer = self.containerizer.clone();
            // It asks for the user, and waits for a disk that is slow at the moment.
            let spec = blocking(move || {
                let owner = self.other_user(&job).map(resolve).transpose()?.flatten();
                self.spec(job, owner)
            });
            containerizer.launch(spec.await?).await.map_err(|error| match error {
                LaunchError::Exists(_) | LaunchError::Command(_) => Failure::of_task(error),
                LaunchError::Io { .. } | LaunchError::Shim(_) => Failure::of_agent(error),
            })
        })
        .await;
        let event = match launched {
            Ok(launched) => Event::Launched { container_id, pid: launched.pid },
            Err(Failure { fault, message }) => Event::LaunchFailed { container_id, fault, message },
        };
        let _ = driver.tell(event).await;
    }

    /// Blocks.
    fn spec(&self, job: Job, owner: Option<Owner>) -> Result<LaunchSpec, Failure> {
        let sandbox = self.sandboxes.path(&run_of(&job)).map_err(Failure::of_task)?;
        let place = Place {
            agent_id: &job.task.agent_id,
            sandbox: &sandbox,
            shuffle_dirs: self.shuffle_dirs.joined(&job.framework_id, owner.as_ref()),
            switched: owner.is_some(),
        };
        let environment = self.environment.of(&job, place);
        let command = job.task.command.clone().ok_or_else(|| Failure::of_task("The task has no command"))?;
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

    /// A disk that does not answer does not hold the end of a task up for long.
    pub(super) async fn failed(self: Arc<Self>, job: Job, exit: Exit, driver: Handle) {
        let container_id = job.container_id.clone();
        let read = blocking(move || {
            let sandbox = self.sandboxes.path(&run_of(&job)).map_err(Failure::of_task)?;
            end_of(&sandbox, "stderr").map_err(Failure::of_task)
        });
        let stderr = match tokio::time::timeout(STDERR_PATIENCE, read).await {
            Ok(Ok(stderr)) => stderr,
            Ok(Err(Failure { message, .. })) => {
                tracing::debug!(container = %container_id, error = message, "a task's stderr cannot be read");
                String::new()
            }
            Err(_) => String::new(),
        };
        let _ = driver.tell(Event::Exited { container_id, exit, stderr }).await;
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
            if let Ok(sandbox) = open_dir(&path)
                && let Err(error) = sandbox.set_modified(SystemTime::now())
            {
                tracing::debug!(sandbox = %path.display(), %error, "cannot mark the end of a sandbox' use");
            }
        });
    }
}

/// The last lines of a file that a task wrote, which may have put anything in its place.
fn end_of(sandbox: &Path, name: &str) -> Result<String, FilesError> {
    let files = FileRoot::of_sandbox(sandbox)?;
    let size = files.size(name)?;
    let begin = size.saturating_sub(MAX_STDERR_BYTES as u64);
    let bytes = files.read(name, begin, MAX_STDERR_BYTES)?;
    Ok(last_lines(&bytes, begin > 0, MAX_STDERR_BYTES))
}

fn resolve(user: &str) -> Result<Option<Owner>, Failure> {
    Owner::resolve(user).map_err(|error| {
        Failure::of_task(format!(
            "{error}. The framework names this user (Spark: HADOOP_USER_NAME, else who runs the driver): add it to this \
             machine, or start the agent with --no-switch-user"
        ))
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

/// Not what a link leads to.
fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    File::options().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// A panic is the failure of one task, which its framework is told of.
async fn caught<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let panicked = |_| Err(Failure::of_agent("The agent failed at this; its log says more"));
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked)
}

/// Why a task was not started, and whose doing that is.
struct Failure {
    fault: Fault,
    message: String,
}

impl Failure {
    fn of_task(error: impl std::fmt::Display) -> Self {
        Self { fault: Fault::Task, message: error.to_string() }
    }

    fn of_agent(error: impl std::fmt::Display) -> Self {
        Self { fault: Fault::Agent, message: error.to_string() }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::of_agent(error)))
}
