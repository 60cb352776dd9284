//! What the outbox does when something fails: commits, rows, the storage, the clock, room.

use super::*;

#[test]
fn the_rest_of_a_segment_that_cannot_be_decoded_is_never_taken_from_the_tail() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..100);
    append(&mut outbox, 100..110);
    let key = outbox.streams().unwrap()[0].key;
    outbox.conn.execute("UPDATE segment SET body = x'00'", []).unwrap();
    let batch = outbox.read_batch(key, 51, 1_000).unwrap().unwrap();
    assert_eq!((batch.first, batch.n), (1, 100), "whole, as it is, for the dead letters");
    let rest = outbox.read_batch(key, 101, 1_000).unwrap().unwrap();
    assert_eq!((rest.first, rest.n), (101, 10));
}

#[test]
fn rows_behind_a_hole_are_never_given_the_numbers_of_the_hole() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..100);
    append(&mut outbox, 100..110);
    outbox.conn.execute("DELETE FROM tail WHERE seq = 101", []).unwrap();
    let key = outbox.streams().unwrap()[0].key;
    assert_eq!(outbox.read_batch(key, 101, 1_000).unwrap(), None);
}

#[test]
fn what_a_restored_storage_lacks_makes_no_room_although_it_was_acked_once() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = RESERVE_BYTES + 200_000;
    let mut outbox = bench.open();
    append(&mut outbox, 0..1_000);
    let key = outbox.streams().unwrap()[0].key;
    outbox.set_acked(&[(key, 1_000)]);
    outbox.close().unwrap();
    let mut outbox = bench.open();
    outbox.set_confirmed(&[(key, 0)]);
    outbox.load_streams().unwrap();
    assert_eq!(outbox.streams().unwrap()[0].acked, 0);
    while append(&mut outbox, 0..1_000).refused_full == 0 {}
    assert_eq!(outbox.streams().unwrap()[0].floor, 1, "storage lacks it");
}

#[test]
fn rows_of_a_commit_in_doubt_that_is_durable_after_all_are_found_with_the_next_commit() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..3);
    let key = outbox.streams().unwrap()[0].key;
    // As after an error at the COMMIT of an epoch's first rows.
    outbox.streams.clear();
    outbox.begin_epoch(NOW);
    let appended = append(&mut outbox, 3..5);
    assert!(appended.streams_changed, "the engine has to hear of it");
    let found = outbox.streams().unwrap().into_iter().find(|stream| stream.key == key);
    assert_eq!(found.map(|stream| (stream.floor, stream.last)), Some((1, 3)));
    assert!(!append(&mut outbox, 5..6).streams_changed, "once");
}

#[test]
fn damage_that_shows_only_in_the_rows_is_moved_aside_too() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    outbox.conn.execute("UPDATE tail SET body = '{\"temp' WHERE seq = 3", []).unwrap();
    drop(outbox);
    let (mut outbox, recovered) = Outbox::open(bench.settings.clone(), NOW).unwrap();
    assert!(recovered.damaged.expect("moved aside").exists());
    assert_eq!(append(&mut outbox, 0..3).readings, 3);
}

#[test]
fn damage_found_while_an_old_tail_is_sealed_ends_the_run() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    outbox.conn.execute("UPDATE tail SET body = '{\"temp' WHERE seq = 3", []).unwrap();
    let stepped = Now { wall_ms: NOW.wall_ms + 3_600_000, ..NOW };
    let error = outbox.append(&some(5..6), &[], stepped).unwrap_err();
    assert!(matches!(error, AppendError::Damaged(_)), "{error}");
}

