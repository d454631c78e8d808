//! Messages of the library, on standard error only: warnings, unless the environment asks for more.

use std::sync::Once;

use tracing_subscriber::EnvFilter;

/// A filter such as `debug` or `bellows_client=trace`.
const FILTER: &str = "BELLOWS_LIBMESOS_LOG";
/// Mesos' own: INFO, WARNING or ERROR.
const MESOS_LEVEL: &str = "MESOS_LOGGING_LEVEL";

/// To be called by whatever the JVM calls first; later calls do nothing.
pub(crate) fn initialize() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = std::env::var(FILTER).unwrap_or_else(|_| level().to_owned());
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .finish();
        // An error means that the program hosting the library has set its own.
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
}

fn level() -> &'static str {
    match std::env::var(MESOS_LEVEL).as_deref() {
        Ok("INFO") => "info",
        Ok("ERROR") => "error",
        _ => "warn",
    }
}
