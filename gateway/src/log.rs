//! The log: to stderr, and louder for a while where somebody asks for it.

use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload::{self, Handle};

static FILTER: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Begins to log: INFO, or what FIELDPOST_LOG says (`debug`, `fieldpost_gateway=trace`).
pub(crate) fn start() {
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false);
    let (filter, handle) = reload::Layer::new(of_environment());
    // A second start in one process (tests) keeps the first log.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

fn of_environment() -> Targets {
    let named = std::env::var("FIELDPOST_LOG").ok().and_then(|text| text.parse().ok());
    named.unwrap_or_else(|| Targets::new().with_default(Level::INFO))
}

/// Logs this level of this program, and of others what it logged before; `None`: as at the start.
///
/// # Errors
/// Where this program has no log of its own.
pub(crate) fn set(level: Option<Level>) -> Result<(), String> {
    let mut filter = of_environment();
    if let Some(level) = level {
        filter = filter
            .with_targets(["fieldpost_gateway", "fieldpost_mqtt"].map(|target| (target, level)));
    }
    let none = || "this program's log is another's".to_owned();
    FILTER.get().ok_or_else(none)?.reload(filter).map_err(|error| error.to_string())
}
