//! What a machine in the field gets: units, watchdog, packages, and the build for a Pi.
//!
//! What needs root or a package that is absent fails and says so.

#![allow(clippy::print_stdout, reason = "a test shows the figures that it has seen")]

mod arm;
mod deb;
mod notify;
mod units;
mod walk;
mod wear;

use std::path::PathBuf;
use std::process::Command;

use fieldpost_demo::world::{Programs, Settings};

/// The programs that cargo has built for this test, with the shipped defaults.
fn settings() -> Settings {
    Settings::new(Programs::Files {
        gateway: PathBuf::from(env!("CARGO_BIN_EXE_test-gateway")),
        bridge: PathBuf::from(env!("CARGO_BIN_EXE_test-bridge")),
    })
}

/// For a script that runs cargo: what the cargo that runs this test has set lets ring, and what stands
/// on it, be built anew.
fn without_cargo(command: &mut Command) -> &mut Command {
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_") && name != "CARGO_HOME" {
            command.env_remove(&variable);
        }
    }
    command
}
