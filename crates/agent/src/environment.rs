//! What a task finds in its environment: the machine's, Mesos', the shuffle directories, and last its own.
use crate::{Config, announced::Announced, config::inherited_environment};
use bellows_kernel::agent::Job;
use bellows_model::{AgentId, DEFAULT_ROLE, EnvironmentVariable};
use std::{path::Path, path::PathBuf, sync::Arc, time::Duration};

/// Of most systems' shells; without any, a task would find no program.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The parts that are the same for all tasks of an agent.
pub(crate) struct Environment {
    base: Vec<EnvironmentVariable>,
    /// From the agent's own environment, where the operator has said nothing.
    is_inherited: bool,
    native_library: Option<PathBuf>,
    announced: Arc<Announced>,
    grace: Duration,
}

/// The parts that are one task's.
pub(crate) struct Place<'a> {
    pub(crate) agent_id: &'a AgentId,
    pub(crate) sandbox: &'a Path,
    pub(crate) shuffle_dirs: Option<String>,
    /// It runs as somebody else than the agent.
    pub(crate) switched: bool,
}

impl Environment {
    pub(crate) fn new(config: &Config, announced: Arc<Announced>) -> Self {
        let mut base = config.executor_environment.clone().unwrap_or_else(inherited_environment);
        if base.iter().all(|variable| variable.name != "PATH") {
            base.push(EnvironmentVariable { name: "PATH".into(), value: PATH.into() });
        }
        Self {
            base,
            is_inherited: config.executor_environment.is_none(),
            native_library: config.native_library.clone(),
            announced,
            grace: config.kill_grace,
        }
    }

    /// Later variables win.
    pub(crate) fn of(&self, job: &Job, place: Place<'_>) -> Vec<EnvironmentVariable> {
        let sandbox = place.sandbox.display().to_string();
        let role = job.framework.roles.first().map_or(DEFAULT_ROLE, String::as_str);
        let grace = job.task.kill_grace.unwrap_or(self.grace);
        let address = self.announced.address();
        // Another user has another home than the agent.
        let is_foreign = |name: &str| self.is_inherited && place.switched && name == "HOME";
        let base = self.base.iter().filter(|variable| !is_foreign(&variable.name));
        let mut all: Vec<EnvironmentVariable> = base.cloned().collect();
        let mut set = |name: &str, value: String| {
            all.push(EnvironmentVariable { name: name.to_owned(), value });
        };
        set("LIBPROCESS_IP", address.ip().to_string());
        set("LIBPROCESS_PORT", "0".into());
        set("MESOS_AGENT_ENDPOINT", address.to_string());
        set("MESOS_ALLOCATION_ROLE", role.to_owned());
        set("MESOS_CHECKPOINT", "1".into());
        set("MESOS_CONTAINER_ID", job.container_id.to_string());
        set("MESOS_DIRECTORY", sandbox.clone());
        set("MESOS_EXECUTOR_ID", job.task.task_id.to_string());
        set("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", format!("{}secs", grace.as_secs_f64()));
        set("MESOS_FRAMEWORK_ID", job.framework_id.to_string());
        set("MESOS_SANDBOX", sandbox.clone());
        set("MESOS_SLAVE_ID", place.agent_id.to_string());
        set("MESOS_SLAVE_PID", format!("slave(1)@{address}"));
        set("MESOS_TASK_ID", job.task.task_id.to_string());
        set("PWD", sandbox);
        if let Some(library) = &self.native_library {
            set("MESOS_NATIVE_JAVA_LIBRARY", library.display().to_string());
            set("MESOS_NATIVE_LIBRARY", library.display().to_string());
        }
        if let Some(dirs) = place.shuffle_dirs {
            set("SPARK_EXECUTOR_DIRS", dirs);
        }
        all.extend(job.task.command.iter().flat_map(|command| command.environment.iter().cloned()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellows_kernel::agent::Job;
    use bellows_model::{FrameworkInfo, Resources, TaskInfo};

    fn job() -> Job {
        let framework = FrameworkInfo {
            id: Some("F".into()),
            name: "app".into(),
            user: "ann".into(),
            principal: None,
            roles: vec!["*".into()],
            hostname: String::new(),
            webui_url: None,
            failover_timeout: Duration::ZERO,
            checkpoint: true,
            capabilities: Vec::new(),
            labels: Vec::new(),
        };
        let task = TaskInfo {
            name: "t".into(),
            task_id: "t".into(),
            agent_id: "S".into(),
            resources: Resources::new(),
            command: None,
            executor: None,
            data: None,
            labels: Vec::new(),
            kill_grace: None,
            container: None,
            unsupported: None,
        };
        Job {
            framework: Arc::new(framework),
            framework_id: "F".into(),
            task: Arc::new(task),
            container_id: "c".into(),
        }
    }

    /// Another user has another home than the agent; what the operator names is meant for all.
    #[test]
    fn whose_home_a_task_finds() {
        let bound = ([127, 0, 0, 1], 5051).into();
        let (_, master) = tokio::sync::watch::channel(None);
        let mut config = Config::new(bound, master, "/work");
        let announced = Arc::new(Announced::new(&config, bound));
        let variable = |name: &str| EnvironmentVariable { name: name.into(), value: "/home/agent".into() };
        let home = |environment: &Environment, switched| {
            let (agent_id, sandbox) = (AgentId::from("S"), Path::new("/work/sandbox"));
            let place = Place { agent_id: &agent_id, sandbox, shuffle_dirs: None, switched };
            environment.of(&job(), place).into_iter().any(|found| found == variable("HOME"))
        };
        let inherited =
            Environment { base: vec![variable("HOME")], ..Environment::new(&config, Arc::clone(&announced)) };
        assert!(home(&inherited, false) && !home(&inherited, true));
        config.executor_environment = Some(vec![variable("HOME")]);
        let named = Environment::new(&config, announced);
        assert!(home(&named, false) && home(&named, true));
    }
}
