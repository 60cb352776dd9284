//! Which alerts of rules are raised: written in the transaction of their events.
//!
//! ```text
//! raised:  event, and a row here         cleared:  event, and the row is gone
//! ```
//!
//! After a commit in doubt the same event is appended again, in the new epoch: the row is then written
//! or deleted a second time, which changes nothing.

use fieldpost_fail_point::point;
use fieldpost_protocol::{AlertState, EventKind, Severity};
use rusqlite::{Transaction, params};

use super::{NewEvent, Outbox, schema};

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS raised (
    name TEXT NOT NULL, about TEXT NOT NULL, rule TEXT NOT NULL, severity TEXT NOT NULL,
    message TEXT NOT NULL, PRIMARY KEY (name, about)
) STRICT, WITHOUT ROWID;
";

/// An alert of a rule that was raised by an earlier start, or by this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAlert {
    /// The rule's name.
    pub name: String,
    /// What it is about, such as a source.
    pub about: Option<String>,
    /// The rule as it was written then.
    pub definition: String,
    /// How bad.
    pub severity: Severity,
    /// What happened.
    pub message: String,
}

/// Follows an event that is being appended, if it is one of a rule.
pub(super) fn record(transaction: &Transaction<'_>, event: &NewEvent) -> rusqlite::Result<()> {
    let EventKind::Alert { name, about, state, severity, message, lasting: true } = &event.kind
    else {
        return Ok(());
    };
    point!("outbox.append.before_raised");
    let about = about.as_deref().unwrap_or_default();
    match state {
        AlertState::Raised => {
            let rule = event.rule.as_deref().unwrap_or_default();
            let sql = "INSERT OR REPLACE INTO raised (name, about, rule, severity, message)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            let row = params![name, about, rule, severity.as_str(), message];
            transaction.prepare_cached(sql)?.execute(row)?;
        }
        AlertState::Cleared => {
            let sql = "DELETE FROM raised WHERE name = ?1 AND about = ?2";
            transaction.prepare_cached(sql)?.execute([name.as_str(), about])?;
        }
    }
    point!("outbox.append.after_raised");
    Ok(())
}

impl Outbox {
    /// The alerts of rules that are raised.
    pub fn raised(&self) -> rusqlite::Result<Vec<KeptAlert>> {
        let sql = "SELECT name, about, rule, severity, message FROM raised";
        let mut query = self.conn.prepare_cached(sql)?;
        let rows = query.query_map([], |row| {
            let about = Some(row.get::<_, String>(1)?).filter(|about| !about.is_empty());
            let severity: String = row.get(3)?;
            let severity = severity.parse().map_err(|error| schema::not_of_ours(3, error))?;
            let (name, definition, message) = (row.get(0)?, row.get(2)?, row.get(4)?);
            Ok(KeptAlert { name, about, definition, severity, message })
        })?;
        rows.collect()
    }
}
