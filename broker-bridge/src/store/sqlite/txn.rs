//! One transaction: every row that a message changes.

use std::collections::HashMap;
use std::sync::Arc;

use fieldpost_protocol::{
    Clock, DeviceId, Epoch, Event, HelloStream, Meta, Reading, Seq, Stream, StreamKey,
    check_metric, check_source,
};
use rusqlite::{OptionalExtension, Params, Row, Transaction};

use super::super::{
    ALARMS_MAX, Alarm, DEVICES_MAX, DeviceRef, DeviceWord, EpochRef, Identity, Ledger,
    LockedStream, NewDeadLetter, NewReadings, SOURCES_MAX, StoreError, StreamRef, Txn,
};
use super::open::FileId;
use super::{epochs, events, identity, store_error};
use crate::coverage::Coverage;
use crate::engine::{HelloRow, Staged, StreamRow};

type Result<T> = std::result::Result<T, StoreError>;

/// A transaction of [`super::SqliteStore`]. It holds the writer's lock from its begin, so
/// that every row it reads is locked.
#[derive(Debug)]
pub struct SqliteTxn<'s> {
    pub(super) txn: Transaction<'s>,
    file: &'s FileId,
    pub(super) in_vain: &'s mut epochs::InVain,
    /// Never kept longer than the transaction: a rollback takes new refs back.
    sources: HashMap<(DeviceRef, Arc<str>), i64>,
}

impl<'s> SqliteTxn<'s> {
    pub(super) fn new(
        txn: Transaction<'s>,
        file: &'s FileId,
        in_vain: &'s mut epochs::InVain,
    ) -> Self {
        SqliteTxn { txn, file, in_vain, sources: HashMap::new() }
    }

    pub(super) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.txn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(store_error)
    }

    pub(super) fn find<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        self.txn
            .prepare_cached(sql)
            .and_then(|mut query| query.query_row(params, read).optional())
            .map_err(store_error)
    }

    pub(super) fn count(&self, sql: &str, params: impl Params) -> Result<u64> {
        let count: Option<i64> = self.find(sql, params, |row| row.get(0))?;
        Ok(count.unwrap_or(0) as u64)
    }

    fn source(&mut self, device: DeviceRef, id: &Arc<str>) -> Result<i64> {
        if let Some(&source) = self.sources.get(&(device, id.clone())) {
            return Ok(source);
        }
        let sql = "SELECT ref FROM source WHERE device = ?1 AND id = ?2";
        let source = match self.find(sql, (device.0, &**id), |row| row.get(0))? {
            Some(source) => source,
            None => self.make_source(device, id)?,
        };
        self.sources.insert((device, id.clone()), source);
        Ok(source)
    }

    fn make_source(&self, device: DeviceRef, id: &str) -> Result<i64> {
        let sql = "SELECT count(*) FROM source WHERE device = ?1";
        if self.count(sql, [device.0])? >= SOURCES_MAX {
            return Err(StoreError::Refused(format!(
                "source {id:?} is one too many: a device has at most {SOURCES_MAX}"
            )));
        }
        self.execute("INSERT INTO source (device, id) VALUES (?1, ?2)", (device.0, id))?;
        Ok(self.txn.last_insert_rowid())
    }

    fn stream_row(
        &self,
        epoch: EpochRef,
        stream: Stream,
    ) -> Result<Option<(StreamRef, StreamRow)>> {
        let sql = "SELECT ref, floor, floor_by_absence, claimed, coverage FROM stream \
                   WHERE epoch = ?1 AND stream = ?2";
        let raw = self.find(sql, (epoch.0, stream.as_str()), |row| read_stream(row, 0))?;
        raw.map(RawStream::checked).transpose()
    }
}

