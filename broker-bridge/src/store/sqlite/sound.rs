//! Whether a file is what it says: sound pages, and the rows that it counts as stored.
//!
//! A log of another file, or a copy of a file in use, mixes pages of two moments. Where that
//! breaks the trees SQLite finds it; where it does not, coverage and rows tell of different times.
//!
//! ```text
//! coverage   [1 ............................ 90]
//! letters              [41..45]
//! rows            [20..40]    [46 .......... 90]     1 to 19: deleted by age, which begins there
//! ```

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::open::{OpenError, io};
use crate::coverage::Coverage;

/// Checks the whole file, of which `db` is a connection: 6 s for 1 GB in memory.
pub(super) fn check(db: &Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| io(path, error);
    // All of it at one moment, also beside a running bridge.
    let moment = db.unchecked_transaction().map_err(failed)?;
    let found: String =
        moment.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found != "ok" {
        // SQLite's own words go over several lines.
        let what = found.split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(OpenError::Damaged { path: path.to_owned(), what });
    }
    match gap(&moment).map_err(failed)? {
        Some(what) => Err(OpenError::Gaps { path: path.to_owned(), what }),
        None => Ok(()),
    }
}

/// The first thing that does not add up.
///
/// Events are left out: alerts and command acks share their numbers and may be kept for
/// different times.
fn gap(db: &Connection) -> rusqlite::Result<Option<String>> {
    let mut streams = db.prepare(
        "SELECT s.ref, s.epoch, s.coverage, d.id, lower(hex(e.epoch)) \
         FROM stream s JOIN epoch e ON e.ref = s.epoch JOIN device d ON d.ref = e.device \
         WHERE s.stream = 'readings' ORDER BY s.ref",
    )?;
    let mut rows = streams.query([])?;
    let mut total = 0;
    while let Some(row) = rows.next()? {
        let (stream, epoch, coverage): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (device, id): (String, String) = (row.get(3)?, row.get(4)?);
        let of = format!("of epoch {id} of device {device}");
        let (found, first): (i64, Option<i64>) = db
            .prepare_cached("SELECT count(*), min(seq) FROM reading NOT INDEXED WHERE epoch = ?1")?
            .query_row([epoch], |row| Ok((row.get(0)?, row.get(1)?)))?;
        total += found;
        let first = match first {
            Some(first) => first as u64,
            None if is_deleted_by_age(db, epoch)? => continue,
            None => 1,
        };
        let Ok(coverage) = Coverage::from_json(&coverage) else {
            return Ok(Some(format!("what it counts as stored {of} cannot be read")));
        };
        let in_letters = letters(db, stream, first)?;
        let expected = from(&coverage, first).saturating_sub(in_letters);
        if expected != found as u64 {
            return Ok(Some(format!(
                "it counts {expected} readings {of} as stored and has {found} of them"
            )));
        }
    }
    let listed: i64 =
        db.query_row("SELECT count(*) FROM reading INDEXED BY reading_by_time", [], |row| {
            row.get(0)
        })?;
    Ok((listed != total)
        .then(|| format!("its index by time lists {listed} readings, its streams have {total}")))
}

/// Whether a stream without a row may have been deleted by age: nothing older of its device is left.
fn is_deleted_by_age(db: &Connection, epoch: i64) -> rusqlite::Result<bool> {
    let older = "SELECT 1 FROM epoch e JOIN epoch o ON o.device = e.device AND o.ref < e.ref \
                 JOIN reading r ON r.epoch = o.ref \
                 WHERE e.ref = ?1 AND r.time < e.base LIMIT 1";
    let found: Option<i64> =
        db.prepare_cached(older)?.query_row([epoch], |row| row.get(0)).optional()?;
    Ok(found.is_none())
}

/// How many rows of a stream from `first` on are in dead letters.
fn letters(db: &Connection, stream: i64, first: u64) -> rusqlite::Result<u64> {
    let mut query = db.prepare_cached("SELECT seqs FROM dead_letter WHERE stream = ?1")?;
    let mut rows = query.query([stream])?;
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        let seqs: String = row.get(0)?;
        // Damaged ones count for nothing, and so does not add up.
        sum += Coverage::from_json(&seqs).map_or(0, |runs| from(&runs, first));
    }
    Ok(sum)
}

/// How many of them are at `first` or beyond.
fn from(coverage: &Coverage, first: u64) -> u64 {
    let runs = coverage.runs().iter().filter(|run| run.1 >= first);
    runs.map(|&(lo, hi)| hi - lo.max(first) + 1).sum()
}
