//! The one thread that owns the outbox: jobs go in, answers come back.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::Outbox;

type Job = Box<dyn FnOnce(&mut Outbox) + Send>;

/// The outbox's thread has ended: it panicked, or was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outbox's thread has ended")]
pub struct Gone;

/// A handle on the thread. Jobs run in the order in which they were given.
///
/// Nobody floods it: each caller waits for the answer before it asks again, so as many jobs
/// are queued as there are callers.
#[derive(Clone)]
pub struct OutboxThread {
    jobs: mpsc::Sender<Job>,
}

impl OutboxThread {
    /// Starts the thread. The second value resolves when it has ended, after the last handle
    /// is gone: with the result of closing.
    pub fn start(mut outbox: Outbox) -> (Self, oneshot::Receiver<rusqlite::Result<()>>) {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name("outbox".to_owned())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    job(&mut outbox);
                }
                let _ = ended.send(outbox.close());
            })
            .expect("a process that has just started may start a thread");
        (OutboxThread { jobs }, end)
    }

    /// Asks the thread for a sign of life; it answers after the jobs before.
    pub fn ask(&self) -> Result<oneshot::Receiver<()>, Gone> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |_| {
            let _ = answer.send(());
        });
        self.jobs.send(job).map_err(|_| Gone)?;
        Ok(answered)
    }

    /// Runs a job on the outbox and returns what it returns.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Outbox) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |outbox| {
            let _ = answer.send(job(outbox));
        });
        self.jobs.send(job).map_err(|_| Gone)?;
        answered.await.map_err(|_| Gone)
    }
}
