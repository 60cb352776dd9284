//! kill -9: at every fail point of gateway and bridge, and at random.
//!
//! A point's kill is `SIGKILL` by the program to itself, at a hit that the seed decides. What the
//! outbox file holds then, read from outside, has to be in storage once the programs run again.

mod bridge;
mod commands;
mod crash;
mod damaged;
mod desired;
mod gateway;
mod home_assistant;
mod ledger;
mod letters;
mod listed;
mod random;
mod restored;
mod room;
mod rules;
mod trim;

/// How a test gets a program to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It gets there by itself, at one of the first so many hits.
    Runs(u64),
    /// Once, before anything else: the outbox is not there yet.
    New,
    /// When it is asked to end.
    Ends,
    /// When the board is unplugged and plugged in again: an alert.
    Replug,
}

/// A point and its cause.
pub(super) type Step = (&'static str, Cause);

/// Runs a test for each point, all of them at once: each waits most of its time.
fn at_once<T: Copy + Send + Sync>(
    points: &[T],
    run: impl Fn(T) -> anyhow::Result<()> + Send + Sync,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let run = &run;
        let runs: Vec<_> = points.iter().map(|&point| scope.spawn(move || run(point))).collect();
        for run in runs {
            run.join().expect("it panics only where a test fails")?;
        }
        Ok(())
    })
}
