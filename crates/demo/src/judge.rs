//! What the files say: the gateway's outbox and the bridge's storage, read from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use fieldpost_protocol::{Metrics, Value, decode_readings};
use rusqlite::{Connection, OpenFlags, params};

use crate::board::unix_ms;
use crate::ledger::{Ledger, SOURCE};

/// What was found in storage, by line.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Lines that are stored, each with how often.
    pub lines: BTreeMap<u64, u64>,
    /// What is stored and was not sent so: the first few, in words.
    pub wrong: Vec<String>,
    /// How many are wrong.
    pub wrong_count: u64,
    /// Rows that storage itself shows as missing, of readings.
    pub missing: u64,
    /// Rows of readings that are known and have not come yet.
    pub waiting: u64,
}

impl Found {
    /// Lines stored at least once.
    pub fn stored(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Rows too many.
    pub fn duplicates(&self) -> u64 {
        self.lines.values().map(|times| times - 1).sum()
    }
}

/// Examples of what is wrong that are kept.
const WRONG_SHOWN: usize = 5;

/// A connection that can change nothing.
///
/// # Errors
/// A file that is not there or not a database.
pub fn read_only(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)
        .with_context(|| format!("opening {}", path.display()))?;
    conn.busy_timeout(Duration::from_secs(10))?;
    Ok(conn)
}

fn line_of(metrics: &Metrics) -> Option<u64> {
    match metrics.get("n") {
        Some(Value::Int(n)) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// The lines that an outbox holds, acked or not: what was accepted, as long as nothing was
/// trimmed.
///
/// # Errors
/// An outbox that cannot be read.
pub fn accepted(outbox: &Path) -> anyhow::Result<BTreeSet<u64>> {
    let mut conn = read_only(outbox)?;
    // One snapshot: a seal between two queries would hide rows from both.
    let snapshot = conn.transaction()?;
    let mut lines = BTreeSet::new();
    let mut tail = snapshot.prepare("SELECT body FROM tail WHERE source = ?1")?;
    let mut rows = tail.query([SOURCE])?;
    while let Some(row) = rows.next()? {
        let body: String = row.get(0)?;
        lines.extend(line_of(&Metrics::from_json(&body)?));
    }
    let mut segments = snapshot.prepare("SELECT last - first + 1, body FROM segment")?;
    let mut rows = segments.query([])?;
    while let Some(row) = rows.next()? {
        let (n, body): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let readings = decode_readings(&body, n as u64)?;
        let ours = readings.iter().filter(|reading| &*reading.source == SOURCE);
        lines.extend(ours.filter_map(|reading| line_of(&reading.metrics)));
    }
    Ok(lines)
}

/// How many commands of the demo's operator have ended and how many of them succeeded, as the bridge's
/// ledger has it; and how many of anybody's the board has done.
///
/// # Errors
/// A storage that cannot be read.
pub fn commands(storage: &Path) -> anyhow::Result<[u64; 3]> {
    let sql = "SELECT count(*) FILTER (WHERE id GLOB 'demo-*' AND state <> 'open'),
        count(*) FILTER (WHERE id GLOB 'demo-*' AND state = 'succeeded'),
        count(*) FILTER (WHERE name IN ('led', 'fail') AND state IN ('succeeded', 'failed'))
        FROM commands";
    let row = |row: &rusqlite::Row<'_>| {
        Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?].map(|count| count as u64))
    };
    Ok(read_only(storage)?.query_row(sql, [], row)?)
}

/// Every row that storage has of the board's, compared with the ledger by value, source
/// and time.
///
/// # Errors
/// A storage that cannot be read.
pub fn stored(storage: &Path, ledger: &Ledger) -> anyhow::Result<Found> {
    let mut conn = read_only(storage)?;
    let snapshot = conn.transaction()?;
    let mut found = Found::default();
    let mut statement = snapshot.prepare("SELECT time, metrics FROM readings WHERE source = ?1")?;
    let mut rows = statement.query([SOURCE])?;
    while let Some(row) = rows.next()? {
        let (time_ms, metrics): (i64, String) = (row.get(0)?, row.get(1)?);
        let metrics = Metrics::from_json(&metrics)?;
        let wrong = match line_of(&metrics).and_then(|n| Some((n, ledger.line(n)?))) {
            None => Some(format!("a row that nobody sent: {metrics:?}")),
            Some((n, sent)) => {
                *found.lines.entry(n).or_default() += 1;
                let is_off = || sent.is_off(n, time_ms, ledger.tolerance_ms());
                sent.differs(n, &metrics).or_else(is_off)
            }
        };
        if let Some(wrong) = wrong {
            found.wrong_count += 1;
            if found.wrong.len() < WRONG_SHOWN {
                found.wrong.push(wrong);
            }
        }
    }
    let count = |view: &str| {
        let sql = format!("SELECT coalesce(sum(n), 0) FROM {view} WHERE stream = 'readings'");
        snapshot.query_row(&sql, [], |row| row.get::<_, i64>(0))
    };
    found.missing = count("missing")? as u64;
    found.waiting = count("waiting")? as u64;
    Ok(found)
}

