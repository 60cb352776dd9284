//! The ledger of commands, row by row.

use fieldpost_protocol::{CommandId, Content, DeviceId, Epoch, Instance, Metrics};
use rusqlite::Row;

use super::super::ledger::{
    COMMAND_KEPT_MS, COMMANDS_MAX, LEASE_MS, Ledger, LedgerRow, OPEN_COMMANDS_MAX,
};
use super::super::{DeviceRef, STALE_AFTER_MS, StoreError};
use super::store_error;
use super::txn::SqliteTxn;
use crate::engine::{CommandRow, Ending, Origin};

type Result<T> = std::result::Result<T, StoreError>;

/// As [`read`] wants them; with `c` for the table.
const COLUMNS: &str = "c.id, c.name, c.args, c.content, c.expires, c.strict, c.origin, c.created, \
                       c.target, c.issued, c.first_issued, c.next_at, c.outcome, c.detail, \
                       c.result, c.done_at, c.concluded";
/// Commands that go at once, where there are too many: further ones find room without looking.
const FORGOTTEN_AT_ONCE: u64 = 100;

impl Ledger for SqliteTxn<'_> {
    fn find_device(&mut self, device: &DeviceId) -> Result<Option<DeviceRef>> {
        let sql = "SELECT ref FROM device WHERE id = ?1";
        self.find(sql, [device.as_str()], |row| row.get(0).map(DeviceRef))
    }

    fn command(&mut self, device: DeviceRef, id: &CommandId) -> Result<Option<CommandRow>> {
        let sql = format!("SELECT {COLUMNS} FROM command c WHERE c.device = ?1 AND c.id = ?2");
        let raw = self.find(&sql, (device.0, id.as_str()), |row| read(row, 0))?;
        raw.map(|raw| raw.checked().map(|(_, row)| row)).transpose()
    }

    fn has_room_for_command(&mut self, device: DeviceRef, now: i64) -> Result<bool> {
        let open = "SELECT count(*) FROM command WHERE device = ?1 AND outcome IS NULL";
        if self.count(open, [device.0])? >= OPEN_COMMANDS_MAX {
            return Ok(false);
        }
        let all = "SELECT count(*) FROM command WHERE device = ?1";
        if self.count(all, [device.0])? < COMMANDS_MAX {
            return Ok(true);
        }
        let gone = "DELETE FROM command WHERE device = ?1 AND id IN \
                    (SELECT id FROM command WHERE device = ?1 AND outcome IS NOT NULL AND done_at < ?2 \
                     ORDER BY done_at LIMIT ?3)";
        let before = now.saturating_sub(COMMAND_KEPT_MS);
        Ok(self.execute(gone, (device.0, before, FORGOTTEN_AT_ONCE as i64))? > 0)
    }

    fn insert_command(
        &mut self,
        device: DeviceRef,
        id: &CommandId,
        row: &CommandRow,
    ) -> Result<()> {
        self.execute(
            "INSERT INTO command (device, id, name, args, content, expires, strict, origin, created, \
                                  issued, next_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, 0)",
            (
                device.0,
                id.as_str(),
                &row.name,
                json(&row.args)?,
                &row.content.0[..],
                row.expires,
                row.strict,
                row.origin.as_str(),
                row.created,
            ),
        )?;
        self.save_command(device, id, row)
    }

    fn save_command(&mut self, device: DeviceRef, id: &CommandId, row: &CommandRow) -> Result<()> {
        let ending = row.ending.as_ref();
        let result = ending.map_or_else(|| Ok("{}".to_owned()), |ending| json(&ending.result))?;
        self.execute(
            "UPDATE command SET target = ?3, issued = ?4, first_issued = ?5, next_at = ?6, \
                                outcome = ?7, detail = ?8, result = ?9, done_at = ?10, \
                                concluded = ?11 \
             WHERE device = ?1 AND id = ?2",
            (
                device.0,
                id.as_str(),
                row.target.as_ref().map(|target| &target.0[..]),
                row.issued,
                row.first_issued,
                row.next_at,
                ending.map(Ending::as_str),
                ending.and_then(|ending| ending.detail.as_deref()),
                result,
                ending.map(|ending| ending.at),
                ending.is_some_and(|ending| ending.concluded),
            ),
        )?;
        Ok(())
    }

    fn wake_commands(&mut self, device: DeviceRef, now: i64) -> Result<()> {
        let sql = "UPDATE command SET next_at = ?2 WHERE device = ?1 AND outcome IS NULL";
        self.execute(sql, (device.0, now)).map(drop)
    }

    fn open_commands(
        &mut self,
        device: Option<DeviceRef>,
        until: i64,
        max: u64,
    ) -> Result<Vec<LedgerRow>> {
        let (of, first) = match device {
            Some(_) => ("c.device = ?3 AND", ""),
            None => ("?3 IS NULL AND", "c.next_at, "),
        };
        let sql = format!(
            "SELECT d.ref, d.id, {COLUMNS} FROM command c JOIN device d ON d.ref = c.device \
             WHERE {of} c.outcome IS NULL AND c.next_at <= ?1 \
             ORDER BY {first}c.created, c.id LIMIT ?2"
        );
        let mut query = self.txn.prepare_cached(&sql).map_err(store_error)?;
        let device = device.map(|device| device.0);
        let rows = query
            .query_map((until, max as i64, device), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, read(row, 2)?))
            })
            .map_err(store_error)?;
        let mut open = Vec::new();
        for row in rows {
            let (device, name, raw) = row.map_err(store_error)?;
            let (id, row) = raw.checked()?;
            let device_id =
                name.parse().map_err(|_| StoreError::Damaged(format!("device {name:?}")))?;
            open.push(LedgerRow { device: DeviceRef(device), device_id, id, row });
        }
        Ok(open)
    }

    fn epoch_there(&mut self, device: DeviceRef, now: i64) -> Result<Option<Epoch>> {
        // As the view `devices` says who is online.
        let sql = "SELECT e.epoch FROM device d \
                   JOIN epoch e INDEXED BY epoch_not_superseded ON e.device = d.ref \
                   WHERE d.ref = ?1 AND NOT e.superseded AND e.hello_applied IS NOT NULL \
                     AND abs(?2 - d.last_seen) <= ?3 \
                     AND NOT (coalesce(d.online, 1) = 0 AND d.status_at >= d.last_seen) \
                   ORDER BY e.ref DESC LIMIT 1";
        let found =
            self.find(sql, (device.0, now, STALE_AFTER_MS), |row| row.get::<_, [u8; 16]>(0))?;
        Ok(found.map(Epoch))
    }

    fn lease(&mut self, holder: Instance, now: i64) -> Result<bool> {
        // One far in the future is of a clock that was wrong.
        let sql = "INSERT INTO command_lease VALUES (1, ?1, ?2 + ?3) \
                   ON CONFLICT DO UPDATE SET holder = ?1, until = ?2 + ?3 \
                   WHERE holder = ?1 OR until <= ?2 OR until > ?2 + ?3";
        Ok(self.execute(sql, (&holder.0[..], now, LEASE_MS))? > 0)
    }
}

