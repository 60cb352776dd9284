//! A device that names ever new epochs: how many are remembered, and that it is served all the same.

use std::time::{Duration, Instant};

use fieldpost_bridge::engine::SUPERSEDED_MS;
use fieldpost_bridge::store::sqlite::SqliteStore;
use fieldpost_bridge::store::{DEAD_LETTERS_MAX, NAMED_EPOCHS_MAX};
use fieldpost_protocol::{StateStream, Stream};

use crate::support::*;

/// Makes epochs of the device of which nothing is stored, superseded at `superseded`, with streams
/// that have claimed so much.
fn name_epochs(bench: &Bench, many: u64, superseded: i64, claimed: u64) {
    let before = count(bench, "epoch");
    let sql = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many}) \
         INSERT INTO epoch (device, epoch, superseded) SELECT 1, randomblob(16), {superseded} FROM n; \
         INSERT INTO stream (epoch, stream, floor, floor_by_absence, claimed, coverage) \
         SELECT ref, 'readings', {claimed} + 1, 1, {claimed}, '[]' FROM epoch WHERE ref > {before}"
    );
    bench.db().execute_batch(&sql).unwrap();
}

fn count(bench: &Bench, what: &str) -> i64 {
    bench.db().query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
}

fn named(bench: &Bench) -> u64 {
    count(bench, "epoch WHERE base IS NULL") as u64
}

fn knows(bench: &Bench, epoch: u8) -> bool {
    count(bench, &format!("epoch WHERE epoch = x'{}'", id(epoch))) == 1
}

fn nothing_of(epoch: u8) -> StateStream {
    StateStream { key: key(epoch), hi: 0 }
}

#[test]
fn a_hello_names_no_epoch_beyond_the_bound_and_is_answered_all_the_same() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 2, 1, 5)]);
    name_epochs(&bench, NAMED_EPOCHS_MAX - 2, 1, 9);
    let streams = [held(1, 1, 7), held(2, 1, 3), held(3, 1, 3), held(4, 1, 3), held(5, 1, 3)];
    let more = [held(6, 1, 3), held(7, 1, 3)];
    let done = bench.take(&[hello(1, 1, 1, 1, &streams), hello(1, 2, 1, 2, &more)]);
    assert_eq!(done.error, None);
    let [first, second] = &states(&done)[..] else { panic!("two states") };
    assert_eq!(first[0], StateStream { key: key(1), hi: 2 });
    assert_eq!(first[1..], [2, 3, 4, 5].map(nothing_of));
    assert_eq!(second[..], [6, 7].map(nothing_of));
    assert_eq!(named(&bench), NAMED_EPOCHS_MAX);
    assert_eq!(
        [1, 2, 3, 4, 5, 6, 7].map(|epoch| knows(&bench, epoch)).map(u8::from),
        [1, 1, 1, 0, 0, 0, 0]
    );
    // What the hello says of known streams counts.
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [3, 4, 5, 6, 7]);
    let kinds: Vec<_> = done.alarms.iter().map(|alarm| (alarm.kind, &*alarm.about)).collect();
    assert_eq!(kinds, [("too_many_epochs", "pi-1")]);
    // Others have their own.
    let other = fieldpost_protocol::Topic::Hello("pi-2".parse().unwrap());
    let of_another =
        fieldpost_bridge::ingest::Incoming { topic: other, ..hello(8, 1, 1, 1, &[held(8, 1, 3)]) };
    assert!(bench.take(&[of_another]).alarms.is_empty());
    assert!(knows(&bench, 8));
}

#[test]
fn a_gateway_whose_epoch_is_one_too_many_is_served_from_its_first_batch_on() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 2, 1, 5)]);
    name_epochs(&bench, NAMED_EPOCHS_MAX, 1, 9);
    let done = bench.take(&[hello(2, 1, 1, 1, &[held(1, 1, 6), held(2, 1, 3)])]);
    assert_eq!(states(&done), [[StateStream { key: key(1), hi: 2 }, nothing_of(2)]]);
    assert!(!knows(&bench, 2));
    assert_eq!(count(&bench, "hello_page"), 0);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [3, 4, 5, 6]);
    // Batches are never refused, and make the epoch known.
    assert_eq!(bench.acks(&[batch(2, 1, 2, 1, 3)])[0].hi, 2);
    assert_eq!(bench.seqs("waiting", 2, Stream::Readings), [3]);
    let done = bench.take(&[hello(2, 2, 1, 1, &[held(2, 1, 3)])]);
    assert!(done.alarms.is_empty(), "{:?}", done.alarms);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [3, 4, 5, 6]);
}

