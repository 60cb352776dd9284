//! Poison: kept whole, never in the way, decided by a person.

use fieldpost_bridge::store::StoreError;
use fieldpost_bridge::store::sqlite::{DeadLetterError, DeadLetters};
use fieldpost_protocol::{Ack, Stream};

use crate::support::*;

const NONE: [u64; 0] = [];

#[test]
fn poison_is_sync_acked_and_does_not_take_its_neighbours_along() {
    let mut bench = Bench::new();
    let acks = bench.acks(&[batch(1, 1, 2, 1, 9), poison(1, 3, 2, 1, 9), batch(1, 5, 2, 1, 9)]);
    assert_eq!(acks, [Ack { key: key(1), lo: 1, hi: 6 }]);
    assert_eq!(bench.stored(1), [1, 2, 5, 6]);
    let letters = bench.query().dead_letters().unwrap();
    assert_eq!(letters[0].cell("seqs").to_string(), "[[3,4]]");
    assert_eq!(letters[0].cell("state"), "open");
}

#[test]
fn a_dead_letter_is_keyed_by_what_it_newly_covers() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 3, 2, 1, 9), poison(1, 1, 6, 1, 9), poison(1, 1, 6, 1, 9)]);
    let letters = bench.query().dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].cell("seqs").to_string(), "[[1,2],[5,6]]");
}

#[test]
fn a_dropped_dead_letter_is_missing_and_is_not_asked_for_again() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 2, 1, 4), poison(1, 3, 2, 1, 4)]);
    let mut letters = DeadLetters::open(&bench.path()).unwrap();
    assert!(matches!(letters.retry(1, NOW), Err(DeadLetterError::StillPoison { .. })));
    assert_eq!(letters.drop_letter(1, NOW).unwrap(), 2);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [3, 4]);
    assert_eq!(bench.hello(1, 1, &[held(1, 1, 4)])[0].hi, 4);
    assert!(matches!(letters.retry(1, NOW), Err(DeadLetterError::Dropped(1))));
    assert!(matches!(letters.drop_letter(9, NOW), Err(DeadLetterError::Absent(9))));
}

#[test]
fn a_retry_of_what_is_poison_no_more_stores_its_rows() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 3, 1, 1, 5), poison(1, 1, 5, 1, 5)]);
    // As if a newer program could read it: the same batch with a good body.
    let good = envelope(1, 1, 5, 1, 5).encode();
    bench.db().execute("UPDATE dead_letter SET message = ?1", [good]).unwrap();
    let mut letters = DeadLetters::open(&bench.path()).unwrap();
    assert_eq!(letters.retry(1, NOW).unwrap(), 4);
    assert_eq!(bench.stored(1), [1, 2, 3, 4, 5]);
    assert!(bench.query().dead_letters().unwrap().is_empty());
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), NONE);
}

#[test]
fn what_only_storage_refuses_becomes_a_dead_letter_too() {
    let mut bench = Bench::new();
    // A row that coverage knows nothing of: its neighbour in the transaction is stored.
    bench.acks(&[batch(1, 1, 1, 1, 9)]);
    bench
        .db()
        .execute_batch("INSERT INTO reading SELECT epoch, 3, source, time, metrics FROM reading")
        .unwrap();
    let done = bench.take(&[batch(1, 2, 2, 1, 9), batch(1, 4, 2, 1, 9)]);
    assert_eq!((done.error.clone(), done.committed.clone()), (None, vec![true, true]));
    assert_eq!(sync_acks(&done).last().unwrap().hi, 5);
    assert_eq!(bench.query().dead_letters().unwrap()[0].cell("seqs").to_string(), "[[2,3]]");
}

#[test]
fn past_the_bound_poison_stays_on_the_gateway() {
    let mut bench = Bench::new();
    for round in 0..10u64 {
        let messages: Vec<_> = (1..=100).map(|i| poison(1, round * 100 + i, 1, 1, 2000)).collect();
        bench.acks(&messages);
    }
    let done = bench.take(&[poison(1, 1001, 1, 1, 2000)]);
    assert!(done.answers.is_empty());
    assert_eq!(done.alarms[0].kind, "dead_letters_full");
    assert_eq!(bench.query().status().unwrap().dead_letters, 1000);
    assert_eq!(bench.hello(1, 1, &[held(1, 1, 2000)])[0].hi, 1000);
}

#[test]
fn a_dead_letter_whose_rows_are_not_in_its_message_is_damaged_and_no_panic() {
    let mut bench = Bench::new();
    bench.acks(&[poison(1, 3, 2, 1, 9)]);
    let good = envelope(1, 3, 2, 1, 9).encode();
    bench.db().execute("UPDATE dead_letter SET message = ?1", [good]).unwrap();
    let mut letters = DeadLetters::open(&bench.path()).unwrap();
    for seqs in ["[[1,3]]", "[[4,9]]", "[[4,3]]", "[[3,4],[4,4]]"] {
        bench.db().execute("UPDATE dead_letter SET seqs = ?1", [seqs]).unwrap();
        let error = letters.retry(1, NOW).unwrap_err();
        assert!(matches!(error, DeadLetterError::Store(StoreError::Damaged(_))), "{error}");
    }
    assert!(bench.stored(1).is_empty());
}
