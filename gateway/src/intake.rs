//! Between the ports and the outbox: the queue, and when it is committed.
//!
//! ```text
//! ports --try_send--> queue --+--> pending --commit--> outbox
//!      |                      |
//!      +--> rules -- events --+
//! alerts ------------ events -+
//! ```
//!
//! At most one commit of readings per `commit_interval`, the first after a pause at once: a
//! 1 Hz sensor is durable immediately, a fast one costs a card a bounded number of writes.
//! An event commits at once and takes waiting readings along. A group that fills half of the
//! queue commits early: refusing would be worse than writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fieldpost_protocol::{EventKind, Seq, Stream, StreamKey};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::clock::Now;
use crate::live::Live;
use crate::outbox::{AppendError, Appended, Gone, NewEvent, Outbox, OutboxThread, Snapshot};
use crate::rules::Rules;
use crate::serial::Measured;

/// Events that wait for a commit; the sender keeps what finds it full.
pub const EVENTS_MAX: usize = 64;

/// Counted since the start, for status and demo.
#[derive(Debug, Default)]
pub struct Counted {
    /// Readings committed.
    pub accepted: AtomicU64,
    /// Readings refused because the outbox is full.
    pub refused_full: AtomicU64,
    /// Readings of commits that failed and may yet be durable.
    pub refused_in_doubt: AtomicU64,
    /// Accepted readings that `drop_oldest` let go before storage had them.
    pub dropped: AtomicU64,
}

/// What the driver learns of a commit.
#[derive(Debug)]
pub enum Committed {
    /// Rows up to here exist.
    Rows {
        /// The epoch that was appended to, and all streams where rows were dropped to make room,
        /// or found that nobody knew of.
        snapshot: Snapshot,
        /// The epoch's streams with their last rows.
        rows: Vec<(StreamKey, Seq)>,
        /// Whether readings were refused for want of room; `None`: there were none to take.
        full: Option<bool>,
    },
    /// The outbox could not be written; what waits is tried again.
    Failing(String),
    /// A commit failed and may yet be durable; a new epoch has begun.
    InDoubt(String),
    /// The file is damaged: the gateway has to start anew.
    Damaged(String),
}

/// See the module.
pub struct Intake {
    /// Readings from the ports.
    pub readings: mpsc::Receiver<Measured>,
    /// Alerts, and later command acks.
    pub events: mpsc::Receiver<NewEvent>,
    /// Where they go.
    pub outbox: OutboxThread,
    /// Who has to know.
    pub committed: mpsc::Sender<Committed>,
    /// The newest values.
    pub live: Live,
    /// What of them is an alert.
    pub rules: Rules,
    /// It was logged that there is no room for events.
    pub full_logged: bool,
    /// Counted since the start.
    pub counted: Arc<Counted>,
    /// At most one commit of readings in this time.
    pub commit_interval: watch::Receiver<Duration>,
    /// Readings held here; the channel holds as many again.
    pub pending_max: usize,
}

impl Intake {
    /// Runs until the senders of readings and events are gone; then commits what is left.
    #[allow(clippy::disallowed_methods, reason = "a driver: it decides when a commit is due")]
    pub async fn run(mut self) -> Result<(), Gone> {
        let mut pending: Vec<Measured> = Vec::new();
        let mut events: Vec<NewEvent> = Vec::new();
        let mut due = Instant::now();
        let (mut more_readings, mut more_events) = (true, true);
        while more_readings || more_events || !pending.is_empty() || !events.is_empty() {
            let space = self.pending_max.saturating_sub(pending.len());
            let ending = !more_readings && !more_events;
            let have = !pending.is_empty() || !events.is_empty();
            tokio::select! {
                biased;
                event = self.events.recv(), if more_events && events.len() < EVENTS_MAX => match event {
                    Some(event) => events.push(event),
                    None => more_events = false,
                },
                taken = self.readings.recv_many(&mut pending, space), if more_readings && space > 0 => {
                    more_readings = taken > 0;
                    let from = pending.len() - taken;
                    self.live.update(&pending[from..]);
                    self.rules.look(&pending[from..]);
                    self.rules.take(&mut events, EVENTS_MAX);
                    if taken > 0 && events.is_empty() && Instant::now() < due && pending.len() < self.pending_max {
                        continue;
                    }
                }
                () = self.rules.told() => {}
                () = tokio::time::sleep_until(due), if have => {}
            }
            self.rules.take(&mut events, EVENTS_MAX);
            let urgent = !events.is_empty() || ending || pending.len() >= self.pending_max;
            if (Instant::now() >= due || urgent) && !(pending.is_empty() && events.is_empty()) {
                let failed = self.commit(&mut pending, &mut events).await?;
                due = Instant::now() + *self.commit_interval.borrow();
                if failed && ending {
                    tracing::error!(readings = pending.len(), "not written before the end");
                    return Ok(());
                }
                if failed {
                    tokio::time::sleep_until(due).await;
                }
            }
        }
        Ok(())
    }

