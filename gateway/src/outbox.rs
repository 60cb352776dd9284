//! The outbox: where a reading becomes durable, and stays until storage has it.
//!
//! ```text
//!  append --> tail  --seal--> segment --trim--> (tombstone)
//!             rows,            1,000 readings,
//!             JSON body        the exact body that is published
//!  append --> event
//! ```
//!
//! Always true here:
//! - A reading is *accepted* when the transaction that holds it has committed (SQLite, WAL,
//!   `synchronous=FULL`), not before.
//! - Sequence numbers of an (epoch, stream) are 1, 2, 3... without a hole, given inside the
//!   insert transaction. Only the process that made an epoch appends to it.
//! - A commit that fails may yet be durable. A new epoch begins, and what was in it is never
//!   inserted again.
//! - Nothing is deleted but by [`trim`](Outbox::trim), by the user's `drop_oldest`, or to make
//!   room by what storage has acknowledged.
//!
//! One thread owns it (see [`OutboxThread`]); the file may be read by `sqlite3` meanwhile.

mod announced;
mod append;
mod history;
mod holes;
mod inbox;
mod lasting;
mod lock;
mod log;
mod read;
mod schema;
mod seal;
mod thread;
mod trim;
mod trust;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fieldpost_fail_point::point;
use fieldpost_protocol::{Clock, CommandId, DeviceId, Epoch, Seq, Stream, StreamKey};
use rusqlite::Connection;

use crate::clock::{self, Now};

pub use append::{AppendError, Appended, NewEvent};
pub use history::read_history;
pub use holes::Hole;
pub use inbox::{Ending, Finished, Left, Taken};
pub use lasting::KeptAlert;
pub use read::Batch;
pub use schema::{OpenError, check_place, sync_call};
pub use thread::{Gone, OutboxThread};
pub use trim::Trimmed;
pub use trust::Trusted;

/// Kept free of readings: for events, trims and the outcomes of commands.
pub const RESERVE_BYTES: u64 = 1024 * 1024;
/// Tombstones kept; the oldest are dropped first, and logged.
pub const TOMBSTONES_MAX: usize = 4_096;
/// A step of the wall clock by more than this begins a new epoch.
pub const CLOCK_STEP_MS: i64 = 1_000;

/// What happens to a reading when the outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused, counted, and an alert says so.
    Refuse,
    /// The oldest readings make room; they show as missing.
    DropOldest,
}

/// How the outbox is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database file.
    pub path: PathBuf,
    /// Whose readings it holds.
    pub device: DeviceId,
    /// Acked readings are kept this long, milliseconds.
    pub retention_age_ms: i64,
    /// ... and up to this many bytes, whichever is less.
    pub retention_bytes: u64,
    /// The file's limit, in used pages.
    pub size_bytes_max: u64,
    /// What to do at the limit.
    pub when_full: WhenFull,
    /// No broker: age and size purge what nobody has acknowledged, too.
    pub recorder: bool,
}

/// One stream as the sync protocol sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamInfo {
    /// Which.
    pub key: StreamKey,
    /// The lowest row still held; `last + 1`: none.
    pub floor: Seq,
    /// The highest row given.
    pub last: Seq,
    /// Storage has every row up to here.
    pub acked: Seq,
}

/// The outbox at one moment. Two ways lead from its thread to the driver, and one is a queue.
#[derive(Debug)]
pub struct Snapshot {
    /// Rises with each.
    pub no: u64,
    /// The epoch that is appended to.
    pub epoch: Epoch,
    /// Every stream, if it was asked for.
    pub streams: Option<Vec<StreamInfo>>,
}

/// A stream in memory; `id` is its epoch's row.
#[derive(Debug, Clone, Copy)]
struct Row {
    key: StreamKey,
    floor: Seq,
    last: Seq,
    acked: Seq,
    /// A state of the present gen listed rows up to here as stored.
    confirmed: Seq,
    /// `last` and `acked` as the stream table has them.
    saved: (Seq, Seq),
}

