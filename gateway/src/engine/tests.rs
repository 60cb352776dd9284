//! The engine with its storage played by hand, in virtual time.

use fieldpost_protocol::{Ack, HELLO_PAGES_MAX, Hello, StateStream};

use super::*;

mod hole_histories;
mod holes;
mod random;
mod requests;
mod trust;

const STORE: StoreId = StoreId([5; 16]);
const GEN: Gen = Gen([6; 16]);

fn trusted(r#gen: Gen) -> Trusted {
    Trusted { store: STORE, r#gen: Some(r#gen) }
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(1_000 + s)
}

fn epoch(n: u8) -> Epoch {
    Epoch([n; 16])
}

fn readings(n: u8) -> StreamKey {
    StreamKey { epoch: epoch(n), stream: Stream::Readings }
}

fn events(n: u8) -> StreamKey {
    StreamKey { epoch: epoch(n), stream: Stream::Events }
}

fn info(key: StreamKey, floor: Seq, last: Seq, acked: Seq) -> StreamInfo {
    StreamInfo { key, floor, last, acked }
}

/// An engine with the storage it talks to played by hand.
struct Bench {
    engine: Engine,
    nonces: u8,
}

impl Bench {
    fn new(streams: Vec<StreamInfo>) -> Self {
        Bench { engine: Engine::new(Settings::default(), epoch(9), streams, None, 1), nonces: 0 }
    }

    fn poll(&mut self, now: Duration) -> Option<Send> {
        self.nonces = self.nonces.wrapping_add(1);
        let nonce = Nonce([self.nonces; 16]);
        self.engine.poll_send(now, || nonce)
    }

    fn hello(&mut self, now: Duration) -> Hello {
        match self.poll(now) {
            Some(Send::Hello(hello)) => hello,
            other => panic!("no hello, but {other:?}"),
        }
    }

    fn answer(&mut self, now: Duration, hello: &Hello, hi: impl Fn(StreamKey) -> Seq) {
        self.engine.handle_state(now, &state(hello, GEN, hi));
    }

    /// Connects, and has storage answer that it has nothing.
    fn connect(&mut self, now: Duration) {
        self.engine.handle_connected(now);
        let hello = self.hello(now);
        self.answer(now, &hello, |_| 0);
    }

    /// Sends every batch that may leave, as rows (key, first, last).
    fn send_all(&mut self, now: Duration) -> Vec<(StreamKey, Seq, Seq)> {
        let mut sent = Vec::new();
        while let Some(send) = self.poll(now) {
            let Send::Batch { key, from, rows_max } = send else { continue };
            let last = self.engine.flows.iter().find(|flow| flow.key == key).unwrap().last;
            let rows = if key.stream == Stream::Events { 1 } else { rows_max as u64 };
            let n = (last - from + 1).min(rows);
            self.engine.handle_sent(now, key, from, n, 1_000);
            sent.push((key, from, from + n - 1));
        }
        sent
    }

    fn sync_ack(&mut self, now: Duration, key: StreamKey, lo: Seq, hi: Seq) {
        self.engine.handle_sync_acks(now, &acks(STORE, GEN, key, lo, hi));
    }

    fn acked(&self, key: StreamKey) -> Seq {
        self.engine.flows.iter().find(|flow| flow.key == key).unwrap().acked
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.engine.poll_notice()).collect()
    }
}

fn state(hello: &Hello, r#gen: Gen, hi: impl Fn(StreamKey) -> Seq) -> State {
    let listed = |stream: &fieldpost_protocol::HelloStream| StateStream {
        key: stream.key,
        hi: hi(stream.key),
    };
    State {
        v: 1,
        nonce: hello.nonce,
        attempt: hello.attempt,
        page: hello.page,
        versions: vec![1],
        store: STORE,
        r#gen,
        time: 1_795_000_000_000,
        streams: hello.streams.iter().map(listed).collect(),
    }
}

