//! The plain values that masters, agents and frameworks speak of: ids, resources, offers, tasks, states.
//!
//! No serde, no protobuf, no I/O: wire formats turn into these values once, in `bellows-wire`.
#![forbid(unsafe_code)]

mod agent;
mod framework;
mod ids;
pub mod limits;
mod offer;
mod resources;
mod task;
mod text;

pub use agent::{AgentInfo, Attribute, AttributeValue};
pub use framework::{Capability, DEFAULT_ROLE, FrameworkInfo, Label, RoleError, validate_role};
pub use ids::{
    AgentId, ContainerId, ExecutorId, FrameworkId, IdError, OfferId, StatusUuid, StreamId, TaskId,
};
pub use offer::{Filters, InvalidTask, Offer, Operation};
pub use resources::{MILLI, Resource, ResourceError, Resources, Scalar, Value};
pub use task::{
    CommandInfo, ContainerStatus, EnvironmentVariable, ExecutorInfo, Reason, Source, TaskInfo, TaskState,
    TaskStatus, Uri,
};
pub use text::clipped;