#[test]
fn a_base_that_could_not_be_written_is_tried_again_with_the_next_commit() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    let key = outbox.streams().unwrap()[0].key;
    outbox.conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    let other = Connection::open(&bench.settings.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let synchronised = Now { synchronised: true, ..NOW };
    let error = outbox.append(&some(5..6), &[], synchronised).unwrap_err();
    assert!(matches!(error, AppendError::Failed(_)), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    outbox.append(&some(5..6), &[], synchronised).unwrap();
    let base = outbox.read_batch(key, 1, 10).unwrap().unwrap().base;
    assert_eq!(base, Some((NOW.wall_ms, Clock::Ntp)));
    assert_eq!(held(&outbox), (0..6).collect::<Vec<_>>(), "tried again, and there once");
}

#[test]
fn a_recorder_does_not_judge_by_age_what_has_no_known_time() {
    let mut bench = Bench::new();
    bench.settings.recorder = true;
    let mut outbox = bench.open();
    append(&mut outbox, 0..1_000);
    outbox.conn.execute("UPDATE epoch SET boot = 'an earlier one', wall_ms = 0", []).unwrap();
    drop(outbox);
    let mut outbox = bench.open();
    assert_eq!(outbox.trim(NOW.wall_ms).unwrap(), Trimmed::default());
    outbox.settings.retention_bytes = 0;
    assert_eq!(outbox.trim(NOW.wall_ms).unwrap().readings, 1_000, "but by size");
}

#[test]
fn a_trim_leaves_no_hole_though_a_later_segment_has_the_earlier_time() {
    let mut bench = Bench::new();
    bench.settings.recorder = true;
    let mut outbox = bench.open();
    outbox.fix_bases(NOW.skew_ms(), Clock::Ntp).unwrap();
    let mut late = some(0..100);
    late[50].boot_ms += 30 * 86_400_000;
    outbox.append(&late, &[], NOW).unwrap();
    append(&mut outbox, 100..200);
    assert_eq!(outbox.trim(NOW.wall_ms + 8 * 86_400_000).unwrap(), Trimmed::default());
    assert_eq!(held(&outbox), (0..200).collect::<Vec<_>>());
}

#[test]
fn events_stop_at_the_limit_of_the_file_and_are_counted() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = RESERVE_BYTES;
    let mut outbox = bench.open();
    let events: Vec<NewEvent> = (0..1_000).map(|_| alert()).collect();
    let mut refused = 0;
    for _ in 0..100 {
        refused += outbox.append(&[], &events, NOW).unwrap().refused_events;
    }
    assert!(refused > 0);
    assert!(outbox.used_bytes().unwrap() < bench.settings.size_bytes_max + 200_000);
}

#[test]
fn a_database_that_cannot_be_a_wal_is_refused() {
    let memory = Connection::open_in_memory().unwrap();
    assert!(schema::configure(&memory).is_err());
}

#[test]
fn a_commit_that_fails_begins_a_new_epoch_and_its_readings_are_never_written_again() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    let (first, _) = outbox.epoch();
    break_commits(&outbox);
    let error = outbox.append(&some(5..8), &[], NOW).unwrap_err();
    assert!(matches!(error, AppendError::InDoubt(_)), "{error}");
    mend_commits(&outbox);
    assert_ne!(outbox.epoch().0, first);
    append(&mut outbox, 8..10);
    assert_eq!(held(&outbox), [0, 1, 2, 3, 4, 8, 9]);
    let lasts: Vec<_> = outbox.streams().unwrap().iter().map(|info| info.last).collect();
    assert_eq!(lasts, [5, 2]);
}

#[test]
fn a_commit_of_events_alone_says_nothing_of_room_for_readings() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = RESERVE_BYTES;
    let mut outbox = bench.open();
    assert_eq!(outbox.append(&some(0..1), &[], NOW).unwrap().full(), Some(true));
    assert_eq!(outbox.append(&[], &[alert()], NOW).unwrap().full(), None);
}

#[test]
fn what_storage_has_lost_is_known_to_be_lost_after_a_power_cut() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..100);
    let key = outbox.streams().unwrap()[0].key;
    outbox.set_acked(&[(key, 100)]);
    append(&mut outbox, 100..200);
    outbox.set_confirmed(&[(key, 20)]);
    drop(outbox);
    assert_eq!(bench.open().streams().unwrap()[0].acked, 20);
}

