//! Where log lines go: standard error, so that a command's own output stays clean, or a file.
use std::{
    fs::File,
    io::{self, IsTerminal as _},
    path::Path,
    sync::Mutex,
};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

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
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
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
