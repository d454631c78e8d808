//! The shim: a tiny process that parents one task, so that the task and its exit status outlive the agent.

/// Entry point of `bellows shim META_DIR`, given the arguments after `shim`. Call it first in `main`: before Tokio,
/// clap and tracing, while there is one thread. Returns the exit code.
pub fn main(_args: &[String]) -> i32 {
    todo!()
}