/// The epoch that this process appends to. Its row exists with its first reading or event.
#[derive(Debug, Clone)]
struct Current {
    id: Option<i64>,
    epoch: Epoch,
    start: Now,
    base: Option<(i64, Clock)>,
    /// Rows of this epoch in `tail`.
    tail: usize,
}

impl Current {
    fn new(start: Now) -> Self {
        Current { id: None, epoch: Epoch(clock::random_id()), start, base: None, tail: 0 }
    }

    fn key(&self, stream: Stream) -> StreamKey {
        StreamKey { epoch: self.epoch, stream }
    }
}

/// What opening found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// A damaged file was moved aside to here, and a new outbox begun.
    pub damaged: Option<PathBuf>,
    /// The log was damaged: a copy of it is here, and what stood behind is not read.
    pub broken_log: Option<PathBuf>,
    /// Readings found in tails of earlier epochs and sealed.
    pub sealed: usize,
}

impl Recovered {
    /// What there is to say of damage.
    pub fn damage(&self) -> Option<String> {
        let kept = |what: &str, aside: &Path, then: &str| {
            let aside = aside.display();
            format!(
                "{what} was damaged and is kept as {aside}; {then} and storage lacks shows as missing"
            )
        };
        let log = self.broken_log.as_ref().map(|aside| {
            kept("the outbox's log", aside, "what follows the damage cannot be read. What it held")
        });
        let file = self
            .damaged
            .as_ref()
            .map(|aside| kept("the outbox", aside, "a new one was begun. What it held"));
        match (file, &self.broken_log) {
            (Some(file), Some(aside)) => Some(format!(
                "{file}. Its log was damaged, too, and is kept as it was as {}",
                aside.display()
            )),
            (file, _) => file.or(log),
        }
    }
}

/// See the module.
pub struct Outbox {
    conn: Connection,
    /// As configured; but its path is the file's own, with no symbolic link in it.
    settings: Settings,
    /// The path as configured.
    named: PathBuf,
    boot_id: String,
    current: Current,
    /// Streams with an epoch row, oldest epoch first.
    streams: BTreeMap<(i64, Stream), Row>,
    /// Whose sync acks count, and as the meta table has it.
    trusted: Option<Trusted>,
    saved_trusted: Option<Trusted>,
    /// It was logged that they, or `acked`, could not be written.
    save_failed: bool,
    /// Tails of ended epochs wait to be sealed.
    old_tails: bool,
    /// Streams were read anew since the last commit.
    streams_changed: bool,
    /// Refusals of other commands under known ids, by what told them last. In memory: a start tells again.
    other_contents: BTreeMap<CommandId, (Epoch, Seq)>,
    /// How many snapshots were given.
    snapshots: u64,
    /// The file that was opened, by device and inode.
    file: Option<(u64, u64)>,
    /// Keep a second gateway out. Dropped after the connection, see there.
    _locks: (Arc<lock::Lock>, Option<lock::Lock>),
}

impl Outbox {
    /// Opens the file, or makes it; moves a damaged one aside; seals what earlier epochs left.
    pub fn open(mut settings: Settings, now: Now) -> Result<(Self, Recovered), OpenError> {
        let real = lock::real_path(&settings.path)?;
        let named = std::mem::replace(&mut settings.path, real);
        lock::check_file(&settings.path)?;
        let (mut outbox, recovered) = Outbox::open_real(settings, now)?;
        outbox.named = named;
        Ok((outbox, recovered))
    }

