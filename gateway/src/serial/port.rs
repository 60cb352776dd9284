//! One port: open it, read it, open it again.
//!
//! A device that is unplugged reads as an end of file (a pty, a USB adapter) or as EIO; both
//! mean: open the same path again, with backoff, until it is back. The half line that it left
//! is dropped. The reader waits for its device and for nobody else.
//!
//! A person may ask for the port (`release`), to write a new sketch to the board: then it is
//! closed for a while.

use std::sync::Arc;
use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_protocol::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_serial::{ClearBuffer, SerialPort, SerialStream};

use super::close::Openings;
use super::counters::count;
use super::open::{Opened, Opener};
use super::outlet::Outlet;
use super::talk::{Board, Reply, Talk};
use super::{Counters, Decoded, Decoder, PortConfig, socket};

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
        /// What about the machine will keep it from working all the same, and what to do.
        hints: Vec<String>,
    },
    /// It cannot be opened, or has hung up. Said once until it opens again.
    Lost {
        /// Its name.
        port: Arc<str>,
        /// What happened, and what to do.
        reason: String,
    },
    /// It was asked for, and is closed for a while.
    Released {
        /// Its name.
        port: Arc<str>,
        /// For so long.
        time: Duration,
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
    /// Closes it for a while.
    pub releaser: Releaser,
    /// Sends it commands, if it is a device.
    pub board: Board,
    settings: watch::Sender<PortConfig>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PortHandle {
    /// What is read from here on is described by this, at the same place and under the same name. The
    /// port stays open, and a line that has begun goes on.
    pub fn retune(&self, config: PortConfig) {
        let _ = self.settings.send(config);
    }

    /// Stops reading, closes the port and waits until that is done. What was read is in the
    /// queue, an open window too; what the kernel still held is not.
    pub async fn stop(self) {
        drop(self.stop);
        // The task ends by itself; if it has panicked, the port is closed too.
        let _ = self.task.await;
    }
}

/// Closes a port for a while, so that another program can have it.
#[derive(Debug, Clone)]
pub struct Releaser {
    /// The port's name.
    pub port: Arc<str>,
    until: watch::Sender<Instant>,
    openings: Openings,
}

impl Releaser {
    /// Closes the port for so long from now on; zero opens it again at once.
    #[allow(clippy::disallowed_methods, reason = "a driver: it counts how long a port is closed")]
    pub fn release(&self, time: Duration) {
        let _ = self.until.send(Instant::now() + time);
    }

    /// Waits a moment until the port is closed. `false`: its driver takes longer.
    pub async fn closed(&self) -> bool {
        self.openings.closed().await
    }
}

/// Starts to read a port on the current runtime.
///
/// Never waits for `readings` or `events`: what finds them full is dropped and counted.
/// Ends when the handle is dropped or the receiver of `readings` is.
#[allow(clippy::disallowed_methods, reason = "a driver: it counts how long a port is closed")]
pub fn spawn(
    config: PortConfig,
    clock: fn() -> i64,
    readings: mpsc::Sender<Measured>,
    events: mpsc::Sender<PortEvent>,
) -> PortHandle {
    let outlet = Arc::new(Outlet::new(&config, clock, readings, events));
    let counters = outlet.counters.clone();
    let (stop, stopped) = oneshot::channel();
    let (until, released) = watch::channel(Instant::now());
    let openings = Openings::default();
    let releaser = Releaser { port: config.name.clone(), until, openings: openings.clone() };
    let board = Board::new(config.name.clone());
    let to_board = board.clone();
    let (settings, settings_now) = watch::channel(config.clone());
    let task = tokio::spawn(async move {
        // Reading may be given up anywhere: the decoder holds only what was not accepted.
        tokio::select! {
            _ = stopped => {}
            () = read_unless_released(&config, &settings_now, &outlet, &to_board, &openings, released) => {}
            () = outlet.end_windows() => {}
        }
        openings.closed().await;
        outlet.end();
    });
    PortHandle { counters, releaser, board, settings, stop, task }
}

#[allow(clippy::disallowed_methods, reason = "a driver: it counts how long a port is closed")]
async fn read_unless_released(
    port: &PortConfig,
    settings: &watch::Receiver<PortConfig>,
    outlet: &Arc<Outlet>,
    board: &Board,
    openings: &Openings,
    mut released: watch::Receiver<Instant>,
) {
    // Kept while the port is closed: the board's next `#n` tells what went to somebody else.
    let mut tuned = Tuned::new(settings, outlet);
    loop {
        if *released.borrow_and_update() <= Instant::now() {
            // A port that is open is not closed to be opened again: that would reset an Uno.
            let is_wanted = |until: &Instant| *until > Instant::now();
            tokio::select! {
                () = read_forever(port, settings, outlet, board, openings, &mut tuned) => return,
                Ok(_) = released.wait_for(is_wanted) => {}
            }
            tuned.decoder.reopened();
        }
        let until = *released.borrow_and_update();
        let time = until.saturating_duration_since(Instant::now());
        outlet.event(PortEvent::Released { port: port.name.clone(), time });
        openings.closed().await;
        tokio::select! {
            () = sleep_until(until) => {}
            Ok(()) = released.changed() => {}
        }
    }
}

async fn read_forever(
    port: &PortConfig,
    settings: &watch::Receiver<PortConfig>,
    outlet: &Arc<Outlet>,
    board: &Board,
    openings: &Openings,
    tuned: &mut Tuned,
) {
    let mut opener = Opener::default();
    let mut opened_before = false;
    let mut said = false;
    let mut failures = 0;
    loop {
        let reason = match opener.open(port).await {
            Err(reason) => reason,
            Ok(opened) => {
                count(&outlet.counters.reopened, u64::from(opened_before));
                (opened_before, said) = (true, false);
                let opened_with = |hints| PortEvent::Opened { port: port.name.clone(), hints };
                let end = match opened {
                    Opened::Device(stream, hints) => {
                        outlet.event(opened_with(hints));
                        let mut held = openings.hold(stream, discard);
                        read(held.device(), tuned, outlet, board.talk(), &mut failures).await
                    }
                    Opened::Socket(listener) => {
                        outlet.event(opened_with(Vec::new()));
                        End::Lost(socket::serve(&listener, settings, outlet).await)
                    }
                };
                openings.closed().await;
                tuned.decoder.reopened();
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

/// A decoder, and what it is to be.
#[derive(Debug)]
pub(super) struct Tuned {
    settings: watch::Receiver<PortConfig>,
    decoder: Decoder,
}

impl Tuned {
    pub(super) fn new(settings: &watch::Receiver<PortConfig>, outlet: &Outlet) -> Tuned {
        let mut settings = settings.clone();
        let port = settings.borrow_and_update().clone();
        Tuned { settings, decoder: Decoder::new(port, outlet.counters.clone()) }
    }

    /// The decoder of the next bytes.
    pub(super) fn now(&mut self, outlet: &Outlet) -> &mut Decoder {
        if self.settings.has_changed().unwrap_or(false) {
            let port = self.settings.borrow_and_update().clone();
            outlet.retune(&port);
            self.decoder.retune(port);
        }
        &mut self.decoder
    }
}

fn reopen_after(failures: usize) -> Duration {
    let within = REOPEN_WITHIN_MS[failures.min(REOPEN_WITHIN_MS.len() - 1)];
    Duration::from_millis(fastrand::u64(0..=within))
}

/// What is not sent yet of a line: whoever has asked is told that the board perhaps does not have it.
fn discard(stream: &SerialStream) {
    // Of one that is gone nothing is left to be discarded.
    let _ = stream.clear(ClearBuffer::Output);
}

enum End {
    Lost(String),
    NobodyReads,
}

/// Reads until the device is gone. Bytes that arrive end a row of failures: a device that
/// opens and hangs up at once is not worth a hundred openings a second.
async fn read(
    stream: &mut SerialStream,
    tuned: &mut Tuned,
    outlet: &Outlet,
    mut talk: Talk,
    failures: &mut usize,
) -> End {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = [0; READ_BYTES_MAX];
    loop {
        let is_writing = !talk.unwritten().is_empty();
        tokio::select! {
            read = reader.read(&mut buffer) => match read {
                Ok(0) => return End::Lost("it has hung up: was it unplugged?".to_owned()),
                Ok(bytes) => {
                    *failures = 0;
                    let boot_ms = outlet.now_ms();
                    tuned.now(outlet).push(&buffer[..bytes], |decoded| hear(decoded, boot_ms, outlet, &mut talk));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return End::Lost(format!("it cannot be read: {error}")),
            },
            // A board that takes nothing must not keep us from reading it.
            wrote = writer.write(talk.unwritten()), if is_writing => match wrote {
                Ok(bytes) => {
                    talk.wrote(bytes);
                    if talk.unwritten().is_empty() {
                        point!("command.written");
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return End::Lost(format!("it cannot be written: {error}")),
            },
            () = talk.silence() => talk.end(Reply::Silent),
            () = talk.filled() => talk.take(),
        }
        if outlet.is_closed() {
            return End::NobodyReads;
        }
    }
}

/// An answer goes to whoever has asked, everything else on its way.
fn hear(decoded: Decoded, boot_ms: i64, outlet: &Outlet, talk: &mut Talk) {
    match decoded {
        Decoded::Answer(answer) => {
            let id = answer.id;
            if !talk.answered(answer) {
                tracing::debug!(port = %outlet.port, id, "an answer that nobody waits for");
            }
        }
        decoded => {
            if matches!(decoded, Decoded::Reading { .. } | Decoded::Boot(_) | Decoded::Ignored) {
                talk.heard();
            }
            if matches!(decoded, Decoded::Boot(_)) {
                talk.end(Reply::Gone("the board has restarted".to_owned()));
            }
            drop(outlet.give(decoded, boot_ms));
        }
    }
}

#[cfg(test)]
mod tests;
