//! Faults on the real programs: real SQLite, real brokers, a source that keeps its own ledger.
//!
//! What needs root or a package that is absent fails and says so.

#![allow(clippy::print_stdout, reason = "a test shows the figures that it has seen")]

mod afar;
mod broker;
mod clock;
mod disk;
mod kill;
mod network;
mod outbox;
mod power;
mod serial;
mod soak;
mod storage;

use std::path::PathBuf;

use fieldpost_demo::judge::Found;
use fieldpost_demo::world::{Programs, Settings};

/// The programs that cargo has built for this test, with the shipped defaults.
#[allow(dead_code, reason = "used by the modules as they come")]
fn settings() -> Settings {
    Settings::new(Programs::Files {
        gateway: PathBuf::from(env!("CARGO_BIN_EXE_test-gateway")),
        bridge: PathBuf::from(env!("CARGO_BIN_EXE_test-bridge")),
    })
}

/// Storage has nothing twice, nothing that was not sent so, and shows nothing as missing.
#[allow(dead_code, reason = "used by the modules as they come")]
#[track_caller]
fn assert_clean(found: &Found) {
    assert_eq!(found.wrong, Vec::<String>::new());
    assert_eq!((found.wrong_count, found.duplicates(), found.missing, found.waiting), (0, 0, 0, 0));
}
