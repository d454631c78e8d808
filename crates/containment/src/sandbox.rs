//! Where sandboxes lie, as Mesos lays them out, and how they come and go.
//!
//! `<work_dir>/slaves/<agent>/frameworks/<framework>/executors/<executor>/runs/<container>`, and `latest` beside it.
use crate::{
    Owner,
    dirs::{OPEN_DIR, make_dirs},
    remove_tree,
};
use bellows_model::{AgentId, ContainerId, ExecutorId, FrameworkId, IdError};
use rustix::{
    fs::{CWD, Mode, OFlags, fchmod, fchown, mkdirat, openat},
    process::{Gid, Uid},
};
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Names one run of one executor; its four ids name the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    pub agent_id: AgentId,
    pub framework_id: FrameworkId,
    pub executor_id: ExecutorId,
    pub container_id: ContainerId,
}

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl SandboxError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }
}

/// How many directories below `slaves` a sandbox is: see [`Sandboxes::path`].
pub(crate) const SANDBOX_DEPTH: usize = 7;
const LATEST: &str = "latest";

/// The sandboxes below one work directory. Every call may block for as long as a disk takes.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    work_dir: PathBuf,
}

impl Sandboxes {
    pub fn new(work_dir: impl Into<PathBuf>) -> Self {
        Self { work_dir: work_dir.into() }
    }

    /// Fails only for ids that cannot be the names of directories.
    pub fn path(&self, run: &Run) -> Result<PathBuf, SandboxError> {
        run.agent_id.validate()?;
        run.framework_id.validate()?;
        run.executor_id.validate()?;
        run.container_id.validate()?;
        Ok(self
            .work_dir
            .join("slaves")
            .join(run.agent_id.as_str())
            .join("frameworks")
            .join(run.framework_id.as_str())
            .join("executors")
            .join(run.executor_id.as_str())
            .join("runs")
            .join(run.container_id.as_str()))
    }

    /// The sandbox is given to `owner`, and closed to others; `latest` beside it points to it. One that exists already
    /// is an error.
    pub fn create(&self, run: &Run, owner: Option<&Owner>) -> Result<PathBuf, SandboxError> {
        let sandbox = self.path(run)?;
        let runs = sandbox.parent().expect("invariant: it has just been joined");
        make_dirs(runs, OPEN_DIR).map_err(SandboxError::at(runs))?;
        mkdirat(CWD, &sandbox, Mode::RWXU).map_err(|why| SandboxError::at(&sandbox)(why.into()))?;
        let give = || -> io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(CWD, &sandbox, flags, Mode::empty())?;
            fchmod(&made, Mode::from_raw_mode(0o750))?;
            if let Some(owner) = owner {
                fchown(&made, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
            }
            // Relative, so that it holds wherever the work directory is seen.
            let (target, latest) = (run.container_id.as_str(), runs.join(LATEST));
            match symlink(target, &latest) {
                // Replaced in one step.
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
                    let next = runs.join(format!(".latest.{target}"));
                    symlink(target, &next)?;
                    fs::rename(&next, latest)
                }
                made => made,
            }
        };
        give().map_err(|source| {
            let _ = remove_tree(&sandbox);
            SandboxError::Io { path: sandbox.clone(), source }
        })?;
        Ok(sandbox)
    }

    /// Remembers that the sandbox' task failed, until the sandbox is deleted.
    pub fn mark_failed(&self, run: &Run) -> Result<(), SandboxError> {
        let mark = failure_mark(&self.path(run)?);
        fs::File::create(&mark).map(drop).map_err(SandboxError::at(&mark))
    }

    pub fn has_failed(&self, run: &Run) -> bool {
        self.path(run).is_ok_and(|sandbox| failure_mark(&sandbox).exists())
    }

    /// Deletes a sandbox, and the directories above it that are empty then. A missing one is no error.
    pub fn collect(&self, run: &Run) -> Result<(), SandboxError> {
        let sandbox = self.path(run)?;
        remove_tree(&sandbox).map_err(SandboxError::at(&sandbox))?;
        let _ = fs::remove_file(failure_mark(&sandbox));
        let runs = sandbox.parent().expect("invariant: it has just been joined");
        let latest = runs.join(LATEST);
        if fs::read_link(&latest).is_ok_and(|target| target == Path::new(run.container_id.as_str())) {
            let _ = fs::remove_file(&latest);
        }
        let slaves = self.work_dir.join("slaves");
        let above = runs.ancestors().take_while(|path| *path != slaves);
        // Stops at the first that still holds something; a `create` that runs now makes its directories again or fails
        // with a clear error.
        above.map_while(|path| fs::remove_dir(path).ok()).for_each(drop);
        Ok(())
    }

    /// What lies on the disk, with the time of the last change in each sandbox's directory. Names that are no ids are
    /// left out.
    pub fn list(&self) -> Result<Vec<(Run, SystemTime)>, SandboxError> {
        let mut runs = Vec::new();
        for agent in directories(&self.work_dir.join("slaves"))? {
            for framework in directories(&agent.path.join("frameworks"))? {
                for executor in directories(&framework.path.join("executors"))? {
                    for container in directories(&executor.path.join("runs"))? {
                        let run = Run {
                            agent_id: AgentId::from(agent.name.as_str()),
                            framework_id: FrameworkId::from(framework.name.as_str()),
                            executor_id: ExecutorId::from(executor.name.as_str()),
                            container_id: ContainerId::from(container.name),
                        };
                        runs.push((run, container.changed));
                    }
                }
            }
        }
        Ok(runs)
    }
}

