//! What a process is asked for by signals.
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT from a terminal, or SIGHUP from one that was closed.
    End,
    /// SIGUSR1, by which Mesos' agents are taken out of service.
    Retire,
}

/// The signals that ask for something. None of them ends the process by itself any more, not even when this is dropped.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Option<Signal>,
    user_1: Signal,
}

impl Signals {
    /// SIGHUP is left alone where it is ignored: `nohup` did that, so that the process outlives its terminal.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: (!is_ignored(SignalKind::hangup())).then(|| signal(SignalKind::hangup())).transpose()?,
            user_1: signal(SignalKind::user_defined1())?,
        })
    }

    pub async fn next(&mut self) -> Request {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Request::End,
            _ = self.interrupt.recv() => Request::End,
            _ = hang_up => Request::End,
            _ = self.user_1.recv() => Request::Retire,
        }
    }
}

/// Waits until the process is asked to end. SIGUSR1 does it, too, as by default.
pub async fn shutdown_signal() -> io::Result<()> {
    Signals::listen()?.next().await;
    Ok(())
}

fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}
