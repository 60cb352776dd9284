//! A file that is not what it says is never taken as good.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fieldpost_bridge::store::sqlite::{OpenError, Query, SqliteStore};
use tempfile::TempDir;

use crate::support::*;

/// So many that they need pages of their own.
const ROWS: u64 = 500;

/// Stores them in batches.
fn fill(bench: &mut Bench, first: u64) {
    for at in (first..first + ROWS).step_by(100) {
        bench.acks(&[batch(1, at, 100, 1, at + 99)]);
    }
}

fn checkpoint(bench: &Bench, mode: &str) {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    bench.db().query_row(&sql, [], |_| Ok(())).unwrap();
}

fn wal(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// A directory with a storage of these parts.
fn put(file: &[u8], log: Option<&[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bridge.db");
    fs::write(&path, file).unwrap();
    if let Some(log) = log {
        fs::write(wal(&path), log).unwrap();
    }
    (dir, path)
}

fn is_unsound(error: &OpenError) -> bool {
    matches!(error, OpenError::Damaged { .. } | OpenError::Gaps { .. })
}

#[test]
fn a_backup_beside_the_log_of_another_file_is_refused() {
    let mut bench = Bench::new();
    fill(&mut bench, 1);
    checkpoint(&bench, "TRUNCATE");
    let backup = fs::read(bench.path()).unwrap();
    fill(&mut bench, ROWS + 1);
    // The log begins anew: what it held until now is only in the file.
    checkpoint(&bench, "RESTART");
    fill(&mut bench, 2 * ROWS + 1);
    let log = fs::read(wal(&bench.path())).unwrap();

    let (_dir, path) = put(&backup, Some(&log));
    let error = SqliteStore::open_backup(&path, true).unwrap_err();
    assert!(matches!(error, OpenError::LogBesideBackup(_)), "{error}");
    assert!(error.to_string().contains("copy the backup once more"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), backup, "it was touched");
    let error = Query::open_checked(&path).unwrap_err();
    assert!(is_unsound(&error), "{error}");
    assert!(SqliteStore::is_check_due(&path));
    assert!(is_unsound(&SqliteStore::open(&path).and_then(|store| store.check()).unwrap_err()));

    let (_dir, path) = put(&backup, None);
    SqliteStore::open_backup(&path, false).unwrap().restored(NOW).unwrap();
}

#[test]
fn a_copy_that_was_torn_by_a_checkpoint_is_refused() {
    let mut bench = Bench::new();
    fill(&mut bench, 1);
    checkpoint(&bench, "TRUNCATE");
    let before = fs::read(bench.path()).unwrap();
    fill(&mut bench, ROWS + 1);
    checkpoint(&bench, "TRUNCATE");
    let after = fs::read(bench.path()).unwrap();
    for part in 1..4 {
        let cut = before.len() / 4096 * part / 4 * 4096;
        let torn = [&before[..cut], &after[cut..]].concat();
        let (_dir, path) = put(&torn, None);
        for error in [
            SqliteStore::open_backup(&path, false).map(drop).unwrap_err(),
            Query::open_checked(&path).map(drop).unwrap_err(),
        ] {
            assert!(is_unsound(&error), "{part}/4: {error}");
            let text = error.to_string();
            assert!(text.contains("bridge.db") && text.contains("backup"), "{text}");
        }
    }
}

#[test]
fn rows_deleted_by_age_are_no_damage_and_a_hole_is() {
    let mut bench = Bench::new();
    fill(&mut bench, 1);
    bench.acks(&[poison(1, ROWS + 1, 1, 7, ROWS + 1), batch(1, ROWS + 2, 5, 1, ROWS + 6)]);
    bench.store.check().unwrap();
    bench.db().execute("DELETE FROM reading WHERE seq < 50", []).unwrap();
    bench.store.check().unwrap();
    bench.db().execute("DELETE FROM reading WHERE seq = 60", []).unwrap();
    let error = bench.store.check().unwrap_err();
    assert!(matches!(error, OpenError::Gaps { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("counts 456 readings") && text.contains("has 455"), "{text}");
    checkpoint(&bench, "TRUNCATE");
    let (_dir, path) = put(&fs::read(bench.path()).unwrap(), None);
    assert!(SqliteStore::open_backup(&path, false).is_err());
    SqliteStore::open_backup(&path, true).unwrap();
    // An epoch that is gone as a whole: by age, as long as nothing older is left.
    bench.db().execute("DELETE FROM reading", []).unwrap();
    bench.store.check().unwrap();
}

#[test]
fn a_storage_is_not_made_beside_the_log_of_one_that_is_gone() {
    for end in ["-wal", "-shm"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bridge.db");
        let log = format!("{}{end}", path.display());
        fs::write(&log, "what was stored last").unwrap();
        let error = SqliteStore::init(&path, None, NOW).unwrap_err().to_string();
        assert!(error.contains(&log) && error.contains("move"), "{error}");
        assert!(!path.exists());
        fs::remove_file(&log).unwrap();
        SqliteStore::init(&path, None, NOW).unwrap();
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, folder) = (dir.path().join("fifo"), dir.path().join("folder"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    fs::create_dir(&folder).unwrap();
    for (path, what) in
        [(fifo, "a FIFO"), (folder, "a directory"), ("/dev/null".into(), "a device")]
    {
        for error in [
            SqliteStore::init(&path, None, NOW).map(drop).unwrap_err(),
            SqliteStore::open(&path).map(drop).unwrap_err(),
            SqliteStore::open_backup(&path, false).map(drop).unwrap_err(),
            Query::open_checked(&path).map(drop).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains(what) && text.contains("storage.path"), "{text}");
        }
    }
}
