//! The file: its tables, its checks, and what happens to a damaged one.
//!
//! ```text
//! meta       key, value                    device; the trusted storage: store, gen
//! epoch      id, epoch, boot, start_ms, wall_ms, base, clock
//! stream     epoch, stream, last, acked    written with seals and trims; rows tell the rest
//! tail       epoch, seq, t, source, body   readings since the last seal, body is JSON
//! segment    epoch, first, last, t0, t1, bytes, body    the body of a batch, as published
//! event      epoch, seq, t, body           one alert or command ack, CBOR
//! tombstone  epoch, stream, last           what was purged wholly
//! command    id, content, outcome...       which commands came, see `inbox`
//! stale      id, target                    ... and which were meant for other epochs
//! raised     name, about, rule...          alerts of rules that are raised, see `lasting`
//! link_hour, link_transition               connectivity, see `history`
//! announced  topic                         entries at Home Assistant, see `announced`
//! recent     (view) time, source, body     the tail with times a person can read
//! ```

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use fieldpost_fail_point::point;
use fieldpost_protocol::{DeviceId, Epoch, Seq, Stream, StreamKey};
use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::Row;

/// A WAL frame is a page and 24 bytes: at 1,024 a commit of one reading touches the fewest
/// blocks of the card (measured, see docs/decisions).
pub(super) const PAGE_BYTES: u64 = 1024;
/// Of a SQLite file, see "The Database Header" in its file format.
const HEADER_BYTES: usize = 100;
/// "fpob", so that a file that is not an outbox is recognised.
const APPLICATION_ID: i64 = 0x6670_6f62;
/// Raised with every change of the tables.
const SCHEMA_VERSION: i64 = 1;
/// Up to here every page is checked at start; a larger file only when a run was ended by
/// damage, since a card reads 20 MB/s.
const CHECK_BYTES_MAX: u64 = 64 * 1024 * 1024;

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE epoch (
    id INTEGER PRIMARY KEY, epoch BLOB NOT NULL UNIQUE, boot TEXT NOT NULL,
    start_ms INTEGER NOT NULL, wall_ms INTEGER NOT NULL, base INTEGER, clock TEXT
) STRICT;
CREATE TABLE stream (
    epoch INTEGER NOT NULL, stream TEXT NOT NULL, last INTEGER NOT NULL, acked INTEGER NOT NULL,
    PRIMARY KEY (epoch, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE tail (
    id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, t INTEGER NOT NULL,
    source TEXT NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE segment (
    id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    t0 INTEGER NOT NULL, t1 INTEGER NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX segment_rows ON segment (epoch, first, last, t1, bytes);
CREATE TABLE event (
    id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, t INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE tombstone (
    id INTEGER PRIMARY KEY, epoch BLOB NOT NULL, stream TEXT NOT NULL, last INTEGER NOT NULL
) STRICT;
CREATE VIEW recent AS
    SELECT datetime((coalesce(e.base, e.wall_ms) + tail.t) / 1000, 'unixepoch') AS time, source, body
    FROM tail JOIN epoch AS e ON e.id = tail.epoch;
";

/// Why there is no outbox to work with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another gateway has it.
    #[error(
        "the outbox {} is in use by process {holder}; stop that gateway, or give this one an outbox of its own",
        path.display()
    )]
    Locked {
        /// The outbox.
        path: PathBuf,
        /// The holder's process id.
        holder: String,
    },
    /// One file, several names: each would have a log of its own.
    #[error(
        "the outbox {path} has {links} names (hard links). A gateway under another one would keep a log of its \
         own, and write over what this one has accepted; so none starts. `find / -xdev -samefile {path}` lists the \
         names: remove all but one, or make this one a file of its own: cp {path} {path}.new && mv {path}.new {path}",
        path = path.display()
    )]
    Linked {
        /// The outbox.
        path: PathBuf,
        /// How many names it has.
        links: u64,
    },
    /// Something else than a file.
    #[error("the outbox {} is a {what}, not a file. Set [outbox] path to another place", path.display())]
    NoFile {
        /// What was found there.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "the outbox {} has format {found}, this gateway knows {SCHEMA_VERSION}: it was written by a newer gateway. \
         Nothing was changed. Install that version again, or give this one an outbox of its own",
        path.display()
    )]
    Newer {
        /// The outbox.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// A SQLite file of somebody else.
    #[error("{} is a database, but not an outbox; nothing was changed. Set [outbox] path to another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another device.
    #[error(
        "the outbox {} holds the readings of device {found:?}, the configuration says {configured:?}. \
         Set [device] id back, or [outbox] path to a new file",
        path.display()
    )]
    OtherDevice {
        /// The outbox.
        path: PathBuf,
        /// Whose readings it holds.
        found: String,
        /// Who we are.
        configured: DeviceId,
    },
    /// Not readable as a database.
    #[error("the outbox {} is damaged: {why}", path.display())]
    Damaged {
        /// The outbox.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// A file or folder that cannot be opened, made or moved.
    #[error("cannot open {}: {source}. Does its folder exist, and may this user write there?", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else that SQLite says.
    #[error("the outbox cannot be opened: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Whether a gateway could open this outbox, or make it, as far as can be seen from outside: for
/// `check`, while another process has it open.
pub fn check_place(path: &Path) -> Result<(), OpenError> {
    let real = super::lock::real_path(path)?;
    super::lock::check_file(&real)?;
    let mut header = [0; HEADER_BYTES];
    let read = std::fs::File::open(&real).and_then(|mut file| file.read_exact(&mut header));
    if read.is_err() || !header.starts_with(b"SQLite format 3\0") {
        // Nothing yet; or damaged, and a start moves it aside.
        return Ok(());
    }
    let word = |at| i64::from(u32::from_be_bytes(std::array::from_fn(|byte| header[at + byte])));
    let (pages, application) = (word(28), word(68));
    // One page and no name: an outbox whose making was cut short.
    if application == APPLICATION_ID || (application == 0 && pages <= 1) {
        return Ok(());
    }
    Err(OpenError::Foreign { path: real })
}

/// Opens the database and makes sure that it is ours, whole, and of our format.
pub(super) fn open(path: &Path, device: &DeviceId) -> Result<Connection, OpenError> {
    check_log(path)?;
    let conn = Connection::open(path).map_err(|error| classify(path, error))?;
    fold_on_close(&conn, false)?;
    // Before anything is written: what is this file?
    let version = identify(path, &conn)?;
    configure(&conn).map_err(|error| classify(path, error))?;
    if version == 0 {
        create(&conn, device)?;
    } else {
        check_pages(path, &conn)?;
        check_device(path, &conn, device)?;
    }
    // Tables that files of earlier versions lack; those versions pass over them.
    point!("outbox.open.before_tables");
    let tables = [
        super::inbox::TABLES,
        super::lasting::TABLES,
        super::announced::TABLES,
        super::history::TABLES,
    ]
    .concat();
    // One commit where some are missing, none where all are there.
    conn.execute_batch(&format!("BEGIN; {tables} COMMIT;"))
        .map_err(|error| classify(path, error))?;
    Ok(conn)
}

/// The file's format, 0 for a new one.
fn identify(path: &Path, conn: &Connection) -> Result<i64, OpenError> {
    let pragma = |name| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let failed = |error| classify(path, error);
    let (application, version) =
        (pragma("application_id").map_err(failed)?, pragma("user_version").map_err(failed)?);
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    match (application, version, tables) {
        (0, 0, 0) => Ok(0),
        (APPLICATION_ID, SCHEMA_VERSION, _) => Ok(version),
        (APPLICATION_ID, found, _) => Err(OpenError::Newer { path: path.to_owned(), found }),
        _ => Err(OpenError::Foreign { path: path.to_owned() }),
    }
}

pub(super) fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    conn.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
    point!("outbox.configure.before_wal");
    let mode: String =
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        // The file system lacks shared memory, for one. Without WAL, FULL can lose the last commit.
        let why = format!("its folder's file system takes no WAL (journal mode {mode})");
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(why),
        ));
    }
    point!("outbox.configure.after_wal");
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 1000)?;
    conn.pragma_update(None, "cache_size", -1024)?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn create(conn: &Connection, device: &DeviceId) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    point!("outbox.create.before_tables");
    transaction.execute_batch(TABLES)?;
    transaction
        .execute("INSERT INTO meta (key, value) VALUES ('device', ?1)", [device.as_str()])?;
    point!("outbox.create.device_inserted");
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    point!("outbox.create.before_commit");
    transaction.commit()?;
    point!("outbox.create.after_commit");
    // Into the file itself: with only a log, whoever deletes the log has deleted everything,
    // and the rest looks like a new outbox.
    fold(conn)?;
    point!("outbox.create.after_checkpoint");
    Ok(())
}

