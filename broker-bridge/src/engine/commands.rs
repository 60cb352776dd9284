//! The ledger of commands, row by row: what is adopted, what is issued and when, what a command ack
//! changes.
//!
//! ```text
//!            issue                    stale, not strict
//! open  target none ----> target is an epoch ----> target none
//!   |                        |
//!   |  cancelled, expired    |  the first final command ack; stale and strict: unknown; no answer within
//!   |                        |  a day of its expiry: unknown
//!   +--> done                +--> done
//! ```
//!
//! Always true here:
//! - A target is written down before anybody hears of it, and stays until the gateway has said that it
//!   is over: so one command is never on its way to two epochs.
//! - What was issued may have run. Only the gateway can say that it did not.

use fieldpost_protocol::{Command, CommandId, CommandOutcome, Content, Epoch, Metrics, VERSION};

use super::Engine;

/// How long a command is good that says nothing of it.
pub const EXPIRES_AFTER_MS: i64 = 24 * 3_600_000;
/// After the first publish it is published again, then in twice that time, and so on.
pub const REPEAT_FIRST_MS: i64 = 5_000;
/// ... and never less often than this.
pub const REPEAT_MAX_MS: i64 = 300_000;
/// A command whose device is not there is looked at again; its hello comes before that.
pub const LOOK_AGAIN_MS: i64 = 60_000;
/// So long after its expiry a command that was issued is asked for; then nobody is expected to answer.
pub const UNANSWERED_AFTER_MS: i64 = 24 * 3_600_000;

/// Where a command came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `fieldpost-bridge command send`.
    Cli,
    /// Somebody published it on `commands`.
    Person,
}

impl Origin {
    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Cli => "cli",
            Origin::Person => "person",
        }
    }
}

/// What became of a command, for good.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// What its gateway said, or follows for sure; `None`: cancelled before it was issued.
    pub outcome: Option<CommandOutcome>,
    /// For people: why.
    pub detail: Option<String>,
    /// What the device answered.
    pub result: Metrics,
    /// When it was written down, in Unix ms.
    pub at: i64,
    /// It follows from what the ledger knew. A gateway that knows better replaces it: the ledger may have
    /// been restored from before the command was issued, or its gateway has the answer and no network.
    pub concluded: bool,
}

impl Ending {
    /// The name in tables, and to people.
    pub fn as_str(&self) -> &'static str {
        self.outcome.map_or("cancelled", CommandOutcome::as_str)
    }
}

/// What the ledger knows about one (device, id).
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRow {
    /// What to do.
    pub name: String,
    /// With what.
    pub args: Metrics,
    /// Both, in short.
    pub content: Content,
    /// Unix ms in cloud time after which it must not run.
    pub expires: Option<i64>,
    /// Never issued for a second epoch.
    pub strict: bool,
    /// Who has asked for it.
    pub origin: Origin,
    /// When the ledger heard of it, in Unix ms.
    pub created: i64,
    /// The epoch that it was issued to and that has not said that it is over.
    pub target: Option<Epoch>,
    /// How often it was published: by us, or by the person before us. 0: it surely did not run.
    pub issued: u32,
    /// When for the first time.
    pub first_issued: Option<i64>,
    /// When it is looked at again.
    pub next_at: i64,
    /// `None` while it is open.
    pub ending: Option<Ending>,
}

impl CommandRow {
    /// Of a command that nobody has heard of yet.
    pub fn new(command: &Command, origin: Origin, now: i64) -> Self {
        CommandRow {
            name: command.name.clone(),
            args: command.args.clone(),
            content: command.content(),
            expires: Some(command.expires.unwrap_or(now.saturating_add(EXPIRES_AFTER_MS))),
            strict: command.strict,
            origin,
            created: now,
            target: command.target,
            issued: 0,
            first_issued: None,
            next_at: now,
            ending: None,
        }
    }

    fn is_past(&self, now: i64) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// Until when its gateway is asked what became of it. One that was too late when it came has its day, too.
    fn asked_until(&self) -> Option<i64> {
        self.expires.map(|expires| expires.max(self.created).saturating_add(UNANSWERED_AFTER_MS))
    }

    fn end(&mut self, outcome: Option<CommandOutcome>, detail: &str, now: i64) {
        let detail = Some(detail.to_owned());
        let result = Metrics::default();
        self.ending = Some(Ending { outcome, detail, result, at: now, concluded: true });
    }

    fn repeat_after_ms(&self) -> i64 {
        let doubled = REPEAT_FIRST_MS << self.issued.saturating_sub(1).min(16);
        doubled.min(REPEAT_MAX_MS)
    }
}

/// What a command ack says, as far as the ledger is concerned.
#[derive(Debug, Clone, Copy)]
pub struct CommandAck<'a> {
    /// The epoch that it speaks for.
    pub target: Epoch,
    /// Of what.
    pub content: Option<Content>,
    /// What became of it.
    pub outcome: CommandOutcome,
    /// Why.
    pub detail: Option<&'a str>,
    /// What the device answered.
    pub result: &'a Metrics,
}

