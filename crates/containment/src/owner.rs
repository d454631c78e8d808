//! The user that a task runs as: looked up once, then plain numbers.

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error("no user '{0}' on this machine")]
    Unknown(String),
    #[error("cannot run as user '{0}': the agent is not root (leave out the user, or run the agent as root)")]
    NotRoot(String),
}

impl Owner {
    /// `None`: `user` is who runs the agent, nothing needs to be switched. May block on the name service.
    pub fn resolve(_user: &str) -> Result<Option<Self>, OwnerError> {
        todo!()
    }
}