/// Follows storage while it fills: counts, and the time from line to row.
pub struct Watch {
    path: PathBuf,
    conn: Option<Connection>,
    ledger: Ledger,
    /// The highest row seen, by epoch.
    seen: BTreeMap<i64, i64>,
    stored: u64,
    latencies_ms: Vec<u32>,
}

impl Watch {
    /// Begins at the first row.
    pub fn new(storage: &Path, ledger: Ledger) -> Watch {
        let (seen, latencies_ms) = (BTreeMap::new(), Vec::new());
        Watch { path: storage.to_owned(), conn: None, ledger, seen, stored: 0, latencies_ms }
    }

    /// Takes in what has come since the last look; each row's latency is known to the time
    /// between two looks. Of rows that were stored out of order the late ones are not timed.
    ///
    /// # Errors
    /// A storage that cannot be read.
    pub fn look(&mut self) -> anyhow::Result<()> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            none => none.insert(read_only(&self.path)?),
        };
        let epochs: Vec<i64> = {
            let mut statement = conn.prepare_cached("SELECT ref FROM epoch")?;
            let refs = statement.query_map([], |row| row.get(0))?;
            refs.collect::<rusqlite::Result<_>>()?
        };
        for epoch in epochs {
            let after = self.seen.get(&epoch).copied().unwrap_or(0);
            let mut statement = conn.prepare_cached(
                "SELECT r.seq, r.metrics ->> 'n' FROM reading r JOIN source s ON s.ref = r.source
                 WHERE r.epoch = ?1 AND r.seq > ?2 AND s.id = ?3",
            )?;
            let mut rows = statement.query(params![epoch, after, SOURCE])?;
            let mut last = after;
            let mut lines = Vec::new();
            while let Some(row) = rows.next()? {
                last = last.max(row.get(0)?);
                lines.push(row.get::<_, i64>(1)? as u64);
            }
            // After the rows were fetched, so that nothing is counted as faster than it was.
            let now = unix_ms();
            let sent = lines.iter().filter_map(|&n| self.ledger.line(n));
            self.latencies_ms
                .extend(sent.map(|sent| (now - sent.time_ms).clamp(0, i64::from(u32::MAX)) as u32));
            self.seen.insert(epoch, last);
        }
        // Not what was seen above: a batch past a hole is stored before what belongs into it.
        let sql =
            "SELECT count(*) FROM reading WHERE source IN (SELECT ref FROM source WHERE id = ?1)";
        self.stored =
            conn.prepare_cached(sql)?.query_row([SOURCE], |row| row.get::<_, i64>(0))? as u64;
        Ok(())
    }

    /// Rows there at the last look.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The latency that a share `q` (0 to 1) of the rows stayed within, milliseconds.
    pub fn latency_ms(&self, q: f64) -> Option<u32> {
        percentile(&self.latencies_ms, q)
    }

    /// The same of the newest rows only.
    pub fn recent_latency_ms(&self, rows: usize) -> Option<u32> {
        let from = self.latencies_ms.len().saturating_sub(rows);
        percentile(&self.latencies_ms[from..], 0.5)
    }
}

fn percentile(values: &[u32], q: f64) -> Option<u32> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied()
}

/// Follows an outbox while it fills: how many of the board's lines it has accepted. Cheap:
/// each segment is decoded once.
pub struct OutboxWatch {
    path: PathBuf,
    conn: Option<Connection>,
    last_segment: i64,
    sealed: u64,
}

impl OutboxWatch {
    /// Begins at the first row.
    pub fn new(outbox: &Path) -> OutboxWatch {
        OutboxWatch { path: outbox.to_owned(), conn: None, last_segment: 0, sealed: 0 }
    }

