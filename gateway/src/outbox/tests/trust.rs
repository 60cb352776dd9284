//! Which storage is trusted, and what its word is worth.

use super::*;

#[test]
fn the_pinned_store_and_acked_survive_an_orderly_end() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    let key = outbox.streams().unwrap()[0].key;
    outbox.set_acked(&[(key, 7)]);
    outbox.pin_store(StoreId([3; 16])).unwrap();
    outbox.close().unwrap();
    assert!(!schema::beside(&bench.settings.path, "-wal").exists(), "folded into the file");
    let outbox = bench.open();
    assert_eq!(outbox.pinned_store().unwrap(), Some(StoreId([3; 16])));
    assert_eq!(outbox.streams().unwrap()[0].acked, 7);
}

#[test]
fn what_another_storage_has_acknowledged_counts_for_nothing_in_a_new_one() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    let key = outbox.streams().unwrap()[0].key;
    outbox.pin_store(StoreId([3; 16])).unwrap();
    outbox.set_acked(&[(key, 7)]);
    outbox.pin_store(StoreId([3; 16])).unwrap();
    assert_eq!(outbox.streams().unwrap()[0].acked, 7, "the same");
    outbox.close().unwrap();
    let mut outbox = bench.open();
    outbox.pin_store(StoreId([4; 16])).unwrap();
    assert_eq!(outbox.streams().unwrap()[0].acked, 0);
    drop(outbox);
    assert_eq!(bench.open().streams().unwrap()[0].acked, 0, "on disk, too");
}

#[test]
fn a_new_gen_makes_no_row_make_room() {
    let bench = Bench::new();
    let mut outbox = bench.open();
    append(&mut outbox, 0..10);
    let key = outbox.streams().unwrap()[0].key;
    outbox.set_confirmed(Some(&[(key, 7)]));
    outbox.set_confirmed(None);
    assert_eq!(outbox.streams().unwrap()[0].acked, 0, "of this gen nothing is known yet");
}
