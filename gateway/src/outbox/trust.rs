//! Which storage is believed, what it is known to have, and how both are written down.
//!
//! They go to the file in one transaction: what one incarnation of a storage has acknowledged must
//! never be read as another's.

use fieldpost_fail_point::point;
use fieldpost_protocol::{Gen, Seq, StoreId, StreamKey};
use rusqlite::Transaction;

use super::seal::{self, Saved};
use super::{Outbox, Row, schema};

/// Whose sync acks count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    /// The storage.
    pub store: StoreId,
    /// The gen that it had when it was heard last; `None`: trusted by a person, not heard yet.
    pub r#gen: Option<Gen>,
}

impl Outbox {
    /// The storage that this gateway trusts.
    pub fn trusted(&self) -> Option<Trusted> {
        self.trusted
    }

    /// Trusts a storage in this gen from now on. What another one, or another gen, has listed and
    /// acknowledged is forgotten.
    ///
    /// # Errors
    /// When that cannot be written down. It counts nevertheless, and is tried again with the next
    /// [`set_acked`](Outbox::set_acked).
    pub fn trust(&mut self, trusted: Trusted) -> rusqlite::Result<()> {
        if self.trusted != Some(trusted) {
            self.trusted = Some(trusted);
            self.streams.values_mut().for_each(Row::forget);
        }
        self.save_acked()
    }

    /// Takes what the sync engine learned. In memory; written with the next seal or trim, but
    /// at once where it moves back. False if that has failed: tell it again.
    pub fn set_acked(&mut self, acked: &[(StreamKey, Seq)]) -> bool {
        for row in self.streams.values_mut() {
            if let Some((_, acked)) = acked.iter().find(|(key, _)| *key == row.key) {
                row.acked = (*acked).clamp(row.floor - 1, row.last);
            }
        }
        self.save_if_back()
    }

    /// Takes what a state of the present gen listed as stored, which is what is acked, too: a
    /// storage that has gone back needs the rows again, so they must not make room.
    /// False as with [`set_acked`](Outbox::set_acked).
    pub fn set_confirmed(&mut self, confirmed: &[(StreamKey, Seq)]) -> bool {
        for row in self.streams.values_mut() {
            if let Some((_, hi)) = confirmed.iter().find(|(key, _)| *key == row.key) {
                row.confirmed = *hi;
                row.acked = (*hi).clamp(row.floor - 1, row.last);
            }
        }
        self.save_if_back()
    }

    /// The next start must not take for stored what storage has lost.
    fn save_if_back(&mut self) -> bool {
        let forward = self.streams.values().all(|row| row.acked >= row.saved.1);
        if forward && self.trusted == self.saved_trusted {
            return true;
        }
        let saved = self.save_acked();
        if let Err(error) = &saved
            && !std::mem::replace(&mut self.save_failed, true)
        {
            tracing::error!(%error, "what storage lacks again could not be written down; it is tried again");
        }
        saved.is_ok()
    }

    pub(super) fn save_acked(&mut self) -> rusqlite::Result<()> {
        let transaction = self.conn.unchecked_transaction()?;
        if let Some(trusted) = self.trusted.filter(|_| self.trusted != self.saved_trusted) {
            save_trusted(&transaction, trusted)?;
        }
        let saved = seal::save_streams(&transaction, &self.streams, true)?;
        point!("outbox.save_acked.before_commit");
        transaction.commit()?;
        point!("outbox.save_acked.after_commit");
        (self.saved_trusted, self.save_failed) = (self.trusted, false);
        for (at, values) in saved {
            self.streams.get_mut(&at).expect("saved from this map").saved = values;
        }
        Ok(())
    }

    /// With a seal or a trim, which do not write down whom to trust.
    pub(super) fn save_streams(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Saved> {
        seal::save_streams(transaction, &self.streams, self.trusted == self.saved_trusted)
    }

    pub(super) fn load_trusted(&mut self) -> rusqlite::Result<()> {
        let r#gen = schema::meta(&self.conn, "gen")?.map(Gen);
        let store = schema::meta(&self.conn, "store")?.map(StoreId);
        self.trusted = store.map(|store| Trusted { store, r#gen });
        self.saved_trusted = self.trusted;
        Ok(())
    }
}

fn save_trusted(transaction: &Transaction<'_>, trusted: Trusted) -> rusqlite::Result<()> {
    const WRITE: &str = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";
    transaction.execute(WRITE, ("store", trusted.store.0))?;
    match trusted.r#gen {
        Some(r#gen) => transaction.execute(WRITE, ("gen", r#gen.0))?,
        None => transaction.execute("DELETE FROM meta WHERE key = 'gen'", [])?,
    };
    point!("outbox.save_acked.trusted_written");
    Ok(())
}

impl Row {
    /// Nobody is known to have any of it.
    fn forget(&mut self) {
        self.acked = self.floor - 1;
        self.confirmed = 0;
    }
}
