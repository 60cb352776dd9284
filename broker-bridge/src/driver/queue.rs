//! Messages on their way to the storage thread: bounded, and a message that has waited too
//! long can be taken out again.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ingest::Incoming;

/// Messages in the queue. Brokers keep 20 to 100 unanswered ones per connection, so the
/// bound is for those that do not.
pub(crate) const QUEUE_MESSAGES_MAX: usize = 1_024;
/// Bytes of their payloads.
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

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
    /// It is time to look for commands that are due.
    look: bool,
    /// The storage thread waits for messages.
    idle: bool,
    /// How often it has come by.
    turns: u64,
}

impl Queue {
    /// Adds a message. `false` where the queue is at its bound: the message is not taken, its
    /// sender comes again.
    pub(crate) fn push(&self, job: Job) -> bool {
        let mut inner = self.lock();
        let bytes = inner.bytes + job.message.payload.len();
        if inner.closed || inner.jobs.len() >= QUEUE_MESSAGES_MAX || bytes > QUEUE_BYTES_MAX {
            return false;
        }
        inner.bytes = bytes;
        inner.jobs.push_back(job);
        self.changed.notify_one();
        true
    }

    /// Takes a message out again, if no transaction has it yet.
    pub(crate) fn forget(&self, id: JobId) {
        let mut inner = self.lock();
        // Given in order, and the oldest is forgotten first: it stands at the front.
        if let Ok(at) = inner.jobs.binary_search_by_key(&id, |job| job.id) {
            let job = inner.jobs.remove(at).expect("it was just found");
            inner.bytes -= job.message.payload.len();
        }
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
        while inner.jobs.is_empty() && !inner.closed && !inner.look {
            inner.idle = true;
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.idle = false;
        if inner.closed {
            return None;
        }
        let count = inner.jobs.len().min(max);
        let jobs: Vec<Job> = inner.jobs.drain(..count).collect();
        inner.bytes -= jobs.iter().map(|job| job.message.payload.len()).sum::<usize>();
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
        inner.jobs.clear();
        inner.bytes = 0;
        self.changed.notify_all();
    }

    /// How often the storage thread has come by; `None` while it waits and there is nothing for it.
    pub(crate) fn turns(&self) -> Option<u64> {
        let inner = self.lock();
        (!inner.idle || !inner.jobs.is_empty() || inner.look).then_some(inner.turns)
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
    use fieldpost_protocol::Topic;

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
