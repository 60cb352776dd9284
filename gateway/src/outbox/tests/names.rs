//! One gateway to a file, by whichever name it is opened.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

impl Bench {
    /// The same settings with the outbox under another name.
    fn under(&self, name: &str) -> Settings {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        Settings { path, ..self.settings.clone() }
    }
}

fn refused(settings: &Settings) -> OpenError {
    Outbox::open(settings.clone(), NOW).map(|_| ()).unwrap_err()
}

fn names(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> =
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_second_gateway_is_kept_out_also_where_it_comes_by_a_link() {
    let bench = Bench::new();
    let by_link = bench.under("l/sym.db");
    symlink("../outbox.db", &by_link.path).unwrap();
    for (first, second) in [(&bench.settings, &by_link), (&by_link, &bench.settings)] {
        let (mut outbox, _) = Outbox::open(first.clone(), NOW).unwrap();
        append(&mut outbox, 0..3);
        let error = refused(second);
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    }
    assert_eq!(names(&bench.dir.path().join("l")), ["sym.db"]);
}

#[test]
fn an_outbox_may_be_a_link_to_another_disk_where_nothing_is_yet() {
    let bench = Bench::new();
    let disk = bench.dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    symlink("disk/here.db", bench.dir.path().join("again.db")).unwrap();
    symlink(bench.dir.path().join("again.db"), &bench.settings.path).unwrap();
    let mut outbox = bench.open();
    append(&mut outbox, 0..3);
    assert!(outbox.is_in_place());
    let here = ["here.db", "here.db-shm", "here.db-wal", "here.db.lock"];
    assert_eq!(names(&disk), here);
    assert_eq!(names(bench.dir.path()), ["again.db", "disk", "outbox.db"]);
    // Somebody points the link elsewhere: the next start would not find what is written here.
    std::fs::remove_file(&bench.settings.path).unwrap();
    symlink("disk/other.db", &bench.settings.path).unwrap();
    assert!(!outbox.is_in_place());
}

#[test]
fn a_damaged_outbox_behind_a_link_is_moved_aside_where_it_is_with_its_log() {
    let bench = Bench::new();
    let behind = bench.under("disk/here.db");
    symlink("disk/here.db", &bench.settings.path).unwrap();
    append(&mut bench.open(), 0..3);
    std::fs::write(&behind.path, vec![7; 4096]).unwrap();
    let (_outbox, recovered) = Outbox::open(bench.settings.clone(), NOW).unwrap();
    let aside = recovered.damaged.expect("damaged");
    assert_eq!(std::fs::read(&aside).unwrap(), vec![7; 4096]);
    assert!(schema::beside(&aside, "-wal").exists(), "its log is kept with it");
    assert_eq!(aside.parent(), behind.path.canonicalize().unwrap().parent());
    assert!(bench.settings.path.is_symlink(), "the link is where it was");
}

#[test]
fn a_file_with_a_second_hard_link_is_no_outbox_since_each_name_has_a_log_of_its_own() {
    let bench = Bench::new();
    let mut first = bench.open();
    append(&mut first, 0..3);
    let linked = bench.under("l/hard.db");
    std::fs::hard_link(&bench.settings.path, &linked.path).unwrap();
    let error = refused(&linked);
    assert!(matches!(error, OpenError::Linked { links: 2, .. }), "{error}");
    for part in ["l/hard.db", "2 names", "log of its own", "-samefile", "cp "] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert_eq!(names(&bench.dir.path().join("l")), ["hard.db"], "no log, no index");
    append(&mut first, 3..6);
    drop(first);
    let error = refused(&bench.settings);
    assert!(matches!(error, OpenError::Linked { .. }), "{error}");
    std::fs::remove_file(&linked.path).unwrap();
    assert_eq!(held(&bench.open()), (0..6).collect::<Vec<_>>());
}

#[test]
fn a_file_that_was_moved_under_its_gateway_is_still_in_use() {
    let bench = Bench::new();
    let mut first = bench.open();
    append(&mut first, 0..3);
    let moved = bench.under("l/moved.db");
    std::fs::rename(&bench.settings.path, &moved.path).unwrap();
    let error = refused(&moved);
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(first);
    Outbox::open(moved, NOW).unwrap();
}

#[test]
fn what_is_no_file_is_no_outbox_and_the_error_says_what_it_is() {
    let bench = Bench::new();
    for (what, make) in [("named pipe", "mkfifo"), ("folder", "mkdir")] {
        let settings = bench.under(make);
        assert!(std::process::Command::new(make).arg(&settings.path).status().unwrap().success());
        let error = refused(&settings).to_string();
        assert!(error.contains(what) && error.contains("[outbox] path"), "{error}");
    }
}

#[test]
fn a_check_says_what_a_start_would_say_and_touches_nothing() {
    let bench = Bench::new();
    let settings = bench.under("other.db");
    check_place(&settings.path).unwrap();
    let other = Connection::open(&settings.path).unwrap();
    other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    let said = check_place(&settings.path).unwrap_err();
    assert!(matches!(said, OpenError::Foreign { .. }), "{said}");
    assert!(matches!(refused(&settings), OpenError::Foreign { .. }));
    let _runs = bench.open();
    check_place(&bench.settings.path).unwrap();
    let linked = bench.under("linked.db");
    std::fs::hard_link(&bench.settings.path, &linked.path).unwrap();
    assert!(matches!(check_place(&linked.path), Err(OpenError::Linked { .. })));
    assert!(!schema::beside(&linked.path, ".lock").exists());
}
