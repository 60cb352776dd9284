//! What the outbox promises, one sentence a test.

use std::sync::Arc;

use fieldpost_protocol::{
    AlertState, EventKind, Gen, Metrics, Severity, StoreId, Value, decode_readings,
};

use super::*;
use crate::serial::Measured;

mod faults;
mod history;
mod holes;
mod inbox;
mod lasting;
mod names;
mod random;
mod trim;
mod trust;

struct Bench {
    dir: tempfile::TempDir,
    settings: Settings,
}

const NOW: Now = Now { boot_ms: 1_000_000, wall_ms: 1_795_000_000_000, synchronised: false };

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            path: dir.path().join("outbox.db"),
            device: "pi-1".parse().unwrap(),
            retention_age_ms: 7 * 86_400_000,
            retention_bytes: 64 << 20,
            size_bytes_max: 1 << 30,
            when_full: WhenFull::Refuse,
            recorder: false,
        };
        Bench { dir, settings }
    }

    fn open(&self) -> Outbox {
        self.open_at(NOW)
    }

    fn open_at(&self, now: Now) -> Outbox {
        Outbox::open(self.settings.clone(), now).unwrap().0
    }
}

fn measured(n: i64) -> Measured {
    let metrics = vec![
        ("n".into(), Value::Int(n)),
        ("temp".into(), Value::Float(20.0 + n as f64 / 10.0)),
        ("noise".into(), noise(n)),
    ];
    Measured {
        source: Arc::from("air"),
        boot_ms: NOW.boot_ms + n * 100,
        metrics: Metrics::new(metrics).unwrap(),
    }
}

/// Nothing that a column could compress.
fn noise(n: i64) -> Value {
    Value::Int(
        (n as u64)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29)
            .wrapping_mul(0xBF58_476D_1CE4_E5B9) as i64,
    )
}

fn some(range: std::ops::Range<i64>) -> Vec<Measured> {
    range.map(measured).collect()
}

fn alert() -> NewEvent {
    let kind = EventKind::Alert {
        name: "test".into(),
        about: None,
        state: AlertState::Raised,
        severity: Severity::Info,
        message: "look".into(),
        lasting: false,
    };
    NewEvent { boot_ms: NOW.boot_ms, kind, rule: None }
}

fn append(outbox: &mut Outbox, readings: std::ops::Range<i64>) -> Appended {
    outbox.append(&some(readings), &[], NOW).unwrap()
}

/// Every reading held of every epoch, by the value of its metric `n`, through the batches
/// that would be sent.
fn held(outbox: &Outbox) -> Vec<i64> {
    let mut all = Vec::new();
    for info in outbox.streams().unwrap() {
        let mut from = info.floor;
        while info.key.stream == Stream::Readings && from <= info.last {
            let batch = outbox.read_batch(info.key, from, 1_000).unwrap().expect("no hole");
            for reading in decode_readings(&batch.body, batch.n).unwrap() {
                let Some(Value::Int(n)) = reading.metrics.get("n") else { panic!("no n") };
                all.push(*n);
            }
            from += batch.n;
        }
    }
    all
}

/// From now on each COMMIT that added a reading fails, as it would with EIO.
fn break_commits(outbox: &Outbox) {
    let broken = "PRAGMA foreign_keys = ON;
         CREATE TEMP TABLE parent (x INTEGER PRIMARY KEY);
         CREATE TEMP TABLE child (x REFERENCES parent (x) DEFERRABLE INITIALLY DEFERRED);
         CREATE TEMP TRIGGER tails AFTER INSERT ON main.tail BEGIN INSERT INTO child VALUES (1); END;
         CREATE TEMP TRIGGER segments AFTER INSERT ON main.segment BEGIN INSERT INTO child VALUES (1); END;";
    outbox.conn.execute_batch(broken).unwrap();
}

fn mend_commits(outbox: &Outbox) {
    let mended = "DROP TRIGGER temp.tails; DROP TRIGGER temp.segments; DROP TABLE temp.child; DROP TABLE temp.parent;";
    outbox.conn.execute_batch(mended).unwrap();
}

