//! The bridge's storage and ingest on real files; one binary, so that it links once.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, reason = "tests")]

mod deadletters;
mod hellos;
mod model;
mod opening;
mod storing;
mod support;