impl Txn for SqliteTxn<'_> {
    fn identity(&mut self) -> Result<Identity> {
        identity(&self.txn)
    }

    fn device(&mut self, device: &DeviceId, now: i64) -> Result<DeviceRef> {
        if let Some(found) = self.find_device(device)? {
            return Ok(found);
        }
        if self.count("SELECT count(*) FROM device", [])? >= DEVICES_MAX {
            return Err(StoreError::Refused(format!(
                "device {device} is one too many: a storage has at most {DEVICES_MAX}"
            )));
        }
        self.execute(
            "INSERT INTO device (id, first_seen) VALUES (?1, ?2)",
            (device.as_str(), now),
        )?;
        Ok(DeviceRef(self.txn.last_insert_rowid()))
    }

    fn seen(&mut self, device: DeviceRef, now: i64) -> Result<()> {
        self.execute("UPDATE device SET last_seen = ?2 WHERE ref = ?1", (device.0, now))?;
        Ok(())
    }

    fn word(&mut self, device: DeviceRef, word: DeviceWord<'_>) -> Result<()> {
        self.execute(
            "UPDATE device SET online = ?2, status = ?3, status_at = ?4 WHERE ref = ?1",
            (device.0, word.online, word.status, word.received),
        )?;
        Ok(())
    }

    fn meta(&mut self, device: DeviceRef, meta: &Meta) -> Result<()> {
        let names = (device.0, &meta.name, &meta.location);
        self.execute("UPDATE device SET name = ?2, location = ?3 WHERE ref = ?1", names)?;
        for (id, about) in &meta.sources {
            // Names that no reading can have are left out.
            if check_source(id).is_err() {
                continue;
            }
            let source = match self.source(device, &Arc::from(id.as_str())) {
                Ok(source) => source,
                // Past the bound: a name of no reading; what is one will say so.
                Err(StoreError::Refused(_)) => continue,
                Err(error) => return Err(error),
            };
            self.execute("UPDATE source SET name = ?2 WHERE ref = ?1", (source, &about.name))?;
            self.execute("DELETE FROM unit WHERE source = ?1", [source])?;
            for (metric, what) in &about.metrics {
                let Some(unit) = what.unit.as_deref().filter(|_| check_metric(metric).is_ok())
                else {
                    continue;
                };
                let sql = "INSERT INTO unit (source, metric, unit) VALUES (?1, ?2, ?3)";
                self.execute(sql, (source, metric, unit))?;
            }
        }
        Ok(())
    }

    fn reported(&mut self, device: DeviceRef, config: &str) -> Result<()> {
        self.execute("UPDATE device SET reported = ?2 WHERE ref = ?1", (device.0, config))?;
        Ok(())
    }

    fn lock_stream(&mut self, device: DeviceRef, key: StreamKey) -> Result<LockedStream> {
        let epoch = self.epoch(device, key.epoch)?;
        if let Some((stream, row)) = self.stream_row(epoch, key.stream)? {
            return Ok(LockedStream { stream, epoch, key, row });
        }
        let row = StreamRow::default();
        self.execute(
            "INSERT INTO stream (epoch, stream, floor, floor_by_absence, claimed, coverage) \
             VALUES (?1, ?2, ?3, 0, ?4, '[]')",
            (epoch.0, key.stream.as_str(), row.floor as i64, row.claimed as i64),
        )?;
        Ok(LockedStream { stream: StreamRef(self.txn.last_insert_rowid()), epoch, key, row })
    }

    fn save_stream(&mut self, stream: StreamRef, row: &StreamRow) -> Result<()> {
        self.execute(
            "UPDATE stream SET floor = ?2, floor_by_absence = ?3, claimed = ?4, coverage = ?5 \
             WHERE ref = ?1",
            (
                stream.0,
                row.floor as i64,
                row.floor_by_absence,
                row.claimed as i64,
                row.coverage.to_json(),
            ),
        )?;
        Ok(())
    }

    fn find_stream(&mut self, device: DeviceRef, key: StreamKey) -> Result<Option<StreamRow>> {
        match self.find_epoch(device, key.epoch)? {
            Some(epoch) => Ok(self.stream_row(epoch, key.stream)?.map(|(_, row)| row)),
            None => Ok(None),
        }
    }

    fn held_streams(&mut self, device: DeviceRef) -> Result<Vec<LockedStream>> {
        let sql = "SELECT s.ref, s.floor, s.floor_by_absence, s.claimed, s.coverage, \
                          e.ref, e.epoch, s.stream \
                   FROM held h CROSS JOIN stream s ON s.ref = h.stream \
                   CROSS JOIN epoch e ON e.ref = s.epoch \
                   WHERE h.device = ?1 ORDER BY e.epoch, s.stream";
        let mut query = self.txn.prepare_cached(sql).map_err(store_error)?;
        let rows = query
            .query_map([device.0], |row| {
                let key: (i64, Vec<u8>, String) = (row.get(5)?, row.get(6)?, row.get(7)?);
                Ok((read_stream(row, 0)?, key))
            })
            .map_err(store_error)?;
        let mut streams = Vec::new();
        for row in rows {
            let (raw, (epoch, id, name)) = row.map_err(store_error)?;
            let (stream, row) = raw.checked()?;
            let damaged = || StoreError::Damaged(format!("stream {} has no valid key", stream.0));
            let key = StreamKey {
                epoch: Epoch(id.try_into().map_err(|_| damaged())?),
                stream: name.parse().map_err(|_| damaged())?,
            };
            streams.push(LockedStream { stream, epoch: EpochRef(epoch), key, row });
        }
        Ok(streams)
    }

    fn fix_time(&mut self, epoch: EpochRef, base: i64, clock: Clock) -> Result<(i64, String)> {
        let sql = "SELECT base, clock FROM epoch WHERE ref = ?1 AND base IS NOT NULL";
        if let Some(fixed) = self.find(sql, [epoch.0], |row| Ok((row.get(0)?, row.get(1)?)))? {
            return Ok(fixed);
        }
        self.execute(
            "UPDATE epoch SET base = ?2, clock = ?3 WHERE ref = ?1",
            (epoch.0, base, clock.as_str()),
        )?;
        Ok((base, clock.as_str().to_owned()))
    }

    fn insert_readings(&mut self, new: NewReadings<'_>) -> Result<()> {
        let NewReadings { device, epoch, base, first, readings, runs } = new;
        let mut last: Option<(Arc<str>, i64)> = None;
        let mut json = Vec::new();
        for &(lo, hi) in runs {
            let within = &readings[(lo - first) as usize..=(hi - first) as usize];
            for (reading, seq) in within.iter().zip(lo..) {
                let source = match &last {
                    Some((id, source)) if Arc::ptr_eq(id, &reading.source) => *source,
                    _ => self.source(device, &reading.source)?,
                };
                last = Some((reading.source.clone(), source));
                let metrics = metrics_json(&mut json, reading)?;
                let row = (epoch.0, seq as i64, source, base + reading.offset_ms, metrics);
                self.execute("INSERT INTO reading VALUES (?1, ?2, ?3, ?4, ?5)", row)?;
            }
        }
        Ok(())
    }

    fn insert_event(&mut self, epoch: EpochRef, seq: Seq, time: i64, event: &Event) -> Result<()> {
        events::insert(self, epoch, seq, time, event)
    }

    fn dead_letters(&mut self, device: DeviceRef) -> Result<u64> {
        // In this order: open letters are few, epochs of a device may be very many.
        let sql = "SELECT count(*) FROM dead_letter l CROSS JOIN stream s ON s.ref = l.stream \
                   CROSS JOIN epoch e ON e.ref = s.epoch \
                   WHERE e.device = ?1 AND l.dropped IS NULL";
        self.count(sql, [device.0])
    }

    fn insert_dead_letter(&mut self, new: NewDeadLetter<'_>) -> Result<()> {
        let topic = match (new.command_ack, self.is_readings(new.stream)?) {
            (_, true) => "sensor_data",
            (true, false) => "command_acks",
            (false, false) => "alerts",
        };
        let seqs = serde_json::to_string(new.runs).expect("pairs of integers are JSON");
        self.execute(
            "INSERT INTO dead_letter (stream, seqs, topic, message, reason, received) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (new.stream.0, seqs, topic, new.message, new.reason, new.received),
        )?;
        Ok(())
    }

    fn epoch(&mut self, device: DeviceRef, epoch: Epoch) -> Result<EpochRef> {
        if let Some(found) = self.find_epoch(device, epoch)? {
            return Ok(found);
        }
        let sql = "INSERT INTO epoch (device, epoch) VALUES (?1, ?2)";
        self.execute(sql, (device.0, &epoch.0[..]))?;
        Ok(EpochRef(self.txn.last_insert_rowid()))
    }

    fn find_epoch(&mut self, device: DeviceRef, epoch: Epoch) -> Result<Option<EpochRef>> {
        let sql = "SELECT ref FROM epoch WHERE device = ?1 AND epoch = ?2";
        self.find(sql, (device.0, &epoch.0[..]), |row| row.get(0).map(EpochRef))
    }

    fn room_for_epochs(&mut self, device: DeviceRef, until: i64) -> Result<u64> {
        epochs::room(self, device, until)
    }

    fn hello(&mut self, epoch: EpochRef) -> Result<HelloRow> {
        type Raw = (Option<i64>, Option<i64>, Option<u32>, i64);
        let sql = "SELECT hello_applied, hello_no, hello_pages, superseded FROM epoch \
                   WHERE ref = ?1";
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let raw: Option<Raw> = self.find(sql, [epoch.0], read)?;
        let (applied, no, pages, superseded) =
            raw.ok_or_else(|| StoreError::Damaged(format!("epoch {} is gone", epoch.0)))?;
        let staged = match no.zip(pages) {
            Some((no, pages)) => {
                let mut query = self
                    .txn
                    .prepare_cached("SELECT page FROM hello_page WHERE epoch = ?1")
                    .map_err(store_error)?;
                let seen = query.query_map([epoch.0], |row| row.get(0)).map_err(store_error)?;
                let seen = seen.collect::<rusqlite::Result<_>>().map_err(store_error)?;
                Some(Staged { no: no as u64, pages, seen })
            }
            None => None,
        };
        // 0: it is not. Files of earlier versions have a 1, which is long ago.
        let superseded = (superseded != 0).then_some(superseded);
        Ok(HelloRow { applied: applied.map(|no| no as u64), staged, superseded })
    }

    fn save_hello(&mut self, epoch: EpochRef, row: &HelloRow) -> Result<()> {
        let staged = row.staged.as_ref();
        self.execute(
            "UPDATE epoch SET hello_applied = ?2, hello_no = ?3, hello_pages = ?4, superseded = ?5 \
             WHERE ref = ?1",
            (
                epoch.0,
                row.applied.map(|no| no as i64),
                staged.map(|staged| staged.no as i64),
                staged.map(|staged| staged.pages),
                row.superseded.unwrap_or(0),
            ),
        )?;
        Ok(())
    }

    fn stage_page(&mut self, epoch: EpochRef, page: u32, streams: &[HelloStream]) -> Result<()> {
        let streams = serde_json::to_string(streams).expect("ids and integers are JSON");
        let sql = "INSERT OR REPLACE INTO hello_page (epoch, page, streams) VALUES (?1, ?2, ?3)";
        self.execute(sql, (epoch.0, page, streams))?;
        Ok(())
    }

    fn staged(&mut self, epoch: EpochRef) -> Result<Vec<HelloStream>> {
        let sql = "SELECT streams FROM hello_page WHERE epoch = ?1 ORDER BY page";
        let mut query = self.txn.prepare_cached(sql).map_err(store_error)?;
        let pages =
            query.query_map([epoch.0], |row| row.get::<_, String>(0)).map_err(store_error)?;
        let mut all = Vec::new();
        for page in pages {
            let page: Vec<HelloStream> = serde_json::from_str(&page.map_err(store_error)?)
                .map_err(|error| StoreError::Damaged(format!("a staged page: {error}")))?;
            all.extend(page);
        }
        Ok(all)
    }

    fn unstage(&mut self, epoch: EpochRef) -> Result<()> {
        self.execute("DELETE FROM hello_page WHERE epoch = ?1", [epoch.0])?;
        Ok(())
    }

    fn supersede_others(&mut self, device: DeviceRef, epoch: EpochRef, now: i64) -> Result<()> {
        self.execute(
            "DELETE FROM hello_page WHERE epoch IN \
             (SELECT ref FROM epoch INDEXED BY epoch_not_superseded \
              WHERE device = ?1 AND ref <> ?2 AND NOT superseded)",
            (device.0, epoch.0),
        )?;
        self.execute(
            "UPDATE epoch INDEXED BY epoch_not_superseded \
             SET superseded = ?3, hello_no = NULL, hello_pages = NULL \
             WHERE device = ?1 AND ref <> ?2 AND NOT superseded",
            (device.0, epoch.0, now.max(1)),
        )?;
        Ok(())
    }

    fn alarm(&mut self, alarm: &Alarm, now: i64) -> Result<()> {
        let again = "UPDATE alarm SET last_at = ?3, count = count + 1, message = ?4 \
                     WHERE kind = ?1 AND about = ?2";
        let row = (alarm.kind, &alarm.about, now, &alarm.message);
        if self.execute(again, row)? > 0 {
            return Ok(());
        }
        let count = self.count("SELECT count(*) FROM alarm", [])?;
        let about = if count < ALARMS_MAX { alarm.about.as_str() } else { "(others)" };
        self.execute(
            "INSERT INTO alarm (kind, about, first_at, last_at, count, message) \
             VALUES (?1, ?2, ?3, ?3, 1, ?4) \
             ON CONFLICT DO UPDATE SET last_at = ?3, count = count + 1, message = ?4",
            (alarm.kind, about, now, &alarm.message),
        )?;
        Ok(())
    }

    fn commit(self) -> Result<()> {
        self.txn.commit().map_err(store_error)?;
        // Not into a file that was taken away meanwhile.
        self.file.check()
    }
}

