//! A device of very many epochs costs no more than another.

use std::time::{Duration, Instant};

use fieldpost_bridge::store::sqlite::SqliteStore;
use fieldpost_protocol::Stream;

use crate::support::*;

/// Makes epochs of the device as they lie there years later: superseded, stored, not held.
fn add_epochs(bench: &Bench, count: u64) {
    let sql = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO epoch (device, epoch, base, clock, superseded) \
         SELECT 1, randomblob(16), 0, 'ntp', 1 FROM n; \
         INSERT INTO stream (epoch, stream, floor, floor_by_absence, claimed, coverage) \
         SELECT ref, 'readings', 10, 0, 9, '[[1,9]]' FROM epoch WHERE superseded = 1"
    );
    bench.db().execute_batch(&sql).unwrap();
}

/// The quickest of several: the machine may be busy with something else, too.
fn quickest(bench: &mut Bench, mut work: impl FnMut(&mut Bench, u64)) -> Duration {
    let times = (1..=15).map(|no| {
        let begun = Instant::now();
        work(bench, no);
        begun.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn what_a_hello_and_poison_cost_does_not_grow_with_the_epochs_of_the_past() {
    let [few, many] = [100, 300_000].map(|epochs| {
        let mut bench = Bench::new();
        bench.acks(&[batch(1, 1, 2, 1, 9)]);
        add_epochs(&bench, epochs);
        let hello = quickest(&mut bench, |bench, no| {
            assert_eq!(bench.hello(1, no, &[held(1, 1, 9)]).len(), 1);
        });
        let another = quickest(&mut bench, |bench, no| {
            assert_eq!(bench.hello(10 + no as u8, 1, &[held(1, 1, 9)]).len(), 1);
        });
        let poison = quickest(&mut bench, |bench, no| {
            assert_eq!(bench.acks(&[poison(1, 100 + 2 * no, 1, 1, 500)]).len(), 1);
        });
        println!(
            "{epochs} epochs: a hello {hello:?}, of another epoch {another:?}, poison {poison:?}"
        );
        [hello, another, poison]
    });
    for (few, many) in few.iter().zip(many) {
        // Or what a busy disk takes for the commit alone.
        let most = (*few * 5).max(Duration::from_millis(10));
        assert!(many < most, "{few:?} with 100 epochs, {many:?} with 300,000");
    }
}

#[test]
fn a_storage_of_an_earlier_program_learns_what_is_held() {
    let mut bench = Bench::new();
    bench.acks(&[batch(1, 1, 2, 1, 5), batch(2, 1, 2, 1, 2), batch(3, 3, 1, 3, 4)]);
    let earlier = "DROP TRIGGER stream_held_now; DROP TRIGGER stream_held_no_more; DROP TABLE held; \
                   DROP INDEX epoch_not_superseded; DROP INDEX epoch_named; \
                   CREATE INDEX stream_held ON stream (epoch) WHERE floor <= claimed";
    bench.db().execute_batch(earlier).unwrap();
    bench.store = SqliteStore::open(&bench.path()).unwrap();
    bench.hello(4, 1, &[held(3, 3, 4)]);
    assert_eq!(bench.seqs("missing", 1, Stream::Readings), [3, 4, 5]);
    assert_eq!(bench.seqs("waiting", 3, Stream::Readings), [4]);
    // One from between the two.
    bench.db().execute_batch("DROP INDEX epoch_named").unwrap();
    bench.store = SqliteStore::open(&bench.path()).unwrap();
    bench.hello(5, 1, &[held(3, 3, 4)]);
    SqliteStore::open(&bench.path()).unwrap();
}
