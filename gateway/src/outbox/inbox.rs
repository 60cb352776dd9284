//! The inbox: which commands came, and what became of them. In the outbox's file, so that what is
//! recorded and the event that tells of it are one transaction.
//!
//! ```text
//!  started --> done           command: a row for each id, kept for 30 days
//!  (accepted)  (its outcome)
//!  stale                      of an (id, target) that was meant for another epoch
//! ```
//!
//! Always true here:
//! - `started` is durable before a command is done, and room for its outcome is kept.
//! - A row whose outcome storage does not have is never forgotten.
//! - Rows and events are bounded, whatever is published: see `bounds`.

pub(super) mod bounds;
mod rows;

use fieldpost_fail_point::point;
use fieldpost_protocol::{
    Command, CommandId, CommandOutcome, Content, Epoch, EventKind, Metrics, Seq, Stream, StreamKey,
};
use rusqlite::{OptionalExtension, Transaction, params};

use super::append::{Room, Written};
use super::{AppendError, NewEvent, Outbox, schema};
use crate::clock::Now;
use crate::engine::{Known, Record, Verdict};
use rows::{NewRow, Row, event_of, id_of};

/// How long an id is remembered.
pub const REMEMBERED_MS: i64 = 30 * 86_400_000;

/// Numbers of commands on the line to a board fit into the `long` of an Arduino.
const NO_MAX: u32 = i32::MAX as u32;

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS command (
    no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, content BLOB NOT NULL,
    target BLOB NOT NULL, strict INTEGER NOT NULL, outcome TEXT, detail TEXT, result TEXT, unix_ms INTEGER,
    event_epoch BLOB NOT NULL, event_seq INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS stale (
    id TEXT NOT NULL, target BLOB NOT NULL, unix_ms INTEGER,
    event_epoch BLOB NOT NULL, event_seq INTEGER NOT NULL, PRIMARY KEY (id, target)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS command_running ON command (no) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS command_refused ON command (no) WHERE outcome IN ('rejected', 'expired');
";

/// What was made of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// What is to be done.
    pub verdict: Verdict,
    /// The number that it has on the line to its board, if it is to be done.
    pub no: u32,
    /// What was told, for whoever looks on.
    pub told: Option<EventKind>,
    /// Nothing was recorded, and why: there is no room for it. It may come again.
    pub dropped: Option<String>,
    /// It may be recorded as started, or not: it must not be done, and is to be rejected, see
    /// [`Outbox::reject_doubtful`].
    pub doubtful: bool,
}

/// What became of an outcome that was to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub enum Finished {
    /// It is recorded, with this event.
    Told(EventKind),
    /// The outbox has no room: to be tried again.
    NoRoom,
    /// There is no such command.
    NotKnown,
}

/// A command that a process which has ended had begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its id.
    pub id: CommandId,
    /// What it is called.
    pub name: String,
    /// The number that it had on the line to its board.
    pub no: u32,
    /// It may run at most once over copies of the card, too.
    pub strict: bool,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// Its outcome.
    pub outcome: CommandOutcome,
    /// Why.
    pub detail: Option<String>,
    /// What the device answered.
    pub result: Metrics,
}

impl Ending {
    /// Without a word of the device's.
    pub fn because(outcome: CommandOutcome, why: impl Into<String>) -> Self {
        Ending { outcome, detail: Some(why.into()), result: Metrics::default() }
    }
}

/// The number of a command on the line to its board: the same from every copy of the card, so that a
/// board that remembers does not do it again. FNV-1a of 32 bits; 1 to `NO_MAX`.
pub(super) fn no_of(id: &CommandId, content: Content) -> u32 {
    let bytes = id.as_str().bytes().chain(content.0);
    let hash = bytes
        .fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % NO_MAX + 1
}