/// Folds the log into the file, and empties it.
pub(super) fn fold(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
}

/// Whether closing folds the log into the file and deletes it, which SQLite does even where the
/// file is damaged, of somebody else, or none at all: only an orderly end may.
pub(super) fn fold_on_close(conn: &Connection, fold: bool) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !fold)?;
    Ok(())
}

/// A log whose file is gone, or empty: SQLite would delete it, and with it what was accepted.
/// An outbox that is being made has its first page before it has a log.
fn check_log(path: &Path) -> Result<(), OpenError> {
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if bytes(path) == 0 && bytes(&beside(path, "-wal")) > 0 {
        let why = "its log (-wal) is there, the file itself is empty or gone".to_owned();
        return Err(OpenError::Damaged { path: path.to_owned(), why });
    }
    Ok(())
}

/// Which file a path leads to: device and inode.
pub(super) fn identity_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn check_pages(path: &Path, conn: &Connection) -> Result<(), OpenError> {
    let suspect = beside(path, ".suspect");
    let bytes = std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0);
    if bytes <= CHECK_BYTES_MAX || suspect.exists() {
        let verdict: String = conn
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| classify(path, error))?;
        if verdict != "ok" {
            return Err(OpenError::Damaged { path: path.to_owned(), why: verdict });
        }
    }
    point!("outbox.suspect.before_remove");
    let _ = std::fs::remove_file(suspect);
    point!("outbox.suspect.after_remove");
    Ok(())
}

