//! When to stop.
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Waits until the process is asked to end: SIGTERM, or SIGINT from a terminal.
pub async fn shutdown_signal() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