fn trusted(store: u8, r#gen: Option<u8>) -> Trusted {
    Trusted { store: StoreId([store; 16]), r#gen: r#gen.map(|id| Gen([id; 16])) }
}

fn count(outbox: &Outbox, table: &str) -> i64 {
    outbox.conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn what_was_accepted_is_there_after_a_new_start_under_its_old_epoch() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    let (first_epoch, _) = outbox.epoch();
    drop(outbox);
    let mut outbox = bench.open();
    append(&mut outbox, 10..12);
    assert_ne!(outbox.epoch().0, first_epoch);
    assert_eq!(held(&outbox), (0..12).collect::<Vec<_>>());
    assert_eq!(count(&outbox, "segment"), 1, "the old epoch's tail was sealed");
    assert_eq!(count(&outbox, "tail"), 2);
}

#[test]
fn a_full_tail_is_sealed_in_the_commit_that_fills_it() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    for n in 0..105 {
        append(&mut outbox, n * 10..n * 10 + 10);
    }
    assert_eq!((count(&outbox, "segment"), count(&outbox, "tail")), (1, 50));
    assert_eq!(held(&outbox), (0..1_050).collect::<Vec<_>>());
}

#[test]
fn a_large_group_is_sealed_with_the_tail_at_once() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    append(&mut outbox, 10..110);
    assert_eq!((count(&outbox, "segment"), count(&outbox, "tail")), (1, 0));
    append(&mut outbox, 110..3_000);
    assert_eq!(held(&outbox), (0..3_000).collect::<Vec<_>>());
}

#[test]
fn a_batch_from_the_middle_of_a_segment_holds_only_the_rest() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..1_000);
    let key = outbox.streams().unwrap()[0].key;
    let rest = outbox.read_batch(key, 991, 1_000).unwrap().unwrap();
    assert_eq!((rest.first, rest.n, rest.last), (991, 10, 1_000));
    let halved = outbox.read_batch(key, 1, 500).unwrap().unwrap();
    assert_eq!((halved.first, halved.n), (1, 500));
    assert_eq!(outbox.read_batch(key, 1_001, 500).unwrap(), None);
}

#[test]
fn events_are_rows_of_their_own_and_keep_their_order() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    outbox.append(&some(0..1), &[alert(), alert()], NOW).unwrap();
    let streams = outbox.streams().unwrap();
    let events = streams.iter().find(|info| info.key.stream == Stream::Events).unwrap();
    assert_eq!((events.floor, events.last), (1, 2));
    let batch = outbox.read_batch(events.key, 2, 1_000).unwrap().unwrap();
    assert_eq!((batch.first, batch.n, batch.command_ack), (2, 1, false));
}

#[test]
fn the_tail_can_be_asked_with_plain_sql_while_the_gateway_runs() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..3);
    let other = Connection::open(bench.dir.path().join("outbox.db")).unwrap();
    let temp: f64 =
        other.query_row("SELECT body->>'temp' FROM tail LIMIT 1", [], |row| row.get(0)).unwrap();
    assert_eq!(temp, 20.0);
    let (time, source): (String, String) = other
        .query_row("SELECT time, source FROM recent LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((time.as_str(), source.as_str()), ("2026-11-18 11:06:40", "air"));
}

#[test]
fn a_wholly_purged_epoch_leaves_a_tombstone() {
    let mut bench = Bench::new();
    bench.settings.retention_bytes = 0;
    let mut outbox = bench.open();
    append(&mut outbox, 0..100);
    let (epoch, _) = outbox.epoch();
    drop(outbox);
    let mut outbox = bench.open();
    let key = StreamKey { epoch, stream: Stream::Readings };
    outbox.set_acked(&[(key, 100)]);
    outbox.set_confirmed(&[(key, 100)]);
    outbox.trim(NOW.wall_ms).unwrap();
    let tombstone = StreamInfo { key, floor: 101, last: 100, acked: 100 };
    assert_eq!(outbox.streams().unwrap(), [tombstone]);
    drop(outbox);
    assert_eq!(bench.open().streams().unwrap(), [tombstone]);
}

#[test]
fn the_current_epoch_keeps_its_last_when_every_row_is_purged() {
    let mut bench = Bench::new();
    bench.settings.retention_bytes = 0;
    let mut outbox = bench.open();
    append(&mut outbox, 0..100);
    let key = outbox.streams().unwrap()[0].key;
    outbox.set_acked(&[(key, 100)]);
    outbox.set_confirmed(&[(key, 100)]);
    outbox.trim(NOW.wall_ms).unwrap();
    append(&mut outbox, 100..101);
    let info = outbox.streams().unwrap()[0];
    assert_eq!((info.floor, info.last), (101, 101));
}

