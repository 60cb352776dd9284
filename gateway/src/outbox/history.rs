//! The connectivity history in the outbox's file: see `crate::history`.
//!
//! Nothing that matters depends on it. It is written seldom, in commits of its own, and a failure is
//! its caller's to tell; no reading waits for it, or is refused for its sake.

use std::path::Path;

use fieldpost_fail_point::point;
use fieldpost_protocol::Clock;
use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, params};

use super::{Outbox, RESERVE_BYTES};
use crate::history::{Changes, Hour, Kept, Link, Transition};

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS link_hour (
    no INTEGER PRIMARY KEY, hour INTEGER NOT NULL, clock TEXT NOT NULL, successes INTEGER NOT NULL,
    failures INTEGER NOT NULL, consecutive_failures INTEGER NOT NULL, readings INTEGER NOT NULL,
    online_ms INTEGER NOT NULL, transitions INTEGER NOT NULL, last_error TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS link_transition (
    no INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, clock TEXT NOT NULL, link TEXT NOT NULL, why TEXT NOT NULL
) STRICT;
";

/// Up to here the reserve is the history's, too, which never holds more than half a megabyte; the
/// rest is kept for events.
const LEFT_BYTES: u64 = RESERVE_BYTES / 2;

impl Outbox {
    /// What is kept of connectivity.
    pub fn history(&self) -> rusqlite::Result<Kept> {
        read(&self.conn)
    }

    /// Writes what has changed. False: there is no room for it, and nothing was written.
    pub fn write_history(&mut self, changes: &Changes) -> rusqlite::Result<bool> {
        if self.used_bytes()? + LEFT_BYTES > self.settings.size_bytes_max {
            return Ok(false);
        }
        let transaction = self.conn.unchecked_transaction()?;
        for (sql, gone) in [
            ("DELETE FROM link_hour WHERE no = ?1", &changes.hours_gone),
            ("DELETE FROM link_transition WHERE no = ?1", &changes.transitions_gone),
        ] {
            for no in gone {
                transaction.prepare_cached(sql)?.execute([no])?;
            }
        }
        for hour in &changes.hours {
            let sql = "INSERT OR REPLACE INTO link_hour (no, hour, clock, successes, failures, consecutive_failures,
                       readings, online_ms, transitions, last_error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
            transaction.prepare_cached(sql)?.execute(params![
                hour.no,
                hour.hour,
                hour.clock.as_str(),
                hour.successes as i64,
                hour.failures as i64,
                hour.consecutive_failures as i64,
                hour.readings as i64,
                hour.online_ms as i64,
                hour.transitions as i64,
                hour.last_error
            ])?;
        }
        for Transition { no, unix_ms, clock, link, why, .. } in &changes.transitions {
            let sql = "INSERT OR REPLACE INTO link_transition (no, unix_ms, clock, link, why) VALUES (?1, ?2, ?3, ?4, ?5)";
            let row = params![no, unix_ms, clock.as_str(), link.as_str(), why];
            transaction.prepare_cached(sql)?.execute(row)?;
        }
        point!("outbox.history.before_commit");
        transaction.commit()?;
        point!("outbox.history.after_commit");
        Ok(true)
    }
}

/// What is kept of connectivity in an outbox that may be another process's.
///
/// # Errors
/// When it cannot be read, or was made by a gateway that kept no history.
pub fn read_history(path: &Path) -> rusqlite::Result<Kept> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    read(&conn)
}

fn read(conn: &Connection) -> rusqlite::Result<Kept> {
    let sql = "SELECT no, hour, clock, successes, failures, consecutive_failures, readings, online_ms, transitions,
               last_error FROM link_hour ORDER BY no";
    let mut query = conn.prepare(sql)?;
    let hours = query.query_map([], |row| {
        let count = |at| row.get::<_, i64>(at).map(|count| count.max(0) as u64);
        Ok(Hour {
            no: row.get(0)?,
            hour: row.get(1)?,
            clock: clock_of(row, 2)?,
            boot_ms: None,
            successes: count(3)?,
            failures: count(4)?,
            consecutive_failures: count(5)?,
            readings: count(6)?,
            online_ms: count(7)?,
            transitions: count(8)?,
            last_error: row.get(9)?,
        })
    })?;
    let hours = hours.collect::<Result<_, _>>()?;
    let sql = "SELECT no, unix_ms, clock, link, why FROM link_transition ORDER BY no";
    let mut query = conn.prepare(sql)?;
    let transitions = query.query_map([], |row| {
        let link: String = row.get(3)?;
        let link: Link = link.parse().map_err(|_| not_of_ours(row, 3))?;
        let (no, unix_ms, why) = (row.get(0)?, row.get(1)?, row.get(4)?);
        Ok(Transition { no, unix_ms, clock: clock_of(row, 2)?, boot_ms: None, link, why })
    })?;
    Ok(Kept { hours, transitions: transitions.collect::<Result<_, _>>()? })
}

fn clock_of(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Clock> {
    let word: String = row.get(at)?;
    let clocks = [Clock::Ntp, Clock::Bridge, Clock::Unsynced];
    let clock = clocks.into_iter().find(|clock| clock.as_str() == word);
    clock.ok_or_else(|| not_of_ours(row, at))
}

fn not_of_ours(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Error {
    let name = row.as_ref().column_name(at).unwrap_or_default().to_owned();
    rusqlite::Error::InvalidColumnType(at, name, Type::Text)
}
