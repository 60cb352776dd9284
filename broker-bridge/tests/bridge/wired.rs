//! COMMIT, then the sync ack, then the puback: seen on the wire.

use std::time::{Duration, Instant};

use fieldpost_protocol::{BridgeStatus, SyncAcks, Topic};

use crate::support::*;
use crate::wire::*;

const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Takes what the bridge sends until the sync ack comes; returns its hi.
async fn sync_acked(wire: &mut Wire) -> u64 {
    loop {
        if let Seen::Published(Topic::SyncAcks(_), payload) = wire.next().await {
            return SyncAcks::decode(&payload).unwrap().acks[0].hi;
        }
    }
}

fn puback(pkid: u16) -> Seen {
    Seen::Puback("bridge-readings".into(), pkid)
}

/// Fills the window of `-out`: 96 messages without a puback, one of them `online`.
async fn fill_window(wire: &mut Wire) {
    for no in 1..=95 {
        wire.deliver("bridge-events", no, &hello(1, u64::from(no), 1, 1, &[held(1, 1, 9)]));
        while !matches!(wire.next().await, Seen::Published(Topic::State(_), _)) {}
    }
    while wire.next().await != Seen::Puback("bridge-events".into(), 95) {}
}

async fn committed(bench: &Bench, seqs: &[u64]) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.stored(1) != seqs {
        assert!(Instant::now() < deadline, "not committed");
        looks.tick().await;
    }
}

#[tokio::test]
async fn what_is_not_committed_in_time_is_pubacked_without_a_sync_ack_and_forgotten() {
    let bench = Bench::new();
    let mut wire = Wire::start().await;
    let bridge = Bridge::start(&bench, wire.port, Duration::from_secs(1));
    wire.online().await;
    let locker = bench.db();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The storage thread has the first in its hands; the second waits behind it.
    wire.deliver("bridge-readings", 1, &batch(1, 1, 2, 1, 9));
    wire.nothing_for(Duration::from_millis(200)).await;
    wire.deliver("bridge-readings", 2, &batch(1, 3, 2, 1, 9));
    // Between them it may say that it is offline.
    while wire.next().await != puback(1) {}
    while wire.next().await != puback(2) {}
    locker.execute_batch("COMMIT").unwrap();
    // Sent again by the gateway: everything goes on, and only now are rows 3 and 4 there.
    wire.deliver("bridge-readings", 3, &batch(1, 1, 2, 1, 9));
    while sync_acked(&mut wire).await < 2 {}
    while wire.next().await != puback(3) {}
    assert_eq!(bench.stored(1), [1, 2]);
    wire.deliver("bridge-readings", 4, &batch(1, 3, 2, 1, 9));
    assert_eq!(sync_acked(&mut wire).await, 4);
    while wire.next().await != puback(4) {}
    bridge.kill();
}

#[tokio::test]
async fn no_puback_goes_out_before_its_sync_ack_was_handed_over() {
    let bench = Bench::new();
    let mut wire = Wire::start().await;
    wire.be_silent();
    let bridge = Bridge::start(&bench, wire.port, TEN_SECONDS);
    wire.online().await;
    fill_window(&mut wire).await;
    wire.deliver("bridge-readings", 7, &batch(1, 1, 3, 1, 3));
    committed(&bench, &[1, 2, 3]).await;
    wire.nothing_for(Duration::from_millis(300)).await;
    wire.speak();
    assert_eq!(sync_acked(&mut wire).await, 3);
    assert_eq!(wire.next().await, puback(7));
    bridge.kill();
}

#[tokio::test]
async fn a_kill_between_commit_and_sync_ack_ends_in_a_sync_ack_of_the_repeated_batch() {
    let bench = Bench::new();
    let mut wire = Wire::start().await;
    wire.be_silent();
    let bridge = Bridge::start(&bench, wire.port, TEN_SECONDS);
    wire.online().await;
    fill_window(&mut wire).await;
    wire.deliver("bridge-readings", 7, &batch(1, 1, 3, 1, 3));
    committed(&bench, &[1, 2, 3]).await;
    bridge.kill();

    let mut wire = Wire::start().await;
    let bridge = Bridge::start(&bench, wire.port, TEN_SECONDS);
    wire.online().await;
    wire.deliver("bridge-readings", 8, &batch(1, 1, 3, 1, 3));
    assert_eq!(sync_acked(&mut wire).await, 3);
    assert_eq!(wire.next().await, puback(8));
    assert_eq!(bench.stored(1), [1, 2, 3]);
    bridge.kill();
}

#[tokio::test]
async fn a_transaction_that_does_not_end_withdraws_the_word_that_the_bridge_is_online() {
    let bench = Bench::new();
    let mut wire = Wire::start().await;
    // Storage waits 4 s for another writer before it says a word.
    let bridge = Bridge::start(&bench, wire.port, Duration::from_millis(500));
    wire.online().await;
    let locker = bench.db();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    wire.deliver("bridge-readings", 1, &batch(1, 1, 2, 1, 9));
    let said_offline = loop {
        if let Seen::Published(Topic::BridgeStatus(_), payload) = wire.next().await {
            break !BridgeStatus::from_json(&payload).unwrap().online;
        }
    };
    assert!(said_offline);
    assert!(begun.elapsed() < Duration::from_millis(3500), "only once storage has said a word");
    locker.execute_batch("COMMIT").unwrap();
    wire.online().await;
    bridge.kill();
}
