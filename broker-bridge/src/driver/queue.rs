//! Messages on their way to the storage thread: bounded, and a message that has waited too
//! long can be taken out again.
//!
//! ```text
//! events, hellos, words --> urgent ---+--> transaction of its own
//! batches of readings ----> bulk -----+--> up to 64, and what is urgent by then
//! ```
//!
//! What is urgent overtakes: an alert must not wait behind everybody's backlog. No order is lost that
//! counts, since rows are counted by coverage. Whatever is urgent goes alone, so that its transaction
//! is short; and bulk has every second turn, so that it is never starved.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fieldpost_protocol::Topic;

use crate::ingest::Incoming;

/// Messages of each kind in the queue. Brokers keep 20 to 100 unanswered ones per connection, so
/// the bound is for those that do not.
pub(crate) const QUEUE_MESSAGES_MAX: usize = 1_024;
/// Bytes of their payloads, of each kind.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Tells one message from another while the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobId(pub(crate) u64);

/// A message and its name.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) message: Incoming,
}

/// What the storage thread has to do next.
#[derive(Debug)]
pub(crate) struct Taken {
    /// In order.
    pub(crate) jobs: Vec<Job>,
    /// Whether to look for commands that are due.
    pub(crate) look: bool,
}

/// Whether its sender sends it again when nothing answers. What a person has published nobody does.
pub(crate) fn comes_again(topic: &Topic) -> bool {
    !matches!(topic, Topic::Commands(_))
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    urgent: Line,
    bulk: Line,
    /// The last turn was for what is urgent alone.
    bulk_next: bool,
    closed: bool,
    /// It is time to look for commands that are due.
    look: bool,
    /// The storage thread waits for messages.
    idle: bool,
    /// How often it has come by.
    turns: u64,
}

/// Jobs of one kind, in order.
#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    bytes: usize,
}

impl Line {
    fn push(&mut self, job: Job) -> bool {
        let bytes = self.bytes + job.message.payload.len();
        if self.jobs.len() >= QUEUE_MESSAGES_MAX || bytes > QUEUE_BYTES_MAX {
            return false;
        }
        self.bytes = bytes;
        self.jobs.push_back(job);
        true
    }

    fn remove(&mut self, id: JobId) {
        // Given in order.
        if let Ok(at) = self.jobs.binary_search_by_key(&id, |job| job.id) {
            let job = self.jobs.remove(at).expect("it was just found");
            self.bytes -= job.message.payload.len();
        }
    }

    fn take(&mut self, max: usize, jobs: &mut Vec<Job>) {
        let count = self.jobs.len().min(max);
        let from = jobs.len();
        jobs.extend(self.jobs.drain(..count));
        self.bytes -= jobs[from..].iter().map(|job| job.message.payload.len()).sum::<usize>();
    }
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.urgent.jobs.is_empty() && self.bulk.jobs.is_empty()
    }
}

impl Queue {
    /// Adds a message. `false` where the queue is at its bound: the message is not taken, its
    /// sender comes again.
    pub(crate) fn push(&self, job: Job) -> bool {
        let mut inner = self.lock();
        if inner.closed {
            return false;
        }
        let is_bulk = matches!(job.message.topic, Topic::SensorData(_));
        let line = if is_bulk { &mut inner.bulk } else { &mut inner.urgent };
        let taken = line.push(job);
        if taken {
            self.changed.notify_one();
        }
        taken
    }

    /// Takes a message out again, if no transaction has it yet.
    pub(crate) fn forget(&self, id: JobId) {
        let mut inner = self.lock();
        inner.urgent.remove(id);
        inner.bulk.remove(id);
    }

    /// Asks the storage thread to look for commands that are due, once it comes by.
    pub(crate) fn look(&self) {
        self.lock().look = true;
        self.changed.notify_one();
    }