fn acks(store: StoreId, r#gen: Gen, key: StreamKey, lo: Seq, hi: Seq) -> SyncAcks {
    SyncAcks { v: 1, store, r#gen, acks: vec![Ack { key, lo, hi }] }
}

#[test]
fn nothing_is_sent_before_a_state_has_listed_the_stream() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 2_500, 0)]);
    assert_eq!(bench.poll(secs(0)), None, "offline");
    bench.engine.handle_connected(secs(0));
    let hello = bench.hello(secs(0));
    assert_eq!(
        hello.streams,
        [fieldpost_protocol::HelloStream { key: readings(1), floor: 1, last: 2_500 }]
    );
    assert_eq!(bench.send_all(secs(1)), []);
    bench.answer(secs(1), &hello, |_| 1_000);
    assert_eq!(bench.send_all(secs(1)), [(readings(1), 1_001, 2_000), (readings(1), 2_001, 2_500)]);
    assert!(bench.notices().contains(&Notice::Trust(trusted(GEN))));
}

#[test]
fn a_sync_ack_moves_acked_forward_and_a_state_alone_moves_it_back() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 3_000, 0)]);
    bench.connect(secs(0));
    bench.send_all(secs(0));
    bench.sync_ack(secs(1), readings(1), 1, 2_000);
    assert_eq!(bench.acked(readings(1)), 2_000);
    bench.sync_ack(secs(2), readings(1), 1, 1_000);
    assert_eq!(bench.acked(readings(1)), 2_000);
    // A sync ack behind acked asks for a hello, ten seconds after the last one.
    assert_eq!(bench.poll(secs(2)), None);
    let hello = bench.hello(secs(12));
    bench.answer(secs(12), &hello, |_| 500);
    assert_eq!(bench.acked(readings(1)), 500);
    assert_eq!(bench.send_all(secs(12)).first(), Some(&(readings(1), 501, 1_500)));
}

#[test]
fn impossible_sync_acks_are_dropped_and_counted() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 100, 0)]);
    bench.sync_ack(secs(0), readings(1), 1, 50);
    bench.engine.handle_connected(secs(0));
    bench.sync_ack(secs(0), readings(1), 1, 50);
    assert_eq!(bench.acked(readings(1)), 0, "before a state of this connection");
    let hello = bench.hello(secs(0));
    bench.answer(secs(0), &hello, |_| 10);
    bench.sync_ack(secs(1), readings(1), 1, 101);
    bench.sync_ack(secs(1), readings(1), 12, 50);
    bench.engine.handle_sync_acks(secs(1), &acks(StoreId([1; 16]), GEN, readings(1), 1, 50));
    bench.sync_ack(secs(1), readings(2), 1, 50);
    assert_eq!(bench.acked(readings(1)), 10);
    assert_eq!(bench.engine.dropped.impossible, 3);
    assert_eq!(bench.engine.dropped.other_store, 3, "two before any store was pinned");
}

#[test]
fn a_state_with_another_nonce_or_of_another_store_changes_nothing() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 100, 60)]);
    bench.engine.handle_connected(secs(0));
    let hello = bench.hello(secs(0));
    let mut foreign = state(&hello, GEN, |_| 100);
    foreign.nonce = Nonce([77; 16]);
    bench.engine.handle_state(secs(1), &foreign);
    assert_eq!((bench.acked(readings(1)), bench.engine.dropped.states), (60, 1));
    bench.answer(secs(1), &hello, |_| 70);
    bench.answer(secs(1), &hello, |_| 10);
    assert_eq!(
        (bench.acked(readings(1)), bench.engine.dropped.states),
        (70, 2),
        "the page was answered"
    );

    bench.engine.handle_connected(secs(2));
    let hello = bench.hello(secs(2));
    let other = State { store: StoreId([1; 16]), ..state(&hello, GEN, |_| 100) };
    bench.engine.handle_state(secs(3), &other);
    assert_eq!(bench.acked(readings(1)), 70);
    assert!(bench.notices().contains(&Notice::OtherStore(StoreId([1; 16]))));
}

#[test]
fn acked_stays_between_floor_and_last_whatever_a_state_says() {
    for (hi, acked) in [(0, 40), (39, 40), (1_000, 100)] {
        let mut bench = Bench::new(vec![info(readings(1), 41, 100, 60)]);
        bench.engine.handle_connected(secs(0));
        let hello = bench.hello(secs(0));
        bench.answer(secs(0), &hello, |_| hi);
        assert_eq!(bench.acked(readings(1)), acked, "hi {hi}");
    }
}