#[test]
fn a_full_outbox_refuses_readings_and_still_takes_events() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = RESERVE_BYTES + 200_000;
    let mut outbox = bench.open();
    let mut accepted = 0;
    let mut refused = 0;
    for n in 0..100 {
        let appended = append(&mut outbox, n * 1_000..(n + 1) * 1_000);
        accepted += appended.readings;
        refused += appended.refused_full;
    }
    assert!(
        accepted > 5_000 && refused > 0 && accepted + refused == 100_000,
        "{accepted} {refused}"
    );
    assert_eq!(outbox.append(&[], &[alert()], NOW).unwrap().events, 1);
    assert_eq!(held(&outbox).len(), accepted);
    assert!(outbox.used_bytes().unwrap() < bench.settings.size_bytes_max);
    // What storage has makes room.
    let key = StreamKey { epoch: outbox.epoch().0, stream: Stream::Readings };
    outbox.set_acked(&[(key, accepted as Seq)]);
    assert_eq!(append(&mut outbox, 0..1_000).readings, 1_000);
    assert!(outbox.streams().unwrap().iter().any(|info| info.key == key && info.floor > 1));
}

#[test]
fn drop_oldest_makes_room_and_moves_floor_and_acked_together() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = RESERVE_BYTES + 200_000;
    bench.settings.when_full = WhenFull::DropOldest;
    let mut outbox = bench.open();
    let mut dropped = 0;
    for n in 0..100 {
        let appended = append(&mut outbox, n * 1_000..(n + 1) * 1_000);
        assert_eq!(appended.readings, 1_000);
        dropped += appended.dropped;
    }
    let info =
        *outbox.streams().unwrap().iter().find(|info| info.key.stream == Stream::Readings).unwrap();
    assert_eq!((info.floor, info.acked), (dropped + 1, dropped));
    assert_eq!(held(&outbox), (dropped as i64..100_000).collect::<Vec<_>>());
}

#[test]
fn a_recorder_purges_by_age_what_nobody_has_acknowledged() {
    let mut bench = Bench::new();
    bench.settings.recorder = true;
    let mut outbox = bench.open();
    outbox.fix_bases(NOW.skew_ms(), Clock::Ntp).unwrap();
    append(&mut outbox, 0..1_000);
    assert_eq!(outbox.trim(NOW.wall_ms).unwrap(), Trimmed::default());
    let later = NOW.wall_ms + 8 * 86_400_000;
    assert_eq!(outbox.trim(later).unwrap().readings, 1_000);
}

#[test]
fn a_step_of_the_clock_begins_a_new_epoch_and_the_old_one_keeps_its_time() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    outbox.fix_bases(NOW.skew_ms(), Clock::Ntp).unwrap();
    let stepped = Now { wall_ms: NOW.wall_ms + 3_600_000, synchronised: true, ..NOW };
    outbox.append(&some(5..6), &[], stepped).unwrap();
    let streams = outbox.streams().unwrap();
    let bases: Vec<_> = streams
        .iter()
        .map(|info| outbox.read_batch(info.key, 1, 1_000).unwrap().unwrap().base.unwrap().0)
        .collect();
    assert_eq!(bases, [NOW.wall_ms, NOW.wall_ms + 3_600_000]);
    assert_eq!(held(&outbox), (0..6).collect::<Vec<_>>());
}

#[test]
fn an_epoch_of_an_earlier_boot_that_never_knew_the_time_is_marked_unsynced() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    outbox.conn.execute("UPDATE epoch SET boot = 'an earlier one'", []).unwrap();
    drop(outbox);
    let outbox = bench.open();
    let key = outbox.streams().unwrap()[0].key;
    let base = outbox.read_batch(key, 1, 10).unwrap().unwrap().base;
    assert_eq!(base, Some((NOW.wall_ms, Clock::Unsynced)));
}

#[test]
fn an_epoch_of_this_boot_gets_its_time_as_soon_as_it_is_known() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    let key = outbox.streams().unwrap()[0].key;
    assert_eq!(outbox.read_batch(key, 1, 10).unwrap().unwrap().base, None);
    drop(outbox);
    let mut outbox = bench.open();
    outbox.fix_bases(5_000, Clock::Bridge).unwrap();
    outbox.fix_bases(9_000, Clock::Bridge).unwrap();
    let base = outbox.read_batch(key, 1, 10).unwrap().unwrap().base;
    assert_eq!(base, Some((NOW.boot_ms + 5_000, Clock::Bridge)), "fixed once, for ever");
}

