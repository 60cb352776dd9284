//! What devices are to be: the newest desired configuration of each, numbered per device.
//!
//! ```text
//! config set --version + 1--> desired --change 1, 2, 3...--> the bridge that runs --> config/desired
//! ```
//!
//! The table is made by the first `config set`: a storage without it desires nothing.

use std::path::Path;

use fieldpost_protocol::DeviceId;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use serde_json::{Map, Value};

use super::super::StoreError;
use super::{OpenError, open, store_error};

/// `change` rises with each of them, of whichever device: who publishes goes on behind the last.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS desired (
    device  TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    config  TEXT NOT NULL,
    change  INTEGER NOT NULL UNIQUE,
    set_at  INTEGER NOT NULL
) STRICT";

/// The highest that a gateway reads (topics.md).
const VERSION_MAX: u64 = (1 << 53) - 1;

/// A device's desired configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Another one for each change.
    pub version: u64,
    /// Sections and keys; none: the gateway's own file alone.
    pub config: Map<String, Value>,
}

impl Desired {
    /// As it is published.
    pub fn to_json(&self) -> String {
        serde_json::json!({ "version": self.version, "config": self.config }).to_string()
    }
}

/// The version that a device has reported last, beside the one that is desired of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) device: DeviceId,
    pub(crate) desired: u64,
    /// As text: somebody may have published anything.
    pub(crate) reports: String,
    pub(crate) differs: bool,
}

/// A storage, opened for what is desired.
#[derive(Debug)]
pub struct DesiredTable {
    db: Connection,
}

impl DesiredTable {
    /// Opens it for reading.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(DesiredTable { db: open::read_only(path)? })
    }

    /// Opens it for reading where this process has the storage open.
    pub(crate) fn open_beside(path: &Path) -> Result<Self, OpenError> {
        Ok(DesiredTable { db: open::read_beside(path)? })
    }

    /// Opens it for writing, beside a bridge that runs.
    pub fn open_to_set(path: &Path) -> Result<Self, OpenError> {
        Ok(DesiredTable { db: open::read_write(path)?.0 })
    }

    fn is_there(&self) -> Result<bool, StoreError> {
        is_there(&self.db)
    }

    /// What is desired of a device.
    pub fn get(&self, device: &DeviceId) -> Result<Option<Desired>, StoreError> {
        get(&self.db, device)
    }

    /// Whether this storage has ever heard of the device.
    pub fn is_heard_of(&self, device: &DeviceId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM device WHERE id = ?1)";
        self.db.query_row(sql, [device.as_str()], |row| row.get(0)).map_err(store_error)
    }

    /// What a device has reported last, if it has.
    pub fn reported(&self, device: &DeviceId) -> Result<Option<Value>, StoreError> {
        reported(&self.db, device)
    }

    /// Sets what `of` makes of what is desired so far and what the device has reported last; nobody sets
    /// anything in between. The version is one that neither this storage nor the device has had last: a
    /// storage that was restored may be behind. `now` in Unix ms.
    pub fn change<E: From<StoreError>>(
        &mut self,
        device: &DeviceId,
        now: i64,
        of: impl FnOnce(Option<Desired>, Option<&Value>) -> Result<Map<String, Value>, E>,
    ) -> Result<Desired, E> {
        let txn = self.db.transaction_with_behavior(TransactionBehavior::Immediate);
        let txn = txn.map_err(store_error)?;
        let (before, reported) = (get(&txn, device)?, reported(&txn, device)?);
        let version_before = before.as_ref().map(|before| before.version);
        let reports = reported.as_ref().and_then(|reported| reported["version"].as_u64());
        let version = next_version(version_before, reports);
        let config = of(before, reported.as_ref())?;
        let text = Value::Object(config.clone()).to_string();
        let written = (|| {
            txn.execute(TABLE, [])?;
            txn.execute(
                "INSERT INTO desired (device, version, config, change, set_at)
                 VALUES (?1, ?2, ?3, (SELECT coalesce(max(change), 0) + 1 FROM desired), ?4)
                 ON CONFLICT (device) DO UPDATE SET version = excluded.version,
                     config = excluded.config, change = excluded.change, set_at = excluded.set_at",
                (device.as_str(), version as i64, text, now),
            )?;
            txn.commit()
        })();
        written.map_err(store_error)?;
        Ok(Desired { version, config })
    }

    /// What each device of which something is desired has reported last.
    pub(crate) fn reports(&self) -> Result<Vec<Report>, StoreError> {
        if !self.is_there()? {
            return Ok(Vec::new());
        }
        let sql = "SELECT id, version, reports, is_silent, NOT is_silent AND reports IS NOT version FROM
                       (SELECT d.id, w.version, d.reported IS NULL AS is_silent,
                               CASE WHEN json_valid(d.reported) THEN d.reported ->> 'version' END AS reports
                        FROM desired w JOIN device d ON d.id = w.device)";
        let mut query = self.db.prepare_cached(sql).map_err(store_error)?;
        let rows = query.query_map([], |row| {
            let reports = match row.get_ref(2)? {
                _ if row.get(3)? => "nothing".to_owned(),
                ValueRef::Null => "none".to_owned(),
                other => format!("{other:?}"),
            };
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, reports, row.get::<_, bool>(4)?))
        });
        let mut all = Vec::new();
        for row in rows.map_err(store_error)? {
            let (device, desired, reports, differs) = row.map_err(store_error)?;
            let device = device.parse().map_err(|_| damaged())?;
            all.push(Report { device, desired: desired as u64, reports, differs });
        }
        Ok(all)
    }

    /// Up to `most` that were set after `change`, in their order, each with its own.
    pub fn after(
        &self,
        change: i64,
        most: u32,
    ) -> Result<Vec<(i64, DeviceId, Desired)>, StoreError> {
        if !self.is_there()? {
            return Ok(Vec::new());
        }
        let sql = "SELECT change, device, version, config FROM desired WHERE change > ?1
                   ORDER BY change LIMIT ?2";
        let mut query = self.db.prepare_cached(sql).map_err(store_error)?;
        let rows = query.query_map((change, most), |row| {
            let (change, device): (i64, String) = (row.get(0)?, row.get(1)?);
            Ok((change, device, row.get::<_, i64>(2)?, row.get::<_, String>(3)?))
        });
        let mut all = Vec::new();
        for row in rows.map_err(store_error)? {
            let (change, device, version, config) = row.map_err(store_error)?;
            let device = device.parse().map_err(|_| damaged())?;
            all.push((change, device, desired(version, &config)?));
        }
        Ok(all)
    }
}

