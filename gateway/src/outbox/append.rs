//! Appending: one transaction gives sequence numbers and makes rows durable.

use fieldpost_fail_point::point;
use fieldpost_protocol::{Clock, Epoch, Event, EventKind, Reading, Seq, Stream};
use rusqlite::{Transaction, params};

use super::seal::{self, GROUP_SEALS};
use super::{Current, Outbox, RESERVE_BYTES, Row, WhenFull};
use crate::clock::Now;
use crate::serial::Measured;

/// An alert or command ack on its way into the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// When it happened, CLOCK_BOOTTIME milliseconds.
    pub boot_ms: i64,
    /// What happened.
    pub kind: EventKind,
    /// The rule that tells it, as it is written: kept as long as its alert is raised.
    pub rule: Option<String>,
}

/// What one commit made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// Readings accepted.
    pub readings: usize,
    /// Events accepted.
    pub events: usize,
    /// Readings refused because the outbox is full.
    pub refused_full: usize,
    /// Events refused because even the reserve is used up.
    pub refused_events: usize,
    /// Readings dropped from the front to make room (`drop_oldest`), that storage lacks.
    pub dropped: u64,
    /// Segments went to make room, or rows of a commit in doubt were found: who keeps a list of the
    /// streams has to read it anew.
    pub streams_changed: bool,
}

impl Appended {
    /// Whether readings found the outbox full; `None`: there were none.
    pub fn full(&self) -> Option<bool> {
        (self.readings + self.refused_full > 0).then_some(self.refused_full > 0)
    }
}

/// Why a commit made nothing durable, as far as we know.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// It failed before the commit: surely not durable. The epoch goes on.
    #[error("the outbox could not be written: {0}")]
    Failed(rusqlite::Error),
    /// The commit itself failed: it may be durable all the same. A new epoch has begun.
    #[error("a commit of the outbox failed and may yet be durable: {0}")]
    InDoubt(rusqlite::Error),
    /// The file is damaged: the next start moves it aside.
    #[error("the outbox is damaged: {0}")]
    Damaged(rusqlite::Error),
}

/// Where the last event of a transaction stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) epoch: Epoch,
    pub(super) events_last: Seq,
}

/// Which room events may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// What is left beside the outcomes of commands that run.
    Ordinary,
    /// All of it: the outcome of such a command.
    Outcome,
}

/// What changes in memory once the transaction has committed.
struct Outcome {
    epoch_id: Option<i64>,
    tail: usize,
    readings_last: Seq,
    events_last: Seq,
    appended: Appended,
    saved: Vec<((i64, Stream), (Seq, Seq))>,
    reload: bool,
}

impl Outbox {
    /// Makes readings and events durable in one commit, in their order.
    ///
    /// Readings that find the outbox full are refused or push out the oldest, as configured;
    /// events may use the reserve.
    pub fn append(
        &mut self,
        readings: &[Measured],
        events: &[NewEvent],
        now: Now,
    ) -> Result<Appended, AppendError> {
        let nothing = |_: &Transaction<'_>, _| Ok(());
        let (appended, _) = self.append_with(readings, events, Room::Ordinary, now, nothing)?;
        Ok(appended)
    }

