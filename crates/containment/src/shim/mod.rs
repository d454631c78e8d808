//! The shim: a tiny process that parents one task, so that the task and its exit status outlive the agent.
//!
//! One thread, no runtime, no logging. It knows one task and one slot of a register, and no agent by name. Shims are
//! forks of a zygote, which lives as long as the agent process.
mod record;
mod signal;
mod supervise;
mod task;
mod zygote;

pub(crate) use record::{Ended, Failure, Instruction, Record, Register, Report, Started, State};
pub(crate) use signal::send_kill;
pub(crate) use zygote::Zygote;

use crate::fetcher;
use record::Slot;
use rustix::process::{Pid, getpid, set_child_subreaper, setsid};
use std::{
    ffi::CString,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

/// Every shim's name begins so.
pub(crate) const NAME: &str = "shim-";

/// Entry point of `bellows shim`, given the arguments after `shim`: none, or what asks for the fetcher's reader. Call it
/// first in `main`: before Tokio, clap and tracing, while there is one thread. Returns the process's exit code, also in
/// each shim.
///
/// The agent sends the instruction through a socket that it shuts down for writing, and reads one report from it, at
/// once when the command was executed.
pub fn main(args: &[String]) -> i32 {
    match args {
        [] => {}
        [part] if part == fetcher::local::READER => return fetcher::local::main(),
        _ => return 2,
    }
    match zygote::serve() {
        Ok(Some(conversation)) => run(conversation),
        Ok(None) => 0,
        Err(_) => 1,
    }
}

fn run(mut conversation: UnixStream) -> i32 {
    let (report, running) = match launch(&mut conversation) {
        Ok((started, task, slot)) => (Report::Started(started), Some((task, slot))),
        Err(failure) => (Report::Failed(failure), None),
    };
    // An agent that is gone finds the same in the register when it comes back.
    if let Ok(text) = serde_json::to_vec(&report) {
        let _ = conversation.write_all(&text);
    }
    // It may be replaced now; nothing of it is held.
    drop(conversation);
    match running {
        Some((task, slot)) => slot.end(supervise::until_gone(task)).is_err().into(),
        None => 1,
    }
}

fn launch(conversation: &mut UnixStream) -> Result<(Started, Pid, Slot), Failure> {
    let said = |what: &'static str| move |why: io::Error| Failure::of_shim(format!("{what}: {why}"));
    let _ = setsid();
    let _ = rustix::thread::set_name(c"bellows-shim");
    set_child_subreaper(Some(getpid())).map_err(|why| said("cannot become a subreaper")(why.into()))?;
    let instruction = read_instruction(conversation).map_err(said("cannot read the instruction"))?;
    let _ = rustix::thread::set_name(&thread_name(&instruction.container_id));
    let slot = Slot::of(&instruction)
        .map_err(|why| Failure::of_shim(format!("{}: {why}", instruction.register.display())))?;
    match task::start(&instruction, &slot).map_err(said("cannot start a process"))? {
        task::Outcome::Running(task, started) => Ok((started, task, slot)),
        task::Outcome::Failed(failure) => {
            // For an agent that comes later; the one that waits now is told directly.
            let _ = slot.end(Ended::failed(&failure.why));
            Err(failure)
        }
    }
}

/// For `ps`: the end of the container's id, which tells it from others, within the 15 bytes that the kernel keeps.
fn thread_name(container_id: &str) -> CString {
    let id = container_id.as_bytes();
    let end = &id[id.len().saturating_sub(10)..];
    CString::new([NAME.as_bytes(), end].concat()).unwrap_or_default()
}

fn read_instruction(conversation: &mut UnixStream) -> io::Result<Instruction> {
    let mut text = Vec::new();
    conversation.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
