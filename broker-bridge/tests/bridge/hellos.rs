//! Hellos: pages, late ones, streams that are not named.

use fieldpost_bridge::ingest::Answer;
use fieldpost_protocol::{Epoch, HelloStream, StateStream, Stream, StreamKey};

use crate::support::*;

fn state(epoch: u8, hi: u64) -> StateStream {
    StateStream { key: key(epoch), hi }
}

#[test]
fn a_hello_is_answered_with_the_end_of_the_stored_run() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 4, 1, 9), batch(1, 6, 2, 1, 9)]);
    let answers = bench.hello(1, 1, &[held(1, 1, 9), held(2, 1, 3)]);
    assert_eq!(answers, [state(1, 4), state(2, 0)]);
    assert_eq!(bench.seqs("waiting", 2, Stream::Readings), [1, 2, 3]);
}

#[test]
fn floors_move_with_the_last_page_and_not_before() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 5, 1, 1, 9), batch(3, 1, 2, 1, 5)]);
    let done = bench.take(&[hello(2, 1, 1, 2, &[held(1, 5, 12)])]);
    assert_eq!(states(&done), [[state(1, 5)]]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [0u64; 0]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]);
    bench.take(&[hello(2, 1, 2, 2, &[held(2, 1, 1)])]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [1, 2, 3, 4]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [6, 7, 8, 9, 10, 11, 12]);
    // Epoch 3 stood on neither page.
    assert_eq!(bench.seqs("missing", 3, Stream::Readings), [3, 4, 5]);
}

#[test]
fn an_epoch_that_comes_back_is_waiting_again() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 2, 1, 5)]);
    bench.hello(2, 1, &[held(2, 1, 1)]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [3, 4, 5]);
    bench.acks(&[batch(1, 3, 1, 1, 5)]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [0u64; 0]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [4, 5]);
}

#[test]
fn a_late_hello_moves_no_floor_but_what_it_says_was_given_is_remembered() {
    let mut bench = Bench::new();
    bench.hello(1, 2, &[held(1, 1, 5)]);
    let answers = bench.hello(1, 1, &[held(1, 3, 6)]);
    assert_eq!(answers, [state(1, 2)]);
    bench.hello(2, 1, &[held(1, 1, 5), held(2, 1, 1)]);
    // The process of epoch 1 is gone, or runs on a copy of the card: its floors are old, but
    // these rows exist, and its card may die before they come.
    bench.hello(1, 7, &[held(1, 4, 7)]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [0u64; 0]);
    bench.hello(2, 2, &[held(2, 1, 1)]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn what_a_rolled_back_card_has_lost_is_missing_once_the_rest_is_stored() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 3, 1, 9)]);
    // An older image of the card knows of five rows; 6 to 9 are nowhere any more.
    bench.hello(2, 1, &[held(1, 1, 5)]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [4, 5, 6, 7, 8, 9]);
    bench.acks(&[batch(1, 4, 2, 1, 5)]);
    bench.hello(2, 2, &[held(1, 1, 5)]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [0u64; 0]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [6, 7, 8, 9]);
    // They were on a copy of the card, which comes back.
    bench.acks(&[batch(1, 6, 1, 1, 9)]);
    assert_eq!(bench.seqs("waiting", 1, Stream::Readings), [7, 8, 9]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [0u64; 0]);
    // The epoch that is appended to has not ended: its last rises.
    bench.hello(1, 1, &[held(1, 1, 9)]);
    bench.acks(&[batch(2, 1, 1, 1, 3)]);
    bench.hello(2, 3, &[held(2, 1, 1)]);
    assert_eq!(bench.seqs("waiting", 2, Stream::Readings), [2, 3]);
}

#[test]
fn a_tombstone_of_what_never_came_shows_it_as_missing() {
    let mut bench = Bench::new();
    let answers = bench.hello(2, 1, &[held(1, 4, 3)]);
    assert_eq!(answers, [state(1, 3)]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [1, 2, 3]);
}

#[test]
fn each_incarnation_has_its_own_gen_in_every_answer() {
    let mut bench = Bench::new();
    let before = bench.store.identity().unwrap();
    let after = bench.store.restored(NOW).unwrap();
    assert_eq!(before.store, after.store);
    assert_ne!(before.r#gen, after.r#gen);
    let done = bench.take(&[batch(1, 1, 1, 1, 1), hello(1, 1, 1, 1, &[held(1, 1, 1)])]);
    for answer in &done.answers {
        let r#gen = match answer {
            Answer::SyncAcks(_, acks) => acks.r#gen,
            Answer::Command(..) => continue,
            Answer::State(_, state) => state.r#gen,
        };
        assert_eq!(r#gen, after.r#gen);
    }
    assert_eq!(done.answers.len(), 2);
}

#[test]
fn claims_beyond_all_measure_spoil_nobodys_view() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 2, 1, 5)]);
    // One hello of 18 pages: more rows than an i64 counts.
    let most = fieldpost_protocol::SEQ_MAX;
    for page in 1..=18u32 {
        let stream = |nth: u32| {
            let mut epoch = [9; 16];
            epoch[..4].copy_from_slice(&(page * 64 + nth).to_be_bytes());
            let key = StreamKey { epoch: Epoch(epoch), stream: Stream::Readings };
            HelloStream { key, floor: 1, last: most }
        };
        let streams: Vec<HelloStream> = (0..64).map(stream).collect();
        let done = bench.take(&[hello(2, 1, page, 18, &streams)]);
        assert_eq!(done.error, None);
    }
    let status = bench.query().status().unwrap();
    assert_eq!((status.waiting, status.missing, status.readings), (i64::MAX, 3, 2));
    assert_eq!(bench.query().devices().unwrap()[0].cell("waiting"), i64::MAX);
}

#[test]
fn a_late_hello_of_an_epoch_that_was_known_by_name_alone_supersedes_nobody() {
    let mut bench = Bench::new();
    // Epoch 1 never came through; its successor names it.
    bench.hello(2, 1, &[held(1, 1, 3), held(2, 1, 2)]);
    bench.acks(&[batch(2, 1, 1, 1, 2)]);
    bench.hello(1, 1, &[held(1, 1, 3)]);
    assert_eq!(bench.seqs("waiting", 2, Stream::Readings), [2]);
    assert_eq!(bench.seqs("missing", 2, Stream::Readings), [0u64; 0]);
}