    /// The same, and in the same commit what `record` writes about the events; `None`: they were
    /// refused, and nothing is recorded.
    pub(super) fn append_with<T>(
        &mut self,
        readings: &[Measured],
        events: &[NewEvent],
        room: Room,
        now: Now,
        record: impl FnOnce(&Transaction<'_>, Written) -> rusqlite::Result<T>,
    ) -> Result<(Appended, Option<T>), AppendError> {
        self.check_clock(now);
        let prepared = self.prepare(now).map_err(AppendError::Failed);
        let readings = readings.iter().map(|measured| self.reading(measured)).collect();
        match prepared.and_then(|()| self.transact(readings, events, room, record)) {
            Ok((outcome, recorded)) => Ok((self.apply(outcome), recorded)),
            Err(AppendError::InDoubt(error)) => {
                self.begin_epoch(now);
                Err(AppendError::InDoubt(error))
            }
            Err(AppendError::Failed(error)) if super::schema::is_damage(&error) => {
                super::schema::mark_suspect(&self.settings.path);
                Err(AppendError::Damaged(error))
            }
            Err(error) => Err(error),
        }
    }

    /// What has to be written before the group: commits of their own, that may be repeated.
    fn prepare(&mut self, now: Now) -> rusqlite::Result<()> {
        if self.old_tails {
            self.seal_old_tails()?;
            // The epoch may have ended with a commit in doubt, and its rows be there.
            self.load_streams()?;
            self.streams_changed = true;
        }
        if self.current.base.is_none() && now.synchronised {
            self.fix_bases(now.skew_ms(), Clock::Ntp)?;
        }
        Ok(())
    }

    fn reading(&self, measured: &Measured) -> Reading {
        let offset_ms = measured.boot_ms - self.current.start.boot_ms;
        Reading { source: measured.source.clone(), offset_ms, metrics: measured.metrics.clone() }
    }

    fn transact<T>(
        &mut self,
        mut readings: Vec<Reading>,
        events: &[NewEvent],
        room_of_events: Room,
        record: impl FnOnce(&Transaction<'_>, Written) -> rusqlite::Result<T>,
    ) -> Result<(Outcome, Option<T>), AppendError> {
        let given = events.len();
        let transaction = self.conn.unchecked_transaction().map_err(AppendError::Failed)?;
        let mut outcome = Outcome {
            epoch_id: self.current.id,
            tail: self.current.tail,
            readings_last: self.last_of(Stream::Readings),
            events_last: self.last_of(Stream::Events),
            appended: Appended { streams_changed: self.streams_changed, ..Appended::default() },
            saved: Vec::new(),
            reload: false,
        };
        let room =
            self.make_room(&transaction, &readings, &mut outcome).map_err(AppendError::Failed)?;
        if !room {
            outcome.appended.refused_full = readings.len();
            readings.clear();
        }
        let fit = self.events_fit(events, room_of_events).map_err(AppendError::Failed)?;
        let events = if fit { events } else { &[] };
        outcome.appended.readings = readings.len();
        outcome.appended.events = events.len();
        outcome.appended.refused_events = given - events.len();
        self.write(&transaction, readings, events, &mut outcome).map_err(AppendError::Failed)?;
        let written = Written { epoch: self.current.epoch, events_last: outcome.events_last };
        let recorded = (outcome.appended.refused_events == 0)
            .then(|| record(&transaction, written))
            .transpose()
            .map_err(AppendError::Failed)?;
        point!("outbox.append.before_commit");
        transaction.commit().map_err(uncommitted)?;
        point!("outbox.append.after_commit");
        Ok((outcome, recorded))
    }

    fn write(
        &self,
        transaction: &Transaction<'_>,
        readings: Vec<Reading>,
        events: &[NewEvent],
        outcome: &mut Outcome,
    ) -> rusqlite::Result<()> {
        if readings.is_empty() && events.is_empty() {
            return Ok(());
        }
        let id = match outcome.epoch_id {
            Some(id) => id,
            None => {
                insert_epoch(transaction, &self.current, &self.boot_id)?;
                point!("outbox.append.epoch_inserted");
                *outcome.epoch_id.insert(transaction.last_insert_rowid())
            }
        };
        self.write_readings(transaction, id, readings, outcome)?;
        for event in events {
            outcome.events_last += 1;
            let t = event.boot_ms - self.current.start.boot_ms;
            let body = Event { t, kind: event.kind.clone() }.encode();
            transaction
                .prepare_cached("INSERT INTO event (epoch, seq, t, body) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![id, outcome.events_last as i64, t, body])?;
            super::lasting::record(transaction, event)?;
        }
        Ok(())
    }

    /// Fills the tail; a full tail, or a large group, is sealed in the same transaction.
    fn write_readings(
        &self,
        transaction: &Transaction<'_>,
        id: i64,
        readings: Vec<Reading>,
        outcome: &mut Outcome,
    ) -> rusqlite::Result<()> {
        let mut rest = &readings[..];
        while outcome.tail + rest.len() >= seal::ROWS_MAX || rest.len() >= GROUP_SEALS {
            let fill = (seal::ROWS_MAX - outcome.tail).min(rest.len());
            let (group, after) = rest.split_at(fill);
            seal::seal_tail(transaction, id, outcome.readings_last + 1, group)?;
            outcome.readings_last += group.len() as Seq;
            outcome.tail = 0;
            rest = after;
            outcome.saved = self.save_streams(transaction)?;
        }
        let mut insert = transaction.prepare_cached(
            "INSERT INTO tail (epoch, seq, t, source, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for reading in rest {
            outcome.readings_last += 1;
            let body = reading
                .metrics
                .to_json()
                .expect("a port's decoder makes null of what is not finite");
            insert.execute(params![
                id,
                outcome.readings_last as i64,
                reading.offset_ms,
                &*reading.source,
                body
            ])?;
        }
        outcome.tail += rest.len();
        Ok(())
    }

    /// Whether the readings fit below the limit. Acked segments yield first, then, with
    /// `drop_oldest`, the oldest of all.
    fn make_room(
        &self,
        transaction: &Transaction<'_>,
        readings: &[Reading],
        outcome: &mut Outcome,
    ) -> rusqlite::Result<bool> {
        let need: usize = readings.iter().map(Reading::cost).sum();
        let limit = self.settings.size_bytes_max.saturating_sub(RESERVE_BYTES);
        loop {
            if self.used_bytes()? + need as u64 <= limit {
                return Ok(true);
            }
            if need == 0 {
                return Ok(false);
            }
            let acked_only = self.settings.when_full == WhenFull::Refuse;
            match self.drop_oldest_segment(transaction, acked_only)? {
                Some(dropped) => {
                    point!("outbox.append.oldest_dropped");
                    outcome.appended.dropped += dropped;
                    outcome.reload = true;
                    outcome.appended.streams_changed = true;
                }
                None => return Ok(false),
            }
        }
    }

    /// The last row of a stream of the current epoch; 0: none.
    pub(crate) fn last_of(&self, stream: Stream) -> Seq {
        let row = self.current.id.and_then(|id| self.streams.get(&(id, stream)));
        row.map_or(0, |row| row.last)
    }

    /// The transaction has committed: memory follows.
    fn apply(&mut self, outcome: Outcome) -> Appended {
        let Outcome { epoch_id, tail, readings_last, events_last, appended, saved, reload } =
            outcome;
        self.current.id = epoch_id;
        self.current.tail = tail;
        self.streams_changed = false;
        for (at, values) in saved {
            if let Some(row) = self.streams.get_mut(&at) {
                row.saved = values;
            }
        }
        if let Some(id) = epoch_id {
            for (stream, last) in [(Stream::Readings, readings_last), (Stream::Events, events_last)]
            {
                if last > 0 {
                    let key = self.current.key(stream);
                    let new = Row { key, floor: 1, last, acked: 0, confirmed: 0, saved: (0, 0) };
                    self.streams.entry((id, stream)).or_insert(new).last = last;
                }
            }
        }
        if reload && let Err(error) = self.load_streams() {
            tracing::error!(%error, "the outbox cannot be read after making room");
        }
        appended
    }
}

/// What a COMMIT that failed may have left behind. It says FULL only while it writes frames to
/// the log, before the last of them, which commits, is whole (a log that is not padded to
/// sectors has none after it): surely not durable. A sync that finds no space is an IOERR.
fn uncommitted(error: rusqlite::Error) -> AppendError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
        AppendError::Failed(error)
    } else {
        AppendError::InDoubt(error)
    }
}

fn insert_epoch(
    transaction: &Transaction<'_>,
    current: &Current,
    boot_id: &str,
) -> rusqlite::Result<()> {
    let (base, clock) =
        current.base.map_or((None, None), |(base, clock)| (Some(base), Some(clock.as_str())));
    transaction
        .prepare_cached(
            "INSERT INTO epoch (epoch, boot, start_ms, wall_ms, base, clock) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![current.epoch.0, boot_id, current.start.boot_ms, current.start.wall_ms, base, clock])?;
    Ok(())
}