#[test]
fn without_progress_everything_after_acked_is_sent_again_ever_more_rarely() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 2_000, 0)]);
    bench.connect(secs(0));
    assert_eq!(bench.send_all(secs(0)).len(), 2);
    let mut gaps = Vec::new();
    let mut last = 0;
    for second in 1..2_000 {
        if !bench.send_all(secs(second)).is_empty() {
            gaps.push(second - last);
            last = second;
        }
    }
    assert!(gaps.len() < 20, "{gaps:?}");
    assert!(gaps[0] >= 5 && gaps.iter().all(|gap| *gap <= 366), "{gaps:?}");
    assert!(gaps.windows(2).take(5).all(|pair| pair[1] > pair[0]), "{gaps:?}");
}

#[test]
fn a_stream_that_makes_no_progress_is_halved_and_newer_epochs_go_on() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 5_000, 0), info(readings(2), 1, 10, 0)]);
    bench.connect(secs(0));
    let (mut newer, mut sizes, mut stuck) = (false, Vec::new(), false);
    for second in 0..20_000 {
        for (key, first, last) in bench.send_all(secs(second)) {
            if key == readings(2) {
                newer = true;
                bench.sync_ack(secs(second), key, 1, last);
            } else {
                sizes.push(last - first + 1);
            }
        }
        stuck |= bench.notices().contains(&Notice::Stuck { key: readings(1), seq: 1 });
    }
    assert!(newer && stuck);
    assert_eq!(sizes.last(), Some(&1));
    assert!(sizes.contains(&500) && sizes.contains(&250));
    bench.sync_ack(secs(20_000), readings(1), 1, 1);
    assert_eq!(
        bench.send_all(secs(20_001)).first(),
        Some(&(readings(1), 2, 3)),
        "then it grows again"
    );
}

#[test]
fn events_go_first_and_have_places_of_their_own() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 1_000_000, 0)]);
    bench.connect(secs(0));
    assert_eq!(bench.send_all(secs(0)).len(), WINDOW_BATCHES - WINDOW_EVENTS);
    bench.engine.handle_appended(secs(0), events(9), 3);
    let sent = bench.send_all(secs(0));
    assert_eq!(sent, [(events(9), 1, 1), (events(9), 2, 2), (events(9), 3, 3)]);
}

#[test]
fn a_hello_of_many_streams_is_paged_and_each_stream_waits_for_its_page() {
    let streams: Vec<StreamInfo> = (0..130).map(|i| info(readings(i), 1, 1, 0)).collect();
    let mut bench = Bench::new(streams);
    bench.engine.handle_connected(secs(0));
    let pages: Vec<Hello> = (0..3).map(|_| bench.hello(secs(0))).collect();
    assert_eq!(pages.iter().map(|page| page.streams.len()).collect::<Vec<_>>(), [64, 64, 2]);
    bench.engine.handle_appended(secs(0), readings(200), 5);
    bench.answer(secs(0), &pages[1], |_| 0);
    let sent = bench.send_all(secs(0));
    assert_eq!((sent.len(), sent[0].0), (64, readings(64)));
    // Only the pages without an answer are asked again, with the same nonce.
    let again: Vec<Hello> = (0..2).map(|_| bench.hello(secs(6))).collect();
    assert_eq!((again[0].page, again[1].page, again[0].attempt), (1, 3, 2));
    assert_eq!(again[0].nonce, pages[0].nonce);
    bench.answer(secs(6), &again[0], |_| 1);
    bench.answer(secs(6), &again[1], |_| 1);
    assert!(
        bench.send_all(secs(6)).contains(&(readings(200), 1, 5)),
        "a stream that no page listed"
    );
}

#[test]
fn a_bridge_of_another_instance_is_greeted_within_ten_seconds() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    let status = |instance| BridgeStatus {
        online: true,
        instance: Instance([instance; 16]),
        store: STORE,
        r#gen: GEN,
        version: None,
        time: None,
    };
    bench.engine.handle_bridge_status(secs(1), &status(1));
    assert_eq!(
        bench.poll(secs(12)),
        None,
        "the retained status of the bridge that has just answered"
    );
    bench.engine.handle_bridge_status(secs(20), &status(2));
    assert!(matches!(bench.poll(secs(31)), Some(Send::Hello(_))));
}

#[test]
fn a_bridge_that_reads_another_version_gets_nothing() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 10, 0)]);
    bench.engine.handle_connected(secs(0));
    let hello = bench.hello(secs(0));
    bench
        .engine
        .handle_state(secs(0), &State { versions: vec![2, 3], ..state(&hello, GEN, |_| 0) });
    assert_eq!(bench.send_all(secs(60)), []);
    assert!(bench.notices().contains(&Notice::NoCommonVersion(vec![2, 3])));
    assert!(bench.engine.poll_timeout().unwrap() > secs(60), "and no busy loop");
}