fn check_device(path: &Path, conn: &Connection, device: &DeviceId) -> Result<(), OpenError> {
    let found: Option<String> = meta(conn, "device").map_err(|error| classify(path, error))?;
    match found {
        Some(found) if found == device.as_str() => Ok(()),
        found => Err(OpenError::OtherDevice {
            path: path.to_owned(),
            found: found.unwrap_or_default(),
            configured: device.clone(),
        }),
    }
}

/// What stands in `meta` under a key.
pub(super) fn meta<T: FromSql>(conn: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    const READ: &str = "SELECT value FROM meta WHERE key = ?1";
    conn.query_row(READ, [key], |row| row.get(0)).optional()
}

/// Damage is told from a disk that does not answer: only the first may move a file aside.
pub(super) fn classify(path: &Path, error: rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        _ if is_damage(&error) => {
            OpenError::Damaged { path: path.to_owned(), why: error.to_string() }
        }
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => OpenError::Io {
            path: path.to_owned(),
            source: std::io::Error::other(format!("{error}; the disk is full, or failing")),
        },
        Some(ErrorCode::CannotOpen) => OpenError::Io {
            path: path.to_owned(),
            source: std::io::Error::other(error.to_string()),
        },
        _ => OpenError::Sqlite(error),
    }
}

/// Whether an error means that the file itself is damaged: its pages, or a value in them.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    let pages = Some(ErrorCode::DatabaseCorrupt);
    let code = error.sqlite_error_code();
    code == pages
        || code == Some(ErrorCode::NotADatabase)
        || matches!(
            error,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
        )
}

