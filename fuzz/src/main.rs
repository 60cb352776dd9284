//! The targets under libFuzzer: `FIELDPOST_FUZZ_TARGET=line fieldpost-fuzz corpus/line`.
//! `scripts/fuzz` builds it so that libFuzzer sees which branches an input takes.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls us by a C name")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fieldpost_fuzz::{TARGETS, Target, memory::Counting, target};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static COUNTING: Counting = Counting;

static TARGET: OnceLock<Target> = OnceLock::new();

/// What the greediest input so far has allocated.
static PEAK: AtomicUsize = AtomicUsize::new(0);

fuzz_target!(|input: &[u8]| {
    let peak = TARGET.get_or_init(chosen).take(input);
    if PEAK.fetch_max(peak, Relaxed) < peak {
        eprintln!("peak: {peak} bytes");
    }
});

fn chosen() -> Target {
    let name = std::env::var("FIELDPOST_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("FIELDPOST_FUZZ_TARGET is {name:?}; allowed are {}", names.join(" "));
        std::process::exit(2)
    })
}
