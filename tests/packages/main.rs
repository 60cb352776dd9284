//! What a machine in the field gets: units, watchdog, packages, and the build for a Pi.
//!
//! What needs root or a package that is absent fails and says so.

#![allow(clippy::print_stdout, reason = "a test shows the figures that it has seen")]

mod deb;
mod notify;
mod units;
mod wear;

use std::path::PathBuf;

use fieldpost_demo::world::{Programs, Settings};

/// The programs that cargo has built for this test, with the shipped defaults.
fn settings() -> Settings {
    Settings::new(Programs::Files {
        gateway: PathBuf::from(env!("CARGO_BIN_EXE_test-gateway")),
        bridge: PathBuf::from(env!("CARGO_BIN_EXE_test-bridge")),
    })
}