#[test]
fn a_few_rows_wait_for_the_publish_interval_and_a_full_batch_does_not() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    bench.engine.handle_appended(secs(10), readings(9), 1);
    assert_eq!(bench.send_all(secs(10)).len(), 1, "the first after a pause");
    bench.engine.handle_appended(secs(10), readings(9), 5);
    assert_eq!(bench.send_all(secs(10)), []);
    assert_eq!(bench.engine.poll_timeout(), Some(secs(11)));
    bench.engine.handle_appended(secs(10), readings(9), 1_200);
    assert_eq!(bench.send_all(secs(10)).len(), 2);
}

#[test]
fn an_hour_without_a_reason_brings_a_hello() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 1, 1)]);
    bench.engine.handle_connected(secs(0));
    let hello = bench.hello(secs(0));
    bench.answer(secs(0), &hello, |_| 1);
    assert_eq!(bench.poll(secs(3_000)), None);
    assert!(matches!(bench.poll(secs(4_000)), Some(Send::Hello(_))));
}

#[test]
fn an_event_that_is_stored_is_no_progress_of_the_readings_that_wait() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    assert_eq!(bench.engine.no_progress_since(), None, "nothing waits");
    bench.engine.handle_appended(secs(1), readings(9), 1);
    bench.send_all(secs(1));
    bench.engine.handle_appended(secs(60), events(9), 1);
    bench.send_all(secs(60));
    bench.sync_ack(secs(61), events(9), 1, 1);
    assert_eq!(bench.engine.no_progress_since(), Some(secs(1)));
    bench.sync_ack(secs(62), readings(9), 1, 1);
    assert_eq!(bench.engine.no_progress_since(), None);

    // And the other way round: an event that waits is not hidden by readings that get on.
    bench.engine.handle_appended(secs(70), events(9), 2);
    bench.engine.handle_appended(secs(80), readings(9), 2);
    bench.sync_ack(secs(81), readings(9), 1, 2);
    assert_eq!(bench.engine.no_progress_since(), Some(secs(70)));
}

#[test]
fn what_could_not_be_read_is_asked_for_again_although_all_in_flight_was_acked() {
    let mut bench = Bench::new(vec![info(readings(1), 1, 2_000, 0)]);
    bench.connect(secs(0));
    let Some(Send::Batch { key, from: 1, .. }) = bench.poll(secs(0)) else { panic!("no batch") };
    bench.engine.handle_sent(secs(0), key, 1, 1_000, 1_000);
    let Some(Send::Batch { from: 1_001, .. }) = bench.poll(secs(0)) else { panic!("no batch") };
    bench.engine.handle_unreadable(secs(0), key);
    bench.sync_ack(secs(1), key, 1, 1_000);
    let again = (1..60).find_map(|second| bench.send_all(secs(second)).first().copied());
    assert_eq!(again, Some((key, 1_001, 2_000)));
}

#[test]
fn a_stream_first_seen_in_a_list_of_the_outbox_is_sent_without_waiting_for_a_hello() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    // The commit that made room tells of the stream before its rows are told of.
    bench.engine.handle_streams(&[info(readings(9), 1, 5, 0)]);
    bench.engine.handle_appended(secs(1), readings(9), 5);
    assert_eq!(bench.send_all(secs(1)), [(readings(9), 1, 5)]);
}

#[test]
fn rows_found_of_an_epoch_that_has_ended_are_listed_at_once() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    bench.engine.handle_streams(&[info(readings(3), 1, 5, 0)]);
    let hello = bench.hello(secs(1));
    assert_eq!(hello.streams.len(), 1);
    bench.answer(secs(1), &hello, |_| 0);
    assert_eq!(bench.send_all(secs(2)), [(readings(3), 1, 5)]);
    // What is known, or gone, is no reason.
    bench.engine.handle_streams(&[info(readings(3), 1, 5, 0), info(events(2), 5, 4, 4)]);
    assert_eq!(bench.poll(secs(3)), None);
}

