//! How much the inbox may hold, and the room that the outcomes of commands have.

use super::super::Outbox;

/// Ids that are remembered; at the bound further commands are rejected. 4 MB at most, or nearly.
pub const COMMANDS_MAX: u64 = 20_000;
/// Kept free for each outcome that is to come: its event, its row, and the pages between.
const OUTCOME_BYTES: u64 = 16 * 1024;

impl Outbox {
    pub(super) fn commands(&self) -> rusqlite::Result<u64> {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        Ok(self.conn.query_row("SELECT count(*) FROM command", [], count)? as u64)
    }

    /// For one more command and its outcome, beside those that run.
    pub(super) fn has_room(&self) -> rusqlite::Result<bool> {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let sql = "SELECT count(*) FROM command WHERE outcome IS NULL";
        let running = self.conn.query_row(sql, [], count)? as u64;
        let needed = (running + 2) * OUTCOME_BYTES;
        Ok(self.used_bytes()? + needed <= self.settings.size_bytes_max)
    }
}
