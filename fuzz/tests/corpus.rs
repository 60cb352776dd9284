//! The corpus without libFuzzer: each input as it lies there, and changed in some hundred ways.

#![allow(clippy::print_stdout, reason = "a test shows the figures that it has seen")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it says")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fieldpost_fuzz::memory::{self, Counting};
use fieldpost_fuzz::{MEMORY_MAX, TARGETS, Target};
use fieldpost_protocol::{Metrics, Reading, Value, decode_readings, encode_runs};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Of each input. `FIELDPOST_FUZZ_CHANGES` makes them more.
const CHANGES: usize = 200;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn inputs(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(target.name);
    let paths = names(&folder).into_iter().map(|name| folder.join(name));
    paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs the input; a panic names the file that it came from.
fn take(target: &Target, path: &Path, input: &[u8]) -> usize {
    let taken = std::panic::catch_unwind(|| target.take(input));
    taken.unwrap_or_else(|_| {
        panic!("{}: {} as \"{}\"", target.name, path.display(), input.escape_ascii())
    })
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&corpus()), targets);
}

#[test]
fn whatever_lengths_and_depths_are_declared_16_mb_are_enough() {
    for target in TARGETS {
        let peaks = inputs(target).into_iter().map(|(path, input)| take(target, &path, &input));
        let peak = peaks.max().expect("a corpus has an input");
        println!("{:>15}: at most {:>5} KiB", target.name, peak / 1024);
        assert!(peak <= MEMORY_MAX);
    }
}

#[test]
fn no_change_of_a_good_payload_ends_in_a_panic() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed} runs these changes again");
    let changes = std::env::var("FIELDPOST_FUZZ_CHANGES").ok().and_then(|count| count.parse().ok());
    let mut rng = fastrand::Rng::with_seed(seed);
    for target in TARGETS {
        for (path, input) in inputs(target) {
            for _ in 0..changes.unwrap_or(CHANGES) {
                take(target, &path, &changed(&mut rng, &input));
            }
        }
    }
}

/// One to three small damages: what a wire, a disk or a hand does.
fn changed(rng: &mut fastrand::Rng, input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.usize(1..=3) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < bytes.len() => {
                bytes[at] = rng.choice([0, 0x1B, 0x3B, 0x7F, 0x9B, 0xBB, 0xFF]).unwrap()
            }
            2 => bytes.insert(at, rng.u8(..)),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..(at + rng.usize(..16)).min(bytes.len()))),
            _ => {
                let again = bytes[at..(at + rng.usize(..64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

#[test]
fn the_allocator_counts_what_is_taken_and_given_back() {
    let peak = memory::bounded(MEMORY_MAX, || {
        drop(vec![1u8; 3 << 20]);
        let mut grown: Vec<u8> = Vec::with_capacity(1 << 20);
        grown.resize(2 << 20, 1);
    });
    assert!((3 << 20..4 << 20).contains(&peak), "{peak}");
}

/// A sketch that puts a counter into its metrics' names, `temp1=... temp2=...`: each batch
/// then has tens of thousands of columns.
#[test]
fn a_board_that_makes_up_names_costs_its_gateway_no_more_than_another() {
    let reading = |row: usize| {
        let pairs = (0..28).map(|i| (format!("m{}", row * 28 + i).as_str().into(), Value::Int(1)));
        let metrics = Metrics::new(pairs.collect()).expect("different names");
        Reading { source: "room".into(), offset_ms: row as i64 * 1_000, metrics }
    };
    let readings: Vec<Reading> = (0..1_000).map(reading).collect();
    let mut runs = Vec::new();
    let peak = memory::bounded(usize::MAX, || runs = encode_runs(&readings));
    println!("{} KiB to encode 28,000 columns", peak / 1024);
    assert!(peak <= MEMORY_MAX, "{} MiB", peak >> 20);
    let mut at = 0;
    for (count, body) in runs {
        let back = decode_readings(&body, count as u64).expect("what we encode we can read");
        assert_eq!(back, readings[at..at + count]);
        at += count;
    }
    assert_eq!(at, 1_000);
}
