//! The topics of the entries that Home Assistant may have of this gateway: written down before the
//! first message, so that they can be removed after a restart, too.

use fieldpost_fail_point::point;

use super::Outbox;

pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS announced (topic TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
";

impl Outbox {
    /// All of them.
    pub fn announced(&self) -> rusqlite::Result<Vec<String>> {
        let mut query = self.conn.prepare("SELECT topic FROM announced")?;
        query.query_map([], |row| row.get(0))?.collect()
    }

    /// Adds some.
    pub fn note_announced(&self, topics: &[String]) -> rusqlite::Result<()> {
        self.each_announced("INSERT OR IGNORE INTO announced VALUES (?1)", topics)
    }

    /// The broker has them no more.
    pub fn strike_announced(&self, topics: &[String]) -> rusqlite::Result<()> {
        self.each_announced("DELETE FROM announced WHERE topic = ?1", topics)
    }

    fn each_announced(&self, sql: &str, topics: &[String]) -> rusqlite::Result<()> {
        let transaction = self.conn.unchecked_transaction()?;
        for topic in topics {
            transaction.prepare_cached(sql)?.execute([topic])?;
        }
        point!("outbox.announced.before_commit");
        transaction.commit()?;
        point!("outbox.announced.after_commit");
        Ok(())
    }
}
