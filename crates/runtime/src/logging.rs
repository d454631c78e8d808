//! Where log lines go: standard error, so that a command's own output stays clean, or a file.
//!
//! Nobody waits for whoever reads standard error: a pipe that is not read, or a terminal that was stopped, would stop
//! the whole process.
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tracing_subscriber::{EnvFilter, fmt, fmt::MakeWriter, prelude::*};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Sets up logging for the process. `RUST_LOG` wins over `filter`, which has its syntax (`info`, `bellows_master=debug`).
/// A second call changes nothing: the first one of a process decides.
/// From then on, panics go to the log, too.
pub fn init_logging(filter: &str, format: LogFormat) {
    crate::vital::log_panics();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(Impatient::new(io::stderr())).with_ansi(io::stderr().is_terminal());
    let outcome = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("logging was set up before");
    }
}

/// As [`init_logging`], into a file that is made anew: for a process whose terminal is taken.
pub fn init_logging_to_file(filter: &str, path: &Path) -> io::Result<()> {
    crate::vital::log_panics();
    let file = Mutex::new(File::create(path)?);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let layer = fmt::layer().with_writer(file).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(io::Error::other)
}

/// A pipe that has room takes so much without waiting; a terminal says that it has room for less.
const PIECE: usize = 4_096;
const PIECE_OF_TERMINAL: usize = 128;
/// A reader that is behind gets so long to catch up; then lines are left out until it does.
const PATIENCE: Duration = Duration::from_millis(100);

/// Writes lines as long as somebody takes them, and says how many were left out.
struct Impatient<W> {
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    piece: usize,
    patience: Duration,
    left_out: u64,
}

impl<W: AsFd> Impatient<W> {
    fn new(out: W) -> Self {
        let piece = if out.as_fd().is_terminal() { PIECE_OF_TERMINAL } else { PIECE };
        Self { state: Mutex::new(State { out, piece, patience: PATIENCE, left_out: 0 }) }
    }
}

impl<W: Write + AsFd> State<W> {
    fn line(&mut self, line: &[u8]) {
        // Who was too slow once is not waited for again.
        let patience = if self.left_out == 0 { self.patience } else { Duration::ZERO };
        if self.left_out > 0 && self.has_room(patience) {
            let note = format!("({} lines of the log are missing: nobody read it)\n", self.left_out);
            if self.out.write_all(note.as_bytes()).is_ok() {
                self.left_out = 0;
            }
        }
        for (i, piece) in line.chunks(self.piece).enumerate() {
            // The rest of a line that was begun follows, if it can.
            let patience = if i == 0 { patience } else { self.patience };
            if !self.has_room(patience) || self.out.write_all(piece).is_err() {
                self.left_out += 1;
                return;
            }
        }
    }

    fn has_room(&self, patience: Duration) -> bool {
        let mut waits = [PollFd::new(&self.out, PollFlags::OUT)];
        let patience =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        match poll(&mut waits, Some(&patience)) {
            Ok(ready) => ready > 0,
            Err(error) => error != Errno::INTR,
        }
    }
}

/// Takes one line, whole.
struct Line<'a, W: Write + AsFd>(&'a Impatient<W>);

impl<W: Write + AsFd> Write for Line<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a, W: Write + AsFd + 'a> MakeWriter<'a> for Impatient<W> {
    type Writer = Line<'a, W>;

    fn make_writer(&'a self) -> Line<'a, W> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_log_that_nobody_reads_stops_nobody() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let log = Impatient::new(writer);
        let say = |line: &str| log.make_writer().write_all(line.as_bytes()).expect("never fails");
        let long = format!("{}\n", "x".repeat(999));
        (0..1_000).for_each(|_| say(&long));
        say("a line that does not fit\n");
        let mut taken = [0; 64 << 10];
        reader.read_exact(&mut taken[..60_000]).expect("what fitted");
        say("and goes on\n");
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        let (_, end) = rest.split_once('(').expect("a note");
        let (missing, end) = end.split_once(' ').expect("a number");
        assert_eq!(end, "lines of the log are missing: nobody read it)\nand goes on\n");
        let written = 60 + rest.lines().filter(|line| line.starts_with('x')).count() as u64;
        assert_eq!(missing.parse::<u64>().expect("a number") + written, 1_001);
    }

    #[test]
    fn lines_that_are_read_are_whole() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let reading = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).map(|_| all)
        });
        let log = Impatient::new(writer);
        log.state.lock().expect("no panic").patience = Duration::from_secs(60);
        let line = format!("{}\n", "y".repeat(3 * PIECE));
        (0..100).for_each(|_| log.make_writer().write_all(line.as_bytes()).expect("never fails"));
        drop(log);
        let all = reading.join().expect("no panic").expect("text");
        assert_eq!(all, line.repeat(100));
    }
}