/// A row's columns before they are believed.
struct RawCommand {
    id: String,
    args: String,
    origin: String,
    row: CommandRow,
    result: String,
}

fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<RawCommand> {
    let outcome: Option<String> = row.get(at + 12)?;
    let ending = match outcome {
        Some(outcome) => Some(Ending {
            // `cancelled` is none of a gateway's.
            outcome: outcome.parse().ok(),
            detail: row.get(at + 13)?,
            result: Metrics::default(),
            at: row.get::<_, Option<i64>>(at + 15)?.unwrap_or(0),
            concluded: row.get(at + 16)?,
        }),
        None => None,
    };
    let known = CommandRow {
        name: row.get(at + 1)?,
        args: Metrics::default(),
        content: Content(row.get(at + 3)?),
        expires: row.get(at + 4)?,
        strict: row.get(at + 5)?,
        origin: Origin::Person,
        created: row.get(at + 7)?,
        target: row.get::<_, Option<[u8; 16]>>(at + 8)?.map(Epoch),
        issued: row.get(at + 9)?,
        first_issued: row.get(at + 10)?,
        next_at: row.get(at + 11)?,
        ending,
    };
    Ok(RawCommand {
        id: row.get(at)?,
        args: row.get(at + 2)?,
        origin: row.get(at + 6)?,
        row: known,
        result: row.get(at + 14)?,
    })
}

impl RawCommand {
    fn checked(self) -> Result<(CommandId, CommandRow)> {
        let RawCommand { id, args, origin, mut row, result } = self;
        let damaged = |what: &str| StoreError::Damaged(format!("command {id}: {what}"));
        row.args = Metrics::from_json(&args).map_err(|_| damaged("its arguments"))?;
        if let Some(ending) = &mut row.ending {
            ending.result = Metrics::from_json(&result).map_err(|_| damaged("its result"))?;
        }
        if origin == Origin::Cli.as_str() {
            row.origin = Origin::Cli;
        }
        Ok((id.parse().map_err(|_| damaged("its id"))?, row))
    }
}

fn json(metrics: &Metrics) -> Result<String> {
    let no_number = || StoreError::Refused("a value is not a finite number".into());
    metrics.to_json().ok_or_else(no_number)
}
