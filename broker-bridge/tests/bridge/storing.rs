//! Batches and events into rows.

use std::time::Instant;

use fieldpost_bridge::engine::Engine;
use fieldpost_bridge::ingest::ingest;
use fieldpost_bridge::store::sqlite::{ReadingFilter, SqliteStore};
use fieldpost_bridge::store::{Store, Txn};
use fieldpost_protocol::{
    Ack, AlertState, CommandOutcome, Envelope, Event, EventKind, Meta, Metrics, Stream, Topic,
};

use crate::support::*;

fn ack(epoch: u8, lo: u64, hi: u64) -> Ack {
    Ack { key: key(epoch), lo, hi }
}

#[test]
fn a_repeated_batch_is_sync_acked_again_but_not_stored_again() {
    let mut bench = Bench::new();
    assert_eq!(bench.acks(&[batch(1, 1, 5, 1, 9)]), [ack(1, 1, 5)]);
    assert_eq!(bench.acks(&[batch(1, 1, 5, 1, 9)]), [ack(1, 1, 5)]);
    assert_eq!(bench.stored(1), [1, 2, 3, 4, 5]);
}

#[test]
fn overlapping_batches_are_stored_once_and_a_hole_holds_the_sync_ack_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.acks(&[batch(1, 1, 5, 1, 20), batch(1, 4, 4, 1, 20)]), [ack(1, 1, 7)]);
    assert_eq!(bench.acks(&[batch(1, 10, 3, 1, 20)]), [ack(1, 1, 7)]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [8, 9, 13, 14, 15, 16, 17, 18, 19, 20]);
    assert_eq!(bench.acks(&[batch(1, 8, 2, 1, 20)]), [ack(1, 1, 12)]);
    assert_eq!(bench.stored(1), (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_row_holds_the_time_and_the_values_that_were_sent() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 3, 1, 3)]);
    let filter = ReadingFilter { limit: 2, ..ReadingFilter::default() };
    let rows = bench.query().readings(&filter).unwrap();
    assert_eq!(rows.len(), 2);
    for (row, seq) in rows.iter().zip(2u64..) {
        assert_eq!(row.cell("device"), "pi-1");
        assert_eq!(row.cell("source"), "air");
        assert_eq!(row.cell("time"), BASE + seq as i64 * 1000);
        let expected = reading(seq).metrics;
        assert_eq!(Metrics::from_json(&row.cell("metrics").to_string()).unwrap(), expected);
    }
}

#[test]
fn the_narrow_view_joins_names_and_units() {
    let mut bench = Bench::new();
    let meta = br#"{"name":"Greenhouse","location":"roof",
        "sources":{"air":{"name":"Air","metrics":{"temp":{"unit":"\u00b0C"}}}}}"#;
    Meta::from_json(meta).unwrap();
    let topic = Topic::Meta(device());
    let meta = fieldpost_bridge::ingest::Incoming {
        topic,
        payload: meta.to_vec(),
        retained: true,
        receipt: Default::default(),
    };
    bench.acks(&[batch(1, 1, 1, 1, 1), meta]);
    let db = bench.db();
    let row: (String, String, String, String, i64, f64) = db
        .query_row(
            "SELECT device_name, location, source_name, unit, time, value FROM measurement \
             WHERE device = 'pi-1' AND source = 'air' AND metric = 'temp'",
            [],
            |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            },
        )
        .unwrap();
    let expected = ("Greenhouse", "roof", "Air", "°C", BASE + 1000, 20.1);
    assert_eq!((&*row.0, &*row.1, &*row.2, &*row.3, row.4, row.5), expected);
}

#[test]
fn the_first_base_of_an_epoch_is_kept_and_another_raises_an_alarm() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 1, 1, 2)]);
    let later = Envelope { base: BASE + 5000, ..envelope(1, 2, 1, 1, 2) };
    let done = bench.take(&[message(&later)]);
    assert_eq!(done.alarms.len(), 1);
    assert_eq!(done.alarms[0].kind, "epoch_time_changed");
    let times: i64 = bench
        .db()
        .query_row("SELECT time FROM readings WHERE seq = 2", [], |row| row.get(0))
        .unwrap();
    assert_eq!(times, BASE + 2000);
}

#[test]
fn a_batch_on_the_topic_of_another_device_is_dropped_and_counted() {
    let mut bench = Bench::new();
    let mut stolen = batch(1, 1, 1, 1, 1);
    stolen.topic = Topic::SensorData("pi-2".parse().unwrap());
    let done = bench.take(&[stolen, batch(1, 1, 1, 1, 1)]);
    assert_eq!(done.committed, [true, true]);
    assert_eq!(sync_acks(&done).len(), 1);
    assert_eq!(done.alarms[0].kind, "batch_of_another_device");
    let alarms = bench.query().status().unwrap().alarms;
    assert_eq!((alarms[0].cell("about"), alarms[0].cell("count")), (&"pi-2".into(), &1.into()));
}