impl Outbox {
    /// Looks a command up, has it judged, and makes the verdict durable. `unix_ms`: if anybody knows
    /// the time.
    pub fn take_command(
        &mut self,
        command: &Command,
        unix_ms: Option<i64>,
        judge: impl FnOnce(Epoch, &Record) -> Verdict,
        now: Now,
    ) -> Result<Taken, AppendError> {
        self.check_clock(now);
        let (epoch, _) = self.epoch();
        let Some(id) = command.id.clone() else {
            let verdict = judge(epoch, &Record::default());
            return Ok(Taken { verdict, no: 0, told: None, dropped: None, doubtful: false });
        };
        let known = self.inbox_row(&id).map_err(AppendError::Failed)?;
        let record = self.record(&id, command, known.as_ref()).map_err(AppendError::Failed)?;
        let mut verdict = judge(epoch, &record);
        let target = command.target.unwrap_or(epoch);
        let content = command.content();
        let ack = |ending: Ending| EventKind::CommandAck {
            id: id.clone(),
            target,
            content: Some(content),
            outcome: ending.outcome,
            detail: ending.detail,
            result: ending.result,
        };
        let row = NewRow {
            id: &id,
            name: &command.name,
            content,
            target,
            strict: command.strict,
            unix_ms,
        };
        let plain = |outcome| Ending { outcome, detail: None, result: Metrics::default() };
        let mut dropped = self.obstacle(&verdict, &record).map_err(AppendError::Failed)?;
        if dropped.is_some() {
            verdict = Verdict::Wait;
        }
        let (mut no, mut doubtful) = (0, false);
        let told = match &verdict {
            Verdict::LeaveToBridge | Verdict::Wait | Verdict::Hold => None,
            Verdict::Repeat => {
                let known = known.expect("what is repeated is known");
                Some(self.tell(known.ack(&id), now, |transaction, at| {
                    let sql = "UPDATE command SET event_epoch = ?2, event_seq = ?3 WHERE id = ?1";
                    let row = params![id.as_str(), &at.epoch.0[..], at.events_last as i64];
                    transaction.prepare_cached(sql)?.execute(row).map(drop)
                })?)
            }
            Verdict::OtherContent => {
                let why = "another command has this id; choose a new one";
                let ending = Ending::because(CommandOutcome::Rejected, why);
                let mut event = None;
                let told = self.tell(ack(ending), now, |_, at| {
                    event = Some((at.epoch, at.events_last));
                    Ok(())
                })?;
                self.other_contents.extend(event.map(|event| (id.clone(), event)));
                Some(told)
            }
            Verdict::Stale => {
                let kind = ack(plain(CommandOutcome::Stale));
                let spare = self.spare_stale().map_err(AppendError::Failed)?.unwrap_or_default();
                Some(self.tell(kind, now, |transaction, at| {
                    spare.iter().try_for_each(|stale| stale.forget(transaction))?;
                    row.stale(transaction, at)
                })?)
            }
            Verdict::Reject(why) => {
                let ending = Ending::because(CommandOutcome::Rejected, why.clone());
                let kind = ack(ending.clone());
                Some(self.tell(kind, now, |transaction, at| row.done(transaction, at, &ending))?)
            }
            Verdict::Expire => {
                let expires = command.expires.unwrap_or_default();
                let why = format!("it came too late: expires = {expires}, in Unix milliseconds");
                let ending = Ending::because(CommandOutcome::Expired, why);
                let kind = ack(ending.clone());
                Some(self.tell(kind, now, |transaction, at| row.done(transaction, at, &ending))?)
            }
            Verdict::Start => {
                no = self.free_no(no_of(&id, content)).map_err(AppendError::Failed)?;
                let kind = ack(plain(CommandOutcome::Accepted));
                match self.tell(kind, now, |transaction, at| row.started(transaction, at, no)) {
                    Err(AppendError::InDoubt(error)) => {
                        tracing::error!(%id, %error, "a command was not run: its start is in doubt");
                        doubtful = true;
                        None
                    }
                    told => Some(told?),
                }
            }
        };
        // No room, not even in the reserve: nothing was recorded, so nothing is done.
        let told = match told {
            Some(None) => {
                verdict = Verdict::Wait;
                dropped = Some("the outbox is full".to_owned());
                None
            }
            told => told.flatten(),
        };
        Ok(Taken { verdict, no, told, dropped, doubtful })
    }

