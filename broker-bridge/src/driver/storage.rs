//! The storage thread: takes what is queued, commits it, reports. Once a second it looks for commands
//! that are due.
#![allow(clippy::disallowed_methods, reason = "a driver: it gives the time to the engine")]

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fieldpost_protocol::Instance;
use tokio::sync::mpsc;

use super::queue::{Job, JobId, Queue, Taken, comes_again};
use crate::clock;
use crate::engine::Engine;
use crate::ingest::{Incoming, Ingested, TRANSACTION_MESSAGES_MAX, ingest, issue_due};
use crate::store::{Store, StoreError};

/// First pause after a storage that cannot be used, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A transaction that takes longer is one of too many messages: whatever is urgent waits for its
/// end. But where each takes so long, as on a slow disk, they have to share it.
const LONG: Duration = Duration::from_millis(250);
const SHARED_MIN: usize = 16;
/// ... unless it takes even longer.
const SLOW: Duration = Duration::from_secs(1);
/// Reports that wait for the driver; full, the storage thread waits.
const REPORTS_MAX: usize = 64;

/// What became of some messages.
#[derive(Debug)]
pub(crate) struct Report {
    /// Committed, or never to be: a puback may go, after the answers.
    pub(crate) settled: Vec<JobId>,
    /// What else the transaction has to say.
    pub(crate) ingested: Ingested,
}

/// The thread, the way to it and the way back.
#[derive(Debug)]
pub(crate) struct StorageThread {
    pub(crate) queue: Arc<Queue>,
    pub(crate) reports: mpsc::Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl StorageThread {
    /// Starts it, for the bridge of this name. The engine has every guard on.
    pub(crate) fn start<S>(
        store: S,
        instance: Instance,
        commit_within: Duration,
    ) -> std::io::Result<Self>
    where
        S: Store + Send + 'static,
    {
        let queue = Arc::new(Queue::default());
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let engine = Engine::default();
        let worker =
            Worker { store, engine, instance, queue: queue.clone(), sender, commit_within };
        let thread =
            std::thread::Builder::new().name("storage".into()).spawn(move || worker.run())?;
        Ok(StorageThread { queue, reports, thread: Some(thread) })
    }

    /// Ends it after the transaction that it is in. `false` where it has panicked.
    pub(crate) fn end(mut self) -> bool {
        self.queue.close();
        // Its last report may wait for room.
        self.reports.close();
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

impl Drop for StorageThread {
    fn drop(&mut self) {
        self.queue.close();
    }
}

struct Worker<S> {
    store: S,
    engine: Engine,
    instance: Instance,
    queue: Arc<Queue>,
    sender: mpsc::Sender<Report>,
    commit_within: Duration,
}

/// How many messages the next transaction takes, after one of `count`: fewer while they are slow, so
/// that the word of what is committed does not wait for all of them.
fn next_most(most: usize, count: usize, took: Duration) -> usize {
    match took {
        took if took > SLOW => (most / 2).max(1),
        took if took > LONG => (most / 2).max(SHARED_MIN.min(most)),
        // One of a few messages says little about many.
        _ if count * 2 < most => most,
        _ => (most * 2).min(TRANSACTION_MESSAGES_MAX),
    }
}

impl<S: Store> Worker<S> {
    fn run(mut self) {
        let mut most = TRANSACTION_MESSAGES_MAX;
        loop {
            let Some(Taken { jobs, look }) = self.queue.take(most) else { return };
            if look && !self.look() {
                return;
            }
            let (begun, count) = (Instant::now(), jobs.len());
            if jobs.is_empty() {
                continue;
            }
            if !self.work(jobs) {
                return;
            }
            most = next_most(most, count, begun.elapsed());
        }
    }

    /// Issues commands that are due. `false` where nobody listens.
    fn look(&mut self) -> bool {
        let now = clock::now_ms();
        // What is wrong with the storage is said by whatever has to be written to it.
        if !self.store.is_look_due(self.instance, now).unwrap_or(false) {
            return true;
        }
        let ingested = issue_due(&mut self.store, &self.engine, self.instance, now);
        self.sender.blocking_send(Report { settled: Vec::new(), ingested }).is_ok()
    }

    /// Works on these until each is settled or too old. `false` where nobody listens.
    fn work(&mut self, jobs: Vec<Job>) -> bool {
        let begun = Instant::now();
        let mut pause = PAUSE_FIRST;
        let (mut ids, mut messages): (Vec<JobId>, Vec<Incoming>) =
            jobs.into_iter().map(|job| (job.id, job.message)).unzip();
        loop {
            let ingested = ingest(&mut self.store, &self.engine, &messages, clock::now_ms());
            // Another error than this one is the message's own, and would stay.
            let again = matches!(ingested.error, Some(StoreError::Unavailable(_)));
            let committed = ingested.committed.clone();
            let settled =
                ids.iter().zip(&committed).filter(|(_, done)| !again || **done).map(|(id, _)| *id);
            let settled: Vec<JobId> = settled.collect();
            if self.sender.blocking_send(Report { settled, ingested }).is_err() {
                return false;
            }
            if !again {
                return true;
            }
            // By then the driver has answered the broker and forgotten them, but for what does not come again.
            let is_late = begun.elapsed() > self.commit_within;
            let is_over = |(done, message): (&bool, &Incoming)| {
                *done || is_late && comes_again(&message.topic)
            };
            let over: Vec<bool> = committed.iter().zip(&messages).map(is_over).collect();
            let mut each = over.iter();
            ids.retain(|_| each.next() == Some(&false));
            let mut each = over.iter();
            messages.retain(|_| each.next() == Some(&false));
            if messages.is_empty() || self.queue.is_closed() {
                return true;
            }
            self.queue.pause(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_messages_come_alone_at_last_and_quick_ones_together_again() {
        let after = |from, took| (0..6).fold(from, |most, _| next_most(most, most, took));
        assert_eq!(after(TRANSACTION_MESSAGES_MAX, SLOW * 2), 1);
        assert_eq!(after(1, LONG / 2), TRANSACTION_MESSAGES_MAX);
        assert_eq!(
            (after(TRANSACTION_MESSAGES_MAX, LONG * 2), after(4, LONG * 2)),
            (SHARED_MIN, 4)
        );
        // Alerts alone say nothing of readings.
        assert_eq!(next_most(16, 1, Duration::ZERO), 16);
    }
}
