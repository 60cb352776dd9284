//! The contract, held against the code.
//!
//! ```text
//! document   topics.md: its tables and its fenced blocks
//! diag       CBOR diagnostic notation, to compare examples with bytes
//! payload    which payload a topic carries, and how it is read and written again
//! brokers    docs/brokers.md held against programs, files and sizes
//! contract   every topic, limit and word of the code stands in topics.md
//! examples   every example of topics.md is what the code would send
//! samples    what the vectors hold
//! vectors    bytes of every version, kept for ever
//! python     the decoder that topics.md gives away, run on all of them
//! size       bytes per reading, beside what others would need
//! tidy       what a compiler does not look at
//! ```

mod brokers;
mod contract;
mod diag;
mod document;
mod examples;
mod payload;
mod python;
mod reliability;
mod samples;
mod sensors;
mod size;
mod tidy;
mod vectors;

use std::path::{Path, PathBuf};

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the checkout")
        .to_owned()
}
