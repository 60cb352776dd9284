//! Letting go: by age, by size, for room; and the tombstone of what is gone wholly.

use fieldpost_fail_point::point;
use fieldpost_protocol::{Seq, Stream};
use rusqlite::{Transaction, params};

use super::{Outbox, Row, TOMBSTONES_MAX};

/// Segments, and events, that one trim lets go: after a long outage there may be a gigabyte to let go,
/// and commits wait behind it.
const PER_TRIM_MAX: usize = 128;

/// What one trim let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Further rows may go at once.
    pub more: bool,
    /// Readings.
    pub readings: u64,
    /// Events.
    pub events: u64,
}

/// A segment as the index knows it.
struct Segment {
    id: i64,
    epoch: i64,
    first: Seq,
    last: Seq,
    bytes: u64,
    /// Its time is known, or was guessed.
    timed: bool,
    newest_ms: i64,
}

impl Outbox {
    /// How long, and how much of, what is acknowledged is kept from the next trim on.
    pub fn change_retention(&mut self, kept: &crate::config::Outbox) {
        self.settings.retention_age_ms = kept.retention_age.as_millis() as i64;
        self.settings.retention_bytes = kept.retention_size;
    }

    /// Lets go of what is acknowledged, confirmed, and older or more than retention keeps, a piece of
    /// it at a time. One transaction; nothing to do costs no commit.
    ///
    /// `wall_ms` judges age; a clock that is wrong can only keep rows longer or, by years,
    /// drop acknowledged ones sooner. A recorder judges by age only what has a known time.
    pub fn trim(&mut self, wall_ms: i64) -> rusqlite::Result<Trimmed> {
        let oldest = wall_ms - self.settings.retention_age_ms;
        let segments = self.segments()?;
        // A backlog is not retention: it must not push out what heals a restored storage.
        let may_go =
            |segment: &&Segment| self.may_go(segment.epoch, Stream::Readings, segment.last);
        let mut bytes: u64 = segments.iter().filter(may_go).map(|segment| segment.bytes).sum();
        let (mut gone, mut stopped) = (Vec::new(), None);
        for segment in &segments {
            if gone.len() == PER_TRIM_MAX {
                break;
            }
            let old = segment.newest_ms < oldest && (segment.timed || !self.settings.recorder);
            let due = old || bytes > self.settings.retention_bytes;
            if stopped != Some(segment.epoch)
                && due
                && self.may_go(segment.epoch, Stream::Readings, segment.last)
            {
                bytes -= segment.bytes;
                gone.push(segment.id);
            } else {
                // By contiguous prefix, so that the floor stays one number.
                stopped = Some(segment.epoch);
            }
        }
        let events = self.old_events(oldest)?;
        if gone.is_empty() && events.is_empty() {
            return Ok(Trimmed::default());
        }
        let readings = segments.iter().filter(|segment| gone.contains(&segment.id));
        let trimmed = Trimmed {
            more: gone.len() == PER_TRIM_MAX || events.len() == PER_TRIM_MAX,
            readings: readings.map(|segment| segment.last - segment.first + 1).sum(),
            events: events.len() as u64,
        };
        let transaction = self.conn.unchecked_transaction()?;
        for id in gone {
            transaction.prepare_cached("DELETE FROM segment WHERE id = ?1")?.execute([id])?;
        }
        for id in events {
            transaction.prepare_cached("DELETE FROM event WHERE id = ?1")?.execute([id])?;
        }
        point!("outbox.trim.segments_deleted");
        self.save_streams(&transaction)?;
        self.bury_empty_epochs(&transaction)?;
        point!("outbox.trim.before_commit");
        let outcome = transaction.commit();
        point!("outbox.trim.after_commit");
        // Also after an error: the commit may have happened.
        self.load_streams()?;
        outcome.map(|()| trimmed)
    }

    /// A row may go by age or size only when a state of the present gen listed it as stored:
    /// a storage that was restored from a backup can then be healed. A recorder has nobody
    /// to wait for.
    fn may_go(&self, epoch: i64, stream: Stream, last: Seq) -> bool {
        let stored = |row: &Row| last <= row.acked.min(row.confirmed);
        self.settings.recorder || self.streams.get(&(epoch, stream)).is_some_and(stored)
    }

