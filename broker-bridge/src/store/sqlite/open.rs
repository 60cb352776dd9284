//! Making and opening the file: what is refused, and in which words.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldpost_fail_point::point;
use fieldpost_protocol::{Gen, StoreId};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::{Identity, StoreError};
use crate::clock;

/// The version of `schema.sql`.
pub const SCHEMA_VERSION: i64 = 1;
/// `application_id` of our files: "FPBS".
const APPLICATION_ID: i32 = 0x4650_4253;
const SCHEMA: &str = include_str!("schema.sql");

/// How long a writer waits for another one: far more than the longest transaction of a
/// bridge, and less than the 10 s after which a batch is forgotten.
const BUSY_TIMEOUT: Duration = Duration::from_secs(4);

/// Why a storage could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error(
        "there is no storage at {}; make one with `fieldpost-bridge init`, or correct storage.path",
        .0.display()
    )]
    Absent(PathBuf),
    /// `init` where a file stands.
    #[error(
        "{} exists already; `init` never overwrites: choose another storage.path, or move the file away",
        .0.display()
    )]
    Exists(PathBuf),
    /// A file, but no storage of a bridge.
    #[error(
        "{} is not a storage of fieldpost-bridge; it was left as it is: correct storage.path",
        .0.display()
    )]
    Foreign(PathBuf),
    /// Written by a newer program.
    #[error(
        "the storage {} has version {found}, this program knows {SCHEMA_VERSION}; it was left as it is: update fieldpost-bridge",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Not a file at all.
    #[error("storage.path {} is {what}, it has to be a file: correct storage.path", path.display())]
    NotAFile {
        /// What the configuration names.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// `init` where the log of a storage lies that is not there.
    #[error(
        "there is no storage at {}, but {} of one lies there and may hold what it stored last; a new storage \
         would be mixed with it: put the file back that it belongs to, or move {} away and run \
         `fieldpost-bridge init` again",
        path.display(), log.display(), log.display()
    )]
    LogWithoutFile {
        /// Where the storage would be.
        path: PathBuf,
        /// What lies beside.
        log: PathBuf,
    },
    /// `restored` where a log lies beside the file.
    #[error(
        "{} lies beside the storage, and it may be the log of another file; nothing was announced. If a backup \
         was put there: stop the bridge, move bridge.db, -wal and -shm away, all three, copy the backup once more, \
         and run `fieldpost-bridge restored` again. If not: start the bridge and stop it, which folds its log in",
        .0.display()
    )]
    LogBesideBackup(PathBuf),
    /// The file is no sound database.
    #[error(
        "the storage {} is damaged: {what}; nothing is taken into it. A log (-wal) of another file and a copy of \
         a file in use do that. Move it away together with its -wal and -shm, put a backup in its place that was \
         made with .backup or VACUUM INTO of sqlite3, run `fieldpost-bridge restored` and start the bridge; without \
         a backup, `fieldpost-bridge init --adopt` makes a new one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file is sound, but its rows are not those that it counts as stored.
    #[error(
        "the storage {} does not add up: {what}. Gateways are not asked for these rows again: put another backup \
         in its place; if somebody has deleted rows by hand and that is all, \
         `fieldpost-bridge restored --with-gaps` announces it as it is",
        path.display()
    )]
    Gaps {
        /// The file.
        path: PathBuf,
        /// Where, and how many.
        what: String,
    },
    /// The file cannot be read or written.
    #[error("the storage {} cannot be opened: {why}; check that the directory exists and that this user may write there", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// See [`super::SqliteStore::init`].