#[test]
fn a_newer_envelope_is_dropped_with_a_word_about_updating() {
    let mut bench = Bench::new();
    let mut newer = batch(1, 1, 1, 1, 1);
    // The map's first entry is "v": 1, as CBOR 0x61 'v' 0x01.
    assert_eq!(newer.payload[1..4], [0x61, b'v', 1]);
    newer.payload[3] = 2;
    let done = bench.take(&[newer]);
    assert!(done.answers.is_empty());
    assert!(done.alarms[0].message.contains("Update"), "{}", done.alarms[0].message);
}

#[test]
fn a_stream_of_too_many_holes_opens_no_further_one_but_closes_those_it_has() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 1, 1, 90_000)]);
    let runs: Vec<(u64, u64)> = (0..10_000).map(|i| (2 * i + 1, 2 * i + 1)).collect();
    let runs = serde_json::to_string(&runs).unwrap();
    bench.db().execute("UPDATE stream SET coverage = ?1", [runs]).unwrap();
    let done = bench.take(&[batch(1, 50_000, 1, 1, 90_000)]);
    assert_eq!((done.answers.len(), done.alarms[0].kind), (0, "stream_fragmented"));
    assert_eq!(bench.stored(1), [1]);
    assert_eq!(bench.acks(&[batch(1, 2, 1, 1, 90_000)]), [ack(1, 1, 3)]);
    assert_eq!(bench.acks(&[batch(1, 50_000, 1, 1, 90_000)]), [ack(1, 1, 3)]);
}

#[test]
fn one_device_too_many_is_dropped_and_the_others_go_on() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 1, 1, 2)]);
    bench
        .db()
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) \
             INSERT INTO device (id, first_seen) SELECT 'd' || i, 0 FROM n",
        )
        .unwrap();
    let new = Envelope { dev: "new".parse().unwrap(), ..envelope(1, 1, 1, 1, 1) };
    let done = bench.take(&[message(&new), batch(1, 2, 1, 1, 2)]);
    assert_eq!(done.committed, [false, true]);
    assert!(done.error.unwrap().to_string().contains("one too many"));
    assert_eq!(bench.stored(1), [1, 2]);
}

#[test]
fn a_retained_batch_or_hello_is_ignored() {
    let mut bench = Bench::new();
    let mut old = [batch(1, 1, 1, 1, 1), hello(1, 1, 1, 1, &[held(1, 1, 1)])];
    old.iter_mut().for_each(|message| message.retained = true);
    let done = bench.take(&old);
    assert!(done.answers.is_empty() && done.committed == [true, true]);
    assert!(bench.stored(1).is_empty());
}

#[test]
fn events_are_stored_and_the_current_alerts_follow_from_them() {
    let mut bench = Bench::new();
    let ack = EventKind::CommandAck {
        id: "c1".parse().unwrap(),
        content: None,
        target: id(1),
        outcome: CommandOutcome::TimedOut,
        detail: None,
        result: Metrics::default(),
    };
    bench.acks(&[
        alert(1, 1, "port_lost", AlertState::Raised),
        alert(1, 2, "outbox_full", AlertState::Raised),
        alert(1, 3, "port_lost", AlertState::Cleared),
        event(1, 4, &Event { t: 4, kind: ack }),
    ]);
    let alerts = bench.query().status().unwrap().alerts;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0].cell("name"), "outbox_full");
    let outcome: String =
        bench.db().query_row("SELECT outcome FROM command_acks", [], |row| row.get(0)).unwrap();
    assert_eq!(outcome, "timed_out");
    // The process that would clear it is gone.
    bench.hello(2, 1, &[held(2, 1, 1)]);
    assert!(bench.query().status().unwrap().alerts.is_empty());
}

#[test]
fn a_device_is_stale_whatever_its_retained_status_says() {
    let mut bench = Bench::new();
    let payload = br#"{"online":true,"uptime_s":5}"#.to_vec();
    let mut status = fieldpost_bridge::ingest::Incoming {
        topic: Topic::Status(device()),
        payload,
        retained: true,
        receipt: Default::default(),
    };
    let state = |bench: &Bench| bench.query().devices().unwrap()[0].cell("state").clone();
    bench.now = fieldpost_bridge::clock::now_ms();
    bench.take(std::slice::from_ref(&status));
    assert_eq!(state(&bench), "stale");
    status.retained = false;
    bench.take(std::slice::from_ref(&status));
    assert_eq!(state(&bench), "online");
    bench.now -= 182_000;
    bench.take(std::slice::from_ref(&status));
    assert_eq!(state(&bench), "stale");
    // It was heard of while the clock was an hour ahead, and then no more.
    bench.now += 3_600_000;
    bench.take(&[status]);
    assert_eq!(state(&bench), "stale");
}

