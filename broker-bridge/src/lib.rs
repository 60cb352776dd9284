//! The cloud process: takes batches from the broker, commits them, and only then sends a
//! sync ack.

pub mod clock;
pub mod coverage;
pub mod engine;
pub mod ingest;
pub mod store;
