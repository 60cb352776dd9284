//! Random histories against a naive model: stored, dead letters, waiting and missing are
//! disjoint, and together they are everything that was ever claimed.

use std::collections::{BTreeMap, BTreeSet};

use fieldpost_bridge::store::sqlite::DeadLetters;
use fieldpost_protocol::{Seq, Stream};

use crate::support::*;

const LAST: Seq = 60;
const EPOCHS: u8 = 3;

/// Sets instead of intervals, one flag per row instead of SQL.
#[derive(Default, Clone)]
struct Model {
    stored: BTreeSet<Seq>,
    dead: BTreeMap<i64, BTreeSet<Seq>>,
    dropped: BTreeSet<Seq>,
    floor: Seq,
    by_absence: bool,
    claimed: Seq,
}

impl Model {
    fn covered(&self, seq: &Seq) -> bool {
        self.stored.contains(seq)
            || self.dropped.contains(seq)
            || self.dead.values().any(|letter| letter.contains(seq))
    }

    fn claim(&mut self, floor: Seq, last: Seq) {
        self.claimed = self.claimed.max(last);
        self.floor = if self.by_absence { floor } else { self.floor.max(floor).max(1) };
        self.by_absence = false;
    }

    fn uncovered(&self, lo: Seq, hi: Seq) -> Vec<Seq> {
        (lo..=hi.min(self.claimed)).filter(|seq| !self.covered(seq)).collect()
    }
}

#[test]
fn stored_dead_letters_waiting_and_missing_are_all_that_was_claimed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        history(&mut random);
    }
}

fn history(random: &mut fastrand::Rng) {
    let mut bench = Bench::new();
    let mut letters = DeadLetters::open(&bench.path()).unwrap();
    let mut models: Vec<Model> = vec![Model { floor: 1, ..Model::default() }; EPOCHS as usize];
    let (mut next_letter, mut no) = (1i64, 0u64);
    for _ in 0..80 {
        let epoch = random.u8(0..EPOCHS);
        let model = &mut models[epoch as usize];
        match random.u8(0..10) {
            0..=6 => {
                let first = random.u64(1..=LAST);
                let n = random.u64(1..=(LAST - first + 1).min(9));
                let last = random.u64(first + n - 1..=LAST);
                let floor = random.u64(1..=last + 1).min(random.u64(1..=last + 1));
                let bad = random.u8(0..5) == 0;
                let make = if bad { poison } else { batch };
                let acks = bench.acks(&[make(epoch, first, n, floor, last)]);
                model.claim(floor, last);
                let new: BTreeSet<Seq> =
                    (first..first + n).filter(|seq| !model.covered(seq)).collect();
                if bad && !new.is_empty() {
                    model.dead.insert(next_letter, new);
                    next_letter += 1;
                } else {
                    model.stored.extend(new);
                }
                let run = (floor..=last).take_while(|seq| model.covered(seq)).last();
                assert_eq!((acks[0].lo, acks[0].hi), (floor, run.unwrap_or(floor - 1)));
            }
            7 => {
                no += 1;
                let named: Vec<u8> = (0..EPOCHS).filter(|_| random.bool()).collect();
                let mut streams = Vec::new();
                for at in 0..EPOCHS {
                    let model = &mut models[at as usize];
                    if named.contains(&at) {
                        let last = random.u64(model.claimed.max(1)..=LAST);
                        let floor = random.u64(1..=last + 1);
                        streams.push(held(at, floor, last));
                        model.claim(floor, last);
                    } else if model.floor <= model.claimed {
                        model.floor = model.claimed + 1;
                        model.by_absence = true;
                    }
                }
                bench.hello(200, no, &streams);
            }
            8 => {
                if let Some((id, seqs)) = model.dead.pop_first() {
                    letters.drop_letter(id, NOW).unwrap();
                    model.dropped.extend(seqs);
                }
            }
            _ => {
                if let Some((&id, _)) = model.dead.first_key_value() {
                    let good = envelope(epoch, 1, LAST, 1, LAST).encode();
                    let sql = "UPDATE dead_letter SET message = ?1 WHERE id = ?2";
                    bench.db().execute(sql, (good, id)).unwrap();
                    letters.retry(id, NOW).unwrap();
                    let seqs = model.dead.remove(&id).unwrap();
                    model.stored.extend(seqs);
                }
            }
        }
        for (epoch, model) in (0u8..).zip(&models) {
            compare(&bench, epoch, model);
        }
    }
}

fn compare(bench: &Bench, epoch: u8, model: &Model) {
    let stored = bench.stored(epoch);
    assert_eq!(stored, model.stored.iter().copied().collect::<Vec<_>>());
    let waiting = bench.seqs("waiting", epoch, Stream::Readings);
    assert_eq!(waiting, model.uncovered(model.floor, model.claimed));
    let missing = bench.seqs("missing", epoch, Stream::Readings);
    let mut lost = model.uncovered(1, model.floor - 1);
    lost.extend(&model.dropped);
    lost.sort_unstable();
    assert_eq!(missing, lost);
    let dead: Vec<Seq> = model.dead.values().flatten().copied().collect();
    let mut all: Vec<Seq> = [stored, waiting, missing, dead].concat();
    all.sort_unstable();
    assert_eq!(all, (1..=model.claimed).collect::<Vec<_>>());
}