    fn segments(&self) -> rusqlite::Result<Vec<Segment>> {
        let mut statement = self.conn.prepare_cached(
            "SELECT segment.id, segment.epoch, first, last, bytes, coalesce(base, wall_ms) + t1,
                    coalesce(clock, 'unsynced') <> 'unsynced'
             FROM segment JOIN epoch ON epoch.id = segment.epoch ORDER BY segment.epoch, first",
        )?;
        let rows = statement.query_map([], |row| {
            let (first, last, bytes): (i64, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
            let (first, last, bytes) = (first as Seq, last as Seq, bytes as u64);
            Ok(Segment {
                id: row.get(0)?,
                epoch: row.get(1)?,
                first,
                last,
                bytes,
                newest_ms: row.get(5)?,
                timed: row.get(6)?,
            })
        })?;
        rows.collect()
    }

    /// Events by contiguous prefix, too.
    fn old_events(&self, oldest_ms: i64) -> rusqlite::Result<Vec<i64>> {
        let mut statement = self.conn.prepare_cached(
            "SELECT event.id, event.epoch, seq, coalesce(base, wall_ms) + t
             FROM event JOIN epoch ON epoch.id = event.epoch ORDER BY event.epoch, seq",
        )?;
        let mut rows = statement.query([])?;
        let (mut gone, mut stopped) = (Vec::new(), None);
        while let Some(row) = rows.next()?
            && gone.len() < PER_TRIM_MAX
        {
            let (id, epoch, seq, time): (i64, i64, i64, i64) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            if stopped == Some(epoch) {
                continue;
            }
            if time < oldest_ms && self.may_go(epoch, Stream::Events, seq as Seq) {
                gone.push(id);
            } else {
                stopped = Some(epoch);
            }
        }
        Ok(gone)
    }

    /// Drops the oldest segment to make room; with `acked_only`, the oldest that storage has.
    /// Returns how many readings were let go that storage does not have.
    pub(super) fn drop_oldest_segment(
        &self,
        transaction: &Transaction<'_>,
        acked_only: bool,
    ) -> rusqlite::Result<Option<u64>> {
        let mut statement = transaction
            .prepare_cached("SELECT id, epoch, first, last FROM segment ORDER BY epoch, first")?;
        let mut rows = statement.query([])?;
        let mut oldest = None;
        while let Some(row) = rows.next()? {
            let (id, epoch): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (first, last) = (row.get::<_, i64>(2)? as Seq, row.get::<_, i64>(3)? as Seq);
            let acked = self.streams.get(&(epoch, Stream::Readings)).map_or(0, |row| row.acked);
            let unacked = last.saturating_sub(acked.max(first - 1));
            if unacked == 0 {
                oldest = Some((id, 0));
                break;
            }
            if !acked_only && oldest.is_none() {
                oldest = Some((id, unacked));
            }
        }
        drop(rows);
        let Some((id, lost)) = oldest else { return Ok(None) };
        transaction.prepare_cached("DELETE FROM segment WHERE id = ?1")?.execute([id])?;
        // `last` must survive the rows that it was read from.
        self.save_streams(transaction)?;
        Ok(Some(lost))
    }

    /// An epoch of which nothing is left becomes a tombstone per stream.
    fn bury_empty_epochs(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        const EMPTY: &str = "SELECT id FROM epoch WHERE id IS NOT ?1
             AND NOT EXISTS (SELECT 1 FROM segment WHERE segment.epoch = epoch.id)
             AND NOT EXISTS (SELECT 1 FROM event WHERE event.epoch = epoch.id)
             AND NOT EXISTS (SELECT 1 FROM tail WHERE tail.epoch = epoch.id)";
        let bury = format!(
            "INSERT INTO tombstone (epoch, stream, last)
             SELECT epoch.epoch, stream.stream, stream.last FROM stream JOIN epoch ON epoch.id = stream.epoch
             WHERE epoch.id IN ({EMPTY}) AND stream.last > 0"
        );
        transaction.execute(&bury, params![self.current.id])?;
        point!("outbox.trim.epochs_buried");
        transaction.execute(
            &format!("DELETE FROM stream WHERE epoch IN ({EMPTY})"),
            params![self.current.id],
        )?;
        transaction.execute(
            &format!("DELETE FROM epoch WHERE id IN ({EMPTY})"),
            params![self.current.id],
        )?;
        let dropped = transaction.execute(
            "DELETE FROM tombstone WHERE id NOT IN (SELECT id FROM tombstone ORDER BY id DESC LIMIT ?1)",
            [TOMBSTONES_MAX as i64],
        )?;
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "the oldest tombstones were dropped: what they name is known to storage alone"
            );
        }
        Ok(())
    }
}