#[test]
fn a_log_whose_file_is_empty_or_gone_is_kept_and_not_deleted() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    let log = std::fs::read(schema::beside(&bench.settings.path, "-wal")).unwrap();
    for emptied in [true, false] {
        let path = bench.dir.path().join(format!("emptied-{emptied}.db"));
        std::fs::write(schema::beside(&path, "-wal"), &log).unwrap();
        if emptied {
            std::fs::write(&path, b"").unwrap();
        }
        let settings = Settings { path, ..bench.settings.clone() };
        let (mut outbox, recovered) = Outbox::open(settings, NOW).unwrap();
        let aside = recovered.damaged.expect("moved aside");
        assert_eq!(aside.exists(), emptied);
        assert!(std::fs::read(schema::beside(&aside, "-wal")).unwrap() == log, "all of it");
        assert_eq!(append(&mut outbox, 0..3).readings, 3);
        assert_eq!(held(&outbox), [0, 1, 2]);
    }
}

#[test]
fn a_damaged_outbox_is_kept_with_its_log_as_they_were() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5_000);
    let path = bench.settings.path.clone();
    let [mut file, log] =
        ["", "-wal"].map(|suffix| std::fs::read(schema::beside(&path, suffix)).unwrap());
    assert!(!log.is_empty());
    drop(outbox);
    for damage in ["garbage", "no header", "truncated"] {
        match damage {
            "truncated" => file.truncate(1_500),
            "no header" => file[..100].fill(0x5A),
            _ => file.fill(0x5A),
        }
        let path = bench.dir.path().join(format!("{damage}.db"));
        std::fs::write(&path, &file).unwrap();
        std::fs::write(schema::beside(&path, "-wal"), &log).unwrap();
        let settings = Settings { path, ..bench.settings.clone() };
        let (_, recovered) = Outbox::open(settings, NOW).unwrap();
        let aside = recovered.damaged.expect("moved aside");
        assert!(std::fs::read(&aside).unwrap() == file, "{damage}: the file");
        assert!(std::fs::read(schema::beside(&aside, "-wal")).unwrap() == log, "{damage}: the log");
    }
}

#[test]
fn a_log_that_is_broken_before_its_end_is_kept_and_what_stands_before_is_read() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    for n in 0..8 {
        append(&mut outbox, n..n + 1);
    }
    let path = bench.settings.path.clone();
    let [file, log] =
        ["", "-wal"].map(|suffix| std::fs::read(schema::beside(&path, suffix)).unwrap());
    drop(outbox);
    let frames = (log.len() - 32) / (24 + 1_024);
    // A bit of: the header (one of them is the order of bytes), its salts, each frame's number,
    // salts, checksum and page.
    let mut places = vec![(3, 1), (3, 4), (10, 4), (17, 4), (30, 4)];
    places.extend((0..frames).flat_map(|n| [1, 9, 17, 500].map(|at| (32 + n * 1_048 + at, 4))));
    let mut kept = 0;
    for (n, (at, bit)) in places.into_iter().enumerate() {
        let path = bench.dir.path().join(format!("broken-{n}.db"));
        std::fs::write(&path, &file).unwrap();
        let mut broken = log.clone();
        broken[at] ^= bit;
        std::fs::write(schema::beside(&path, "-wal"), &broken).unwrap();
        let settings = Settings { path: path.clone(), ..bench.settings.clone() };
        let (mut outbox, recovered) = Outbox::open(settings.clone(), NOW).unwrap();
        assert_eq!(recovered.damaged, None, "byte {at}");
        let found = held(&outbox);
        assert_eq!(found, (0..found.len() as i64).collect::<Vec<_>>(), "byte {at}");
        // Of the last commit nobody knows whether it was ever whole; nor of the last two, where
        // the salts are damaged that make a frame one of this log.
        match found.len() {
            6 if (at - 32) % 1_048 == 9 => {}
            0..=6 => assert!(recovered.broken_log.is_some(), "byte {at}: {found:?}"),
            _ => assert_eq!(recovered.broken_log, None, "byte {at}: {found:?}"),
        }
        if let Some(aside) = recovered.broken_log {
            kept += 1;
            assert!(std::fs::read(aside).unwrap() == broken, "byte {at}");
        }
        append(&mut outbox, 8..9);
        drop(outbox);
        let (_, recovered) = Outbox::open(settings, Now { wall_ms: 1, ..NOW }).unwrap();
        assert_eq!(recovered.damage(), None, "byte {at}: told once");
    }
    assert!(kept > 20);
}

