//! Rows that are gone from the middle of a stream.

use super::*;
use crate::outbox::Hole;

fn hole(first: Seq, last: Seq) -> Hole {
    Hole { key: readings(1), first, last, unacked: true }
}

/// A gateway that has started with rows 1 to `last`, and holes among them.
fn started(last: Seq, acked: Seq, holes: &[Hole]) -> Bench {
    let streams = vec![info(readings(1), 1, last, acked)];
    let mut engine = Engine::new(Settings::default(), epoch(9), streams, Some(trusted(GEN)), 1);
    engine.handle_holes(holes);
    Bench { engine, nonces: 0 }
}

/// One stream to a page.
fn two_pages(streams: Vec<StreamInfo>) -> Bench {
    let settings = Settings { hello_streams_max: 1, ..Settings::default() };
    Bench { engine: Engine::new(settings, epoch(9), streams, Some(trusted(GEN)), 1), nonces: 0 }
}

impl Bench {
    fn floor_and_acked(&self) -> (Seq, Seq) {
        (self.engine.floor_of(readings(1)).unwrap(), self.acked(readings(1)))
    }
}

#[test]
fn what_stands_before_a_hole_is_acked_first_and_then_the_rest_goes_on_at_once() {
    let mut bench = started(5_000, 0, &[hole(1_001, 2_000), hole(3_001, 4_000)]);
    bench.connect(secs(0));
    assert_eq!(bench.send_all(secs(0)), [(readings(1), 1, 1_000)]);
    bench.sync_ack(secs(1), readings(1), 1, 999);
    assert_eq!(bench.floor_and_acked(), (1, 999));
    bench.sync_ack(secs(1), readings(1), 1, 1_000);
    assert_eq!(bench.floor_and_acked(), (2_001, 2_000));
    assert_eq!(bench.send_all(secs(1)), [(readings(1), 2_001, 3_000)]);
    bench.sync_ack(secs(2), readings(1), 2_001, 3_000);
    assert_eq!(bench.floor_and_acked(), (4_001, 4_000));
    assert_eq!(bench.send_all(secs(2)), [(readings(1), 4_001, 5_000)]);
    bench.sync_ack(secs(3), readings(1), 4_001, 5_000);
    assert_eq!((bench.floor_and_acked(), bench.engine.waiting()), ((4_001, 5_000), 0));
}

#[test]
fn after_a_start_no_step_is_taken_before_storage_has_said_what_it_has() {
    let mut bench = started(3_000, 1_000, &[hole(1_001, 2_000)]);
    bench.engine.handle_connected(secs(0));
    assert_eq!(bench.floor_and_acked(), (1, 1_000));
    let hello = bench.hello(secs(0));
    assert_eq!(hello.streams[0].floor, 1);
    bench.answer(secs(0), &hello, |_| 0);
    assert_eq!(bench.send_all(secs(0)), [(readings(1), 1, 1_000)], "it was restored from a backup");

    let mut bench = started(3_000, 3_000, &[hole(1_001, 2_000)]);
    bench.engine.handle_connected(secs(0));
    let hello = bench.hello(secs(0));
    bench.answer(secs(0), &hello, |_| 1_000);
    assert_eq!(bench.floor_and_acked(), (2_001, 2_000));
    assert_eq!(bench.send_all(secs(0)), [(readings(1), 2_001, 3_000)]);
}

#[test]
fn a_hole_whose_rows_are_stored_is_no_hole() {
    let mut bench = started(3_000, 0, &[hole(1_001, 2_000)]);
    bench.engine.handle_connected(secs(0));
    let hello = bench.hello(secs(0));
    bench.answer(secs(0), &hello, |_| 2_000);
    assert_eq!(bench.floor_and_acked(), (1, 2_000));
    assert_eq!(bench.send_all(secs(0)), [(readings(1), 2_001, 3_000)]);
}

#[test]
fn another_gen_is_sent_again_what_stands_before_a_hole() {
    let mut bench = started(3_000, 0, &[hole(1_001, 2_000)]);
    bench.connect(secs(0));
    bench.send_all(secs(0));
    bench.sync_ack(secs(1), readings(1), 1, 1_000);
    bench.send_all(secs(1));
    bench.sync_ack(secs(2), readings(1), 2_001, 3_000);
    assert_eq!(bench.floor_and_acked(), (2_001, 3_000));

    let restored = Gen([7; 16]);
    bench.engine.handle_connected(secs(3));
    let hello = bench.hello(secs(3));
    assert_eq!(hello.streams[0].floor, 2_001);
    bench.engine.handle_state(secs(3), &state(&hello, restored, |_| 3_000));
    assert_eq!(bench.floor_and_acked(), (1, 0), "it was not asked for what stands before");
    assert!(bench.notices().contains(&Notice::Confirmed(vec![])));
    let hello = bench.hello(secs(3));
    assert_eq!(hello.streams[0].floor, 1);
    bench.engine.handle_state(secs(3), &state(&hello, restored, |_| 0));
    assert_eq!(bench.send_all(secs(3)), [(readings(1), 1, 1_000)]);
    bench.engine.handle_sync_acks(secs(4), &acks(STORE, restored, readings(1), 1, 1_000));
    assert_eq!(bench.floor_and_acked(), (2_001, 2_000));
}

