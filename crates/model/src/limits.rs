//! How long a name or a list from outside may be. The wire's conversions enforce these, with an error that names the
//! field; they are far beyond what real frameworks and agents say.
//!
//! What a framework gives to its tasks (commands, environments, URIs, data) is bounded by the size of a call alone: Spark
//! puts whole class paths and serialised tasks there, and a master does not keep it.

/// Bytes of a framework's name.
pub const FRAMEWORK_NAME: usize = 4 << 10;
/// Bytes of a task's or an executor's name. Spark makes them of the framework's name and a number.
pub const TASK_NAME: usize = 8 << 10;
/// Bytes of a role's name; hierarchical roles may be long.
pub const ROLE_NAME: usize = 1 << 10;
/// Roles of one framework, and their bytes together.
pub const ROLES: usize = 100;
pub const ROLES_BYTES: usize = 64 << 10;
/// Bytes of a user, a principal, a host's name, an address, a version, a resource's or an attribute's name.
pub const NAME: usize = 1 << 10;
/// Bytes of `webui_url`.
pub const URL: usize = 4 << 10;
/// Labels of one thing, and their bytes together.
pub const LABELS: usize = 1_000;
pub const LABELS_BYTES: usize = 64 << 10;
/// Attributes of an agent, and their bytes together.
pub const ATTRIBUTES: usize = 1_000;
pub const ATTRIBUTES_BYTES: usize = 64 << 10;
/// Troubles that an agent names, and bytes of each.
pub const TROUBLES: usize = 64;
pub const TROUBLE: usize = 1 << 10;
/// Entries of `capabilities`; unknown ones count.
pub const CAPABILITIES: usize = 64;
/// Bytes of the message in a status update.
pub const STATUS_MESSAGE: usize = 64 << 10;
/// Bytes of an executor's own command and data together: masters keep them.
pub const EXECUTOR_BYTES: usize = 1 << 20;

/// Entries of one set of resources, after equal ones were added up.
pub const RESOURCES: usize = 100;
/// Ranges or items of one resource.
pub const RESOURCE_PARTS: usize = 256;
/// Scalars, ranges and items of one set of resources, and the bytes of their names together.
pub const RESOURCES_PARTS: usize = 2_000;
pub const RESOURCES_BYTES: usize = 64 << 10;
/// Bytes of one message between a framework and its executor.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// Offers in one call: what a whole cluster may be offered to one framework as.
pub const OFFERS: usize = 10_000;
/// Operations in one ACCEPT.
pub const OPERATIONS: usize = 1_000;
/// Tasks in one ACCEPT.
pub const TASKS: usize = 1_000;
/// Tasks in one RECONCILE.
pub const RECONCILED_TASKS: usize = 100_000;
/// Tasks and frameworks in one registration of an agent.
pub const REGISTERED_TASKS: usize = 4_000;
pub const REGISTERED_FRAMEWORKS: usize = 4_000;
