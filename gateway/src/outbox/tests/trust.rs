//! Which storage is trusted, and what its word is worth.

use super::*;

#[test]
fn the_trusted_storage_and_acked_survive_an_orderly_end() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    let key = outbox.streams().unwrap()[0].key;
    outbox.trust(trusted(3, Some(1))).unwrap();
    outbox.set_acked(&[(key, 7)]);
    outbox.close().unwrap();
    assert!(!schema::beside(&bench.settings.path, "-wal").exists(), "folded into the file");
    let outbox = bench.open();
    assert_eq!(outbox.trusted(), Some(trusted(3, Some(1))));
    assert_eq!(outbox.streams().unwrap()[0].acked, 7);
}

#[test]
fn what_another_storage_or_gen_has_acknowledged_counts_for_nothing_in_a_new_one() {
    for other in [trusted(4, None), trusted(3, Some(2))] {
        let bench = Bench::new();
        let mut outbox = bench.open();
        append(&mut outbox, 0..10);
        let key = outbox.streams().unwrap()[0].key;
        outbox.trust(trusted(3, Some(1))).unwrap();
        outbox.set_acked(&[(key, 7)]);
        outbox.trust(trusted(3, Some(1))).unwrap();
        assert_eq!(outbox.streams().unwrap()[0].acked, 7, "the same");
        outbox.close().unwrap();
        let mut outbox = bench.open();
        outbox.trust(other).unwrap();
        assert_eq!(outbox.streams().unwrap()[0].acked, 0, "of this one nothing is known yet");
        drop(outbox);
        let outbox = bench.open();
        assert_eq!(outbox.trusted(), Some(other));
        assert_eq!(outbox.streams().unwrap()[0].acked, 0, "on disk, too");
    }
}

#[test]
fn a_gen_that_the_disk_refuses_is_written_down_later() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    let key = outbox.streams().unwrap()[0].key;
    outbox.trust(trusted(3, Some(1))).unwrap();
    outbox.set_acked(&[(key, 7)]);
    outbox.save_acked().unwrap();
    let refuse =
        "CREATE TEMP TRIGGER full BEFORE INSERT ON meta BEGIN SELECT raise(ABORT, 'full'); END";
    outbox.conn.execute_batch(refuse).unwrap();
    outbox.trust(trusted(3, Some(2))).unwrap_err();
    assert_eq!(outbox.streams().unwrap()[0].acked, 0);
    outbox.conn.execute_batch("DROP TRIGGER temp.full").unwrap();
    outbox.set_acked(&[]);
    drop(outbox);
    let outbox = bench.open();
    assert_eq!(outbox.trusted(), Some(trusted(3, Some(2))));
    assert_eq!(outbox.streams().unwrap()[0].acked, 0);
}

#[test]
fn a_seal_never_writes_what_a_gen_acked_beside_another_gen() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    let key = outbox.streams().unwrap()[0].key;
    outbox.trust(trusted(3, Some(1))).unwrap();
    let refuse =
        "CREATE TEMP TRIGGER full BEFORE INSERT ON meta BEGIN SELECT raise(ABORT, 'full'); END";
    outbox.conn.execute_batch(refuse).unwrap();
    outbox.trust(trusted(3, Some(2))).unwrap_err();
    outbox.set_acked(&[(key, 9)]);
    append(&mut outbox, 10..100);
    drop(outbox);
    let outbox = bench.open();
    assert_eq!(
        (outbox.trusted(), outbox.streams().unwrap()[0].acked),
        (Some(trusted(3, Some(1))), 0)
    );
}
