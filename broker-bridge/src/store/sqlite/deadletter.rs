//! Dead letters by hand: look at them, try them again, give them up.
//!
//! ```text
//! open --retry--> its rows are stored, the letter is gone
//!      --drop---> its rows are missing ("dropped"), the body is gone, the letter stays as proof
//! ```

use std::path::Path;

use fieldpost_fail_point::point;
use fieldpost_protocol::Envelope;
use rusqlite::{OptionalExtension, TransactionBehavior};

use super::super::{NewReadings, StoreError, StreamRef, Txn};
use super::{OpenError, SqliteTxn, open, store_error};
use crate::coverage::{Coverage, Run};
use crate::engine::{Content, Engine, judge_event, judge_readings};
use crate::ingest::take_ack;

/// A storage opened to work on its dead letters. A running bridge goes on meanwhile.
#[derive(Debug)]
pub struct DeadLetters {
    db: rusqlite::Connection,
    file: open::FileId,
}

/// One dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// Its stream's row.
    pub stream: StreamRef,
    /// Which sequence numbers nothing else covers.
    pub runs: Vec<Run>,
    /// `sensor_data`, `alerts` or `command_acks`.
    pub topic: String,
    /// The whole batch as it came; `None` once dropped.
    pub message: Option<Vec<u8>>,
    /// Why it is one.
    pub reason: String,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// No letter of this number.
    #[error("there is no dead letter {0}; `fieldpost-bridge deadletter list` shows those that are")]
    Absent(i64),
    /// It was given up before.
    #[error("dead letter {0} was dropped; its body is gone and its rows are shown as missing")]
    Dropped(i64),
    /// It is still what it was.
    #[error("dead letter {id} is still poison and stays as it is: {reason}")]
    StillPoison {
        /// Its number.
        id: i64,
        /// Why.
        reason: String,
    },
    /// The storage did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DeadLetters {
    /// Opens the storage.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (mut db, file) = open::read_write(path)?;
        super::add(&mut db, path)?;
        Ok(DeadLetters { db, file })
    }

    /// Takes an open one again. Returns how many rows are stored now. `now` in Unix ms.
    pub fn retry(&mut self, id: i64, now: i64) -> Result<u64, DeadLetterError> {
        let txn = begin(&mut self.db)?;
        let letter = load(&txn, id)?;
        let message = letter.message.as_deref().ok_or(DeadLetterError::Dropped(id))?;
        let mut in_vain = super::epochs::InVain::new();
        let mut txn = SqliteTxn::new(txn, &self.file, &mut in_vain);
        let poison = |reason: String| DeadLetterError::StillPoison { id, reason };
        let envelope = Envelope::decode(message).map_err(|error| poison(error.to_string()))?;
        if letter.runs.iter().any(|run| run.0 < envelope.first || run.1 > envelope.end()) {
            let why = format!("dead letter {id} does not hold its rows");
            return Err(StoreError::Damaged(why).into());
        }
        // The device is there: its stream has led here.
        let device = txn.device(&envelope.dev, 0)?;
        let locked = txn.lock_stream(device, envelope.key())?;
        if locked.stream != letter.stream {
            let why = format!("dead letter {id} holds a batch of another stream");
            return Err(StoreError::Damaged(why).into());
        }
        let (base, _) = txn.fix_time(locked.epoch, envelope.base, envelope.clock)?;
        let content = match letter.topic.as_str() {
            "sensor_data" => judge_readings(&envelope, base),
            topic => judge_event(&envelope, base, topic == "command_acks"),
        };
        match content.map_err(|error| poison(error.to_string()))? {
            Content::Readings(readings) => txn.insert_readings(NewReadings {
                device,
                epoch: locked.epoch,
                base,
                first: envelope.first,
                readings: &readings,
                runs: &letter.runs,
            })?,
            Content::Event(event) => {
                txn.insert_event(locked.epoch, envelope.first, base + event.t, &event)?;
                take_ack(&mut txn, &Engine::default(), device, &event, now)?;
            }
        }
        txn.forget_dead_letter(id)?;
        point!("letter.retry.before_commit");
        txn.commit()?;
        point!("letter.retry.after_commit");
        Ok(rows(&letter.runs))
    }

    /// Gives an open one up. Returns how many rows are missing by that. `now` in Unix ms.
    pub fn drop_letter(&mut self, id: i64, now: i64) -> Result<u64, DeadLetterError> {
        let txn = begin(&mut self.db)?;
        let letter = load(&txn, id)?;
        if letter.message.is_none() {
            return Err(DeadLetterError::Dropped(id));
        }
        // Its rows stay covered: were they not, the gateway would send them again, for ever.
        let sql = "UPDATE dead_letter SET message = NULL, dropped = ?2 WHERE id = ?1";
        txn.execute(sql, (id, now)).map_err(store_error)?;
        point!("letter.drop.before_commit");
        txn.commit().map_err(store_error)?;
        point!("letter.drop.after_commit");
        Ok(rows(&letter.runs))
    }
}

fn begin(db: &mut rusqlite::Connection) -> Result<rusqlite::Transaction<'_>, StoreError> {
    db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store_error)
}

fn rows(runs: &[Run]) -> u64 {
    runs.iter().map(|(lo, hi)| hi - lo + 1).sum()
}

/// One of them, whole.
pub(super) fn load(db: &rusqlite::Connection, id: i64) -> Result<DeadLetter, DeadLetterError> {
    let sql = "SELECT stream, seqs, topic, message, reason FROM dead_letter WHERE id = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        let seqs: String = row.get(1)?;
        Ok((row.get(0)?, seqs, row.get(2)?, row.get(3)?, row.get(4)?))
    };
    let found = db.query_row(sql, [id], read).optional().map_err(store_error)?;
    let (stream, seqs, topic, message, reason) = found.ok_or(DeadLetterError::Absent(id))?;
    let runs = Coverage::from_json(&seqs)
        .map_err(|error| StoreError::Damaged(format!("dead letter {id}: {error}")))?;
    let runs = runs.runs().to_vec();
    Ok(DeadLetter { id, stream: StreamRef(stream), runs, topic, message, reason })
}
