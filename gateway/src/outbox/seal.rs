//! Sealing: the tail's rows become segments, each the exact body of a batch.

use std::collections::BTreeMap;

use fieldpost_fail_point::point;
use fieldpost_protocol::{BATCH_READINGS_MAX, Metrics, Reading, Seq, Stream, encode_runs};
use rusqlite::{Connection, Transaction, params};

use super::{Outbox, Row};

/// Rows in the tail that are sealed.
pub(super) const ROWS_MAX: usize = BATCH_READINGS_MAX;
/// A group of this many seals the tail and itself at once: it then costs the card a third
/// of what its rows would (measured).
pub(super) const GROUP_SEALS: usize = 64;

/// Streams whose `last` and `acked` were written, with what was written.
pub(super) type Saved = Vec<((i64, Stream), (Seq, Seq))>;

/// Seals an epoch's tail together with a group that was never in it: `group` begins at
/// `group_first`.
pub(super) fn seal_tail(
    transaction: &Transaction<'_>,
    epoch_id: i64,
    group_first: Seq,
    group: &[Reading],
) -> rusqlite::Result<usize> {
    let tail = read_tail(transaction, epoch_id, 0, usize::MAX)?;
    let (mut seqs, mut readings): (Vec<Seq>, Vec<Reading>) = tail.into_iter().unzip();
    seqs.extend((group_first..).take(group.len()));
    readings.extend_from_slice(group);
    let mut rest = &readings[..];
    // What stands behind a hole keeps its numbers.
    for run in seqs.chunk_by(|seq, next| *next == seq + 1) {
        let mut first = run[0];
        for (n, body) in encode_runs(&rest[..run.len()]) {
            let (run, after) = rest.split_at(n);
            insert_segment(transaction, epoch_id, first, run, &body)?;
            point!("outbox.append.segment_inserted");
            first += n as Seq;
            rest = after;
        }
    }
    transaction.prepare_cached("DELETE FROM tail WHERE epoch = ?1")?.execute([epoch_id])?;
    point!("outbox.append.tail_deleted");
    Ok(readings.len())
}

fn insert_segment(
    transaction: &Transaction<'_>,
    epoch_id: i64,
    first: Seq,
    run: &[Reading],
    body: &[u8],
) -> rusqlite::Result<()> {
    let last = first + run.len() as Seq - 1;
    let t0 = run.iter().map(|reading| reading.offset_ms).min();
    let t1 = run.iter().map(|reading| reading.offset_ms).max();
    transaction
        .prepare_cached(
            "INSERT INTO segment (epoch, first, last, t0, t1, bytes, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![epoch_id, first as i64, last as i64, t0, t1, body.len() as i64, body])?;
    Ok(())
}

/// The rows of an epoch's tail from `from` on, in order.
pub(super) fn read_tail(
    conn: &Connection,
    epoch_id: i64,
    from: Seq,
    rows_max: usize,
) -> rusqlite::Result<Vec<(Seq, Reading)>> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, t, source, body FROM tail WHERE epoch = ?1 AND seq >= ?2 ORDER BY id LIMIT ?3",
    )?;
    let limit = rows_max.min(i64::MAX as usize) as i64;
    let rows = statement.query_map(params![epoch_id, from as i64, limit], |row| {
        let body: String = row.get(3)?;
        let metrics = Metrics::from_json(&body).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                3,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        })?;
        let source: String = row.get(2)?;
        let seq = row.get::<_, i64>(0)? as Seq;
        Ok((seq, Reading { source: source.into(), offset_ms: row.get(1)?, metrics }))
    })?;
    rows.collect()
}

/// Writes `last` and `acked` of every stream where they changed. `acked_counts`: the file names the
/// gen of the storage that has acknowledged.
pub(super) fn save_streams(
    transaction: &Transaction<'_>,
    streams: &BTreeMap<(i64, Stream), Row>,
    acked_counts: bool,
) -> rusqlite::Result<Saved> {
    let mut saved = Vec::new();
    for (&(id, stream), row) in streams {
        let acked = if acked_counts { row.acked } else { row.floor - 1 };
        let values = (row.last, acked);
        if values != row.saved {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO stream (epoch, stream, last, acked) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![id, stream.as_str(), row.last as i64, acked as i64])?;
            saved.push(((id, stream), values));
        }
    }
    Ok(saved)
}

impl Outbox {
    /// Seals what ended epochs left in the tail: at start, and after an epoch ended.
    pub(super) fn seal_old_tails(&mut self) -> rusqlite::Result<usize> {
        let transaction = self.conn.unchecked_transaction()?;
        let epochs: Vec<i64> = {
            let mut statement =
                transaction.prepare("SELECT DISTINCT epoch FROM tail WHERE epoch IS NOT ?1")?;
            let ids = statement.query_map([self.current.id], |row| row.get(0))?;
            ids.collect::<rusqlite::Result<_>>()?
        };
        let mut sealed = 0;
        for id in epochs {
            sealed += seal_tail(&transaction, id, 0, &[])?;
        }
        point!("outbox.seal_old.before_commit");
        transaction.commit()?;
        point!("outbox.seal_old.after_commit");
        self.old_tails = false;
        Ok(sealed)
    }
}
