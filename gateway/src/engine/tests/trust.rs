//! Which storage is believed, in which gen, and from when on.

use super::*;

/// Of an outbox that heard `r#gen` last; one stream to a page.
fn bench(streams: Vec<StreamInfo>, r#gen: Gen) -> Bench {
    let settings = Settings { hello_streams_max: 1, ..Settings::default() };
    let engine = Engine::new(settings, epoch(9), streams, Some(trusted(r#gen)), 1);
    Bench { engine, nonces: 0 }
}

#[test]
fn what_another_gen_has_acknowledged_counts_for_nothing_until_this_one_lists_it() {
    let streams = vec![info(readings(3), 1, 5, 5), info(readings(4), 1, 7, 7)];
    let mut bench = bench(streams, Gen([3; 16]));
    bench.engine.handle_connected(secs(0));
    let pages = [bench.hello(secs(0)), bench.hello(secs(0))];
    bench.answer(secs(1), &pages[0], |_| 5);
    assert!(bench.notices().contains(&Notice::Trust(trusted(GEN))));
    assert_eq!((bench.acked(readings(3)), bench.acked(readings(4))), (5, 0));
    assert_eq!(bench.send_all(secs(1)), [], "not before the second page is answered");
    bench.answer(secs(2), &pages[1], |_| 7);
    assert_eq!((bench.acked(readings(3)), bench.acked(readings(4))), (5, 7));
    assert_eq!(bench.send_all(secs(2)), []);
}

#[test]
fn what_the_same_gen_has_acknowledged_counts_after_a_new_start() {
    let streams = vec![info(readings(3), 1, 5, 5), info(readings(4), 1, 7, 7)];
    let mut bench = bench(streams, GEN);
    bench.engine.handle_connected(secs(0));
    let page = bench.hello(secs(0));
    bench.answer(secs(1), &page, |_| 5);
    assert_eq!((bench.acked(readings(3)), bench.acked(readings(4))), (5, 7));
    assert!(!bench.notices().contains(&Notice::Trust(trusted(GEN))), "it is written down");
}

#[test]
fn a_restore_between_two_pages_asks_the_first_again() {
    let streams: Vec<StreamInfo> = (0..65).map(|i| info(readings(i), 1, 1, 0)).collect();
    let mut bench = Bench::new(streams);
    bench.engine.handle_connected(secs(0));
    let pages: Vec<Hello> = (0..2).map(|_| bench.hello(secs(0))).collect();
    bench.answer(secs(0), &pages[0], |_| 1);
    let other = Gen([7; 16]);
    bench.engine.handle_state(secs(1), &state(&pages[1], other, |_| 0));
    assert!(bench.notices().contains(&Notice::Trust(trusted(other))));
    let again = bench.hello(secs(1));
    assert_eq!(again.page, 1);
    bench.engine.handle_state(secs(1), &state(&again, other, |_| 0));
    assert_eq!(bench.acked(readings(0)), 0, "the new gen has nothing");
}
