//! What a framework says of itself when it subscribes.
use crate::{FrameworkId, limits};
use std::time::Duration;

/// The role of frameworks that name none, and of resources that are reserved for nobody.
pub const DEFAULT_ROLE: &str = "*";

/// Set to `true` by frameworks whose executors need the shuffle service.
const SHUFFLE_SERVICE_LABEL: &str = "bellows.shuffle_service";

/// Mesos' `FrameworkInfo`.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameworkInfo {
    /// `None` until the master has given one.
    pub id: Option<FrameworkId>,
    pub name: String,
    /// The user that tasks run as unless their command names one.
    pub user: String,
    pub principal: Option<String>,
    /// Never empty, no duplicates; `["*"]` when the framework named none.
    pub roles: Vec<String>,
    pub hostname: String,
    pub webui_url: Option<String>,
    /// How long the master waits for a disconnected framework before it ends its tasks.
    pub failover_timeout: Duration,
    pub checkpoint: bool,
    pub capabilities: Vec<Capability>,
    pub labels: Vec<Label>,
}

impl FrameworkInfo {
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let labels = self.labels.iter().map(|label| label.key.len() + length(&label.value));
        let texts = [&self.name, &self.user, &self.hostname].into_iter().chain(&self.roles).map(String::len);
        size_of::<Self>()
            + texts.chain(labels).map(|bytes| size_of::<String>() + bytes).sum::<usize>()
            + length(&self.principal)
            + length(&self.webui_url)
    }

    /// Whether its executors register with the shuffle service of their machine: `libmesos` reads Spark's setting and
    /// says so in a label.
    pub fn uses_shuffle_service(&self) -> bool {
        let says =
            |label: &Label| label.key == SHUFFLE_SERVICE_LABEL && label.value.as_deref() == Some("true");
        self.labels.iter().any(says)
    }
}

/// Mesos' `FrameworkInfo.Capability.Type`; unknown ones are dropped when the wire is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    RevocableResources,
    TaskKillingState,
    GpuResources,
    SharedResources,
    PartitionAware,
    MultiRole,
    ReservationRefinement,
    RegionAware,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    pub key: String,
    pub value: Option<String>,
}

/// Why a text cannot be a role (Mesos `docs/roles.md`, "Invalid Role Names").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    #[error("Role cannot be the empty string")]
    Empty,
    #[error("Role name has {0} bytes, more than {max}", max = limits::ROLE_NAME)]
    TooLong(usize),
    #[error("Role name '{0}' is invalid: {1}")]
    Invalid(String, &'static str),
}

/// Checks a role's name; `a/b` are hierarchical roles, `*` stands alone.
pub fn validate_role(role: &str) -> Result<(), RoleError> {
    if role.is_empty() {
        return Err(RoleError::Empty);
    }
    if role == DEFAULT_ROLE {
        return Ok(());
    }
    if role.len() > limits::ROLE_NAME {
        return Err(RoleError::TooLong(role.len()));
    }
    let invalid = |why| Err(RoleError::Invalid(role.escape_default().to_string(), why));
    if role.starts_with('/') || role.ends_with('/') {
        return invalid("it must not begin or end with a slash");
    }
    for part in role.split('/') {
        if matches!(part, "" | "." | ".." | "*") {
            return invalid("a part of it is empty, '.', '..' or '*'");
        }
        if part.starts_with('-') {
            return invalid("a part of it begins with a dash");
        }
        if part.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return invalid("it contains white space or control characters");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_names() {
        for good in ["*", "spark", "team/etl", "a.b", "x-y"] {
            assert_eq!(validate_role(good), Ok(()), "{good:?}");
        }
        assert!(validate_role(&"x".repeat(limits::ROLE_NAME + 1)).is_err());
        for bad in ["", "/a", "a/", "a//b", ".", "a/..", "-a", "a b", "a/*", "a\tb"] {
            assert!(validate_role(bad).is_err(), "{bad:?}");
        }
    }
}