    /// The lines accepted so far.
    ///
    /// # Errors
    /// An outbox that cannot be read; one that is not there yet has accepted nothing.
    pub fn look(&mut self) -> anyhow::Result<u64> {
        if !self.path.exists() {
            return Ok(0);
        }
        let conn = match &mut self.conn {
            Some(conn) => conn,
            none => none.insert(read_only(&self.path)?),
        };
        let snapshot = conn.transaction()?;
        let has_tables: bool = snapshot.query_row(
            "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'tail'",
            [],
            |row| row.get(0),
        )?;
        if !has_tables {
            return Ok(0);
        }
        let mut segments = snapshot.prepare_cached(
            "SELECT id, last - first + 1, body FROM segment WHERE id > ?1 ORDER BY id",
        )?;
        let mut rows = segments.query([self.last_segment])?;
        while let Some(row) = rows.next()? {
            let (n, body): (i64, Vec<u8>) = (row.get(1)?, row.get(2)?);
            let readings = decode_readings(&body, n as u64)?;
            self.sealed +=
                readings.iter().filter(|reading| &*reading.source == SOURCE).count() as u64;
            self.last_segment = row.get(0)?;
        }
        let tail: i64 =
            snapshot.query_row("SELECT count(*) FROM tail WHERE source = ?1", [SOURCE], |row| {
                row.get(0)
            })?;
        Ok(self.sealed + tail as u64)
    }
}

/// Compares an outbox with a storage, row by row: for a real board, whose lines nobody else
/// knows. The gateway's own source does not count. Returns (accepted, stored, wrong).
///
/// # Errors
/// A file that cannot be read.
pub fn compare_files(outbox: &Path, storage: &Path) -> anyhow::Result<(u64, u64, Vec<String>)> {
    const OWN: &str = "system";
    let mut outbox = read_only(outbox)?;
    let mut storage = read_only(storage)?;
    let (outbox, storage) = (outbox.transaction()?, storage.transaction()?);
    let mut kept = BTreeMap::new();
    let mut rows =
        storage.prepare("SELECT epoch, seq, source, metrics FROM readings WHERE source <> ?1")?;
    let mut rows = rows.query([OWN])?;
    while let Some(row) = rows.next()? {
        let (epoch, seq): (String, i64) = (row.get(0)?, row.get(1)?);
        let (source, metrics): (String, String) = (row.get(2)?, row.get(3)?);
        kept.insert((epoch, seq), (source, Metrics::from_json(&metrics)?));
    }
    let mut accepted: Vec<((String, i64), String, Metrics)> = Vec::new();
    let mut tail = outbox.prepare(
        "SELECT lower(hex(epoch.epoch)), seq, source, body FROM tail JOIN epoch ON epoch.id = tail.epoch",
    )?;
    let mut rows = tail.query([])?;
    while let Some(row) = rows.next()? {
        let body: String = row.get(3)?;
        accepted.push(((row.get(0)?, row.get(1)?), row.get(2)?, Metrics::from_json(&body)?));
    }
    let mut segments = outbox.prepare(
        "SELECT lower(hex(epoch.epoch)), first, last - first + 1, body FROM segment JOIN epoch ON epoch.id = segment.epoch",
    )?;
    let mut rows = segments.query([])?;
    while let Some(row) = rows.next()? {
        let epoch: String = row.get(0)?;
        let (first, n, body): (i64, i64, Vec<u8>) = (row.get(1)?, row.get(2)?, row.get(3)?);
        for (at, reading) in decode_readings(&body, n as u64)?.into_iter().enumerate() {
            accepted.push((
                (epoch.clone(), first + at as i64),
                reading.source.to_string(),
                reading.metrics,
            ));
        }
    }
    accepted.retain(|(_, source, _)| source != OWN);
    let stored = accepted.iter().filter(|(key, _, _)| kept.contains_key(key)).count() as u64;
    let differs = accepted.iter().filter_map(|(key, source, metrics)| {
        let (stored_source, stored_metrics) = kept.get(key)?;
        let same = stored_source == source && stored_metrics == metrics;
        (!same).then(|| {
            format!("row {} of epoch {}: {metrics:?} became {stored_metrics:?}", key.1, key.0)
        })
    });
    Ok((accepted.len() as u64, stored, differs.collect()))
}
