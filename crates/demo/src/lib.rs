//! The whole path of a reading on one machine, watched from outside.
//!
//! ```text
//! Board --pseudo-terminal--> gateway --TLS--> Relay --TLS--> broker --> bridge
//!   |                           |               |                          |
//!   Ledger                   outbox.db       bytes counted            bridge.db
//!   +------------- Judge: what was sent, accepted, stored ----------------+
//! ```
//!
//! The demo runs it once for a person; the end-to-end tests run it with faults. Gateway and
//! bridge are processes of their own, the very programs that are shipped; the judge looks
//! into their files as `sqlite3` would, and asks neither of them.

pub mod board;
pub mod cli;
pub mod judge;
pub mod ledger;
pub mod relay;
pub mod report;
pub mod world;