#[test]
fn a_second_gateway_is_kept_out_and_told_who_holds_the_outbox() {
    let bench = Bench::new();
    let _outbox = bench.open();
    let error = Outbox::open(bench.settings.clone(), NOW).err().unwrap();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}

#[test]
fn an_outbox_of_another_device_or_of_a_newer_gateway_is_refused_and_left_alone() {
    let mut bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..5);
    drop(outbox);
    bench.settings.device = "pi-2".parse().unwrap();
    let error = Outbox::open(bench.settings.clone(), NOW).err().unwrap();
    assert!(matches!(error, OpenError::OtherDevice { .. }), "{error}");
    bench.settings.device = "pi-1".parse().unwrap();
    Connection::open(&bench.settings.path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let before = std::fs::read(&bench.settings.path).unwrap();
    let error = Outbox::open(bench.settings.clone(), NOW).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&bench.settings.path).unwrap(), before);
}

#[test]
fn a_damaged_outbox_is_moved_aside_and_a_new_one_begun() {
    let bench = Bench::new();
    let path = bench.settings.path.clone();
    drop(bench.open());
    for damage in ["garbage", "flipped"] {
        if damage == "garbage" {
            std::fs::write(&path, vec![0x5A; 5_000]).unwrap();
        } else {
            let mut outbox = bench.open();
            append(&mut outbox, 0..5_000);
            outbox.close().unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let len = bytes.len();
            bytes[len / 2..len / 2 + 2_000].fill(0xA5);
            std::fs::write(&path, bytes).unwrap();
        }
        let (mut outbox, recovered) = Outbox::open(bench.settings.clone(), NOW).unwrap();
        let aside = recovered.damaged.expect("moved aside");
        assert!(aside.exists(), "{damage}");
        assert_eq!(append(&mut outbox, 0..3).readings, 3);
        assert_eq!(held(&outbox), [0, 1, 2]);
        std::fs::remove_file(aside).unwrap();
    }
}

#[test]
fn a_database_of_somebody_else_is_refused_and_left_alone() {
    let bench = Bench::new();
    let other = Connection::open(&bench.settings.path).unwrap();
    other.execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1);").unwrap();
    drop(other);
    let error = Outbox::open(bench.settings.clone(), NOW).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[test]
fn the_file_is_as_the_design_asks() {
    let bench = Bench::new();
    let outbox = bench.open();
    let pragma = |name: &str| {
        outbox
            .conn
            .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
            .unwrap()
    };
    assert_eq!(pragma("page_size"), rusqlite::types::Value::Integer(1024));
    assert_eq!(pragma("journal_mode"), rusqlite::types::Value::Text("wal".into()));
    assert_eq!(pragma("synchronous"), rusqlite::types::Value::Integer(2));
    assert_eq!(sync_call(), "fdatasync");
}

#[test]
fn a_file_that_was_deleted_or_replaced_is_noticed() {
    let bench = Bench::new();
    let outbox = bench.open();
    assert!(outbox.is_in_place());
    std::fs::remove_file(&bench.settings.path).unwrap();
    assert!(!outbox.is_in_place());
    std::fs::write(&bench.settings.path, b"another").unwrap();
    assert!(!outbox.is_in_place());
}

#[test]
fn a_new_outbox_is_one_without_its_log() {
    let bench = Bench::new();
    let outbox = bench.open();
    let epochs: i64 = {
        let copy = bench.dir.path().join("copy.db");
        std::fs::copy(&bench.settings.path, &copy).unwrap();
        let copy = Connection::open(copy).unwrap();
        copy.query_row("SELECT count(*) FROM epoch", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(epochs, 0);
    drop(outbox);
}

#[test]
fn a_backlog_does_not_push_out_what_is_retained() {
    let mut bench = Bench::new();
    bench.settings.retention_bytes = 1_000;
    let mut outbox = bench.open();
    append(&mut outbox, 0..10_000);
    let key = outbox.streams().unwrap()[0].key;
    outbox.set_acked(&[(key, 1_000)]);
    outbox.set_confirmed(&[(key, 1_000)]);
    assert_eq!(
        outbox.trim(NOW.wall_ms).unwrap(),
        Trimmed::default(),
        "one segment of ten is acked"
    );
}