    fn open_real(settings: Settings, now: Now) -> Result<(Self, Recovered), OpenError> {
        let lock = Arc::new(lock::Lock::take(&settings.path)?);
        let broken_log = log::keep_if_broken(&settings.path, now.wall_ms).unwrap_or_else(|error| {
            tracing::error!(%error, "the outbox's log cannot be looked at, or not be kept");
            None
        });
        let why = match Outbox::open_whole(&settings, &lock, now) {
            Err(OpenError::Damaged { why, .. }) => why,
            Ok((outbox, recovered)) if broken_log.is_some() => {
                // A log of its own, so that the next start does not find the break again.
                schema::fold(&outbox.conn)?;
                point!("outbox.log.after_fold");
                return Ok((outbox, Recovered { broken_log, ..recovered }));
            }
            other => return other,
        };
        tracing::error!(path = %settings.path.display(), why, "the outbox is damaged");
        let aside = schema::move_aside(&settings.path, now.wall_ms)?;
        let (outbox, recovered) = Outbox::open_whole(&settings, &lock, now)?;
        Ok((outbox, Recovered { damaged: Some(aside), broken_log, ..recovered }))
    }

    fn open_whole(
        settings: &Settings,
        lock: &Arc<lock::Lock>,
        now: Now,
    ) -> Result<(Self, Recovered), OpenError> {
        let path = &settings.path;
        let locked = lock::Lock::take_file(path)?;
        let conn = schema::open(path, &settings.device)?;
        // A file that was made just now.
        let locked = if locked.is_some() { locked } else { lock::Lock::take_file(path)? };
        let mut outbox = Outbox {
            conn,
            settings: settings.clone(),
            named: path.clone(),
            boot_id: clock::boot_id(),
            current: Current::new(now),
            streams: BTreeMap::new(),
            trusted: None,
            saved_trusted: None,
            save_failed: false,
            old_tails: false,
            streams_changed: false,
            other_contents: BTreeMap::new(),
            snapshots: 0,
            file: schema::identity_of(path),
            _locks: (lock.clone(), locked),
        };
        // A large file is not looked through before: damage may show only here.
        let sealed = outbox.recover(now).map_err(|error| schema::classify(path, error))?;
        Ok((outbox, Recovered { sealed, ..Recovered::default() }))
    }

    fn recover(&mut self, now: Now) -> rusqlite::Result<usize> {
        self.settle_clocks(now)?;
        let sealed = self.seal_old_tails()?;
        self.load_streams()?;
        self.load_trusted()?;
        Ok(sealed)
    }

    /// Gives a base to epochs that ended without one: of this boot as soon as the time is
    /// known, of an earlier boot the wall clock as it stood, marked `unsynced`.
    fn settle_clocks(&mut self, now: Now) -> rusqlite::Result<()> {
        point!("outbox.settle_clocks.before_commit");
        self.conn.execute(
            "UPDATE epoch SET base = wall_ms, clock = 'unsynced' WHERE base IS NULL AND boot <> ?1",
            [&self.boot_id],
        )?;
        point!("outbox.settle_clocks.after_commit");
        if now.synchronised {
            self.fix_bases(now.skew_ms(), Clock::Ntp)?;
        }
        Ok(())
    }

    /// Fixes base and clock of every epoch of this boot that has none yet, for ever:
    /// `skew_ms` is Unix time minus boot time.
    pub fn fix_bases(&mut self, skew_ms: i64, clock: Clock) -> rusqlite::Result<()> {
        point!("outbox.fix_bases.before_commit");
        let fixed = self.conn.execute(
            "UPDATE epoch SET base = start_ms + ?1, clock = ?2 WHERE base IS NULL AND boot = ?3",
            rusqlite::params![skew_ms, clock.as_str(), self.boot_id],
        )?;
        point!("outbox.fix_bases.after_commit");
        if self.current.base.is_none() {
            self.current.base = Some((skew_ms + self.current.start.boot_ms, clock));
        }
        if fixed > 0 {
            tracing::info!(clock = clock.as_str(), epochs = fixed, "the time is known");
        }
        Ok(())
    }

    /// Reads what each stream holds. After a trim, and at start.
    fn load_streams(&mut self) -> rusqlite::Result<()> {
        let known = std::mem::replace(&mut self.streams, schema::load_streams(&self.conn)?);
        let known: BTreeMap<StreamKey, Row> =
            known.into_values().map(|row| (row.key, row)).collect();
        for row in self.streams.values_mut() {
            if let Some(known) = known.get(&row.key) {
                // Given is given, also where somebody has deleted the row.
                row.last = row.last.max(known.last);
                // What is saved may be ahead: a state has moved `acked` back since.
                row.confirmed = known.confirmed;
                row.acked = known.acked.clamp(row.floor - 1, row.last);
            }
        }
        Ok(())
    }