/// What to do about an open command.
#[derive(Debug, Clone, PartialEq)]
pub enum IssuePlan {
    /// Nothing: it is done.
    Nothing,
    /// The row has changed, and nothing goes out.
    Save(CommandRow),
    /// Publish this, once the row is committed.
    Send(CommandRow, Command),
}

/// A command that cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// It was published.
    #[error("it was published already (times: {0}), and may have run")]
    Issued(u32),
    /// It has its outcome.
    #[error("it is done already: {0}")]
    Done(&'static str),
}

impl Engine {
    /// The row of a command that somebody published on `commands`, and its id. `made`: the id that it
    /// gets where it has none, the same each time that this message is looked at.
    ///
    /// `now` in Unix ms.
    pub fn adopt(&self, command: &Command, made: CommandId, now: i64) -> (CommandId, CommandRow) {
        let mut row = CommandRow::new(command, Origin::Person, now);
        let left_to_us = command.id.is_none() || (command.strict && command.target.is_none());
        if !left_to_us {
            // The gateway has had it already, if it was there.
            row.issued = 1;
            row.first_issued = Some(now);
            row.next_at = now + REPEAT_FIRST_MS;
        }
        (command.id.clone().unwrap_or(made), row)
    }

    /// What to do now about an open command. `current`: the epoch that would take it; `None`: its
    /// device is not there.
    pub fn plan_issue(
        &self,
        id: &CommandId,
        row: &CommandRow,
        current: Option<Epoch>,
        now: i64,
    ) -> IssuePlan {
        if row.ending.is_some() {
            return IssuePlan::Nothing;
        }
        let mut row = row.clone();
        if row.is_past(now) && (row.issued == 0 || !self.guards.issued_is_not_expired) {
            let why = "its time was over before its device could be told";
            row.end(Some(CommandOutcome::Expired), why, now);
            return IssuePlan::Save(row);
        }
        if row.issued > 0 && row.asked_until().is_some_and(|until| now >= until) {
            let why = "it may have run: its device has not answered within a day of its expiry";
            row.end(Some(CommandOutcome::Unknown), why, now);
            return IssuePlan::Save(row);
        }
        let Some(current) = current else {
            row.next_at = now + LOOK_AGAIN_MS;
            let end = if row.issued == 0 { row.expires } else { row.asked_until() };
            row.next_at =
                end.filter(|end| *end > now).map_or(row.next_at, |end| row.next_at.min(end));
            return IssuePlan::Save(row);
        };
        let kept = row.target.filter(|_| self.guards.target_stays);
        let target = kept.unwrap_or(current);
        if self.guards.target_is_written {
            row.target = Some(target);
        }
        row.issued = row.issued.saturating_add(1);
        row.first_issued = row.first_issued.or(Some(now));
        row.next_at = now + row.repeat_after_ms();
        let command = Command {
            v: VERSION,
            id: Some(id.clone()),
            name: row.name.clone(),
            args: row.args.clone(),
            expires: row.expires,
            target: Some(target),
            strict: row.strict,
        };
        IssuePlan::Send(row, command)
    }

    /// What a command ack that was newly stored changes in the row of its id. Returns whether it has.
    pub fn take_ack(&self, row: &mut CommandRow, ack: CommandAck<'_>, now: i64) -> bool {
        let is_told = row.ending.as_ref().is_some_and(|ending| !ending.concluded);
        if is_told && self.guards.first_outcome_stays {
            return false;
        }
        // Without a content: of something that could not even be read, under this id.
        if ack.content != Some(row.content) && self.guards.content_is_compared {
            return false;
        }
        match ack.outcome {
            CommandOutcome::Accepted => false,
            CommandOutcome::Stale => row.ending.is_none() && self.take_stale(row, ack.target, now),
            outcome => {
                row.ending = Some(Ending {
                    outcome: Some(outcome),
                    detail: ack.detail.map(str::to_owned),
                    result: ack.result.clone(),
                    at: now,
                    concluded: false,
                });
                true
            }
        }
    }

    /// It did not run in that epoch, as far as the gateway's present card knows.
    fn take_stale(&self, row: &mut CommandRow, target: Epoch, now: i64) -> bool {
        if row.target != Some(target) {
            return false;
        }
        if row.strict && self.guards.strict_is_issued_once {
            let why = "the gateway has begun anew since it was issued, and it is strict";
            row.end(Some(CommandOutcome::Unknown), why, now);
        } else if row.is_past(now) {
            let why = "the gateway has begun anew since it was issued, and now it is too late";
            row.end(Some(CommandOutcome::Expired), why, now);
        } else {
            row.target = None;
            row.next_at = now;
        }
        true
    }

    /// Takes back a command that nobody has heard of.
    pub fn cancel(&self, row: &mut CommandRow, now: i64) -> Result<(), CancelError> {
        match &row.ending {
            Some(ending) => Err(CancelError::Done(ending.as_str())),
            None if row.issued > 0 => Err(CancelError::Issued(row.issued)),
            None => {
                row.end(None, "taken back before it was issued", now);
                // A person's word, which no gateway's replaces.
                row.ending.iter_mut().for_each(|ending| ending.concluded = false);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