#[test]
fn a_stream_that_an_open_hello_does_not_name_waits_for_its_answer() {
    let mut bench = Bench::new(vec![]);
    bench.connect(secs(0));
    bench.engine.handle_epoch(secs(10), epoch(8));
    let hello = bench.hello(secs(10));
    // Should this batch be stored first, the hello would then take its rows for lost.
    bench.engine.handle_appended(secs(11), events(8), 1);
    assert_eq!(bench.send_all(secs(11)), []);
    bench.answer(secs(12), &hello, |_| 0);
    assert_eq!(bench.send_all(secs(12)), [(events(8), 1, 1)]);
    bench.sync_ack(secs(13), events(8), 1, 1);
    // The next one names it.
    bench.engine.want_hello(secs(20));
    bench.hello(secs(20));
    bench.engine.handle_appended(secs(21), events(8), 2);
    assert_eq!(bench.send_all(secs(21)), [(events(8), 2, 2)]);
}

#[test]
fn rows_that_go_while_a_hello_is_under_way_are_told_of_by_another_one() {
    let mut bench = Bench::new(vec![info(readings(3), 1, 5, 5)]);
    bench.engine.handle_connected(secs(0));
    let first = bench.hello(secs(0));
    bench.engine.handle_streams(&[info(readings(3), 4, 5, 5)]);
    bench.answer(secs(1), &first, |_| 5);
    assert_eq!(bench.poll(secs(10)), None, "not a storm of them");
    let second = bench.hello(secs(11));
    assert_eq!((first.streams[0].floor, second.streams[0].floor), (1, 4));
    bench.engine.handle_streams(&[info(readings(3), 4, 5, 5)]);
    bench.answer(secs(11), &second, |_| 5);
    assert_eq!(bench.poll(secs(30)), None, "nothing has changed");
}

#[test]
fn a_stream_that_is_dropped_to_its_end_is_told_of_by_a_hello() {
    let mut bench = Bench::new(vec![info(readings(3), 1, 5, 0), info(readings(4), 1, 5, 0)]);
    bench.connect(secs(0));
    bench.send_all(secs(0));
    let held = [info(readings(3), 6, 5, 5), info(readings(4), 3, 5, 2)];
    bench.engine.handle_streams(&held);
    assert_eq!(bench.poll(secs(1)), None, "not a storm of them");
    let hello = bench.hello(secs(10));
    assert_eq!(hello.streams[0].floor, 6);
    bench.answer(secs(11), &hello, |_| 5);
    bench.engine.handle_streams(&[info(readings(4), 6, 5, 5)]);
    assert_eq!(bench.poll(secs(60)), None, "storage has what is trimmed");
}

#[test]
fn a_time_that_no_bridge_can_mean_is_not_taken() {
    for time in [i64::MIN, -1, i64::MAX] {
        let mut bench = Bench::new(vec![info(readings(1), 1, 5, 0)]);
        bench.engine.handle_connected(secs(0));
        let hello = bench.hello(secs(0));
        bench.engine.handle_state(secs(1), &State { time, ..state(&hello, GEN, |_| 5) });
        let learned = |notice: &Notice| matches!(notice, Notice::CloudTime { .. });
        assert!(!bench.notices().iter().any(learned), "{time}");
        assert_eq!(bench.acked(readings(1)), 5, "what it stored counts all the same");
    }
}

#[test]
fn a_hello_of_more_streams_than_its_pages_hold_leaves_out_what_is_settled() {
    let most = fieldpost_protocol::HELLO_STREAMS_MAX * HELLO_PAGES_MAX as usize;
    let key = |n: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(n as u64).to_le_bytes());
        StreamKey { epoch: Epoch(id), stream: Stream::Readings }
    };
    // 10 with tombstones, 20 acked, the rest waiting; the oldest first, as the outbox lists them.
    let settled = |n: usize| match n {
        0..10 => info(key(n), 2, 1, 1),
        10..30 => info(key(n), 1, 1, 1),
        _ => info(key(n), 1, 1, 0),
    };
    let mut bench = Bench::new((0..most + 15).map(settled).collect());
    bench.engine.handle_connected(secs(0));
    let mut listed = Vec::new();
    while let Some(Send::Hello(hello)) = bench.poll(secs(0)) {
        assert!(hello.pages <= HELLO_PAGES_MAX);
        listed.extend(hello.streams.iter().map(|stream| stream.key));
    }
    assert_eq!(listed.len(), most);
    assert_eq!(listed[0], key(15), "tombstones first, then what is acked, the oldest first");
}
