//! The real programs, end to end, with the faults that the first users will meet.
//!
//! Each test in which a program connects runs twice: `on_embedded`, and `on_mosquitto` with TLS, client
//! certificates, the access rules and the limits of `config/`. The demo has a broker of its own.

#![allow(clippy::print_stdout, reason = "a test shows the figures that it has seen")]

mod acl;
mod alerts;
mod backlog;
mod brokers;
mod commands;
mod demo;
mod disk;
mod faults;
mod files;
mod history;
mod home_assistant;
mod overtaking;
mod path;
mod ports;
mod recorder;
mod remote;
mod rules;

use std::path::PathBuf;

use fieldpost_demo::judge::Found;
use fieldpost_demo::world::{Programs, Settings};

/// The programs that cargo has built for this test, with the shipped defaults.
fn settings() -> Settings {
    Settings::new(Programs::Files {
        gateway: PathBuf::from(env!("CARGO_BIN_EXE_test-gateway")),
        bridge: PathBuf::from(env!("CARGO_BIN_EXE_test-bridge")),
    })
}

/// Storage has nothing twice, nothing that was not sent so, and shows nothing as missing.
#[track_caller]
fn assert_clean(found: &Found) {
    assert_eq!(found.wrong, Vec::<String>::new());
    assert_eq!((found.wrong_count, found.duplicates(), found.missing, found.waiting), (0, 0, 0, 0));
}