/// Moves a damaged outbox with its -wal and -shm aside; nothing is ever deleted.
pub(super) fn move_aside(path: &Path, wall_ms: i64) -> Result<PathBuf, OpenError> {
    let aside = free_name(path, wall_ms, &["-wal", "-shm", ""]);
    // The file last: SQLite deletes a -wal that it finds beside a new file, should we be
    // stopped in between.
    point!("outbox.damaged.before_moves");
    for suffix in ["-wal", "-shm", ""] {
        let from = beside(path, suffix);
        if from.exists() {
            let to = beside(&aside, suffix);
            std::fs::rename(&from, to).map_err(|source| OpenError::Io { path: from, source })?;
            point!("outbox.damaged.between_moves");
        }
    }
    point!("outbox.damaged.after_moves");
    let _ = std::fs::remove_file(beside(path, ".suspect"));
    Ok(aside)
}

/// A name for what is damaged under which nothing of that kind is kept yet: without a battery
/// the clock may stand where it stood at the last damage.
pub(super) fn free_name(path: &Path, wall_ms: i64, suffixes: &[&str]) -> PathBuf {
    let mut names = (wall_ms..).map(|ms| beside(path, &format!(".damaged-{ms}")));
    let is_free = |name: &PathBuf| suffixes.iter().all(|end| !beside(name, end).exists());
    names.find(is_free).expect("there are more numbers than files")
}

/// Leaves a note for the next start: check every page.
pub(super) fn mark_suspect(path: &Path) {
    point!("outbox.suspect.before_mark");
    let _ = std::fs::write(beside(path, ".suspect"), b"");
    point!("outbox.suspect.after_mark");
}

/// The path with something behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// `fdatasync` or `fsync`: what a commit of this binary calls.
pub fn sync_call() -> &'static str {
    // SQLite does not list HAVE_FDATASYNC among its compile options, so the build script
    // hands on what it saw in the environment; a test watches the system calls.
    if option_env!("FIELDPOST_FDATASYNC").is_some() { "fdatasync" } else { "fsync" }
}

pub(super) fn stream_of(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Stream> {
    let text: String = row.get(at)?;
    text.parse().map_err(|error| not_of_ours(at, error))
}

/// A text that we would not have written: the file is damaged.
pub(super) fn not_of_ours(
    at: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
}

/// The runs of rows that are held: epoch, stream, first, last.
macro_rules! held {
    () => {
        "SELECT epoch, 'readings' AS stream, first, last FROM segment
         UNION ALL SELECT epoch, 'readings', seq, seq FROM tail
         UNION ALL SELECT epoch, 'events', seq, seq FROM event"
    };
}
pub(super) use held;

/// What each stream holds, from the rows themselves.
pub(super) fn load_streams(conn: &Connection) -> rusqlite::Result<BTreeMap<(i64, Stream), Row>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT epoch.id, epoch.epoch, held.stream, min(held.first), max(held.last),
                coalesce(max(stream.last), 0), coalesce(max(stream.acked), 0)
         FROM (",
        held!(),
        " UNION ALL SELECT epoch, stream, NULL, NULL FROM stream) AS held
         JOIN epoch ON epoch.id = held.epoch
         LEFT JOIN stream ON stream.epoch = held.epoch AND stream.stream = held.stream
         GROUP BY epoch.id, held.stream",
    ))?;
    let rows = statement.query_map([], |row| {
        let id: i64 = row.get(0)?;
        let key = StreamKey { epoch: Epoch(row.get(1)?), stream: stream_of(row, 2)? };
        let first: Option<i64> = row.get(3)?;
        let held_last: Option<i64> = row.get(4)?;
        let (saved_last, saved_acked): (i64, i64) = (row.get(5)?, row.get(6)?);
        // On a damaged page any number may stand.
        let highest = held_last.unwrap_or(0).max(saved_last);
        for (column, number) in
            [(3, first.unwrap_or(1).saturating_sub(1)), (5, saved_last), (6, saved_acked)]
        {
            if !(0..=highest).contains(&number) {
                return Err(rusqlite::Error::IntegralValueOutOfRange(column, number));
            }
        }
        let last = highest as Seq;
        let floor = first.map_or(last + 1, |first| first as Seq);
        let acked = (saved_acked as Seq).clamp(floor - 1, last);
        let saved = (saved_last as Seq, saved_acked as Seq);
        Ok(((id, key.stream), Row { key, floor, last, acked, confirmed: 0, saved }))
    })?;
    rows.collect()
}