impl SqliteTxn<'_> {
    pub(super) fn forget_dead_letter(&self, id: i64) -> Result<()> {
        self.execute("DELETE FROM dead_letter WHERE id = ?1", [id])?;
        Ok(())
    }

    fn is_readings(&self, stream: StreamRef) -> Result<bool> {
        let sql = "SELECT stream = 'readings' FROM stream WHERE ref = ?1";
        Ok(self.find(sql, [stream.0], |row| row.get(0))?.unwrap_or(false))
    }
}

/// A stream's columns before they are believed.
struct RawStream {
    stream: i64,
    floor: i64,
    floor_by_absence: bool,
    claimed: i64,
    coverage: String,
}

fn read_stream(row: &Row<'_>, at: usize) -> rusqlite::Result<RawStream> {
    Ok(RawStream {
        stream: row.get(at)?,
        floor: row.get(at + 1)?,
        floor_by_absence: row.get(at + 2)?,
        claimed: row.get(at + 3)?,
        coverage: row.get(at + 4)?,
    })
}

impl RawStream {
    fn checked(self) -> Result<(StreamRef, StreamRow)> {
        let RawStream { stream, floor, floor_by_absence, claimed, coverage } = self;
        let damaged = |why: String| StoreError::Damaged(format!("stream {stream}: {why}"));
        let coverage =
            Coverage::from_json(&coverage).map_err(|error| damaged(error.to_string()))?;
        let floor = u64::try_from(floor).ok().filter(|&floor| floor >= 1);
        let floor = floor.ok_or_else(|| damaged("its floor is no sequence number".into()))?;
        let claimed = u64::try_from(claimed)
            .map_err(|_| damaged("what it claimed is no sequence number".into()))?;
        Ok((StreamRef(stream), StreamRow { coverage, floor, floor_by_absence, claimed }))
    }
}

fn metrics_json<'b>(buffer: &'b mut Vec<u8>, reading: &Reading) -> Result<&'b str> {
    buffer.clear();
    serde_json::to_writer(&mut *buffer, &reading.metrics)
        .map_err(|error| StoreError::Refused(error.to_string()))?;
    std::str::from_utf8(buffer).map_err(|error| StoreError::Refused(error.to_string()))
}
