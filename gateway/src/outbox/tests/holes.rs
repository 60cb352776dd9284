//! Rows that are gone from the middle of a stream.

use super::*;

fn first_key(outbox: &Outbox) -> StreamKey {
    outbox.streams().unwrap()[0].key
}

/// Holes as first row, last row, and whether storage may lack them.
fn holes(outbox: &Outbox) -> Vec<(Seq, Seq, bool)> {
    outbox.holes().unwrap().iter().map(|hole| (hole.first, hole.last, hole.unacked)).collect()
}

#[test]
fn holes_are_found_at_the_front_in_the_middle_and_at_the_end() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    for group in 0..6 {
        append(&mut outbox, group * 1_000..(group + 1) * 1_000);
    }
    assert_eq!(holes(&outbox), []);
    let key = first_key(&outbox);
    outbox.set_acked(&[(key, 3_000)]);
    outbox.conn.execute("DELETE FROM segment WHERE first IN (1, 2001, 3001, 5001)", []).unwrap();
    assert_eq!(holes(&outbox), [(1, 1_000, false), (2_001, 4_000, true), (5_001, 6_000, true)]);
    let all = outbox.holes().unwrap();
    assert_eq!(all.len(), 3);
    let mut asked = |from| outbox.read_batch_or_holes(key, from, 1_000).unwrap();
    assert_eq!(asked(2_001), (None, all));
    assert_eq!(asked(7_000), (None, vec![]), "it was never given");
    assert!(asked(4_001).0.is_some_and(|batch| batch.first == 4_001 && batch.floor == 1));
    assert_eq!(outbox.export(|_, _, _, _| ()).unwrap(), 4_000);
    for (from, first) in
        [(1, Some(1_001)), (1_500, Some(1_500)), (2_001, Some(4_001)), (5_001, None), (7_000, None)]
    {
        assert_eq!(outbox.first_held(key, from).unwrap(), first, "from {from}");
    }
    outbox.close().unwrap();

    let outbox = bench.open();
    assert_eq!(holes(&outbox), [(2_001, 4_000, true), (5_001, 6_000, true)]);
    let held = outbox.streams().unwrap()[0];
    assert_eq!((held.floor, held.acked), (1_001, 3_000), "no hole moves them");
}

#[test]
fn what_was_let_go_is_no_hole() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    for group in 0..3 {
        append(&mut outbox, group * 1_000..(group + 1) * 1_000);
    }
    let key = first_key(&outbox);
    outbox.set_acked(&[(key, 2_000)]);
    outbox.set_confirmed(&[(key, 2_000)]);
    assert_eq!(outbox.trim(i64::MAX / 2).unwrap().readings, 2_000);
    assert_eq!(outbox.read_batch_or_holes(key, 1, 1_000).unwrap(), (None, vec![]));
    assert_eq!(outbox.first_held(key, 1).unwrap(), Some(2_001));
    assert_eq!(holes(&outbox), []);
}

#[test]
fn an_event_that_is_gone_is_a_hole_and_those_after_it_are_not() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    outbox.append(&some(0..3), &[alert(), alert(), alert()], NOW).unwrap();
    outbox.conn.execute("DELETE FROM event WHERE seq = 2", []).unwrap();
    assert_eq!(holes(&outbox), [(2, 2, true)]);
    assert_eq!(outbox.holes().unwrap()[0].key.stream, Stream::Events);
}

#[test]
fn rows_behind_a_hole_in_the_tail_keep_their_numbers_read_and_sealed() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    append(&mut outbox, 10..20);
    outbox.conn.execute("DELETE FROM tail WHERE seq IN (8, 9, 20)", []).unwrap();
    let key = first_key(&outbox);
    let runs = |outbox: &Outbox| {
        let run = |from| {
            outbox.read_batch(key, from, 1_000).unwrap().map(|batch| {
                let rows = decode_readings(&batch.body, batch.n).unwrap();
                let first = rows[0].metrics.get("n").cloned();
                (batch.first, batch.n, first)
            })
        };
        [run(1), run(8), run(10), run(20), run(21)]
    };
    let expected =
        [(1, 7), (10, 10)].map(|(first, n)| Some((first, n, Some(Value::Int(first as i64 - 1)))));
    assert_eq!(runs(&outbox), [expected[0].clone(), None, expected[1].clone(), None, None]);
    append(&mut outbox, 20..100);
    assert_eq!(count(&outbox, "tail"), 0);
    let sealed = Some((21, 80, Some(Value::Int(20))));
    assert_eq!(runs(&outbox), [expected[0].clone(), None, expected[1].clone(), None, sealed]);
    assert_eq!(holes(&outbox), [(8, 9, true), (20, 20, true)]);
}

#[test]
fn a_number_that_no_row_can_have_makes_no_hole_of_rows_that_are_held() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    for group in 0..3 {
        append(&mut outbox, group * 1_000..(group + 1) * 1_000);
    }
    for (first, hole) in
        [(-5, (1_001, 1_000)), (i64::MIN, (1_001, 1_000)), (i64::MAX, (1_001, 2_000))]
    {
        outbox.conn.execute("UPDATE segment SET first = ?1 WHERE last = 2000", [first]).unwrap();
        let found = holes(&outbox);
        let expected: Vec<_> =
            (hole.0 <= hole.1).then_some((hole.0, hole.1, true)).into_iter().collect();
        assert_eq!(found, expected, "{first}");
    }
}

#[test]
fn a_number_whose_row_was_deleted_is_not_given_again() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    outbox.conn.execute("DELETE FROM tail WHERE seq > 5", []).unwrap();
    outbox.load_streams().unwrap();
    assert_eq!(holes(&outbox), [(6, 10, true)]);
    append(&mut outbox, 10..12);
    assert_eq!(holes(&outbox), [(6, 10, true)]);
    assert_eq!(outbox.streams().unwrap()[0].last, 12);
}

#[test]
fn a_number_that_no_row_can_have_at_the_front_of_a_stream_is_damage() {
    for wrong in ["first = 0", "first = -5", "first = -9223372036854775808"] {
        let bench = Bench::new();
        let mut outbox = bench.open();
        append(&mut outbox, 0..1_000);
        outbox.conn.execute(&format!("UPDATE segment SET {wrong}"), []).unwrap();
        drop(outbox);
        let (outbox, recovered) = Outbox::open(bench.settings.clone(), NOW).unwrap();
        assert!(recovered.damaged.is_some_and(|aside| aside.exists()), "{wrong}");
        assert_eq!(outbox.streams().unwrap(), []);
    }
}