    /// One commit of all that waits. True if it failed and has to be tried again.
    async fn commit(
        &mut self,
        pending: &mut Vec<Measured>,
        events: &mut Vec<NewEvent>,
    ) -> Result<bool, Gone> {
        let (readings, news) = (std::mem::take(pending), std::mem::take(events));
        let job = move |outbox: &mut Outbox| {
            let result = outbox.append(&readings, &news, Now::read());
            let changed = result.as_ref().is_ok_and(|appended| appended.streams_changed);
            (result, outbox.snapshot(changed), outbox.current_rows(), readings, news)
        };
        let (result, snapshot, rows, readings, news) = self.outbox.call(job).await?;
        let mut refused = false;
        let committed = match result {
            Ok(appended) => {
                self.count(&appended);
                if appended.refused_events > 0 {
                    // Whoever looks at storage would take it for raised, or cleared, for ever.
                    *events = news;
                    events.retain(is_of_rule);
                    refused = !events.is_empty();
                }
                Committed::Rows { snapshot, rows, full: appended.full() }
            }
            Err(error @ AppendError::InDoubt(_)) => {
                // Never inserted again: it may be durable. An alert may come twice instead.
                self.counted.refused_in_doubt.fetch_add(readings.len() as u64, Ordering::Relaxed);
                *events = news;
                Committed::InDoubt(error.to_string())
            }
            Err(error @ AppendError::Damaged(_)) => {
                (*pending, *events) = (readings, news);
                Committed::Damaged(error.to_string())
            }
            Err(error @ AppendError::Failed(_)) => {
                (*pending, *events) = (readings, news);
                Committed::Failing(error.to_string())
            }
        };
        let failed = refused || !matches!(committed, Committed::Rows { .. });
        self.tell(committed).await;
        Ok(failed)
    }

    async fn tell(&self, committed: Committed) {
        // The driver ends after the intake; without one there is nobody to tell.
        let _ = self.committed.send(committed).await;
    }

    fn count(&mut self, appended: &Appended) {
        self.counted.accepted.fetch_add(appended.readings as u64, Ordering::Relaxed);
        self.counted.refused_full.fetch_add(appended.refused_full as u64, Ordering::Relaxed);
        self.counted.dropped.fetch_add(appended.dropped, Ordering::Relaxed);
        let full = appended.refused_events > 0;
        if full && !std::mem::replace(&mut self.full_logged, true) {
            let events = appended.refused_events;
            tracing::error!(
                events,
                "the outbox is full beyond its reserve: alerts show in the status file only"
            );
        } else if appended.events > 0 {
            self.full_logged = false;
        }
    }
}

/// Such an event is not dropped: raised and cleared come in turn.
fn is_of_rule(event: &NewEvent) -> bool {
    matches!(event.kind, EventKind::Alert { lasting: true, .. })
}

impl Outbox {
    /// The last rows of the current epoch's streams.
    pub(crate) fn current_rows(&self) -> Vec<(StreamKey, Seq)> {
        let (epoch, _) = self.epoch();
        let rows = [Stream::Events, Stream::Readings].into_iter().filter_map(|stream| {
            let last = self.last_of(stream);
            (last > 0).then_some((StreamKey { epoch, stream }, last))
        });
        rows.collect()
    }
}
