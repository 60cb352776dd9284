//! How much the inbox may hold, and the room that the outcomes of commands have.

use fieldpost_protocol::Event;
use rusqlite::{Transaction, params};

use super::super::append::Room;
use super::super::{NewEvent, Outbox};
use super::rows::event_of;
use crate::engine::{Record, Verdict};

/// Ids that are remembered; at the bound further commands are dropped. 4 MB at most, or nearly.
pub const COMMANDS_MAX: u64 = 20_000;
/// ... of which so many did not run: whoever publishes nonsense leaves room for what may run, and does
/// not fill the outbox.
pub const REFUSED_MAX: u64 = 5_000;
/// Stale ones, beside them: without that answer the bridge would not issue them to this epoch. At the bound
/// those go that storage has; they only saved a repetition.
pub const STALE_MAX: u64 = 5_000;
/// Refusals of another command under an id that is known, on their way to storage.
pub const OTHER_CONTENTS_MAX: usize = 256;
/// Kept free for each outcome that is to come: its event, its row, and the pages between.
const OUTCOME_BYTES: u64 = 16 * 1024;

/// What a stale row is known by.
pub(super) struct Stale {
    id: String,
    target: Vec<u8>,
}

impl Stale {
    pub(super) fn forget(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let sql = "DELETE FROM stale WHERE id = ?1 AND target = ?2";
        transaction.prepare_cached(sql)?.execute(params![self.id, self.target]).map(drop)
    }
}

impl Outbox {
    /// Why a verdict cannot be recorded now, if so: the command is dropped, and may come again.
    pub(super) fn obstacle(
        &mut self,
        verdict: &Verdict,
        record: &Record,
    ) -> rusqlite::Result<Option<String>> {
        let many = || format!("{COMMANDS_MAX} commands came within 30 days, and no more are kept");
        Ok(match verdict {
            Verdict::Start if !self.has_room()? => {
                Some("the outbox has no room for its outcome".to_owned())
            }
            Verdict::Start => (self.commands()? >= COMMANDS_MAX).then(many),
            Verdict::Stale if record.stale.is_some() => None,
            Verdict::Stale => {
                self.spare_stale()?.is_some_and(|spare| spare.is_empty()).then(|| {
                    format!(
                        "{STALE_MAX} commands for other epochs came, and storage knows of none yet"
                    )
                })
            }
            Verdict::Reject(_) | Verdict::Expire => {
                let few = || {
                    format!(
                        "{REFUSED_MAX} commands that did not run came within 30 days, and no more are kept"
                    )
                };
                let full = (self.refused()? >= REFUSED_MAX).then(few);
                match full {
                    None if self.commands()? >= COMMANDS_MAX => Some(many()),
                    full => full,
                }
            }
            Verdict::OtherContent => {
                let mut all = std::mem::take(&mut self.other_contents);
                all.retain(|_, event| !self.is_told(*event));
                self.other_contents = all;
                let full = self.other_contents.len() >= OTHER_CONTENTS_MAX;
                full.then(|| "too many refusals are on their way to storage".to_owned())
            }
            Verdict::LeaveToBridge | Verdict::Wait | Verdict::Hold | Verdict::Repeat => None,
        })
    }

    fn refused(&self) -> rusqlite::Result<u64> {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let sql = "SELECT count(*) FROM command WHERE outcome IN ('rejected', 'expired')";
        Ok(self.conn.prepare_cached(sql)?.query_row([], count)? as u64)
    }

    /// At the bound of stale ones, those that storage has; `None` below it.
    pub(super) fn spare_stale(&self) -> rusqlite::Result<Option<Vec<Stale>>> {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let all = self.conn.prepare_cached("SELECT count(*) FROM stale")?.query_row([], count)?;
        if (all as u64) < STALE_MAX {
            return Ok(None);
        }
        let sql = "SELECT id, target, event_epoch, event_seq FROM stale";
        let mut query = self.conn.prepare_cached(sql)?;
        let rows = query.query_map([], |row| {
            let stale = Stale { id: row.get(0)?, target: row.get(1)? };
            Ok((stale, event_of(row, 2)?))
        })?;
        let told = rows.filter_map(|row| match row {
            Ok((stale, event)) => self.is_told(event).then_some(Ok(stale)),
            Err(error) => Some(Err(error)),
        });
        told.collect::<rusqlite::Result<_>>().map(Some)
    }

    fn commands(&self) -> rusqlite::Result<u64> {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        Ok(self.conn.query_row("SELECT count(*) FROM command", [], count)? as u64)
    }

    /// For one more command and its outcome, beside those that run.
    fn has_room(&self) -> rusqlite::Result<bool> {
        let needed = (self.running()? + 2) * OUTCOME_BYTES;
        Ok(self.used_bytes()? + needed <= self.settings.size_bytes_max)
    }

    /// Whether events may be written: only outcomes use the room that is kept for outcomes.
    pub(in crate::outbox) fn events_fit(
        &self,
        events: &[NewEvent],
        room: Room,
    ) -> rusqlite::Result<bool> {
        let (used, max) = (self.used_bytes()?, self.settings.size_bytes_max);
        if events.is_empty() || used >= max {
            return Ok(events.is_empty());
        }
        let running = if room == Room::Outcome { 0 } else { self.running()? };
        if running == 0 {
            return Ok(true);
        }
        // Twice what they say: pages are split while they fill up.
        let bodies =
            events.iter().map(|event| Event { t: 0, kind: event.kind.clone() }.encode().len());
        let needed = OUTCOME_BYTES * (running + 1) + 2 * bodies.sum::<usize>() as u64;
        Ok(used + needed <= max)
    }

    /// Commands that were started, and have no outcome.
    fn running(&self) -> rusqlite::Result<u64> {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let sql = "SELECT count(*) FROM command WHERE outcome IS NULL";
        Ok(self.conn.prepare_cached(sql)?.query_row([], count)? as u64)
    }
}
