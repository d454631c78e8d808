//! Newtypes for the ids of Mesos. Cheap to clone; compared and hashed by their text.
use std::{borrow::Borrow, fmt, sync::Arc};

/// Why a text cannot be an id. Mesos' rules (`common/validation.cpp`): not empty, not `.` or `..`,
/// no `/`, no control characters, at most 255 bytes (it becomes a directory's name).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("ID must not be empty")]
    Empty,
    #[error("'{0}' is disallowed")]
    Dots(String),
    #[error("ID must not be greater than 255 characters")]
    TooLong,
    #[error("'{0}' contains invalid characters")]
    InvalidCharacters(String),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Checks that the id can be used as a file name; every id from outside is checked once.
            pub fn validate(&self) -> Result<(), IdError> {
                validate(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(/// One scheduler (for Spark: one application). `<master id>-NNNN`.
    FrameworkId);
id!(/// One agent, for as long as it keeps its work directory. `<master id>-SN`.
    AgentId);
id!(/// One offer. `<master id>-ON`.
    OfferId);
id!(/// One task, named by its framework; unique within it among live tasks.
    TaskId);
id!(/// One executor, named by its framework. A command task's executor bears the task's id.
    ExecutorId);
id!(/// One run of one executor on one agent: a UUID.
    ContainerId);
id!(/// One subscription's event stream: the `Mesos-Stream-Id` header.
    StreamId);

fn validate(text: &str) -> Result<(), IdError> {
    match text {
        "" => Err(IdError::Empty),
        "." | ".." => Err(IdError::Dots(text.into())),
        _ if text.len() > 255 => Err(IdError::TooLong),
        _ if text.chars().any(|c| c.is_control() || c == '/' || c == '\\') => {
            Err(IdError::InvalidCharacters(text.escape_default().to_string()))
        }
        _ => Ok(()),
    }
}

/// Identifies one status update until it is acknowledged: 16 bytes of a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusUuid(pub [u8; 16]);

impl fmt::Debug for StatusUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a\0b", "a\nb", "a\\b"] {
            assert!(TaskId::from(bad).validate().is_err(), "{bad:?}");
        }
        assert!(TaskId::from("x".repeat(256)).validate().is_err());
        for good in ["0", "task-1.a_b", "ü", "...", "x y"] {
            assert_eq!(TaskId::from(good).validate(), Ok(()), "{good:?}");
        }
    }
}