pub(super) fn init(path: &Path, adopt: Option<StoreId>, now: i64) -> Result<Identity, OpenError> {
    check_kind(path)?;
    if path.exists() {
        return Err(OpenError::Exists(path.to_owned()));
    }
    // SQLite would play such a log into the new file.
    for end in ["-wal", "-shm", "-journal"] {
        let log = beside(path, end);
        if log.symlink_metadata().is_ok() {
            return Err(OpenError::LogWithoutFile { path: path.to_owned(), log });
        }
    }
    // Made beside and renamed: a crash in between leaves no half a storage.
    let new = beside(path, ".new");
    let failed = |why: String| OpenError::Io { path: path.to_owned(), why };
    let random = || clock::random_id().map_err(|error| failed(error.to_string()));
    let store = adopt.map_or_else(|| random().map(StoreId), Ok)?;
    let identity = Identity { store, r#gen: Gen(random()?) };
    for end in ["", "-journal"] {
        remove_left_over(&beside(&new, end)).map_err(|error| failed(error.to_string()))?;
    }
    write_schema(&new, identity, now).map_err(|error| failed(error.to_string()))?;
    point!("store.init.before_rename");
    std::fs::rename(&new, path).map_err(|error| failed(error.to_string()))?;
    sync_directory(path).map_err(|error| failed(error.to_string()))?;
    // Switches the file to WAL.
    read_write(path)?;
    Ok(identity)
}

fn write_schema(path: &Path, identity: Identity, now: i64) -> rusqlite::Result<()> {
    let mut db = Connection::open(path)?;
    point!("store.init.before_schema");
    db.pragma_update(None, "synchronous", "FULL")?;
    let txn = db.transaction()?;
    txn.execute_batch(SCHEMA)?;
    point!("store.init.schema_written");
    txn.pragma_update(None, "application_id", APPLICATION_ID)?;
    txn.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    txn.execute(
        "INSERT INTO store (one, id, gen, created, changed) VALUES (1, ?1, ?2, ?3, ?3)",
        (&identity.store.0[..], &identity.r#gen.0[..], now),
    )?;
    point!("store.init.before_commit");
    txn.commit()?;
    point!("store.init.after_commit");
    Ok(())
}

/// The file beside it with this end.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The log beside a file, where it holds something.
pub(super) fn log_of(path: &Path) -> Option<PathBuf> {
    // SQLite keeps it beside the file that a symbolic link leads to.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    ["-wal", "-journal"]
        .map(|end| beside(&path, end))
        .into_iter()
        .find(|log| std::fs::metadata(log).is_ok_and(|found| found.len() > 0))
}

/// Refuses what is there and no file, before anything opens it: a FIFO would wait for ever.
fn check_kind(path: &Path) -> Result<(), OpenError> {
    match fieldpost_mqtt::instead_of_a_file(path) {
        Ok(Some(what)) => Err(OpenError::NotAFile { path: path.to_owned(), what }),
        // Whoever opens it says better what is wrong.
        Ok(None) | Err(_) => Ok(()),
    }
}

fn remove_left_over(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    point!("store.init.after_rename");
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Which file a connection has open.
///
/// Where another one is put in its place, say a backup, SQLite goes on with the old one, which
/// no name leads to any more: what was sync-acked would then be gone with the process.
#[derive(Debug)]
pub(super) struct FileId {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(FileId { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// Checks that its path still leads to it.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match FileId::of(&self.path) {
            Ok(now) if (now.device, now.inode) == (self.device, self.inode) => Ok(()),
            Ok(_) => Err(self.gone("another file was put in its place")),
            Err(error) => Err(self.gone(&error.to_string())),
        }
    }

    fn gone(&self, why: &str) -> StoreError {
        StoreError::Unavailable(format!(
            "{} is not the file that was opened: {why}; nothing is sync-acked until you start the bridge again",
            self.path.display()
        ))
    }
}

/// A connection that writes, and to which file.
pub(super) fn read_write(path: &Path) -> Result<(Connection, FileId), OpenError> {
    // First: a file that comes in between is found out, not taken for the right one.
    check_header(path)?;
    let file = FileId::of(path)
        .map_err(|error| OpenError::Io { path: path.to_owned(), why: error.to_string() })?;
    let db = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let failed = |error: rusqlite::Error| io(path, error);
    // SQLite opens what it may not write for reading, and says so only at the first row.
    if db.is_readonly("main").map_err(failed)? {
        return Err(OpenError::Io { path: path.to_owned(), why: "it is read-only".into() });
    }
    point!("store.open.before_wal");
    db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    point!("store.open.after_wal");
    // NORMAL loses commits on a power cut, and a sync ack has then lied.
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed)?;
    Ok((db, file))
}

/// A connection that reads, and can do nothing else.
pub(super) fn read_only(path: &Path) -> Result<Connection, OpenError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// ... of a storage that this process has open already, and must not [look at](check_header).
pub(super) fn read_beside(path: &Path) -> Result<Connection, OpenError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, OpenError> {
    check_header(path)?;
    connect(path, access)
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, OpenError> {
    let failed = |error: rusqlite::Error| io(path, error);
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    // Until the version is known, not even the log of a newer program may be folded in.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(64);
    let found: i64 =
        db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found });
    }
    Ok(db)
}

/// Looks at the file without SQLite, which would take part in another program's database.
///
/// Never while this process has it open: whoever closes a file gives up all `fcntl` locks that the
/// process has on it, SQLite's too. Then whoever else looks into the storage takes himself for its last
/// user, and removes the log under the bridge, with all that is stored from then on.
fn check_header(path: &Path) -> Result<(), OpenError> {
    check_kind(path)?;
    let mut header = [0u8; 72];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(OpenError::Absent(path.to_owned()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(OpenError::Foreign(path.to_owned()));
        }
        Err(error) => {
            return Err(OpenError::Io { path: path.to_owned(), why: error.to_string() });
        }
    }
    // The file format of SQLite, 1.3: magic at 0, application id at 68.
    let ours = header.starts_with(b"SQLite format 3\0")
        && header[68..72] == APPLICATION_ID.to_be_bytes()[..];
    if ours { Ok(()) } else { Err(OpenError::Foreign(path.to_owned())) }
}

/// Sorts SQLite's errors by what a person does about them.
pub(super) fn io(path: &Path, error: rusqlite::Error) -> OpenError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Damaged { path, what: why }
        }
        _ => OpenError::Io { path, why },
    }
}