    /// Waits for messages, or for the time to look for commands, and takes up to `max`. `None`: the
    /// queue is closed.
    pub(crate) fn take(&self, max: usize) -> Option<Taken> {
        let mut inner = self.lock();
        inner.turns += 1;
        while inner.is_empty() && !inner.closed && !inner.look {
            inner.idle = true;
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.idle = false;
        if inner.closed {
            return None;
        }
        let mut jobs = Vec::new();
        inner.urgent.take(max, &mut jobs);
        let alone = !jobs.is_empty() && !inner.bulk_next;
        if !alone {
            // One at least: its turn has come.
            let room = max.saturating_sub(jobs.len()).max(1);
            inner.bulk.take(room, &mut jobs);
        }
        inner.bulk_next = alone;
        Some(Taken { jobs, look: std::mem::take(&mut inner.look) })
    }

    /// Waits, unless the queue is closed meanwhile.
    pub(crate) fn pause(&self, time: Duration) {
        let mut inner = self.lock();
        inner.turns += 1;
        let waited = self.changed.wait_timeout_while(inner, time, |inner| !inner.closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Nothing goes in or out any more; what is left is forgotten.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        (inner.urgent, inner.bulk) = Default::default();
        self.changed.notify_all();
    }

    /// How often the storage thread has come by; `None` while it waits and there is nothing for it.
    pub(crate) fn turns(&self) -> Option<u64> {
        let inner = self.lock();
        (!inner.idle || !inner.is_empty() || inner.look).then_some(inner.turns)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// A panic elsewhere leaves the queue as it is, and whole: no step of it can fail.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::Receipt;

    fn job(id: u64, bytes: usize) -> Job {
        let topic = Topic::SensorData("pi-1".parse().unwrap());
        let message = Incoming {
            topic,
            payload: vec![0; bytes],
            retained: false,
            receipt: Receipt::default(),
        };
        Job { id: JobId(id), message }
    }

    fn alert(id: u64) -> Job {
        let topic = Topic::Alerts("pi-1".parse().unwrap());
        Job { id: JobId(id), message: Incoming { topic, ..job(id, 0).message } }
    }

    fn taken(queue: &Queue, max: usize) -> Vec<u64> {
        queue.take(max).unwrap().jobs.iter().map(|job| job.id.0).collect()
    }

    #[test]
    fn what_is_urgent_overtakes_alone_and_starves_nobody() {
        let queue = Queue::default();
        (1..=5).for_each(|id| assert!(queue.push(job(id, 1))));
        (6..=9).for_each(|id| assert!(queue.push(alert(id))));
        assert_eq!(taken(&queue, 2), [6, 7]);
        // Its turn, although more is urgent.
        assert_eq!(taken(&queue, 2), [8, 9, 1]);
        (10..=12).for_each(|id| assert!(queue.push(alert(id))));
        queue.forget(JobId(11));
        assert_eq!(taken(&queue, 64), [10, 12]);
        assert_eq!(taken(&queue, 2), [2, 3]);
        assert_eq!(taken(&queue, 64), [4, 5]);
    }

    #[test]
    fn readings_that_fill_the_queue_keep_no_alert_out() {
        let queue = Queue::default();
        for id in 0..QUEUE_MESSAGES_MAX as u64 {
            assert!(queue.push(job(id, 0)));
        }
        assert!(!queue.push(job(5000, 0)) && queue.push(alert(5001)));
        assert_eq!(taken(&queue, 64), [5001]);
    }

    #[test]
    fn a_full_queue_takes_no_more_and_a_forgotten_message_makes_room() {
        let queue = Queue::default();
        assert!(queue.push(job(1, QUEUE_BYTES_MAX - 1)));
        assert!(!queue.push(job(2, 2)));
        queue.forget(JobId(1));
        queue.forget(JobId(1));
        assert!(queue.push(job(3, 2)));
        let taken = queue.take(9).unwrap();
        assert_eq!(taken.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [JobId(3)]);
        assert!(!taken.look);
        for id in 0..QUEUE_MESSAGES_MAX as u64 {
            assert!(queue.push(job(id, 0)));
        }
        assert!(!queue.push(job(5000, 0)));
        queue.look();
        let taken = queue.take(1).unwrap();
        assert_eq!((taken.jobs.len(), taken.look), (1, true));
        assert!(!queue.take(1).unwrap().look);
        queue.close();
        queue.look();
        assert!(queue.take(1).is_none());
    }
}
