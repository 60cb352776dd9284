//! Everything that takes bytes from outside, each as a function of bytes that must not panic,
//! and what else has to hold of whatever it accepts.
//!
//! ```text
//! corpus/<target>/*   where both begin: payloads of every kind, and bombs
//!   |-- tests/corpus.rs    `cargo test`: each of them, and some thousand changes of each
//!   |-- src/main.rs        `scripts/fuzz`: libFuzzer, led by what it has reached
//! ```
//!
//! While an input is taken, at most [`MEMORY_MAX`] more than before may be allocated: whatever
//! lengths it declares, however deep it is nested.

pub mod memory;
mod targets;

/// What one input may cost at its peak, whatever it says.
pub const MEMORY_MAX: usize = 16 * 1024 * 1024;

/// One decoder, or one way through several.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also the name of its folder in `corpus`.
    pub name: &'static str,
    /// Takes any bytes; panics where a rule is broken.
    pub run: fn(&[u8]),
}

impl Target {
    /// Runs it within [`MEMORY_MAX`]; returns its peak in bytes.
    pub fn take(&self, input: &[u8]) -> usize {
        memory::bounded(MEMORY_MAX, || (self.run)(input))
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "line", run: targets::frame::line },
    Target { name: "json", run: targets::frame::json },
    Target { name: "foreign", run: targets::frame::foreign },
    Target { name: "envelope", run: targets::payload::envelope },
    Target { name: "readings", run: targets::payload::readings },
    Target { name: "event", run: targets::payload::event },
    Target { name: "hello", run: targets::payload::hello },
    Target { name: "state", run: targets::payload::state },
    Target { name: "sync_acks", run: targets::payload::sync_acks },
    Target { name: "command", run: targets::payload::command },
    Target { name: "people", run: targets::payload::people },
    Target { name: "topic", run: targets::payload::topic },
    Target { name: "coverage", run: targets::bridge::coverage },
    Target { name: "ingest", run: targets::bridge::ingest },
    Target { name: "engine", run: targets::engine::engine },
    Target { name: "gateway_config", run: targets::config::gateway },
    Target { name: "bridge_config", run: targets::config::bridge },
];

/// The one of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}
