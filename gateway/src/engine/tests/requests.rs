//! What a person may ask for: a pause, its end, and another pace.

use super::*;

fn halved(rows: u64) -> (Bench, u64) {
    let mut bench = Bench::new(vec![info(readings(1), 1, rows, 0)]);
    bench.connect(secs(0));
    // Never answered: in the end it goes row by row.
    for second in 0..2_000 {
        bench.send_all(secs(second));
    }
    let rows_max = bench.engine.flows[0].rows_max as u64;
    (bench, rows_max)
}

#[test]
fn a_pause_keeps_readings_while_events_and_hellos_go() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    bench.engine.pause_readings(secs(1), Some(secs(9_000)));
    bench.engine.handle_appended(secs(1), readings(9), 1_200);
    bench.engine.handle_appended(secs(1), events(9), 1);
    assert_eq!(bench.send_all(secs(2)), [(events(9), 1, 1)]);
    bench.sync_ack(secs(2), events(9), 1, 1);
    assert_eq!(bench.engine.no_progress_since(), None, "what waits by request is no trouble");
    let mut hellos = 0;
    while let Some(send) = bench.poll(secs(8_999)) {
        assert!(matches!(send, Send::Hello(_)), "{send:?}");
        hellos += 1;
    }
    assert_eq!(hellos, 1, "the hourly one");
}

#[test]
fn a_pause_ends_at_its_time_and_nobody_is_woken_before_in_vain() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    bench.engine.handle_appended(secs(1), readings(9), 1);
    assert_eq!(bench.send_all(secs(1)).len(), 1);
    // Its sync ack never comes: the resend time is over within the pause.
    bench.engine.pause_readings(secs(2), Some(secs(600)));
    bench.engine.handle_appended(secs(2), readings(9), 7);
    let (mut now, mut woken) = (secs(2), 0);
    loop {
        let sent = bench.send_all(now);
        if now >= secs(600) {
            assert_eq!(sent, [(readings(9), 1, 7)]);
            break;
        }
        assert_eq!(sent, []);
        now = bench.engine.poll_timeout().unwrap().max(now + Duration::from_millis(1));
        woken += 1;
    }
    assert!(woken < 10, "woken {woken} times");
    assert_eq!(now, secs(600));
    assert_eq!(bench.engine.no_progress_since(), Some(secs(600)), "it has waited since then only");
}

#[test]
fn resumed_readings_go_at_once_and_have_waited_since_then_only() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    bench.engine.pause_readings(secs(1), Some(secs(9_000)));
    bench.engine.handle_appended(secs(1), readings(9), 7);
    assert_eq!(bench.send_all(secs(3_000)), []);
    bench.engine.pause_readings(secs(3_000), None);
    assert_eq!(bench.engine.no_progress_since(), Some(secs(3_000)));
    assert_eq!(bench.send_all(secs(3_000)), [(readings(9), 1, 7)]);

    // Without a pause nothing is resumed, and what is in trouble stays so.
    bench.engine.pause_readings(secs(3_500), None);
    assert_eq!(bench.engine.no_progress_since(), Some(secs(3_000)));
}

#[test]
fn a_shorter_publish_interval_counts_at_once_and_a_longer_one_from_the_next_batch() {
    for (interval, next) in [(1, 11), (60, 20)] {
        let mut bench = Bench::new(vec![]);
        bench.connect(secs(0));
        bench.engine.change_settings(secs(1), Duration::from_secs(10), 500);
        bench.engine.handle_appended(secs(10), readings(9), 1);
        assert_eq!(bench.send_all(secs(10)).len(), 1);
        bench.engine.handle_appended(secs(10), readings(9), 2);
        bench.engine.change_settings(secs(10), Duration::from_secs(interval), 500);
        // In time: the resend of what nobody acknowledges is not the point here.
        bench.sync_ack(secs(10), readings(9), 1, 1);
        assert_eq!(bench.send_all(secs(next) - Duration::from_millis(1)), []);
        assert_eq!(bench.send_all(secs(next)), [(readings(9), 2, 2)], "interval {interval}");
        bench.engine.handle_appended(secs(next), readings(9), 3);
        assert_eq!(bench.engine.flush_at, secs(next + interval));
    }
}

#[test]
fn batches_have_the_new_size_and_one_that_is_full_goes_at_once() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    bench.engine.handle_appended(secs(1), readings(9), 1);
    bench.send_all(secs(1));
    bench.engine.change_settings(secs(1), Duration::from_secs(60), 10);
    let soon = secs(1) + Duration::from_millis(500);
    bench.engine.handle_appended(soon, readings(9), 10);
    assert_eq!(bench.send_all(soon), [], "nine of them fill no batch");
    bench.engine.handle_appended(soon, readings(9), 21);
    assert_eq!(bench.send_all(soon), [(readings(9), 2, 11), (readings(9), 12, 21)]);
}

#[test]
fn a_stream_in_trouble_keeps_its_small_batches_and_grows_to_the_new_size() {
    let (mut bench, rows_max) = halved(100_000);
    assert!(rows_max < 400, "{rows_max}");
    bench.engine.change_settings(secs(2_000), Duration::from_secs(1), 400);
    assert_eq!(bench.engine.flows[0].rows_max as u64, rows_max);
    let mut acked = 0;
    for _ in 0..12 {
        acked += 1;
        bench.sync_ack(secs(2_001), readings(1), 1, acked);
    }
    assert_eq!(bench.engine.flows[0].rows_max, 400);

    let (mut bench, _) = halved(100_000);
    bench.engine.change_settings(secs(2_000), Duration::from_secs(1), 1);
    assert_eq!(bench.engine.flows[0].rows_max, 1, "never more than the new size");
}

#[test]
fn what_waits_is_acked_by_acks_of_its_own_kind_only() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    assert!(bench.engine.is_acked_since(secs(1)), "nothing waits");
    bench.engine.handle_appended(secs(1), readings(9), 5);
    bench.engine.handle_appended(secs(1), events(9), 1);
    bench.send_all(secs(2));
    assert!(!bench.engine.is_acked_since(secs(1)));
    bench.sync_ack(secs(3), events(9), 1, 1);
    assert!(!bench.engine.is_acked_since(secs(1)), "an alert is no reading");
    bench.sync_ack(secs(4), readings(9), 1, 2);
    assert!(bench.engine.is_acked_since(secs(1)), "it gets on, though more waits");
    assert!(!bench.engine.is_acked_since(secs(5)));
    bench.engine.pause_readings(secs(5), Some(secs(60)));
    assert!(bench.engine.is_acked_since(secs(5)), "they wait by request");
}
