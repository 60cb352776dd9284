//! Letting go: only what storage has, by contiguous prefix, and not all at once.

use super::*;

#[test]
fn what_a_long_outage_left_is_let_go_in_pieces() {
    let mut bench = Bench::new();
    bench.settings.retention_bytes = 0;
    let mut outbox = bench.open();
    for thousand in 0..150 {
        append(&mut outbox, thousand * 1_000..(thousand + 1) * 1_000);
    }
    let key = outbox.streams().unwrap()[0].key;
    outbox.set_confirmed(&[(key, 150_000)]);
    let first = outbox.trim(NOW.wall_ms).unwrap();
    assert_eq!(first, Trimmed { more: true, readings: 128_000, events: 0 });
    assert_eq!(outbox.streams().unwrap()[0].floor, 128_001);
    let rest = outbox.trim(NOW.wall_ms).unwrap();
    assert_eq!(rest, Trimmed { more: false, readings: 22_000, events: 0 });
}

#[test]
fn only_what_is_acked_and_confirmed_is_trimmed_and_the_floor_follows() {
    let mut bench = Bench::new();
    bench.settings.retention_bytes = 0;
    let mut outbox = bench.open();
    append(&mut outbox, 0..3_000);
    let key = outbox.streams().unwrap()[0].key;
    assert_eq!(outbox.trim(NOW.wall_ms).unwrap(), Trimmed::default());
    outbox.set_acked(&[(key, 2_500)]);
    assert_eq!(outbox.trim(NOW.wall_ms).unwrap(), Trimmed::default(), "no state has listed them");
    outbox.set_confirmed(&[(key, 2_500)]);
    assert_eq!(
        outbox.trim(NOW.wall_ms).unwrap(),
        Trimmed { readings: 2_000, ..Trimmed::default() }
    );
    let info = outbox.streams().unwrap()[0];
    assert_eq!((info.floor, info.last, info.acked), (2_001, 3_000, 2_500));
    outbox.trust(trusted(3, Some(2))).unwrap();
    outbox.set_acked(&[(key, 3_000)]);
    assert_eq!(
        outbox.trim(NOW.wall_ms).unwrap(),
        Trimmed::default(),
        "another gen has confirmed nothing"
    );
}
