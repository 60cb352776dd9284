//! One port: open it, read it, open it again.
//!
//! A device that is unplugged reads as an end of file (a pty, a USB adapter) or as EIO; both
//! mean: open the same path again, with backoff, until it is back. The half line that it left
//! is dropped. The reader waits for its device and for nobody else.

use std::sync::Arc;
use std::time::Duration;

use fieldpost_protocol::Metrics;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_serial::SerialStream;

use super::counters::count;
use super::open::Opener;
use super::{Counters, Decoded, Decoder, PortConfig};

/// After the first, second... failure the port is opened again within so many milliseconds
/// (full jitter); after all of them the last one stays.
const REOPEN_WITHIN_MS: [u64; 7] = [100, 200, 400, 800, 1_600, 3_200, 5_000];
/// Bytes of one read: what the kernel holds of a port at most.
const READ_BYTES_MAX: usize = 4_096;

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
    let counters = Arc::new(Counters::default());
    let outlet =
        Outlet { port: config.name.clone(), clock, readings, events, counters: counters.clone() };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        // Reading may be given up anywhere: the decoder holds only what was not accepted.
        tokio::select! {
            _ = stopped => {}
            () = read_forever(config, outlet) => {}
        }
    });
    PortHandle { counters, stop, task }
}

async fn read_forever(port: PortConfig, outlet: Outlet) {
    let mut opener = Opener::default();
    let mut decoder = Decoder::new(port.clone(), outlet.counters.clone());
    let mut opened_before = false;
    let mut said = false;
    let mut failures = 0;
    loop {
        let reason = match opener.open(&port).await {
            Err(reason) => reason,
            Ok(stream) => {
                count(&outlet.counters.reopened, u64::from(opened_before));
                (opened_before, said) = (true, false);
                outlet.event(PortEvent::Opened { port: port.name.clone() });
                let end = read(stream, &mut decoder, &outlet, &mut failures).await;
                decoder.reopened();
                match end {
                    End::Lost(reason) => reason,
                    End::NobodyReads => return,
                }
            }
        };
        if !said {
            outlet.event(PortEvent::Lost { port: port.name.clone(), reason });
            said = true;
        }
        sleep(reopen_after(failures)).await;
        failures += 1;
    }
}

fn reopen_after(failures: usize) -> Duration {
    let within = REOPEN_WITHIN_MS[failures.min(REOPEN_WITHIN_MS.len() - 1)];
    Duration::from_millis(fastrand::u64(0..=within))
}

enum End {
    Lost(String),
    NobodyReads,
}

/// Reads until the device is gone. Bytes that arrive end a row of failures: a device that
/// opens and hangs up at once is not worth a hundred openings a second.
async fn read(
    mut stream: SerialStream,
    decoder: &mut Decoder,
    outlet: &Outlet,
    failures: &mut usize,
) -> End {
    let mut buffer = [0; READ_BYTES_MAX];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return End::Lost("it has hung up: was it unplugged?".to_owned()),
            Ok(bytes) => {
                *failures = 0;
                let boot_ms = (outlet.clock)();
                decoder.push(&buffer[..bytes], |decoded| outlet.give(decoded, boot_ms));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return End::Lost(format!("it cannot be read: {error}")),
        }
        if outlet.readings.is_closed() {
            return End::NobodyReads;
        }
    }
}

/// Where readings and events go. Nothing here waits.
struct Outlet {
    port: Arc<str>,
    clock: fn() -> i64,
    readings: mpsc::Sender<Measured>,
    events: mpsc::Sender<PortEvent>,
    counters: Arc<Counters>,
}

impl Outlet {
    fn give(&self, decoded: Decoded, boot_ms: i64) {
        let port = || self.port.clone();
        match decoded {
            Decoded::Reading { source, metrics } => {
                self.reading(Measured { source, boot_ms, metrics })
            }
            Decoded::Hint(text) => self.event(PortEvent::Hint { port: port(), text }),
            Decoded::Boot(text) => self.event(PortEvent::Boot { port: port(), text }),
            // Nothing sends commands to boards yet, so nobody waits for this answer.
            Decoded::Answer(answer) => {
                tracing::debug!(port = %self.port, id = answer.id, "answer to no command of ours");
            }
        }
    }

    fn reading(&self, measured: Measured) {
        match self.readings.try_send(measured) {
            Ok(()) => count(&self.counters.accepted_by_queue, 1),
            Err(TrySendError::Full(_)) => count(&self.counters.refused_queue_full, 1),
            // The process is ending; the reader notices after this chunk.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    fn event(&self, event: PortEvent) {
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            count(&self.counters.events_dropped, 1);
            tracing::info!(?event, "nobody took this event of a port in time");
        }
    }
}

#[cfg(test)]
mod tests;