#[test]
fn a_log_that_ends_anywhere_or_has_an_older_one_behind_it_is_not_broken() {
    let bench = Bench::new();
    let path = bench.settings.path.clone();
    let mut outbox = bench.open();
    for n in 0..20 {
        append(&mut outbox, n..n + 1);
    }
    outbox.conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    append(&mut outbox, 20..21);
    let log = std::fs::read(schema::beside(&path, "-wal")).unwrap();
    drop(outbox);
    for end in (0..log.len()).step_by(262) {
        std::fs::write(schema::beside(&path, "-wal"), &log[..end]).unwrap();
        assert_eq!(log::keep_if_broken(&path, 1).unwrap(), None, "{end}");
    }
    std::fs::write(schema::beside(&path, "-wal"), &log).unwrap();
    assert_eq!(log::keep_if_broken(&path, 1).unwrap(), None);
}

#[test]
fn two_power_cuts_in_one_log_are_no_damage() {
    let bench = Bench::new();
    let path = bench.settings.path.clone();
    let read = || std::fs::read(schema::beside(&path, "-wal")).unwrap();
    // What a cut leaves: the last commit without its first frame.
    let cut = |mut log: Vec<u8>, from: usize| {
        let from = 32 + (from - 32) / 1_048 * 1_048;
        log[from..from + 1_048].fill(0);
        std::fs::write(schema::beside(&path, "-wal"), &log).unwrap();
    };
    let mut outbox = bench.open();
    append(&mut outbox, 0..1);
    let end = read().len();
    // Long, so that its end stays behind all that comes after the first cut.
    let long = "INSERT INTO meta (key, value) VALUES ('long', zeroblob(60000))";
    outbox.conn.execute(long, []).unwrap();
    drop(outbox);
    cut(read(), end);

    let (mut outbox, recovered) = Outbox::open(bench.settings.clone(), NOW).unwrap();
    assert_eq!(recovered.damage(), None, "one cut");
    let before = read();
    append(&mut outbox, 1..2);
    let log = read();
    drop(outbox);
    assert_eq!(before.len(), log.len(), "the first cut's commit still ends the log");
    let changed = before.iter().zip(&log).position(|(before, after)| before != after).unwrap();
    cut(log, changed);

    let (outbox, recovered) = Outbox::open(bench.settings.clone(), NOW).unwrap();
    assert_eq!(recovered.damage(), None, "two cuts");
    assert_eq!(held(&outbox), [0]);
}

#[test]
fn the_copy_of_a_broken_log_outlives_a_damage_that_shows_only_later() {
    let bench = Bench::new();
    let path = bench.settings.path.clone();
    let mut outbox = bench.open();
    append(&mut outbox, 0..1);
    // The start has something to write before it finds a value that no gateway wrote.
    outbox.conn.execute("UPDATE epoch SET boot = 'another', base = NULL", []).unwrap();
    outbox.conn.execute("INSERT INTO stream VALUES (1, 'neither', 1, 1)", []).unwrap();
    schema::fold(&outbox.conn).unwrap();
    for n in 1..9 {
        append(&mut outbox, n..n + 1);
    }
    drop(outbox);
    let mut log = std::fs::read(schema::beside(&path, "-wal")).unwrap();
    log[500] ^= 4;
    for _ in 0..2 {
        // A clock that stands where it stood before, as without a battery, names it once more.
        std::fs::copy(&path, bench.dir.path().join("copy.db")).unwrap();
        std::fs::write(schema::beside(&path, "-wal"), &log).unwrap();
        let (_, recovered) = Outbox::open(bench.settings.clone(), NOW).unwrap();
        let said = recovered.damage().unwrap();
        let (file, log) = (recovered.damaged.unwrap(), recovered.broken_log.unwrap());
        assert!(said.contains(&format!("as {};", file.display())), "{said}");
        assert!(said.ends_with(&format!("as {}", log.display())), "{said}");
        std::fs::rename(bench.dir.path().join("copy.db"), &path).unwrap();
        let _ = std::fs::remove_file(schema::beside(&path, "-shm"));
    }
    let files = std::fs::read_dir(bench.dir.path()).unwrap().flatten().map(|file| file.path());
    let whole = files.filter(|file| {
        file.display().to_string().contains(".damaged-") && std::fs::read(file).unwrap() == log
    });
    assert_eq!(whole.count(), 2, "the log as it was, each time");
}
