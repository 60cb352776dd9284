//! The bridge's storage and ingest on real files; one binary, so that it links once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests"
)]

mod commands;
mod deadletters;
mod epochs;
mod hellos;
mod ledger;
mod many;
mod model;
mod opening;
mod running;
mod sound;
mod storing;
mod support;
mod wire;
mod wired;