    /// Records the outcome of a command that was started, with its event.
    pub fn finish_command(
        &mut self,
        id: &CommandId,
        ending: &Ending,
        now: Now,
    ) -> Result<Finished, AppendError> {
        let Some(row) = self.inbox_row(id).map_err(AppendError::Failed)? else {
            return Ok(Finished::NotKnown);
        };
        let row = Row {
            outcome: Some(ending.outcome),
            detail: ending.detail.clone(),
            result: ending.result.to_json(),
            ..row
        };
        let told = self.tell_in(Room::Outcome, row.ack(id), now, |transaction, at| {
            point!("outbox.inbox.before_outcome");
            transaction
                .prepare_cached(
                    "UPDATE command SET outcome = ?2, detail = ?3, result = ?4, event_epoch = ?5, event_seq = ?6
                     WHERE id = ?1",
                )?
                .execute(params![
                    id.as_str(),
                    ending.outcome.as_str(),
                    ending.detail,
                    row.result,
                    &at.epoch.0[..],
                    at.events_last as i64
                ])
                .map(drop)
        })?;
        Ok(told.map_or(Finished::NoRoom, Finished::Told))
    }

    /// A command whose start is in doubt: it was not done, and that is recorded whatever the file says.
    pub fn reject_doubtful(
        &mut self,
        command: &Command,
        unix_ms: Option<i64>,
        now: Now,
    ) -> Result<Option<EventKind>, AppendError> {
        let Some(id) = &command.id else { return Ok(None) };
        self.check_clock(now);
        let (epoch, _) = self.epoch();
        let target = command.target.unwrap_or(epoch);
        let why =
            "the gateway's disk has failed just then; it did not run, send it again with a new id";
        let ending = Ending::because(CommandOutcome::Rejected, why);
        let content = command.content();
        let row =
            NewRow { id, name: &command.name, content, target, strict: command.strict, unix_ms };
        let kind = EventKind::CommandAck {
            id: id.clone(),
            target,
            content: Some(content),
            outcome: ending.outcome,
            detail: ending.detail.clone(),
            result: Metrics::default(),
        };
        let record = |transaction: &Transaction<'_>, at| row.done(transaction, at, &ending);
        self.tell_in(Room::Outcome, kind, now, record)
    }

    /// What processes that have ended had begun.
    pub fn left_started(&self) -> rusqlite::Result<Vec<Left>> {
        let mut query = self
            .conn
            .prepare_cached("SELECT id, name, no, strict FROM command WHERE outcome IS NULL")?;
        let rows = query.query_map([], |row| {
            Ok(Left { id: id_of(row, 0)?, name: row.get(1)?, no: row.get(2)?, strict: row.get(3)? })
        })?;
        rows.collect()
    }