#[test]
fn epochs_that_hold_nothing_make_room_once_they_are_long_superseded() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 2, 1, 5), poison(2, 1, 1, 1, 1), poison(3, 1, 1, 1, 1)]);
    bench.hello(4, 1, &[]);
    let long_ago = bench.now + 1 - SUPERSEDED_MS;
    bench.db().execute("UPDATE epoch SET superseded = ?1", [long_ago]).unwrap();
    bench.db().execute_batch("UPDATE dead_letter SET dropped = 1 WHERE id = 1").unwrap();
    name_epochs(&bench, 10, long_ago, 9);
    name_epochs(&bench, 10, long_ago + 1, 0);
    name_epochs(&bench, 10, bench.now + 3_600_000, 0);
    name_epochs(&bench, NAMED_EPOCHS_MAX - named(&bench), long_ago, 0);
    let missing = bench.query().status().unwrap().missing;
    let done = bench.take(&[hello(5, 1, 1, 1, &[held(6, 1, 3)])]);
    assert_eq!((done.error, done.alarms), (None, Vec::new()));
    // Those of the dead letters, of the claims, of just now and of a wrong clock; and the new ones.
    assert_eq!(named(&bench), 2 + 10 + 10 + 10 + 2);
    assert_eq!(
        [1, 2, 3, 4, 5, 6].map(|epoch| knows(&bench, epoch)),
        [true, true, true, false, true, true]
    );
    assert_eq!(count(&bench, "dead_letter"), 2);
    assert_eq!(count(&bench, "stream WHERE epoch NOT IN (SELECT ref FROM epoch)"), 0);
    assert_eq!(bench.query().status().unwrap().missing, missing);
    // Late batches of what was forgotten are stored, once.
    assert_eq!(bench.acks(&[batch(4, 1, 2, 1, 2)])[0].hi, 2);
    assert_eq!(bench.acks(&[batch(4, 1, 2, 1, 2)])[0].hi, 2);
    assert_eq!(bench.stored(4), [1, 2]);
    SqliteStore::open(&bench.path()).unwrap().check().unwrap();
}

#[test]
fn poison_that_is_refused_leaves_no_epoch_beyond_the_bound() {
    let mut bench = Bench::new();
    let full: Vec<_> = (0..DEAD_LETTERS_MAX).map(|nth| poison(1, nth + 1, 1, 1, 5_000)).collect();
    bench.acks(&full);
    // Below the bound it is remembered that it waits.
    assert!(bench.acks(&[poison(2, 1, 1, 1, 4)]).is_empty());
    assert_eq!(bench.seqs("waiting", 2, Stream::Readings), [1, 2, 3, 4]);
    name_epochs(&bench, NAMED_EPOCHS_MAX - named(&bench), 1, 9);
    let done = bench.take(&[poison(3, 1, 1, 1, 4), batch(4, 1, 1, 1, 1)]);
    assert_eq!((done.error, done.committed), (None, vec![true, true]));
    let kinds: Vec<_> = done.alarms.iter().map(|alarm| alarm.kind).collect();
    assert_eq!(kinds, ["too_many_epochs", "dead_letters_full"]);
    assert!(!knows(&bench, 3));
    assert_eq!(bench.stored(4), [1]);
}

#[test]
fn what_a_hello_costs_does_not_grow_with_the_epochs_that_have_to_stay() {
    let [few, many] = [100, 300_000].map(|named| {
        let mut bench = Bench::new();
        bench.acks(&[batch(1, 1, 2, 1, 5)]);
        name_epochs(&bench, named, 1, 9);
        // It looks once for some that need not stay.
        bench.take(&[hello(2, 1, 1, 1, &[held(1, 1, 6)])]);
        let costs = (3..8u8).map(|epoch| {
            let begin = Instant::now();
            let done = bench.take(&[hello(epoch, 1, 1, 1, &[held(1, 1, 6)])]);
            assert_eq!(done.error, None);
            begin.elapsed()
        });
        costs.min().unwrap()
    });
    // Or what a busy disk takes for the commit alone.
    let most = (few * 5).max(Duration::from_millis(10));
    assert!(many < most, "{few:?} with 100 epochs, {many:?} with 300,000");
}
