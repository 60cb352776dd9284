//! The engine under random calls, in any order and at any moment.

use super::*;

/// Whatever happens: after a poll that gave nothing, the engine names a moment in the future,
/// so that its driver never spins; and what it asks for is a row that exists.
#[test]
fn the_engine_never_asks_to_be_polled_at_a_moment_that_has_passed() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::new(vec![info(readings(1), 1, 3_000, 0), info(events(1), 3, 9, 4)]);
        let (mut now, mut last, mut hellos) = (secs(0), [0; 2], Vec::new());
        for _ in 0..400 {
            now += Duration::from_millis([2, 500, 20_000][rng.usize(0..3)] * rng.u64(0..=10) / 10);
            let key = [readings(1), events(1), readings(9), events(9)][rng.usize(0..4)];
            let hi = rng.u64(0..3_100);
            match rng.u8(0..12) {
                0 => bench.engine.handle_connected(now),
                1 if rng.u8(0..5) == 0 => bench.engine.handle_disconnected(),
                2..5 => {
                    let stream = rng.usize(0..2);
                    last[stream] += rng.u64(1..700);
                    bench.engine.handle_appended(
                        now,
                        [readings(9), events(9)][stream],
                        last[stream],
                    );
                }
                5 | 6 => bench.sync_ack(now, key, 1, hi),
                7 => bench.engine.handle_unreadable(now, key),
                8 if !hellos.is_empty() => {
                    let hello = &hellos[rng.usize(0..hellos.len())];
                    let r#gen = [GEN, Gen([7; 16])][usize::from(rng.u8(0..9) == 0)];
                    let mut state = state(hello, r#gen, |_| hi);
                    state.versions = vec![[1, 2][usize::from(rng.u8(0..9) == 0)]];
                    bench.engine.handle_state(now, &state);
                }
                9 => {
                    let flow = bench.engine.flows.iter().find(|flow| flow.key == key);
                    let streams = bench.engine.flows.iter().map(|other| {
                        let floor =
                            other.floor + u64::from(Some(other.key) == flow.map(|f| f.key)) * 7;
                        info(other.key, floor.min(other.last + 1), other.last, 0)
                    });
                    let streams: Vec<_> = streams.collect();
                    bench.engine.handle_streams(&streams);
                }
                10 => {
                    let (online, instance) = (rng.bool(), Instance([rng.u8(0..3); 16]));
                    let status = BridgeStatus {
                        online,
                        instance,
                        store: STORE,
                        r#gen: GEN,
                        version: None,
                        time: None,
                    };
                    bench.engine.handle_bridge_status(now, &status);
                }
                _ => bench.engine.handle_epoch(now, epoch(9)),
            }
            for polls in 0.. {
                assert!(polls < 1_000, "seed {seed}: it never ends");
                match bench.poll(now) {
                    None => break,
                    Some(Send::Hello(hello)) => hellos.push(hello),
                    Some(Send::Batch { key, from, rows_max }) => {
                        let flow = bench.engine.flows.iter().find(|flow| flow.key == key).unwrap();
                        assert!(
                            flow.floor <= from && from <= flow.last && rows_max > 0,
                            "seed {seed}"
                        );
                        let n = (flow.last - from + 1).min(if key.stream == Stream::Events {
                            1
                        } else {
                            rows_max as u64
                        });
                        match rng.u8(0..20) {
                            0 => bench.engine.handle_unreadable(now, key),
                            _ => bench.engine.handle_sent(now, key, from, n, 20_000),
                        }
                    }
                }
            }
            for flow in &bench.engine.flows {
                assert!(flow.floor - 1 <= flow.acked && flow.acked <= flow.last, "seed {seed}");
                assert!(flow.acked <= flow.sent && flow.sent <= flow.last, "seed {seed}");
                let waits = flow.sent > flow.acked && bench.engine.online;
                assert!(
                    !waits || flow.rto_at.is_some(),
                    "seed {seed}: {} waits for nothing",
                    flow.key
                );
            }
            if let Some(at) = bench.engine.poll_timeout() {
                assert!(at > now, "seed {seed}: {at:?} has passed at {now:?}");
            }
            bench.notices();
        }
    }
}
