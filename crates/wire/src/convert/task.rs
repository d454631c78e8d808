//! Tasks, executors and their commands.
#![expect(deprecated, reason = "Mesos deprecates source; frameworks still set it")]

use super::{
    ConvertError, ResourceFormat, at_most, bounded, duration_from_wire, duration_to_wire, field,
    labels_from_wire, labels_to_wire, no_nul, optional, repeated, resources_from_wire, resources_to_wire,
};
use crate::v1::{self, container_info::Type as ContainerType, environment::variable, executor_info};
use bellows_model::{CommandInfo, EnvironmentVariable, ExecutorInfo, FrameworkId, TaskInfo, Uri, limits};
use prost::Message as _;

/// The ids that a framework invents are taken as they are: the kernel checks them, as their refusal is a TASK_ERROR of
/// that one task and not of the whole call.
impl TryFrom<v1::TaskInfo> for TaskInfo {
    type Error = ConvertError;

    fn try_from(task: v1::TaskInfo) -> Result<Self, ConvertError> {
        let unsupported = unsupported(&task);
        let kill_grace = task.kill_policy.and_then(|policy| policy.grace_period);
        Ok(Self {
            name: at_most("name", limits::TASK_NAME, task.name)?,
            task_id: task.task_id.value.into(),
            agent_id: field("agent_id", task.agent_id)?,
            resources: resources_from_wire("resources", task.resources)?,
            command: optional("command", task.command)?,
            executor: optional("executor", task.executor.map(|executor| *executor))?,
            data: task.data.map(Into::into),
            labels: labels_from_wire(task.labels)?,
            kill_grace: duration_from_wire("kill_policy.grace_period", kill_grace)?,
            container: task.container.map(|container| container.r#type().as_str_name().to_owned()),
            unsupported,
        })
    }
}

/// The path of a field that asks for what no agent here does; to pass over it would run the task on the bare host.
fn unsupported(task: &v1::TaskInfo) -> Option<String> {
    let executor = task.executor.as_ref();
    let of_executor = executor.and_then(|executor| {
        let docker =
            executor.container.as_ref().filter(|container| container.r#type() == ContainerType::Docker);
        docker.map(|_| "type").or_else(|| unsupported_in_container(executor.container.as_deref()?))
    });
    let of_container = task.container.as_deref().and_then(unsupported_in_container);
    let others = [
        ("health_check", task.health_check.is_some()),
        ("check", task.check.is_some()),
        ("max_completion_time", task.max_completion_time.is_some()),
        ("limits", !task.limits.is_empty()),
    ];
    let other = others.into_iter().find_map(|(name, is_set)| is_set.then(|| name.to_owned()));
    of_container
        .map(|field| format!("container.{field}"))
        .or_else(|| of_executor.map(|field| format!("executor.container.{field}")))
        .or(other)
}

fn unsupported_in_container(container: &v1::ContainerInfo) -> Option<&'static str> {
    [
        ("docker", container.docker.is_some()),
        ("mesos.image", container.mesos.as_ref().is_some_and(|mesos| mesos.image.is_some())),
        ("volumes", !container.volumes.is_empty()),
        ("network_infos", !container.network_infos.is_empty()),
        ("hostname", container.hostname.is_some()),
        ("linux_info", container.linux_info.is_some()),
        ("rlimit_info", container.rlimit_info.is_some()),
        ("tty_info", container.tty_info.is_some()),
    ]
    .into_iter()
    .find_map(|(name, is_set)| is_set.then_some(name))
}

/// Writes a task whose resources are allocated to `role`. A framework's own executor bears the framework's id.
pub fn task_to_wire(task: &TaskInfo, framework_id: &FrameworkId, role: &str) -> v1::TaskInfo {
    let container = |name: &String| {
        let kind = v1::container_info::Type::from_str_name(name)?;
        Some(v1::ContainerInfo { r#type: kind.into(), ..Default::default() })
    };
    v1::TaskInfo {
        name: task.name.clone(),
        task_id: (&task.task_id).into(),
        agent_id: (&task.agent_id).into(),
        resources: resources_to_wire(&task.resources, Some(role), ResourceFormat::Refined),
        executor: task
            .executor
            .as_ref()
            .map(|executor| Box::new(executor_to_wire(executor, framework_id, role))),
        command: task.command.as_ref().map(Into::into),
        container: task.container.as_ref().and_then(container).map(Box::new),
        kill_policy: task
            .kill_grace
            .map(|grace| v1::KillPolicy { grace_period: Some(duration_to_wire(grace)) }),
        data: task.data.clone().map(Into::into),
        labels: labels_to_wire(&task.labels),
        ..Default::default()
    }
}

/// Its id is the kernel's to check, as a task's.
impl TryFrom<v1::ExecutorInfo> for ExecutorInfo {
    type Error = ConvertError;

    fn try_from(executor: v1::ExecutorInfo) -> Result<Self, ConvertError> {
        bounded("", "bytes", limits::EXECUTOR_BYTES, executor.encoded_len())?;
        let name = |field: &str, name: Option<String>| {
            name.map(|name| at_most(field, limits::TASK_NAME, name)).transpose()
        };
        Ok(Self {
            executor_id: executor.executor_id.value.into(),
            name: name("name", executor.name)?,
            source: name("source", executor.source)?,
            command: field("command", executor.command.ok_or_else(|| ConvertError::missing("command"))?)?,
            resources: resources_from_wire("resources", executor.resources)?,
            data: executor.data.map(Into::into),
            shutdown_grace: duration_from_wire("shutdown_grace_period", executor.shutdown_grace_period)?,
        })
    }
}

/// Writes an executor whose resources are allocated to `role`.
pub fn executor_to_wire(executor: &ExecutorInfo, framework_id: &FrameworkId, role: &str) -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        r#type: Some(executor_info::Type::Custom.into()),
        executor_id: (&executor.executor_id).into(),
        framework_id: Some(framework_id.into()),
        command: Some((&executor.command).into()),
        resources: resources_to_wire(&executor.resources, Some(role), ResourceFormat::Refined),
        name: executor.name.clone(),
        source: executor.source.clone(),
        data: executor.data.clone().map(Into::into),
        shutdown_grace_period: executor.shutdown_grace.map(duration_to_wire),
        ..Default::default()
    }
}

impl TryFrom<v1::CommandInfo> for CommandInfo {
    type Error = ConvertError;

