//! The targets under libFuzzer: `FIELDPOST_FUZZ_TARGET=line fieldpost-fuzz corpus/line`.
//! `scripts/fuzz` builds it so that libFuzzer sees which branches an input takes.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls us by a C name")]

use std::sync::OnceLock;

use fieldpost_fuzz::{TARGETS, Target, memory::Counting, target};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static COUNTING: Counting = Counting;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    TARGET.get_or_init(chosen).take(input);
});

fn chosen() -> Target {
    let name = std::env::var("FIELDPOST_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("FIELDPOST_FUZZ_TARGET is {name:?}; allowed are {}", names.join(" "));
        std::process::exit(2)
    })
}
