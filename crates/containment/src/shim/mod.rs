//! The shim: a tiny process that parents one task, so that the task and its exit status outlive the agent.
//!
//! One thread, no runtime, no logging. It knows one task and one slot of a register, and no agent by name.
mod record;
mod signal;
mod supervise;
mod task;

pub(crate) use record::{Ended, Instruction, Record, Register, Report, Started, State};
pub(crate) use signal::send_kill;

use record::Slot;
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, getpid, set_child_subreaper, setsid},
};
use std::io::{self, Read, Write};

/// Entry point of `bellows shim CONTAINER_ID`, given the arguments after `shim` (the id is for people who look at
/// processes). Call it first in `main`: before Tokio,
/// clap and tracing, while there is one thread. Returns the process's exit code.
///
/// The agent gives it the instruction on stdin and reads one report from stdout, at once when the command was executed.
pub fn main(args: &[String]) -> i32 {
    if args.len() != 1 {
        return 2;
    }
    match launch() {
        Ok((task, slot)) => slot.end(supervise::until_gone(task)).is_err().into(),
        Err(why) => {
            report(&Report::Failed(why));
            1
        }
    }
}

fn launch() -> Result<(Pid, Slot), String> {
    let said = |what: &'static str| move |why: io::Error| format!("{what}: {why}");
    signal::block_all().map_err(said("cannot block signals"))?;
    // Out of the agent's session: what is typed at or done to its terminal is no concern of the task's.
    let _ = setsid();
    let _ = rustix::thread::set_name(c"bellows-shim");
    set_child_subreaper(Some(getpid())).map_err(|why| said("cannot become a subreaper")(why.into()))?;
    let instruction = read_instruction().map_err(said("cannot read the instruction"))?;
    let slot = Slot::of(&instruction).map_err(|why| format!("{}: {why}", instruction.register.display()))?;
    match task::start(&instruction, &slot).map_err(said("cannot start a process"))? {
        task::Outcome::Running(task, started) => {
            report(&Report::Started(started));
            // The agent may be replaced now; nothing of it is held.
            let _ = detach_stdio();
            Ok((task, slot))
        }
        task::Outcome::Failed(why) => {
            // For an agent that comes later; the one that waits now is told directly.
            let _ = slot.end(Ended::failed(&why));
            Err(why)
        }
    }
}

fn read_instruction() -> io::Result<Instruction> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn report(report: &Report) {
    // An agent that is gone finds the same in the register when it comes back.
    if let Ok(text) = serde_json::to_vec(report) {
        let _ = io::stdout().write_all(&text).and_then(|()| io::stdout().flush());
    }
}

fn detach_stdio() -> rustix::io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::process::chdir("/")
}
