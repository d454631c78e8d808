//! The `bellows` binary: reads the command line, runs one command, ends with its exit code.
//! What clusters do lives in the crates below; this one starts them and talks to people.
#![expect(
    unreachable_pub,
    reason = "a binary exports nothing; `pub` says what a module offers to the others"
)]

mod args;
mod demo;
mod embedded;
mod error;
mod fetch;
mod no_name_service;
mod operator;
mod output;
mod rows;
mod serve;
mod shuffle;
mod spark;
mod submit;
mod up;
mod value;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command, ShuffleCommand};
use error::{Error, Shown};

fn main() -> ExitCode {
    // The shim forks, so it comes before everything that may start a thread.
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("shim") {
        let code = bellows_containment::shim::main(&arguments.collect::<Vec<_>>());
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", Shown(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Submit(args) => submit::run(args),
        Command::Ps(args) => call(operator::ps(args)),
        Command::Agents(args) => call(operator::agents(args)),
        Command::Tasks(args) => call(operator::tasks(args)),
        Command::Kill(args) => call(operator::kill(args)),
        Command::Logs(args) => call(operator::logs(args)),
        Command::Resolve(args) => call(operator::resolve(args)),
        Command::Master(args) => serve(serve::master(args)),
        Command::Agent(args) => serve(serve::agent(args)),
        Command::Shuffle(args) => match args.command {
            Some(ShuffleCommand::Status(args)) => call(shuffle::status(args)),
            Some(ShuffleCommand::Remove(args)) => call(shuffle::remove(args)),
            None => serve(shuffle::run(args.serve)),
        },
    }
}

/// One question and its answer need no threads.
fn call(command: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    block_on(tokio::runtime::Builder::new_current_thread(), command)
}

/// Twice as many threads as cores, as Netty has them: where the clients are on this machine, one that waits for its core
/// does not hold up whom it serves.
fn serve(command: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    bellows_runtime::few_arenas();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2 * cores);
    block_on(runtime, command)
}

fn block_on(
    mut runtime: tokio::runtime::Builder,
    command: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    can_start_threads()?;
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|source| Error::Io { what: "starting threads".to_owned(), source })?;
    let ended = runtime.block_on(command);
    // A thread that waits for a disk that hangs may do so for ever.
    runtime.shutdown_background();
    ended
}

/// Tokio would panic. The C library makes threads with `clone3`, and without it only where that says ENOSYS.
fn can_start_threads() -> Result<(), Error> {
    let Err(error) = std::thread::Builder::new().spawn(|| ()) else { return Ok(()) };
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "the container's seccomp profile forbids clone3: use Docker 20.10.10, containerd 1.5.6 or libseccomp 2.5.2 and \
             newer, or start the container with --security-opt seccomp=unconfined"
        }
        _ => "the limits on processes and memory of this user or container may be too low",
    };
    Err(Error::failed(format!("no thread can be started: {error}"), hint))
}
