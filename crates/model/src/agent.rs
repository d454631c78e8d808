//! What an agent says of itself when it registers.
use crate::{AgentId, Resources};

/// Mesos' `AgentInfo` (v0 `SlaveInfo`).
#[derive(Debug, Clone, PartialEq)]
pub struct AgentInfo {
    /// `None` until the master has given one.
    pub id: Option<AgentId>,
    /// The name that tasks and reducers reach the machine by; Spark asks its shuffle service there.
    pub hostname: String,
    /// The address in offers' `url.address.ip`.
    pub ip: String,
    pub port: u16,
    pub resources: Resources,
    pub attributes: Vec<Attribute>,
    /// The version of Bellows that runs there.
    pub version: String,
}

/// Passed through to offers unchanged; never a unit of allocation.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute {
    pub name: String,
    pub value: AttributeValue,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    Scalar(f64),
    Ranges(Vec<(u64, u64)>),
    Set(Vec<String>),
    Text(String),
}
