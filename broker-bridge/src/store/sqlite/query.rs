//! What people ask a storage: read-only, beside a running bridge and never in its way.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Params};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::super::ledger::LEASE_MS;
use super::super::{Identity, StoreError};
use super::{
    DeadLetter, DeadLetterError, OpenError, deadletter, identity, open, sound, store_error,
};

/// The rows of an answer.
pub type Rows = Vec<Row>;

/// One row: named cells in the order of their columns; as JSON an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    names: Arc<[String]>,
    cells: Vec<Value>,
}

impl Row {
    /// Names and cells, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &Value)> {
        self.names.iter().zip(&self.cells)
    }

    /// A cell by its column's name; null where there is no such column.
    pub fn cell(&self, name: &str) -> &Value {
        self.iter().find(|(known, _)| *known == name).map_or(&Value::Null, |(_, cell)| cell)
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// A storage, opened for reading.
#[derive(Debug)]
pub struct Query {
    db: Connection,
}

/// Which readings.
#[derive(Debug, Clone, Default)]
pub struct ReadingFilter {
    /// Only of this device.
    pub device: Option<String>,
    /// Only of this source.
    pub source: Option<String>,
    /// Not older than this, in Unix ms.
    pub since: Option<i64>,
    /// The newest so many.
    pub limit: usize,
}

/// A storage at a glance.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its id, for life.
    pub store: String,
    /// This incarnation of it.
    pub r#gen: String,
    /// The format's version.
    pub version: i64,
    /// Bytes of the file, without its log.
    pub bytes: i64,
    /// Devices that it knows.
    pub devices: i64,
    /// Those of which nothing was heard for three heartbeats.
    pub stale: i64,
    /// Readings stored.
    pub readings: i64,
    /// Rows that gateways still hold and that are not stored.
    pub waiting: i64,
    /// Rows that are lost, or were dropped.
    pub missing: i64,
    /// Dead letters that wait for a decision.
    pub dead_letters: i64,
    /// Alerts that are raised now.
    pub alerts: Rows,
    /// What the bridge itself has complained of.
    pub alarms: Rows,
}

