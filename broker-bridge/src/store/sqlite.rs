//! The storage in one SQLite file: WAL and `synchronous=FULL`, so that a commit that has
//! returned survives a power cut.
//!
//! ```text
//! application_id  "FPBS"       a file without it is not ours and is never opened
//! user_version    1            a higher one was written by a newer program: refused
//! ```
//!
//! Several processes may have it open: bridges write in turns (`BEGIN IMMEDIATE`), and who
//! reads never locks a writer out.

mod commands;
mod deadletter;
mod desired;
mod epochs;
mod events;
mod open;
mod query;
mod sound;
mod txn;

pub use deadletter::{DeadLetter, DeadLetterError, DeadLetters};
pub(crate) use desired::Report;
pub use desired::{Desired, DesiredTable};
pub use open::{OpenError, SCHEMA_VERSION};
pub use query::{Query, ReadingFilter, Row, Rows, Status};
pub use txn::SqliteTxn;

use std::path::Path;

use fieldpost_fail_point::point;
use fieldpost_protocol::{Gen, Instance, StoreId};
use rusqlite::{Connection, ErrorCode, InterruptHandle, OptionalExtension, TransactionBehavior};

use super::ledger::LEASE_MS;
use super::{Identity, Store, StoreError};
use crate::clock;

/// The largest file that is checked at each start, also after an orderly end: about 2 s in memory.
/// From a card it has to be read first, 10 s more at 25 MB/s: reckoned, not measured.
const CHECK_BYTES_MAX: u64 = 256 << 20;

/// A storage, opened for writing.
#[derive(Debug)]
pub struct SqliteStore {
    db: Connection,
    file: open::FileId,
    in_vain: epochs::InVain,
}

impl SqliteStore {
    /// Makes a new storage; with `adopt` under the id of an earlier one, whose rows it does
    /// not have. Refused where a file stands already. `now` in Unix ms.
    pub fn init(path: &Path, adopt: Option<StoreId>, now: i64) -> Result<Identity, OpenError> {
        open::init(path, adopt, now)
    }

    /// Opens a storage that `init` has made. Nothing is touched where it is refused.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (mut db, file) = open::read_write(path)?;
        add(&mut db, path)?;
        Ok(SqliteStore { db, file, in_vain: epochs::InVain::new() })
    }

    /// Opens a backup that was put in place, for [`SqliteStore::restored`]: nothing but a sound
    /// file without a log. `with_gaps`: also one that lacks rows which it counts as stored.
    pub fn open_backup(path: &Path, with_gaps: bool) -> Result<Self, OpenError> {
        if let Some(log) = open::log_of(path) {
            return Err(OpenError::LogBesideBackup(log));
        }
        match sound::check(&open::read_only(path)?, path) {
            Err(OpenError::Gaps { .. }) if with_gaps => {}
            checked => checked?,
        }
        Self::open(path)
    }

    /// Whether a start has to [`check`](Self::check) it first: there is a log, so that its last
    /// user did not end in order or the log may be another's; or it is small. Before it is opened.
    pub fn is_check_due(path: &Path) -> bool {
        let is_small = || std::fs::metadata(path).is_ok_and(|file| file.len() <= CHECK_BYTES_MAX);
        open::log_of(path).is_some() || is_small()
    }

    /// Checks the whole file: its pages, and that its rows are those that it counts as stored.
    pub fn check(&self) -> Result<(), OpenError> {
        sound::check(&self.db, &self.file.path)
    }

    /// Ends a [`check`](Self::check) that runs.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        self.db.get_interrupt_handle()
    }

    /// Which storage it is.
    pub fn identity(&self) -> Result<Identity, StoreError> {
        identity(&self.db)
    }

    /// Announces that this storage was restored from a backup: a new incarnation, so that
    /// every gateway says again what it holds. `now` in Unix ms.
    pub fn restored(&mut self, now: i64) -> Result<Identity, StoreError> {
        let random =
            clock::random_id().map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let generation = Gen(random);
        point!("store.restored.before_commit");
        self.db
            .execute("UPDATE store SET gen = ?1, changed = ?2", (&generation.0[..], now))
            .map_err(store_error)?;
        point!("store.restored.after_commit");
        self.identity()
    }
}

impl Store for SqliteStore {
    type Txn<'s> = SqliteTxn<'s>;

    fn begin(&mut self) -> Result<SqliteTxn<'_>, StoreError> {
        let txn = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(store_error)?;
        self.file.check()?;
        Ok(SqliteTxn::new(txn, &self.file, &mut self.in_vain))
    }

    fn is_look_due(&mut self, holder: Instance, now: i64) -> Result<bool, StoreError> {
        let sql = "SELECT holder = ?1, until - ?2 FROM command_lease";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?));
        let mut query = self.db.prepare_cached(sql).map_err(store_error)?;
        let lease = query.query_row((&holder.0[..], now), read).optional().map_err(store_error)?;
        match lease {
            Some((false, left)) if (1..=LEASE_MS).contains(&left) => return Ok(false),
            Some((true, left)) if (LEASE_MS / 3..=LEASE_MS).contains(&left) => {}
            _ => return Ok(true),
        }
        let due = "SELECT EXISTS (SELECT 1 FROM command WHERE outcome IS NULL AND next_at <= ?1)";
        let mut query = self.db.prepare_cached(due).map_err(store_error)?;
        query.query_row([now], |row| row.get(0)).map_err(store_error)
    }
}

/// What was added to version 1, and the last thing that each makes: where it is, all of it is.
const ADDED: [(&str, &str); 2] = [
    (include_str!("sqlite/held.sql"), "epoch_named"),
    (include_str!("sqlite/commands.sql"), "command_lease"),
];

/// Adds what is not there: to a storage that is new, or of an earlier program.
fn add(db: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let failed =
        |error: rusqlite::Error| OpenError::Io { path: path.to_owned(), why: error.to_string() };
    add_to(db).map_err(failed)
}

fn add_to(db: &mut Connection) -> rusqlite::Result<()> {
    let lacks = |db: &Connection, last: &str| -> rusqlite::Result<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
        db.query_row(sql, [last], |row| row.get(0))
    };
    if !lacks(db, ADDED[0].1)? && !lacks(db, ADDED[1].1)? {
        return Ok(());
    }
    let txn = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (sql, last) in ADDED {
        // Another bridge may have been first.
        if lacks(&txn, last)? {
            point!("store.add_held.before_tables");
            txn.execute_batch(sql)?;
        }
    }
    point!("store.add_held.before_commit");
    txn.commit()?;
    point!("store.add_held.after_commit");
    Ok(())
}

fn identity(db: &Connection) -> Result<Identity, StoreError> {
    let row: (Vec<u8>, Vec<u8>) = db
        .prepare_cached("SELECT id, gen FROM store")
        .and_then(|mut query| query.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(store_error)?;
    let id = |bytes: Vec<u8>| {
        bytes.try_into().map_err(|_| StoreError::Damaged("table store has no valid ids".into()))
    };
    Ok(Identity { store: StoreId(id(row.0)?), r#gen: Gen(id(row.1)?) })
}

/// Sorts SQLite's errors by what a caller would do differently.
fn store_error(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::ConstraintViolation
            | ErrorCode::TooBig
            | ErrorCode::TypeMismatch
            | ErrorCode::ParameterOutOfRange => StoreError::Refused(text),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Damaged(text),
            _ => StoreError::Unavailable(text),
        },
        rusqlite::Error::ToSqlConversionFailure(_) => StoreError::Refused(text),
        rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => StoreError::Damaged(text),
        _ => StoreError::Unavailable(text),
    }
}
