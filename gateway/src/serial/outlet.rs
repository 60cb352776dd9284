//! Where readings and events of a port go. Nothing here waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::counters::count;
use super::port::{Measured, PortEvent};
use super::window::Window;
use super::{Counters, Decoded, PortConfig};

/// What whoever sent a line is told, where somebody can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// It is on its way into the outbox, or into an open window.
    Taken,
    /// It measures nothing that is kept.
    Ignored,
    /// Why it is not taken.
    Refused(String),
}

/// See the module.
pub(super) struct Outlet {
    pub(super) port: Arc<str>,
    clock: fn() -> i64,
    readings: mpsc::Sender<Measured>,
    events: mpsc::Sender<PortEvent>,
    pub(super) counters: Arc<Counters>,
    window: Mutex<Option<Window>>,
    /// There is another window.
    changed: Notify,
}

impl Outlet {
    pub(super) fn new(
        config: &PortConfig,
        clock: fn() -> i64,
        readings: mpsc::Sender<Measured>,
        events: mpsc::Sender<PortEvent>,
    ) -> Self {
        Outlet {
            port: config.name.clone(),
            clock,
            readings,
            events,
            counters: Arc::default(),
            window: Mutex::new(config.averaging.clone().map(Window::new)),
            changed: Notify::new(),
        }
    }

    /// What comes from here on is described by this: it shares no window with what came before.
    pub(super) fn retune(&self, config: &PortConfig) {
        self.end();
        *self.window() = config.averaging.clone().map(Window::new);
        self.changed.notify_one();
    }

    fn window(&self) -> MutexGuard<'_, Option<Window>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CLOCK_BOOTTIME.
    pub(super) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// Nobody takes readings any more: the process is ending.
    pub(super) fn is_closed(&self) -> bool {
        self.readings.is_closed()
    }

    /// Hands on what a line said. `None` for what is not about that line alone.
    pub(super) fn give(&self, decoded: Decoded, boot_ms: i64) -> Option<Reply> {
        let port = || self.port.clone();
        match decoded {
            Decoded::Reading { source, metrics } => {
                return Some(self.reading(Measured { source, boot_ms, metrics }));
            }
            Decoded::Ignored => return Some(Reply::Ignored),
            Decoded::Refused(refusal) => return Some(Reply::Refused(refusal.to_string())),
            Decoded::Hint(text) => {
                self.event(PortEvent::Hint { port: port(), text });
                return None;
            }
            Decoded::Boot(text) => self.event(PortEvent::Boot { port: port(), text }),
            // On a socket, to which no commands go.
            Decoded::Answer(answer) => {
                tracing::debug!(port = %self.port, id = answer.id, "an answer that nobody waits for");
            }
        }
        Some(Reply::Taken)
    }

    fn reading(&self, measured: Measured) -> Reply {
        let mut window = self.window();
        let Some(window) = window.as_mut() else { return self.queue(measured) };
        // What becomes of the window before it is counted, and is no answer to this line.
        let passed = window.push(measured, |ended| drop(self.queue(ended)));
        passed.map_or(Reply::Taken, |measured| self.queue(measured))
    }

    fn queue(&self, measured: Measured) -> Reply {
        match self.readings.try_send(measured) {
            Ok(()) => {
                count(&self.counters.accepted_by_queue, 1);
                Reply::Taken
            }
            Err(TrySendError::Full(_)) => {
                count(&self.counters.refused_queue_full, 1);
                Reply::Refused("the queue is full; send it again later".to_owned())
            }
            // The reader notices after this chunk.
            Err(TrySendError::Closed(_)) => Reply::Refused("the gateway is ending".to_owned()),
        }
    }

    /// Gives out windows as they end. Never returns.
    pub(super) async fn end_windows(&self) {
        loop {
            let rest_ms = self.window().as_mut().map(|window| {
                let now_ms = self.now_ms();
                window.end_before(now_ms, |ended| drop(self.queue(ended)));
                window.rest_ms(now_ms)
            });
            let ended = async {
                match rest_ms {
                    Some(rest_ms) => sleep(Duration::from_millis(rest_ms)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// The port is closing for good: what is in its open window is accepted as it stands.
    pub(super) fn end(&self) {
        if let Some(window) = self.window().as_mut() {
            window.end(self.now_ms(), |ended| drop(self.queue(ended)));
        }
    }

    pub(super) fn event(&self, event: PortEvent) {
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            count(&self.counters.events_dropped, 1);
            tracing::info!(?event, "nobody took this event of a port in time");
        }
    }
}
