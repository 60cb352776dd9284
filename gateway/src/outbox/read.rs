//! Reading batches: a whole segment as it is, or a run of rows.

use fieldpost_protocol::{
    BATCH_READINGS_MAX, Clock, Epoch, Event, Reading, Seq, Stream, StreamKey, decode_readings,
    encode_runs,
};
use rusqlite::{OptionalExtension, params};

use super::{Outbox, Row, seal};

/// A batch before its envelope, which is built at each send.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Which stream.
    pub key: StreamKey,
    /// The first row.
    pub first: Seq,
    /// How many rows.
    pub n: u64,
    /// The lowest row held.
    pub floor: Seq,
    /// The highest row given.
    pub last: Seq,
    /// Unix milliseconds of offset 0; `None`: the time is not known, nothing may be sent.
    pub base: Option<(i64, Clock)>,
    /// A command ack (its topic differs from an alert's).
    pub command_ack: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Outbox {
    /// The batch that begins at `from`, at most `rows_max` rows; `None` where there is no such
    /// row (any more). A segment that cannot be decoded is one batch as it is, wherever in it
    /// `from` lies.
    pub fn read_batch(
        &self,
        key: StreamKey,
        from: Seq,
        rows_max: usize,
    ) -> rusqlite::Result<Option<Batch>> {
        let Some((&(id, _), row)) = self.streams.iter().find(|(_, row)| row.key == key) else {
            return Ok(None);
        };
        if from < row.floor || from > row.last {
            return Ok(None);
        }
        let found = match key.stream {
            Stream::Events => self.read_event(id, from)?,
            Stream::Readings => match self.read_segment(id, from, rows_max)? {
                None => self.read_rows(id, from, rows_max)?,
                found => found,
            },
        };
        let Some((first, n, body)) = found else { return Ok(None) };
        let command_ack = key.stream == Stream::Events
            && Event::decode(&body).is_ok_and(|event| event.is_command_ack());
        let Row { floor, last, .. } = *row;
        Ok(Some(Batch {
            key,
            first,
            n: n as u64,
            floor,
            last,
            base: self.base_of(id)?,
            command_ack,
            body,
        }))
    }

    /// Readings that are held from one moment to another, in Unix milliseconds, by whole segments: at
    /// least those, and of epochs that have a time.
    pub fn spans_between(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> rusqlite::Result<Vec<(StreamKey, Seq, Seq)>> {
        let mut statement = self.conn.prepare(
            "SELECT epoch.epoch, first, last FROM (
                 SELECT epoch, first, last, t0, t1 FROM segment
                 UNION ALL SELECT epoch, min(seq), max(seq), min(t), max(t) FROM tail GROUP BY epoch
             ) AS held JOIN epoch ON epoch.id = held.epoch
             WHERE base + t1 >= ?1 AND base + t0 <= ?2 ORDER BY epoch.id, first",
        )?;
        let rows = statement.query_map([since_ms, until_ms], |row| {
            let key = StreamKey { epoch: Epoch(row.get(0)?), stream: Stream::Readings };
            Ok((key, row.get::<_, i64>(1)? as Seq, row.get::<_, i64>(2)? as Seq))
        })?;
        rows.collect()
    }

    /// What is held of these rows.
    pub fn span_within(
        &self,
        (key, from, to): (StreamKey, Seq, Seq),
    ) -> rusqlite::Result<Option<(StreamKey, Seq, Seq)>> {
        let row = self.streams.values().find(|row| row.key == key);
        let held = row.map(|row| (key, from.max(row.floor), to.min(row.last)));
        Ok(held.filter(|(_, from, to)| from <= to))
    }

    /// The first row that is held from there on: behind what was let go, or is gone.
    pub fn first_held(&self, key: StreamKey, from: Seq) -> rusqlite::Result<Option<Seq>> {
        let Some(row) = self.streams.values().find(|row| row.key == key) else { return Ok(None) };
        let from = from.max(row.floor);
        let holes = self.holes()?;
        let hole = holes.iter().find(|hole| hole.contains(key, from));
        let first = hole.map_or(from, |hole| hole.last + 1);
        Ok((first <= row.last).then_some(first))
    }

    fn base_of(&self, epoch_id: i64) -> rusqlite::Result<Option<(i64, Clock)>> {
        let mut statement =
            self.conn.prepare_cached("SELECT base, clock FROM epoch WHERE id = ?1")?;
        let (base, clock): (Option<i64>, Option<String>) =
            statement.query_row([epoch_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let clock = match clock.as_deref() {
            Some("ntp") => Clock::Ntp,
            Some("bridge") => Clock::Bridge,
            _ => Clock::Unsynced,
        };
        Ok(base.map(|base| (base, clock)))
    }

    fn read_event(&self, id: i64, seq: Seq) -> rusqlite::Result<Option<Found>> {
        let mut statement =
            self.conn.prepare_cached("SELECT body FROM event WHERE epoch = ?1 AND seq = ?2")?;
        statement.query_row(params![id, seq as i64], |row| Ok((seq, 1, row.get(0)?))).optional()
    }

    /// A segment that begins at `from` goes as it is; of one that contains `from` the rest is
    /// encoded anew, so that rows which left the tail a second ago are not all sent twice.
    fn read_segment(&self, id: i64, from: Seq, rows_max: usize) -> rusqlite::Result<Option<Found>> {
        let mut statement = self.conn.prepare_cached(
            "SELECT first, last, body FROM segment WHERE epoch = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1",
        )?;
        let found = statement
            .query_row(params![id, from as i64], |row| {
                Ok((
                    row.get::<_, i64>(0)? as Seq,
                    row.get::<_, i64>(1)? as Seq,
                    row.get::<_, Vec<u8>>(2)?,
                ))
            })
            .optional()?;
        let Some((first, last, body)) = found.filter(|(_, last, _)| *last >= from) else {
            return Ok(None);
        };
        let n = (last - first + 1) as usize;
        if first == from && n <= rows_max {
            return Ok(Some((first, n, body)));
        }
        match decode_readings(&body, n as u64) {
            Ok(readings) => Ok(first_run(from, &readings[(from - first) as usize..], rows_max)),
            // Damage that SQLite could not see. The bridge keeps the body as a dead letter.
            Err(error) => {
                tracing::error!(first, last, %error, "a segment cannot be decoded; it is sent as it is");
                Ok(Some((first, n, body)))
            }
        }
    }

    fn read_rows(&self, id: i64, from: Seq, rows_max: usize) -> rusqlite::Result<Option<Found>> {
        let rows = seal::read_tail(&self.conn, id, from, rows_max.min(BATCH_READINGS_MAX))?;
        // Up to a hole: what stands behind it has other numbers.
        let run = (from..).zip(rows).take_while(|(expected, (seq, _))| seq == expected);
        let readings: Vec<Reading> = run.map(|(_, (_, reading))| reading).collect();
        Ok(first_run(from, &readings, rows_max))
    }

    /// Every reading that is held, oldest first: for `fieldpost-gateway readings`. Returns how
    /// many are gone from between them, or cannot be decoded.
    pub fn export(
        &self,
        mut each: impl FnMut(StreamKey, Seq, Option<(i64, Clock)>, &Reading),
    ) -> rusqlite::Result<u64> {
        let mut lost = 0;
        let holes = self.holes()?;
        for (&(id, stream), row) in &self.streams {
            let mut from = row.floor;
            while stream == Stream::Readings && from <= row.last {
                let Some(batch) = self.read_batch(row.key, from, BATCH_READINGS_MAX)? else {
                    let hole = holes.iter().find(|hole| hole.contains(row.key, from));
                    let end = hole.map_or(row.last, |hole| hole.last);
                    lost += end - from + 1;
                    from = end + 1;
                    continue;
                };
                match decode_readings(&batch.body, batch.n) {
                    Ok(readings) => {
                        let base = self.base_of(id)?;
                        for (at, reading) in readings.iter().enumerate() {
                            each(row.key, from + at as Seq, base, reading);
                        }
                    }
                    Err(_) => lost += batch.n,
                }
                from = batch.first + batch.n;
            }
        }
        Ok(lost)
    }
}

/// The first row, how many, and the body.
type Found = (Seq, usize, Vec<u8>);

fn first_run(first: Seq, readings: &[Reading], rows_max: usize) -> Option<Found> {
    let run = &readings[..readings.len().min(rows_max.max(1))];
    let (n, body) = encode_runs(run).into_iter().next()?;
    Some((first, n, body))
}