    /// Every stream that a hello lists: all with an epoch row, oldest first, then tombstones.
    pub fn streams(&self) -> rusqlite::Result<Vec<StreamInfo>> {
        let mut all: Vec<StreamInfo> = self.streams.values().map(Row::info).collect();
        let mut statement =
            self.conn.prepare_cached("SELECT epoch, stream, last FROM tombstone ORDER BY id")?;
        let tombstones = statement.query_map([], |row| {
            let key = StreamKey { epoch: Epoch(row.get(0)?), stream: schema::stream_of(row, 1)? };
            let last = row.get::<_, i64>(2)? as Seq;
            Ok(StreamInfo { key, floor: last + 1, last, acked: last })
        })?;
        for tombstone in tombstones {
            all.push(tombstone?);
        }
        Ok(all)
    }

    /// What the outbox holds at this moment; `with_streams`: with the list of them, if the file lets
    /// itself be read.
    pub fn snapshot(&mut self, with_streams: bool) -> Snapshot {
        self.snapshots += 1;
        let streams = if with_streams { self.streams().ok() } else { None };
        Snapshot { no: self.snapshots, epoch: self.current.epoch, streams }
    }

    /// Whether a step of the clock ended the current epoch; then a new one has begun.
    pub fn check_clock(&mut self, now: Now) -> bool {
        let step = now.skew_ms() - self.current.start.skew_ms();
        if step.abs() <= CLOCK_STEP_MS {
            return false;
        }
        tracing::info!(step_ms = step, "the clock was set: a new epoch begins");
        self.begin_epoch(now);
        true
    }

    fn begin_epoch(&mut self, now: Now) {
        self.old_tails = true;
        self.current = Current::new(now);
    }

    /// The epoch that is appended to, and whether its first row exists.
    pub fn epoch(&self) -> (Epoch, bool) {
        (self.current.epoch, self.current.id.is_some())
    }

    /// Ends the current epoch, as [`check_clock`](Self::check_clock) does: the bridge's time
    /// contradicts a base that came from a bridge.
    pub fn end_epoch(&mut self, now: Now) {
        self.begin_epoch(now);
    }

    /// Base and clock of the current epoch, once fixed.
    pub fn base(&self) -> Option<(i64, Clock)> {
        self.current.base
    }

    /// When the current epoch began, CLOCK_BOOTTIME milliseconds.
    pub fn epoch_start_ms(&self) -> i64 {
        self.current.start.boot_ms
    }

    /// Bytes in used pages.
    pub fn used_bytes(&self) -> rusqlite::Result<u64> {
        let pragma = |name: &str| {
            self.conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
        };
        Ok((pragma("page_count")? - pragma("freelist_count")?).max(0) as u64 * schema::PAGE_BYTES)
    }

    /// Writes `acked` down and folds the log into the file. At an orderly end.
    pub fn close(mut self) -> rusqlite::Result<()> {
        self.save_acked()?;
        schema::fold_on_close(&self.conn, true)?;
        point!("outbox.close.before_fold");
        self.conn.close().map_err(|(_, error)| error)?;
        point!("outbox.close.after_fold");
        Ok(())
    }

    /// Whether the configured path still leads to the file that is open: somebody may have deleted or
    /// replaced it, and what is written since lives only as long as this process.
    pub fn is_in_place(&self) -> bool {
        self.file.is_some() && schema::identity_of(&self.named) == self.file
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.settings.path
    }
}

impl Row {
    fn info(&self) -> StreamInfo {
        let Row { key, floor, last, acked, .. } = *self;
        StreamInfo { key, floor, last, acked }
    }
}

#[cfg(test)]
mod tests;
