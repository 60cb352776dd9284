//! Which files are opened, and which are left alone.

use std::fs;

use fieldpost_bridge::store::StoreError;
use fieldpost_bridge::store::sqlite::{OpenError, Query, SqliteStore};
use fieldpost_protocol::StoreId;

use crate::support::*;

#[test]
fn a_newer_storage_is_refused_and_left_as_it_is() {
    let bench = Bench::new();
    bench.db().pragma_update(None, "user_version", 99).unwrap();
    let path = bench.path();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }));
    assert!(error.to_string().contains("update fieldpost-bridge"), "{error}");
    assert!(matches!(Query::open(&path), Err(OpenError::Newer { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    fs::write(&text, "dear diary".repeat(100)).unwrap();
    let short = dir.path().join("short");
    fs::write(&short, "x").unwrap();
    let other = dir.path().join("photos.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    for path in [text, short, other] {
        let before = fs::read(&path).unwrap();
        assert!(matches!(SqliteStore::open(&path), Err(OpenError::Foreign(_))));
        assert!(matches!(SqliteStore::init(&path, None, NOW), Err(OpenError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn a_missing_storage_is_never_made_by_opening_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bridge.db");
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("fieldpost-bridge init"), "{error}");
    assert!(!path.exists());
}

#[test]
fn an_adopted_storage_has_the_old_id_and_a_gen_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let first = SqliteStore::init(&a, None, NOW).unwrap();
    let second = SqliteStore::init(&b, Some(first.store), NOW).unwrap();
    assert_eq!(second.store, first.store);
    assert_ne!(second.r#gen, first.r#gen);
    assert_ne!(first.store, StoreId([0; 16]));
}

#[test]
fn a_commit_survives_because_the_file_is_wal_and_full() {
    let bench = Bench::new();
    let mode: String =
        bench.db().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn who_reads_does_not_lock_the_bridge_out() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 5, 1, 9)]);
    let reader = bench.db();
    let mut rows = reader.prepare("SELECT seq FROM reading").unwrap();
    let mut open = rows.query([]).unwrap();
    assert!(open.next().unwrap().is_some());
    assert_eq!(bench.acks(&[batch(1, 6, 4, 1, 9)])[0].hi, 9);
    assert!(open.next().unwrap().is_some());
}

#[test]
fn nothing_is_sync_acked_into_a_file_that_is_no_longer_there() {
    let mut bench = Bench::new();
    let backup = bench.dir.path().join("backup.db");
    bench.db().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    bench.acks(&[batch(1, 1, 2, 1, 9)]);
    // A backup is put in its place while the bridge runs.
    fs::rename(&backup, bench.path()).unwrap();
    let done = bench.take(&[batch(1, 3, 2, 1, 9)]);
    assert!(done.answers.is_empty(), "{:?}", done.answers);
    assert_eq!(done.committed, [false]);
    let error = done.error.unwrap();
    assert!(matches!(error, StoreError::Unavailable(_)));
    assert!(error.to_string().contains("start the bridge again"), "{error}");
    fs::remove_file(bench.path()).unwrap();
    assert!(bench.take(&[batch(1, 3, 2, 1, 9)]).answers.is_empty());
}

#[test]
fn a_storage_that_may_not_be_written_is_refused_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o444)).unwrap();
    if fs::OpenOptions::new().append(true).open(bench.path()).is_ok() {
        println!("skipped: root may write everything");
        return;
    }
    let error = SqliteStore::open(&bench.path()).unwrap_err().to_string();
    assert!(error.contains("read-only"), "{error}");
}