#[test]
fn the_views_use_nothing_that_an_older_sqlite_takes_for_null() {
    let views: String = Bench::new()
        .db()
        .query_row("SELECT group_concat(sql) FROM sqlite_schema WHERE type = 'view'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert!(views.contains("unixepoch()") && !views.contains("subsec"), "{views}");
}

#[test]
fn a_range_of_times_is_found_by_the_index_whatever_else_is_asked() {
    let bench = Bench::new();
    let db = bench.db();
    for sql in [
        "SELECT time, value FROM measurement WHERE metric = 'temp' AND time BETWEEN 1 AND 2",
        "SELECT time, value FROM measurement WHERE device = 'pi-1' AND time BETWEEN 1 AND 2",
        "SELECT * FROM readings WHERE time > 1",
    ] {
        let mut query = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = query.query_map([], |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<String> = steps.map(|step| step.unwrap()).collect();
        let found = plan.iter().any(|step| step.contains("reading_by_time (source=? AND time>?"));
        assert!(found, "{sql}: {plan:?}");
    }
}

#[test]
fn what_was_not_committed_is_not_there() {
    let mut bench = Bench::new();
    let mut txn = bench.store.begin().unwrap();
    let at = txn.device(&device(), NOW).unwrap();
    let mut locked = txn.lock_stream(at, key(1)).unwrap();
    let first = envelope(1, 1, 2, 1, 2);
    let runs = Engine::default().plan_batch(&mut locked.row, &first).unwrap();
    let readings = [reading(1), reading(2)];
    let new = fieldpost_bridge::store::NewReadings {
        device: at,
        epoch: locked.epoch,
        base: BASE,
        first: 1,
        readings: &readings,
        runs: &runs,
    };
    txn.insert_readings(new).unwrap();
    txn.save_stream(locked.stream, &locked.row).unwrap();
    drop(txn);
    assert!(bench.stored(1).is_empty());
    assert_eq!(bench.acks(&[batch(1, 1, 2, 1, 2)]), [ack(1, 1, 2)]);
    assert_eq!(bench.stored(1), [1, 2]);
}

#[test]
fn two_bridges_on_one_file_store_every_row_once() {
    let mut bench = Bench::new();
    let seed: u64 = fastrand::u64(..);
    println!("seed {seed}");
    let path = bench.path();
    // Both get every batch, each in its own order.
    let threads: Vec<_> = (0..2)
        .map(|nth| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + nth);
                let mut firsts: Vec<u64> = (0..100).map(|i| i * 10 + 1).collect();
                random.shuffle(&mut firsts);
                let mut store = SqliteStore::open(&path).unwrap();
                for pair in firsts.chunks(3) {
                    let messages: Vec<_> =
                        pair.iter().map(|&first| batch(1, first, 10, 1, 1000)).collect();
                    let done = ingest(&mut store, &Engine::default(), &messages, NOW);
                    assert_eq!(done.error, None);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(bench.stored(1), (1..=1000).collect::<Vec<_>>());
    assert_eq!(bench.acks(&[batch(1, 1, 1, 1, 1000)]), [ack(1, 1, 1000)]);
}

#[test]
fn throughput_is_printed() {
    let mut bench = Bench::new();
    let all: Vec<_> = (0..200u64).map(|i| batch(1, i * 1000 + 1, 1000, 1, 200_000)).collect();
    let start = Instant::now();
    for messages in all.chunks(64) {
        bench.acks(messages);
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes = bench.query().status().unwrap().bytes;
    let rate = 200_000.0 / seconds;
    println!("{rate:.0} readings/s into SQLite, {} bytes a reading", bytes / 200_000);
    assert_eq!(bench.stored(1).len(), 200_000);
}

#[test]
fn a_meta_of_too_many_sources_names_those_that_fit_and_disturbs_nobody() {
    let mut bench = Bench::new();
    let sources: Vec<String> =
        (0..1100).map(|nth| format!("\"s{nth:04}\":{{\"name\":\"n\"}}")).collect();
    let payload = format!("{{\"name\":\"Pi\",\"sources\":{{{}}}}}", sources.join(","));
    let topic = Topic::Meta(device());
    let meta = fieldpost_bridge::ingest::Incoming {
        topic,
        payload: payload.into_bytes(),
        retained: false,
        receipt: Default::default(),
    };
    let done = bench.take(&[meta, batch(1, 1, 1, 1, 1)]);
    assert_eq!((done.error, done.committed), (None, vec![true, true]));
    assert_eq!(bench.query().devices().unwrap()[0].cell("name"), "Pi");
    assert_eq!(bench.stored(1), [1]);
    let count = "SELECT count(*) FROM source WHERE name = 'n'";
    let named: i64 = bench.db().query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(named, 999, "one is the source of the batch");
}