impl Query {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Query { db: open::read_only(path)? })
    }

    /// Opens it and checks the whole file: its pages, and that its rows are those that it counts
    /// as stored.
    pub fn open_checked(path: &Path) -> Result<Self, OpenError> {
        let db = open::read_only(path)?;
        sound::check(&db, path)?;
        Ok(Query { db })
    }

    /// At a glance. total() and not sum(): what devices claim may be more than an i64 counts.
    pub fn status(&self) -> Result<Status, StoreError> {
        let Identity { store, r#gen } = identity(&self.db)?;
        let covered = "SELECT coalesce(sum((c.value ->> 1) - (c.value ->> 0) + 1), 0) \
                       FROM stream s, json_each(s.coverage) c WHERE s.stream = 'readings'";
        let dead = "SELECT coalesce(sum((c.value ->> 1) - (c.value ->> 0) + 1), 0) \
                    FROM dead_letter l JOIN stream s ON s.ref = l.stream, json_each(l.seqs) c \
                    WHERE s.stream = 'readings'";
        Ok(Status {
            store: store.to_string(),
            r#gen: r#gen.to_string(),
            version: self.number("PRAGMA user_version")?,
            bytes: self.number("PRAGMA page_count")? * self.number("PRAGMA page_size")?,
            devices: self.number("SELECT count(*) FROM device")?,
            stale: self.number("SELECT count(*) FROM devices WHERE state = 'stale'")?,
            readings: self.number(covered)? - self.number(dead)?,
            waiting: self.number("SELECT CAST(total(n) AS INTEGER) FROM waiting")?,
            missing: self.number("SELECT CAST(total(n) AS INTEGER) FROM missing")?,
            dead_letters: self.number("SELECT count(*) FROM dead_letters WHERE state = 'open'")?,
            alerts: self.rows("SELECT * FROM alerts_now ORDER BY device, name LIMIT 1000", [])?,
            alarms: self.rows("SELECT * FROM alarm ORDER BY last_at DESC LIMIT 1000", [])?,
        })
    }

    /// Every device with what it has stored, waiting and missing.
    pub fn devices(&self) -> Result<Rows, StoreError> {
        let sql = "SELECT d.device, d.name, d.location, d.state, d.first_seen, d.last_seen, \
                          CAST(coalesce(w.n, 0) AS INTEGER) AS waiting, \
                          CAST(coalesce(m.n, 0) AS INTEGER) AS missing, d.status \
                   FROM devices d \
                   LEFT JOIN (SELECT device, total(n) AS n FROM waiting GROUP BY 1) w USING (device) \
                   LEFT JOIN (SELECT device, total(n) AS n FROM missing GROUP BY 1) m USING (device) \
                   ORDER BY d.device";
        self.rows(sql, [])
    }

    /// What is lost or dropped, run by run; of one device or of all.
    pub fn missing(&self, device: Option<&str>) -> Result<Rows, StoreError> {
        let sql = "SELECT * FROM missing WHERE ?1 IS NULL OR device = ?1 \
                   ORDER BY device, epoch, stream, first";
        self.rows(sql, [device])
    }

    /// The dead letters, without their bodies.
    pub fn dead_letters(&self) -> Result<Rows, StoreError> {
        self.rows("SELECT * FROM dead_letters ORDER BY id", [])
    }

    /// One dead letter, whole.
    pub fn dead_letter(&self, id: i64) -> Result<DeadLetter, DeadLetterError> {
        deadletter::load(&self.db, id)
    }

    /// The newest readings of a filter, in order of time. Source by source, since that is
    /// how the index has them: the rest of the table is never touched.
    pub fn readings(&self, filter: &ReadingFilter) -> Result<Rows, StoreError> {
        let sources = "SELECT s.ref FROM source s JOIN device d ON d.ref = s.device \
                       WHERE (?1 IS NULL OR d.id = ?1) AND (?2 IS NULL OR s.id = ?2)";
        let newest = "SELECT d.id AS device, s.id AS source, r.time, e.clock, r.metrics, \
                             lower(hex(e.epoch)) AS epoch, r.seq \
                      FROM (SELECT * FROM reading WHERE source = ?1 AND time >= ?2 \
                            ORDER BY time DESC LIMIT ?3) r \
                      JOIN source s ON s.ref = r.source JOIN device d ON d.ref = s.device \
                      JOIN epoch e ON e.ref = r.epoch";
        let mut query = self.db.prepare_cached(sources).map_err(store_error)?;
        let sources = query
            .query_map((&filter.device, &filter.source), |row| row.get::<_, i64>(0))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<i64>>>)
            .map_err(store_error)?;
        let (since, limit) = (filter.since.unwrap_or(i64::MIN), filter.limit as i64);
        let mut rows = Rows::new();
        for source in sources {
            rows.extend(self.rows(newest, (source, since, limit))?);
            rows.sort_by_key(|row| Reverse((number(row, "time"), number(row, "seq"))));
            rows.truncate(filter.limit);
        }
        rows.reverse();
        Ok(rows)
    }

    /// Commands, of one device or of all; `all`: also those that are done. The newest last.
    pub fn commands(&self, device: Option<&str>, all: bool) -> Result<Rows, StoreError> {
        // A storage that no bridge of this version has opened has none.
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'commands'";
        if self.number(sql)? == 0 {
            return Ok(Rows::new());
        }
        let sql = "SELECT * FROM commands WHERE (?1 IS NULL OR device = ?1) AND (?2 OR state = 'open') \
                   ORDER BY created, device, id";
        self.rows(sql, (device, all))
    }

    /// One command, if there is one.
    pub fn command(&self, device: &str, id: &str) -> Result<Option<Row>, StoreError> {
        let sql = "SELECT * FROM commands WHERE device = ?1 AND id = ?2";
        Ok(self.rows(sql, (device, id))?.pop())
    }

    /// What gateways have said of it, in the order in which they did.
    pub fn command_acks(&self, device: &str, id: &str) -> Result<Rows, StoreError> {
        let sql = "SELECT c.time, c.outcome, c.detail, c.result, lower(hex(c.target)) AS target, \
                          lower(hex(e.epoch)) AS epoch, c.seq \
                   FROM command_ack c JOIN epoch e ON e.ref = c.epoch \
                   JOIN device d ON d.ref = e.device \
                   WHERE d.id = ?1 AND c.id = ?2 ORDER BY c.epoch, c.seq";
        self.rows(sql, (device, id))
    }

    /// Whether a bridge looks for commands in it at this moment (Unix ms).
    pub fn is_bridge_there(&self, now: i64) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM command_lease WHERE until BETWEEN ?1 AND ?1 + ?2)";
        let mut query = self.db.prepare_cached(sql).map_err(store_error)?;
        query.query_row((now, LEASE_MS), |row| row.get(0)).map_err(store_error)
    }

    /// A date that people write, such as `2026-11-21 08:00`, in Unix ms; UTC.
    pub fn parse_date(&self, text: &str) -> Option<i64> {
        // A bare number would be a Julian day.
        if !text.contains('-') {
            return None;
        }
        let sql = "SELECT CAST(round(unixepoch(?1, 'subsec') * 1000) AS INTEGER)";
        self.db.query_row(sql, [text], |row| row.get(0)).optional().ok().flatten().flatten()
    }

    fn number(&self, sql: &str) -> Result<i64, StoreError> {
        self.db.query_row(sql, [], |row| row.get(0)).map_err(store_error)
    }

    fn rows(&self, sql: &str, params: impl Params) -> Result<Rows, StoreError> {
        let mut query = self.db.prepare_cached(sql).map_err(store_error)?;
        let names: Arc<[String]> = query.column_names().map(ToOwned::to_owned).collect();
        let rows = query
            .query_map(params, |row| {
                let cell = |(at, name): (usize, &String)| Ok(json(name, row.get_ref(at)?));
                let cells = names.iter().enumerate().map(cell).collect::<rusqlite::Result<_>>()?;
                Ok(Row { names: names.clone(), cells })
            })
            .map_err(store_error)?;
        rows.collect::<rusqlite::Result<_>>().map_err(store_error)
    }
}

fn number(row: &Row, name: &str) -> i64 {
    row.cell(name).as_i64().unwrap_or(0)
}

/// A cell as JSON; columns that hold JSON are unfolded.
fn json(name: &str, cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => value.into(),
        ValueRef::Real(value) => value.into(),
        ValueRef::Text(text) => {
            let text = String::from_utf8_lossy(text).into_owned();
            let unfold = matches!(name, "metrics" | "status" | "seqs" | "args" | "result");
            let unfolded = if unfold { serde_json::from_str(&text).ok() } else { None };
            unfolded.unwrap_or(Value::String(text))
        }
        ValueRef::Blob(bytes) => {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
        }
    }
}