/// Beside the sandbox, where no task can make one.
fn failure_mark(sandbox: &Path) -> PathBuf {
    let container = sandbox.file_name().unwrap_or_default().display();
    sandbox.with_file_name(format!(".failed.{container}"))
}

struct Directory {
    path: PathBuf,
    name: String,
    changed: SystemTime,
}

/// The directories in `path`, not links to some; none when there is no `path`.
fn directories(path: &Path) -> Result<Vec<Directory>, SandboxError> {
    let entries = match fs::read_dir(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(SandboxError::at(path))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(SandboxError::at(path))?;
        // One that was deleted meanwhile is left out.
        if let (Ok(metadata), Ok(name)) = (entry.metadata(), entry.file_name().into_string())
            && metadata.is_dir()
        {
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Directory { path: entry.path(), name, changed });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(executor: &str, container: &str) -> Run {
        Run {
            agent_id: "S0".into(),
            framework_id: "F-0000".into(),
            executor_id: executor.into(),
            container_id: container.into(),
        }
    }

    #[test]
    fn created_where_mesos_has_them_and_collected_with_what_is_empty() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sandboxes = Sandboxes::new(dir.path());
        let first = sandboxes.create(&run("0", "c1"), None).expect("created");
        assert_eq!(first, dir.path().join("slaves/S0/frameworks/F-0000/executors/0/runs/c1"));
        let second = sandboxes.create(&run("0", "c2"), None).expect("created");
        let latest = first.with_file_name("latest");
        assert_eq!(fs::read_link(&latest).expect("a link"), Path::new("c2"));
        assert!(sandboxes.create(&run("0", "c2"), None).is_err(), "exists");

        let mut listed: Vec<Run> =
            sandboxes.list().expect("listed").into_iter().map(|(run, _)| run).collect();
        listed.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        assert_eq!(listed, [run("0", "c1"), run("0", "c2")]);

        fs::write(first.join("stdout"), "x").expect("written");
        sandboxes.mark_failed(&run("0", "c1")).expect("marked");
        assert!(sandboxes.has_failed(&run("0", "c1")) && !sandboxes.has_failed(&run("0", "c2")));
        assert_eq!(sandboxes.list().expect("listed").len(), 2);
        sandboxes.collect(&run("0", "c1")).expect("collected");
        assert!(!first.exists() && second.exists() && latest.exists());
        sandboxes.collect(&run("0", "c1")).expect("a missing one is no error");
        sandboxes.collect(&run("0", "c2")).expect("collected");
        assert!(!dir.path().join("slaves/S0").exists() && dir.path().exists());
        assert_eq!(sandboxes.list().expect("listed"), []);
    }

    #[test]
    fn ids_cannot_lead_out() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sandboxes = Sandboxes::new(dir.path().join("work"));
        for bad in ["", ".", "..", "../../../../../../x", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(matches!(sandboxes.create(&run(bad, "c"), None), Err(SandboxError::Id(_))), "{bad:?}");
            assert!(matches!(sandboxes.collect(&run("e", bad)), Err(SandboxError::Id(_))), "{bad:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
