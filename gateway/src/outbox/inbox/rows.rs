//! The rows of the inbox, as they stand in the file.

use fieldpost_fail_point::point;
use fieldpost_protocol::{CommandId, CommandOutcome, Content, Epoch, EventKind, Metrics, Seq};
use rusqlite::{Transaction, params};

use super::super::append::Written;
use super::super::schema;
use super::Ending;

/// A row of the inbox.
pub(super) struct Row {
    pub(super) content: Content,
    pub(super) target: Epoch,
    pub(super) outcome: Option<CommandOutcome>,
    pub(super) detail: Option<String>,
    pub(super) result: Option<String>,
    pub(super) event: (Epoch, Seq),
}

impl Row {
    pub(super) fn ack(&self, id: &CommandId) -> EventKind {
        let result = self.result.as_deref().and_then(|json| Metrics::from_json(json).ok());
        EventKind::CommandAck {
            id: id.clone(),
            target: self.target,
            content: Some(self.content),
            outcome: self.outcome.unwrap_or(CommandOutcome::Accepted),
            detail: self.detail.clone(),
            result: result.unwrap_or_default(),
        }
    }
}

/// A row that is to be made.
pub(super) struct NewRow<'c> {
    pub(super) id: &'c CommandId,
    pub(super) name: &'c str,
    pub(super) content: Content,
    pub(super) target: Epoch,
    pub(super) strict: bool,
    pub(super) unix_ms: Option<i64>,
}

impl NewRow<'_> {
    pub(super) fn started(
        &self,
        transaction: &Transaction<'_>,
        at: Written,
        no: u32,
    ) -> rusqlite::Result<()> {
        point!("outbox.inbox.before_start");
        transaction
            .prepare_cached(
                "INSERT INTO command (no, id, name, content, target, strict, unix_ms, event_epoch, event_seq)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                no,
                self.id.as_str(),
                self.name,
                &self.content.0[..],
                &self.target.0[..],
                self.strict,
                self.unix_ms,
                &at.epoch.0[..],
                at.events_last as i64
            ])
            .map(drop)
    }

    pub(super) fn done(
        &self,
        transaction: &Transaction<'_>,
        at: Written,
        ending: &Ending,
    ) -> rusqlite::Result<()> {
        point!("outbox.inbox.before_done");
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO command
                     (id, name, content, target, strict, outcome, detail, result, unix_ms, event_epoch, event_seq)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, '{}', ?8, ?9, ?10)",
            )?
            .execute(params![
                self.id.as_str(),
                self.name,
                &self.content.0[..],
                &self.target.0[..],
                self.strict,
                ending.outcome.as_str(),
                ending.detail,
                self.unix_ms,
                &at.epoch.0[..],
                at.events_last as i64
            ])
            .map(drop)
    }

    pub(super) fn stale(&self, transaction: &Transaction<'_>, at: Written) -> rusqlite::Result<()> {
        point!("outbox.inbox.before_stale");
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO stale (id, target, unix_ms, event_epoch, event_seq)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                self.id.as_str(),
                &self.target.0[..],
                self.unix_ms,
                &at.epoch.0[..],
                at.events_last as i64
            ])
            .map(drop)
    }
}

pub(super) fn id_of(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<CommandId> {
    let text: String = row.get(at)?;
    text.parse().map_err(|error| schema::not_of_ours(at, error))
}

pub(super) fn event_of(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<(Epoch, Seq)> {
    Ok((Epoch(row.get(at)?), row.get::<_, i64>(at + 1)? as Seq))
}