    fn try_from(command: v1::CommandInfo) -> Result<Self, ConvertError> {
        let shell = command.shell();
        let arguments = command.arguments.into_iter().map(|argument| no_nul("arguments", argument));
        let variables = command.environment.unwrap_or_default().variables;
        Ok(Self {
            shell,
            value: command.value.map(|value| no_nul("value", value)).transpose()?,
            arguments: arguments.collect::<Result<_, _>>()?,
            environment: repeated("variables", variables).map_err(|error| error.within("environment"))?,
            uris: repeated("uris", command.uris)?,
            user: command
                .user
                .map(|user| no_nul("user", at_most("user", limits::NAME, user)?))
                .transpose()?,
        })
    }
}

impl From<&CommandInfo> for v1::CommandInfo {
    fn from(command: &CommandInfo) -> Self {
        let variable = |variable: &EnvironmentVariable| v1::environment::Variable {
            name: variable.name.clone(),
            value: Some(variable.value.clone()),
            ..Default::default()
        };
        let variables: Vec<_> = command.environment.iter().map(variable).collect();
        Self {
            uris: command.uris.iter().map(Into::into).collect(),
            environment: (!variables.is_empty()).then_some(v1::Environment { variables }),
            shell: Some(command.shell),
            value: command.value.clone(),
            arguments: command.arguments.clone(),
            user: command.user.clone(),
        }
    }
}

impl TryFrom<v1::environment::Variable> for EnvironmentVariable {
    type Error = ConvertError;

    fn try_from(variable: v1::environment::Variable) -> Result<Self, ConvertError> {
        let kind = variable.r#type();
        if variable.name.is_empty() || variable.name.contains('=') {
            return Err(ConvertError::invalid("name", "it is empty or contains '='"));
        }
        let value = match kind {
            variable::Type::Value => variable.value.ok_or_else(|| ConvertError::missing("value"))?,
            variable::Type::Secret => {
                let secret = variable.secret.ok_or_else(|| ConvertError::missing("secret"))?;
                secret_value(secret).map_err(|error| error.within("secret"))?
            }
            variable::Type::Unknown => {
                return Err(ConvertError::invalid("type", "only VALUE and SECRET are known here"));
            }
        };
        Ok(Self { name: no_nul("name", variable.name)?, value: no_nul("value", value)? })
    }
}

/// The text of a secret that is given as it is. One that is named only would have to be looked up in a store of secrets.
fn secret_value(secret: v1::Secret) -> Result<String, ConvertError> {
    match (secret.r#type(), secret.value, secret.reference) {
        (v1::secret::Type::Value, Some(value), _) => String::from_utf8(value.data.into())
            .map_err(|_| ConvertError::invalid("value.data", "a variable's value must be UTF-8")),
        (v1::secret::Type::Value, None, _) => Err(ConvertError::missing("value")),
        (v1::secret::Type::Reference, _, reference) => {
            let name: String =
                reference.map(|reference| reference.name).unwrap_or_default().chars().take(100).collect();
            Err(ConvertError::invalid(
                "reference",
                format!(
                    "this cluster has no store to look the secret '{name}' up in: give its value instead"
                ),
            ))
        }
        (v1::secret::Type::Unknown, ..) => Err(ConvertError::invalid("type", "only VALUE is known here")),
    }
}

impl TryFrom<v1::command_info::Uri> for Uri {
    type Error = ConvertError;

    fn try_from(uri: v1::command_info::Uri) -> Result<Self, ConvertError> {
        Ok(Self {
            executable: uri.executable(),
            extract: uri.extract(),
            cache: uri.cache(),
            value: no_nul("value", uri.value)?,
            output_file: uri.output_file.map(|file| no_nul("output_file", file)).transpose()?,
        })
    }
}

impl From<&Uri> for v1::command_info::Uri {
    fn from(uri: &Uri) -> Self {
        Self {
            value: uri.value.clone(),
            executable: Some(uri.executable),
            extract: Some(uri.extract),
            cache: Some(uri.cache),
            output_file: uri.output_file.clone(),
        }
    }
}