fn is_there(db: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'desired')";
    db.query_row(sql, [], |row| row.get(0)).map_err(store_error)
}

fn get(db: &Connection, device: &DeviceId) -> Result<Option<Desired>, StoreError> {
    if !is_there(db)? {
        return Ok(None);
    }
    let sql = "SELECT version, config FROM desired WHERE device = ?1";
    let row = db.query_row(sql, [device.as_str()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    });
    let row = row.optional().map_err(store_error)?;
    row.map(|(version, config)| desired(version, &config)).transpose()
}

fn reported(db: &Connection, device: &DeviceId) -> Result<Option<Value>, StoreError> {
    let sql = "SELECT reported FROM device WHERE id = ?1";
    let row = db.query_row(sql, [device.as_str()], |row| row.get::<_, Option<String>>(0));
    let reported = row.optional().map_err(store_error)?;
    Ok(reported.flatten().and_then(|text| serde_json::from_str(&text).ok()))
}

/// One that leaves no room above it was published by somebody else: below it there is.
fn next_version(before: Option<u64>, reported: Option<u64>) -> u64 {
    let both = [before, reported].into_iter().flatten();
    both.filter(|version| *version < VERSION_MAX).max().unwrap_or(0) + 1
}

fn desired(version: i64, config: &str) -> Result<Desired, StoreError> {
    let config = serde_json::from_str(config).map_err(|_| damaged())?;
    Ok(Desired { version: version as u64, config })
}

fn damaged() -> StoreError {
    StoreError::Damaged("table desired has a row that makes no sense".to_owned())
}