    /// Forgets what is older than 30 days and known to storage; dates what had no time.
    pub fn forget_commands(&mut self, unix_ms: i64) -> rusqlite::Result<()> {
        let transaction = self.conn.unchecked_transaction()?;
        for (table, done) in [("command", "outcome IS NOT NULL"), ("stale", "TRUE")] {
            // A time to come is one of a clock that was wrong.
            transaction.execute(
                &format!("UPDATE {table} SET unix_ms = ?1 WHERE unix_ms IS NULL OR unix_ms > ?1"),
                [unix_ms],
            )?;
            let old = format!(
                "SELECT id, target, event_epoch, event_seq FROM {table} WHERE unix_ms < ?1 AND {done}"
            );
            let old: Vec<(String, Vec<u8>, (Epoch, Seq))> = transaction
                .prepare(&old)?
                .query_map([unix_ms - REMEMBERED_MS], |row| {
                    Ok((row.get(0)?, row.get(1)?, event_of(row, 2)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            for (id, target, event) in old {
                if self.is_told(event) {
                    let sql = format!("DELETE FROM {table} WHERE id = ?1 AND target = ?2");
                    transaction.execute(&sql, params![id, target])?;
                }
            }
        }
        point!("outbox.inbox.before_forget");
        transaction.commit()?;
        point!("outbox.inbox.after_forget");
        Ok(())
    }

    /// One event and what it tells of, in one commit. `None`: there is no room for either.
    fn tell(
        &mut self,
        kind: EventKind,
        now: Now,
        record: impl FnOnce(&Transaction<'_>, Written) -> rusqlite::Result<()>,
    ) -> Result<Option<EventKind>, AppendError> {
        self.tell_in(Room::Ordinary, kind, now, record)
    }

    fn tell_in(
        &mut self,
        room: Room,
        kind: EventKind,
        now: Now,
        record: impl FnOnce(&Transaction<'_>, Written) -> rusqlite::Result<()>,
    ) -> Result<Option<EventKind>, AppendError> {
        let event = NewEvent { boot_ms: now.boot_ms, kind, rule: None };
        let events = std::slice::from_ref(&event);
        let (_, recorded) = self.append_with(&[], events, room, now, record)?;
        Ok(recorded.map(|()| event.kind))
    }

    /// The first number from this one on that no command here has.
    fn free_no(&self, mut no: u32) -> rusqlite::Result<u32> {
        let sql = "SELECT EXISTS (SELECT 1 FROM command WHERE no = ?1)";
        let mut query = self.conn.prepare_cached(sql)?;
        while query.query_row([no], |row| row.get::<_, bool>(0))? {
            no = no % NO_MAX + 1;
        }
        Ok(no)
    }

    fn inbox_row(&self, id: &CommandId) -> rusqlite::Result<Option<Row>> {
        let sql = "SELECT content, target, outcome, detail, result, event_epoch, event_seq
                   FROM command WHERE id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let read = |row: &rusqlite::Row<'_>| {
            let outcome: Option<String> = row.get(2)?;
            let outcome = outcome.map(|name| name.parse()).transpose();
            Ok(Row {
                content: Content(row.get(0)?),
                target: Epoch(row.get(1)?),
                outcome: outcome.map_err(|error| schema::not_of_ours(2, error))?,
                detail: row.get(3)?,
                result: row.get(4)?,
                event: event_of(row, 5)?,
            })
        };
        query.query_row([id.as_str()], read).optional()
    }

    fn record(
        &self,
        id: &CommandId,
        command: &Command,
        known: Option<&Row>,
    ) -> rusqlite::Result<Record> {
        let known = known.map(|row| Known {
            content: row.content,
            outcome: row.outcome,
            told: self.is_told(row.event),
        });
        let other = self.other_contents.get(id).map(|event| self.is_told(*event));
        let Some(target) = command.target else {
            return Ok(Record { known, other, stale: None });
        };
        let sql = "SELECT event_epoch, event_seq FROM stale WHERE id = ?1 AND target = ?2";
        let mut query = self.conn.prepare_cached(sql)?;
        let stale = query
            .query_row(params![id.as_str(), &target.0[..]], |row| event_of(row, 0))
            .optional()?;
        Ok(Record { known, other, stale: stale.map(|event| self.is_told(event)) })
    }

    /// Whether storage has an event; what is no longer held, it has.
    fn is_told(&self, (epoch, seq): (Epoch, Seq)) -> bool {
        let key = StreamKey { epoch, stream: Stream::Events };
        let row = self.streams.values().find(|row| row.key == key);
        row.is_none_or(|row| seq <= row.acked || seq < row.floor)
    }
}
