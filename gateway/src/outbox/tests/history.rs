//! The connectivity history: kept over a restart, bounded, and never in the way of readings.

use super::*;
use crate::history::{
    Changes, HOURS_MAX, Hour, Kept, Link, TRANSITIONS_MAX, Transition, WHY_BYTES_MAX,
};
use crate::outbox::read_history;

fn hour(no: i64) -> Hour {
    Hour {
        no,
        hour: 498_000 + no,
        clock: Clock::Bridge,
        boot_ms: None,
        successes: 3_600,
        failures: 120,
        consecutive_failures: 3,
        readings: 3_600_000,
        online_ms: 3_000_000,
        transitions: 9,
        last_error: Some("e".repeat(WHY_BYTES_MAX)),
    }
}

fn transition(no: i64) -> Transition {
    let (unix_ms, clock) = (1_795_000_000_000 + no, Clock::Ntp);
    Transition {
        no,
        unix_ms,
        clock,
        boot_ms: None,
        link: Link::Offline,
        why: "w".repeat(WHY_BYTES_MAX),
    }
}

fn some_of(range: std::ops::RangeInclusive<i64>) -> Changes {
    let (hours, transitions) = (range.clone().map(hour).collect(), range.map(transition).collect());
    Changes { hours, transitions, ..Changes::default() }
}

#[test]
fn what_was_written_is_there_after_a_kill_and_what_was_let_go_is_not() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    assert_eq!(outbox.history().unwrap(), Kept::default());
    assert!(outbox.write_history(&some_of(1..=5)).unwrap());
    let mut changes = some_of(5..=6);
    changes.hours[0].readings = 7;
    (changes.hours_gone, changes.transitions_gone) = (vec![1], vec![1, 2]);
    // Once more, as after a commit in doubt.
    for _ in 0..2 {
        assert!(outbox.write_history(&changes).unwrap());
    }
    let kept = read_history(&bench.settings.path).unwrap();
    drop(outbox);
    let outbox = bench.open();
    assert_eq!(outbox.history().unwrap(), kept);
    let numbers: Vec<i64> = kept.hours.iter().map(|it| it.no).collect();
    assert_eq!(numbers, [2, 3, 4, 5, 6]);
    assert_eq!(kept.hours[3].readings, 7);
    assert_eq!(kept.hours[4], hour(6));
    let numbers: Vec<i64> = kept.transitions.iter().map(|it| it.no).collect();
    assert_eq!(numbers, [3, 4, 5, 6]);
    assert_eq!(kept.transitions[3], transition(6));
}

#[test]
fn thirty_days_of_it_at_its_longest_are_less_than_half_a_megabyte() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    let before = outbox.used_bytes().unwrap();
    let mut all = some_of(1..=HOURS_MAX as i64);
    all.transitions = (1..=TRANSITIONS_MAX as i64).map(transition).collect();
    assert!(outbox.write_history(&all).unwrap());
    let bytes = outbox.used_bytes().unwrap() - before;
    assert!(bytes < RESERVE_BYTES / 2, "{bytes} bytes");
}

#[test]
fn a_full_outbox_has_room_for_some_of_it_and_the_rest_of_the_reserve_is_for_events() {
    let mut bench = Bench::new();
    bench.settings.size_bytes_max = 2 * RESERVE_BYTES;
    let mut outbox = bench.open();
    let mut n = 0;
    while outbox.append(&some(n..n + 500), &[], NOW).unwrap().refused_full == 0 {
        n += 500;
    }
    let (before, mut no) = (outbox.used_bytes().unwrap(), 0);
    while outbox.write_history(&some_of(no..=no + 99)).unwrap() {
        no += 100;
        assert!(no < 10_000, "it is refused at last");
    }
    assert!(no > 0, "an outage that fills the outbox is recorded");
    let used = outbox.used_bytes().unwrap();
    assert!(used > before && used < 2 * RESERVE_BYTES - RESERVE_BYTES / 3, "{used}");
    let appended = outbox.append(&some(n..n + 1), &[alert()], NOW).unwrap();
    assert_eq!((appended.refused_full, appended.events), (1, 1), "as without a history");
}

#[test]
fn an_outbox_of_an_older_gateway_gets_its_tables_and_one_that_cannot_be_read_stops_no_reading() {
    let bench = Bench::new();
    drop(bench.open());
    let sql =
        |sql: &str| Connection::open(&bench.settings.path).unwrap().execute_batch(sql).unwrap();
    sql("DROP TABLE link_hour; DROP TABLE link_transition");
    assert!(read_history(&bench.settings.path).is_err());
    let mut outbox = bench.open();
    assert!(outbox.write_history(&some_of(1..=1)).unwrap());
    drop(outbox);
    sql("UPDATE link_transition SET link = 'sideways'");
    let mut outbox = bench.open();
    assert!(outbox.history().is_err());
    assert_eq!(outbox.append(&some(0..3), &[], NOW).unwrap().readings, 3);
    sql("DROP TABLE link_hour");
    assert!(outbox.write_history(&some_of(2..=2)).is_err());
    assert_eq!(outbox.append(&some(3..6), &[], NOW).unwrap().readings, 3);
}
