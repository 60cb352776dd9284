//! The outbox against a naive model, under random appends, restarts, acks, trims and drops.

use super::*;
use std::collections::BTreeMap;

/// What an outbox has to hold: the number `n` of each reading under its (epoch, seq).
#[derive(Default)]
struct Model {
    accepted: BTreeMap<(Epoch, Seq), i64>,
    times: BTreeMap<i64, i64>,
    floors: BTreeMap<Epoch, Seq>,
    acked: BTreeMap<Epoch, Seq>,
    next: i64,
}

impl Model {
    /// Reads all back and compares: each accepted reading from its stream's floor on, once,
    /// with its value and its moment, and nothing else.
    fn check(&mut self, outbox: &Outbox, seed: u64, may_lose: impl Fn(&Model, Epoch, Seq) -> bool) {
        let mut seen = 0;
        let streams = outbox.streams().unwrap();
        for info in streams.iter().filter(|info| info.key.stream == Stream::Readings) {
            let epoch = info.key.epoch;
            let before = self.floors.insert(epoch, info.floor).unwrap_or(1);
            assert!(info.floor >= before, "seed {seed}: a floor went back");
            assert!(info.floor - 1 <= info.acked && info.acked <= info.last, "seed {seed}");
            for seq in before..info.floor {
                assert!(may_lose(self, epoch, seq), "seed {seed}: {epoch} {seq} was let go");
            }
            let mut from = info.floor;
            while from <= info.last {
                let batch = outbox.read_batch(info.key, from, 700).unwrap();
                let batch = batch.unwrap_or_else(|| panic!("seed {seed}: no row {from}"));
                assert_eq!(batch.first, from, "seed {seed}");
                for (seq, reading) in (from..).zip(decode_readings(&batch.body, batch.n).unwrap()) {
                    let Some(Value::Int(n)) = reading.metrics.get("n") else { panic!("no n") };
                    assert_eq!(self.accepted.get(&(epoch, seq)), Some(n), "seed {seed}");
                    let Some((base, _)) = batch.base else { panic!("no base") };
                    assert_eq!(base + reading.offset_ms, self.times[n], "seed {seed}: the time");
                    seen += 1;
                }
                from += batch.n;
            }
        }
        let floor_of = |epoch| self.floors.get(epoch).copied().unwrap_or(1);
        let expected = self.accepted.keys().filter(|(epoch, seq)| *seq >= floor_of(epoch)).count();
        assert_eq!(seen, expected, "seed {seed}: readings are missing");
    }

    fn group(&mut self, now: Now, count: i64) -> Vec<Measured> {
        let group: Vec<Measured> = (self.next..self.next + count)
            .map(|n| Measured { boot_ms: now.boot_ms - 5, ..measured(n) })
            .collect();
        self.times.extend((self.next..self.next + count).map(|n| (n, now.wall_ms - 5)));
        self.next += count;
        group
    }
}

#[test]
fn every_accepted_reading_has_one_number_until_it_may_go() {
    for seed in 30..50 {
        history(seed);
    }
}

fn history(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bench = Bench::new();
    let drop_oldest = rng.bool();
    bench.settings.size_bytes_max = RESERVE_BYTES + 60_000 + rng.u64(0..300_000);
    bench.settings.retention_bytes = rng.u64(0..60_000);
    bench.settings.when_full = if drop_oldest { WhenFull::DropOldest } else { WhenFull::Refuse };
    let mut now = Now { synchronised: true, ..NOW };
    let mut outbox = bench.open_at(now);
    outbox.conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    let mut model = Model::default();
    for _ in 0..80 {
        let step = rng.i64(0..3_000);
        now = Now { boot_ms: now.boot_ms + step, wall_ms: now.wall_ms + step, ..now };
        match rng.u8(0..20) {
            0..11 => {
                let count = [rng.i64(0..4), rng.i64(0..90), rng.i64(0..2_500)][rng.usize(0..3)];
                let group = model.group(now, count);
                let events = if rng.u8(0..6) == 0 { vec![alert()] } else { Vec::new() };
                let appended = outbox.append(&group, &events, now).unwrap();
                assert_eq!(appended.readings + appended.refused_full, group.len(), "seed {seed}");
                let first = model.next - count;
                let (epoch, last) = (outbox.epoch().0, outbox.last_of(Stream::Readings));
                for at in 0..appended.readings as Seq {
                    let seq = last + 1 + at - appended.readings as Seq;
                    let before = model.accepted.insert((epoch, seq), first + at as i64);
                    assert_eq!(before, None, "seed {seed}: a number was given twice");
                }
            }
            11 | 12 => {
                // Killed, or ended in order.
                if rng.bool() {
                    drop(outbox)
                } else {
                    outbox.close().unwrap()
                }
                outbox = bench.open_at(now);
                outbox.conn.busy_timeout(std::time::Duration::ZERO).unwrap();
            }
            13 => now.wall_ms += [rng.i64(-900..900), rng.i64(-9_999_999..9_999_999)][1],
            14 => {
                // Somebody holds the file: surely not written, and the epoch goes on.
                let other = Connection::open(&bench.settings.path).unwrap();
                other.execute_batch("BEGIN IMMEDIATE").unwrap();
                let group = model.group(now, 30);
                let error = outbox.append(&group, &[], now).unwrap_err();
                assert!(matches!(error, AppendError::Failed(_)), "seed {seed}: {error}");
            }
            15 => {
                // A commit in doubt that was not durable.
                break_commits(&outbox);
                let group = model.group(now, rng.i64(1..200));
                let error = outbox.append(&group, &[], now).unwrap_err();
                let failed = matches!(error, AppendError::InDoubt(_) | AppendError::Failed(_));
                assert!(failed, "seed {seed}: {error}");
                mend_commits(&outbox);
            }
            16..18 => {
                let streams = outbox.streams().unwrap();
                let acked: Vec<_> =
                    streams.iter().map(|info| (info.key, rng.u64(0..=info.last))).collect();
                outbox.set_acked(&acked);
                if rng.bool() {
                    outbox.set_confirmed(&acked);
                }
                for info in outbox.streams().unwrap() {
                    if info.key.stream == Stream::Readings {
                        model.acked.insert(info.key.epoch, info.acked);
                    }
                }
            }
            _ => drop(outbox.trim(now.wall_ms).unwrap()),
        }
        // Acked rows may go; with `drop_oldest` all may.
        let may_go = |model: &Model, epoch, seq| {
            drop_oldest || model.acked.get(&epoch).is_some_and(|acked| seq <= *acked)
        };
        model.check(&outbox, seed, may_go);
    }
    assert!(!model.accepted.is_empty(), "seed {seed}");
}
