//! Real firmware: Arduino sketches, compiled with avr-gcc and run in libsimavr, at the real programs.
//!
//! Needs avr-gcc, the Arduino core and libsimavr; scripts/test installs them.

#![allow(clippy::print_stdout, reason = "a test shows the figures that it has seen")]

mod answers;
mod captures;
mod commands;
mod library;
mod once;
mod path;

use std::path::Path;
use std::sync::LazyLock;

use fieldpost_tests::avr::Toolchain;

/// The core and the simulator, compiled once in a test run.
fn tools() -> &'static Toolchain {
    static TOOLS: LazyLock<Toolchain> = LazyLock::new(|| {
        Toolchain::new(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap_or_else(|e| panic!("{e:#}"))
    });
    &TOOLS
}
