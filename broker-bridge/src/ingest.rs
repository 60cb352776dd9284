//! Messages become rows: several to a transaction, answers only after its commit.
//!
//! ```text
//! messages -> parse -> txn { batches in key order; hellos; devices' words } -> COMMIT
//!                                                   sync acks, states  -> the driver publishes
//!                                                   which are durable  -> the driver PUBACKs
//! ```
//!
//! Commands go out the same way: with the hello of their device, and [`issue_due`] later again.
//!
//! A transaction that fails because of its content is taken apart, message by message; the
//! one that storage refuses even alone becomes a dead letter. One that fails because the
//! storage cannot be used leaves its messages uncommitted: the caller tries again.

mod commands;
mod parse;
mod work;

use fieldpost_fail_point::point;
use fieldpost_protocol::{Command, DeviceId, Instance, State, SyncAcks, Topic};

use crate::engine::Engine;
use crate::store::{Alarm, Identity, Store, StoreError, Txn};
pub use commands::{ISSUED_AT_ONCE_MAX, issue_due};
pub(crate) use commands::{made_id, take_ack};
use parse::Work;
use work::Round;

/// Messages that one transaction takes at most: enough that the fsync is shared, few enough
/// that none waits long for its neighbours.
pub const TRANSACTION_MESSAGES_MAX: usize = 64;

/// A message as it came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Where it came by; of a device.
    pub topic: Topic,
    /// What it says.
    pub payload: Vec<u8>,
    /// The broker had kept it: nobody can say how old it is.
    pub retained: bool,
    /// Who has received it. Of a command only.
    pub receipt: Receipt,
}

/// One message as one bridge has received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Which bridge.
    pub by: Instance,
    /// Random bytes, made when it came: a command without an id gets its own from them, the same one
    /// however often its transaction is tried.
    pub id: [u8; 16],
}

impl Default for Receipt {
    /// Of a message that is no command.
    fn default() -> Self {
        Receipt { by: Instance([0; 16]), id: [0; 16] }
    }
}

/// What goes to a device, after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Rows are committed.
    SyncAcks(DeviceId, SyncAcks),
    /// Answers a page of a hello. `time` is that of the transaction; who publishes it later
    /// sets it anew.
    State(DeviceId, State),
    /// A command; its target stands in the ledger. With QoS 1, never retained.
    Command(DeviceId, Command),
}

/// What became of some messages.
#[derive(Debug, Default)]
pub struct Ingested {
    /// One for each message, in order: it is durable, or nothing of it ever has to be.
    pub committed: Vec<bool>,
    /// What to publish, in order; all of it is durable.
    pub answers: Vec<Answer>,
    /// What to log.
    pub alarms: Vec<Alarm>,
    /// Which storage took them, read in the last transaction.
    pub identity: Option<Identity>,
    /// Readings newly stored.
    pub readings: u64,
    /// Why some are not committed.
    pub error: Option<StoreError>,
}

/// Takes messages into storage. `now` in Unix ms, the cloud's time.
pub fn ingest<S: Store>(
    store: &mut S,
    engine: &Engine,
    messages: &[Incoming],
    now: i64,
) -> Ingested {
    let work: Vec<Work<'_>> = messages.iter().map(parse::parse).collect();
    let mut done = Ingested { committed: vec![false; work.len()], ..Ingested::default() };
    let all: Vec<usize> = (0..work.len()).collect();
    match transact(store, engine, &work, &all, None, now) {
        Ok(round) => done.take(&all, round),
        Err(StoreError::Unavailable(why)) => done.error = Some(StoreError::Unavailable(why)),
        // One of them is to blame.
        Err(_) => one_by_one(store, engine, &work, now, &mut done),
    }
    done
}

fn one_by_one<S: Store>(
    store: &mut S,
    engine: &Engine,
    work: &[Work<'_>],
    now: i64,
    done: &mut Ingested,
) {
    for at in 0..work.len() {
        let alone = [at];
        let mut result = transact(store, engine, work, &alone, None, now);
        if let Err(StoreError::Refused(reason)) = &result {
            let reason = reason.clone();
            result = transact(store, engine, work, &alone, Some(&reason), now);
        }
        match result {
            Ok(round) => done.take(&alone, round),
            Err(error) => {
                let unavailable = matches!(error, StoreError::Unavailable(_));
                done.error = Some(error);
                if unavailable {
                    return;
                }
            }
        }
    }
}

/// One transaction for these messages; with a reason they become dead letters.
fn transact<S: Store>(
    store: &mut S,
    engine: &Engine,
    work: &[Work<'_>],
    which: &[usize],
    refused: Option<&str>,
    now: i64,
) -> Result<work::Outcome, StoreError> {
    let mut txn = store.begin()?;
    let outcome = {
        let mut round = Round::new(&mut txn, engine, refused, now)?;
        round.run(which.iter().map(|&at| &work[at]))?;
        round.finish()?
    };
    point!("ingest.before_commit");
    txn.commit()?;
    point!("ingest.after_commit");
    Ok(outcome)
}

impl Ingested {
    fn take(&mut self, which: &[usize], outcome: work::Outcome) {
        which.iter().for_each(|&at| self.committed[at] = true);
        self.answers.extend(outcome.answers);
        self.alarms.extend(outcome.alarms);
        self.readings += outcome.readings;
        self.identity = Some(outcome.identity);
    }
}
