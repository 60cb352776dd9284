//! The cloud process: takes batches from the broker, commits them, and only then sends a
//! sync ack.
//!
//! ```text
//! broker --batch, hello--> driver --> ingest: engine decides, store keeps --> COMMIT
//!    ^                       |                                                  |
//!    +----- puback ----------+<---------- sync acks, states --------------------+
//! ```

pub mod cli;
pub mod clock;
pub mod config;
pub mod coverage;
mod driver;
pub mod engine;
pub mod fail_points;
pub mod ingest;
pub mod outbound;
mod run;
pub mod store;

#[doc(hidden)]
pub use run::run_within;
pub use run::{check_files, run, run_with_broker};
