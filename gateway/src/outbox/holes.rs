//! Holes: rows that were given and are held no more, though nothing has let them go. The card
//! is failing, or somebody deleted them.
//!
//! Trims and `drop_oldest` let go from the front, and the floor moves with them: whatever is not
//! there of `floor..=last` went by neither.

use std::collections::BTreeMap;

use fieldpost_protocol::{Seq, Stream, StreamKey};

use super::{Batch, Outbox, Row, schema};

/// Rows `first..=last` of a stream are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Which stream.
    pub key: StreamKey,
    /// The first row that is gone.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
    /// Storage is not known to have all of them.
    pub unacked: bool,
}

impl Hole {
    /// Whether the row is one of them.
    pub fn contains(&self, key: StreamKey, seq: Seq) -> bool {
        self.key == key && (self.first..=self.last).contains(&seq)
    }
}

impl Outbox {
    /// As [`read_batch`](Self::read_batch); where a row that should be held is not there, with the
    /// holes of all streams.
    pub fn read_batch_or_holes(
        &mut self,
        key: StreamKey,
        from: Seq,
        rows_max: usize,
    ) -> rusqlite::Result<(Option<Batch>, Vec<Hole>)> {
        let batch = self.read_batch(key, from, rows_max)?;
        if batch.is_none() && self.old_tails {
            // A commit in doubt has ended the epoch: it may have let rows go, and be durable.
            self.load_streams()?;
        }
        // Below the floor it was let go, and who keeps a list of the streams is told of that.
        let should_be = |row: &Row| row.key == key && (row.floor..=row.last).contains(&from);
        let is_gone = batch.is_none() && self.streams.values().any(should_be);
        Ok((batch, if is_gone { self.holes()? } else { Vec::new() }))
    }

    /// Every hole; those of one stream in order.
    pub fn holes(&self) -> rusqlite::Result<Vec<Hole>> {
        let mut expected: BTreeMap<(i64, Stream), Seq> =
            self.streams.iter().map(|(&at, row)| (at, row.floor)).collect();
        let mut holes = Vec::new();
        let mut note = |row: &Row, expected: Seq, found: Seq| {
            // A commit in doubt may have left rows beyond `last`.
            let (first, last) = (expected, found.saturating_sub(1).min(row.last));
            if first <= last {
                holes.push(Hole { key: row.key, first, last, unacked: row.acked < last });
            }
        };
        const HELD: &str = concat!(schema::held!(), " ORDER BY epoch, stream, first");
        let mut statement = self.conn.prepare_cached(HELD)?;
        let mut held = statement.query([])?;
        while let Some(run) = held.next()? {
            let at = (run.get(0)?, schema::stream_of(run, 1)?);
            // On a damaged page any number may stand.
            let (first, last): (i64, i64) = (run.get(2)?, run.get(3)?);
            let (first, last) = (first.max(0) as Seq, last.max(0) as Seq);
            if let (Some(row), Some(expected)) = (self.streams.get(&at), expected.get_mut(&at)) {
                note(row, *expected, first);
                *expected = (*expected).max(last + 1);
            }
        }
        for (at, expected) in expected {
            note(&self.streams[&at], expected, Seq::MAX);
        }
        Ok(holes)
    }
}