#[test]
fn a_hole_found_on_the_way_is_stepped_over_where_all_before_it_is_acked() {
    let mut bench = started(1_000, 0, &[]);
    bench.connect(secs(0));
    bench.send_all(secs(0));
    bench.sync_ack(secs(1), readings(1), 1, 1_000);
    bench.engine.handle_appended(secs(2), readings(1), 2_500);
    assert_eq!(bench.poll(secs(2)).and_then(from), Some(1_001));
    bench.engine.handle_holes(&[hole(1_001, 1_500)]);
    assert_eq!(bench.floor_and_acked(), (1_501, 1_500));
    assert_eq!(bench.poll(secs(2)).and_then(from), Some(1_501));
}

fn from(send: Send) -> Option<Seq> {
    match send {
        Send::Batch { from, .. } => Some(from),
        Send::Hello(_) => None,
    }
}

#[test]
fn a_hole_at_the_end_is_told_of_by_a_hello_since_no_batch_follows() {
    // The word of the last commit has not come yet.
    let mut bench = started(1_500, 0, &[hole(1_001, 2_000)]);
    bench.connect(secs(0));
    bench.send_all(secs(0));
    bench.sync_ack(secs(1), readings(1), 1, 1_000);
    assert_eq!(bench.floor_and_acked(), (2_001, 2_000));
    assert_eq!(bench.poll(secs(1)), None);
    assert_eq!(bench.engine.poll_timeout(), Some(secs(10)));
    let hello = bench.hello(secs(10));
    assert_eq!((hello.streams[0].floor, hello.streams[0].last), (2_001, 2_000));
    bench.answer(secs(10), &hello, |_| 2_000);
    assert_eq!(bench.poll(secs(30)), None, "told once");
}

#[test]
fn no_step_is_taken_on_a_stream_whose_page_is_not_answered() {
    let mut bench =
        two_pages(vec![info(readings(1), 1, 3_000, 0), info(readings(2), 1, 3_000, 1_000)]);
    let holes = [
        Hole { key: readings(1), first: 1, last: 1_000, unacked: true },
        Hole { key: readings(2), first: 1_001, last: 2_000, unacked: true },
    ];
    bench.engine.handle_connected(secs(0));
    let one = bench.hello(secs(0));
    let two = bench.hello(secs(0));
    bench.answer(secs(0), &one, |_| 0);
    assert_eq!(bench.poll(secs(0)).and_then(from), Some(1));
    // It is gone: every hole is looked for.
    bench.engine.handle_holes(&holes);
    // Storage was put back from a backup, and nobody said so.
    bench.answer(secs(1), &two, |_| 0);
    let floor = bench.engine.floor_of(readings(2)).unwrap();
    assert_eq!(
        (floor, bench.acked(readings(2))),
        (1, 0),
        "rows 1 to 1000 are held, and have to be sent again"
    );
}

#[test]
fn no_sync_ack_takes_a_step_before_the_state_of_its_page() {
    let mut bench =
        two_pages(vec![info(readings(1), 1, 10, 0), info(readings(2), 1, 3_000, 1_900)]);
    let hole = Hole { key: readings(2), first: 2_001, last: 2_500, unacked: true };
    bench.engine.handle_holes(&[hole]);
    bench.engine.handle_connected(secs(0));
    let one = bench.hello(secs(0));
    let two = bench.hello(secs(0));
    bench.answer(secs(0), &one, |_| 0);
    // A batch of the process before arrives late at a storage that was put back in silence.
    bench.sync_ack(secs(1), readings(2), 1_501, 2_000);
    bench.answer(secs(1), &two, |_| 0);
    let floor = bench.engine.floor_of(readings(2)).unwrap();
    assert_eq!(
        (floor, bench.acked(readings(2))),
        (1, 0),
        "rows 1 to 1500 are held, and have to be sent again"
    );
}

#[test]
fn a_step_is_told_of_by_a_hello_so_that_storage_knows_what_an_ended_epoch_still_holds() {
    let mut bench = started(3_000, 0, &[hole(1_001, 2_000)]);
    bench.connect(secs(0));
    bench.send_all(secs(0));
    bench.sync_ack(secs(1), readings(1), 1, 1_000);
    bench.send_all(secs(1));
    bench.sync_ack(secs(2), readings(1), 2_001, 3_000);
    let hello = bench.hello(secs(10));
    assert_eq!((hello.streams[0].floor, hello.streams[0].last), (2_001, 3_000));
}
